"""A model's finds that match no annotated nucleus, and densities that do not stand out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from wsiseg.cell_table import ALL_CLASSES
from wsiseg.models import list_models

MULTIPLE = 2.0
"""A density below so many times the false positives per mm² could be false by half or more."""


def false_positives(model: Mapping[str, Any]) -> dict[str, float]:
    """Return the false positives per mm² of each class and of all, as the model card has them.

    Cards of older runs lack them: then those of the shipped model with the same sha256 are
    taken, for the sha256 covers all that decides what a model finds.

    Parameters
    ----------
    model : mapping
        `model` in a run's `run.json`: name, sha256 and card.

    Returns
    -------
    dict
        By class name and `"(all)"`; empty if they were never measured.
    """
    found = _of_about(model.get("card", {}).get("about", {}))
    if found:
        return found
    return _of_shipped(str(model.get("sha256")))


def false_positives_of_all(model: Mapping[str, Any]) -> dict[str, float]:
    """Return those of all nuclei alone: for classes that are not the model's own.

    A class by another classifier has another rate, even where it has the same name.
    """
    return {name: rate for name, rate in false_positives(model).items() if name == ALL_CLASSES}


def stands_out(per_mm2: float | None, rate: float | None) -> bool | None:
    """Return whether a density can be told from false positives.

    None where that is not known, and where nothing was found: that is no doubtful find.
    """
    if not per_mm2 or rate is None:
        return None
    return per_mm2 >= MULTIPLE * rate


@cache
def _of_shipped(sha256: str) -> dict[str, float]:
    same = [card.about for card in list_models() if card.sha256 == sha256]
    return _of_about(same[0]) if same else {}


def _of_about(about: Any) -> dict[str, float]:
    rates = about.get("metrics", {}).get("false_positives", {}).get("per_mm2", {})
    return {str(name): float(rate) for name, rate in rates.items()}
