"""What a model finds where nothing was annotated, and densities that do not stand out from it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

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


def stands_out(per_mm2: float | None, rate: float | None) -> bool | None:
    """Return whether a density can be told from false positives; None where that is not known."""
    if per_mm2 is None or rate is None:
        return None
    return per_mm2 >= MULTIPLE * rate


@cache
def _of_shipped(sha256: str) -> dict[str, float]:
    same = [card.about for card in list_models() if card.sha256 == sha256]
    return _of_about(same[0]) if same else {}


def _of_about(about: Any) -> dict[str, float]:
    rates = about.get("metrics", {}).get("false_positives", {}).get("per_mm2", {})
    return {str(name): float(rate) for name, rate in rates.items()}
