"""Which squares of a slide a seam check looks at, and where its seams are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, Frame
from wsiseg.records import Tile
from wsiseg.tiles import AreaMask, TileGrid

_ENOUGH_TISSUE = 0.25
"""Squares with at least this share of what counts are taken first."""
_TRIES = 32
"""Places looked at for each square wanted."""


def choose_squares(
    counted: AreaMask, frame: Frame, tiles: Sequence[Tile], n: int, side_px: int, seed: int
) -> tuple[Box, ...]:
    """Choose squares within tissue, half of them in the middle of seams.

    Parameters
    ----------
    counted : AreaMask
        Tissue, within the regions of interest.
    frame : Frame
        The model frame; squares do not reach outside it.
    tiles : sequence of Tile
        Those that ran; a seam is where two of them meet.
    n : int
        How many, at most; fewer where there is no room.
    side_px : int
        Their side in model pixels.
    seed : int
        Equal seeds choose equal squares.

    Returns
    -------
    tuple of Box
        Disjoint, in model pixels; empty without tissue.
    """
    rng = np.random.default_rng(seed)
    seams = list(_seam_places(tiles, rng, n * _TRIES))
    anywhere = list(_tissue_places(counted, rng, n * _TRIES))
    chosen: list[Box] = []
    # The second round takes what the first had no room for, or not enough tissue.
    for share, wanted, places in (
        (_ENOUGH_TISSUE, -(-n // 2), seams),
        (_ENOUGH_TISSUE, n, anywhere),
        (_ENOUGH_TISSUE, n, seams),
        (0.0, n, anywhere),
    ):
        for x_px, y_px in places:
            if len(chosen) >= wanted:
                break
            box = _placed(x_px, y_px, side_px, frame)
            apart = not any(box.intersection(other).area_px for other in chosen)
            if apart and _tissue_share(counted, box) > share:
                chosen.append(box)
    return tuple(chosen)


def _seam_places(
    tiles: Sequence[Tile], rng: np.random.Generator, n: int
) -> Iterator[tuple[int, int]]:
    """Yield crossings of four tiles and places where two meet, in random order."""
    ran = {(tile.row, tile.col) for tile in tiles}
    places = []
    for tile in tiles:
        left, above = (tile.row, tile.col - 1) in ran, (tile.row - 1, tile.col) in ran
        along = int(rng.integers(tile.core.width_px))
        if left and above and (tile.row - 1, tile.col - 1) in ran:
            places.append((tile.core.x_px, tile.core.y_px))
        if left:
            places.append((tile.core.x_px, tile.core.y_px + along))
        if above:
            places.append((tile.core.x_px + along, tile.core.y_px))
    for index in rng.permutation(len(places))[:n]:
        yield places[index]


def _tissue_places(
    counted: AreaMask, rng: np.random.Generator, n: int
) -> Iterator[tuple[int, int]]:
    """Yield the middles of mask pixels that count, in random order."""
    inside = np.flatnonzero(counted.inside)
    for index in rng.permutation(inside)[:n]:
        row, col = divmod(int(index), counted.inside.shape[1])
        yield (2 * col + 1) * counted.factor // 2, (2 * row + 1) * counted.factor // 2


def _placed(x_px: int, y_px: int, side_px: int, frame: Frame) -> Box:
    """Return the square around a place, moved into the frame; smaller only if that is."""
    left = max(0, min(x_px - side_px // 2, frame.width_px - side_px))
    top = max(0, min(y_px - side_px // 2, frame.height_px - side_px))
    return Box(left, top, side_px, side_px).intersection(frame.box)


def _tissue_share(counted: AreaMask, box: Box) -> float:
    """Return the share of a box's mask pixels that count; those at its edge count whole."""
    f = counted.factor
    part = counted.inside[
        box.y_px // f : -(-box.y_end_px // f), box.x_px // f : -(-box.x_end_px // f)
    ]
    return float(part.mean()) if part.size else 0.0


def seam_distance_px(
    grid: TileGrid, x_px: NDArray[np.float64], y_px: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far points are from the nearest line between two cores of a grid.

    Parameters
    ----------
    grid : TileGrid
        Lines at or beyond the slide's edge are none.
    x_px, y_px : ndarray
        (n,) in model pixels.

    Returns
    -------
    ndarray
        (n,); infinite where a grid has one tile only.
    """
    found = np.full(len(x_px), np.inf)
    for position, size_px in ((x_px, grid.frame.width_px), (y_px, grid.frame.height_px)):
        lines = np.array(seam_lines(grid, size_px), np.float64)
        if len(lines):
            after = np.searchsorted(lines, position)
            for near in (lines[np.maximum(after - 1, 0)], lines[np.minimum(after, len(lines) - 1)]):
                found = np.minimum(found, np.abs(position - near))
    return found


def seam_lines(grid: TileGrid, size_px: int) -> range:
    """Return where, along one side of the slide, two cores of a grid meet."""
    first = grid.core_px - grid.offset_px
    return range(first, size_px, grid.core_px)


def ran_there(
    grid: TileGrid, tiles: Sequence[Tile], x_px: NDArray[np.float64], y_px: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which points lie in the core of a tile that ran."""
    ran = np.zeros((grid.n_rows, grid.n_cols), np.bool_)
    for tile in tiles:
        ran[tile.row, tile.col] = True
    row, col = (
        np.floor((position + grid.offset_px) / grid.core_px).astype(np.int64)
        for position in (y_px, x_px)
    )
    there: NDArray[np.bool_] = ran[row, col]
    return there


def in_boxes(
    boxes: Sequence[Box], x_px: NDArray[np.float64], y_px: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which points lie in some box: left and top edge included, right and bottom not."""
    inside = np.zeros(len(x_px), np.bool_)
    for box in boxes:
        inside |= (
            (x_px >= box.x_px) & (x_px < box.x_end_px) & (y_px >= box.y_px) & (y_px < box.y_end_px)
        )
    return inside
