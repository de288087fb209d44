"""Numbers as a page shows them."""

from __future__ import annotations

import math

NONE = "–"
"""Stands where there is no number; the text beside it says why."""


def whole(value: float | None) -> str:
    """Return a count with separators."""
    return NONE if value is None else f"{round(value):,}"


def short(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, and never in powers of ten."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float | None) -> str:
    """Return a share as a percentage; what is not quite nothing is not shown as nothing."""
    if share is None or not math.isfinite(share):
        return NONE
    if 0 < share < 0.001:
        return "<0.1\u00a0%"
    return f"{100 * share:.1f}\u00a0%"
