"""Stitching: one rule at a time, refusals, and the arithmetic on runs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import slow_stitch as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from stitch_tiles import (
    LEFT,
    NO_RUNS,
    OPTIONS,
    RIGHT,
    Labels,
    boxes_after,
    grid_tile,
    handed,
    instances_of,
)

from wsiseg._run_overlaps import largest_part, shared_px, subtract_runs
from wsiseg._seams import place_keys
from wsiseg.errors import UsageError
from wsiseg.geometry import Box
from wsiseg.records import Tile
from wsiseg.stitch import StitchCounts, StitchOptions, TileInstances, select_instances, stitch

# One rule at a time, with rectangles


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
    # above, one that is clipped before, and stays
    halves = handed(LEFT, [(0, 6, 4, 18), (5, 6, 9, 18), (5, 18, 9, 20)])
    between = handed(RIGHT, [(0, 16, 4, 20), (5, 16, 9, 20)])
    cells = boxes_after(halves, between, options=StitchOptions(16, 0))
    assert [col for col, _, _ in cells] == [0, 0, 0, 1]


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


def test_more_conflicts_in_a_row_than_a_buffer_holds() -> None:
    dots = [(y, x, y + 1, x + 1) for y in range(-9, 209, 2) for x in range(191, 209, 2)]
    dots += [(y, x, y + 1, x + 1) for y in range(-8, 209, 2) for x in range(192, 209, 2)]
    assert len(dots) > 1024
    tiles = [handed(grid_tile(0, col, 200, 10), dots) for col in (0, 1)]
    [band] = stitch(tiles, OPTIONS)
    assert band.counts == StitchCounts(own=2 * len(dots), own_dropped=len(dots))


def test_a_clipped_mask_with_more_runs_than_a_buffer_holds() -> None:
    left = handed(grid_tile(0, 0, 1600, 10), [(0, 1595, 1600, 1601)])
    right = handed(grid_tile(0, 1, 1600, 10), [(0, 1600, 1600, 1603)])
    assert boxes_after(left, right) == [
        (0, (0, 1595, 1600, 1600), 8000),
        (1, (0, 1600, 1600, 1603), 4800),
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
