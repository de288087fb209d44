"""The layers of a trained network, each a function from a stream of rows to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsiseg.models._bands import BAND, Floats, Kernel, Stream, windows
from wsiseg.models._filters import fastest_filter
from wsiseg.models._kernels import (
    double_rows,
    gather_patches,
    multiply_rows,
    pack_panels,
)
from wsiseg.models._vectors import padded
from wsiseg.models._winograd import (
    PRODUCTS,
    TILE,
    TILES_AT_ONCE,
    convolve_rows,
    transform_weights,
)

Limits = tuple[float, float]
NO_LIMITS: Limits = (-np.inf, np.inf)
RELU: Limits = (0.0, np.inf)
RELU6: Limits = (0.0, 6.0)


@dataclass(frozen=True, slots=True)
class Mix:
    """A 1×1 convolution: a pixel's channels times a matrix."""

    weights: Floats
    """(panels, channels, 16), of `pack_panels`."""
    bias: Floats
    """(n_out,)."""
    limits: Limits
    """Clamp results."""

    def __call__(self, stream: Stream, added: Iterator[Floats] | None = None) -> Stream:
        """Return the results; bands of `added`, if there are any, are added before clamping."""
        n_out = len(self.bias)
        return Stream(stream.height, stream.width, n_out, self._bands(stream, added))

    def _bands(self, stream: Stream, added: Iterator[Floats] | None) -> Iterator[Floats]:
        n_out = len(self.bias)
        buffer = np.empty((BAND, stream.width, n_out), np.float32)
        more, step = np.zeros(n_out, np.float32), 0
        for band in stream.bands:
            out = buffer[: len(band)]
            if added is not None:
                more, step = next(added).reshape(-1), n_out
            n = len(band) * stream.width
            multiply_rows(band, 0, n, self.weights, 0, self.bias, more, step, self.limits, out, 0)
            yield out


