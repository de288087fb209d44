"""Feature maps as streams of rows: never more of one than the next layer needs is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BAND = 8
"""Rows of a band; an even number of tiles of a convolution."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A feature map that comes from top to bottom, once."""

    height: int
    width: int
    channels: int
    bands: Iterator[Floats]
    """(BAND, width, channels), float32; the last may be lower.  A band is valid until the next
    is asked for."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a layer looks at for one result."""

    side: int
    """Rows."""
    stride: int = 1
    """Rows from one result to the next."""
    above: int = 0
    """Rows above the first."""
    left: int = 0
    """Columns left of the first."""


def stream_of(features: Floats) -> Stream:
    """Return a feature map that is there, (h, w, channels), as a stream."""
    height, width, channels = features.shape
    bands = (features[row : row + BAND] for row in range(0, height, BAND))
    return Stream(height, width, channels, bands)


def kept(stream: Stream) -> tuple[Stream, Floats]:
    """Return the stream, and the array that holds whatever of it has come."""
    whole = np.empty((stream.height, stream.width, stream.channels), np.float32)

    def bands() -> Iterator[Floats]:
        row = 0
        for band in stream.bands:
            here = whole[row : row + len(band)]
            here[...] = band
            row += len(band)
            yield here

    return Stream(*whole.shape, bands()), whole


def collected(stream: Stream) -> Floats:
    """Return all of a stream."""
    stream, whole = kept(stream)
    for _ in stream.bands:
        pass
    return whole


def windows(
    stream: Stream, kernel: Kernel, n_rows: int, columns: int, band: int, repeat: bool = False
) -> Iterator[Floats]:
    """Yield what a kernel covers for one band of results after the other.

    Parameters
    ----------
    stream : Stream
        What it looks at.
    kernel : Kernel
        How it looks.
    n_rows : int
        Rows of results.
    columns : int
        Of a window; more if there are more in the stream.
    band : int
        Rows of results for each window; fewer for the last.
    repeat : bool
        Rows outside repeat the nearest inside; columns, and rows otherwise, are 0.

    Yields
    ------
    ndarray, (rows, columns, channels), float32
        Valid until the next is asked for.
    """
    columns = max(columns, kernel.left + stream.width)
    rows = (min(band, n_rows) - 1) * kernel.stride + kernel.side
    buffer = np.zeros((rows, columns, stream.channels), np.float32)
    inside = slice(kernel.left, kernel.left + stream.width)
    source = _Rows(stream.bands)
    filled = kernel.above
    for first in range(0, n_rows, band):
        n = min(band, n_rows - first)
        wanted = (n - 1) * kernel.stride + kernel.side
        while filled < wanted:
            part = source.take(wanted - filled)
            end = filled + len(part) if len(part) else wanted
            if len(part):
                buffer[filled:end, inside] = part
            else:
                buffer[filled:end] = buffer[filled - 1] if repeat else 0
            if repeat and first == 0 and filled == kernel.above:
                buffer[:filled] = buffer[filled]
            filled = end
        yield buffer[:wanted]
        used = min(n * kernel.stride, filled)
        buffer[: filled - used] = buffer[used:filled]
        filled -= used


class _Rows:
    """Bands, to be taken in other portions."""

    def __init__(self, bands: Iterator[Floats]) -> None:
        self._bands = bands
        self._rest: Floats | None = None

    def take(self, n: int) -> Floats:
        """Return up to `n` of the next rows; none at the end."""
        if self._rest is None or not len(self._rest):
            self._rest = next(self._bands, None)
        if self._rest is None:
            return np.empty((0, 0, 0), np.float32)
        part, self._rest = self._rest[:n], self._rest[n:]
        return part
