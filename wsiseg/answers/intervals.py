"""Intervals of densities and of differences between groups, where nuclei come in clusters.

Nuclei are no independent draws: they lie in clusters, and the slides of a patient are alike.
So nothing here takes a count for Poisson's, which is the least that is granted: units that agree
by chance are no reason to be surer than their nuclei alone would allow.  The units are tiles within
a slide, and slides or patients within a group.

Sources
-------
Ratio estimator and its variance: Cochran (1977), Sampling Techniques, 3rd ed., section 6.3.
Units that lie side by side: Conley (1999), doi:10.1016/S0304-4076(98)00084-0, with Bartlett's
weights in both directions.  A count alone: Garwood (1936), doi:10.1093/biomet/28.3-4.437.
Unequal variances: Welch (1947), doi:10.1093/biomet/34.1-2.28.
Shift: Hodges and Lehmann (1963), doi:10.1214/aoms/1177704172.  Dominance: Cliff (1993),
doi:10.1037/0033-2909.114.3.494, with the interval of Feng and Cliff (2004),
doi:10.22237/jmasm/1099267560.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""How often an interval is meant to hold the truth."""
REACH_SHARE = 0.25
"""Tiles are taken to be alike up to this share of the side of a square of as many tiles."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Ends of an interval, None where it cannot be given."""

    low: float | None
    high: float | None


