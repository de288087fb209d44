"""Small plots as numbers for SVG: estimates with intervals, differences over means, curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsiseg.evaluation.records import PerturbationPoint
from wsiseg.evaluation.sampling import Estimate

WIDTH = 320.0
"""Of every plot, in the units of its picture."""
_LABELS = 128.0
_HEIGHT = 190.0


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One estimate."""

    name: str
    value: float | None
    x: float
    """Where the value is."""
    low_x: float
    high_x: float
    """Ends of the interval; at the value where there is none."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Estimates below each other, on an axis from 0 to 1, or to the largest."""

    title: str
    rows: tuple[ForestRow, ...]
    x0: float
    top: float
    """Value at the end of the axis."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One image."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line with its value."""

    name: str
    y: float
    value: float


@dataclass(frozen=True, slots=True)
class Scatter:
    """Differences over means (Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8)."""

    title: str
    axis: str
    dots: tuple[Dot, ...]
    levels: tuple[Level, ...]
    """Mean and limits, as far as they are known."""
    zero_y: float
    x_low: float
    x_high: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One strength of a change."""

    strength: float
    value: float
    x: float
    y: float
    low_y: float
    high_y: float


@dataclass(frozen=True, slots=True)
class Curve:
    """How a score falls with the strength of one kind of change."""

    kind: str
    unit: str
    points: tuple[CurvePoint, ...]
    top: float


def forest(title: str, rows: Sequence[tuple[str, Estimate]]) -> Forest:
    """Lay out estimates below each other.

    Parameters
    ----------
    title : str
        Of the plot.
    rows : sequence of (str, Estimate)
        Name and estimate; those without a value have no mark.
    """
    ends = [v for _, e in rows for v in (e.value, e.high) if v is not None]
    top = 1.0 if max(ends, default=0.0) <= 1 else max(ends)

    def x(value: float) -> float:
        return _LABELS + (WIDTH - _LABELS - 36) * min(max(value / top, 0.0), 1.0)

    laid = [
        ForestRow(
            name=name,
            value=one.value,
            x=x(one.value or 0.0),
            low_x=x((one.low if one.low is not None else one.value) or 0.0),
            high_x=x((one.high if one.high is not None else one.value) or 0.0),
        )
        for name, one in rows
    ]
    return Forest(title, tuple(laid), _LABELS, top)


def bland_altman(
    title: str,
    axis: str,
    points: Sequence[tuple[str, float, float]],
    levels: Sequence[Estimate | None],
) -> Scatter:
    """Lay out differences over means.

    Parameters
    ----------
    title, axis : str
        Of the plot and its x axis.
    points : sequence of (str, float, float)
        Name, mean (not negative), difference; at least one.
    levels : sequence of Estimate
        Mean difference, lower and upper limit.
    """
    known = [
        (name, one.value)
        for name, one in zip(("mean", "lower limit", "upper limit"), levels, strict=True)
        if one is not None and one.value is not None
    ]
    heights = [difference for _, _, difference in points] + [v for _, v in known] + [0.0]
    low, high = _padded(min(heights), max(heights))
    left, right = _padded(min(m for _, m, _ in points), max(m for _, m, _ in points))
    left = max(left, 0.0)

    def y(value: float) -> float:
        return 8 + (_HEIGHT - 16) * (high - value) / (high - low)

    return Scatter(
        title=title,
        axis=axis,
        dots=tuple(Dot(n, WIDTH * (m - left) / (right - left), y(d)) for n, m, d in points),
        levels=tuple(Level(name, y(value), value) for name, value in known),
        zero_y=y(0.0),
        x_low=left,
        x_high=right,
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.1
    return low - room, high + room


def curves(points: Sequence[PerturbationPoint]) -> Iterator[Curve]:
    """Lay out a curve for each kind of change, strengths ascending, all on one scale.

    Parameters
    ----------
    points : sequence of PerturbationPoint
        Those without a score are left out.
    """
    known = [p for p in points if p.pq.value is not None]
    ends = [v for p in known for v in (p.pq.value, p.pq.high) if v is not None]
    top = math.ceil(10 * max(ends, default=1.0)) / 10 or 1.0
    for kind in dict.fromkeys(p.kind for p in known):
        mine = sorted((p for p in known if p.kind == kind), key=lambda p: p.strength)
        low, high = mine[0].strength, mine[-1].strength
        laid = [_curve_point(p, low, high, top) for p in mine]
        yield Curve(kind, mine[0].unit, tuple(laid), top)


def _curve_point(point: PerturbationPoint, low: float, high: float, top: float) -> CurvePoint:
    value = point.pq.value or 0.0

    def y(one: float | None) -> float:
        return 8 + 100 * (1 - (value if one is None else one) / top)

    share = (point.strength - low) / (high - low) if high > low else 0.5
    x = 24 + (WIDTH - 48) * share
    return CurvePoint(point.strength, value, x, y(value), y(point.pq.low), y(point.pq.high))
