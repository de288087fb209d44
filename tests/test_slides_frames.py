"""Frames: every box is a crop of one virtual image, equal to a slow and obvious one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Box, Frame
from wsiseg.slides import frame_at, open_slide, read_frame
from wsiseg.slides.resampling import WEIGHT_BITS, taps
from wsiseg.testing.slides import ArraySlide

SCALES = (0.501, 0.75, 1.0108, 2.004, 3.1, 4.0, 8.5, 37.7)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def dense_weights(n_out: int, n_source: int, ratio: float) -> tuple[NDArray[np.float64], int]:
    """(n_out, n_source + 2 · border) weights of the definition, one pixel at a time."""
    half_width = max(1.0, ratio)
    border = math.ceil(half_width + ratio) + 2
    weights = np.zeros((n_out, n_source + 2 * border))
    for i in range(n_out):
        centre = (i + 0.5) * ratio - 0.5
        for j in range(-border, n_source + border):
            weights[i, j + border] = max(0.0, 1 - abs(j - centre) / half_width)
    return weights / weights.sum(axis=1, keepdims=True), border


def slow_virtual_image(
    level: NDArray[np.uint8], ratio: float, n_rows: int, n_cols: int
) -> NDArray[np.float64]:
    rows, above = dense_weights(n_rows, level.shape[0], ratio)
    cols, left = dense_weights(n_cols, level.shape[1], ratio)
    white = ((above, above), (left, left), (0, 0))
    source = np.pad(level, white, constant_values=255).astype(np.float64)
    return np.einsum("ri,ijc,kj->rkc", rows, source, cols, optimize=True)


def frame_of(slide: ArraySlide, scale: float) -> Frame:
    return Frame.of_slide(slide.info.width_px, slide.info.height_px, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_equals_the_slow_virtual_image(scale: float) -> None:
    rgb = noise(83, 61)
    slide = ArraySlide(rgb)
    frame = frame_of(slide, scale)
    fast = read_frame(slide, frame, frame.box)
    slow = slow_virtual_image(rgb, scale, frame.height_px, frame.width_px)
    assert fast.shape == slow.shape
    assert np.abs(fast - slow).max() <= 1


@pytest.mark.parametrize("downsample", [2, 2.0005, 4.0027])
@pytest.mark.parametrize("over", [1.03, 1.5, 2.3])
def test_resamples_the_coarsest_level_that_is_finer(downsample: float, over: float) -> None:
    slide = ArraySlide(noise(203, 187), downsamples=(1, downsample, 30))
    level = slide.info.levels[1]
    frame = frame_of(slide, downsample * over)
    pixels = slide.read_level(1, level.box)
    slow = slow_virtual_image(pixels, over, frame.height_px, frame.width_px)
    assert np.abs(read_frame(slide, frame, frame.box) - slow).max() <= 1


@pytest.mark.real
@pytest.mark.parametrize("scale", [0.501, 1.0108, 2.004, 4.0])
def test_equals_the_slow_virtual_image_on_a_real_slide(shared: Path, scale: float) -> None:
    with open_slide(shared / "slides" / "CMU-1-Small-Region.svs") as slide:
        info = slide.info
        frame = Frame.of_slide(info.width_px, info.height_px, scale)
        box = Box(0, 0, 160, 120)
        fast = read_frame(slide, frame, box)
        reach = math.ceil(170 * scale) + 12
        source = slide.read_level(0, Box(0, 0, reach, reach))
    slow = slow_virtual_image(source, scale, box.height_px, box.width_px)
    assert np.abs(fast - slow).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(0.3, 9.0),
    corner=st.tuples(st.integers(-30, 60), st.integers(-30, 60)),
    size=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_crops_are_exactly_equal(
    scale: float, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    slide = ArraySlide(noise(97, 131, seed=1), downsamples=(1, 2.0005, 4.0027))
    frame = frame_of(slide, scale)
    whole = Box(-30, -30, 150, 150)
    box = Box(*corner, *size)
    expected = read_frame(slide, frame, whole)[box.slices_in(whole)]
    assert np.array_equal(read_frame(slide, frame, box), expected)


@pytest.mark.parametrize("scale", [0.37, 1.01, 90.3])
def test_parts_join_without_a_seam(scale: float) -> None:
    """Boxes too large for one part equal their crops around the joints."""
    slide = ArraySlide(noise(4300, 2500, seed=2))
    frame = frame_of(slide, scale)
    side = int(2048 / max(1.0, scale))
    whole = Box(-3, -3, min(frame.width_px, 2300) + 6, min(frame.height_px, 2300) + 6)
    pixels = read_frame(slide, frame, whole)
    joint = whole.x_px + side
    around = Box(joint - 4, joint - 4, 9, 9)
    assert whole.intersection(around) == around
    assert np.array_equal(pixels[around.slices_in(whole)], read_frame(slide, frame, around))


@pytest.mark.parametrize("downsample", [1, 2, 2.0005, 4.0027])
def test_a_level_of_that_scale_is_used_as_it_is(downsample: float) -> None:
    slide = ArraySlide(noise(303, 211), downsamples=(1, 2, 2.0005, 4.0027))
    index = (1, 2, 2.0005, 4.0027).index(downsample)
    frame = frame_of(slide, downsample)
    box = Box(-7, 20, 90, 60)
    assert np.array_equal(read_frame(slide, frame, box), slide.read_level(index, box))


@pytest.mark.parametrize("scale", SCALES)
def test_white_stays_white_everywhere(scale: float) -> None:
    slide = ArraySlide(np.full((50, 40, 3), 255, np.uint8))
    assert (read_frame(slide, frame_of(slide, scale), Box(-9, -9, 40, 40)) == 255).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("grey", [0, 1, 128, 254])
def test_a_flat_slide_stays_flat_inside(scale: float, grey: int) -> None:
    side = 400
    slide = ArraySlide(np.full((side, side, 3), grey, np.uint8))
    n = int(side / scale)
    inside = Box(2, 2, n - 4, n - 4)
    assert (read_frame(slide, frame_of(slide, scale), inside) == grey).all()


def test_halving_keeps_the_place() -> None:
    """An edge between two level-0 pixels of one output pixel stays in that pixel."""
    rgb = np.zeros((8, 64, 3), np.uint8)
    rgb[:, 32:] = 200
    row = read_frame(ArraySlide(rgb), Frame.of_slide(64, 8, 2.0), Box(0, 2, 32, 1))[0, :, 0]
    assert (row[1:15] == 0).all()
    assert (row[17:31] == 200).all()
    assert int(row[15]) + int(row[16]) == 200


@pytest.mark.parametrize("ratio", [0.3, 1.0108, 2.0, 17.3, 300.1])
def test_weights_sum_exactly_and_are_never_negative(ratio: float) -> None:
    first, weights = taps(-5, 400, ratio)
    assert (weights.sum(axis=1) == 2**WEIGHT_BITS).all()
    assert weights.min() >= 0
    assert (np.diff(first) >= 0).all()


@pytest.mark.parametrize(
    ("target_mpp", "scale"),
    [
        (0.25, 1.0),
        (0.2625, 1.0),
        (0.24, 1.0),
        (0.264, 0.264 / 0.25),
        (0.5, 2.0),
        (1.02, 4.0027),
        (2.0, 8.0),
        (0.1, 0.4),
    ],
)
def test_a_level_within_five_percent_is_the_frame(target_mpp: float, scale: float) -> None:
    slide = ArraySlide(noise(300, 401), downsamples=(1, 2, 4.0027))
    frame = frame_at(slide.info, 0.25, target_mpp)
    assert frame == Frame.of_slide(401, 300, scale)


def test_the_nearer_of_two_fitting_levels_is_used() -> None:
    slide = ArraySlide(noise(300, 401), downsamples=(1, 1.04))
    assert frame_at(slide.info, 0.5, 0.515).scale == 1.04
    assert frame_at(slide.info, 0.5, 0.505).scale == 1.0


@pytest.mark.parametrize("wrong", [0.0, -0.5, math.nan, math.inf])
def test_impossible_scales_are_refused(wrong: float) -> None:
    info = ArraySlide(noise(30, 40)).info
    with pytest.raises(UsageError, match="slide; a positive number"):
        frame_at(info, wrong, 0.5)
    with pytest.raises(UsageError, match="target; a positive number"):
        frame_at(info, 0.5, wrong)
