"""Chances, samples and what they say of the whole: by hand, by enumeration, by SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from wsiseg.evaluation.sampling import (
    Estimate,
    bootstrap,
    difference_total,
    inclusion_probabilities,
    student_t,
    systematic_sample,
)


def test_chances_go_with_size_and_add_up() -> None:
    assert inclusion_probabilities(np.array([1.0, 2, 3, 4]), 2).tolist() == pytest.approx(
        [0.2, 0.4, 0.6, 0.8]
    )
    # 10 of 14 would be above 1: it is certain, the rest share the other place.
    assert inclusion_probabilities(np.array([1.0, 1, 2, 10]), 2).tolist() == pytest.approx(
        [0.25, 0.25, 0.5, 1.0]
    )
    assert inclusion_probabilities(np.array([1.0, 5]), 2).tolist() == [1, 1]
    assert inclusion_probabilities(np.array([1.0, 5]), 9).tolist() == [1, 1]
    assert inclusion_probabilities(np.array([1.0, 5]), 0).tolist() == [0, 0]
    assert len(inclusion_probabilities(np.empty(0), 3)) == 0
    for size, n in ((np.array([0.0, 1]), 1), (np.ones(2), -1)):
        with pytest.raises(ValueError, match="is needed"):
            inclusion_probabilities(size, n)


def test_each_is_drawn_as_often_as_its_chance_says() -> None:
    rng = np.random.default_rng(0)
    chance = inclusion_probabilities(np.append(rng.uniform(0.1, 1, 12), 9.0), 4)
    n_draws = 8000
    times = np.zeros(13)
    for _ in range(n_draws):
        drawn = systematic_sample(chance, rng)
        assert len(np.unique(drawn)) == len(drawn) == 4
        times[drawn] += 1
    error = np.sqrt(chance * (1 - chance) / n_draws)
    assert (np.abs(times / n_draws - chance) <= 4 * error).all()
    assert len(systematic_sample(np.ones(3), rng)) == 3
    assert len(systematic_sample(np.empty(0), rng)) == 0


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 14, 29, 200])
def test_student_t_is_scipys(df: int) -> None:
    assert student_t(df) == pytest.approx(scipy.stats.t.ppf(0.975, df), rel=1e-9)


def test_student_t_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        student_t(0)


def test_the_estimate_is_right_on_average() -> None:
    # Every sample of 2 of 5, each as likely: the mean of the estimates is the truth.
    known = np.array([10.0, 20, 30, 0, 5])
    true = np.array([9.0, 25, 30, 2, 5])
    chance = np.full(5, 2 / 5)
    values = []
    for pair in itertools.combinations(range(5), 2):
        k = list(pair)
        values.append(difference_total(known.sum(), (true - known)[k], chance[k]).value)
    assert np.mean(values) == pytest.approx(true.sum())
    assert len(set(values)) > 3


def test_the_interval_by_hand() -> None:
    # Equal chances: the usual formula for a simple random sample, N² (1 - f) s² / n.
    difference = np.array([-2.0, 0, -3, -1, 0, -6])
    n, of = 6, 40
    found = difference_total(500, difference, np.full(n, n / of))
    spread = of * math.sqrt((1 - n / of) * difference.var(ddof=1) / n)
    half = scipy.stats.t.ppf(0.975, n - 1) * spread
    assert found.value == pytest.approx(500 + of * difference.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_no_error_in_a_sample_is_no_proof_of_none() -> None:
    found = difference_total(100, np.zeros(10), np.full(10, 0.1))
    # 0.9 of the squares were not seen; 3.69 = -ln(0.025) errors could have been missed.
    half = 10 * 0.9 * -math.log(0.025)
    assert (found.value, found.low, found.high) == pytest.approx((100, 100 - half, 100 + half))
    assert difference_total(0, np.zeros(10), np.full(10, 0.1)).low == 0
    assert difference_total(100, np.zeros(3), np.ones(3)) == Estimate(100, 100, 100)


def test_samples_too_small_for_an_interval() -> None:
    assert difference_total(100, np.empty(0), np.empty(0)) == Estimate(None)
    assert difference_total(100, np.array([-1.0]), np.array([0.5])) == Estimate(98)
    assert difference_total(1, np.array([-1.0]), np.array([0.5])) == Estimate(0)


def _share(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = sums[:, 1]
    share = np.divide(sums[:, 0], whole, out=np.full(len(sums), np.nan), where=whole > 0)
    return np.column_stack((share, sums[:, 0]))


def test_a_bootstrap_weighs_its_units() -> None:
    sums = np.array([[1.0, 4], [3, 4]])
    share, total = bootstrap(_share, sums, np.array([3.0, 1]), 0)
    assert share.value == pytest.approx((3 * 1 + 3) / 16)
    assert (share.low, share.high) == (0.25, 0.75)
    assert total.value == 6
    again, _ = bootstrap(_share, sums, np.array([3.0, 1]), 0)
    assert again == share


def test_bootstrap_intervals_hold_the_truth_and_shrink() -> None:
    rng = np.random.default_rng(3)
    held, widths = {10: 0, 90: 0}, {10: 0.0, 90: 0.0}
    for k in range(200):
        for n in widths:
            whole = rng.integers(5, 30, n).astype(float)
            part = rng.binomial(whole.astype(int), 0.7).astype(float)
            found, _ = bootstrap(_share, np.column_stack((part, whole)), np.ones(n), k, 300)
            widths[n] += found.high - found.low
            held[n] += found.low <= 0.7 <= found.high
    # 95 % of 200 are 190; plain percentiles of 10 units hold about 180.
    assert 183 <= held[10] <= 198
    assert 183 <= held[90] <= 198
    # By the root of 9, and what Student's t adds for few units.
    added = 2.262 * math.sqrt(10 / 9) / (1.987 * math.sqrt(90 / 89))
    assert widths[10] / widths[90] == pytest.approx(3 * added, rel=0.1)


def test_what_is_not_defined_has_no_interval() -> None:
    assert bootstrap(_share, np.empty((0, 2)), np.empty(0), 0) == [Estimate(None), Estimate(0.0)]
    one, _ = bootstrap(_share, np.array([[1.0, 2]]), np.ones(1), 0)
    assert one == Estimate(0.5)
    empty, _ = bootstrap(_share, np.zeros((5, 2)), np.ones(5), 0)
    assert empty == Estimate(None)
    # In a third of the samples of 3 the only unit with anything is missing.
    rare, total = bootstrap(_share, np.array([[1.0, 2], [0, 0], [0, 0]]), np.ones(3), 0)
    assert rare == Estimate(0.5)
    assert total.low == 0
