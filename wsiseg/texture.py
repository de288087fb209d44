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
def _count_pairs(levels: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    """Add the pairs in each direction to four matrices, each pair once: [direction, one, other]."""
    width = levels.shape[1]
    flat = levels.ravel()
    for at in range(width + 1, len(flat) - width - 1):
        one = flat[at]
        if one == _NOTHING:
            continue
        # To the right, below, and the two diagonals; the frame keeps rows apart.
        right, below = flat[at + 1], flat[at + width]
        left_below, right_below = flat[at + width - 1], flat[at + width + 1]
        if right != _NOTHING:
            counts[0, one, right] += 1
        if below != _NOTHING:
            counts[1, one, below] += 1
        if left_below != _NOTHING:
            counts[2, one, left_below] += 1
        if right_below != _NOTHING:
            counts[3, one, right_below] += 1


@numba.njit(cache=True, nogil=True)
def _describe(
    counts: NDArray[np.int64], lowest: int, highest: int, found: NDArray[np.float64]
) -> bool:
    """Write contrast, homogeneity, energy, correlation (NaN: undefined), entropy of a matrix.

    `counts` are pairs counted one way; what is described is their sum with the other way.  A
    matrix without a pair is not described.
    """
    n, total, total_squares, products, squares = 0, 0, 0, 0, 0
    logs, homogeneity, contrast = 0.0, 0.0, 0
    for i in range(lowest, highest + 1):
        for j in range(lowest, i + 1):
            # On the diagonal a pair is counted twice, too.
            count = counts[i, j] + counts[j, i]
            if count == 0:
                continue
            times = 1 if i == j else 2
            apart = (i - j) * (i - j)
            n += times * count
            contrast += times * count * apart
            homogeneity += times * count / (1.0 + apart)
            squares += times * count * count
            logs += times * count * math.log(count)
            total += count * (i + j) if times == 2 else count * i
            total_squares += count * (i * i + j * j) if times == 2 else count * i * i
            products += times * count * i * j
    if n == 0:
        return False
    # n² times variance and covariance, in whole numbers: a single level has exactly 0.
    variance = n * total_squares - total * total
    found[0], found[1], found[2] = contrast / n, homogeneity / n, math.sqrt(squares) / n
    found[3] = (n * products - total * total) / variance if variance else np.nan
    found[4] = math.log(n) - logs / n
    return True


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
    counts = np.zeros((4, N_LEVELS, N_LEVELS), np.int64)
    for i in range(n):
        mine = runs[first_run[i] : first_run[i + 1]]
        levels = _paint_levels(rgb, mine, top, left, steps, level_steps)
        lowest, highest = int(levels.min()), 0
        for level in levels.flat:
            highest = max(highest, int(level) if level != _NOTHING else 0)
        counts[:, lowest : highest + 1, lowest : highest + 1] = 0
        _count_pairs(levels, counts)
        sums, n_defined = np.zeros(5), np.zeros(5)
        for direction in range(4):
            if _describe(counts[direction], lowest, highest, one):
                for k in range(5):
                    if not math.isnan(one[k]):
                        sums[k] += one[k]
                        n_defined[k] += 1
        for k in range(5):
            found[i, k] = sums[k] / n_defined[k] if n_defined[k] else np.nan
    return found
