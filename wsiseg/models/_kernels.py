"""The network's arithmetic on rows of pixels, compiled; a pixel's channels lie together.

Numbers of channels are multiples of eight unless said otherwise, `low` and `high` clamp every
result, and the result of a pixel does not depend on what is computed beside it.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.models._vectors import add, fma, larger, load, multiply, smaller, splat, spread, store

Floats = NDArray[np.float32]

PANEL = 16
"""Results of a pixel that are computed together: two vectors."""
_AT_ONCE = 6
_BLOCK = 48


@numba.njit(cache=True, nogil=True)
def multiply_rows(
    pixels: Floats,
    first: int,
    n: int,
    weights: Floats,
    weights_at: int,
    bias: Floats,
    added: Floats,
    added_step: int,
    limits: tuple[float, float],
    out: Floats,
    out_at: int,
) -> None:
    """Multiply the channels of `n` pixels by a matrix, add, clamp.

    Parameters
    ----------
    pixels : ndarray, float32
        From element `first` on, `n` pixels of any number of channels.
    weights : ndarray, (..., panels, channels, 16), float32
        See `pack_panels`; from element `weights_at` on.
    bias : ndarray, (n_out,), float32
        Added to each pixel; its length is the number of results, a multiple of eight.
    added : ndarray, float32
        Added as well: a row of `n_out` for each pixel, `added_step` elements apart (0: the
        same row for all).
    limits : tuple of float
        `low` and `high`.
    out : ndarray, float32
        Written from element `out_at` on.
    """
    n_in, n_out = weights.shape[-2], len(bias)
    for block in range(0, n, _BLOCK):
        end = min(block + _BLOCK, n)
        for panel in range((n_out + PANEL - 1) // PANEL):
            at = weights_at + panel * n_in * PANEL
            for row in range(block, end, _AT_ONCE):
                _multiply_six(
                    pixels, first, row, end - 1, weights, at, n_in, panel * PANEL,
                    bias, added, added_step, limits, out, out_at,
                )  # fmt: skip


@numba.njit(cache=True, nogil=True, forceinline=True)
def _multiply_six(
    x: Floats, x_at: int, row: int, last: int, w: Floats, w_at: int, n_in: int, k: int,
    bias: Floats, added: Floats, step: int, limits: tuple[float, float], out: Floats, out_at: int,
) -> None:  # fmt: skip
    """Compute one panel of six pixels; those behind the last are the last again."""
    n_out = len(bias)
    # The second half of a panel that is not full repeats the first.
    j = min(k + 8, n_out - 8)
    r0, r1, r2 = row, min(row + 1, last), min(row + 2, last)
    r3, r4, r5 = min(row + 3, last), min(row + 4, last), min(row + 5, last)
    b, d = load(bias, k), load(bias, j)
    a0, b0 = add(b, load(added, r0 * step + k)), add(d, load(added, r0 * step + j))
    a1, b1 = add(b, load(added, r1 * step + k)), add(d, load(added, r1 * step + j))
    a2, b2 = add(b, load(added, r2 * step + k)), add(d, load(added, r2 * step + j))
    a3, b3 = add(b, load(added, r3 * step + k)), add(d, load(added, r3 * step + j))
    a4, b4 = add(b, load(added, r4 * step + k)), add(d, load(added, r4 * step + j))
    a5, b5 = add(b, load(added, r5 * step + k)), add(d, load(added, r5 * step + j))
    x0, x1, x2 = x_at + r0 * n_in, x_at + r1 * n_in, x_at + r2 * n_in
    x3, x4, x5 = x_at + r3 * n_in, x_at + r4 * n_in, x_at + r5 * n_in
    for c in range(n_in):
        u, v = load(w, w_at + c * 16), load(w, w_at + c * 16 + 8)
        s = spread(x, x0 + c)
        a0, b0 = fma(s, u, a0), fma(s, v, b0)
        s = spread(x, x1 + c)
        a1, b1 = fma(s, u, a1), fma(s, v, b1)
        s = spread(x, x2 + c)
        a2, b2 = fma(s, u, a2), fma(s, v, b2)
        s = spread(x, x3 + c)
        a3, b3 = fma(s, u, a3), fma(s, v, b3)
        s = spread(x, x4 + c)
        a4, b4 = fma(s, u, a4), fma(s, v, b4)
        s = spread(x, x5 + c)
        a5, b5 = fma(s, u, a5), fma(s, v, b5)
    low, high = splat(limits[0]), splat(limits[1])
    six = ((r0, a0, b0), (r1, a1, b1), (r2, a2, b2), (r3, a3, b3), (r4, a4, b4), (r5, a5, b5))
    for r, a, b in six:
        store(out, out_at + r * n_out + k, smaller(high, larger(low, a)))
        store(out, out_at + r * n_out + j, smaller(high, larger(low, b)))


@numba.njit(cache=True, nogil=True)
def gather_patches(
    rgb: NDArray[np.uint8],
    scaled: Floats,
    first: int,
    side: int,
    stride: int,
    before: int,
    out: Floats,
) -> None:
    """Lay what a kernel on an RGB image covers side by side; nothing (0) outside the image.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
    scaled : ndarray, (256,), float32
        What each byte stands for.
    first : int
        First row of the result.
    side, stride, before : int
        Of the kernel; `before` rows and columns of it lie outside at the upper left.
    out : ndarray, (rows, columns, side · side · 3), float32
        Written.
    """
    height, width, _ = rgb.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            k = 0
            for i in range(side):
                row = (first + y) * stride - before + i
                for j in range(side):
                    col = x * stride - before + j
                    inside = 0 <= row < height and 0 <= col < width
                    for channel in range(3):
                        out[y, x, k] = scaled[rgb[row, col, channel]] if inside else 0.0
                        k += 1


@numba.njit(cache=True, nogil=True)
def double_rows(window: Floats, out: Floats) -> None:
    """Double height and width bilinearly.

    Parameters
    ----------
    window : ndarray, (n + 2, w, channels), float32
        With the row above and the row below.
    out : ndarray, (2 n, 2 w, channels), float32
        Written.
    """
    n_cols, channels = window.shape[1], window.shape[2]
    quarter, three = splat(0.25), splat(0.75)
    for y in range(out.shape[0]):
        near = (y // 2 + 1) * n_cols * channels
        far = (y // 2 + 2 * (y % 2)) * n_cols * channels
        for x in range(n_cols):
            left, right = max(x - 1, 0) * channels, min(x + 1, n_cols - 1) * channels
            here, there = x * channels, (y * n_cols + x) * 2 * channels
            for c in range(0, channels, 8):
                a = fma(three, load(window, near + left + c),
                        multiply(quarter, load(window, far + left + c)))  # fmt: skip
                b = fma(three, load(window, near + here + c),
                        multiply(quarter, load(window, far + here + c)))  # fmt: skip
                d = fma(three, load(window, near + right + c),
                        multiply(quarter, load(window, far + right + c)))  # fmt: skip
                store(out, there + c, fma(three, b, multiply(quarter, a)))
                store(out, there + channels + c, fma(three, b, multiply(quarter, d)))


def pack_panels(matrix: Floats) -> Floats:
    """Lay a matrix out as `multiply_rows` reads it.

    Parameters
    ----------
    matrix : ndarray, (..., n_in, n_out), float32
        `n_out` is a multiple of eight.

    Returns
    -------
    ndarray, (..., panels, n_in, 16), float32
        The second half of a last panel that is not full is the eight columns before the end.
    """
    n_out = matrix.shape[-1]
    panels = [
        np.concatenate([matrix[..., k : k + 8], matrix[..., min(k + 8, n_out - 8) :][..., :8]], -1)
        for k in range(0, n_out, PANEL)
    ]
    return np.ascontiguousarray(np.stack(panels, -3), np.float32)
