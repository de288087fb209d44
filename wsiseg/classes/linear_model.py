"""A linear model of classes on numbers of nuclei: multinomial logistic regression.

Its loss is the mean over the classes of each class's mean −log probability, so that rare and
common classes weigh the same, plus half the strength times the sum of squared weights; the
intercepts are free.  It is convex, so Newton's method finds the one minimum, the same every time.
Its steps come from conjugate gradients, which need no matrix of all weights by all weights: with
20 classes and 25 numbers that one takes nearly all of the time.

References
----------
Böhning, D.: Multinomial logistic regression algorithm.  Annals of the Institute of Statistical
Mathematics 44 (1992), doi:10.1007/BF00048682.

Dembo, R. S., Eisenstat, S. C., Steihaug, T.: Inexact Newton methods.  SIAM Journal on Numerical
Analysis 19 (1982), doi:10.1137/0719025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Strengths that `best_strength` chooses from."""

_MOST_STEPS = 100
_SMALL_GAIN = 1e-13
"""Newton's method has arrived when its next step would lower the loss by less."""
_MOST_TURNS = 500
_ROUGH = 1e-3
"""A step is exact enough when what is left of the gradient, squared, is this share of it, or less
where the gradient is small."""
_SMALL_LEFT = 1e-16
_FREE_RIDGE = 1e-9
"""Keeps intercepts unique: the same number added to all of them changes nothing."""
_IQR_OF_NORMAL = 1.349
_CLIP = 5.0

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """How numbers become comparable: missing ones filled, minus the centre, over the scale."""

    fill: Numbers
    """(p,): what a missing number (NaN) counts as."""
    centre: Numbers
    """(p,): median of the examples."""
    scale: Numbers
    """(p,): their interquartile range as a standard deviation."""

    def __call__(self, values: Numbers) -> Numbers:
        """Return (n, p) numbers without units; what is beyond ±5 counts as ±5."""
        filled = np.where(np.isnan(values), self.fill, values)
        return np.clip((filled - self.centre) / self.scale, -_CLIP, _CLIP)


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """Tells classes of nuclei by a weighted sum of their numbers."""

    features: tuple[str, ...]
    """Names of the p numbers."""
    classes: tuple[str, ...]
    """Names of the k classes."""
    scaling: Scaling
    weights: Numbers
    """(k, p): of the scaled numbers; each column sums to 0."""
    intercepts: Numbers
    """(k,): sums to 0."""

    def probabilities(self, values: Numbers) -> Numbers:
        """Return (n, k): the probability of each class for (n, p) numbers."""
        return softmax(self.scaling(values) @ self.weights.T + self.intercepts)

    def to_json(self) -> dict[str, Any]:
        """Return the model for JSON; `model_from_json` gives exactly the same back."""
        return {
            "features": list(self.features),
            "classes": list(self.classes),
            "fill": self.scaling.fill.tolist(),
            "centre": self.scaling.centre.tolist(),
            "scale": self.scaling.scale.tolist(),
            "weights": self.weights.tolist(),
            "intercepts": self.intercepts.tolist(),
        }


def model_from_json(said: Mapping[str, Any]) -> LinearModel:
    """Return the model that `to_json` described.

    Raises
    ------
    ValueError
        If something is missing, or not of the right shape.
    """
    try:
        features, classes = (tuple(map(str, said[key])) for key in ("features", "classes"))
        names = ("fill", "centre", "scale", "weights", "intercepts")
        values = {name: np.array(said[name], np.float64) for name in names}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error} is missing or damaged") from error
    p, k = len(features), len(classes)
    shapes = {"fill": (p,), "centre": (p,), "scale": (p,), "weights": (k, p), "intercepts": (k,)}
    for name, shape in shapes.items():
        if values[name].shape != shape or not np.isfinite(values[name]).all():
            raise ValueError(f"{name} is not of {' × '.join(map(str, shape))} numbers")
    scaling = Scaling(values["fill"], values["centre"], values["scale"])
    return LinearModel(features, classes, scaling, values["weights"], values["intercepts"])


def softmax(scores: Numbers) -> Numbers:
    """Return probabilities of (n, k) scores, each row summing to 1."""
    exp = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Numbers = exp / exp.sum(axis=1, keepdims=True)
    return result


def robust_scaling(values: Numbers, fills: Mapping[int, float]) -> Scaling:
    """Return how (n, p) numbers of examples become comparable.

    Parameters
    ----------
    values : ndarray, (n, p), float64
        Numbers; NaN where missing, in no column everywhere.
    fills : mapping
        For some columns what a missing number counts as; else the median.
    """
    fill = np.nanmedian(values, axis=0)
    for column, value in fills.items():
        fill[column] = value
    filled = np.where(np.isnan(values), fill, values)
    low, centre, high = np.percentile(filled, [25, 50, 75], axis=0)
    scale = (high - low) / _IQR_OF_NORMAL
    # Counts and probabilities near 0 may have half of their values alike.
    scale = np.where(scale > 0, scale, filled.std(axis=0))
    return Scaling(fill, centre, np.where(scale > 0, scale, 1.0))


