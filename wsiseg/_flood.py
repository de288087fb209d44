"""Where touching nuclei part: the energy between them, and the flood from their middles."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg._label_runs import PictureRuns

N_LEVELS = 1024
"""Energies 0 to 1 are quantised to levels 0 to N_LEVELS - 1; N_LEVELS is "not in the mask"."""
MAX_SOBEL_PX = 21
"""With larger kernels the first pass could overflow 32 bits."""

_NARROW_SOBEL_PX = 13
"""Up to this size all sums fit into 32 bits."""


def sobel_kernels(size_px: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the smoothing and the derivative kernel of OpenCV's Sobel operator.

    Parameters
    ----------
    size_px : int
        Odd, 3 to 21.

    Returns
    -------
    smooth, derive : ndarray, (size_px,), int32
        Binomial coefficients, and their differences; to be correlated with.
    """
    n = size_px - 2
    smooth = [math.comb(n + 1, i) for i in range(size_px)]
    derive = [(math.comb(n, i - 1) if i else 0) - math.comb(n, i) for i in range(size_px)]
    return np.array(smooth, np.int32), np.array(derive, np.int32)


def energy_levels(
    hv: NDArray[np.int8], mask: PictureRuns, sobel_px: int, hv_unit: int
) -> NDArray[np.int16]:
    """Return the quantised energy where the mask is, exact to the last bit.

    The energy is the larger of -d/dx of the horizontal and -d/dy of the vertical map by
    Sobel kernels, over half of the kernel's absolute sum, clipped to 0 … 1.  Outside the
    array the maps are 0.

    Parameters
    ----------
    hv : ndarray, (2, h, w), int8
        Distances × `hv_unit`.
    mask : PictureRuns
        Of the canvas (h + 2, w + 2); energies are computed where its value is not 0.
    sobel_px : int
        Kernel size, odd, 3 to 21.
    hv_unit : int
        What 1.0 is in `hv`.

    Returns
    -------
    ndarray, (h + 2, w + 2), int16
        `floor(energy × (N_LEVELS - 1))` in the mask, N_LEVELS elsewhere.
    """
    smooth, derive = sobel_kernels(sobel_px)
    half = int(np.abs(derive).sum()) * int(smooth.sum()) // 2
    dtype = np.int32 if sobel_px <= _NARROW_SOBEL_PX else np.int64
    slopes = np.empty((2, hv.shape[2]), dtype)
    return _levels(
        hv, mask.first_in_row, mask.runs, mask.value, smooth, derive, half * hv_unit, slopes
    )


@numba.njit(cache=True, nogil=True)
def _column_sums(
    plane: NDArray[np.int8],
    row: int,
    first_col: int,
    end_col: int,
    kernel: NDArray[np.int32],
    sums: NDArray[np.int32],
) -> None:
    """Correlate columns with a kernel around one row; column c goes to c + the kernel's reach."""
    reach = len(kernel) // 2
    sums[:] = 0
    # Slices and loops from 0: with indices that could be negative nothing is vectorised.
    into = sums[first_col + reach : end_col + reach]
    for source in range(max(0, row - reach), min(plane.shape[0], row + reach + 1)):
        weight = kernel[source - row + reach]
        line = plane[source, first_col:end_col]
        for i in range(len(into)):
            into[i] += weight * np.int32(line[i])


