"""The global grid of tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, Frame
from wsiseg.records import Tile


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Square cores that cover a model frame, anchored at model pixel (0, 0)."""

    frame: Frame
    """The model frame."""
    core_px: int
    """Side of a core."""
    margin_px: int
    """Context on each side."""
    offset_px: int = 0
    """Moves the grid up and left; only seam checks use it.  A multiple of 32."""

    def __post_init__(self) -> None:
        if not 0 <= self.offset_px < self.core_px or self.offset_px % 32:
            raise ValueError(
                f"grid offset {self.offset_px} px; a multiple of 32 from 0 to below "
                f"{self.core_px} is needed"
            )

    @property
    def n_rows(self) -> int:
        """Rows of tiles."""
        return -(-(self.frame.height_px + self.offset_px) // self.core_px)

    @property
    def n_cols(self) -> int:
        """Columns of tiles."""
        return -(-(self.frame.width_px + self.offset_px) // self.core_px)

    def tile(self, row: int, col: int) -> Tile:
        """Return one tile."""
        core = Box(
            col * self.core_px - self.offset_px,
            row * self.core_px - self.offset_px,
            self.core_px,
            self.core_px,
        )
        return Tile(row, col, core, core.grown(self.margin_px))


@dataclass(frozen=True, slots=True, eq=False)
class AreaMask:
    """Which part of a slide counts, at a coarse scale."""

    frame: Frame
    """Frame of the mask; an integer factor coarser than the model frame."""
    factor: int
    """That factor."""
    inside: NDArray[np.bool_]
    """(frame.height_px, frame.width_px)."""

    def __post_init__(self) -> None:
        if self.inside.shape != (self.frame.height_px, self.frame.width_px):
            raise ValueError(
                f"mask of shape {self.inside.shape} for a frame of "
                f"{self.frame.height_px} × {self.frame.width_px} px"
            )


def plan_tiles(
    grid: TileGrid, area: AreaMask, near: NDArray[np.bool_] | None = None
) -> list[tuple[Tile, float]]:
    """Return the tiles to run and the share of each core that lies in the area.

    Parameters
    ----------
    grid : TileGrid
        All tiles.
    area : AreaMask
        Tissue.
    near : ndarray, (h, w), bool, optional
        Where, at the mask's scale, tiles may matter to a region of interest; None: everywhere.

    Returns
    -------
    list of (Tile, float)
        In (row, col) order; tiles without any of the area, or not near, are left out.
    """
    total = _summed(area.inside)
    total_near = total if near is None else _summed(near)
    planned = []
    for row in range(grid.n_rows):
        for col in range(grid.n_cols):
            tile = grid.tile(row, col)
            box = tile.core.intersection(grid.frame.box)
            inside, covered = _count(total, box, area.factor)
            if inside and _count(total_near, box, area.factor)[0]:
                planned.append((tile, inside / covered))
    return planned


def _summed(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return sums over all boxes that begin at the mask's corner."""
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(mask, 0, dtype=np.int64), 1, out=total[1:, 1:])
    return total


def _count(total: NDArray[np.int64], box: Box, factor: int) -> tuple[int, int]:
    """Return how many mask pixels under a box are set, and how many there are."""
    top, left = box.y_px // factor, box.x_px // factor
    bottom, right = -(-box.y_end_px // factor), -(-box.x_end_px // factor)
    inside = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return int(inside), (bottom - top) * (right - left)
