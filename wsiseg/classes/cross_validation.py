"""How well a linear model does on examples it was not fitted on, and how strong its penalty is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.classes.linear_model import (
    STRENGTHS,
    Numbers,
    class_shares,
    fit,
    robust_scaling,
    softmax,
)

_MOST_FOLDS = 5
_Z = 1.959964
"""Of a normal 95 % lie within so many standard deviations."""
_LEAST_PROB = 1e-6

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """What models said of examples that they had not seen."""

    probabilities: Numbers
    """(n, k): of every example, by the model of the other folds."""
    n_folds: int


def deal_folds(label: Labels, group: Labels, n_folds: int, seed: int) -> Labels:
    """Return a fold for each example: groups stay whole, classes are spread evenly.

    Parameters
    ----------
    label : ndarray, (n,), int64
        Classes.
    group : ndarray, (n,), int64
        Examples of one group are never in two folds.
    n_folds : int
        How many folds.
    seed : int
        Decides between groups that are alike.
    """
    groups, member = np.unique(group, return_inverse=True)
    counts = np.zeros((len(groups), label.max(initial=0) + 1))
    np.add.at(counts, (member, label), 1)
    counts /= np.maximum(counts.sum(axis=0), 1)
    order = np.random.default_rng(seed).permutation(len(groups))
    # Large groups first, as they are hardest to place; sort keeps the drawn order among equals.
    order = order[np.argsort(-counts[order].max(axis=1), kind="stable")]
    filled = np.zeros((n_folds, counts.shape[1]))
    fold_of_group = np.zeros(len(groups), np.int64)
    for g in order:
        uneven = [(filled + counts[g] * (np.arange(n_folds) == f)[:, None]) for f in range(n_folds)]
        fold_of_group[g] = int(np.argmin([(each**2).sum() for each in uneven]))
        filled[fold_of_group[g]] += counts[g]
    return fold_of_group[member]


def most_folds(label: Labels, group: Labels) -> int:
    """Return how many folds can have every class left in the others: at most 5, maybe 1."""
    per_class = [len(np.unique(group[label == k])) for k in np.unique(label)]
    return min(_MOST_FOLDS, *per_class)


def best_strength(
    values: Numbers, label: Labels, group: Labels, fills: Mapping[int, float], seed: int
) -> float:
    """Return the strength with the least loss on examples that were left out.

    Parameters
    ----------
    values : ndarray, (n, p), float64
        Numbers of the examples.
    label, group : ndarray, (n,), int64
        Their classes and groups.
    fills : mapping
        As for `robust_scaling`.
    seed : int
        Of the folds.
    """
    n_classes = int(label.max()) + 1
    n_folds = most_folds(label, group)
    if n_folds < 2:
        return STRENGTHS[len(STRENGTHS) // 2]
    fold = deal_folds(label, group, n_folds, seed)
    losses = np.zeros(len(STRENGTHS))
    share = class_shares(label, n_classes)
    for f in range(n_folds):
        kept, out = fold != f, fold == f
        if len(np.unique(label[kept])) < n_classes:
            continue
        scaling = robust_scaling(values[kept], fills)
        x, unseen, theta = scaling(values[kept]), scaling(values[out]), None
        for s, strength in enumerate(STRENGTHS):
            theta = fit(x, label[kept], n_classes, strength, theta)
            probs = softmax(unseen @ theta[:, :-1].T + theta[:, -1])
            right = probs[np.arange(out.sum()), label[out]]
            losses[s] -= share[out] @ np.log(np.maximum(right, _LEAST_PROB))
    return STRENGTHS[int(np.argmin(losses))]


def cross_validate(
    values: Numbers, label: Labels, group: Labels, fills: Mapping[int, float], seed: int
) -> CrossValidation | None:
    """Return what is said of each example by a model that saw none of its fold.

    The strength is chosen anew for each fold, within the others, so that no example has a say
    in what is measured on it.  None where a class has examples of one group only.
    """
    n_folds = most_folds(label, group)
    if n_folds < 2:
        return None
    n_classes = int(label.max()) + 1
    fold = deal_folds(label, group, n_folds, seed)
    probabilities = np.zeros((len(label), n_classes))
    for f in range(n_folds):
        kept, out = fold != f, fold == f
        if len(np.unique(label[kept])) < n_classes:
            return None
        strength = best_strength(values[kept], label[kept], group[kept], fills, seed)
        scaling = robust_scaling(values[kept], fills)
        theta = fit(scaling(values[kept]), label[kept], n_classes, strength, None)
        probabilities[out] = softmax(scaling(values[out]) @ theta[:, :-1].T + theta[:, -1])
    return CrossValidation(probabilities, n_folds)


def confusion(label: Labels, said: Labels, n_classes: int) -> NDArray[np.int64]:
    """Return (k, k): how often each class (row) was called each (column)."""
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (label, said), 1)
    return table


def balanced_accuracy(table: NDArray[np.int64]) -> float:
    """Return the mean over classes of the share called right."""
    return float((np.diag(table) / table.sum(axis=1)).mean())


def accuracy_interval(
    table: NDArray[np.int64], independent: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the 95 % interval of the balanced accuracy.

    Wilson's interval of each class's share, put together for their mean.  With 2 to 4 classes of
    10 to 50 examples it holds the true value in 83 to 99 of 100 cases, mostly in 90 to 96.

    Parameters
    ----------
    table : ndarray, (k, k), int64
        Of `confusion`.
    independent : ndarray, (k,), int64
        How many independent examples each class has; what it has more counts by so much less.

    References
    ----------
    Zou, G. Y., Donner, A.: Construction of confidence limits about effect measures: a general
    approach.  Statistics in Medicine 27 (2008), doi:10.1002/sim.3095.
    """
    n = table.sum(axis=1)
    share = np.diag(table) / n
    low, high = _wilson(share, np.minimum(independent, n))
    mean, k = share.mean(), len(table)
    below, above = (float(np.sqrt(((edge - share) ** 2).sum()) / k) for edge in (low, high))
    return max(0.0, float(mean) - below), min(1.0, float(mean) + above)


def _wilson(share: Numbers, n: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Return Wilson's 95 % interval of shares of n; doi:10.1080/01621459.1927.10502953."""
    z2 = _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return centre - half, centre + half
