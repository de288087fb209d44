"""Intervals: equal to their slow twins, and as often right as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slow_intervals as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wsiseg.answers.intervals import (
    UNKNOWN,
    density_of_tiles,
    density_of_units,
    dominance,
    poisson_variance,
    ratio_of_means,
    shift,
)


@pytest.mark.parametrize("seed", range(8))
def test_tiles_are_those_of_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = int(rng.integers(4, 12))
    row, col = (axis.ravel() for axis in np.indices((side, side)) + rng.integers(-5, 5))
    there = rng.random(side**2) < 0.9
    row, col = row[there], col[there]
    area = rng.uniform(0.2, 1, len(row))
    n = rng.negative_binomial(2, 0.1, len(row)).astype(float)
    found = density_of_tiles(n, area, row, col)
    places = list(zip(row.tolist(), col.tolist(), strict=True))
    assert (found.low, found.high) == pytest.approx(slow.tiles(n.tolist(), area.tolist(), places))


positive = st.floats(0.1, 1000)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=12))
def test_units_are_those_of_the_slow_twin(units: list[tuple[float, float]]) -> None:
    n, area = map(np.array, zip(*units, strict=True))
    found = density_of_units(n, area)
    low, high = slow.units(n.tolist(), area.tolist())
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=4, max_size=10),
    st.lists(st.integers(1, 50), min_size=4, max_size=10),
)
def test_groups_are_those_of_the_slow_twin(a: list[int], b: list[int]) -> None:
    x, y = np.array(a, float), np.array(b, float)
    moved = shift(x, y)
    median, low, high = slow.shift(a, b)
    if len({*a}) == len({*b}) == 1:
        low = high = None
    assert (moved.value, moved.interval.low, moved.interval.high) == (median, low, high)
    delta = dominance(x, y)
    assert delta.value == pytest.approx(slow.delta(a, b))
    assert delta.interval.low is not None
    assert delta.interval.high is not None
    assert -1 <= delta.interval.low <= delta.value <= delta.interval.high <= 1
    turned = dominance(y, x)
    assert turned.interval.low == pytest.approx(-delta.interval.high)
    if len(set(a)) > 1 or len(set(b)) > 1:
        found = ratio_of_means(x, y)
        assert (found.interval.low, found.interval.high) == pytest.approx(slow.ratio(a, b))


def test_what_cannot_be_known_is_not_given() -> None:
    one, none = np.array([4.0]), np.array([])
    row = np.zeros(1, np.int64)
    assert density_of_units(one, one) == UNKNOWN
    assert density_of_units(none, none) == UNKNOWN
    assert density_of_tiles(one, one, row, row) == UNKNOWN
    assert density_of_tiles(none, none, row[:0], row[:0]) == UNKNOWN
    assert ratio_of_means(one, one).interval == UNKNOWN
    assert ratio_of_means(np.zeros(3), np.ones(3)).value is None
    assert ratio_of_means(np.ones(3), np.zeros(3)).value == 0
    assert ratio_of_means(np.ones(3), np.zeros(3)).interval == UNKNOWN
    assert shift(np.arange(3.0), np.arange(3.0)).interval == UNKNOWN
    assert shift(np.arange(4.0), np.arange(4.0)).interval != UNKNOWN
    assert shift(np.zeros(9), np.zeros(9)).interval == UNKNOWN
    assert ratio_of_means(np.ones(9), np.ones(9)).interval == UNKNOWN
    assert dominance(none, one).value is None


def test_nothing_found_has_the_upper_end_of_a_count_of_none() -> None:
    found = density_of_units(np.zeros(4), np.full(4, 2.5))
    assert found.low == 0
    # With that density, 2.5 % of areas as large would hold none.
    assert found.high is not None
    assert math.exp(-10 * found.high) == pytest.approx(0.025)


def test_units_that_agree_are_no_surer_than_their_nuclei() -> None:
    for n in (1.0, 5.0):
        found = density_of_units(np.full(2, n), np.ones(2))
        low, high = stats.chi2.ppf([0.025, 0.975], [4 * n, 4 * n + 2]) / 4
        assert (found.low, found.high) == pytest.approx((low, high))
    row, col = (axis.ravel() for axis in np.indices((6, 6)))
    even = density_of_tiles(np.ones(36), np.ones(36), row, col)
    low, high = stats.chi2.ppf([0.025, 0.975], [72, 74]) / 72
    assert (even.low, even.high) == pytest.approx((low, high))


def test_a_ratio_is_no_surer_than_the_nuclei_behind_it() -> None:
    n, area = np.full(4, 5.0), np.ones(4)
    least = poisson_variance(n, area)
    assert least == pytest.approx(1 / 20)
    found = ratio_of_means(n / area, n / area, 0.95, (least, least)).interval
    width = stats.t.ppf(0.975, 6) * math.sqrt(2 / 20)
    assert (found.low, found.high) == pytest.approx((math.exp(-width), math.exp(width)))
    # Against counts drawn anew: the mean of densities over unequal areas.
    area = np.array([0.5, 2.0, 3.0])
    drawn = np.random.default_rng(3).poisson(200 * area, (20000, 3))
    spread = np.log((drawn / area).mean(axis=1)).var()
    assert poisson_variance(200 * area, area) == pytest.approx(spread, rel=0.05)
    assert poisson_variance(np.zeros(3), area) == 0


def coverage_of_slides(side: int, spread_tiles: float, repeats: int) -> tuple[float, float]:
    """Return how often the interval held the density of clustered nuclei, and a naive one did."""
    rng = np.random.default_rng(5)
    row, col = (axis.ravel() for axis in np.indices((side, side)))
    density, of_parent, margin = 20.0, 40.0, 4 * spread_tiles
    held = naive = 0
    for _ in range(repeats):
        n_parents = rng.poisson(density / of_parent * (side + 2 * margin) ** 2)
        parents = rng.uniform(-margin, side + margin, (n_parents, 2))
        place = np.repeat(parents, rng.poisson(of_parent, n_parents), axis=0)
        place = place + rng.normal(0, spread_tiles, place.shape)
        inside = ((place >= 0) & (place < side)).all(axis=1)
        n = np.zeros((side, side))
        np.add.at(n, tuple(place[inside].astype(int).T), 1)
        found = density_of_tiles(n.ravel(), np.ones(side**2), row, col)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= density <= found.high
        naive += abs(n.sum() / side**2 - density) <= 1.96 * math.sqrt(n.sum()) / side**2
    return held / repeats, naive / repeats


@pytest.mark.parametrize(("side", "spread_tiles"), [(6, 0.3), (15, 0.5), (25, 0.7)])
def test_the_interval_of_a_slide_holds_the_truth_though_nuclei_cluster(
    side: int, spread_tiles: float
) -> None:
    held, naive = coverage_of_slides(side, spread_tiles, 200)
    assert held >= 0.90
    # A count taken for Poisson's would be right hardly ever.
    assert naive < 0.5


def test_the_ratio_of_groups_holds_the_truth() -> None:
    rng = np.random.default_rng(6)
    held, repeats = 0, 600
    for _ in range(repeats):
        a = rng.gamma(4, 25, 12)
        b = rng.gamma(4, 25 * 0.7, 15)
        found = ratio_of_means(a, b).interval
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.7 <= found.high
    # Four standard errors of a share of 95 % over as many trials.
    assert held / repeats == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / repeats))
