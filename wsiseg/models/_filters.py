"""Depthwise convolutions: one kernel for every size, and faster ones for the usual sizes."""

from __future__ import annotations

from collections.abc import Callable

import numba

from wsiseg.models._kernels import Floats
from wsiseg.models._vectors import fma, larger, load, smaller, splat, store

FilterKernel = Callable[[Floats, Floats, Floats, int, int, tuple[float, float], Floats], None]


@numba.njit(cache=True, nogil=True)
def filter_channels(
    window: Floats,
    weights: Floats,
    bias: Floats,
    side: int,
    stride: int,
    limits: tuple[float, float],
    out: Floats,
) -> None:
    """Convolve every channel with its own kernel.

    Parameters
    ----------
    window : ndarray, (rows, columns, channels), float32
        What the kernel covers, padding included.
    weights : ndarray, (side · side, channels), float32
        The kernels.
    bias : ndarray, (channels,), float32
        Added.
    side, stride : int
        Of the kernel.
    limits : tuple of float
        `low` and `high`.
    out : ndarray, (rows, columns, channels), float32
        Written.
    """
    n_rows, n_cols, channels = out.shape
    row_step, step = window.shape[1] * channels, stride * channels
    low, high = splat(limits[0]), splat(limits[1])
    for y in range(n_rows):
        for x in range(n_cols):
            for c in range(0, channels, 8):
                total = load(bias, c)
                for i in range(side):
                    at = (y * stride + i) * row_step + x * step + c
                    for j in range(side):
                        weight = load(weights, (i * side + j) * channels + c)
                        total = fma(load(window, at + j * channels), weight, total)
                place = (y * n_cols + x) * channels + c
                store(out, place, smaller(high, larger(low, total)))


def _kernel_of(SIDE: int, STRIDE: int) -> FilterKernel:  # noqa: N803
    """Return `filter_channels` for one size, which the compiler can then lay out flat.

    Four results are computed at once: each number of the window is read once for all four.
    """
    cover = 3 * STRIDE + SIDE

    @numba.njit(cache=True, nogil=True)
    def filter_fours(
        window: Floats,
        weights: Floats,
        bias: Floats,
        side: int,  # noqa: ARG001
        stride: int,  # noqa: ARG001
        limits: tuple[float, float],
        out: Floats,
    ) -> None:
        n_rows, n_cols, channels = out.shape
        row_step = window.shape[1] * channels
        low, high = splat(limits[0]), splat(limits[1])
        for y in range(n_rows):
            for x in range(0, n_cols, 4):
                # The last four may have been computed before, in part.
                left = min(x, n_cols - 4)
                top = y * STRIDE * row_step + left * STRIDE * channels
                place = (y * n_cols + left) * channels
                for c in range(0, channels, 8):
                    a0 = a1 = a2 = a3 = load(bias, c)
                    for i in range(SIDE):
                        at, w = top + i * row_step + c, i * SIDE * channels + c
                        for j in range(cover):
                            value = load(window, at + j * channels)
                            if j < SIDE:
                                a0 = fma(value, load(weights, w + j * channels), a0)
                            if 0 <= j - STRIDE < SIDE:
                                a1 = fma(value, load(weights, w + (j - STRIDE) * channels), a1)
                            if 0 <= j - 2 * STRIDE < SIDE:
                                a2 = fma(value, load(weights, w + (j - 2 * STRIDE) * channels), a2)
                            if 0 <= j - 3 * STRIDE < SIDE:
                                a3 = fma(value, load(weights, w + (j - 3 * STRIDE) * channels), a3)
                    store(out, place + c, smaller(high, larger(low, a0)))
                    store(out, place + channels + c, smaller(high, larger(low, a1)))
                    store(out, place + 2 * channels + c, smaller(high, larger(low, a2)))
                    store(out, place + 3 * channels + c, smaller(high, larger(low, a3)))

    kernel: FilterKernel = filter_fours
    return kernel


_FOURS = {(side, stride): _kernel_of(side, stride) for side in (3, 5) for stride in (1, 2)}


def fastest_filter(side: int, stride: int, n_cols: int) -> FilterKernel:
    """Return the fastest kernel that gives what `filter_channels` gives, to the last bit."""
    if n_cols < 4:
        return filter_channels
    return _FOURS.get((side, stride), filter_channels)
