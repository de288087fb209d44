"""Stitching: equal to its slow twin, exact at edges, streaming, and every nucleus once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import slow_stitch as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from wsiseg._run_overlaps import largest_part, shared_px, subtract_runs
from wsiseg._seams import place_keys
from wsiseg.errors import UsageError
from wsiseg.geometry import Box
from wsiseg.records import Instances, Tile
from wsiseg.stitch import (
    StitchCounts,
    StitchedBand,
    StitchOptions,
    TileInstances,
    select_instances,
    stitch,
)

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
        assert masks.cut[i] == cell.cut
        runs = masks.runs[masks.first_run[i] : masks.first_run[i + 1]].tolist()
        assert all(start < stop for _, start, stop in runs)
        # ordered, disjoint and maximal: a gap between runs of one row
        assert all(a[0] < b[0] or (a[0] == b[0] and a[2] < b[1]) for a, b in pairwise(runs))
    for band in bands:
        n = band.counts
        assert len(band.cells) == n.own - n.own_dropped + n.spare_used - n.slivers_dropped
    return bands


@dataclass(frozen=True)
class Scene:
    """A random slide and what each of its tiles sees of it."""

    n_rows: int
    n_cols: int
    core_px: int
    margin_px: int
    spare_px: int
    min_area_px: int
    nuclei_per_core: int
    largest_px: int
    jitter_px: int
    missing: float
    origin_px: int
    seed: int

    def tiles(self) -> list[TileInstances]:
        random = np.random.default_rng(self.seed)
        n = self.n_rows * self.n_cols * self.nuclei_per_core
        size = np.array([self.n_rows, self.n_cols]) * self.core_px
        centre = self.origin_px + random.uniform(-2, size + 2, (n, 2))
        radius = random.uniform(1, self.largest_px, (n, 2)) ** random.choice([0.6, 1], (n, 1))
        round_ = random.random(n) < 0.7
        found = []
        for row in range(self.n_rows):
            for col in range(self.n_cols):
                tile = grid_tile(row, col, self.core_px, self.margin_px, self.origin_px)
                if random.random() < self.missing:
                    continue
                shift = random.integers(-self.jitter_px, self.jitter_px + 1, (n, 2))
                seen = np.flatnonzero(random.random(n) < 0.9)
                labels = drawn(tile, centre + shift, radius, round_, random.permutation(seen))
                found.append(select_instances(instances_of(labels), tile, self.spare_px))
        return found


def drawn(
    tile: Tile,
    centre: NDArray[np.float64],
    radius: NDArray[np.float64],
    round_: NDArray[np.bool_],
    order: NDArray[np.int64],
) -> Labels:
    """Paint ellipses and rectangles into a tile's outer box, the last on top."""
    outer = tile.outer
    y = np.arange(outer.y_px, outer.y_end_px)[:, None] + 0.5
    x = np.arange(outer.x_px, outer.x_end_px)[None, :] + 0.5
    labels = np.zeros((outer.height_px, outer.width_px), np.int32)
    for i in order:
        dy, dx = (y - centre[i, 0]) / radius[i, 0], (x - centre[i, 1]) / radius[i, 1]
        inside = dy**2 + dx**2 < 1 if round_[i] else (abs(dy) < 1) & (abs(dx) < 1)
        labels[inside] = i + 1
    return labels


scenes = st.builds(
    Scene,
    n_rows=st.integers(1, 4),
    n_cols=st.integers(1, 3),
    core_px=st.integers(4, 16),
    margin_px=st.integers(0, 10),
    spare_px=st.integers(0, 8),
    min_area_px=st.integers(0, 12),
    nuclei_per_core=st.integers(0, 5),
    largest_px=st.sampled_from([3, 6, 20]),
    jitter_px=st.integers(0, 3),
    missing=st.sampled_from([0.0, 0.3]),
    origin_px=st.sampled_from([0, -5, 1000]),
    seed=st.integers(0, 2**32 - 1),
)


@given(scenes)
@settings(max_examples=250, deadline=None)
def test_any_scene_equals_the_slow_twin(scene: Scene) -> None:
    check_same(scene.tiles(), StitchOptions(scene.spare_px, scene.min_area_px))


def test_scenes_meet_every_case() -> None:
    total = StitchCounts()
    for seed in range(12):
        tiles = Scene(4, 3, 10, 8, 4, 6, 4, 6, 2, 0.1, 0, seed).tiles()
        total = sum((band.counts for band in check_same(tiles, StitchOptions(4, 6))), total)
    assert min(total.own_dropped, total.spare_used, total.clipped, total.slivers_dropped) > 10
    assert total.cut > 10