UNKNOWN = Interval(None, None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval."""

    value: float | None
    interval: Interval


def density_of_units(
    n: NDArray[np.float64],
    area_mm2: NDArray[np.float64],
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the interval of Σn / Σarea over independent units, such as patients.

    The variance is that of a ratio estimator; the interval is made on the logarithm, so that it
    never reaches below zero, with Student's t of one less than the units.  It holds at least
    what the count alone would give as a Poisson count.

    Parameters
    ----------
    n : ndarray, (m,)
        Nuclei of each unit.
    area_mm2 : ndarray, (m,)
        What was analysed of it.
    confidence : float
        Such as 0.95.

    Returns
    -------
    Interval
        Per mm².  Unknown for fewer than two units with an area.  Without any nucleus from 0 to
        the upper end of a Poisson count.
    """
    there = area_mm2 > 0
    n, area_mm2 = n[there], area_mm2[there]
    if len(n) < 2:
        return UNKNOWN
    if n.sum() == 0:
        return _of_none(float(area_mm2.sum()), confidence)
    residual = n - n.sum() / area_mm2.sum() * area_mm2
    variance = len(n) / (len(n) - 1) * (residual**2).sum()
    return _on_logarithm(float(n.sum()), float(area_mm2.sum()), variance, len(n) - 1, confidence)


def density_of_tiles(
    n: NDArray[np.float64],
    area_mm2: NDArray[np.float64],
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the interval of Σn / Σarea over the tiles of one slide.

    Tiles that lie near each other may be alike: products of their residuals count, with weights
    that fall with the distance in either direction.  They reach over a quarter of the side of a
    square of as many tiles.  The degrees of freedom are those of as many blocks of that reach as
    the area would fill.  The interval holds at least that of a Poisson count.

    Parameters
    ----------
    n, area_mm2 : ndarray, (m,)
        Nuclei with their centroid in each tile, and its analysed area.
    row, col : ndarray, (m,)
        Place of each tile in the grid.
    confidence : float
        Such as 0.95.

    Returns
    -------
    Interval
        Per mm²; as `density_of_units` where no nucleus or hardly a tile is there.
    """
    total, area = float(n.sum()), float(area_mm2.sum())
    n_tiles = _effective_tiles(area_mm2)
    # At least two blocks of that reach are needed to see how they differ.
    reach = min(math.ceil(REACH_SHARE * math.sqrt(n_tiles)), math.floor(math.sqrt(n_tiles / 2)) - 1)
    if area <= 0 or reach < 1:
        return UNKNOWN
    degrees = n_tiles / (reach + 1) ** 2 - 1
    if total == 0:
        return _of_none(area, confidence)
    residual = np.zeros((int(np.ptp(row)) + 1, int(np.ptp(col)) + 1))
    np.add.at(residual, (row - row.min(), col - col.min()), n - total / area * area_mm2)
    variance = (1 + 1 / degrees) * _variance_of_sum(residual, reach)
    return _on_logarithm(total, area, variance, degrees, confidence)


def ratio_of_means(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    confidence: float = CONFIDENCE,
    least: tuple[float, float] = (0.0, 0.0),
) -> Estimate:
    """Return mean(b) / mean(a), with Welch's interval on the logarithm (delta method).

    Parameters
    ----------
    a, b : ndarray
        One value for each unit of a group, none negative; `a` is the reference.
    confidence : float
        Such as 0.95.
    least : tuple of float
        Least variance of the logarithm of either mean: of densities, `poisson_variance`.

    Returns
    -------
    Estimate
        Without a value where mean(a) is 0, without an interval where a mean is 0, a group has
        fewer than two units, or all values of both are equal and nothing is known of the least.
    """
    if not (len(a) and len(b)) or a.mean() == 0:
        return Estimate(None, UNKNOWN)
    ratio = float(b.mean() / a.mean())
    if len(a) < 2 or len(b) < 2 or ratio == 0:
        return Estimate(ratio, UNKNOWN)
    parts = [
        max(floor, float(x.var(ddof=1) / len(x) / x.mean() ** 2))
        for x, floor in zip((a, b), least, strict=True)
    ]
    variance = sum(parts)
    if variance == 0:
        # Equal values, mostly zeros or few nuclei, are no reason to be certain.
        return Estimate(ratio, UNKNOWN)
    degrees = variance**2 / sum(
        part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True)
    )
    width = _student(confidence, degrees) * math.sqrt(variance)
    return Estimate(ratio, Interval(ratio * math.exp(-width), ratio * math.exp(width)))


def poisson_variance(n: NDArray[np.float64], area_mm2: NDArray[np.float64]) -> float:
    """Return the variance of the logarithm of the mean density of units, from their counts alone.

    Zero without a nucleus: then there is no logarithm.
    """
    total = float((n / area_mm2).sum())
    return float((n / area_mm2**2).sum()) / total**2 if total > 0 else 0.0


def shift(
    a: NDArray[np.float64], b: NDArray[np.float64], confidence: float = CONFIDENCE
) -> Estimate:
    """Return by how much `b` lies above `a`: Hodges and Lehmann's median of all differences.

    The interval holds the differences between the ranks of Mann and Whitney's test in its normal
    approximation; unknown where there are too few units for that confidence (3 against 3), or
    where all values are equal.
    """
    if not (len(a) and len(b)):
        return Estimate(None, UNKNOWN)
    differences = np.sort((b[:, None] - a[None, :]).ravel())
    n_pairs, n_all = len(differences), len(a) + len(b)
    reach = _normal(confidence) * math.sqrt(n_pairs * (n_all + 1) / 12)
    outside = math.floor(n_pairs / 2 - reach)
    value = float(np.median(differences))
    if outside < 1 or differences[0] == differences[-1]:
        return Estimate(value, UNKNOWN)
    ends = Interval(float(differences[outside - 1]), float(differences[n_pairs - outside]))
    return Estimate(value, ends)


def dominance(
    a: NDArray[np.float64], b: NDArray[np.float64], confidence: float = CONFIDENCE
) -> Estimate:
    """Return Cliff's delta: how much oftener a unit of `b` lies above one of `a` than below.

    From -1 (all of `b` below all of `a`) to 1.
    """
    if not (len(a) and len(b)):
        return Estimate(None, UNKNOWN)
    signs = np.sign(b[:, None] - a[None, :])
    delta = float(signs.mean())
    n, m = signs.shape
    if n < 2 or m < 2:
        return Estimate(delta, UNKNOWN)
    z = _normal(confidence)
    if abs(delta) == 1:
        least = (min(n, m) - z * z) / (min(n, m) + z * z)
        ends = (least, 1.0) if delta > 0 else (-1.0, -least)
        return Estimate(delta, Interval(*ends))
    variance = _variance_of_delta(signs, delta)
    middle, spread = delta - delta**3, z * math.sqrt(variance)
    half = spread * math.sqrt((1 - delta**2) ** 2 + spread**2)
    below = 1 - delta**2 + spread**2
    return Estimate(
        delta, Interval(max(-1.0, (middle - half) / below), min(1.0, (middle + half) / below))
    )


def _variance_of_delta(signs: NDArray[np.float64], delta: float) -> float:
    """Return Cliff's unbiased variance of delta, not below its least possible value."""
    n, m = signs.shape
    rows = ((signs.mean(axis=1) - delta) ** 2).sum()
    cols = ((signs.mean(axis=0) - delta) ** 2).sum()
    every = ((signs - delta) ** 2).sum()
    variance = (m**2 * rows + n**2 * cols - every) / (n * m * (n - 1) * (m - 1))
    return max(float(variance), float((1 - delta**2) / (n * m - 1)))


def _variance_of_sum(residual: NDArray[np.float64], reach: int) -> float:
    """Return the variance of the sum of a grid's residuals, neighbours counted as alike.

    Bartlett's weights in both directions make sure that it is not negative.
    """
    total = 0.0
    height, width = residual.shape
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            weight = (1 - abs(down) / (reach + 1)) * (1 - abs(right) / (reach + 1))
            here = residual[
                max(0, -down) : max(0, height - down), max(0, -right) : max(0, width - right)
            ]
            there = residual[max(0, down) :, max(0, right) :][: here.shape[0], : here.shape[1]]
            total += weight * float((here * there).sum())
    return float(total)


def _effective_tiles(area_mm2: NDArray[np.float64]) -> float:
    """Return how many equal tiles would carry as much: mostly empty ones weigh little."""
    squares = float((area_mm2**2).sum())
    return float(area_mm2.sum()) ** 2 / squares if squares > 0 else 0.0


def _on_logarithm(
    n: float, area_mm2: float, variance: float, degrees: float, confidence: float
) -> Interval:
    """Return n / area with its interval from the variance of n, at least that of the count."""
    width = _student(confidence, degrees) * math.sqrt(variance) / n
    least_low, least_high = _of_count(n, confidence)
    return Interval(
        min(n * math.exp(-width), least_low) / area_mm2,
        max(n * math.exp(width), least_high) / area_mm2,
    )


def _of_none(area_mm2: float, confidence: float) -> Interval:
    """Return the interval of a density where nothing was counted."""
    return Interval(0.0, -math.log((1 - confidence) / 2) / area_mm2)


def _of_count(n: float, confidence: float) -> tuple[float, float]:
    """Return Garwood's interval of a Poisson count above zero."""
    from scipy.special import gammaincinv

    miss = (1 - confidence) / 2
    return float(gammaincinv(n, miss)), float(gammaincinv(n + 1, 1 - miss))


def _student(confidence: float, degrees: float) -> float:
    # Importing scipy takes longer than most answers.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


def _normal(confidence: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))
