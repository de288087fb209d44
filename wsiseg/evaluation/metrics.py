"""Scores of one label image against another.

In all of them 0 is background and labels need not be consecutive.  Where neither image has
an instance there is nothing to score: ratios are NaN, so that an average has to say what
becomes of such images.  Where only one of them has any, the scores are 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.evaluation.assignment import assign

MATCH_IOU = 0.5
"""Above it, no instance can have two partners (Kirillov et al. 2019, section 4)."""
_TIE = 1e-12
"""IoU that a shared pixel is worth where sums of IoU are equal but for rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Every pair of instances that share pixels, and the size of every instance."""

    reference_label: NDArray[np.int64]
    """(n_reference,): labels, ascending."""
    predicted_label: NDArray[np.int64]
    """(n_predicted,): labels, ascending."""
    reference_px: NDArray[np.int64]
    """(n_reference,): pixels of each."""
    predicted_px: NDArray[np.int64]
    """(n_predicted,): pixels of each."""
    reference_index: NDArray[np.int64]
    """(n_pairs,): position among the reference labels; pairs are ordered by it."""
    predicted_index: NDArray[np.int64]
    """(n_pairs,): position among the predicted labels; ordered by it second."""
    shared_px: NDArray[np.int64]
    """(n_pairs,): pixels in common, at least 1."""

    @property
    def united_px(self) -> NDArray[np.int64]:
        """(n_pairs,): pixels in either."""
        both = self.reference_px[self.reference_index] + self.predicted_px[self.predicted_index]
        return both - self.shared_px

    @property
    def iou(self) -> NDArray[np.float64]:
        """(n_pairs,): intersection over union."""
        return self.shared_px / self.united_px


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """One-to-one pairs of instances, by label, in the order of the reference's labels."""

    reference_label: NDArray[np.int64]
    """(n,)."""
    predicted_label: NDArray[np.int64]
    """(n,)."""
    iou: NDArray[np.float64]
    """(n,): intersection over union."""


@dataclass(frozen=True, slots=True)
class PanopticQuality:
    """Panoptic quality and its parts; NaN without any instance."""

    pq: float
    """`dq × sq`."""
    dq: float
    """Detection quality: F1 of the matches."""
    sq: float
    """Segmentation quality: mean IoU of the matches; 0 if there are instances but no match."""
    tp: int
    """Matches."""
    fp: int
    """Predicted instances without a match."""
    fn: int
    """Reference instances without a match."""


def count_overlaps(reference: NDArray[np.integer], predicted: NDArray[np.integer]) -> Overlaps:
    """Count shared pixels of all pairs of instances in one pass over the pixels.

    Parameters
    ----------
    reference, predicted : ndarray, (h, w), integer
        Label images of the same size; 0 is background.

    Returns
    -------
    Overlaps
        Only pairs that share pixels.

    Raises
    ------
    ValueError
        If sizes differ or a label is negative.
    """
    if reference.shape != predicted.shape:
        raise ValueError(
            f"the reference is {reference.shape}, the prediction {predicted.shape}; label "
            "images of the same size are needed"
        )
    reference_label, reference_px, reference_at = _instances_of("reference", reference)
    predicted_label, predicted_px, predicted_at = _instances_of("predicted", predicted)
    shared = (reference != 0) & (predicted != 0)
    # Positions count instances only, so a pair's key is below the product of two counts.
    first = reference_at[shared[reference != 0]]
    second = predicted_at[shared[predicted != 0]]
    width = max(1, len(predicted_label))
    pair, shared_px = np.unique(first * width + second, return_counts=True)
    return Overlaps(
        reference_label=reference_label,
        predicted_label=predicted_label,
        reference_px=reference_px,
        predicted_px=predicted_px,
        reference_index=pair // width,
        predicted_index=pair % width,
        shared_px=shared_px.astype(np.int64),
    )