def reordered(seen: TileInstances, order: NDArray[np.int64]) -> TileInstances:
    """Return the same instances in another order."""
    old = seen.instances
    pieces = [old.runs[old.first_run[i] : old.first_run[i + 1]] for i in order]
    new = Instances(
        first_run=np.cumsum([0, *map(len, pieces)]),
        runs=np.concatenate([NO_RUNS, *pieces]),
        area_px=old.area_px[order],
        row_sum=old.row_sum[order],
        col_sum=old.col_sum[order],
        class_index=old.class_index[order],
        class_prob=old.class_prob[order],
        nucleus_prob=old.nucleus_prob[order],
        cut=old.cut[order],
    )
    return TileInstances(seen.tile, new, seen.spare[order])


@given(scenes)
@settings(max_examples=20, deadline=None)
def test_the_order_inside_a_tile_does_not_matter(scene: Scene) -> None:
    tiles, options = scene.tiles(), StitchOptions(scene.spare_px, scene.min_area_px)
    random = np.random.default_rng(scene.seed)
    shuffled = [reordered(seen, random.permutation(len(seen.instances))) for seen in tiles]
    for a, b in zip(stitch(tiles, options), stitch(shuffled, options), strict=True):
        np.testing.assert_array_equal(a.cells.instances.runs, b.cells.instances.runs)
        np.testing.assert_array_equal(a.cells.tile_col, b.cells.tile_col)
        assert a.counts == b.counts


# One rule at a time, with rectangles


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


def test_two_own_deeper_one_is_kept() -> None:
    # gaps to the outer boxes (-10 to 30, 10 to 50): left 4, right 5
    cells = boxes_after(handed(LEFT, [(5, 16, 9, 26)]), handed(RIGHT, [(5, 15, 9, 25)]))
    assert cells == [(1, (5, 15, 9, 25), 40)]
    # gaps 5 and 4; the other way round
    cells = boxes_after(handed(LEFT, [(5, 15, 9, 25)]), handed(RIGHT, [(5, 14, 9, 24)]))
    assert cells == [(0, (5, 15, 9, 25), 40)]


def test_two_own_first_tile_wins_a_tie() -> None:
    cells = boxes_after(handed(LEFT, [(5, 15, 9, 25)]), handed(RIGHT, [(5, 15, 9, 25)]))
    assert cells == [(0, (5, 15, 9, 25), 40)]


def test_two_own_uncut_one_is_kept_even_if_less_deep() -> None:
    cells = boxes_after(handed(LEFT, [(5, 15, 9, 25)], cut=(0,)), handed(RIGHT, [(5, 14, 9, 24)]))
    assert cells == [(1, (5, 14, 9, 24), 40)]


def test_exactly_half_of_the_smaller_is_not_the_same_nucleus() -> None:
    left = handed(LEFT, [(5, 10, 9, 22)])
    # 4 × 4 shared of 4 × 8: both stay, the right one (gap 8, left 8: tie) loses what is shared
    assert boxes_after(left, handed(RIGHT, [(5, 18, 9, 26)])) == [
        (0, (5, 10, 9, 22), 48),
        (1, (5, 22, 9, 26), 16),
    ]
    # one column more: it is
    assert boxes_after(left, handed(RIGHT, [(5, 17, 9, 25)])) == [(0, (5, 10, 9, 22), 48)]


def test_a_spare_is_used_only_where_nothing_is() -> None:
    spare = handed(RIGHT, [(5, 14, 9, 22)], spare=(0,))
    assert boxes_after(handed(LEFT, []), spare) == [(1, (5, 14, 9, 22), 32)]
    # own ones come first, also the less deep
    assert boxes_after(handed(LEFT, [(5, 14, 9, 28)]), spare) == [(0, (5, 14, 9, 28), 56)]
    # half of it covered is not more than half
    assert boxes_after(handed(LEFT, [(5, 18, 9, 28)]), spare) == [
        (0, (5, 18, 9, 28), 40),
        (1, (5, 14, 9, 18), 16),
    ]
    # a small own inside does not cover it, however much of the own is shared
    assert boxes_after(handed(LEFT, [(5, 14, 9, 17)]), spare) == [
        (0, (5, 14, 9, 17), 12),
        (1, (5, 17, 9, 22), 20),
    ]