@dataclass(frozen=True, slots=True)
class Convolve:
    """A 3×3 convolution with a border of zeros."""

    weights: Floats
    """(36, panels, channels, 16)."""
    bias: Floats
    """(n_out,)."""
    limits: Limits
    """Clamp results."""
    offset: int
    """How far before the first pixel its tiles begin."""

    def __call__(self, stream: Stream) -> Stream:
        """Return the results."""
        return Stream(stream.height, stream.width, len(self.bias), self._bands(stream))

    def _bands(self, stream: Stream) -> Iterator[Floats]:
        n_out = len(self.bias)
        zeros = np.zeros(n_out, np.float32)
        scratch = (
            np.empty((PRODUCTS, TILES_AT_ONCE, stream.channels), np.float32),
            np.empty((PRODUCTS, TILES_AT_ONCE, n_out), np.float32),
            np.empty((PRODUCTS, 8), np.float32),
        )
        buffer = np.empty((BAND, stream.width, n_out), np.float32)
        rows, cols = (
            -(-(side + self.offset) // TILE) * TILE for side in (stream.height, stream.width)
        )
        kernel = Kernel(3, above=1 + self.offset, left=1 + self.offset)
        start = -self.offset
        for window in windows(stream, kernel, rows, cols + 2, BAND):
            first, end = max(start, 0), min(start + BAND, stream.height)
            out = buffer[: end - first]
            convolve_rows(
                window, self.weights, self.bias, zeros, self.limits, scratch,
                (first - start, self.offset), out,
            )  # fmt: skip
            start += BAND
            yield out


@dataclass(frozen=True, slots=True)
class Filter:
    """A depthwise convolution with a border of zeros."""

    weights: Floats
    """(side · side, channels)."""
    bias: Floats
    """(channels,)."""
    limits: Limits
    """Clamp results."""
    side: int
    """Of the kernel."""
    stride: int
    """1 or 2."""
    padding: int | None
    """On every side; None: as little as needed, and the odd one below and right."""

    def __call__(self, stream: Stream) -> Stream:
        """Return the results."""
        height, width = (
            _n_results(n, self.side, self.stride, self.padding)
            for n in (stream.height, stream.width)
        )
        return Stream(height, width, stream.channels, self._bands(stream, height, width))

    def _bands(self, stream: Stream, height: int, width: int) -> Iterator[Floats]:
        before = _before(stream.height, self.side, self.stride, self.padding)
        kernel = Kernel(self.side, self.stride, before, before)
        columns = (width - 1) * self.stride + self.side
        run = fastest_filter(self.side, self.stride, width)
        buffer = np.empty((BAND, width, stream.channels), np.float32)
        row = 0
        for window in windows(stream, kernel, height, columns, BAND):
            out = buffer[: min(BAND, height - row)]
            run(window, self.weights, self.bias, self.side, self.stride, self.limits, out)
            row += BAND
            yield out


@dataclass(frozen=True, slots=True)
class Stem:
    """The first convolution, on the bytes of an image."""

    mix: Mix
    """Of a patch's (row, column, colour)."""
    side: int
    """Of the kernel."""
    stride: int
    """Of the kernel."""
    padding: int | None
    """As in `Filter`."""
    scaled: Floats
    """(256,): what each byte stands for."""

    def __call__(self, rgb: NDArray[np.uint8]) -> Stream:
        """Return the results of an image, (h, w, 3)."""
        height, width = (_n_results(n, self.side, self.stride, self.padding) for n in rgb.shape[:2])
        patches = self._patches(rgb, height, width)
        return self.mix(Stream(height, width, self.side * self.side * 3, patches))

    def _patches(self, rgb: NDArray[np.uint8], height: int, width: int) -> Iterator[Floats]:
        before = _before(rgb.shape[0], self.side, self.stride, self.padding)
        buffer = np.empty((BAND, width, self.side * self.side * 3), np.float32)
        for row in range(0, height, BAND):
            out = buffer[: min(BAND, height - row)]
            gather_patches(rgb, self.scaled, row, self.side, self.stride, before, out)
            yield out


def doubled(stream: Stream) -> Stream:
    """Double height and width bilinearly."""

    def bands() -> Iterator[Floats]:
        buffer = np.empty((BAND, 2 * stream.width, stream.channels), np.float32)
        for window in windows_of_neighbours(stream):
            out = buffer[: 2 * (len(window) - 2)]
            double_rows(window, out)
            yield out

    return Stream(2 * stream.height, 2 * stream.width, stream.channels, bands())


def windows_of_neighbours(stream: Stream) -> Iterator[Floats]:
    """Yield half a band at a time with the row above and below; at the edge the same again."""
    kernel = Kernel(3, above=1)
    return windows(stream, kernel, stream.height, stream.width, BAND // 2, repeat=True)


def _n_results(n: int, side: int, stride: int, padding: int | None) -> int:
    return -(-n // stride) if padding is None else (n + 2 * padding - side) // stride + 1


def _before(n: int, side: int, stride: int, padding: int | None) -> int:
    if padding is not None:
        return padding
    return max((-(-n // stride) - 1) * stride + side - n, 0) // 2


def mix_of(convolution: nn.Conv2d, limits: Limits, n_in: int) -> Mix:
    """Return a 1×1 convolution as a layer that takes `n_in` channels, the last of them unused."""
    weights, bias = arrays_of(convolution)
    return mix_from(weights[:, :, 0, 0], bias, limits, n_in)


def mix_from(
    weights: NDArray[np.float64], bias: NDArray[np.float64], limits: Limits, n_in: int
) -> Mix:
    """Return a matrix (n_out, up to `n_in`) and a bias as a layer."""
    n_out = padded(len(bias))
    matrix = np.zeros((n_in, n_out))
    matrix[: weights.shape[1], : len(bias)] = weights.T
    return Mix(pack_panels(matrix.astype(np.float32)), _filled_up(bias), limits)


def convolve_from(
    weights: NDArray[np.float64], bias: NDArray[np.float64], n_in: int, offset: int
) -> Convolve:
    """Return 3×3 kernels (n_out, up to `n_in`, 3, 3), a bias and a ReLU as a layer."""
    kernels = np.zeros((padded(len(bias)), n_in, 3, 3))
    kernels[: len(bias), : weights.shape[1]] = weights
    panels = pack_panels(transform_weights(kernels).astype(np.float32))
    return Convolve(panels, _filled_up(bias), RELU, offset)


def filter_of(convolution: nn.Conv2d, limits: Limits, padding: int | None) -> Filter:
    """Return a depthwise convolution as a layer; its channels are a multiple of eight."""
    weights, bias = arrays_of(convolution)
    side, stride = weights.shape[2], int(convolution.stride[0])
    kernels = np.ascontiguousarray(weights.reshape(len(weights), -1).T, np.float32)
    return Filter(kernels, bias.astype(np.float32), limits, side, stride, padding)


def arrays_of(convolution: nn.Conv2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a convolution's weights and bias; zeros if it has none."""
    weights = _array(convolution.weight)
    bias = np.zeros(len(weights)) if convolution.bias is None else _array(convolution.bias)
    return weights, bias


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())


def _filled_up(bias: NDArray[np.float64]) -> Floats:
    filled = np.zeros(padded(len(bias)), np.float32)
    filled[: len(bias)] = bias
    return filled
