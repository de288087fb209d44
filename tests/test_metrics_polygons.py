"""Scores of outlines: by hand, against slow twins, and against label images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import shapely
import shapely.affinity
from numpy.typing import NDArray

from wsiseg.evaluation.metrics import match_instances
from wsiseg.evaluation.polygons import boundary_distances, match_polygons, polygon_iou


def array(geometries: Sequence[shapely.Geometry]) -> NDArray[np.object_]:
    out = np.empty(len(geometries), object)
    out[:] = geometries
    return out


NONE = array([])


def slow_matches(
    reference: Sequence[shapely.Polygon], predicted: Sequence[shapely.Polygon], min_iou: float
) -> list[tuple[int, int]]:
    """Take the best pair that is left, again and again."""
    pairs = {}
    for i, a in enumerate(reference):
        for j, b in enumerate(predicted):
            shared = a.intersection(b).area
            pairs[i, j] = shared / (a.area + b.area - shared)
    found = []
    while pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))
        if pairs[best] <= min_iou:
            break
        found.append(best)
        pairs = {p: v for p, v in pairs.items() if p[0] != best[0] and p[1] != best[1]}
    return sorted(found)


def slow_distances(
    first: shapely.Polygon, second: shapely.Polygon, n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distances of n points each way, from each to every edge by hand."""

    def points(polygon: shapely.Polygon) -> NDArray[np.float64]:
        ring = polygon.exterior
        at = [ring.interpolate((k + 0.5) / n * ring.length) for k in range(n)]
        return np.array([(p.x, p.y) for p in at])

    def to_edges(points_xy: NDArray[np.float64], polygon: shapely.Polygon) -> NDArray[np.float64]:
        corners = np.array(polygon.exterior.coords)
        best = np.full(len(points_xy), np.inf)
        for a, b in itertools.pairwise(corners):
            along = np.clip((points_xy - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            nearest = a + along[:, None] * (b - a)
            best = np.minimum(best, np.hypot(*(points_xy - nearest).T))
        return best

    return to_edges(points(first), second), to_edges(points(second), first)


def random_polygons(n: int, seed: int, side: float = 60) -> NDArray[np.object_]:
    rng = np.random.default_rng(seed)
    made = []
    for x, y in rng.uniform(0, side, (n, 2)):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radius = rng.uniform(4, 9, 9)
        corners = np.column_stack((x + radius * np.cos(angle), y + radius * np.sin(angle)))
        made.append(shapely.convex_hull(shapely.MultiPoint(corners)))
    return array(made)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("min_iou", [0.0, 0.3, 0.5])
def test_matches_are_those_of_the_slow_twin(seed: int, min_iou: float) -> None:
    reference = random_polygons(20, seed)
    moved = [shapely.affinity.translate(p, 1.5, -1) for p in reference[:12]]
    # Outlines that overlap each other, so that some have several partners.
    predicted = array([*moved, *random_polygons(12, 100 + seed)])
    found = match_polygons(reference, predicted, min_iou)
    pairs = list(zip(found.reference_index.tolist(), found.predicted_index.tolist(), strict=True))
    assert pairs == slow_matches(list(reference), list(predicted), min_iou)
    assert len(pairs) > 3
    assert (found.iou > min_iou).all()


def test_matches_are_those_of_label_images() -> None:
    # Axis-parallel boxes on whole pixels are the same thing in both forms.
    rng = np.random.default_rng(2)
    images, polygons = [], []
    for shift in (0, 1):
        labels = np.zeros((120, 120), np.int64)
        boxes = []
        for k, (row, col) in enumerate((r, c) for r in range(6) for c in range(6)):
            height, width = rng.integers(6, 14, 2)
            y, x = 20 * row + 2 + shift, 20 * col + 2 + shift
            labels[y : y + height, x : x + width] = k + 1
            boxes.append(shapely.box(x, y, x + width, y + height))
        images.append(labels)
        polygons.append(array(boxes))
    exact, drawn = match_polygons(*polygons), match_instances(*images)
    assert (exact.reference_index + 1).tolist() == drawn.reference_label.tolist()
    assert (exact.predicted_index + 1).tolist() == drawn.predicted_label.tolist()
    assert exact.iou == pytest.approx(drawn.iou)
    assert 0 < len(exact.iou) < 36


def test_nothing_matches_nothing() -> None:
    some = random_polygons(3, 0)
    for pair in ((NONE, NONE), (NONE, some), (some, NONE)):
        assert len(match_polygons(*pair).iou) == 0
    hausdorff, mean = boundary_distances(NONE, NONE, 1.0)
    assert (len(hausdorff), len(mean)) == (0, 0)
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="min_iou"):
            match_polygons(some, some, wrong)


def test_iou_by_hand() -> None:
    a, b = shapely.box(0, 0, 4, 4), shapely.box(2, 0, 6, 4)
    ring = a.difference(shapely.box(1, 1, 3, 3))
    two = shapely.MultiPolygon([shapely.box(0, 0, 1, 4), shapely.box(3, 0, 4, 4)])
    iou = polygon_iou(array([a, a, a, a]), array([a, b, ring, two]))
    assert iou.tolist() == [1.0, pytest.approx(8 / 24), pytest.approx(12 / 16), 0.5]


def test_distances_by_hand() -> None:
    square = shapely.box(0, 0, 10, 10)
    larger = shapely.box(-1, -1, 11, 11)
    hausdorff, mean = boundary_distances(array([square, square]), array([larger, square]), 0.01)
    # From inside every point is 1 away; from outside, near the corners, up to sqrt(2), but that
    # is less than a twentieth of the outline.
    corner = 8 * 1.0 * (np.arcsinh(1.0) + math.sqrt(2)) / 2
    assert mean[0] == pytest.approx((40 + 40 + corner) / 88, abs=1e-4)
    assert 1.0 < hausdorff[0] < math.sqrt(1 + 0.8**2)
    assert (hausdorff[1], mean[1]) == (0.0, 0.0)
    whole, _ = boundary_distances(array([square]), array([larger]), 0.01, 100)
    assert whole[0] == pytest.approx(math.sqrt(2), abs=0.01)


def test_one_far_corner_does_not_count_in_the_percentile() -> None:
    square = shapely.box(0, 0, 100, 100)
    spike = square.union(shapely.Polygon([(40, 100), (41, 102), (42, 100)]))
    ninety_five, _ = boundary_distances(array([square]), array([spike]), 0.1)
    whole, _ = boundary_distances(array([square]), array([spike]), 0.1, 100)
    assert ninety_five[0] == pytest.approx(0.0, abs=1e-9)
    assert whole[0] == pytest.approx(2.0, abs=0.1)


def test_holes_have_outlines_too() -> None:
    full = shapely.box(0, 0, 10, 10)
    holed = full.difference(shapely.box(4, 4, 6, 6))
    hausdorff, _ = boundary_distances(array([full]), array([holed]), 0.05)
    # The hole is a sixth of the outline, and 4 px from the other everywhere.
    assert hausdorff[0] == pytest.approx(4.0)


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_the_slow_twin(seed: int) -> None:
    first, second = random_polygons(6, seed, 1), random_polygons(6, 50 + seed, 1)
    hausdorff, mean = boundary_distances(first, second, 0.02)
    for k in range(6):
        there, back = slow_distances(first[k], second[k], 4000)
        worst = max(np.percentile(there, 95), np.percentile(back, 95))
        assert hausdorff[k] == pytest.approx(worst, abs=0.02)
        weight = first[k].length, second[k].length
        assert mean[k] == pytest.approx(
            np.average([there.mean(), back.mean()], weights=weight), abs=0.02
        )


@pytest.mark.parametrize("wrong", [{"spacing": 0.0}, {"spacing": 1.0, "percentile": 101}])
def test_wrong_steps_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="spacing"):
        boundary_distances(NONE, NONE, **wrong)