@numba.njit(cache=True, nogil=True)
def _row_sums(
    sums: NDArray[np.int32],
    kernel: NDArray[np.int32],
    mirror: int,
    slopes: NDArray[np.signedinteger],
) -> None:
    """Correlate a row with a kernel; its second half is its first, mirrored, times `mirror`."""
    size, n = len(kernel), len(slopes)
    weight = slopes.dtype.type(kernel[size // 2])
    middle = sums[size // 2 : size // 2 + n]
    for i in range(n):
        slopes[i] = weight * middle[i]
    for tap in range(size // 2):
        weight = slopes.dtype.type(kernel[tap])
        mirrored = slopes.dtype.type(kernel[tap] * mirror)
        ahead, behind = sums[tap : tap + n], sums[size - 1 - tap : size - 1 - tap + n]
        for i in range(n):
            slopes[i] += weight * ahead[i] + mirrored * behind[i]


@numba.njit(cache=True, nogil=True)
def _levels(
    hv: NDArray[np.int8],
    first_in_row: NDArray[np.int64],
    runs: NDArray[np.int32],
    value: NDArray[np.int32],
    smooth: NDArray[np.int32],
    derive: NDArray[np.int32],
    unit: int,
    slopes: NDArray[np.signedinteger],
) -> NDArray[np.int16]:
    height, width = hv.shape[1:]
    reach = len(smooth) // 2
    levels = np.full((height + 2, width + 2), N_LEVELS, np.int16)
    top = np.int64(N_LEVELS - 1)
    h_sums = np.zeros(width + 2 * reach, np.int32)
    v_sums = np.zeros(width + 2 * reach, np.int32)
    for row in range(height):
        first, end = first_in_row[row + 1], first_in_row[row + 2]
        if end - first == 1 and value[first] == 0:
            continue
        # A row's first and last run are background: the canvas has a frame.
        left, right = runs[first, 2] - 1, runs[end - 1, 1] - 1
        first_col, end_col = max(0, left - reach), min(width, right + reach)
        _column_sums(hv[0], row, first_col, end_col, smooth, h_sums)
        _column_sums(hv[1], row, first_col, end_col, derive, v_sums)
        _row_sums(h_sums[left : right + 2 * reach], derive, -1, slopes[0, : right - left])
        _row_sums(v_sums[left : right + 2 * reach], smooth, 1, slopes[1, : right - left])
        for run in range(first, end):
            if value[run] == 0:
                continue
            for col in range(runs[run, 1] - 1, runs[run, 2] - 1):
                fall = -np.int64(min(slopes[0, col - left], slopes[1, col - left]))
                # Most pixels rise, and a division is slow.
                levels[row + 1, col + 1] = min(top, fall * top // unit) if fall > 0 else 0
    return levels


@numba.njit(cache=True, nogil=True)
def flood(
    canvas: NDArray[np.int32],
    levels: NDArray[np.int16],
    first_seed: NDArray[np.int64],
    seeds: NDArray[np.int32],
) -> None:
    """Grow labels over the negative pixels of a canvas, in place.

    Meyer's flooding (F. Meyer, "Un algorithme optimal pour la ligne de partage des eaux",
    1991): pixels enter a queue per level, first in first out, and give their label to
    unlabelled 4-neighbours (above, left, right, below), which enter at their own level or
    the current one, whichever is higher.  Seeds come first, in the order given, at level 0.
    Basins that do not touch cannot influence each other, so each is flooded on its own:
    the result is the same and the pixels stay in the cache.

    Parameters
    ----------
    canvas : ndarray, (h, w), int32
        Positive: labelled; negative: to be labelled; 0: stays.  Frame of 0.
    levels : ndarray, (h, w), int16
        0 to N_LEVELS - 1 where the canvas is not 0.
    first_seed : ndarray, (basins + 1,), int64
        Index of each basin's first seed run.
    seeds : ndarray, (m, 3), int32
        Runs of labelled pixels to start from: row, first column, column after the last.
    """
    stride = canvas.shape[1]
    label = canvas.ravel()
    level_of = levels.ravel()
    following = np.empty(canvas.size, np.int32)
    head = np.full(N_LEVELS, -1, np.int32)
    tail = np.full(N_LEVELS, -1, np.int32)
    for basin in range(len(first_seed) - 1):
        top = 0
        for seed in range(first_seed[basin], first_seed[basin + 1]):
            start = seeds[seed, 0] * stride
            for pixel in range(start + seeds[seed, 1], start + seeds[seed, 2]):
                top = _spread(pixel, 0, top, stride, label, level_of, following, head, tail)
        level = 0
        while level <= top:
            pixel = head[level]
            if pixel < 0:
                level += 1
                continue
            # Spread before unlinking: what enters this level goes behind this pixel.
            top = _spread(pixel, level, top, stride, label, level_of, following, head, tail)
            head[level] = -1 if tail[level] == pixel else following[pixel]


@numba.njit(cache=True, nogil=True)
def _spread(
    pixel: int,
    level: int,
    top: int,
    stride: int,
    label: NDArray[np.int32],
    level_of: NDArray[np.int16],
    following: NDArray[np.int32],
    head: NDArray[np.int32],
    tail: NDArray[np.int32],
) -> int:
    """Label a pixel's unlabelled neighbours and queue them; returns the highest level."""
    for step in (-stride, -1, 1, stride):
        other = pixel + step
        if label[other] < 0:
            label[other] = label[pixel]
            enters = max(level, int(level_of[other]))
            if head[enters] < 0:
                head[enters] = other
            else:
                following[tail[enters]] = other
            tail[enters] = other
            top = max(top, enters)
    return top
