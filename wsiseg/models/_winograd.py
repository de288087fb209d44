"""3×3 convolutions with a quarter of the multiplications (Winograd's F(4×4, 3×3)).

Tiles of 4×4 results are computed from 6×6 pixels: both are transformed, so that the
convolution becomes 36 products of matrices (Lavin and Gray 2016, doi:10.1109/CVPR.2016.435).
The points of interpolation, 0, ±¾, ±3/2 and ∞, keep every constant exact in float32 and the
error at about twice that of adding up directly; with the usual 0, ±1, ±2 it is five times.

In exact arithmetic a result depends on 3×3 pixels; by rounding, those on the near side of a tile
depend on up to two pixels more on its far side.  So where results must not know, to the last
bit, what lies beyond a border, the border must lie in the middle of tiles: see `offset_for`.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.models._kernels import Floats, multiply_rows
from wsiseg.models._vectors import add, fma, larger, load, multiply, smaller, splat, store, subtract

TILE = 4
"""Side of a tile of results."""
_COVER = 6
PRODUCTS = _COVER * _COVER
"""Products of matrices for one convolution."""
TILES_AT_ONCE = 12
"""Whose numbers stay in the processor's cache together."""

_A, _B = 0.75, 1.5
_AA, _BB = _A * _A, _B * _B


