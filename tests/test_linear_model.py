"""The linear model against scipy's minimiser and against known answers."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from wsiseg.classes.cross_validation import (
    accuracy_interval,
    balanced_accuracy,
    best_strength,
    confusion,
    cross_validate,
    deal_folds,
    most_folds,
)
from wsiseg.classes.linear_model import (
    STRENGTHS,
    fit,
    fit_model,
    model_from_json,
    robust_scaling,
    softmax,
)
from wsiseg.errors import UsageError


def blobs(
    n: int, k: int, p: int, apart: float, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Classes of unequal size around different centres."""
    rng = np.random.default_rng(seed)
    label = rng.choice(k, n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    label[:k] = np.arange(k)
    return rng.normal(size=(n, p)) + apart * rng.normal(size=(k, p))[label], label


def slow_fit(x: Any, label: Any, k: int, strength: float) -> Any:
    """The loss as the docstring says it, minimised by somebody else's method."""

    def loss(flat: Any) -> float:
        theta = flat.reshape(k, -1)
        scores = x @ theta[:, :-1].T + theta[:, -1]
        log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        means = [-log_p[label == c, c].mean() for c in range(k)]
        return float(np.mean(means) + strength / 2 * (theta[:, :-1] ** 2).sum())

    return minimize(loss, np.zeros(k * (x.shape[1] + 1)), tol=1e-10).x.reshape(k, -1)


@pytest.mark.parametrize(("k", "p", "strength"), [(2, 1, 0.1), (3, 4, 0.01), (4, 3, 1.0)])
def test_the_fit_is_that_of_another_minimiser(k: int, p: int, strength: float) -> None:
    x, label = blobs(150, k, p, 1.0)
    ours, slow = (
        t - t.mean(axis=0)
        for t in (fit(x, label, k, strength, None), slow_fit(x, label, k, strength))
    )
    np.testing.assert_allclose(ours, slow, atol=2e-4)
    assert np.abs(ours).max() > 0.05


def slow_newton(x: Any, label: Any, k: int, strength: float) -> Any:
    """Newton's method as in a textbook: the whole Hessian, and its pseudo-inverse."""
    design = np.column_stack([x, np.ones(len(x))])
    share = 1 / (k * np.bincount(label)[label])
    ridge = np.tile(np.append(np.full(x.shape[1], strength), 0.0), k)
    theta = np.zeros(k * design.shape[1])
    for _ in range(30):
        p = softmax(design @ theta.reshape(k, -1).T)
        gradient = ((share[:, None] * (p - np.eye(k)[label])).T @ design).ravel() + ridge * theta
        curvature = share[:, None, None] * (p[:, :, None] * np.eye(k) - p[:, :, None] * p[:, None])
        hessian = np.einsum("nab,ni,nj->aibj", curvature, design, design, optimize=True)
        hessian = hessian.reshape(len(theta), -1) + np.diag(ridge)
        theta = theta - np.linalg.pinv(hessian, hermitian=True) @ gradient
    return theta.reshape(k, -1)


@pytest.mark.parametrize(("n", "k", "p", "strength"), [(60, 6, 8, 0.001), (40, 3, 12, 0.01)])
def test_the_fit_is_that_of_whole_matrices(n: int, k: int, p: int, strength: float) -> None:
    x, label = blobs(n, k, p, 0.7)
    x = np.column_stack([x, x[:, :2] + 0.01 * x[:, 2:4]])
    ours = fit(x, label, k, strength, None)
    np.testing.assert_allclose(ours, slow_newton(x, label, k, strength), atol=1e-4)
    assert (fit(x, label, k, strength, None) == ours).all()


def test_twenty_classes_take_no_time() -> None:
    """Whole matrices of 520 weights took a hundred times as long."""
    x, label = blobs(120, 20, 25, 1.0)
    begun = time.process_time()
    fit(x, label, 20, 0.01, None)
    assert time.process_time() - begun < 1


def test_the_start_changes_nothing_and_the_order_neither() -> None:
    x, label = blobs(80, 3, 5, 1.0)
    ours = fit(x, label, 3, 0.01, None)
    rng = np.random.default_rng(1)
    np.testing.assert_allclose(fit(x, label, 3, 0.01, rng.normal(size=(3, 6))), ours, atol=1e-6)
    order = rng.permutation(80)
    np.testing.assert_allclose(fit(x[order], label[order], 3, 0.01, None), ours, atol=1e-6)


def test_separable_examples_have_finite_weights() -> None:
    x, label = blobs(60, 2, 3, 50.0)
    theta = fit(x, label, 2, min(STRENGTHS), None)
    assert np.isfinite(theta).all()
    assert (softmax(x @ theta[:, :-1].T + theta[:, -1]).argmax(axis=1) == label).all()


def test_classes_weigh_the_same_however_common() -> None:
    x = np.concatenate([np.zeros((10, 1)), np.zeros((990, 1))])
    theta = fit(x, np.repeat([0, 1], [10, 990]), 2, 0.1, None)
    np.testing.assert_allclose(softmax(theta[:, -1:].T), 0.5, atol=1e-6)


def test_scaling_is_robust_and_fills_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(50, 4, 2001), np.zeros(2001), rng.normal(size=2001)])
    values[0, 0] = 1e9
    values[1:4, [0, 2]] = np.nan
    scaling = robust_scaling(values, {2: 100.0})
    assert scaling.centre[0] == pytest.approx(50, abs=0.5)
    assert scaling.scale[0] == pytest.approx(4, rel=0.1)
    scaled = scaling(values)
    assert np.isfinite(scaled).all()
    assert scaled[0, 0] == 5
    assert scaled[1, 0] == pytest.approx(0, abs=1e-9)
    assert scaled[1, 2] == 5
    assert (scaled[:, 1] == 0).all()