def _instances_of(
    name: str, labels: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return labels, their pixels, and of each foreground pixel its label's position."""
    inside = labels[labels != 0].astype(np.int64)
    if inside.min(initial=0) < 0:
        raise ValueError(
            f"the {name} labels reach down to {inside.min()}; 0 is background, instances are > 0"
        )
    label, position, count = np.unique(inside, return_inverse=True, return_counts=True)
    return label, count.astype(np.int64), position.astype(np.int64)


def match_instances(
    reference: NDArray[np.integer], predicted: NDArray[np.integer], min_iou: float = MATCH_IOU
) -> Matches:
    """Match instances whose intersection over union is above a threshold.

    Parameters
    ----------
    reference, predicted : ndarray, (h, w), integer
        Label images of the same size; 0 is background.
    min_iou : float
        IoU must be larger than this; at least 0.5, below which matches are not unique.

    Returns
    -------
    Matches
        One-to-one.

    Raises
    ------
    ValueError
        If sizes differ, a label is negative, or `min_iou` is below 0.5 or not below 1.
    """
    return _matches(count_overlaps(reference, predicted), min_iou)


def _matches(overlaps: Overlaps, min_iou: float) -> Matches:
    if not MATCH_IOU <= min_iou < 1:
        raise ValueError(
            f"min_iou is {min_iou}; from {MATCH_IOU} to below 1 is needed, since matches are "
            "not unique below"
        )
    iou = overlaps.iou
    good = iou > min_iou
    return Matches(
        overlaps.reference_label[overlaps.reference_index[good]],
        overlaps.predicted_label[overlaps.predicted_index[good]],
        iou[good],
    )


def panoptic_quality(
    reference: NDArray[np.integer], predicted: NDArray[np.integer], min_iou: float = MATCH_IOU
) -> PanopticQuality:
    """Score detection and outline together.

    Kirillov et al. 2019 (doi:10.1109/CVPR.2019.00963), equation 1, for one class.

    Parameters
    ----------
    reference, predicted : ndarray, (h, w), integer
        Label images of the same size; 0 is background.
    min_iou : float
        A match needs a larger IoU; 0.5 in the paper.

    Returns
    -------
    PanopticQuality
        All NaN if both images are empty; all 0 if one is.

    Raises
    ------
    ValueError
        As `match_instances`.
    """
    overlaps = count_overlaps(reference, predicted)
    iou = _matches(overlaps, min_iou).iou
    tp = len(iou)
    fp, fn = len(overlaps.predicted_label) - tp, len(overlaps.reference_label) - tp
    if tp + fp + fn == 0:
        return PanopticQuality(math.nan, math.nan, math.nan, 0, 0, 0)
    dq = tp / (tp + fp / 2 + fn / 2)
    sq = float(iou.mean()) if tp else 0.0
    return PanopticQuality(dq * sq, dq, sq, tp, fp, fn)


def aji(reference: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Return the aggregated Jaccard index.

    Kumar et al. 2017 (doi:10.1109/TMI.2017.2677499), algorithm 1: each reference instance
    takes the predicted one with the largest IoU (the lowest label of equals), which may be
    taken more than once; predicted instances nobody took add to the union.  A reference
    instance that touches nothing, which the paper leaves open, adds its own pixels.

    Parameters
    ----------
    reference, predicted : ndarray, (h, w), integer
        Label images of the same size; 0 is background.

    Returns
    -------
    float
        0 to 1; NaN if both images are empty.

    Raises
    ------
    ValueError
        If sizes differ or a label is negative.
    """
    return _share(*aji_terms(count_overlaps(reference, predicted)))


def aji_terms(overlaps: Overlaps) -> tuple[int, int]:
    """Return the pixels shared and united whose ratio is the aggregated Jaccard index."""
    # Best pair of each reference instance first; lexsort is stable, so the lowest label.
    order = np.lexsort((-overlaps.iou, overlaps.reference_index))
    _, first = np.unique(overlaps.reference_index[order], return_index=True)
    return _shared_and_united(overlaps, order[first])


def aji_plus(reference: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Return the aggregated Jaccard index of one-to-one pairs, AJI+.

    Graham et al. 2019 (doi:10.1016/j.media.2019.101563), section 4.2: pairs are chosen one to one
    so that their IoU is largest in sum (of equal sums the one that shares most pixels), and what
    is left on either side adds to the union.  So nothing counts twice, and the score is the same
    whichever image is the reference, and whatever the labels are.

    Parameters
    ----------
    reference, predicted : ndarray, (h, w), integer
        Label images of the same size; 0 is background.

    Returns
    -------
    float
        0 to 1; NaN if both images are empty.

    Raises
    ------
    ValueError
        If sizes differ or a label is negative.
    """
    return _share(*aji_plus_terms(count_overlaps(reference, predicted)))


def aji_plus_terms(overlaps: Overlaps) -> tuple[int, int]:
    """Return the pixels shared and united whose ratio is AJI+."""
    # The ratio hangs on the pixels shared alone, so these decide between equal sums.
    gain = overlaps.iou + _TIE * overlaps.shared_px
    chosen = assign(overlaps.reference_index, overlaps.predicted_index, -gain, 0.0)
    return _shared_and_united(overlaps, chosen)


def _shared_and_united(overlaps: Overlaps, pairs: NDArray[np.int64]) -> tuple[int, int]:
    """Sum some pairs' pixels, and those of instances in no pair into the union."""
    taken = [
        np.unique(index[pairs]) for index in (overlaps.reference_index, overlaps.predicted_index)
    ]
    sizes = (overlaps.reference_px, overlaps.predicted_px)
    alone = sum(int(px.sum() - px[one].sum()) for px, one in zip(sizes, taken, strict=True))
    return int(overlaps.shared_px[pairs].sum()), int(overlaps.united_px[pairs].sum()) + alone


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def dice(reference: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Return the Dice coefficient of foreground against foreground.

    Dice 1945 (doi:10.2307/1932409).

    Parameters
    ----------
    reference, predicted : ndarray, (h, w), integer
        Label images of the same size; everything but 0 is foreground.

    Returns
    -------
    float
        0 to 1; NaN if both images are empty.

    Raises
    ------
    ValueError
        If sizes differ or a label is negative.
    """
    shared, total = foreground_terms(count_overlaps(reference, predicted))
    return _share(2 * shared, total)


def foreground_iou(reference: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Return the intersection over union of foreground and foreground (Jaccard index).

    Jaccard 1912 (doi:10.1111/j.1469-8137.1912.tb05611.x).

    Parameters
    ----------
    reference, predicted : ndarray, (h, w), integer
        Label images of the same size; everything but 0 is foreground.

    Returns
    -------
    float
        0 to 1; NaN if both images are empty.

    Raises
    ------
    ValueError
        If sizes differ or a label is negative.
    """
    shared, total = foreground_terms(count_overlaps(reference, predicted))
    return _share(shared, total - shared)


def foreground_terms(overlaps: Overlaps) -> tuple[int, int]:
    """Return the foreground's pixels in both images, and in either one added up."""
    total = int(overlaps.reference_px.sum() + overlaps.predicted_px.sum())
    return int(overlaps.shared_px.sum()), total
