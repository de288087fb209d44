"""A slide that ends the process which reads a certain place of it, as a broken library does."""

from __future__ import annotations

import os
import signal

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.testing.slides import ArraySlide


class CrashingSlide(ArraySlide):
    """An array whose copies in other processes kill them where one pixel is read.

    In the process that made it, it can be read; so it can be planned there.
    """

    def __init__(
        self, rgb: NDArray[np.uint8], mpp: float, crash_px: tuple[int, int], name: str
    ) -> None:
        """Make a slide.

        Parameters
        ----------
        rgb
            (h, w, 3): level 0.
        mpp
            µm per level-0 pixel.
        crash_px
            Column and row of the pixel not to be read.
        name
            Its file name.
        """
        super().__init__(rgb, mpp, name=name)
        self._crash = Box(*crash_px, 1, 1)
        self._maker = os.getpid()

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB, unless this is the end."""
        if os.getpid() != self._maker and box.intersection(self._crash).area_px:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_level(level, box)
