"""The rule of `stitch` for nuclei at hand: who is kept, and which pixels they keep."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg._run_overlaps import (
    components,
    concatenated,
    count_px,
    gathered_runs,
    largest_part,
    overlapping_pairs,
    subtract_runs,
)
from wsiseg.records import Instances, Tile


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Instances of several tiles, in slide-wide model pixels, with what the rule asks of each."""

    instances: Instances
    box: NDArray[np.int32]
    """(n, 4): first row, first column, row after the last, column after the last."""
    tile_row: NDArray[np.int32]
    """(n,)."""
    tile_col: NDArray[np.int32]
    """(n,)."""
    depth_px: NDArray[np.int32]
    """(n,): smallest gap between the box and the tile's outer box."""
    spare: NDArray[np.bool_]
    """(n,): centroid outside the tile's core."""

    def __len__(self) -> int:
        return len(self.spare)


NOTHING = Found(
    instances=concatenated([]),
    box=np.empty((0, 4), np.int32),
    tile_row=np.empty(0, np.int32),
    tile_col=np.empty(0, np.int32),
    depth_px=np.empty(0, np.int32),
    spare=np.empty(0, np.bool_),
)


@dataclass(frozen=True, slots=True, eq=False)
class Fate:
    """What becomes of each of n instances."""

    kept: NDArray[np.bool_]
    """(n,): no other is kept in its place."""
    placed: NDArray[np.bool_]
    """(n,): kept, and enough of it is left."""
    clipped: NDArray[np.bool_]
    """(n,): placed, and lost pixels to another one."""
    begin: NDArray[np.int64]
    """(n,): first of its runs, counted through those of the instances and then `extra`."""
    end: NDArray[np.int64]
    """(n,): the run after its last."""
    extra: NDArray[np.int32]
    """(m, 3): the runs of clipped masks."""


def check_pixels(instances: Instances, tile: Tile) -> None:
    """Raise ValueError if an instance has no pixels."""
    if len(instances) and min(instances.area_px.min(), np.diff(instances.first_run).min()) < 1:
        raise ValueError(
            f"tile row {tile.row}, column {tile.col} has an instance without pixels; "
            "hand over only instances of 1 px or more"
        )


def found_in(instances: Instances, tile: Tile, spare: NDArray[np.bool_]) -> Found:
    """Return a tile's instances with their boxes and depths.

    Raises
    ------
    ValueError
        If an instance has no pixels, or some outside the tile's outer box.
    """
    check_pixels(instances, tile)
    n, outer = len(instances), tile.outer
    box = np.empty((n, 4), np.int32)
    if n:
        first, last = instances.first_run[:-1], instances.first_run[1:] - 1
        box[:, 0] = instances.runs[first, 0]
        box[:, 1] = np.minimum.reduceat(instances.runs[:, 1], first)
        box[:, 2] = instances.runs[last, 0] + 1
        box[:, 3] = np.maximum.reduceat(instances.runs[:, 2], first)
    start = np.array([outer.y_px, outer.x_px], np.int32)
    stop = np.array([outer.y_end_px, outer.x_end_px], np.int32)
    depth_px = np.concatenate((box[:, :2] - start, stop - box[:, 2:]), axis=1).min(axis=1)
    if n and depth_px.min() < 0:
        raise ValueError(
            f"tile row {tile.row}, column {tile.col} has an instance outside {outer}; "
            "coordinates must be slide-wide model pixels, as select_instances returns them"
        )
    rows, cols = np.full(n, tile.row, np.int32), np.full(n, tile.col, np.int32)
    return Found(instances, box, rows, cols, depth_px, spare)


def joined(parts: list[Found]) -> Found:
    """Return the instances of all parts in turn; at least one part."""
    return Found(
        concatenated([part.instances for part in parts]),
        np.concatenate([part.box for part in parts]),
        np.concatenate([part.tile_row for part in parts]),
        np.concatenate([part.tile_col for part in parts]),
        np.concatenate([part.depth_px for part in parts]),
        np.concatenate([part.spare for part in parts]),
    )


def taken(found: Found, index: NDArray[np.int64]) -> Found:
    """Return some of the instances, in the order of `index`."""
    return Found(
        found.instances.taken(index),
        found.box[index],
        found.tile_row[index],
        found.tile_col[index],
        found.depth_px[index],
        found.spare[index],
    )


def new_pairs(found: Found, n_known: int) -> NDArray[np.int64]:
    """Return the pairs with common pixels as (m, 3): index, index, common pixels.

    Pairs among the first `n_known` are left out, and those of one tile, which is disjoint.
    """
    tile = found.tile_row.astype(np.int64) << 32 | found.tile_col
    instances = found.instances
    pairs: NDArray[np.int64] = overlapping_pairs(
        found.box, tile, instances.first_run, instances.runs, n_known
    )
    return pairs


def can_meet_later(found: Found, pairs: NDArray[np.int64], later_top_px: int) -> NDArray[np.bool_]:
    """Return which instances hang together with one that reaches below `later_top_px`."""
    group = components(len(found), pairs)
    reaches = np.zeros(len(found), np.bool_)
    reaches[group[found.box[:, 2] > later_top_px]] = True
    return reaches[group]