def test_the_loser_keeps_its_largest_part_or_of_equals_the_first() -> None:
    bar = handed(RIGHT, [(0, 14, 20, 18)], cut=(0,))
    assert boxes_after(handed(LEFT, [(5, 2, 9, 20)]), bar) == [
        (0, (5, 2, 9, 20), 72),
        (1, (9, 14, 20, 18), 44),
    ]
    assert boxes_after(handed(LEFT, [(8, 2, 12, 20)]), bar) == [
        (0, (8, 2, 12, 20), 72),
        (1, (0, 14, 8, 18), 32),
    ]


def test_slivers_are_dropped_and_small_whole_nuclei_are_not() -> None:
    left, right = handed(LEFT, [(5, 6, 9, 18)]), handed(RIGHT, [(5, 16, 9, 20), (0, 40, 1, 43)])
    first, small = (0, (5, 6, 9, 18), 48), (1, (0, 40, 1, 43), 3)
    assert boxes_after(left, right, options=StitchOptions(min_area_px=9)) == [first, small]
    sliver = (1, (5, 18, 9, 20), 8)
    assert boxes_after(left, right, options=StitchOptions(min_area_px=8)) == [first, small, sliver]


def test_nothing_left_is_dropped_whatever_the_least_area() -> None:
    halves = handed(LEFT, [(5, 6, 9, 18), (5, 18, 9, 20)])
    between = handed(RIGHT, [(5, 16, 9, 20)])
    assert [box[0] for box in boxes_after(halves, between, options=StitchOptions(16, 0))] == [0, 0]


def test_what_the_loser_gives_back_goes_to_the_next() -> None:
    # The first parts the bar; the bar's lower part, given back, is free for the spare.
    first, spare = (4, 2, 8, 20), (10, 16, 13, 22)
    bar = handed(RIGHT, [(-6, 14, 12, 18)], cut=(0,))
    last = handed(grid_tile(1, 0, 20, 10), [spare], spare=(0,))
    assert boxes_after(handed(LEFT, [first]), bar, last) == [
        (0, first, 72),
        (1, (-6, 14, 4, 18), 40),
        (0, spare, 18),
    ]
    # So is all of it if too little is left.
    assert boxes_after(handed(LEFT, [first]), bar, last, options=StitchOptions(16, 41)) == [
        (0, first, 72),
        (0, spare, 18),
    ]


# Which tile answers


@pytest.mark.parametrize(
    ("left", "right", "kind"),
    [
        (8, 10, "spare"),  # centroid 9
        (9, 11, "own"),  # 10, the core's left edge
        (18, 20, "own"),  # 19
        (18, 21, "own"),  # 19½
        (19, 21, "spare"),  # 20, the core's right edge
        (22, 24, "spare"),  # 23, 3 px outside
        (22, 25, "dropped"),  # 23½
        (6, 8, "spare"),  # 7, 3 px outside
        (5, 8, "dropped"),  # 6½
    ],
)
@pytest.mark.parametrize("across", [False, True])
def test_the_centroid_decides_half_open(left: int, right: int, kind: str, across: bool) -> None:
    tile = Tile(0, 0, Box(10, 10, 10, 10), Box(0, 0, 30, 30))
    labels = np.zeros((30, 30), np.int32)
    labels[14, left:right] = 1
    seen = select_instances(instances_of(labels.T.copy() if across else labels), tile, 3)
    assert seen.spare.tolist() == {"own": [False], "spare": [True], "dropped": []}[kind]


