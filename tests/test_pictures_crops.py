"""Which places of a slide are shown."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from wsiseg import _crops
from wsiseg.pictures import Centroids, choose_crops

TILES = [(x, y, 500.0, 500.0) for y in (0.0, 500.0, 1000.0) for x in (0.0, 500.0, 1000.0)]


def a_slide(seed: int = 0, n: int = 800) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centroids all over the tiles, and three nests."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0, 1500, (n, 2))
    nests = [rng.normal(at, 30, (150, 2)) for at in ((300, 300), (1200, 250), (700, 1300))]
    x, y = np.clip(np.vstack([spread, *nests]), 0, 1499).T
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def whole(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[Centroids]:
    certainty = np.random.default_rng(9).uniform(0.3, 1, len(x)).astype(np.float32)
    # Some the network did not judge.
    certainty[::17] = np.nan
    return [Centroids(np.arange(1, len(x) + 1), x, y, certainty)]


def choose(seed: int = 0, crop_px: float = 150.0) -> list[Any]:
    x, y = a_slide()
    return choose_crops(whole(x, y), [500.0, 1000.0], [500.0, 1000.0], TILES, seed, crop_px)


@pytest.mark.parametrize("n_pieces", [2, 7, 300])
def test_pieces_make_no_difference(n_pieces: int) -> None:
    x, y = a_slide()
    (everything,) = whole(x, y)
    edges = np.linspace(0, len(x), n_pieces + 1).astype(int)
    pieces = [
        Centroids(*(part[a:b] for part in everything if part is not None))
        for a, b in itertools.pairwise(edges)
    ]
    seams = [500.0, 1000.0]
    assert choose_crops(iter(pieces), seams, seams, TILES, 0, 150.0) == choose(0)


def test_the_candidates_on_seams_are_those_of_the_smallest_hashes() -> None:
    x, y = a_slide()
    (everything,) = whole(x, y)
    hashes = _crops._hashed(everything.cell_id, 5)
    assert len(np.unique(hashes)) == len(x)
    gap = [np.minimum(abs(v - 500), abs(v - 1000)) for v in (x, y)]
    near = [i for i in np.argsort(hashes).tolist() if min(gap[0][i], gap[1][i]) <= 150 / 4]
    beside = _crops._Beside([500.0, 1000.0], [500.0, 1000.0], 150 / 4, 5)
    for a in range(0, len(x), 100):
        beside.add(Centroids(*(part[a : a + 100] for part in everything if part is not None)))
    found = list(beside.places())
    assert len(found) == min(len(near), 256)
    for (seam_x, seam_y, upright), i in zip(found, near, strict=False):
        assert upright == (gap[0][i] <= gap[1][i])
        assert (seam_y if upright else seam_x) == (y[i] if upright else x[i])
        assert (seam_x if upright else seam_y) in (500, 1000)


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    a, b = (shapely.box(x, y, x + w, y + h) for x, y, w, h in (one, other))
    return bool(a.intersection(b).area > 0)


@pytest.mark.parametrize("seed", range(5))
def test_three_crops_of_each_kind_apart_and_inside(seed: int) -> None:
    choices = choose(seed)
    kinds = ("random", "densest", "uncertain", "seam")
    assert [choice.kind for choice in choices] == [kind for kind in kinds for _ in range(3)]
    for one, other in itertools.combinations(choices, 2):
        assert not overlap(one.box, other.box)
    for choice in choices:
        x, y, width, height = choice.box
        assert width == height == 150
        assert min(x, y) >= 0
        assert max(x, y) <= 1350


def test_equal_seeds_give_equal_crops_and_others_do_not() -> None:
    assert choose(3) == choose(3)
    first, second = choose(3), choose(4)
    boxes = [{c.box for c in chosen if c.kind in ("random", "seam")} for chosen in (first, second)]
    assert not boxes[0] & boxes[1]


def n_inside(box: tuple[float, ...], x: NDArray[np.float64], y: NDArray[np.float64]) -> int:
    left, top, width, height = box
    return int(np.sum((x >= left) & (x < left + width) & (y >= top) & (y < top + height)))


def test_the_densest_crop_is_that_of_the_slow_twin() -> None:
    x, y = a_slide()
    steps = np.arange(-75, 1500, 75)
    crops = [(min(max(a, 0), 1350), min(max(b, 0), 1350), 150, 150) for a in steps for b in steps]
    best = max(n_inside(box, x, y) for box in crops)
    # Without seams nothing is taken before the densest ones.
    choices = choose_crops(whole(x, y), [], [], TILES, 0, 150)
    densest = [choice.box for choice in choices if choice.kind == "densest"]
    assert n_inside(densest[0], x, y) == best
    for nest in ((300, 300), (1200, 250), (700, 1300)):
        assert any(n_inside(box, np.array(nest[:1]), np.array(nest[1:])) for box in densest)


def test_the_least_certain_crop_is_that_of_the_slow_twin() -> None:
    x, y = a_slide()
    (everything,) = whole(x, y)
    certainty = np.asarray(everything.certainty, np.float64)
    known = np.isfinite(certainty)

    def mean(box: tuple[float, ...]) -> float:
        left, top, width, height = box
        inside = known & (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        return float(certainty[inside].mean()) if inside.sum() >= _crops.LEAST_JUDGED else np.inf

    steps = np.arange(-75, 1500, 75)
    left, top = min(((a, b) for a in steps for b in steps), key=lambda at: mean((*at, 150, 150)))
    # Without seams nothing is taken before the least certain ones.
    choices = choose_crops([everything], [], [], TILES, 0, 150)
    found = [choice.box for choice in choices if choice.kind == "uncertain"]
    assert len(found) == 3
    assert found[0] == (min(max(left, 0), 1350), min(max(top, 0), 1350), 150, 150)


def test_without_certainties_or_enough_nuclei_nothing_is_least_certain() -> None:
    x, y = a_slide()
    unknown = Centroids(np.arange(len(x)), x, y)
    nowhere = unknown._replace(certainty=np.full(len(x), np.nan))
    few = Centroids(np.arange(5), x[:5], y[:5], np.zeros(5))
    for piece in (unknown, nowhere, few):
        kinds = {choice.kind for choice in choose_crops([piece], [], [], TILES, 0, 1500)}
        assert "uncertain" not in kinds


def test_seam_crops_are_centred_on_a_seam_beside_a_nucleus() -> None:
    x, y = a_slide()
    for choice in choose(1):
        if choice.kind != "seam":
            continue
        left, top, side, _ = choice.box
        centre = (left + side / 2, top + side / 2)
        assert {500.0, 1000.0} & set(centre)
        assert np.hypot(x - centre[0], y - centre[1]).min() <= side / 4


def test_there_is_no_seam_beside_a_tile_that_did_not_run() -> None:
    x, y = a_slide()
    alone = [TILES[4]]
    kinds = {c.kind for c in choose_crops(whole(x, y), [500, 1000], [500, 1000], alone, 0, 100)}
    assert "seam" not in kinds


@pytest.mark.parametrize("scale", [0.501, 4.0])
def test_choices_scale_with_the_frame(scale: float) -> None:
    x, y = a_slide()
    seams = [500.0 * scale, 1000.0 * scale]
    tiles = [tuple(v * scale for v in tile) for tile in TILES]
    scaled = choose_crops(whole(x * scale, y * scale), seams, seams, tiles, 0, 150 * scale)
    for one, other in zip(choose(0), scaled, strict=True):
        assert np.allclose(np.array(one.box) * scale, other.box)


def test_small_and_empty_slides() -> None:
    none = np.empty(0)
    assert choose_crops(whole(none, none), [], [], [], 0, 256) == []
    one = choose_crops(whole(none, none), [], [], [(0, 0, 1, 1)], 0, 256)
    assert [(c.kind, c.box) for c in one] == [("random", (0, 0, 256, 256))]
    both = choose_crops(whole(np.array([0.5]), np.array([0.5])), [], [], [(0, 0, 1, 1)], 0, 256)
    assert [c.kind for c in both] == ["random", "densest"]
