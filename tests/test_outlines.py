"""Outlines give their pixels back, are valid polygons, and agree with marching squares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage import measure
from slow_masks import (
    blobs,
    instances_of,
    moved,
    polygons_of,
    rasterised,
    real_labels,
    rings_of,
    twice_area,
)

from wsiseg.outlines import trace_mask, trace_outlines
from wsiseg.records import Outlines

SCALES = (0.33, 0.501, 1.0, 2.004, 4.0)

small_masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))
small_labels = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)
)


def picture(*rows: str) -> NDArray[np.bool_]:
    return np.array([[char == "#" for char in row] for row in rows])


def check_rings(outlines: Outlines) -> None:
    """Closed, without vertices on straight lines, outside counter-clockwise, holes clockwise."""
    for i in range(len(outlines)):
        rings = rings_of(outlines, i)
        assert [twice_area(ring) > 0 for ring in rings] == [True] + [False] * (len(rings) - 1)
        for ring in rings:
            assert (ring[0] == ring[-1]).all()
            step = np.diff(np.vstack([ring, ring[1]]).astype(int), axis=0)
            assert (step[:-1, 0] * step[1:, 1] != step[:-1, 1] * step[1:, 0]).all()


def check_pixels(outlines: Outlines, labels: NDArray[np.integer]) -> None:
    """Each polygon has exactly the pixels of its label, and the area that Euler's number gives."""
    regions = measure.regionprops(labels)
    assert len(outlines) == len(regions)
    for i, region in enumerate(regions):
        row, col, _, _ = region.bbox
        rings = [ring - np.array([2 * col, 2 * row]) for ring in rings_of(outlines, i)]
        assert (rasterised(rings, region.image.shape) == region.image).all()
        quarters = 4 * region.num_pixels - 2 * (2 - len(rings))
        assert sum(twice_area(ring) for ring in rings) == 2 * quarters


def check_valid(outlines: Outlines) -> None:
    """All polygons are valid, also after scaling and snapping to 0.01 px as QuPath does."""
    polygons = np.array(polygons_of(outlines), dtype=object)
    assert shapely.is_valid(polygons).all()
    for scale in SCALES:
        snapped = shapely.transform(polygons, lambda xy, s=scale: np.round(xy * s, 2))
        assert shapely.is_valid(snapped).all()


def canonical(ring: NDArray[np.floating]) -> list[list[int]]:
    """Return a ring in half pixels without its closing vertex, its corners in a fixed order."""
    points = np.round(np.asarray(ring)).astype(int)[:-1]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    points = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    if twice_area(np.vstack([points, points[:1]])) < 0:
        points = points[::-1]
    first = int(np.lexsort((points[:, 0], points[:, 1]))[0])
    return np.roll(points, -first, 0).tolist()


def marching_squares(mask: NDArray[np.bool_]) -> list[list[list[int]]]:
    """Return skimage's contours, canonical and sorted."""
    contours = measure.find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="low")
    return sorted(canonical(contour[:, ::-1] * 2 - 1) for contour in contours)


def test_one_pixel_in_the_corner_is_a_diamond():
    outlines = trace_mask(np.ones((1, 1), bool))
    assert outlines.first_ring.tolist() == [0, 1]
    assert outlines.first_vertex.tolist() == [0, 5]
    assert outlines.vertices_half_px.tolist() == [[1, 0], [2, 1], [1, 2], [0, 1], [1, 0]]
    assert polygons_of(outlines)[0].area == 0.5


def test_rectangle_with_a_hole_vertex_by_vertex():
    outlines = trace_mask(picture("....", ".###", ".#.#", ".###"))
    outside, hole = rings_of(outlines, 0)
    corners = [[3, 2], [7, 2], [8, 3], [8, 7], [7, 8], [3, 8], [2, 7], [2, 3], [3, 2]]
    assert outside.tolist() == corners
    assert hole.tolist() == [[5, 4], [4, 5], [5, 6], [6, 5], [5, 4]]
    assert polygons_of(outlines)[0].area == 8.0


def test_c_closed_by_a_diagonal_has_one_ring():
    mask = picture(
        "####",
        "#..#",
        "#.#.",
        "###.",
    )
    outlines = trace_mask(mask)
    assert len(outlines) == 1
    assert len(rings_of(outlines, 0)) == 1
    check_rings(outlines)
    check_valid(outlines)
    check_pixels(outlines, mask.astype(int))


def test_checkerboard_contact_of_two_instances_keeps_them_apart():
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 1, 1], [2, 2, 1, 1]])
    labels = measure.label(labels, connectivity=1)
    outlines = trace_outlines(instances_of(labels))
    assert len(outlines) == 4
    check_pixels(outlines, labels)
    polygons = polygons_of(outlines)
    assert not polygons[0].intersects(polygons[3])
    assert not polygons[1].intersects(polygons[2])
    assert polygons[0].intersection(polygons[1]).area == 0


def test_nucleus_in_a_nucleus_lies_in_its_hole():
    labels = np.ones((7, 7), int)
    labels[2:5, 2:5] = 2
    outlines = trace_outlines(instances_of(labels))
    outer, inner = polygons_of(outlines)
    assert len(outer.interiors) == 1
    assert shapely.Polygon(outer.interiors[0]).equals(inner)
    check_rings(outlines)
    check_pixels(outlines, labels)