@given(
    arrays(np.int32, (12, 14), elements=st.integers(0, 6)),
    st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_selection_equals_exact_fractions(
    labels: Labels, corner: tuple[int, int], spare_px: int
) -> None:
    y, x = corner
    tile = Tile(0, 0, Box(x + 4, y + 3, 6, 6), Box(x, y, 14, 12))
    seen = select_instances(instances_of(labels), tile, spare_px)
    expected = []
    for name in sorted(set(labels[labels > 0].tolist())):
        pixels = frozenset((int(r) + y, int(c) + x) for r, c in np.argwhere(labels == name))
        row, col = slow.centroid_of(pixels)
        out = max(x + 4 - col, col - x - 10, y + 3 - row, row - y - 9)
        own = x + 4 <= col < x + 10 and y + 3 <= row < y + 9
        if own or out <= spare_px:
            expected.append((pixels, not own))
    handed_over = [slow.pixels_of(seen.instances, i) for i in range(len(seen.instances))]
    assert list(zip(handed_over, seen.spare.tolist(), strict=True)) == expected
    masks = seen.instances
    assert masks.row_sum.tolist() == [sum(r for r, _ in pixels) for pixels, _ in expected]
    assert masks.col_sum.tolist() == [sum(c for _, c in pixels) for pixels, _ in expected]


# Streams


def test_no_tiles_empty_tiles_and_empty_rows() -> None:
    assert list(stitch([], OPTIONS)) == []
    seen = [
        handed(grid_tile(0, 0, 20, 10), []),
        handed(grid_tile(2, 1, 20, 10), [(45, 25, 50, 30)]),
        handed(grid_tile(3, 0, 20, 10), []),
        handed(grid_tile(7, 5, 20, 10), [(150, 110, 155, 115)]),
    ]
    bands = check_same(seen, OPTIONS)
    assert [band.cells.cell_id.tolist() for band in bands] == [[], [1], [], [2]]


def test_bands_come_as_soon_as_they_are_settled() -> None:
    asked: list[int] = []

    def tiles(margin_px: int) -> Iterator[TileInstances]:
        for row in range(6):
            tile = grid_tile(row, 0, 20, margin_px)
            asked.append(row)
            low = tile.core.y_end_px - 3
            yield handed(tile, [(low, 5, low + 3, 10)])

    for margin_px, ahead in ((2, 2), (0, 1)):
        asked.clear()
        bands = stitch(tiles(margin_px), OPTIONS)
        next(bands)
        assert asked == list(range(ahead + 1))
        assert len(list(bands)) == 5


def test_a_chain_over_all_rows_waits_for_its_end() -> None:
    chain = [handed(grid_tile(r, 0, 20, 10), [(20 * r - 8, 3, 20 * r + 28, 9)]) for r in range(6)]
    assert [len(band.cells) for band in check_same(chain, OPTIONS)] == [1] * 6
    below = [
        handed(grid_tile(r, 0, 20, 10), [(20 * r - 9 + r, 3, 20 * r + 22 + r, 9)]) for r in range(6)
    ]
    check_same(below, OPTIONS)


def peak_bytes(n_rows: int) -> int:
    """Return the most memory it takes to stitch so many rows of tiles made on the fly."""
    bars = [(4 * i, 2, 4 * i + 2, 28) for i in range(-2, 7)]

    def tiles() -> Iterator[TileInstances]:
        for row in range(n_rows):
            for col in range(3):
                y, x = 20 * row, 20 * col - 5
                seen = [(a + y, b + x, c + y, d + x) for a, b, c, d in bars]
                yield handed(grid_tile(row, col, 20, 10), seen)

    tracemalloc.start()
    n_cells = sum(len(band.cells) for band in stitch(tiles(), OPTIONS))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_cells > n_rows
    return peak


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    peak_bytes(3)
    assert peak_bytes(60) < 1.2 * peak_bytes(6)


# Local decoding: what every tile sees alike is there once


def cropped(labels: Labels, tile: Tile) -> TileInstances:
    """Return what a tile of an image sees if nothing but its outer edge changes anything."""
    outer = tile.outer
    pad = max(outer.width_px, outer.height_px)
    rows, cols = outer.slices_in(Box(-pad, -pad, 0, 0))
    return select_instances(instances_of(np.pad(labels, pad)[rows, cols].copy()), tile, 16)


def masks_after(labels: Labels, core_px: int, margin_px: int, origin_px: int) -> list[bytes]:
    """Return the sorted masks from a grid of tiles over an image."""
    n = [-(-(size - origin_px) // core_px) for size in labels.shape]
    tiles = [
        cropped(labels, grid_tile(row, col, core_px, margin_px, origin_px))
        for row in range(n[0])
        for col in range(n[1])
    ]
    masks = []
    for band in stitch(tiles, OPTIONS):
        cells = band.cells.instances
        masks += [cells.runs[a:b].tobytes() for a, b in pairwise(cells.first_run.tolist())]
        assert band.counts.clipped == band.counts.cut == 0
    return sorted(masks)


def check_once(labels: Labels, core_px: int, margin_px: int) -> None:
    whole = masks_after(labels, max(labels.shape), margin_px, 0)
    assert len(whole) == len(np.unique(labels)) - 1 > 50
    assert masks_after(labels, core_px, margin_px, 0) == whole
    assert masks_after(labels, core_px, margin_px, -core_px // 2) == whole


def test_every_nucleus_once_whatever_the_grid() -> None:
    random = np.random.default_rng(1)
    scene = Tile(0, 0, Box(0, 0, 300, 260), Box(0, 0, 300, 260))
    n = 250
    centre, radius = random.uniform(0, (260, 300), (n, 2)), random.uniform(2, 9, (n, 2))
    labels = drawn(scene, centre, radius, random.random(n) < 0.8, np.arange(n))
    check_once(labels, 64, 40)


# Real nuclei


def real_labels(shared: Path, name: str) -> Labels:
    folder = shared / "data" / name / "inst"
    with Image.open(min(folder.glob("*.png"))) as image:
        return np.asarray(image).astype(np.int32)


@pytest.mark.real
@pytest.mark.parametrize("name", ["consep_train", "monuseg_train"])
def test_every_real_nucleus_once(shared: Path, name: str) -> None:
    check_once(real_labels(shared, name), 256, 192)


@pytest.mark.real
def test_real_nuclei_seen_differently_equal_the_slow_twin(shared: Path) -> None:
    labels = real_labels(shared, "consep_train")[300:560, 400:660]
    seen = []
    random = np.random.default_rng(3)
    for row in range(3):
        for col in range(3):
            tile = grid_tile(row, col, 96, 14)
            moved = np.roll(labels, random.integers(-4, 5, 2), (0, 1))
            grown = np.where(moved > 0, moved, np.roll(moved, 2, random.integers(2)))
            seen.append(cropped(np.where(random.random(labels.shape) < 0.98, grown, 0), tile))
    counts = sum((band.counts for band in check_same(seen, OPTIONS)), StitchCounts())
    assert min(counts.own_dropped, counts.clipped, counts.cut) > 0


# Refusals


def test_tiles_out_of_order_or_off_the_grid_are_refused() -> None:
    a, b, below = (handed(grid_tile(*at, 20, 10), []) for at in ((0, 0), (0, 1), (1, 0)))
    for wrong in ([b, a], [a, a], [below, b]):
        with pytest.raises(ValueError, match="sort the tiles"):
            list(stitch(wrong, OPTIONS))
    shifted = handed(grid_tile(0, 1, 20, 10, 3), [])
    higher = handed(Tile(1, 0, Box(0, 0, 20, 20), Box(-20, -20, 60, 60)), [])
    for wrong in ([a, shifted], [a, higher]):
        with pytest.raises(ValueError, match="one regular grid"):
            list(stitch(wrong, OPTIONS))


def test_instances_that_cannot_be_are_refused() -> None:
    seen = handed(RIGHT, [(5, 15, 9, 25)])
    with pytest.raises(ValueError, match="outside"):
        list(stitch([TileInstances(grid_tile(5, 0, 20, 10), seen.instances, seen.spare)], OPTIONS))
    nothing = replace(seen.instances, first_run=np.zeros(2, np.int64), runs=NO_RUNS)
    with pytest.raises(ValueError, match="without pixels"):
        select_instances(nothing, RIGHT, 16)
    with pytest.raises(ValueError, match="without pixels"):
        list(stitch([TileInstances(RIGHT, nothing, np.zeros(1, np.bool_))], OPTIONS))
    with pytest.raises(ValueError, match="spare is"):
        TileInstances(RIGHT, seen.instances, np.zeros(2, np.bool_))
    with pytest.raises(UsageError, match="spare_px is -1"):
        StitchOptions(spare_px=-1)


# Arithmetic on runs


masks = arrays(np.bool_, (6, 9))


@given(masks, masks)
@settings(max_examples=200, deadline=None)
def test_runs_behave_as_sets_of_pixels(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    one, other = (instances_of(mask.astype(np.int32)).runs for mask in (a, b))
    assert shared_px(one, other) == (a & b).sum()
    left = instances_of((a & ~b).astype(np.int32)).runs
    np.testing.assert_array_equal(subtract_runs(one, other), left)
    part = np.zeros_like(a)
    for pixel in slow.largest_part(frozenset((y, x) for y, x in np.argwhere(a).tolist())):
        part[pixel] = True
    np.testing.assert_array_equal(largest_part(one), instances_of(part.astype(np.int32)).runs)


def test_means_that_float64_cannot_tell_apart_are_told_apart() -> None:
    areas = (1 << 22) - 1, (1 << 22) - 3
    rest = pow(areas[1], -1, areas[0])
    rests = rest, (rest * areas[1] - 1) // areas[0]
    sums = [200_000 * area + r for area, r in zip(areas, rests, strict=True)]
    exact = [Fraction(s, area) for s, area in zip(sums, areas, strict=True)]
    assert exact[0] > exact[1]
    assert sums[0] / areas[0] == sums[1] / areas[1]
    large = replace(
        handed(LEFT, [(0, 0, 1, 1), (1, 0, 2, 1)]).instances,
        area_px=np.array(areas),
        row_sum=np.array(sums),
    )
    assert np.lexsort(place_keys(large)[::-1]).tolist() == [1, 0]
