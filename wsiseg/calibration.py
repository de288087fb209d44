"""Probabilities that mean something: from a network's mean confidence to how often it is right.

Two events are meant, and counted on annotated images that the network was not trained on:

* `nucleus_prob`: this found nucleus is a real one, i.e. an annotated nucleus has an intersection
  over union above 0.5 with it;
* `class_prob`: this class is that of the annotated nucleus, if there is one.

The first is a non-decreasing, piecewise linear function of the mean nucleus probability, by
isotonic regression (Zadrozny and Elkan 2002, doi:10.1145/775047.775151).  The second comes from
the mean class probabilities by one temperature (Guo et al. 2017, arXiv:1706.04599), so that they
stay a distribution in the same order: calibration never changes which class a nucleus has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.records import UNKNOWN_CLASS, Instances

_MOST_KNOTS = 20
_LEAST_IN_KNOT = 50
"""Found nuclei; with fewer in all there is one knot, the share that is real."""
_RATES = (0.05, 20.0)
"""One over the temperature lies within."""
_SMALLEST = 1e-6
"""Smaller class probabilities are as unlikely as this when the temperature is fitted."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Stored in the model card; the same map for every nucleus, wherever it lies.

    Raises
    ------
    UsageError
        If the knots do not make a non-decreasing map into 0 to 1, or the temperature is not
        positive.
    """

    nucleus_from: tuple[float, ...] = ()
    """Mean nucleus probabilities, ascending; empty: they stay as they are."""
    nucleus_to: tuple[float, ...] = ()
    """What they mean; straight lines between, constant beyond the ends."""
    class_temperature: float | None = None
    """Class probabilities become their powers of 1 / temperature, over the powers' sum; None:
    they stay as they are."""

    def __post_init__(self) -> None:
        x, y = np.array(self.nucleus_from, float), np.array(self.nucleus_to, float)
        good = x.shape == y.shape and bool(np.isfinite(x).all() and (np.diff(x) > 0).all())
        if not (good and (np.diff(y) >= 0).all() and ((y >= 0) & (y <= 1)).all()):
            raise UsageError(
                f"calibration from {self.nucleus_from} to {self.nucleus_to}; as many ascending "
                "numbers as numbers from 0 to 1 that never fall are needed"
            )
        t = self.class_temperature
        if t is not None and not (math.isfinite(t) and t > 0):
            raise UsageError(f"class temperature {t}; a positive number is needed")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibration:
        """Build a calibration from what `to_json` gave.

        Raises
        ------
        UsageError
            If a field is not known, or a value is out of range.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(f"calibration fields {unknown} are not known; update wsiseg")
        return cls(
            tuple(float(value) for value in values.get("nucleus_from", ())),
            tuple(float(value) for value in values.get("nucleus_to", ())),
            values.get("class_temperature"),
        )

    def nucleus(self, mean_prob: NDArray[np.floating]) -> Floats:
        """Return the probabilities that found nuclei are real.

        Parameters
        ----------
        mean_prob : ndarray, (n,), floating
            Mean nucleus probability of each.
        """
        given = np.asarray(mean_prob, np.float64)
        if not self.nucleus_from:
            return given
        return np.asarray(np.interp(given, self.nucleus_from, self.nucleus_to), np.float64)

    def classes(self, mean_probs: NDArray[np.floating]) -> Floats:
        """Return the probabilities of the classes; each row sums to 1 and keeps its order.

        Parameters
        ----------
        mean_probs : ndarray, (n, k), floating
            Mean class probabilities of each nucleus; a row of zeros stays one.
        """
        given = np.ascontiguousarray(mean_probs, np.float64)
        if self.class_temperature is None or given.shape[1] == 0:
            return given
        # Over the largest first: small numbers to high powers would all be 0.
        largest = given.max(axis=1, keepdims=True)
        shares = np.divide(given, largest, out=np.zeros_like(given), where=largest > 0)
        powers = shares ** (1.0 / self.class_temperature)
        total = powers.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(powers, total, out=powers, where=total > 0), np.float64)


def calibrated(instances: Instances, mean_probs: Floats, calibration: Calibration) -> Instances:
    """Return nuclei with calibrated `nucleus_prob` and `class_prob`.

    Parameters
    ----------
    instances : Instances
        n nuclei, with the mean probabilities that their network gives.
    mean_probs : ndarray, (n, k), float64
        Mean probability of each class; k may be 0.
    calibration : Calibration
        Of the model.
    """
    class_prob = instances.class_prob
    known = np.flatnonzero(instances.class_index != UNKNOWN_CLASS)
    if calibration.class_temperature is not None and len(known):
        class_prob = class_prob.copy()
        probs = calibration.classes(mean_probs[known])
        class_prob[known] = probs[np.arange(len(known)), instances.class_index[known]]
    nucleus_prob = calibration.nucleus(instances.nucleus_prob).astype(np.float32)
    return replace(instances, nucleus_prob=nucleus_prob, class_prob=class_prob)