def test_a_model_goes_through_json_unchanged() -> None:
    x, label = blobs(60, 3, 4, 1.0)
    model = fit_model(x, label, list("abcd"), ["A", "B", "C"], 0.1, {})
    again = model_from_json(json.loads(json.dumps(model.to_json())))
    assert (again.probabilities(x) == model.probabilities(x)).all()
    np.testing.assert_allclose(model.weights.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(model.probabilities(x).sum(axis=1), 1)
    with pytest.raises(UsageError, match="the class 'D' has no example"):
        fit_model(x, label, list("abcd"), ["A", "B", "C", "D"], 0.1, {})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("weights", [[0.0]], "weights is not of 3 × 4 numbers"),
        ("scale", [1, 1, 1, float("nan")], "scale is not of 4 numbers"),
        ("intercepts", None, "intercepts is not of 3 numbers"),
        ("features", 3, "missing or damaged"),
    ],
)
def test_damaged_models_are_refused(key: str, value: Any, said: str) -> None:
    x, label = blobs(60, 3, 4, 1.0)
    json_form = fit_model(x, label, list("abcd"), ["A", "B", "C"], 0.1, {}).to_json()
    with pytest.raises(ValueError, match=said):
        model_from_json(json_form | {key: value})
    with pytest.raises(ValueError, match="missing or damaged"):
        model_from_json({k: v for k, v in json_form.items() if k != key})


def test_folds_keep_groups_whole_and_spread_classes() -> None:
    rng = np.random.default_rng(0)
    group = np.sort(rng.integers(0, 40, 400))
    label = (group * 7 % 3).astype(np.int64)
    fold = deal_folds(label, group, 5, 0)
    assert set(fold.tolist()) == set(range(5))
    for g in np.unique(group):
        assert len(np.unique(fold[group == g])) == 1
    for k in range(3):
        shares = np.bincount(fold[label == k], minlength=5) / (label == k).sum()
        assert (shares > 0.08).all()
        assert (shares < 0.35).all()
    assert (deal_folds(label, group, 5, 0) == fold).all()
    assert (deal_folds(label, group, 5, 1) != fold).any()


