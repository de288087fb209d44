"""Separable resampling of which every crop is a crop of one virtual image.

The output pixel i of an axis has its centre at source position (i + ½)·ratio - ½ and
weighs the source pixels around it with a triangle of half-width max(1, ratio): a plain
linear interpolation upwards, an anti-aliased one downwards (Turkowski 1990, "Filters for
common resampling tasks", in Graphics Gems, doi:10.1016/B978-0-08-050753-8.50042-5).
Weights are whole numbers and depend only on i, sums are whole numbers too, so the result
does not depend on where a crop begins, nor on the processor.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

WEIGHT_BITS = 15
"""The weights of one output pixel sum to 2 ** WEIGHT_BITS exactly."""
_KEPT_BITS = 8
"""Fractional bits kept between the two passes; 255.996 then still fits 16 bits."""
_COLUMN_SHIFT = WEIGHT_BITS - _KEPT_BITS
_ROW_SHIFT = WEIGHT_BITS + _KEPT_BITS


def taps(first_out: int, n_out: int, ratio: float) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return which source pixels make up each output pixel of one axis, and how much.

    Parameters
    ----------
    first_out
        Absolute index of the first output pixel; may be negative.
    n_out
        Number of output pixels.
    ratio
        Source pixels per output pixel.

    Returns
    -------
    first : NDArray[np.int64]
        (n_out,): first source pixel of each, non-decreasing.
    weights : NDArray[np.int32]
        (n_out, k): weights of the k source pixels from there on; each row sums to
        2 ** WEIGHT_BITS.
    """
    half_width = max(1.0, ratio)
    centre = (np.arange(first_out, first_out + n_out, dtype=np.float64) + 0.5) * ratio - 0.5
    first = np.floor(centre - half_width).astype(np.int64) + 1
    source = first[:, None] + np.arange(math.ceil(2 * half_width))
    triangle = np.maximum(0.0, 1.0 - np.abs(source - centre[:, None]) / half_width)
    # Rounding the running sum, not each weight, makes the total exact without a remainder.
    running = np.cumsum(triangle, axis=1)
    steps = np.rint(running / running[:, -1:] * 2**WEIGHT_BITS).astype(np.int32)
    return first, np.diff(steps, axis=1, prepend=np.int32(0))


@numba.njit(cache=True, nogil=True)
def weigh(
    source: NDArray[np.uint8],
    first_col: NDArray[np.int64],
    col_weights: NDArray[np.int32],
    first_row: NDArray[np.int64],
    row_weights: NDArray[np.int32],
) -> NDArray[np.uint8]:
    """Resample columns, then rows.

    Parameters
    ----------
    source
        (h, w, 3), C-contiguous.
    first_col, col_weights
        As of `taps`, the first relative to the source's left edge.
    first_row, row_weights
        As of `taps`, the first relative to the source's top edge.

    Returns
    -------
    NDArray[np.uint8]
        (len(first_row), len(first_col), 3).
    """
    n_source_rows = source.shape[0]
    n_rows, n_row_taps = row_weights.shape
    n_cols, n_col_taps = col_weights.shape
    between = np.empty((n_source_rows, 3 * n_cols), np.uint16)
    half = 1 << (_COLUMN_SHIFT - 1)
    for row in range(n_source_rows):
        for col in range(n_cols):
            red = green = blue = half
            for tap in range(n_col_taps):
                weight = col_weights[col, tap]
                at = first_col[col] + tap
                red += weight * source[row, at, 0]
                green += weight * source[row, at, 1]
                blue += weight * source[row, at, 2]
            between[row, 3 * col] = red >> _COLUMN_SHIFT
            between[row, 3 * col + 1] = green >> _COLUMN_SHIFT
            between[row, 3 * col + 2] = blue >> _COLUMN_SHIFT
    out = np.empty((n_rows, n_cols, 3), np.uint8)
    flat = out.reshape(n_rows, 3 * n_cols)
    total = np.empty(3 * n_cols, np.int32)
    for row in range(n_rows):
        total[:] = 1 << (_ROW_SHIFT - 1)
        for tap in range(n_row_taps):
            weight = row_weights[row, tap]
            line = between[first_row[row] + tap]
            for col in range(3 * n_cols):
                total[col] += weight * line[col]
        for col in range(3 * n_cols):
            flat[row, col] = total[col] >> _ROW_SHIFT
    return out
