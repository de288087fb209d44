"""The grid covers every slide exactly once, and a tile runs iff its core has any tissue."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsiseg.geometry import Box, Frame
from wsiseg.records import Tile
from wsiseg.tiles import AreaMask, TileGrid, plan_tiles

cores_px = st.sampled_from([64, 128, 192, 256])
sizes_px = st.integers(1, 700)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    """Draw a grid on a frame of any size, at any offset allowed."""
    core_px = draw(cores_px)
    offset_px = 32 * draw(st.integers(0, core_px // 32 - 1))
    margin_px = 32 * draw(st.integers(0, core_px // 64))
    return TileGrid(Frame(1.0, draw(sizes_px), draw(sizes_px)), core_px, margin_px, offset_px)


def tiles_of(grid: TileGrid) -> list[Tile]:
    return [grid.tile(row, col) for row in range(grid.n_rows) for col in range(grid.n_cols)]


def all_of(frame: Frame, factor: int) -> AreaMask:
    coarse = frame.coarser(factor)
    return AreaMask(coarse, factor, np.ones((coarse.height_px, coarse.width_px), np.bool_))


@given(grids())
@settings(max_examples=60)
def test_every_model_pixel_lies_in_exactly_one_core(grid: TileGrid) -> None:
    times = np.zeros((grid.frame.height_px, grid.frame.width_px), np.int64)
    for tile in tiles_of(grid):
        inside = tile.core.intersection(grid.frame.box)
        assert inside.area_px > 0, "a tile that holds nothing of the slide"
        times[inside.slices_in(grid.frame.box)] += 1
    assert (times == 1).all()


@given(grids())
def test_cores_are_whole_squares_on_an_anchored_grid(grid: TileGrid) -> None:
    for tile in tiles_of(grid):
        assert tile.core == Box(
            tile.col * grid.core_px - grid.offset_px,
            tile.row * grid.core_px - grid.offset_px,
            grid.core_px,
            grid.core_px,
        )
        assert tile.outer == tile.core.grown(grid.margin_px)
        # timm's `tf_` networks pad by parity: origins must stay on multiples of 32.
        assert tile.outer.x_px % 32 == tile.outer.y_px % 32 == tile.outer.width_px % 32 == 0


def test_the_same_core_whatever_the_slides_size() -> None:
    small, large = (TileGrid(Frame(1.0, side, side), 256, 64) for side in (300, 90_000))
    assert small.tile(1, 1) == large.tile(1, 1)


@pytest.mark.parametrize(
    ("width_px", "height_px", "n_cols", "n_rows"),
    [(1, 1, 1, 1), (256, 256, 1, 1), (257, 256, 2, 1), (256, 513, 1, 3), (512, 512, 2, 2)],
)
def test_a_slides_last_tile_holds_its_last_pixel(
    width_px: int, height_px: int, n_cols: int, n_rows: int
) -> None:
    grid = TileGrid(Frame(1.0, width_px, height_px), 256, 64)
    assert (grid.n_cols, grid.n_rows) == (n_cols, n_rows)


def test_an_offset_moves_the_grid_up_and_left() -> None:
    grid = TileGrid(Frame(1.0, 256, 256), 256, 64, offset_px=96)
    assert (grid.n_rows, grid.n_cols) == (2, 2)
    assert grid.tile(0, 0).core == Box(-96, -96, 256, 256)
    assert grid.tile(1, 1).core == Box(160, 160, 256, 256)


@pytest.mark.parametrize("offset_px", [-32, 16, 33, 256, 288])
def test_other_offsets_are_refused(offset_px: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32 from 0 to below 256"):
        TileGrid(Frame(1.0, 500, 500), 256, 64, offset_px)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\).*5 × 4|\(4, 5\) for a frame of 5 × 5"):
        AreaMask(Frame(8.0, 5, 5), 8, np.ones((4, 5), np.bool_))


def slow_plan(grid: TileGrid, inside: NDArray[np.bool_], factor: int) -> list[tuple[Tile, float]]:
    """Ask every model pixel of a core for its mask pixel."""
    planned = []
    for tile in tiles_of(grid):
        box = tile.core.intersection(grid.frame.box)
        rows = sorted({y // factor for y in range(box.y_px, box.y_end_px)})
        cols = sorted({x // factor for x in range(box.x_px, box.x_end_px)})
        values = [bool(inside[row, col]) for row in rows for col in cols]
        if any(values):
            planned.append((tile, sum(values) / len(values)))
    return planned


@given(
    grids(),
    st.sampled_from([1, 3, 8, 16, 31, 32, 100]),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_tile_is_planned_iff_its_core_has_any_masked_pixel(
    grid: TileGrid, factor: int, share: float, seed: int
) -> None:
    coarse = grid.frame.coarser(factor)
    shape = (coarse.height_px, coarse.width_px)
    # To the fourth power: most masks are sparse, so that many tiles hang on one pixel.
    inside = np.random.default_rng(seed).random(shape) < share**4
    planned = plan_tiles(grid, AreaMask(coarse, factor, inside))
    assert planned == slow_plan(grid, inside, factor)
    assert all(0 < part <= 1 for _, part in planned)
    assert planned == sorted(planned, key=lambda entry: (entry[0].row, entry[0].col))


@given(grids(), st.sampled_from([1, 7, 32]))
@settings(max_examples=30)
def test_all_tiles_run_whole_where_everything_counts(grid: TileGrid, factor: int) -> None:
    assert plan_tiles(grid, all_of(grid.frame, factor)) == [(t, 1.0) for t in tiles_of(grid)]


def test_nothing_runs_where_nothing_counts() -> None:
    frame = Frame(1.0, 900, 500)
    area = all_of(frame, 8)
    empty = AreaMask(area.frame, 8, np.zeros_like(area.inside))
    assert plan_tiles(TileGrid(frame, 256, 64), empty) == []


def test_the_very_last_masked_pixel_runs_the_last_tile() -> None:
    frame = Frame(1.0, 1025, 769)
    area = all_of(frame, 8)
    inside = np.zeros_like(area.inside)
    inside[-1, -1] = True
    ((tile, share),) = plan_tiles(TileGrid(frame, 256, 64), AreaMask(area.frame, 8, inside))
    assert (tile.row, tile.col, share) == (3, 4, 1.0)
