"""What an evaluation says, and the files it leaves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wsiseg.evaluation.figures import AVERAGING
from wsiseg.evaluation.readers import ReaderStudy
from wsiseg.evaluation.records import EvaluateOptions, PerturbationPoint
from wsiseg.evaluation.sampling import CONFIDENCE, Estimate
from wsiseg.evaluation.scoring import FigureScore, ImageScore, Scores

FORMAT = "wsiseg-evaluation"
FORMAT_VERSION = 1
IGNORED_RULE = (
    "Pixels that one side ignores are taken out of both. A nucleus of either side that lost "
    "more than half of its pixels by that, and has no match (IoU > 0.5) with what is left, does "
    "not count; the others count with what is left (Kirillov et al. 2019, section 4.2)."
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found against the truth, with everything needed to read the figures."""

    found: str
    """What was judged: a name without folders."""
    truth: str
    """What counts as right: a name without folders."""
    kind: str
    """Of what was judged: `labels`, `runs` or `model`."""
    model: Mapping[str, str]
    """Name and sha256 of the model that found it, where known; empty else."""
    class_names: tuple[str, ...]
    """The truth's classes."""
    scores: Scores
    readers: ReaderStudy | None
    """With a second reader: what was found and both, each against each."""
    perturbation: tuple[PerturbationPoint, ...]
    """How the model scores on changed images; empty if that was not asked for."""
    notes: tuple[str, ...]
    """What the reader of the figures should know, a sentence each."""
    options: EvaluateOptions
    version: str
    """Of wsiseg."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values: every figure with definition, interval and what it is over."""
        options = self.options
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "wsiseg_version": self.version,
            "use": "Research only. Not for use in diagnostic procedures.",
            "found": {"name": self.found, "kind": self.kind, "model": dict(self.model)},
            "truth": self.truth,
            "class_names": list(self.class_names),
            "options": {
                "mpp": options.mpp,
                "class_of": dict(options.class_of),
                "radius_um": options.radius_um,
                "tolerance_um": options.tolerance_um,
                "n_draws": options.n_draws,
                "seed": options.seed,
            },
            "averaging": dict(AVERAGING),
            "interval": interval_rule(self),
            "ignored": IGNORED_RULE,
            "n_images": len(self.scores.images),
            "n_patients": self.scores.n_patients,
            "figures": scores_json(self.scores.figures),
            "classes": {name: scores_json(of) for name, of in self.scores.classes.items()},
            "organs": {name: values_json(of) for name, of in self.scores.organs.items()},
            "readers": _readers_json(self.readers),
            "perturbation": [point.to_json() for point in self.perturbation],
            "images": [image_json(image) for image in self.scores.images],
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """Return a row an image; a figure of a class is called `figure:class`."""
        lines = io.StringIO(newline="")
        rows = [_csv_row(image) for image in self.scores.images]
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(lines, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return lines.getvalue()


def _readers_json(study: ReaderStudy | None) -> dict[str, Any] | None:
    if study is None:
        return None
    return {
        "gap_is": "mean of both comparisons with what was found, minus reader 1 with reader 2; "
        "pooled, the same samples of patients in all; below 0: the readers agree better",
        "gap": {name: estimate_json(one) for name, one in study.gap.items()},
        "comparisons": [
            {"first": one.first, "second": one.second, "figures": values_json(one.scores.figures)}
            for one in study.comparisons
        ],
    }


def interval_rule(evaluation: Evaluation) -> str:
    """Say how intervals were made."""
    options, scores = evaluation.options, evaluation.scores
    units = (
        f"{scores.n_patients} patients"
        if scores.n_patients < len(scores.images)
        else f"{scores.n_patients} images, each of its own patient"
    )
    return (
        f"{100 * CONFIDENCE:.0f} % expanded percentile intervals of {options.n_draws} bootstrap "
        f"samples of {units}, seed {options.seed} (Hesterberg 2015, "
        "doi:10.1080/00031305.2015.1089789); none with fewer than two"
    )


def estimate_json(estimate: Estimate | None) -> dict[str, float | None] | None:
    """Return an estimate's plain values; None where there is no such average."""
    if estimate is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def values_json(scores: Mapping[str, FigureScore]) -> dict[str, Any]:
    """Return figures without their definitions."""
    return {
        name: {
            "pooled": estimate_json(score.pooled),
            "macro": estimate_json(score.macro),
            "n": score.n,
            "n_images": score.n_images,
        }
        for name, score in scores.items()
    }


def scores_json(scores: Mapping[str, FigureScore]) -> dict[str, Any]:
    """Return figures with their definitions."""
    plain = values_json(scores)
    return {
        name: {
            "title": score.figure.title,
            "definition": score.figure.definition,
            "source": score.figure.source,
            "unit": score.figure.unit,
            **plain[name],
            "n_is": score.figure.over,
        }
        for name, score in scores.items()
    }


def image_json(image: ImageScore) -> dict[str, Any]:
    """Return one image's plain values."""
    return {
        **_plain_of(image),
        "figures": dict(image.figures),
        "classes": {name: dict(values) for name, values in image.classes.items()},
    }


def _plain_of(image: ImageScore) -> dict[str, Any]:
    return {
        "name": image.name,
        "patient": image.patient,
        "organ": image.organ,
        "n_truth": image.n_truth,
        "n_found": image.n_found,
        "mm2": image.mm2,
        "matched_area_um2": image.matched_area_um2,
    }


def _csv_row(image: ImageScore) -> dict[str, Any]:
    return _plain_of(image) | dict(_csv_figures(image))


def _csv_figures(image: ImageScore) -> Iterator[tuple[str, float | None]]:
    yield from image.figures.items()
    for name, values in image.classes.items():
        for figure, value in values.items():
            yield f"{figure}:{name}", value
