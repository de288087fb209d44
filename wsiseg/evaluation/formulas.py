"""How figures are made of sums.

A formula takes sums, (b,) each, of b images or of b samples of all images, and returns b values;
NaN where there is nothing to score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from wsiseg.evaluation.tallies import of_class

Numbers = NDArray[np.float64]
Columns = Mapping[str, Numbers]
Formula = Callable[[Columns], Numbers]

LIMITS_SD = 1.96
"""Standard deviations from the mean to Bland and Altman's limits of agreement."""


def ratio(part: Numbers, whole: Numbers) -> Numbers:
    """Return part / whole; NaN of nothing."""
    nothing: Numbers = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=nothing, where=whole > 0)


def f1(right: Numbers, n_truth: Numbers, n_found: Numbers) -> Numbers:
    """Return F1 of what is right on both sides."""
    return ratio(2 * right, n_truth + n_found)


def mean_iou(sums: Columns) -> Numbers:
    """Return the mean IoU of matches: 0, not undefined, if there are nuclei but no match."""
    there = sums["n_truth"] + sums["n_found"] > 0
    return np.where((sums["tp"] == 0) & there, 0.0, ratio(sums["iou"], sums["tp"]))


def class_dq(sums: Columns) -> Numbers:
    """Return the detection quality of a class."""
    return f1(sums["tp"], sums["n_truth"], sums["n_found"] - sums["unknown"])


def class_pq(sums: Columns) -> Numbers:
    """Return the panoptic quality of a class."""
    return ratio(2 * sums["iou"], sums["n_truth"] + sums["n_found"] - sums["unknown"])


def class_f1(sums: Columns) -> Numbers:
    """Return HoVer-Net's F1 of a class."""
    right, wrong = 2 * sums["c_tp"], 2 * sums["c_fp"] + 2 * sums["c_fn"]
    return ratio(right, right + wrong + sums["d_fp"] + sums["d_fn"])


def spread(sums: Columns, name: str, n: str) -> Numbers:
    """Return the standard deviation (n - 1) of differences."""
    mean = ratio(sums[f"{name}_d"], sums[n])
    left = np.maximum(sums[f"{name}_d2"] - sums[n] * mean**2, 0.0)
    return np.sqrt(ratio(left, sums[n] - 1))


def limit_of(name: str, n: str, sign: int) -> Formula:
    """Return the formula of a limit of agreement."""

    def formula(sums: Columns) -> Numbers:
        mean = ratio(sums[f"{name}_d"], sums[n])
        return mean + sign * LIMITS_SD * spread(sums, name, n)

    return formula


def r2_of(name: str, n: str) -> Formula:
    """Return the formula of R² of the line found = annotated."""

    def formula(sums: Columns) -> Numbers:
        spread = sums[f"{name}_t2"] - ratio(sums[f"{name}_t"] ** 2, sums[n])
        # What rounding leaves of no spread at all is none.
        real = np.where(spread > 1e-12 * sums[f"{name}_t2"], spread, 0.0)
        return 1 - ratio(sums[f"{name}_d2"], real)

    return formula


def mean_over_classes(sums: Columns, n_classes: int, formula: Formula, if_any: str) -> Numbers:
    """Return the mean over classes of a formula, of those with a value and any of `if_any`."""
    values = []
    for k in range(n_classes):
        mine = of_class(sums, k)
        value = formula(mine)
        values.append(np.where(mine[if_any] > 0, value, np.nan) if if_any else value)
    table = np.stack(values)
    known = np.isfinite(table)
    return ratio(np.where(known, table, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))
