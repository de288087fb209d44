"""The intervals of densities and differences, in the plainest form: loops over units."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def tiles(
    n: Sequence[float], area: Sequence[float], place: Sequence[tuple[int, int]]
) -> tuple[float, float]:
    """95 % interval of the density over tiles that are alike where they are near."""
    total, whole = sum(n), sum(area)
    effective = whole**2 / sum(a * a for a in area)
    reach = min(math.ceil(math.sqrt(effective) / 4), math.floor(math.sqrt(effective / 2)) - 1)
    degrees = effective / (reach + 1) ** 2 - 1
    residual = [k - total / whole * a for k, a in zip(n, area, strict=True)]
    variance = 0.0
    for e, (row, col) in zip(residual, place, strict=True):
        for f, (other_row, other_col) in zip(residual, place, strict=True):
            down = max(0.0, 1 - abs(row - other_row) / (reach + 1))
            right = max(0.0, 1 - abs(col - other_col) / (reach + 1))
            variance += down * right * e * f
    variance *= 1 + 1 / degrees
    width = stats.t.ppf(0.975, degrees) * math.sqrt(variance) / total
    return _at_least_of_the_count(total, whole, width)


def units(n: Sequence[float], area: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the density over independent units."""
    total, whole, m = sum(n), sum(area), len(n)
    squares = sum((k - total / whole * a) ** 2 for k, a in zip(n, area, strict=True))
    width = stats.t.ppf(0.975, m - 1) * math.sqrt(m / (m - 1) * squares) / total
    return _at_least_of_the_count(total, whole, width)


def _at_least_of_the_count(total: float, whole: float, width: float) -> tuple[float, float]:
    """Interval of that width on the logarithm, or the exact one of a Poisson count if wider."""
    low, high = total * math.exp(-width), total * math.exp(width)
    low = min(low, stats.chi2.ppf(0.025, 2 * total) / 2)
    high = max(high, stats.chi2.ppf(0.975, 2 * total + 2) / 2)
    return low / whole, high / whole


def ratio(
    a: Sequence[float], b: Sequence[float], least: Sequence[float] = (0, 0)
) -> tuple[float, float]:
    """95 % interval of mean(b) / mean(a)."""
    parts = [
        max(floor, statistics.variance(x) / len(x) / statistics.mean(x) ** 2)
        for x, floor in zip((a, b), least, strict=True)
    ]
    degrees = sum(parts) ** 2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True))
    width = stats.t.ppf(0.975, degrees) * math.sqrt(sum(parts))
    middle = statistics.mean(b) / statistics.mean(a)
    return middle * math.exp(-width), middle * math.exp(width)


def shift(a: Sequence[float], b: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Median of all differences, and the 95 % interval by the ranks of Mann and Whitney."""
    differences = sorted(y - x for x in a for y in b)
    n = len(differences)
    reach = stats.norm.ppf(0.975) * math.sqrt(n * (len(a) + len(b) + 1) / 12)
    outside = math.floor(n / 2 - reach)
    return statistics.median(differences), differences[outside - 1], differences[n - outside]


def delta(a: Sequence[float], b: Sequence[float]) -> float:
    """Cliff's delta."""
    above = sum(y > x for x in a for y in b)
    below = sum(y < x for x in a for y in b)
    return (above - below) / (len(a) * len(b))