def fit(
    x: Numbers, label: NDArray[np.int64], n_classes: int, strength: float, start: Numbers | None
) -> Numbers:
    """Return the weights that minimise the loss.

    Parameters
    ----------
    x : ndarray, (n, p), float64
        Scaled numbers.
    label : ndarray, (n,), int64
        Class of each, all of 0 … n_classes − 1 among them.
    n_classes : int
        k.
    strength : float
        Of the penalty, above 0.
    start : ndarray, (k, p + 1), float64, optional
        Where to begin; changes how long it takes, not what comes.

    Returns
    -------
    ndarray, (k, p + 1), float64
        Weights and, last, intercepts.
    """
    design = np.column_stack([x, np.ones(len(x))])
    share = class_shares(label, n_classes)
    target = np.eye(n_classes)[label]
    ridge = np.append(np.full(x.shape[1], strength), _FREE_RIDGE)
    theta = np.zeros((n_classes, design.shape[1])) if start is None else start
    # At the minimum all columns sum to 0, and a step that starts so stays so.
    theta = theta - theta.mean(axis=0)
    loss = _loss(theta, design, target, share, ridge)
    like_hessian = (design * share[:, np.newaxis]).T @ design / n_classes + np.diag(ridge)
    nearly_inverse: Numbers = np.linalg.inv(like_hessian).astype(np.float64)
    for _ in range(_MOST_STEPS):
        probs = softmax(design @ theta.T)
        gradient = (share[:, np.newaxis] * (probs - target)).T @ design + ridge * theta
        step = _newton_step(gradient, probs, design, share, ridge, nearly_inverse)
        if (step * gradient).sum() < 2 * _SMALL_GAIN:
            break
        theta, loss = _shortened(theta, step, loss, design, target, share, ridge)
    return theta


def class_shares(label: NDArray[np.int64], n_classes: int) -> Numbers:
    """Return the weight of each example: all classes weigh the same, all examples together 1."""
    counts = np.bincount(label, minlength=n_classes)
    result: Numbers = 1 / (n_classes * counts[label])
    return result


def _loss(
    theta: Numbers, design: Numbers, target: Numbers, share: Numbers, ridge: Numbers
) -> float:
    scores = design @ theta.T
    top = scores.max(axis=1)
    log_sum = top + np.log(np.exp(scores - top[:, np.newaxis]).sum(axis=1))
    return float(share @ (log_sum - (scores * target).sum(axis=1)) + (ridge * theta**2).sum() / 2)


def _newton_step(
    gradient: Numbers,
    probs: Numbers,
    design: Numbers,
    share: Numbers,
    ridge: Numbers,
    nearly_inverse: Numbers,
) -> Numbers:
    """Return the inverse Hessian times the gradient, by preconditioned conjugate gradients.

    The nearer the minimum, the more exact, so that the last steps are as good as Newton's.
    """
    weight = share[:, np.newaxis] * probs
    step, left = np.zeros_like(gradient), gradient
    towards = guess = left @ nearly_inverse
    size = first = float((left * guess).sum())
    for _ in range(_MOST_TURNS):
        if size <= max(_ROUGH * min(1.0, first) * first, _SMALL_LEFT):
            break
        change = design @ towards.T
        change = change - (probs * change).sum(axis=1, keepdims=True)
        bent = (weight * change).T @ design + ridge * towards
        length = size / float((towards * bent).sum())
        step, left = step + length * towards, left - length * bent
        guess = left @ nearly_inverse
        before, size = size, float((left * guess).sum())
        towards = guess + size / before * towards
    return step


def _shortened(
    theta: Numbers,
    step: Numbers,
    loss: float,
    design: Numbers,
    target: Numbers,
    share: Numbers,
    ridge: Numbers,
) -> tuple[Numbers, float]:
    """Take Newton's step, halved until the loss does not grow."""
    for halvings in range(40):
        moved = theta - step / 2**halvings
        new = _loss(moved, design, target, share, ridge)
        if new <= loss:
            return moved, new
    return theta, loss


def fit_model(
    values: Numbers,
    label: NDArray[np.int64],
    features: Sequence[str],
    classes: Sequence[str],
    strength: float,
    fills: Mapping[int, float],
) -> LinearModel:
    """Return the model of examples.

    Parameters
    ----------
    values : ndarray, (n, p), float64
        Their numbers, NaN where missing.
    label : ndarray, (n,), int64
        Their classes, as positions in `classes`.
    features, classes : sequence of str
        Names.
    strength : float
        Of the penalty.
    fills : mapping
        As for `robust_scaling`.

    Raises
    ------
    UsageError
        If a class has no example.
    """
    for position, name in enumerate(classes):
        if not (label == position).any():
            raise UsageError(f"the class {name!r} has no example")
    scaling = robust_scaling(values, fills)
    theta = fit(scaling(values), label, len(classes), strength, None)
    theta = theta - theta.mean(axis=0)
    return LinearModel(tuple(features), tuple(classes), scaling, theta[:, :-1], theta[:, -1])
