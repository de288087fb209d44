"""Boxes and frames: where pixels are.

All coordinates follow the pixel-corner convention: pixel (row i, column j) covers
[j, j+1) × [i, i+1), and its centre is (j + 0.5, i + 0.5).  Arrays are indexed (row, col);
boxes and points are (x, y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open rectangle of whole pixels in some frame; may reach outside the image."""

    x_px: int
    """Left edge."""
    y_px: int
    """Top edge."""
    width_px: int
    """Columns; not negative."""
    height_px: int
    """Rows; not negative."""

    def __post_init__(self) -> None:
        if self.width_px < 0 or self.height_px < 0:
            raise ValueError(f"a box cannot be {self.width_px} × {self.height_px} px")

    @property
    def x_end_px(self) -> int:
        """First column right of the box."""
        return self.x_px + self.width_px

    @property
    def y_end_px(self) -> int:
        """First row below the box."""
        return self.y_px + self.height_px

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return self.width_px * self.height_px

    def grown(self, margin_px: int) -> Box:
        """Return the box with a margin added (or, if negative, removed) on every side."""
        grow = 2 * margin_px
        return Box(
            self.x_px - margin_px,
            self.y_px - margin_px,
            max(0, self.width_px + grow),
            max(0, self.height_px + grow),
        )

    def intersection(self, other: Box) -> Box:
        """Return the common part; its area is 0 if there is none."""
        x = max(self.x_px, other.x_px)
        y = max(self.y_px, other.y_px)
        width = max(0, min(self.x_end_px, other.x_end_px) - x)
        height = max(0, min(self.y_end_px, other.y_end_px) - y)
        return Box(x, y, width, height)

    def slices_in(self, outer: Box) -> tuple[slice, slice]:
        """Return the (row, col) slices of this box in an array that covers `outer`."""
        rows = slice(self.y_px - outer.y_px, self.y_end_px - outer.y_px)
        return rows, slice(self.x_px - outer.x_px, self.x_end_px - outer.x_px)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The (row, col) slices of this box in an array that begins at (0, 0)."""
        return slice(self.y_px, self.y_end_px), slice(self.x_px, self.x_end_px)

    def squares(self, side_px: int) -> list[Box]:
        """Return the squares that tile this box, row by row; clipped at its right and bottom."""
        return [
            Box(x, y, side_px, side_px).intersection(self)
            for y in range(self.y_px, self.y_end_px, side_px)
            for x in range(self.x_px, self.x_end_px, side_px)
        ]


@dataclass(frozen=True, slots=True)
class Frame:
    """A virtual image of the whole slide at some scale, origin at the slide's (0, 0)."""

    scale: float
    """Level-0 pixels per pixel of this frame."""
    width_px: int
    """Columns, `ceil(level-0 width / scale)`."""
    height_px: int
    """Rows."""

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"a frame's scale must be positive; it is {self.scale}")

    @classmethod
    def of_slide(cls, width_px: int, height_px: int, scale: float) -> Frame:
        """Return the frame of that scale for a slide of that level-0 size."""
        return cls(scale, math.ceil(width_px / scale), math.ceil(height_px / scale))

    @property
    def box(self) -> Box:
        """The whole frame."""
        return Box(0, 0, self.width_px, self.height_px)

    def coarser(self, factor: int) -> Frame:
        """Return the frame with `factor` times larger pixels that covers this one."""
        return Frame(self.scale * factor, -(-self.width_px // factor), -(-self.height_px // factor))
