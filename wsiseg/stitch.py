"""One set of disjoint nuclei from overlapping tiles, by a fixed rule, two tile rows at a time.

Every tile hands over its `own` nuclei (centroid in its core) and `spare` ones (centroid a few
pixels outside).  The rule, for all of them together:

1. Priority: not cut by the tile's outer edge before cut; then deeper inside the tile (the
   smallest gap between the bounding boxes of nucleus and tile); then by tile row, tile column,
   centroid row, centroid column, first pixel.
2. Own nuclei in that order are kept, unless one shares more than half of the smaller one's
   pixels with an own nucleus already kept.
3. Then spares in that order are kept, unless a single nucleus already kept covers more than
   half of it.
4. In the order they were kept, nuclei take their pixels.  One that finds pixels taken keeps
   the largest 4-connected part of the others (of equals the first in raster order) and gives
   the rest back; below `min_area_px` it is dropped and gives all back.
5. Ids are 1, 2, … by (tile row, tile column, centroid row, centroid column, first pixel) of
   the final masks.

Each decision depends only on nuclei connected through common pixels.  So what cannot reach a
later tile row is settled at once, and the result does not depend on when that happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg._run_overlaps import concatenated
from wsiseg._seams import (
    NOTHING,
    Found,
    can_meet_later,
    cells_of,
    check_pixels,
    found_in,
    joined,
    new_pairs,
    place_keys,
    resolve,
    taken,
)
from wsiseg.errors import UsageError
from wsiseg.records import Cells, Instances, Tile

_NO_LATER_ROW = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class StitchOptions:
    """Constants of the rule."""

    spare_px: int = 16
    """How far outside the core the centroid of a spare nucleus may be."""
    min_area_px: int = 10
    """What is left of a clipped nucleus must have as many pixels."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise UsageError(f"{field.name} is {value}; give 0 or more")


@dataclass(frozen=True, slots=True, eq=False)
class TileInstances:
    """What one tile hands over to be stitched."""

    tile: Tile
    """Where it was found."""
    instances: Instances
    """Own and spare nuclei in slide-wide model pixels; those of one tile must be disjoint."""
    spare: NDArray[np.bool_]
    """(n,): centroid outside the tile's core."""

    def __post_init__(self) -> None:
        if self.spare.shape != (len(self.instances),) or self.spare.dtype != np.bool_:
            raise ValueError(
                f"spare is {self.spare.dtype} of shape {self.spare.shape}; "
                f"bool of shape ({len(self.instances)},) is needed"
            )


@dataclass(frozen=True, slots=True)
class StitchCounts:
    """What became of the nuclei of some tiles.

    There are `own - own_dropped + spare_used - slivers_dropped` cells.
    """

    own: int = 0
    """Own nuclei handed over."""
    spare: int = 0
    """Spare nuclei handed over."""
    own_dropped: int = 0
    """Own nuclei left out because another tile's was kept in their place."""
    spare_used: int = 0
    """Spare nuclei kept because no tile's own was in their place."""
    clipped: int = 0
    """Cells that lost pixels to another one."""
    slivers_dropped: int = 0
    """Nuclei kept at first of which too little was left."""
    cut: int = 0
    """Cells flagged `cut`: larger than the margin, so part of them may be missing."""

    def __add__(self, other: StitchCounts) -> StitchCounts:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return StitchCounts(**sums)


@dataclass(frozen=True, slots=True, eq=False)
class StitchedBand:
    """The cells that the tiles of one tile row delivered."""

    cells: Cells
    """In slide-wide model pixels; ids continue from band to band."""
    counts: StitchCounts
    """Of the nuclei of these tiles."""


def select_instances(instances: Instances, tile: Tile, spare_px: int) -> TileInstances:
    """Keep the instances a tile answers for, and those it can lend.

    Parameters
    ----------
    instances
        Of one tile, in model pixels from the top-left corner of `tile.outer`.
    tile
        The tile.
    spare_px
        An instance whose centroid is at most so far outside the core is a spare.

    Returns
    -------
    TileInstances
        In slide-wide model pixels, in the given order.  `own`: the centroid is in the core,
        left and top edge included, right and bottom edge not, decided in whole numbers.

    Raises
    ------
    ValueError
        If an instance has no pixels.
    """
    check_pixels(instances, tile)
    area, core = instances.area_px, tile.core
    row_sum = instances.row_sum + area * tile.outer.y_px
    col_sum = instances.col_sum + area * tile.outer.x_px
    # 2 × area × centroid, where centroid = sum / area + ½ in pixel-corner coordinates
    y, x, unit = 2 * row_sum + area, 2 * col_sum + area, 2 * area
    own = (y >= core.y_px * unit) & (y < core.y_end_px * unit)
    own &= (x >= core.x_px * unit) & (x < core.x_end_px * unit)
    near = core.grown(spare_px)
    lent = (y >= near.y_px * unit) & (y <= near.y_end_px * unit)
    lent &= (x >= near.x_px * unit) & (x <= near.x_end_px * unit)
    index = np.flatnonzero(own | lent)
    offset = np.array([tile.outer.y_px, tile.outer.x_px, tile.outer.x_px], np.int32)
    handed = instances.taken(index)
    moved = replace(
        handed, runs=handed.runs + offset, row_sum=row_sum[index], col_sum=col_sum[index]
    )
    return TileInstances(tile, moved, ~own[index])


