"""Outlines become pixels, and pixels of several nuclei those of one."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from slow_labels import slow_fill, slow_lay_down

from wsiseg.errors import LabelsNotReadable
from wsiseg.geometry import Box
from wsiseg.labels.outlined import Patch, fill_rings, lay_down, patch_of

W, H = 9, 7
# On a grid of quarters corners, edges and centres of pixels are hit often.
QUARTERS = st.tuples(
    st.integers(-8, 4 * W + 8).map(lambda v: v / 4), st.integers(-8, 4 * H + 8).map(lambda v: v / 4)
)
RINGS = st.lists(QUARTERS, min_size=3, max_size=8)


def filled(rings: list[NDArray[np.float64]], width_px: int = W, height_px: int = H) -> NDArray:
    box, mask = fill_rings(rings, width_px, height_px)
    whole = np.zeros((height_px, width_px), np.bool_)
    whole[box.slices] = mask
    return whole


@given(st.lists(RINGS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=150)
def test_filling_equals_its_slow_twin(rings: list[list[tuple[float, float]]]) -> None:
    fast = filled([np.array(ring, np.float64) for ring in rings])
    assert np.array_equal(fast, slow_fill(rings, W, H))


@pytest.mark.parametrize("seed", range(20))
def test_filling_agrees_with_geometry(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radii = rng.uniform(3, 14, 12)
    ring = np.stack([np.cos(angles) * radii + 14.3, np.sin(angles) * radii + 12.1], axis=1)
    hole = np.array([(13, 11), (15.7, 11.2), (14.9, 13.6)])
    x, y = np.meshgrid(np.arange(30) + 0.5, np.arange(26) + 0.5)
    star, inner = shapely.Polygon(ring), shapely.Polygon(hole)
    expected = shapely.contains_xy(star, x, y) & ~shapely.contains_xy(inner, x, y)
    assert np.array_equal(filled([ring, hole], 30, 26), expected)
    # Closed or not, and in either direction.
    closed = np.concatenate([ring, ring[:1]])[::-1]
    assert np.array_equal(filled([closed, hole[::-1]], 30, 26), expected)


def test_neighbours_with_a_common_line_share_no_pixel_and_lose_none() -> None:
    corners = {"a": (0, 0), "b": (6, 0), "c": (6, 6), "d": (0, 6)}
    halves = [np.array([corners[c] for c in part], np.float64) for part in ("abc", "acd")]
    masks = [filled([half], 6, 6) for half in halves]
    assert (masks[0].astype(int) + masks[1]).tolist() == [[1] * 6] * 6


def test_what_an_outline_winds_around_twice_is_inside() -> None:
    loop = np.array([(0, 0), (6, 0), (6, 6), (0, 6), (0, 0), (3, 0), (3, 3), (0, 3)], np.float64)
    assert filled([loop], 6, 6).all()


def test_an_outline_without_a_centre_has_no_pixel() -> None:
    thin = np.array([(0, 0), (5, 0), (5, 0.4), (0, 0.4)])
    assert patch_of([[thin]], "thin", 6, 6) is None
    assert patch_of([[thin - 40]], "outside", 6, 6) is None


def test_pieces_of_a_nucleus_are_one_patch() -> None:
    pieces = [[np.array([(x, x), (x + 2, x), (x + 2, x + 2), (x, x + 2)], float)] for x in (1, 4)]
    patch = patch_of(pieces, "two", W, H)
    assert patch is not None
    assert patch.box == Box(1, 1, 5, 5)
    assert patch.mask.sum() == 8


def patches(masks: NDArray[np.bool_]) -> list[Patch]:
    box = Box(0, 0, masks.shape[2], masks.shape[1])
    return [Patch(box, mask, f"nucleus {k}") for k, mask in enumerate(masks)]


SQUARE = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 5)] * 2)


@st.composite
def overlapping(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Draw rectangles with some pixels missing."""
    boxes = draw(st.lists(SQUARE, min_size=1, max_size=5))
    masks = np.zeros((len(boxes), 7, 7), np.bool_)
    for mask, (x, y, width, height) in zip(masks, boxes, strict=True):
        mask[y : y + height, x : x + width] = True
    gaps = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 2), max_size=4))
    for row, col in gaps:
        masks[:, row, col] = False
    return masks[masks.any(axis=(1, 2))]


@given(overlapping())
@settings(deadline=None, max_examples=200)
def test_overlaps_are_settled_as_by_the_slow_twin(masks: NDArray[np.bool_]) -> None:
    if not len(masks):
        return
    labels, kept, is_covered = slow_lay_down(masks)
    laid = lay_down(patches(masks), 7, 7, "a.xml", "resolve")
    assert np.array_equal(laid.instances, labels)
    assert laid.kept.tolist() == kept
    if is_covered:
        with pytest.raises(LabelsNotReadable, match=r"a\.xml: nucleus \d covers \d+% of nucleus"):
            lay_down(patches(masks), 7, 7, "a.xml", "refuse")
    else:
        assert np.array_equal(lay_down(patches(masks), 7, 7, "a", "refuse").instances, labels)


def test_common_pixels_go_to_the_smaller_and_are_told() -> None:
    masks = np.zeros((3, 4, 12), np.bool_)
    masks[0, :, :6] = True
    masks[1, 1:3, 5:9] = True
    masks[2, 1:3, 5:9] = True
    laid = lay_down(patches(masks[:2]), 12, 4, "a", "refuse")
    assert laid.instances[1].tolist() == [1] * 5 + [2] * 4 + [0] * 3
    assert list(laid.counts.items()) == [
        ("pairs of nuclei that overlap: common pixels went to the smaller one", 1)
    ]
    twice = lay_down(patches(masks), 12, 4, "a", "resolve")
    assert np.array_equal(twice.instances, laid.instances)
    assert twice.kept.tolist() == [0, 1]
    assert twice.counts["nuclei drawn twice: the later outline was dropped"] == 1


def test_the_error_names_both_nuclei() -> None:
    masks = np.zeros((2, 4, 4), np.bool_)
    masks[0], masks[1, 1:3, 1:3] = True, True
    with pytest.raises(LabelsNotReadable, match=r"nucleus 0 covers 100% of nucleus 1; .*resolve"):
        lay_down(patches(masks), 4, 4, "a", "refuse")
