"""Stitching: equal to its slow twin, exact at edges, streaming, and every nucleus once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import slow_stitch as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from stitch_tiles import (
    LEFT,
    NO_RUNS,
    OPTIONS,
    Labels,
    Rectangle,
    check_same,
    grid_tile,
    handed,
    instances_of,
)

from wsiseg.geometry import Box
from wsiseg.records import Instances, Tile, gather_runs
from wsiseg.stitch import (
    StitchCounts,
    StitchOptions,
    TileInstances,
    select_instances,
    stitch,
)


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
@settings(max_examples=150, deadline=None)
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
        measured=old.measured[order],
    )
    return TileInstances(seen.tile, new, seen.spare[order])


@pytest.mark.parametrize("inside", [(8, 8, 12, 12), (5, 8, 15, 12)])
def test_equal_centroids_are_told_apart_by_the_first_pixel(inside: Rectangle) -> None:
    seen = handed(LEFT, [(5, 5, 15, 15), inside])
    assert len({tuple(slow.centroid_of(nucleus.pixels)) for nucleus in slow.nuclei_of(seen)}) == 1
    for order in ([0, 1], [1, 0]):
        check_same([reordered(seen, np.array(order))], OPTIONS)


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
    assert peak_bytes(24) < 1.2 * peak_bytes(6)


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


def test_many_masks_are_gathered_as_one_by_one() -> None:
    """More than are gathered at a time, some of them without runs, some twice."""
    rng = np.random.default_rng(3)
    runs = rng.integers(0, 1000, (30_000, 3)).astype(np.int32)
    begin = rng.integers(0, 29_990, 9_000)
    end = begin + rng.integers(0, 10, 9_000)
    first_run, gathered = gather_runs(runs, begin, end)
    slow = [runs[a:b] for a, b in zip(begin, end, strict=True)]
    np.testing.assert_array_equal(first_run, np.cumsum([0, *map(len, slow)]))
    np.testing.assert_array_equal(gathered, np.concatenate(slow))