def stitch(tiles: Iterable[TileInstances], options: StitchOptions) -> Iterator[StitchedBand]:
    """Settle the seams between tiles.

    Only the nuclei of the row of tiles at hand are in memory, with those of the rows before
    that may still meet it or hang together with one that may.

    Parameters
    ----------
    tiles
        In (row, col) order.  Tiles without tissue may be left out; tiles of one row have the
        same top, and those of later rows do not begin higher.
    options
        Constants of the rule.

    Yields
    ------
    StitchedBand
        One for each row that has tiles, in order, as soon as it is settled: as a rule when
        the next row is complete, that is, when the first tile after it has been taken.

    Raises
    ------
    ValueError
        If tiles are out of order or not of one grid, or an instance has no pixels or some
        outside its tile's outer box.
    """
    waiting, pairs = NOTHING, np.empty((0, 3), np.int64)
    rows: list[int] = []
    done: dict[int, list[_Settled]] = {}
    next_id = 1
    for row, delivered, later_top_px in _by_row(tiles):
        rows.append(row)
        n_waiting = len(waiting)
        delivered.insert(0, waiting)
        waiting, pairs, settled = _settled_and_waiting(
            delivered, n_waiting, pairs, later_top_px, options
        )
        for part in settled:
            done.setdefault(part.tile_row, []).append(part)
        del settled
        first_open = int(waiting.tile_row.min()) if len(waiting) else _NO_LATER_ROW
        while rows and rows[0] < first_open:
            band = _band(rows[0], done.pop(rows.pop(0), []), next_id)
            next_id += len(band.cells)
            yield band
            # Not to be kept while the next row comes.
            del band


@dataclass(frozen=True, slots=True, eq=False)
class _Settled:
    """Final nuclei of one tile row, perhaps not all of them yet, in no order."""

    tile_row: int
    instances: Instances
    tile_col: NDArray[np.int32]
    counts: StitchCounts


def _settled_and_waiting(
    parts: list[Found],
    n_waiting: int,
    pairs: NDArray[np.int64],
    later_top_px: int,
    options: StitchOptions,
) -> tuple[Found, NDArray[np.int64], list[_Settled]]:
    """Return who still waits, their pairs, and what becomes of the others.

    The list of parts, the first `n_waiting` instances with their `pairs` and the new ones, is
    emptied, so that they are in memory only once.
    """
    found = joined(parts)
    parts.clear()
    pairs = np.concatenate((pairs, new_pairs(found, n_waiting)))
    waits = can_meet_later(found, pairs, later_top_px)
    pair_waits = waits[pairs[:, 0]]
    settled = list(_settle(found, ~waits, pairs[~pair_waits], options))
    waiting = taken(found, np.flatnonzero(waits))
    return waiting, _renumbered(pairs[pair_waits], waits), settled


def _check_order(before: Tile, tile: Tile) -> None:
    """Raise ValueError unless `tile` may follow `before`."""
    step = f"tile (row {before.row}, column {before.col}) came before ({tile.row}, {tile.col})"
    if (tile.row, tile.col) <= (before.row, before.col):
        raise ValueError(f"{step}; sort the tiles by (row, column), each once")
    drop_px = tile.outer.y_px - before.outer.y_px
    if drop_px < 0 or (drop_px and tile.row == before.row):
        raise ValueError(
            f"{step} and their tops are at y = {before.outer.y_px} and {tile.outer.y_px} px; "
            "tiles of one regular grid are needed"
        )


def _by_row(tiles: Iterable[TileInstances]) -> Iterator[tuple[int, list[Found], int]]:
    """Yield each row that has tiles, its instances, and the top of all later rows."""
    last: Tile | None = None
    delivered: list[Found] = []
    for given in tiles:
        if last is not None:
            _check_order(last, given.tile)
            if given.tile.row != last.row:
                yield last.row, delivered, given.tile.outer.y_px
                delivered = []
        delivered.append(found_in(given.instances, given.tile, given.spare))
        last = given.tile
    if last is not None:
        yield last.row, delivered, _NO_LATER_ROW


def _settle(
    found: Found, settled: NDArray[np.bool_], pairs: NDArray[np.int64], options: StitchOptions
) -> Iterator[_Settled]:
    """Yield, by tile row, what becomes of the settled nuclei."""
    fate = resolve(found, pairs, options.min_area_px)
    for row in np.unique(found.tile_row[settled]):
        here = settled & (found.tile_row == row)
        own, spare = here & ~found.spare, here & found.spare
        last = np.flatnonzero(here & fate.placed)
        counts = StitchCounts(
            own=int(own.sum()),
            spare=int(spare.sum()),
            own_dropped=int((own & ~fate.kept).sum()),
            spare_used=int((spare & fate.kept).sum()),
            clipped=int((here & fate.clipped).sum()),
            slivers_dropped=int((here & fate.kept & ~fate.placed).sum()),
            cut=int(found.instances.cut[last].sum()),
        )
        yield _Settled(int(row), cells_of(found, fate, last), found.tile_col[last], counts)


def _renumbered(pairs: NDArray[np.int64], stays: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the pairs with the numbers their members have among those that stay."""
    number = np.cumsum(stays) - 1
    return np.column_stack((number[pairs[:, :2]], pairs[:, 2]))


def _band(row: int, parts: list[_Settled], first_id: int) -> StitchedBand:
    """Return the cells of one tile row in the order of their ids; the list is emptied."""
    counts = sum((part.counts for part in parts), StitchCounts())
    instances = concatenated([part.instances for part in parts])
    tile_col = np.concatenate([np.empty(0, np.int32), *(part.tile_col for part in parts)])
    parts.clear()
    order = np.lexsort((*reversed(place_keys(instances)), tile_col))
    n = len(order)
    cells = Cells(
        instances.taken(order),
        np.arange(first_id, first_id + n, dtype=np.int64),
        np.full(n, row, np.int32),
        tile_col[order],
    )
    return StitchedBand(cells, counts)
