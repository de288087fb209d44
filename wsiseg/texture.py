"""Texture of nuclei: how haematoxylin changes from one pixel to the next.

Haralick's features of grey-level co-occurrence matrices (Haralick, Shanmugam & Dinstein 1973,
doi:10.1109/TSMC.1973.4309314), with grey levels that are the same for every nucleus and slide.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.densities import STEPS_PER_OD, density_steps
from wsiseg.records import Instances

N_LEVELS = 32
"""Grey levels."""
LEVEL_OD = 0.06
"""Optical density of one; the first also holds all below, the last (from 1.86) all above."""

_NOTHING = 255
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns to the other pixel of a pair: to the right, below, and the two diagonals."""


def texture_of(
    rgb: NDArray[np.uint8], instances: Instances, origin_px: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the texture of the haematoxylin density inside each nucleus.

    Pairs are of neighbouring pixels that both belong to the nucleus, each counted both ways.
    Each of the four directions gives one matrix; a feature is the mean over the directions that
    have a pair.  Equal to scikit-image's `graycomatrix` and `graycoprops`, except that the
    correlation of a matrix with a single grey level is not 1 but undefined, and left out of the
    mean.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Pixels of a tile.
    instances : Instances
        n nuclei inside it.
    origin_px : tuple of int
        Row and column, in the instances' frame, of the tile's first pixel.

    Returns
    -------
    ndarray, (n, 5), float64
        Contrast, homogeneity, energy, correlation, entropy (in nats); NaN where undefined.
    """
    level_steps = round(LEVEL_OD * STEPS_PER_OD)
    return np.asarray(
        _features(
            np.ascontiguousarray(rgb),
            instances.first_run,
            instances.runs,
            *origin_px,
            density_steps()[0],
            level_steps,
        )
    )


@numba.njit(cache=True, nogil=True)
def _paint_levels(
    rgb: NDArray[np.uint8],
    runs: NDArray[np.int32],
    top: int,
    left: int,
    steps: NDArray[np.int32],
    level_steps: int,
) -> NDArray[np.uint8]:
    """Return the grey levels of a nucleus, with a frame of one pixel of nothing."""
    row0, col0 = runs[0, 0], runs[:, 1].min()
    shape = (runs[-1, 0] - row0 + 3, runs[:, 2].max() - col0 + 2)
    levels = np.full(shape, _NOTHING, np.uint8)
    for run in range(len(runs)):
        line = rgb[runs[run, 0] - top, runs[run, 1] - left : runs[run, 2] - left]
        to = levels[runs[run, 0] - row0 + 1, runs[run, 1] - col0 + 1 :]
        for k in range(len(line)):
            value = steps[0, line[k, 0]] + steps[1, line[k, 1]] + steps[2, line[k, 2]]
            to[k] = min(max(value, 0) // level_steps, N_LEVELS - 1)
    return levels


@numba.njit(cache=True, nogil=True)
def _count_pairs(levels: NDArray[np.uint8], rows: int, cols: int, counts: NDArray[np.int64]) -> int:
    """Add the pairs at one distance, both ways, to a matrix of zeros; return their number."""
    n = 0
    for row in range(1, levels.shape[0] - 1):
        one, other = levels[row], levels[row + rows]
        for col in range(1, levels.shape[1] - 1):
            a, b = one[col], other[col + cols]
            if a != _NOTHING and b != _NOTHING:
                counts[a, b] += 1
                counts[b, a] += 1
                n += 2
    return n


@numba.njit(cache=True, nogil=True)
def _describe(
    counts: NDArray[np.int64], n: int, lowest: int, highest: int, found: NDArray[np.float64]
) -> None:
    """Write contrast, homogeneity, energy, correlation (NaN: undefined), entropy of a matrix."""
    contrast, homogeneity, squares, entropy = 0.0, 0.0, 0.0, 0.0
    total, total_squares, products = np.int64(0), np.int64(0), np.int64(0)
    for i in range(lowest, highest + 1):
        for j in range(lowest, highest + 1):
            if counts[i, j]:
                share, apart = counts[i, j] / n, (i - j) * (i - j)
                contrast += share * apart
                homogeneity += share / (1 + apart)
                squares += share * share
                entropy -= share * math.log(share)
                total += counts[i, j] * i
                total_squares += counts[i, j] * i * i
                products += counts[i, j] * i * j
    # n² times variance and covariance, in whole numbers: a single level has exactly 0.
    variance = n * total_squares - total * total
    covariance = n * products - total * total
    found[0], found[1], found[2], found[4] = contrast, homogeneity, math.sqrt(squares), entropy
    found[3] = covariance / variance if variance else np.nan


@numba.njit(cache=True, nogil=True)
def _features(
    rgb: NDArray[np.uint8],
    first_run: NDArray[np.int64],
    runs: NDArray[np.int32],
    top: int,
    left: int,
    steps: NDArray[np.int32],
    level_steps: int,
) -> NDArray[np.float64]:
    n = len(first_run) - 1
    found = np.empty((n, 5), np.float64)
    one = np.empty(5, np.float64)
    counts = np.zeros((N_LEVELS, N_LEVELS), np.int64)
    for i in range(n):
        mine = runs[first_run[i] : first_run[i + 1]]
        levels = _paint_levels(rgb, mine, top, left, steps, level_steps)
        lowest, highest = int(levels.min()), 0
        for level in levels.flat:
            highest = max(highest, int(level) if level != _NOTHING else 0)
        sums, n_defined = np.zeros(5), np.zeros(5)
        for rows, cols in _STEPS:
            counts[lowest : highest + 1, lowest : highest + 1] = 0
            n_pairs = _count_pairs(levels, rows, cols, counts)
            if n_pairs:
                _describe(counts, n_pairs, lowest, highest, one)
                for k in range(5):
                    if not math.isnan(one[k]):
                        sums[k] += one[k]
                        n_defined[k] += 1
        for k in range(5):
            found[i, k] = sums[k] / n_defined[k] if n_defined[k] else np.nan
    return found
