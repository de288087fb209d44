"""Looking at a slide of which parts cannot be read: they are white."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import TileNotReadable
from wsiseg.geometry import Box
from wsiseg.slides.protocol import WHITE, Slide, SlideInfo

_LEAST_PX = 256
"""Boxes that cannot be read are tried again in quarters, down to this side."""


class WhiteWhereDamaged:
    """A slide for masks and pictures; what is counted is read from the slide itself.

    Parameters
    ----------
    slide : Slide
        Stays open, and the caller's to close.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self._damaged: dict[tuple[int, Box], None] = {}
        self._lock = threading.Lock()

    @property
    def info(self) -> SlideInfo:
        """What the file says about itself."""
        return self._slide.info

    @property
    def damaged(self) -> list[tuple[int, Box]]:
        """Level and box, in pixels of that level, of what could not be read so far."""
        with self._lock:
            return list(self._damaged)

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB, white where the file is damaged; else as `Slide.read_level`."""
        try:
            return self._slide.read_level(level, box)
        except TileNotReadable:
            if max(box.width_px, box.height_px) <= _LEAST_PX:
                with self._lock:
                    self._damaged[level, box] = None
                return np.full((box.height_px, box.width_px, 3), WHITE, np.uint8)
        pixels = np.empty((box.height_px, box.width_px, 3), np.uint8)
        side = max(_LEAST_PX, -(-max(box.width_px, box.height_px) // 2))
        for part in box.squares(side):
            pixels[part.slices_in(box)] = self.read_level(level, part)
        return pixels

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()

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