@dataclass(frozen=True, slots=True, eq=False)
class Confidences:
    """Found nuclei of annotated images, with what was said of them and what is true.

    Raises
    ------
    UsageError
        If sizes differ, or a probability is none.
    """

    nucleus_prob: Floats
    """(n,): mean nucleus probability of each found nucleus, not calibrated."""
    is_true: NDArray[np.bool_]
    """(n,): an annotated nucleus matches it (intersection over union above 0.5)."""
    class_probs: Floats
    """(n, k): mean class probabilities, not calibrated; k may be 0."""
    true_class: NDArray[np.uint8]
    """(n,): class of the annotated nucleus; `UNKNOWN_CLASS` without one, or if it has none."""
    group: NDArray[np.int64]
    """(n,): patients, as numbers: nuclei of one are never both fitted to and judged."""

    def __post_init__(self) -> None:
        n = len(self.nucleus_prob)
        shapes = self.nucleus_prob.shape, self.is_true.shape, self.true_class.shape
        if {*shapes, self.group.shape} != {(n,)} or self.class_probs.shape[:1] != (n,):
            raise UsageError(
                f"{n} nucleus probabilities, but arrays of {self.is_true.shape}, "
                f"{self.class_probs.shape}, {self.true_class.shape} and {self.group.shape}; one "
                "row for each found nucleus is needed"
            )
        for name, probs in (("nucleus", self.nucleus_prob), ("class", self.class_probs)):
            if not bool(((probs >= 0) & (probs <= 1)).all()):
                raise UsageError(f"{name} probabilities are not all from 0 to 1")
        known = self.true_class[self.true_class != UNKNOWN_CLASS]
        if known.max(initial=0) >= max(1, self.class_probs.shape[1]):
            raise UsageError(
                f"true class {known.max()}, but probabilities of {self.class_probs.shape[1]} "
                "classes"
            )

    def __len__(self) -> int:
        return len(self.nucleus_prob)

    @property
    def has_class(self) -> NDArray[np.bool_]:
        """(n,): the annotated nucleus has a class to compare with."""
        known = self.is_true & (self.true_class != UNKNOWN_CLASS)
        return np.asarray(known & (self.class_probs.shape[1] > 0), np.bool_)

    def taken(self, chosen: NDArray[np.bool_]) -> Confidences:
        """Return some of them."""
        return Confidences(
            self.nucleus_prob[chosen],
            self.is_true[chosen],
            self.class_probs[chosen],
            self.true_class[chosen],
            self.group[chosen],
        )

    @classmethod
    def together(cls, parts: Sequence[Confidences]) -> Confidences:
        """Return those of several images as one."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )


def fit_calibration(found: Confidences) -> Calibration:
    """Fit the maps to found nuclei of images that the network was not trained on.

    Nuclei are sorted by mean probability and parted into up to 20 groups of equal number.
    Where a group's share of real ones is not above that of the group before, the two are pooled;
    what is left are the knots: a group's share at its mean probability.  A share nearer to 0 or
    1 than the smallest group can tell is moved to where it can.  The temperature is that with
    the smallest mean negative logarithm of the true class's probability; None where no class is
    known.

    Parameters
    ----------
    found : Confidences
        Out of cross-validation: each image found by a network that never saw it.

    Raises
    ------
    UsageError
        If there is no nucleus.
    """
    if len(found) == 0:
        raise UsageError("no found nucleus to calibrate on; give images in which some are found")
    x, y = _isotonic_knots(found.nucleus_prob, found.is_true)
    chosen = found.has_class
    temperature = (
        _fit_temperature(found.class_probs[chosen], found.true_class[chosen])
        if chosen.any()
        else None
    )
    return Calibration(x, y, temperature)


def _isotonic_knots(
    prob: Floats, is_true: NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    order = np.argsort(prob, kind="stable")
    n_groups = min(_MOST_KNOTS, max(1, len(prob) // _LEAST_IN_KNOT))
    pooled: list[_Knot] = []
    for part in np.array_split(order, n_groups):
        pooled.append(_Knot(len(part), int(is_true[part].sum()), math.fsum(prob[part])))
        while len(pooled) > 1 and not pooled[-2].is_below(pooled[-1]):
            last = pooled.pop()
            pooled[-1] = pooled[-1].with_all_of(last)
    least = 1 / (len(prob) // n_groups + 2)
    shares = (min(max(knot.n_true / knot.n, least), 1 - least) for knot in pooled)
    return tuple(knot.mean for knot in pooled), tuple(round(share, 6) for share in shares)


@dataclass(frozen=True, slots=True)
class _Knot:
    """Nuclei of similar probability."""

    n: int
    n_true: int
    total: float

    @property
    def mean(self) -> float:
        return round(self.total / self.n, 6)

    def is_below(self, other: _Knot) -> bool:
        """Return whether the other has a larger mean and a larger share of real ones."""
        return self.mean < other.mean and self.n_true * other.n < other.n_true * self.n

    def with_all_of(self, other: _Knot) -> _Knot:
        return _Knot(self.n + other.n, self.n_true + other.n_true, self.total + other.total)


def _fit_temperature(probs: Floats, true_class: NDArray[np.uint8]) -> float:
    """Return the temperature with the smallest negative log-likelihood.

    It is convex in one over the temperature, so its derivative has one root.
    """
    logs = np.log(np.maximum(probs, _SMALLEST))
    said = logs[np.arange(len(logs)), true_class].mean()

    def excess(rate: float) -> float:
        powers = np.exp(rate * (logs - logs.max(axis=1, keepdims=True)))
        expected = (powers * logs).sum(axis=1) / powers.sum(axis=1)
        return float(expected.mean() - said)

    low, high = _RATES
    for _ in range(60):
        middle = math.sqrt(low * high)
        if excess(middle) < 0:
            low = middle
        else:
            high = middle
    return round(1 / low, 6)
