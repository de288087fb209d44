"""Probabilities that mean something: monotone, fitted apart from what judges them, applied once."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import wsiseg
from wsiseg.calibration import Calibration, Confidences, calibrated, fit_calibration
from wsiseg.decode import instances_from_labels
from wsiseg.errors import UsageError
from wsiseg.models import ModelCard, Numerics
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.reliability import judge_calibration, reliability
from wsiseg.testing.models import LocalNetwork, LocalPredictor
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

STEEP = Calibration((0.5, 0.75, 1.0), (0.1, 0.2, 0.9), 2.0)


def found_by_chance(n: int, seed: int, n_patients: int = 7) -> Confidences:
    """Return nuclei that are real as often as the square of what is said, by patient."""
    rng = np.random.default_rng(seed)
    prob = rng.uniform(0.5, 1.0, n)
    logits = rng.normal(size=(n, 3)) * 3
    sharp = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    soft = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    true_class = np.array([rng.choice(3, p=row) for row in soft], np.uint8)
    true_class[rng.random(n) < 0.2] = UNKNOWN_CLASS
    patient = rng.integers(0, n_patients, n)
    return Confidences(prob, rng.random(n) < prob**2, sharp, true_class, patient)


def minimax(shares: list[float], weights: list[int]) -> list[float]:
    """Return the isotonic regression by its definition (Barlow et al. 1972): slow and obvious."""
    n = len(shares)

    def mean(i: int, j: int) -> float:
        total = sum(s * w for s, w in zip(shares[i : j + 1], weights[i : j + 1], strict=True))
        return total / sum(weights[i : j + 1])

    return [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]


@pytest.mark.parametrize("seed", range(4))
def test_knots_are_the_isotonic_regression_of_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # So weak a relation that neighbouring groups often fall.
    found = found_by_chance(1003, seed)
    found = replace(found, is_true=rng.random(1003) < 0.3 + 0.3 * found.nucleus_prob)
    fitted = fit_calibration(found)
    order = np.argsort(found.nucleus_prob)
    parts = np.array_split(order, 20)
    shares = [float(found.is_true[part].mean()) for part in parts]
    slow = minimax(shares, [len(part) for part in parts])
    assert len(fitted.nucleus_to) < 20
    wanted: dict[float, list[int]] = {}
    for value, part in zip(slow, parts, strict=True):
        wanted.setdefault(round(value, 9), []).extend(part.tolist())
    assert fitted.nucleus_to == pytest.approx(list(wanted), abs=1e-6)
    means = [float(found.nucleus_prob[nuclei].mean()) for nuclei in wanted.values()]
    assert fitted.nucleus_from == pytest.approx(means, abs=1e-6)


def test_a_fitted_map_tells_how_often_nuclei_are_real() -> None:
    fitted = fit_calibration(found_by_chance(40_000, 0))
    asked = np.array([0.55, 0.7, 0.85, 0.95])
    assert fitted.nucleus(asked) == pytest.approx(asked**2, abs=0.03)
    assert fitted.class_temperature == pytest.approx(2.0, rel=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_that_of_a_fine_search(seed: int) -> None:
    found = found_by_chance(400, seed)
    fitted = fit_calibration(found)
    chosen = np.flatnonzero(found.has_class)

    def loss(temperature: float) -> float:
        total = 0.0
        for i in chosen:
            powers = [p ** (1 / temperature) for p in found.class_probs[i]]
            total -= math.log(powers[found.true_class[i]] / sum(powers))
        return total

    candidates = np.linspace(1.2, 3.2, 401)
    best = candidates[np.argmin([loss(t) for t in candidates])]
    assert fitted.class_temperature == pytest.approx(best, abs=0.006)


def test_one_class_of_nuclei_or_few_of_them_can_be_calibrated() -> None:
    few = found_by_chance(30, 1)
    all_real = replace(few, is_true=np.ones(30, np.bool_))
    fitted = fit_calibration(all_real)
    assert len(fitted.nucleus_to) == 1
    # Thirty that are all real do not show that every one is.
    assert fitted.nucleus_to[0] == pytest.approx(31 / 32, abs=1e-6)
    no_class = replace(few, true_class=np.full(30, UNKNOWN_CLASS, np.uint8))
    assert fit_calibration(no_class).class_temperature is None
    equal = replace(few, nucleus_prob=np.full(30, 0.75))
    assert fit_calibration(equal).nucleus_from == (0.75,)
    with pytest.raises(UsageError, match="no found nucleus"):
        fit_calibration(few.taken(np.zeros(30, np.bool_)))


def test_classes_stay_a_distribution_in_the_same_order() -> None:
    rng = np.random.default_rng(5)
    given = rng.dirichlet([0.3] * 4, 500)
    given[0] = (1, 0, 0, 0)
    given[1] = (0.5, 0.5, 0, 0)
    for temperature in (0.051, 0.4, 1.0, 3.0, 19.0):
        probs = Calibration(class_temperature=temperature).classes(given)
        assert probs.sum(axis=1) == pytest.approx(np.ones(500))
        assert np.array_equal(probs.argmax(axis=1), given.argmax(axis=1))
        gaps = np.diff(np.take_along_axis(probs, np.argsort(given, axis=1), axis=1), axis=1)
        assert (gaps >= 0).all()
        slow = [[p ** (1 / temperature) for p in row] for row in given.tolist()]
        wanted = [[p / sum(row) for p in row] for row in slow]
        # Powers of small numbers vanish in the slow sum.
        assert probs == pytest.approx(np.array(wanted), abs=1e-12)
    assert np.array_equal(Calibration().classes(given), given)
    nothing = Calibration(class_temperature=2.0).classes(np.zeros((2, 3)))
    assert np.array_equal(nothing, np.zeros((2, 3)))


def test_beyond_the_knots_the_map_is_constant_and_it_never_falls() -> None:
    asked = np.linspace(0, 1, 101)
    probs = STEEP.nucleus(asked)
    assert (np.diff(probs) >= 0).all()
    assert (probs[0], probs[-1]) == (0.1, 0.9)
    assert STEEP.nucleus(np.array([0.625])) == pytest.approx([0.15])
    assert np.array_equal(Calibration().nucleus(asked), asked)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"nucleus_to": (0.1, 0.2)}, "ascending"),
        ({"nucleus_from": (0.5, 0.5, 1.0)}, "ascending"),
        ({"nucleus_to": (0.1, 0.9, 0.2)}, "never fall"),
        ({"nucleus_to": (0.1, 0.2, 1.1)}, "0 to 1"),
        ({"nucleus_to": (0.1, math.nan, 0.9)}, "0 to 1"),
        ({"class_temperature": 0.0}, "positive"),
        ({"class_temperature": math.inf}, "positive"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(STEEP, **changed)  # type: ignore[arg-type]


def test_a_calibration_survives_json() -> None:
    assert Calibration.from_json(json.loads(json.dumps(STEEP.to_json()))) == STEEP
    assert Calibration.from_json(Calibration().to_json()) == Calibration()
    with pytest.raises(UsageError, match="offset"):
        Calibration.from_json({**STEEP.to_json(), "offset": 1})


@pytest.mark.parametrize(
    "changed",
    [
        {"is_true": np.ones(3, np.bool_)},
        {"class_probs": np.full((3, 3), 0.3)},
        {"nucleus_prob": np.full(4, 1.5)},
        {"nucleus_prob": np.full(4, math.nan)},
        {"true_class": np.full(4, 3, np.uint8)},
    ],
)
def test_what_is_no_table_of_found_nuclei_is_refused(
    changed: dict[str, NDArray[np.generic]],
) -> None:
    with pytest.raises(UsageError):
        replace(found_by_chance(4, 0), **changed)  # type: ignore[arg-type]


# Reliability


def test_reliability_equals_its_slow_twin() -> None:
    rng = np.random.default_rng(2)
    prob = np.concatenate([rng.random(400), [0.0, 1.0, 0.2, 0.4]])
    is_true = rng.random(404) < prob**1.5
    table = reliability(prob, is_true, 5)
    error = 0.0
    for k in range(5):
        low, high = k / 5, (k + 1) / 5
        mine = [i for i, p in enumerate(prob) if low <= p < high or (k == 4 and p == 1.0)]
        assert table.n[k] == len(mine)
        mean = sum(prob[i] for i in mine) / len(mine)
        share = sum(bool(is_true[i]) for i in mine) / len(mine)
        assert (table.mean_prob[k], table.share_true[k]) == pytest.approx((mean, share))
        error += abs(mean - share) * len(mine) / 404
    assert table.expected_error == pytest.approx(error)
    assert table.to_json()["n"] == 404


def test_reliability_worked_by_hand() -> None:
    # Two in the last bin, said 0.95 on average, one true: 0.45 off; one of 0.5, true: 0.5 off.
    table = reliability(np.array([0.9, 1.0, 0.5]), np.array([True, False, True]), 10)
    assert table.expected_error == pytest.approx((2 * 0.45 + 0.5) / 3)
    nothing = reliability(np.empty(0), np.empty(0, np.bool_))
    assert math.isnan(nothing.expected_error)
    assert nothing.to_json() == {"expected_calibration_error": None, "n": 0, "bins": []}


def test_no_patient_is_judged_by_a_map_fitted_to_it() -> None:
    found = found_by_chance(3000, 3)
    # Whether a nucleus is real hangs on the patient alone: what others say of it is worthless.
    found = replace(found, is_true=found.group % 2 == 0)
    report = judge_calibration(found, n_folds=7)
    nucleus = np.empty(3000)
    for patient in range(7):
        mine = found.group == patient
        nucleus[mine] = fit_calibration(found.taken(~mine)).nucleus(found.nucleus_prob[mine])
    wanted = reliability(nucleus, found.is_true)
    assert np.array_equal(report.nucleus_after.n, wanted.n)
    assert report.nucleus_after.expected_error == pytest.approx(wanted.expected_error)
    assert report.n_folds == 7


def test_calibration_makes_probabilities_reliable() -> None:
    report = judge_calibration(found_by_chance(20_000, 4))
    assert report.n_folds == 5
    assert report.nucleus_before.expected_error > 0.15
    assert report.nucleus_after.expected_error < 0.02
    assert report.class_before.expected_error > 0.1
    assert report.class_after.expected_error < 0.02
    assert int(report.class_after.n.sum()) < int(report.nucleus_after.n.sum())
    said = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert said["nucleus_prob"]["after"]["expected_calibration_error"] < 0.02


def test_one_patient_cannot_be_judged() -> None:
    with pytest.raises(UsageError, match="at least two"):
        judge_calibration(found_by_chance(50, 0, n_patients=1))


# In the pipeline


@dataclass(frozen=True)
class CalibratedNetwork:
    """The stand-in with a calibration in its card."""

    network: LocalNetwork = field(default_factory=LocalNetwork)

    @property
    def card(self) -> ModelCard:
        return replace(self.network.card, calibration=STEEP)

    def predictor(self, numerics: Numerics) -> LocalPredictor:
        return self.network.predictor(numerics)


COLUMNS = ["cell_id", "class_name", "class_prob", "nucleus_prob", "x", "y", "area_um2"]
PROBS = ["prob_Epithelial", "prob_Inflammatory"]


def test_probabilities_of_a_run_are_calibrated_and_nothing_else(tmp_path: Path) -> None:
    slide = ArraySlide(paint_tissue(700, 900, 1500, seed=2), mpp=0.5)
    tables = []
    for name, model in (("plain", LocalNetwork()), ("calibrated", CalibratedNetwork())):
        result = wsiseg.segment(slide, tmp_path / name, model=model, formats=())
        tables.append(result.cells(columns=COLUMNS + PROBS))
    plain, ours = tables
    assert plain.num_rows > 100
    for name in ("cell_id", "class_name", "x", "y", "area_um2"):
        assert ours[name] == plain[name]
    before, after = (
        np.stack([table[name].to_numpy() for name in PROBS], axis=1) for table in tables
    )
    assert after == pytest.approx(STEEP.classes(before), abs=1e-6)
    # To the last bit: one number must not stand in two tables with two values.
    assert np.array_equal(ours["class_prob"].to_numpy(), after.max(axis=1))
    wanted = STEEP.nucleus(plain["nucleus_prob"].to_numpy())
    assert np.array_equal(ours["nucleus_prob"].to_numpy(), wanted.astype(np.float32))
    assert not np.array_equal(wanted.astype(np.float32), plain["nucleus_prob"].to_numpy())


def test_calibrated_runs_do_not_hang_on_the_grid(tmp_path: Path) -> None:
    slide = ArraySlide(paint_tissue(500, 600, 1500, seed=3), mpp=0.5)
    runs = [
        wsiseg.segment(
            slide,
            tmp_path / str(offset),
            model=CalibratedNetwork(),
            options=wsiseg.PlanOptions(grid_offset_px=offset),
            formats=(),
        ).cells(columns=["x", "y", "class_prob", "nucleus_prob"])
        for offset in (0, 128)
    ]
    one, other = (sorted(zip(*(c.to_pylist() for c in run.columns), strict=True)) for run in runs)
    assert len(one) > 50
    assert one == other


def test_nuclei_without_class_keep_none() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[2:5, 2:5] = 1
    nuclei = instances_from_labels(labels, np.full((8, 8), 255, np.uint8))
    assert nuclei.class_index[0] == UNKNOWN_CLASS
    ours = calibrated(nuclei, np.empty((1, 0)), STEEP)
    assert math.isnan(ours.class_prob[0])
    assert ours.nucleus_prob[0] == np.float32(0.9)