def transform_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 36 matrices of a convolution.

    Parameters
    ----------
    weights : ndarray, (n_out, n_in, 3, 3)

    Returns
    -------
    ndarray, (36, n_in, n_out)
    """
    points = np.array([0.0, _A, -_A, _B, -_B])
    others = [_AA * _BB, *[2 * _AA * (_AA - _BB)] * 2, *[2 * _BB * (_BB - _AA)] * 2]
    rows = points[:, None] ** np.arange(3) / np.array(others)[:, None]
    matrix = np.vstack([rows, [0.0, 0.0, 1.0]])
    both = np.einsum("im,kcmn,jn->ijck", matrix, weights, matrix)
    return np.asarray(both.reshape(PRODUCTS, *both.shape[2:]), np.float64)


def offset_for(last: int) -> int:
    """Return how far tiles must begin before the first pixel, so that nothing far is touched.

    Parameters
    ----------
    last : int
        Results are wanted up to pixel n + `last` on one side and down to pixel -1 - `last` on
        the other, n and 0 being multiples of four.  With the tiles so placed they depend on
        pixels up to n + `last` + 1 and down to -2 - `last`, and no further.
    """
    # In a tile, the third and fourth result reach no further right than they should, and the
    # first and second no further left.
    return 0 if last % TILE >= TILE // 2 else TILE // 2


@numba.njit(cache=True, nogil=True)
def convolve_rows(
    window: Floats,
    weights: Floats,
    bias: Floats,
    zeros: Floats,
    limits: tuple[float, float],
    scratch: tuple[Floats, Floats, Floats],
    skip: tuple[int, int],
    out: Floats,
) -> None:
    """Convolve rows of pixels with 3×3 kernels, add, clamp.

    Parameters
    ----------
    window : ndarray, (4 m + 2, 4 n + 2, n_in), float32
        What the tiles cover: a pixel more on every side, and what fills up the last tiles.
    weights : ndarray, (36, panels, n_in, 16), float32
        `transform_weights`, packed by `pack_panels`.
    bias, zeros : ndarray, (n_out,), float32
        To be added; nothing.
    limits : tuple of float
        `low` and `high`.
    scratch : tuple of ndarray
        Room for (36, 12, n_in), (36, 12, n_out) and (36, 8), float32.
    skip : tuple of int
        So many rows and columns of the tiles' results lie above and left of `out`.
    out : ndarray, (rows, columns, n_out), float32
        Written, as far as the tiles reach.
    """
    n_in, n_out = window.shape[2], len(bias)
    tiles_across = (window.shape[1] - 2) // TILE
    n_tiles = (window.shape[0] - 2) // TILE * tiles_across
    before, after, small = scratch
    size = weights.shape[1] * n_in * 16
    for first in range(0, n_tiles, TILES_AT_ONCE):
        n = min(TILES_AT_ONCE, n_tiles - first)
        for tile in range(n):
            row, col = divmod(first + tile, tiles_across)
            corner = (row * window.shape[1] + col) * TILE * n_in
            _transform_tile(window, corner, n_in, small, before, tile * n_in, n * n_in)
        for product in range(PRODUCTS):
            multiply_rows(
                before, product * n * n_in, n, weights, product * size, zeros, zeros, 0,
                (-np.inf, np.inf), after, product * n * n_out,
            )  # fmt: skip
        for tile in range(n):
            row, col = divmod(first + tile, tiles_across)
            _finish_tile(
                after, tile * n_out, n * n_out, bias, limits, small, out,
                row * TILE - skip[0], col * TILE - skip[1],
            )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _transform_tile(
    window: Floats, corner: int, n_in: int, small: Floats, out: Floats, at: int, step: int
) -> None:
    """Write the 36 transformed numbers of a tile, `step` elements apart."""
    row_step = window.shape[1] * n_in
    for c in range(0, n_in, 8):
        for j in range(_COVER):
            _transform_six(window, corner + j * n_in + c, row_step, small, j * 8, _COVER * 8)
        for i in range(_COVER):
            _transform_six(small, i * _COVER * 8, 8, out, at + c + i * _COVER * step, step)


@numba.njit(cache=True, nogil=True, forceinline=True)
def _transform_six(source: Floats, at: int, step: int, out: Floats, to: int, to_step: int) -> None:
    """Transform six numbers that lie `step` elements apart, in each lane."""
    x0, x1, x2 = load(source, at), load(source, at + step), load(source, at + 2 * step)
    x3, x4 = load(source, at + 3 * step), load(source, at + 4 * step)
    x5 = load(source, at + 5 * step)
    a, b, less_a, less_b = splat(_A), splat(_B), splat(-_A), splat(-_B)
    less_aa, less_bb = splat(-_AA), splat(-_BB)
    product, less_sum = splat(_AA * _BB), splat(-(_AA + _BB))
    even_a, odd_a = fma(less_bb, x2, x4), fma(less_bb, x1, x3)
    even_b, odd_b = fma(less_aa, x2, x4), fma(less_aa, x1, x3)
    store(out, to, fma(product, x0, fma(less_sum, x2, x4)))
    store(out, to + to_step, fma(a, odd_a, even_a))
    store(out, to + 2 * to_step, fma(less_a, odd_a, even_a))
    store(out, to + 3 * to_step, fma(b, odd_b, even_b))
    store(out, to + 4 * to_step, fma(less_b, odd_b, even_b))
    store(out, to + 5 * to_step, fma(product, x1, fma(less_sum, x3, x5)))


@numba.njit(cache=True, nogil=True)
def _finish_tile(
    products: Floats, at: int, step: int, bias: Floats, limits: tuple[float, float],
    small: Floats, out: Floats, row: int, col: int,
) -> None:  # fmt: skip
    """Transform a tile's products back; add, clamp, and write what lies inside `out`."""
    n_out = len(bias)
    rows = range(max(0, -row), min(TILE, out.shape[0] - row))
    cols = range(max(0, -col), min(TILE, out.shape[1] - col))
    low, high = splat(limits[0]), splat(limits[1])
    for k in range(0, n_out, 8):
        for j in range(_COVER):
            _finish_four(products, at + j * step + k, _COVER * step, small, j * 8, _COVER * 8)
        b = load(bias, k)
        for i in range(TILE):
            _finish_four(small, i * _COVER * 8, 8, small, i * _COVER * 8, 8)
        for i in rows:
            for j in cols:
                sum_ = add(load(small, (i * _COVER + j) * 8), b)
                place = ((row + i) * out.shape[1] + col + j) * n_out + k
                store(out, place, smaller(high, larger(low, sum_)))


@numba.njit(cache=True, nogil=True, forceinline=True)
def _finish_four(source: Floats, at: int, step: int, out: Floats, to: int, to_step: int) -> None:
    """Transform six numbers back to four, in each lane."""
    m1, m2 = load(source, at + step), load(source, at + 2 * step)
    m3, m4 = load(source, at + 3 * step), load(source, at + 4 * step)
    m0, m5 = load(source, at), load(source, at + 5 * step)
    sum_a, difference_a = add(m1, m2), subtract(m1, m2)
    sum_b, difference_b = add(m3, m4), subtract(m3, m4)
    store(out, to, add(add(m0, sum_a), sum_b))
    store(out, to + to_step,
          fma(splat(_A), difference_a, multiply(splat(_B), difference_b)))  # fmt: skip
    store(out, to + 2 * to_step,
          fma(splat(_AA), sum_a, multiply(splat(_BB), sum_b)))  # fmt: skip
    store(out, to + 3 * to_step,
          fma(splat(_A * _AA), difference_a, fma(splat(_B * _BB), difference_b, m5)))  # fmt: skip
