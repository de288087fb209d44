"""What every reader delivers: a slide, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

WHITE = 255
"""Grey value of everything outside a slide."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of the pyramid."""

    downsample: float
    """Level-0 pixels per pixel of this level."""
    width_px: int
    """Columns."""
    height_px: int
    """Rows."""

    @property
    def box(self) -> Box:
        """The whole level, in its own pixels."""
        return Box(0, 0, self.width_px, self.height_px)


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What a file says about itself; nothing in it is guessed."""

    name: str
    """File name with suffix, without folders."""
    reader: str
    """Name of the plug-in that reads it."""
    width_px: int
    """Columns of level 0."""
    height_px: int
    """Rows of level 0."""
    levels: tuple[Level, ...]
    """Finest first; level 0 has downsample 1."""
    mpp_x: float | None
    """µm per level-0 column; None if the file does not say."""
    mpp_y: float | None
    """µm per level-0 row; None if the file does not say."""
    objective_power: float | None
    """Magnification of the objective; None if the file does not say."""
    vendor: str | None
    """Format family, such as `aperio`."""
    bounds: Box
    """Scanned area in level-0 pixels; the whole slide if the file names none."""
    fingerprint: str
    """SHA-256 (hex) of the content; the same wherever the file lies."""

    def __post_init__(self) -> None:
        base = Level(1.0, self.width_px, self.height_px)
        if not self.levels or self.levels[0] != base:
            raise ValueError(
                f"{self.name}: levels {self.levels}; the first must be {base}, the whole slide"
            )
        steps = [level.downsample for level in self.levels]
        if steps != sorted(steps):
            raise ValueError(f"{self.name}: downsamples {steps}; finest first is needed")

    def level(self, index: int) -> Level:
        """Return one level.

        Raises
        ------
        ValueError
            If the slide has no such level.
        """
        if not 0 <= index < len(self.levels):
            raise ValueError(
                f"{self.name}: level {index} was asked for; "
                f"there are the levels 0 to {len(self.levels) - 1}"
            )
        return self.levels[index]


class Slide(Protocol):
    """An open slide.

    It can be pickled (it opens itself again in the other process) and used from several
    threads.  `wsiseg.testing.slides.SlideContract` checks all of this for a new reader.
    """

    @property
    def info(self) -> SlideInfo:
        """What the file says about itself."""

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return pixels of one level.

        Parameters
        ----------
        level
            0 is the finest.
        box
            In pixels of that level; may reach, or lie, outside the slide.

        Returns
        -------
        NDArray[np.uint8]
            (height, width, 3) RGB; white outside the slide and where it is transparent.

        Raises
        ------
        ValueError
            If there is no such level.
        TileNotReadable
            If the file is damaged there.
        """

    def close(self) -> None:
        """Let go of the file; reading afterwards raises SlideNotReadable."""

    def __enter__(self) -> Self:
        """Return the slide; leaving the block closes it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Close the slide."""


def white_outside(
    level: Level, box: Box, read_inside: Callable[[Box], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Return the box of a level, asking the reader only for pixels inside the level.

    Libraries disagree about pixels outside a slide (black, transparent, white, a short
    array, an exception); this is the one place that decides.

    Parameters
    ----------
    level
        The level that is read.
    box
        In pixels of that level.
    read_inside
        Returns (h, w, 3) RGB of a non-empty box inside the level.
    """
    inside = box.intersection(level.box)
    if inside == box and box.area_px:
        return read_inside(box)
    pixels = np.full((box.height_px, box.width_px, 3), WHITE, np.uint8)
    if inside.area_px:
        pixels[inside.slices_in(box)] = read_inside(inside)
    return pixels


def bounds_on(whole: Box, named: Box | None) -> Box:
    """Return the scanned area a file names, as far as it lies on the slide.

    Parameters
    ----------
    whole
        The whole slide.
    named
        What the file says; None: nothing.  An area without pixels counts as nothing.
    """
    inside = whole if named is None else named.intersection(whole)
    return inside if inside.area_px else whole


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay an (h, w, 4) image with straight alpha on white; return (h, w, 3)."""
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    if bool((alpha == 255).all()):
        # Several times as fast as copying the first three of four channels.
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    opacity = alpha.astype(np.int32)
    laid = rgb.astype(np.int32) * opacity + WHITE * (255 - opacity)
    return ((laid + 127) // 255).astype(np.uint8)


def premultiplied_on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay an (h, w, 4) image whose colours are multiplied by alpha on white."""
    laid = rgba[..., :3].astype(np.int32) + (255 - rgba[..., 3:].astype(np.int32))
    within: NDArray[np.int32] = np.minimum(laid, WHITE)
    return within.astype(np.uint8)
