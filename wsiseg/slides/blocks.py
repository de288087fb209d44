"""Slides that are decoded block by block, through a bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SlideNotReadable, TileNotReadable
from wsiseg.geometry import Box
from wsiseg.slides.protocol import Slide, SlideInfo, white_outside

CACHE_BYTES = 64 * 2**20
"""Decoded blocks kept per slide."""
BLOCK_PX = 512
"""Edge of a block where the file's own tiles do not suggest another."""

BlockKey = tuple[int, int, int]
"""Level, block row, block column."""


class BlockSource(Protocol):
    """What a library must do to become a slide; may be called from several threads."""

    def decode(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB on white; the box lies inside the level."""

    def close(self) -> None:
        """Let go of the file."""


def block_edge_px(tile_px: int | None) -> int:
    """Return a block edge near `BLOCK_PX` that holds whole tiles of the file, if it can."""
    if not tile_px or tile_px > 2 * BLOCK_PX:
        return BLOCK_PX
    return max(1, BLOCK_PX // tile_px) * tile_px


def tile_not_readable(name: str, level: int, box: Box, error: Exception) -> TileNotReadable:
    """Return the error that says which part of which slide could not be decoded."""
    return TileNotReadable(
        f"{name}: level {level} cannot be decoded in the box x {box.x_px} to {box.x_end_px}, "
        f"y {box.y_px} to {box.y_end_px} ({type(error).__name__}: {error}); the file is damaged "
        "there: copy or export it again, or skip unreadable tiles"
    )


class BlockCache:
    """The blocks used last, up to a number of bytes; each is decoded by one thread only."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._held_bytes = 0
        self._blocks: OrderedDict[BlockKey, NDArray[np.uint8]] = OrderedDict()
        self._under_way: dict[BlockKey, threading.Event] = {}
        self._lock = threading.Lock()

    def get(self, key: BlockKey, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return a block, decoding it if it is not held; whatever `decode` raises passes."""
        while True:
            with self._lock:
                block = self._blocks.get(key)
                if block is not None:
                    self._blocks.move_to_end(key)
                    return block
                others = self._under_way.get(key)
                if others is None:
                    mine = self._under_way[key] = threading.Event()
                    break
            # If the other thread fails, or its block is dropped at once, we try ourselves.
            others.wait()
        try:
            block = decode()
            self._keep(key, block)
            return block
        finally:
            with self._lock:
                del self._under_way[key]
            mine.set()

    def _keep(self, key: BlockKey, block: NDArray[np.uint8]) -> None:
        with self._lock:
            self._blocks[key] = block
            self._held_bytes += block.nbytes
            while self._held_bytes > self._capacity_bytes:
                _, dropped = self._blocks.popitem(last=False)
                self._held_bytes -= dropped.nbytes

    def clear(self) -> None:
        """Drop everything held."""
        with self._lock:
            self._blocks.clear()
            self._held_bytes = 0


class BlockSlide:
    """A slide that reads a level in fixed, aligned blocks and puts any box together.

    A block is always decoded by the same call, so a pixel never depends on the box it
    was asked for with, even where a library interpolates.
    """

    def __init__(
        self,
        info: SlideInfo,
        source: BlockSource,
        block_px: tuple[tuple[int, int], ...],
        reopen: Callable[[Path], Slide],
        path: Path,
    ) -> None:
        """Wrap a source.

        Parameters
        ----------
        info
            About the slide.
        source
            Decodes blocks.
        block_px
            Width and height of a block, per level.
        reopen
            Importable function that opens the slide again in another process.
        path
            Its argument.
        """
        self._info = info
        self._source = source
        self._block_px = block_px
        self._reopen = reopen
        self._path = path
        self._cache = BlockCache(CACHE_BYTES)
        self._closed = False

    @property
    def info(self) -> SlideInfo:
        """What the file says about itself."""
        return self._info

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB; see `Slide.read_level`."""
        if self._closed:
            raise SlideNotReadable(f"{self._info.name} is closed; open it again to read it")
        return white_outside(
            self._info.level(level), box, lambda inside: self._put_together(level, inside)
        )

    def _put_together(self, level: int, box: Box) -> NDArray[np.uint8]:
        width, height = self._block_px[level]
        pixels = np.empty((box.height_px, box.width_px, 3), np.uint8)
        for row in range(box.y_px // height, -(-box.y_end_px // height)):
            for col in range(box.x_px // width, -(-box.x_end_px // width)):
                block = Box(col * width, row * height, width, height)
                block = block.intersection(self._info.levels[level].box)
                part = box.intersection(block)
                decoded = self._block(level, row, col, block)
                pixels[part.slices_in(box)] = decoded[part.slices_in(block)]
        return pixels

    def _block(self, level: int, row: int, col: int, box: Box) -> NDArray[np.uint8]:
        return self._cache.get((level, row, col), lambda: self._source.decode(level, box))

    def close(self) -> None:
        """Let go of the file and of the decoded blocks."""
        self._closed = True
        self._source.close()
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Path], Slide], tuple[Path]]:
        return self._reopen, (self._path,)
