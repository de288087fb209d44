"""Small tiles to stitch, and the comparison with the slow twin."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import slow_stitch as slow
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.records import Instances, Tile
from wsiseg.stitch import StitchedBand, StitchOptions, TileInstances, select_instances, stitch

Labels = NDArray[np.int32]
Rectangle = tuple[int, int, int, int]
"""First row, first column, row after the last, column after the last."""


def instances_of(labels: Labels) -> Instances:
    """Return the labels of an image in rising order; what touches its edge is `cut`."""
    framed = np.pad(labels, 1)
    row, col = np.nonzero(framed[:, 1:] != framed[:, :-1])
    value = framed[row, col + 1]
    begins = np.flatnonzero(value)
    # what begins ends at the next change, at the latest at the frame
    runs = np.column_stack((row[begins] - 1, col[begins], col[begins + 1])).astype(np.int32)
    runs = runs[np.argsort(value[begins], kind="stable")]
    names, n_runs = np.unique(value[begins], return_counts=True)
    y, x = np.nonzero(labels)
    area, row_sum, col_sum = np.zeros((3, len(names)), np.int64)
    of_pixel = np.searchsorted(names, labels[y, x])
    for sums, weight in ((area, 1), (row_sum, y), (col_sum, x)):
        np.add.at(sums, of_pixel, weight)
    rim = np.zeros(labels.shape, bool)
    rim[[0, -1]] = rim[:, [0, -1]] = True
    return Instances(
        first_run=np.concatenate(([0], np.cumsum(n_runs))).astype(np.int64),
        runs=runs,
        area_px=area,
        row_sum=row_sum,
        col_sum=col_sum,
        class_index=(names % 5).astype(np.uint8),
        class_prob=(names % 7 / 7).astype(np.float32),
        nucleus_prob=(names % 11 / 11).astype(np.float32),
        cut=np.isin(names, labels[rim]),
        measured=np.stack((names % 5, names % 7 / 7, names % 11 / 11), axis=1).astype(np.float32),
    )


OPTIONS = StitchOptions()
NO_RUNS = np.empty((0, 3), np.int32)


def grid_tile(row: int, col: int, core_px: int, margin_px: int, origin_px: int = 0) -> Tile:
    core = Box(origin_px + col * core_px, origin_px + row * core_px, core_px, core_px)
    return Tile(row, col, core, core.grown(margin_px))


def check_same(tiles: list[TileInstances], options: StitchOptions) -> list[StitchedBand]:
    """Compare with the slow twin, bit for bit, and return the bands."""
    bands = list(stitch(iter(tiles), options))
    cells, counts = slow.slow_stitch(tiles, options)
    assert [band.counts for band in bands] == [counts[row] for row in sorted(counts)]
    ids = [i for band in bands for i in band.cells.cell_id.tolist()]
    assert ids == list(range(1, len(cells) + 1))
    got = [(band.cells, i) for band in bands for i in range(len(band.cells))]
    for (band_cells, i), cell in zip(got, cells, strict=True):
        masks = band_cells.instances
        assert slow.pixels_of(masks, i) == cell.final
        assert (band_cells.tile_row[i], band_cells.tile_col[i]) == (cell.tile.row, cell.tile.col)
        assert masks.area_px[i] == len(cell.final)
        assert masks.row_sum[i] == sum(y for y, _ in cell.final)
        assert masks.col_sum[i] == sum(x for _, x in cell.final)
        said = masks.class_index[i], masks.class_prob[i], masks.nucleus_prob[i]
        assert said == cell.said
        # What a tile measured stays with its nucleus, also where that loses pixels.
        assert tuple(masks.measured[i]) == said
        assert masks.cut[i] == cell.cut
        runs = masks.runs[masks.first_run[i] : masks.first_run[i + 1]].tolist()
        assert all(start < stop for _, start, stop in runs)
        # ordered, disjoint and maximal: a gap between runs of one row
        assert all(a[0] < b[0] or (a[0] == b[0] and a[2] < b[1]) for a, b in pairwise(runs))
    for band in bands:
        n = band.counts
        assert len(band.cells) == n.own - n.own_dropped + n.spare_used - n.slivers_dropped
    return bands


def handed(
    tile: Tile,
    rectangles: list[Rectangle],
    spare: tuple[int, ...] = (),
    cut: tuple[int, ...] = (),
) -> TileInstances:
    """Return slide-wide rectangles; `spare` and `cut` number those that are."""
    labels = np.zeros((tile.outer.height_px, tile.outer.width_px), np.int32)
    y, x = tile.outer.y_px, tile.outer.x_px
    for i, (top, left, bottom, right) in enumerate(rectangles):
        labels[top - y : bottom - y, left - x : right - x] = i + 1
    seen = select_instances(instances_of(labels), tile, 1000)
    numbers = np.arange(len(rectangles))
    moved = replace(seen.instances, cut=np.isin(numbers, cut))
    return TileInstances(tile, moved, np.isin(numbers, spare))


LEFT, RIGHT = grid_tile(0, 0, 20, 10), grid_tile(0, 1, 20, 10)


def boxes_after(
    *tiles: TileInstances, options: StitchOptions = OPTIONS
) -> list[tuple[int, Rectangle, int]]:
    """Return (tile column, bounding box, area) of the cells, after comparing with the twin."""
    found = []
    for band in check_same(list(tiles), options):
        for i, col in enumerate(band.cells.tile_col.tolist()):
            pixels = slow.pixels_of(band.cells.instances, i)
            ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
            found.append((col, (min(ys), min(xs), max(ys) + 1, max(xs) + 1), len(pixels)))
    return found
