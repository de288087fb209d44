"""From the heads' results to the bytes of maps, a few rows at a time."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.models._kernels import Floats
from wsiseg.models._vectors import (
    add,
    divide,
    fma,
    larger,
    load,
    multiply,
    power_of_two,
    rint,
    smaller,
    splat,
    store,
    store_bytes,
    subtract,
)

NUCLEUS, HV, CLASSES = 0, 1, 3
"""First channel of each map among the results: one, two, and as many as there are classes."""

# ln 2 in two parts: the first has few digits, so that its products with exponents are exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_SMALLEST, _LARGEST = -87.0, 87.0


@numba.njit(cache=True, nogil=True)
def write_bytes(
    window: Floats,
    row: int,
    scratch: Floats,
    nucleus: NDArray[np.uint8],
    hv: NDArray[np.int8],
    classes: NDArray[np.uint8],
) -> None:
    """Double height and width bilinearly, and write what `Maps` holds.

    Parameters
    ----------
    window : ndarray, (n + 2, w, channels), float32
        Logit of the nucleus, distances, logits of the classes, with the row above and below.
    row : int
        First of the 2 n rows of the maps to write.
    scratch : ndarray, (w + 2 w · channels,), float32
        Room for rows.
    nucleus, hv, classes : ndarray, (h, 2 w), (2, h, 2 w), (n_classes, h, 2 w)
        Written.  2 w is a multiple of eight.
    """
    width = nucleus.shape[1]
    for y in range(2 * (window.shape[0] - 2)):
        _double_row(window, y, CLASSES + len(classes), scratch)
        at = (row + y) * width
        for x in range(0, width, 8):
            _write_nucleus(scratch, NUCLEUS * width + x, nucleus, at + x)
            for part in range(2):
                place = part * nucleus.size + at + x
                _write_distance(scratch, (HV + part) * width + x, hv, place)
        _write_classes(scratch, width, classes, at)


@numba.njit(cache=True, nogil=True)
def _double_row(window: Floats, y: int, n: int, out: Floats) -> None:
    """Write row `y` of the doubled picture, one channel after the other."""
    near, far = window[y // 2 + 1], window[y // 2 + 2 * (y % 2)]
    n_cols = window.shape[1]
    width = 2 * n_cols
    for channel in range(n):
        left = np.float32(0.75) * near[0, channel] + np.float32(0.25) * far[0, channel]
        here = left
        for x in range(n_cols):
            after = min(x + 1, n_cols - 1)
            right = np.float32(0.75) * near[after, channel] + np.float32(0.25) * far[after, channel]
            three = np.float32(0.75) * here
            out[channel * width + 2 * x] = three + np.float32(0.25) * left
            out[channel * width + 2 * x + 1] = three + np.float32(0.25) * right
            left, here = here, right


@numba.njit(cache=True, nogil=True, forceinline=True)
def _write_nucleus(logits: Floats, at: int, out: NDArray[np.uint8], to: int) -> None:
    one = splat(1.0)
    low, high = splat(_SMALLEST), splat(_LARGEST)
    less = subtract(splat(0.0), load(logits, at))
    probability = divide(one, add(one, _exp(smaller(high, larger(low, less)))))
    store_bytes(out, to, rint(multiply(probability, splat(255.0))))


@numba.njit(cache=True, nogil=True, forceinline=True)
def _write_distance(distances: Floats, at: int, out: NDArray[np.int8], to: int) -> None:
    value = rint(multiply(load(distances, at), splat(100.0)))
    store_bytes(out, to, smaller(splat(127.0), larger(splat(-127.0), value)))


@numba.njit(cache=True, nogil=True)
def _write_classes(logits: Floats, width: int, out: NDArray[np.uint8], at: int) -> None:
    """Write the share of each class in one row; overwrites the logits."""
    n = len(out)
    step = out.size // max(n, 1)
    if n == 0:
        return
    for x in range(0, width, 8):
        most = load(logits, CLASSES * width + x)
        for k in range(1, n):
            most = larger(most, load(logits, (CLASSES + k) * width + x))
        total = splat(0.0)
        for k in range(n):
            place = (CLASSES + k) * width + x
            share = _exp(larger(splat(_SMALLEST), subtract(load(logits, place), most)))
            store(logits, place, share)
            total = add(total, share)
        for k in range(n):
            share = divide(load(logits, (CLASSES + k) * width + x), total)
            store_bytes(out, k * step + at + x, rint(multiply(share, splat(255.0))))


@numba.njit(cache=True, nogil=True, forceinline=True)
def _exp(x: Any) -> Any:
    """Return e to a number from -87 to 87, within about two units in the last place."""
    n = rint(multiply(x, splat(1.4426950408889634)))
    rest = fma(n, splat(-_LN2_LOW), fma(n, splat(-_LN2_HIGH), x))
    series = splat(1.0 / 5040)
    series = fma(series, rest, splat(1.0 / 720))
    series = fma(series, rest, splat(1.0 / 120))
    series = fma(series, rest, splat(1.0 / 24))
    series = fma(series, rest, splat(1.0 / 6))
    series = fma(series, rest, splat(0.5))
    series = fma(series, rest, splat(1.0))
    series = fma(series, rest, splat(1.0))
    return multiply(series, power_of_two(n))