def test_clicks_are_dealt_evenly() -> None:
    label = np.repeat([0, 1, 2], [20, 20, 5])
    fold = deal_folds(label, np.arange(45), 5, 3)
    for k, n in ((0, 4), (1, 4), (2, 1)):
        assert np.bincount(fold[label == k], minlength=5).tolist() == [n] * 5


def test_cross_validation_sees_no_example_it_judges() -> None:
    """Labels drawn by lot cannot be told; a model that had seen them would tell them."""
    rng = np.random.default_rng(0)
    values, label = rng.normal(size=(90, 25)), np.arange(90) % 3
    checked = cross_validate(values, label, np.arange(90), {}, 0)
    assert checked is not None
    table = confusion(label, checked.probabilities.argmax(axis=1), 3)
    assert balanced_accuracy(table) < 0.5
    model = fit_model(values, label, [str(i) for i in range(25)], list("ABC"), 0.003, {})
    seen = confusion(label, model.probabilities(values).argmax(axis=1), 3)
    assert balanced_accuracy(seen) > 0.7


def test_groups_that_are_copies_are_seen_through() -> None:
    """Twenty nuclei a group, alike but for noise, in classes drawn by lot."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 20)
    label = np.repeat(np.arange(20) % 2, 20)
    values = rng.normal(size=(20, 10))[group] + 0.1 * rng.normal(size=(400, 10))
    whole = cross_validate(values, label, group, {}, 0)
    torn = cross_validate(values, label, np.arange(400), {}, 0)
    assert whole is not None
    assert torn is not None
    honest, naive = (
        balanced_accuracy(confusion(label, each.probabilities.argmax(axis=1), 2))
        for each in (whole, torn)
    )
    assert naive > 0.75
    assert honest < naive - 0.2


def test_noise_wants_a_strong_penalty_and_clear_classes_a_weak_one() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(100) % 2
    noise = rng.normal(size=(100, 30))
    assert best_strength(noise, label, np.arange(100), {}, 0) == max(STRENGTHS)
    clear = noise.copy()
    clear[:, 0] += 20 * label
    assert best_strength(clear, label, np.arange(100), {}, 0) < 0.1


def test_one_group_cannot_be_checked() -> None:
    values, label = blobs(40, 2, 3, 1.0)
    group = np.where(label == 0, 0, np.arange(40))
    assert most_folds(label, group) == 1
    assert cross_validate(values, label, group, {}, 0) is None


def test_the_interval_of_the_balanced_accuracy() -> None:
    table = np.array([[180, 20], [60, 140]])
    assert balanced_accuracy(table) == pytest.approx(0.8)
    many = np.array([200, 200])
    low, high = accuracy_interval(table, many)
    # Two independent shares: ± 1.96 · ½ · √(0.9·0.1/200 + 0.7·0.3/200).
    assert low == pytest.approx(0.8 - 0.038, abs=0.004)
    assert high == pytest.approx(0.8 + 0.038, abs=0.004)
    fewer, _ = accuracy_interval(table, np.array([3, 3]))
    assert fewer < low - 0.1
    perfect, one = accuracy_interval(np.diag([10, 10]), np.array([10, 10]))
    assert 0.75 < perfect < 0.85
    assert one == pytest.approx(1)


@pytest.mark.parametrize("shares", [(0.9, 0.6, 0.8), (0.97, 0.97), (0.99, 0.9, 0.5, 0.95)])
@pytest.mark.parametrize("n", [10, 20, 50])
def test_the_interval_holds_what_it_promises(shares: tuple[float, ...], n: int) -> None:
    """Known shares are inside about 95 times in 100."""
    rng = np.random.default_rng(0)
    inside, tries, k = 0, 500, len(shares)
    for _ in range(tries):
        right = rng.binomial(n, shares)
        table = np.diag(right)
        table[np.arange(k), (np.arange(k) + 1) % k] += n - right
        low, high = accuracy_interval(table, np.full(k, n))
        inside += low <= np.mean(shares) <= high
    assert 0.83 <= inside / tries <= 0.99
