"""Tiles full of nuclei, as many as wanted, for measurements without slide or network.

Ellipses, one in each square of a grid; they repeat only after some tiles, which is too far for
compression to see.  What a tile sees is shifted by a fraction of a pixel, differently in
neighbours, so that their versions of a nucleus at the seam differ a little and some change sides:
as those of a real network do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.records import Instances, Tile
from wsiseg.stitch import TileInstances, select_instances

CORE_PX = 1024
MARGIN_PX = 224
PERIOD = 8
"""Tiles after which the nuclei repeat, both ways."""
_SHIFT_PX = 0.7
"""Farthest that a tile sees a nucleus from its place, along each axis."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Nuclei in one tile core."""

    n_across: int = 39
    """Nuclei along an edge of the core: 39 give 1,521 of about 390 px, 55 give 3,025 of 190."""
    n_classes: int = 5
    """Classes to draw from."""
    seed: int = 0
    """Of the pattern."""


def tiles_of_nuclei(n_rows: int, n_cols: int, pattern: Pattern) -> Iterator[TileInstances]:
    """Yield what each tile of a grid hands over, in (row, col) order.

    The `PERIOD`² tiles that differ are made before the first is yielded.
    """
    seen = seen_tiles(pattern)
    for row in range(n_rows):
        for col in range(n_cols):
            tile, like = grid_tile(row, col), grid_tile(row % PERIOD, col % PERIOD)
            down, right = tile.core.y_px - like.core.y_px, tile.core.x_px - like.core.x_px
            found = seen[row % PERIOD][col % PERIOD]
            yield TileInstances(tile, _moved(found.instances, down, right), found.spare)


@lru_cache(maxsize=2)
def seen_tiles(pattern: Pattern) -> list[list[TileInstances]]:
    """Return what the tiles of one period hand over."""
    return [
        [_seen_by(grid_tile(row, col), pattern) for col in range(PERIOD)] for row in range(PERIOD)
    ]


def grid_tile(row: int, col: int) -> Tile:
    """Return a tile of the grid."""
    core = Box(col * CORE_PX, row * CORE_PX, CORE_PX, CORE_PX)
    return Tile(row, col, core, core.grown(MARGIN_PX))


def _moved(instances: Instances, down_px: int, right_px: int) -> Instances:
    offset = np.array([down_px, right_px, right_px], np.int32)
    return Instances(
        first_run=instances.first_run,
        runs=instances.runs + offset,
        area_px=instances.area_px,
        row_sum=instances.row_sum + down_px * instances.area_px,
        col_sum=instances.col_sum + right_px * instances.area_px,
        class_index=instances.class_index,
        class_prob=instances.class_prob,
        nucleus_prob=instances.nucleus_prob,
        cut=instances.cut,
    )


def _seen_by(tile: Tile, pattern: Pattern) -> TileInstances:
    """Return what a tile sees: its core and two rows of squares around it."""
    n_across = pattern.n_across
    square_px = CORE_PX / n_across
    place = np.arange(-2, n_across + 2)
    row, col = (axis.ravel() for axis in np.meshgrid(place, place, indexing="ij"))
    draw = np.empty((len(row), 5))
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            here = (row // n_across == down) & (col // n_across == right)
            core = (tile.row + down) % PERIOD, (tile.col + right) % PERIOD
            nuclei = np.random.default_rng([pattern.seed, *core]).random((n_across**2, 5))
            draw[here] = nuclei[(row % n_across * n_across + col % n_across)[here]]
    shift = np.random.default_rng([pattern.seed, tile.row, tile.col, 1]).random(2)
    # Squares are centred on the core's corner; instances count from the outer box.
    centre = np.stack([row, col]).T * square_px + MARGIN_PX + (shift * 2 - 1) * _SHIFT_PX
    long_px = (square_px / 2 - 0.5) * (0.9 + 0.1 * draw[:, 0])
    instances = _ellipses(centre, long_px, long_px * (0.7 + 0.3 * draw[:, 1]), np.pi * draw[:, 2])
    n = len(row)
    index = (draw[:, 3] * pattern.n_classes).astype(np.uint8)
    prob = (0.5 + draw[:, 4] / 2).astype(np.float32)
    told = Instances(*instances, index, prob, prob[::-1].copy(), np.zeros(n, np.bool_))
    return select_instances(told, tile, 16)


def _ellipses(
    centre: NDArray[np.float64],
    long_px: NDArray[np.float64],
    short_px: NDArray[np.float64],
    angle_rad: NDArray[np.float64],
) -> tuple[
    NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]
]:
    """Return first_run, runs, area and sums of the pixels with centres in the ellipses."""
    reach = int(np.ceil(long_px.max())) + 1
    rows = np.floor(centre[:, :1]).astype(np.int64) + np.arange(-reach, reach + 1)
    y = rows + 0.5 - centre[:, :1]
    sin, cos = np.sin(angle_rad)[:, None], np.cos(angle_rad)[:, None]
    across, down = 1 / long_px[:, None] ** 2, 1 / short_px[:, None] ** 2
    a = cos**2 * across + sin**2 * down
    b = 2 * sin * cos * (across - down) * y
    c = (sin**2 * across + cos**2 * down) * y**2 - 1
    under = b**2 - 4 * a * c
    half = np.sqrt(np.maximum(under, 0)) / (2 * a)
    middle = centre[:, 1:] - b / (2 * a)
    start = np.ceil(middle - half - 0.5).astype(np.int64)
    stop = np.floor(middle + half - 0.5).astype(np.int64) + 1
    full = (under > 0) & (stop > start)
    n = np.where(full, stop - start, 0)
    runs = np.stack([rows[full], start[full], stop[full]], axis=1).astype(np.int32)
    first_run = np.concatenate([[0], np.cumsum(full.sum(axis=1))])
    row_sum = (n * rows).sum(axis=1)
    col_sum = (n * (start + stop - 1) // 2).sum(axis=1)
    return first_run, runs, n.sum(axis=1), row_sum, col_sum
