"""Boxes are sets of pixels, and frames cover their slide."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.geometry import Box, Frame

edges_px = st.integers(-30, 30)
sides_px = st.integers(0, 30)
boxes = st.builds(Box, edges_px, edges_px, sides_px, sides_px)
sizes_px = st.integers(1, 200_000)
scales = st.floats(0.05, 64)


def pixels_of(box: Box) -> set[tuple[int, int]]:
    """Return every (x, y) in a box: the slow twin of its arithmetic."""
    return {(x, y) for x in range(box.x_px, box.x_end_px) for y in range(box.y_px, box.y_end_px)}


@given(boxes)
def test_area_counts_pixels(box: Box) -> None:
    assert box.area_px == len(pixels_of(box))


@given(boxes, boxes)
def test_intersection_is_that_of_the_pixel_sets(one: Box, other: Box) -> None:
    assert pixels_of(one.intersection(other)) == pixels_of(one) & pixels_of(other)
    assert one.intersection(other).area_px == other.intersection(one).area_px


@given(boxes, st.integers(0, 20))
def test_grown_box_holds_what_is_within_the_margin_and_shrinks_back(
    box: Box, margin_px: int
) -> None:
    grown = box.grown(margin_px)
    assert (grown.x_px, grown.y_px) == (box.x_px - margin_px, box.y_px - margin_px)
    assert (grown.x_end_px, grown.y_end_px) == (box.x_end_px + margin_px, box.y_end_px + margin_px)
    assert grown.grown(-margin_px) == box


def test_a_box_shrunk_beyond_its_size_is_empty() -> None:
    assert Box(0, 0, 10, 30).grown(-8).area_px == 0


@given(boxes, st.integers(0, 5), st.integers(0, 5))
def test_slices_cut_the_box_out_of_an_array(box: Box, left_px: int, above_px: int) -> None:
    outer = Box(
        box.x_px - left_px, box.y_px - above_px, box.width_px + left_px + 3, box.height_px + 9
    )
    rows, cols = np.mgrid[outer.y_px : outer.y_end_px, outer.x_px : outer.x_end_px]
    where = box.slices_in(outer)
    assert set(zip(cols[where].flat, rows[where].flat, strict=True)) == pixels_of(box)


@pytest.mark.parametrize("size_px", [(-1, 5), (5, -1)])
def test_a_box_of_negative_size_is_refused(size_px: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Box(0, 0, *size_px)


def test_boxes_are_values() -> None:
    box = Box(1, 2, 3, 4)
    assert {box, Box(1, 2, 3, 4)} == {box}
    with pytest.raises(FrozenInstanceError):
        box.x_px = 5  # type: ignore[misc]


@given(sizes_px, sizes_px, scales)
def test_a_frame_covers_its_slide_with_no_pixel_to_spare(
    width_px: int, height_px: int, scale: float
) -> None:
    frame = Frame.of_slide(width_px, height_px, scale)
    for slide_px, frame_px in ((width_px, frame.width_px), (height_px, frame.height_px)):
        exact = Fraction(slide_px) / Fraction(scale)
        # Division rounds: a share of 1e-12 of a slide's width is far below a pixel.
        assert frame_px >= exact * (1 - Fraction(1, 10**12))
        assert frame_px - 1 < exact
    assert frame.box == Box(0, 0, frame.width_px, frame.height_px)


@given(sizes_px, sizes_px, st.integers(1, 128))
def test_a_coarser_frame_covers_the_finer_one(width_px: int, height_px: int, factor: int) -> None:
    fine = Frame.of_slide(width_px, height_px, 2.0)
    coarse = fine.coarser(factor)
    assert coarse.scale == fine.scale * factor
    assert coarse.width_px == math.ceil(Fraction(fine.width_px, factor))
    assert coarse.height_px == math.ceil(Fraction(fine.height_px, factor))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_frame_of_no_scale_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Frame(scale, 10, 10)
