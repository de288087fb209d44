"""How well probabilities agree with what is true: reliability tables and their one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.calibration import Calibration, Confidences, Floats, fit_calibration
from wsiseg.errors import UsageError

N_BINS = 15
"""As in Guo et al. 2017 (arXiv:1706.04599)."""


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Probabilities in bins of equal width, and how often they came true."""

    n: NDArray[np.int64]
    """(n_bins,): predictions in each bin."""
    mean_prob: Floats
    """(n_bins,): their mean; NaN in an empty bin."""
    share_true: Floats
    """(n_bins,): share of those that came true; NaN in an empty bin."""

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean distance of the two, weighted by n; NaN without any.

        Naeini et al. 2015 (doi:10.1609/aaai.v29i1.9602).
        """
        total = int(self.n.sum())
        gaps = np.abs(self.mean_prob - self.share_true)[self.n > 0]
        return float(self.n[self.n > 0] @ gaps / total) if total else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values; empty bins are left out."""
        rows = zip(self.n.tolist(), self.mean_prob.tolist(), self.share_true.tolist(), strict=True)
        return {
            "expected_calibration_error": round(self.expected_error, 4) if self.n.any() else None,
            "n": int(self.n.sum()),
            "bins": [
                {"n": n, "mean_prob": round(prob, 4), "share_true": round(share, 4)}
                for n, prob, share in rows
                if n
            ],
        }


def reliability(
    prob: NDArray[np.floating], is_true: NDArray[np.bool_], n_bins: int = N_BINS
) -> Reliability:
    """Count how often predictions came true, by their probability.

    Parameters
    ----------
    prob : ndarray, (n,), floating
        0 to 1; bins are closed below, the last also above.
    is_true : ndarray, (n,), bool
        Whether each came true.
    n_bins : int
        Bins of equal width.

    Raises
    ------
    UsageError
        If sizes differ, a value is no probability, or there is no bin.
    """
    given = np.asarray(prob, np.float64)
    if given.shape != is_true.shape or given.ndim != 1 or n_bins < 1:
        raise UsageError(
            f"{given.shape} probabilities, {is_true.shape} truths and {n_bins} bins; one truth "
            "for each probability and at least one bin are needed"
        )
    if not bool(((given >= 0) & (given <= 1)).all()):
        raise UsageError("probabilities are not all from 0 to 1")
    place = np.minimum((given * n_bins).astype(np.int64), n_bins - 1)
    n = np.bincount(place, minlength=n_bins)
    empty = np.full(n_bins, np.nan)
    sums = (np.bincount(place, weights, n_bins) for weights in (given, is_true.astype(np.float64)))
    mean_prob, share_true = (np.divide(total, n, out=empty.copy(), where=n > 0) for total in sums)
    return Reliability(n.astype(np.int64), mean_prob, share_true)


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationReport:
    """Reliability before calibration and after, each nucleus by maps fitted without its patient."""

    n_folds: int
    nucleus_before: Reliability
    nucleus_after: Reliability
    class_before: Reliability
    """Of the class that was said, where an annotated one is known; may be of no nuclei."""
    class_after: Reliability

    def to_json(self) -> dict[str, Any]:
        """Return what stands in the model card's `about`, under `calibration`."""
        return {
            "how": f"{self.n_folds}-fold cross-validation over patients, of found nuclei of "
            "images the network was not trained on",
            "nucleus_prob": {
                "event": "an annotated nucleus matches (intersection over union above 0.5)",
                "before": self.nucleus_before.to_json(),
                "after": self.nucleus_after.to_json(),
            },
            "class_prob": {
                "event": "the matching annotated nucleus has this class",
                "before": self.class_before.to_json(),
                "after": self.class_after.to_json(),
            },
        }


def judge_calibration(found: Confidences, n_folds: int = 5, seed: int = 0) -> CalibrationReport:
    """Say how well probabilities agree with the truth before calibration and after.

    Never fitted and judged on the same patient: patients are dealt into folds, and each fold
    is calibrated by maps fitted on the others.

    Parameters
    ----------
    found : Confidences
        Of images that the network was not trained on.
    n_folds : int
        As many folds, or as many as there are patients.
    seed : int
        Deals them.

    Raises
    ------
    UsageError
        If there are fewer than two patients or folds.
    """
    patients, patient = np.unique(found.group, return_inverse=True)
    n_folds = min(n_folds, len(patients))
    if n_folds < 2:
        raise UsageError(
            f"{len(patients)} patients with found nuclei and {n_folds} folds; at least two are "
            "needed to judge calibration on others than it was fitted on"
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    fold = (np.argsort(order) % n_folds)[patient]
    nucleus, classes = found.nucleus_prob.copy(), found.class_probs.copy()
    for k in range(n_folds):
        fitted: Calibration = fit_calibration(found.taken(fold != k))
        nucleus[fold == k] = fitted.nucleus(found.nucleus_prob[fold == k])
        classes[fold == k] = fitted.classes(found.class_probs[fold == k])
    return CalibrationReport(
        n_folds,
        reliability(found.nucleus_prob, found.is_true),
        reliability(nucleus, found.is_true),
        _class_reliability(found, found.class_probs),
        _class_reliability(found, classes),
    )


def _class_reliability(found: Confidences, probs: Floats) -> Reliability:
    chosen = found.has_class
    if not chosen.any():
        return reliability(np.empty(0), np.empty(0, np.bool_))
    said = found.class_probs[chosen].argmax(axis=1)
    top = probs[chosen][np.arange(len(said)), said]
    return reliability(np.minimum(top, 1.0), said == found.true_class[chosen])