def place_keys(instances: Instances) -> tuple[NDArray[np.generic], ...]:
    """Return sort keys for (centroid row, centroid column, first pixel), the first foremost.

    A mean is split into a whole part and a fraction: as float64 alone, means of large masks
    far from the origin could be equal without being so.
    """
    row, row_rest = np.divmod(instances.row_sum, instances.area_px)
    col, col_rest = np.divmod(instances.col_sum, instances.area_px)
    first = instances.runs[instances.first_run[:-1]]
    return (
        row,
        row_rest / instances.area_px,
        col,
        col_rest / instances.area_px,
        first[:, 0],
        first[:, 1],
    )


def resolve(found: Found, pairs: NDArray[np.int64], min_area_px: int) -> Fate:
    """Decide who is kept and who keeps which pixels.

    Parameters
    ----------
    found
        The instances.
    pairs
        (m, 3): all pairs with common pixels among those to be decided.  What is in no pair
        stays as it is.
    min_area_px
        Clipped masks with fewer pixels are dropped.
    """
    instances = found.instances
    order = _by_priority(found, np.unique(pairs[:, :2]))
    first, neighbour, shared = _neighbours(len(found), pairs)
    kept = _decide(order, first, neighbour, shared, instances.area_px, found.spare)
    begin, end, extra = _clip(
        order, kept, first, neighbour, instances.first_run, instances.runs, max(1, min_area_px)
    )
    placed = kept & (end > begin)
    clipped = end > len(instances.runs)
    return Fate(kept, placed, clipped, begin, end, extra)


def cells_of(found: Found, fate: Fate, index: NDArray[np.int64]) -> Instances:
    """Return the final masks of some placed instances."""
    old = found.instances
    first_run, runs = gathered_runs(old.runs, fate.extra, fate.begin[index], fate.end[index])
    sums = np.stack((old.area_px[index], old.row_sum[index], old.col_sum[index]))
    at = np.flatnonzero(fate.clipped[index])
    if len(at):
        first, left = gathered_runs(
            old.runs, fate.extra, fate.begin[index[at]], fate.end[index[at]]
        )
        row, start, stop = left.astype(np.int64).T
        n = stop - start
        of_run = np.stack((n, n * row, n * (start + stop - 1) // 2))
        sums[:, at] = np.add.reduceat(of_run, first[:-1], axis=1)
    area_px, row_sum, col_sum = sums
    return Instances(
        first_run=first_run,
        runs=runs,
        area_px=area_px,
        row_sum=row_sum,
        col_sum=col_sum,
        class_index=old.class_index[index],
        class_prob=old.class_prob[index],
        nucleus_prob=old.nucleus_prob[index],
        cut=old.cut[index],
        # Of the whole mask, also where it has lost pixels: those are gone.
        measured=old.measured[index],
    )


def _by_priority(found: Found, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index sorted: own before spare, then by the priority of the rule."""
    keys = (
        found.spare[index],
        found.instances.cut[index],
        -found.depth_px[index],
        found.tile_row[index],
        found.tile_col[index],
        *place_keys(found.instances.taken(index)),
    )
    return index[np.lexsort(keys[::-1])]


def _neighbours(
    n: int, pairs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (first, neighbour, shared): i's are those from `first[i]` to `first[i + 1]`."""
    one = np.concatenate((pairs[:, 0], pairs[:, 1]))
    other = np.concatenate((pairs[:, 1], pairs[:, 0]))
    order = np.argsort(one, kind="stable")
    first = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(one, minlength=n), out=first[1:])
    return first, other[order], np.concatenate((pairs[:, 2], pairs[:, 2]))[order]


@numba.njit(cache=True, nogil=True)
def _decide(
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    shared: NDArray[np.int64],
    area_px: NDArray[np.int64],
    spare: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return who is kept, of those in `order` (own first); the others all are."""
    kept = np.ones(len(area_px), np.bool_)
    kept[order] = False
    for i in order:
        kept[i] = True
        for q in range(first[i], first[i + 1]):
            j = neighbour[q]
            # An own nucleus meets only kept own ones here: spares have their turn later.
            smaller = area_px[i] if spare[i] else min(area_px[i], area_px[j])
            if kept[j] and 2 * shared[q] > smaller:
                kept[i] = False
                break
    return kept


@numba.njit(cache=True, nogil=True)
def _clip(
    order: NDArray[np.int64],
    kept: NDArray[np.bool_],
    first: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    first_run: NDArray[np.int64],
    runs: NDArray[np.int32],
    min_area_px: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Let the kept take their pixels in order.

    Returns
    -------
    begin, end
        (n,): each one's runs, counted through `runs` and then `extra`; 0, 0 if dropped.
    extra
        (m, 3): runs of the clipped.
    """
    begin, end = first_run[:-1].copy(), first_run[1:].copy()
    placed = np.zeros(len(begin), np.bool_)
    base, n_extra = len(runs), 0
    extra = np.empty((1024, 3), np.int32)
    for i in order:
        if not kept[i]:
            continue
        placed[i] = True
        whole = left = runs[begin[i] : end[i]]
        for q in range(first[i], first[i + 1]):
            j = neighbour[q]
            if placed[j] and end[j] > base:
                left = subtract_runs(left, extra[begin[j] - base : end[j] - base])
            elif placed[j]:
                left = subtract_runs(left, runs[begin[j] : end[j]])
        if count_px(left) == count_px(whole):
            continue
        left = largest_part(left)
        begin[i] = end[i] = 0
        if count_px(left) >= min_area_px:
            while n_extra + len(left) > len(extra):
                extra = np.concatenate((extra, np.empty_like(extra)))
            extra[n_extra : n_extra + len(left)] = left
            begin[i], end[i] = base + n_extra, base + n_extra + len(left)
            n_extra += len(left)
    return begin, end, extra[:n_extra]
