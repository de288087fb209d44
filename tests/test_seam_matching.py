"""Matching nuclei by their pixel runs, against label images compared pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from wsiseg.evaluation.metrics import match_instances
from wsiseg.geometry import Box
from wsiseg.outlines import trace_mask
from wsiseg.seam_check._cells import masks_of_polygons
from wsiseg.seam_check._matching import Masks, joined_masks, match_masks, shared_pixels
from wsiseg.seam_check._views import labels_in


def masks_of(labels: NDArray[np.int64]) -> Masks:
    """Return the instances 1 … n of a label image, one run after the other."""
    runs: list[list[tuple[int, int, int]]] = [[] for _ in range(int(labels.max(initial=0)))]
    for row, line in enumerate(labels.tolist()):
        start = 0
        for col in range(1, len(line) + 1):
            if col == len(line) or line[col] != line[start]:
                if line[start]:
                    runs[line[start] - 1].append((row, start, col))
                start = col
    counts = [len(each) for each in runs]
    flat = np.array([run for each in runs for run in each], np.int32).reshape(-1, 3)
    return Masks(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), flat)


def random_labels(rng: np.random.Generator, shape: tuple[int, int], n: int) -> NDArray[np.int64]:
    """Return blobs that may touch, hide one another and fall apart, as 1 … n without gaps."""
    labels = np.zeros(shape, np.int64)
    row, col = np.indices(shape)
    for label in range(1, n + 1):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        high, wide = rng.uniform(1, 6, 2)
        labels[((row - y) / high) ** 2 + ((col - x) / wide) ** 2 < 1] = label
    _, renumbered = np.unique(np.append(0, labels.ravel()), return_inverse=True)
    return renumbered[1:].reshape(shape)


def pairs_of_images(n: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return random images, some of them much alike, some empty."""
    rng = np.random.default_rng(7)
    found = []
    for i in range(n):
        shape = (int(rng.integers(1, 50)), int(rng.integers(1, 50)))
        first = random_labels(rng, shape, int(rng.integers(0, 25)))
        second = random_labels(rng, shape, int(rng.integers(0, 25)))
        if i % 3:
            second = np.roll(first, (int(rng.integers(-2, 3)), 1), (0, 1))
            _, second = np.unique(np.append(0, second.ravel()), return_inverse=True)
            second = second[1:].reshape(shape)
        found.append((first, second))
    return found


def test_shared_pixels_are_those_of_the_label_images() -> None:
    n_pairs = 0
    for first, second in pairs_of_images(60):
        i, j, shared_px = shared_pixels(masks_of(first), masks_of(second))
        slow = {
            (a, b): int(((first == a + 1) & (second == b + 1)).sum())
            for a in range(first.max())
            for b in range(second.max())
        }
        expected = {pair: n for pair, n in slow.items() if n}
        assert dict(zip(zip(i.tolist(), j.tolist(), strict=True), shared_px, strict=True)) == (
            expected
        )
        n_pairs += len(expected)
    assert n_pairs > 500


def slow_holds_two(first: NDArray[np.int64], second: NDArray[np.int64]) -> list[bool]:
    found = []
    for a in range(1, first.max() + 1):
        mine = first == a
        n = 0
        for b in range(1, second.max() + 1):
            other = second == b
            n += 2 * (mine & other).sum() > min(mine.sum(), other.sum())
        found.append(n > 1)
    return found


def test_matches_are_those_of_the_label_images() -> None:
    n_matched = n_doubled = 0
    for first, second in pairs_of_images(60):
        found = match_masks(masks_of(first), masks_of(second))
        slow = match_instances(first, second)
        matched = np.flatnonzero(found.partner >= 0)
        assert (matched + 1).tolist() == slow.reference_label.tolist()
        assert (found.partner[matched] + 1).tolist() == slow.predicted_label.tolist()
        assert found.iou[matched].tolist() == slow.iou.tolist()
        assert not found.iou[found.partner < 0].any()
        assert np.flatnonzero(found.is_matched).tolist() == sorted(found.partner[matched].tolist())
        assert found.holds_two.tolist() == slow_holds_two(first, second)
        assert found.is_two.tolist() == slow_holds_two(second, first)
        n_matched += len(matched)
        n_doubled += int(found.holds_two.sum() + found.is_two.sum())
    assert n_matched > 100
    assert n_doubled > 30


def test_size_and_middle_are_those_of_the_pixels() -> None:
    for labels, _ in pairs_of_images(20):
        masks = masks_of(labels)
        x, y = masks.centroid_px
        for i in range(labels.max()):
            rows, cols = np.nonzero(labels == i + 1)
            assert masks.area_px[i] == len(rows)
            assert (x[i], y[i]) == pytest.approx((cols.mean() + 0.5, rows.mean() + 0.5), abs=1e-9)


def test_taking_and_joining() -> None:
    labels = random_labels(np.random.default_rng(1), (40, 40), 12)
    masks = masks_of(labels)
    index = np.array([3, 0, 7])
    taken = masks.taken(index)
    assert np.array_equal(taken.area_px, masks.area_px[index])
    box = Box(0, 0, 40, 40)
    again = joined_masks([taken, masks.taken(np.array([], np.int64)), masks.taken(np.array([5]))])
    expected = np.zeros_like(labels)
    for number, i in enumerate([3, 0, 7, 5], 1):
        expected[labels == i + 1] = number
    assert np.array_equal(labels_in(again, box), expected)
    assert len(joined_masks([])) == 0
    inner = Box(5, 9, 17, 8)
    assert np.array_equal(labels_in(masks, inner), labels[inner.slices_in(box)])


@pytest.mark.parametrize("scale", [1.0, 0.50098, 2.0157, 0.25 / 0.2273])
def test_polygons_give_their_pixels_back(scale: float) -> None:
    rng = np.random.default_rng(3)
    expected, polygons = [], []
    for i in range(60):
        labels = random_labels(rng, (30, 30), 4) > 0
        # Holes, and places where only corners touch.
        labels &= rng.uniform(size=labels.shape) < (1.0 if i % 2 else 0.9)
        outlines = trace_mask(labels)
        if not len(outlines):
            continue
        offset = np.array([1000 * i, 37 * i])
        for piece in range(len(outlines)):
            rings = [
                (outlines.vertices_half_px[a:b] / 2 + offset) * scale
                for a, b in zip(
                    outlines.first_vertex[
                        outlines.first_ring[piece] : outlines.first_ring[piece + 1]
                    ],
                    outlines.first_vertex[
                        outlines.first_ring[piece] + 1 : outlines.first_ring[piece + 1] + 1
                    ],
                    strict=True,
                )
            ]
            polygons.append(shapely.Polygon(rings[0], rings[1:]))
        expected.append((offset, labels, len(outlines)))
    found = masks_of_polygons(np.array(polygons), scale)
    assert len(found) == len(polygons) > 100
    first = 0
    for (x_px, y_px), labels, n in expected:
        painted = labels_in(found, Box(int(x_px), int(y_px), 30, 30))
        assert np.array_equal(painted > 0, labels)
        assert set(painted[painted > 0].tolist()) == set(range(first + 1, first + n + 1))
        first += n
    none = masks_of_polygons(np.array([], object), scale)
    assert len(none) == 0
