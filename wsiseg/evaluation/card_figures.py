"""From scores to what a model card says of them (its form is in `wsiseg.models.card`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsiseg.evaluation.sampling import Estimate
from wsiseg.evaluation.scoring import FigureScore, Scores

_FIGURES = {"pq": "pq", "dq": "dq", "sq": "sq", "aji": "aji", "dice": "dice", "f1": "f1_centroid"}
"""Key in a card, and of the figure."""
_DIGITS = 4


def card_metrics(sets: Mapping[str, Scores], how: str) -> dict[str, Any]:
    """Return a card's `metrics`.

    Published figures of these data sets are means over images, so these are.  The F1 of a class
    is pooled: most images have too few nuclei of most classes.

    Parameters
    ----------
    sets : mapping of str to Scores
        By the name that people know the set by.
    how : str
        Who was judged on what, in a sentence.
    """
    return {
        "how": how,
        "averaging": "means over images; F1 of classes is pooled; 95 % intervals over patients",
        "sets": {name: _of_set(scores) for name, scores in sets.items()},
    }


def card_organs(scores: Scores, how: str) -> dict[str, Any]:
    """Return a card's `organs`: a row each, by name.

    Parameters
    ----------
    scores : Scores
        Of images whose organ is known.
    how : str
        Who was judged on what, in a sentence.
    """
    return {
        "how": how,
        "rows": [
            {
                "organ": organ,
                "images": sum(image.organ == organ for image in scores.images),
                **_figures(figures),
            }
            for organ, figures in scores.organs.items()
        ],
    }


def _of_set(scores: Scores) -> dict[str, Any]:
    said: dict[str, Any] = {
        "images": len(scores.images),
        "patients": scores.n_patients,
        "nuclei": sum(image.n_truth for image in scores.images),
        **_figures(scores.figures),
    }
    if scores.classes:
        said["f1_by_class"] = {
            name: _plain(figures["f1"].pooled) for name, figures in scores.classes.items()
        }
    return said


def _figures(figures: Mapping[str, FigureScore]) -> dict[str, Any]:
    return {key: _plain(figures[name].macro) for key, name in _FIGURES.items() if name in figures}


def _plain(estimate: Estimate | None) -> dict[str, float | None]:
    """Return an estimate as plain values."""
    found = estimate or Estimate(None)
    said = {"value": found.value, "low": found.low, "high": found.high}
    return {name: None if v is None else round(v, _DIGITS) for name, v in said.items()}
