"""Samples with known chances, and what they say of the whole they were drawn from.

Research on finite populations: Särndal, Swensson, Wretman 1992, *Model Assisted Survey Sampling*
(doi:10.1007/978-1-4612-4378-6), chapters 3 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of every interval here."""
_LOG_TAIL = -math.log((1 - CONFIDENCE) / 2)
"""Events below which a Poisson count of 0 is that unlikely: 3.69 for 95 %."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate and its 95 % interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


def inclusion_probabilities(size: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return chances in proportion to size that add up to n; what is too large is certain.

    Parameters
    ----------
    size : ndarray, (m,)
        Positive.
    n : int
        Number to be drawn; all if it is m or more.

    Returns
    -------
    ndarray, (m,)
        Above 0 and at most 1.

    Raises
    ------
    ValueError
        If a size is not positive or n is negative.
    """
    if n < 0 or not (size > 0).all():
        raise ValueError(f"{n} of {len(size)} with sizes from {size.min(initial=1)}; > 0 is needed")
    certain = np.full(len(size), n >= len(size))
    chance = np.ones(len(size))
    while not certain.all():
        left = n - int(certain.sum())
        chance[~certain] = left * size[~certain] / size[~certain].sum()
        too_large = ~certain & (chance >= 1)
        if not too_large.any():
            break
        certain |= too_large
        chance[too_large] = 1.0
    return chance


def systematic_sample(chance: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a sample of fixed size with given chances.

    Systematic sampling (Madow 1949, doi:10.1214/aoms/1177729988) from a random order.

    Parameters
    ----------
    chance : ndarray, (m,)
        Chance of each, of `inclusion_probabilities`.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    ndarray, (n,)
        Positions of those drawn, ascending.
    """
    certain = np.flatnonzero(chance >= 1)
    order = rng.permutation(np.flatnonzero(chance < 1))
    end = np.cumsum(chance[order])
    n = round(float(end[-1])) if len(end) else 0
    if n == 0:
        return certain.astype(np.int64)
    # Rounding may leave the last end a hair below n.
    end[-1] = n
    marks = rng.uniform() + np.arange(n)
    drawn = order[np.searchsorted(end, marks, side="right")]
    return np.sort(np.concatenate((certain, drawn))).astype(np.int64)


def difference_total(
    known_total: float, difference: NDArray[np.float64], chance: NDArray[np.float64]
) -> Estimate:
    """Estimate a total from a known, imperfect one and a sample of its errors.

    The difference estimator: known total + Σ difference / chance, unbiased for every design
    whose chances are known.  Its variance is Hájek's approximation for fixed-size designs
    (1964, doi:10.1214/aoms/1177700375), the interval Student's with n - 1 degrees of freedom.  Few
    differences in a sample say little of their spread, and if all are 0, nothing: no interval
    reaches less far than so many events of 1 that to see none would have a chance of 2.5 %.

    Parameters
    ----------
    known_total : float
        Sum over the whole population of what is known everywhere.
    difference : ndarray, (n,)
        True minus known value, of those drawn.
    chance : ndarray, (n,)
        Their chances of being drawn.

    Returns
    -------
    Estimate
        Of the true total, not below 0; no value without a sample, no interval below two.
    """
    n = len(difference)
    if n == 0:
        return Estimate(None)
    expanded = difference / chance
    total = known_total + float(expanded.sum())
    if (chance >= 1).all():
        return Estimate(max(0.0, total), max(0.0, total), max(0.0, total))
    if n == 1:
        return Estimate(max(0.0, total))
    open_ = 1 - chance
    middle = float((open_ * expanded).sum() / open_.sum())
    variance = n / (n - 1) * float((open_ * (expanded - middle) ** 2).sum())
    half = max(student_t(n - 1) * math.sqrt(variance), _LOG_TAIL * float((open_ / chance).mean()))
    return Estimate(max(0.0, total), max(0.0, total - half), max(0.0, total + half))


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    sums: NDArray[np.float64],
    weight: NDArray[np.float64],
    seed: int,
    n_draws: int = 2000,
) -> list[Estimate]:
    """Estimate statistics of weighted sums over units, with percentile intervals.

    Whole units are drawn again, with replacement, since what lies within one is not independent
    (Davison and Hinkley 1997, doi:10.1017/CBO9780511802843, on hierarchical data).  With few
    units plain percentiles lie too close together, so more extreme ones are taken, as far as
    Student's t reaches beyond the normal distribution ("expanded" percentiles: Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789).

    Parameters
    ----------
    statistic : callable
        From (b, k) sums to (b, s) statistics; NaN where one is not defined.
    sums : ndarray, (n, k)
        Sums within each unit.
    weight : ndarray, (n,)
        Of each unit: 1 / its chance of being drawn.
    seed : int
        Equal seeds give equal intervals.
    n_draws : int
        Samples drawn.

    Returns
    -------
    list of Estimate
        One a statistic; no value where it is not defined, no interval with fewer than two units
        or where it is not defined in more than 5 % of the samples.
    """
    weighted = sums * weight[:, None]
    values = statistic(weighted.sum(axis=0, keepdims=True))[0]
    if len(sums) < 2:
        return [Estimate(_finite(value)) for value in values]
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), n_draws)
    drawn = statistic(times @ weighted)
    reach = student_t(len(sums) - 1) * math.sqrt(len(sums) / (len(sums) - 1))
    tail = 100 * NormalDist().cdf(-reach)
    estimates = []
    for value, column in zip(values, drawn.T, strict=True):
        known = column[np.isfinite(column)]
        if math.isnan(value) or len(known) < CONFIDENCE * n_draws:
            estimates.append(Estimate(_finite(value)))
            continue
        low, high = np.percentile(known, [tail, 100 - tail])
        estimates.append(Estimate(float(value), float(low), float(high)))
    return estimates


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def student_t(df: int) -> float:
    """Return how many standard errors a 95 % interval reaches to each side.

    Parameters
    ----------
    df : int
        Degrees of freedom, at least 1.

    Raises
    ------
    ValueError
        If `df` is below 1.
    """
    if df < 1:
        raise ValueError(f"{df} degrees of freedom; at least 1 is needed")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _within(middle, df) > CONFIDENCE else (middle, high)
    return math.tan(low) * math.sqrt(df)


def _within(angle: float, df: int) -> float:
    """Return the chance that |t| < sqrt(df) tan(angle): Abramowitz and Stegun, 26.7.3, 26.7.4."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = df % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, df, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))