def test_holes_come_in_raster_order():
    outlines = trace_mask(picture("#####", "###.#", "#.###", "#####"))
    _, first, second = rings_of(outlines, 0)
    assert first[0].tolist() == [7, 2]
    assert second[0].tolist() == [3, 4]


def test_component_inside_the_hole_of_another():
    mask = np.ones((9, 9), bool)
    mask[1:8, 1:8] = False
    mask[3:6, 3:6] = True
    mask[4, 4] = False
    outlines = trace_mask(mask)
    assert [len(rings_of(outlines, i)) for i in range(len(outlines))] == [2, 2]
    check_rings(outlines)
    check_valid(outlines)
    check_pixels(outlines, measure.label(mask, connectivity=1))


def test_many_corners_per_run_fit():
    checkerboard = np.indices((40, 40)).sum(0) % 2 == 0
    outlines = trace_mask(checkerboard)
    assert len(outlines) == 800
    assert (np.diff(outlines.first_vertex) == 5).all()
    check_pixels(outlines, measure.label(checkerboard, connectivity=1))


@given(small_masks)
@settings(max_examples=150, deadline=None)
def test_any_mask(mask):
    outlines = trace_mask(mask)
    labels = measure.label(mask, connectivity=1)
    check_rings(outlines)
    check_pixels(outlines, labels)
    check_valid(outlines)
    rings = [ring for i in range(len(outlines)) for ring in rings_of(outlines, i)]
    assert sorted(canonical(ring) for ring in rings) == marching_squares(mask)
    # The room that the tracer reserves for a polygon.
    runs_of = np.diff(instances_of(labels).first_run)
    corners_of = np.diff(outlines.first_vertex[outlines.first_ring])
    assert (corners_of <= 11 * runs_of).all()


@given(small_labels)
@settings(max_examples=100, deadline=None)
def test_any_touching_instances(values):
    labels = measure.label(values, connectivity=1, background=0)
    outlines = trace_outlines(instances_of(labels))
    check_rings(outlines)
    check_pixels(outlines, labels)
    check_valid(outlines)


@pytest.mark.parametrize("seed", range(4))
def test_ragged_blobs(seed):
    labels = blobs(seed)
    outlines = trace_outlines(instances_of(labels))
    assert (np.diff(outlines.first_ring) > 1).any()
    check_rings(outlines)
    check_pixels(outlines, labels)
    check_valid(outlines)


def test_mask_and_instances_give_the_same():
    labels = measure.label(blobs(5) > 0, connectivity=1)
    of_mask, of_instances = trace_mask(labels > 0), trace_outlines(instances_of(labels))
    for field in dataclasses.fields(Outlines):
        assert (getattr(of_mask, field.name) == getattr(of_instances, field.name)).all()


def test_far_away_on_the_slide_is_the_same_outline():
    here = instances_of(blobs(6))
    there = trace_outlines(moved(here, rows=-31, cols=400_000))
    outlines = trace_outlines(here)
    assert (there.first_vertex == outlines.first_vertex).all()
    shift = np.array([800_000, -62])
    assert (there.vertices_half_px == outlines.vertices_half_px + shift).all()


def test_strided_runs_are_read_rightly():
    instances = instances_of(blobs(7))
    wide = np.zeros((len(instances.runs), 5), np.int32)
    wide[:, 1:4] = instances.runs
    strided = dataclasses.replace(instances, runs=wide[:, 1:4])
    expected = trace_outlines(instances).vertices_half_px
    assert (trace_outlines(strided).vertices_half_px == expected).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (4, 4)])
def test_nothing_to_trace(shape):
    outlines = trace_mask(np.zeros(shape, bool))
    assert len(outlines) == 0
    assert outlines.vertices_half_px.shape == (0, 2)


def test_no_instances():
    assert len(trace_outlines(instances_of(np.zeros((3, 3), int)))) == 0


def test_an_instance_in_pieces_is_refused():
    two_pieces = np.array([[1, 0, 2, 0], [1, 0, 0, 2]])
    with pytest.raises(ValueError, match="instance 1 is in several pieces"):
        trace_outlines(instances_of(two_pieces))


def test_an_instance_without_pixels_is_refused():
    one = instances_of(np.ones((2, 2), int))
    empty = dataclasses.replace(
        one, first_run=np.array([0, 0]), runs=np.zeros((0, 3), np.int32), area_px=np.array([0])
    )
    with pytest.raises(ValueError, match="instance 0 has no pixels"):
        trace_outlines(empty)


@pytest.mark.parametrize("mask", [np.ones((2, 2), np.uint8), np.ones((1, 2, 2), bool)])
def test_what_is_not_a_mask_is_refused(mask):
    with pytest.raises(ValueError, match="two-dimensional boolean array is needed"):
        trace_mask(mask)


@pytest.mark.real
@pytest.mark.parametrize("set_name", ["consep_train", "monuseg_train"])
def test_real_nuclei(shared, set_name):
    labels = real_labels(shared, set_name, 0)
    outlines = trace_outlines(instances_of(labels))
    assert len(outlines) > 100
    check_rings(outlines)
    check_pixels(outlines, labels)
    check_valid(outlines)
    rings = [ring for i in range(len(outlines)) for ring in rings_of(outlines, i)]
    expected = [
        np.add(ring, [2 * region.bbox[1], 2 * region.bbox[0]]).tolist()
        for region in measure.regionprops(labels)
        for ring in marching_squares(region.image)
    ]
    assert sorted(canonical(ring) for ring in rings) == sorted(expected)
