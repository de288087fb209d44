"""What is counted on one image; every figure is made of such sums, of one image or of many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.evaluation.boundaries import outline_distances, outline_elements, total_length_px
from wsiseg.evaluation.detection import centroids_um, detect
from wsiseg.evaluation.metrics import (
    MATCH_IOU,
    Overlaps,
    aji_plus_terms,
    aji_terms,
    count_overlaps,
    foreground_terms,
)
from wsiseg.evaluation.records import EvaluateOptions, InstanceImage, ScoredPair, instance_image
from wsiseg.records import UNKNOWN_CLASS

Tally = Mapping[str, float]
"""Sums of one image, by name; those of class k are called `k:NAME`."""

_LOST = 0.5
"""Of an instance's pixels."""


def class_key(index: int, name: str) -> str:
    """Return what a sum of one class is called."""
    return f"{index}:{name}"


def tally_pair(pair: ScoredPair, n_classes: int, options: EvaluateOptions) -> Tally:
    """Count on one image all that the figures are made of.

    Parameters
    ----------
    pair : ScoredPair
        The image as the truth has it and as it was found.
    n_classes : int
        Length of the list that class indices point into.
    options : EvaluateOptions
        How nuclei are paired.
    """
    truth, found, area_px = scored_part(pair.truth, pair.found)
    overlaps = count_overlaps(truth.labels, found.labels)
    matched = np.flatnonzero(overlaps.iou > MATCH_IOU)
    pairs = np.stack([overlaps.reference_index[matched], overlaps.predicted_index[matched]], axis=1)
    mm2 = area_px * truth.mpp**2 / 1e6
    tally = {
        "images": 1.0,
        "mm2": mm2,
        "n_truth": truth.n,
        "n_found": found.n,
        "tp": len(pairs),
        "iou": overlaps.iou[matched].sum(),
        **_overlap_sums(overlaps),
        **_outline_sums(truth, found, pairs + 1, options.tolerance_um),
        **_area_sums(overlaps, pairs, truth.mpp),
        **_count_sums(truth.n, found.n),
    }
    # Where nothing is annotated, whatever was found is false in its class too.
    classed = truth.n == 0 or bool((truth.classes != UNKNOWN_CLASS).any())
    tally |= {"classed_images": float(classed), "classed_mm2": mm2 * classed}
    # What was found may say another µm per pixel, by as little as is let through: far from the
    # corner that alone would part centroids of the same pixels.
    centres = centroids_um(replace(found, mpp=truth.mpp))
    seen = detect(centres, found.classes, truth, options.radius_um)
    tally |= {
        "paired": len(seen.pairs),
        "false": len(seen.false),
        "unpaired": len(seen.unpaired_found),
    }
    for k in range(n_classes):
        mine = {
            "false": _count(found, seen.false, k),
            "unpaired": _count(found, seen.unpaired_found, k),
            "mm2": mm2,
            "classed_mm2": mm2 * classed,
            "images": float(classed),
        }
        if classed:
            mine |= _class_sums(truth, found, pairs, overlaps.iou[matched], k)
            mine |= _detected_sums(truth, found, seen.pairs, k)
            mine["d_fn"] = _count(truth, seen.unpaired_truth, k)
            mine["d_fp"] = mine["unpaired"]
            mine["other"] = _count(found, seen.of_other_class, k)
        tally |= {class_key(k, name): mine.get(name, 0.0) for name in CLASS_SUMS}
    return {name: float(value) for name, value in tally.items()}


CLASS_SUMS = (
    *("images", "mm2", "classed_mm2", "n_truth", "n_found", "tp", "iou", "unknown"),
    *("c_tp", "c_fp", "c_fn", "d_fp", "d_fn", "false", "unpaired", "other"),
    *("count_d", "count_d2", "count_t", "count_t2"),
)
"""Sums of each class."""


def scored_part(
    truth: InstanceImage, found: InstanceImage
) -> tuple[InstanceImage, InstanceImage, int]:
    """Return both without the pixels that either ignores, and the number of pixels left.

    As for the void pixels of Kirillov et al. 2019 (doi:10.1109/CVPR.2019.00963), section 4.2: they
    belong to nothing, and an instance that lost more than half of its pixels to them, and has no
    match with what is left, does not count at all.  Both sides are treated alike.
    """
    masks = [each.ignored for each in (truth, found) if each.ignored is not None]
    if not masks:
        return truth, found, truth.labels.size
    ignored = np.logical_or.reduce(masks)
    cut = [np.where(ignored, 0, each.labels) for each in (truth, found)]
    overlaps = count_overlaps(cut[0], cut[1])
    good = overlaps.iou > MATCH_IOU
    matched = (
        overlaps.reference_label[overlaps.reference_index[good]],
        overlaps.predicted_label[overlaps.predicted_index[good]],
    )
    both = [
        _without_lost(each, labels, kept)
        for each, labels, kept in zip((truth, found), cut, matched, strict=True)
    ]
    return both[0], both[1], int(np.count_nonzero(~ignored))


def _without_lost(
    image: InstanceImage, cut: NDArray[np.int32], matched: NDArray[np.int64]
) -> InstanceImage:
    """Return an image of the pixels left, without what lost most of its own."""
    before = np.bincount(image.labels.ravel(), minlength=image.n + 1)
    after = np.bincount(cut.ravel(), minlength=image.n + 1)
    gone = before - after > _LOST * before
    gone[0] = False
    gone[matched] = False
    kept = np.where(gone[cut], 0, cut)
    left = np.unique(kept)
    classes = image.classes[left[left > 0] - 1]
    renumbered = instance_image(kept, image.mpp)
    return InstanceImage(renumbered.labels, classes, image.mpp)


def _overlap_sums(overlaps: Overlaps) -> Tally:
    shared, total = foreground_terms(overlaps)
    names = ("aji_shared", "aji_united", "aji_plus_shared", "aji_plus_united")
    terms = (*aji_terms(overlaps), *aji_plus_terms(overlaps))
    return dict(zip(names, terms, strict=True)) | {"fg_shared": shared, "fg_total": total}


def _outline_sums(
    truth: InstanceImage, found: InstanceImage, pairs: NDArray[np.int64], tolerance_um: float
) -> Tally:
    mpp = truth.mpp
    outlines = outline_elements(truth.labels), outline_elements(found.labels)
    near = outline_distances(*outlines, pairs, tolerance_um / mpp)
    return {
        "hd95_um": near.hd95_px.sum() * mpp,
        "distance_um": near.distance_px.sum() * mpp,
        "within_um": near.all_within_px * mpp,
        "length_um": total_length_px(outlines) * mpp,
        "surface_dice": (near.within_px / near.length_px).sum(),
    }


def _area_sums(overlaps: Overlaps, pairs: NDArray[np.int64], mpp: float) -> Tally:
    truth = overlaps.reference_px[pairs[:, 0]] * mpp**2
    difference = overlaps.predicted_px[pairs[:, 1]] * mpp**2 - truth
    return {
        "area_d": difference.sum(),
        "area_d2": (difference**2).sum(),
        "area_t": truth.sum(),
        "area_t2": (truth**2).sum(),
    }


def _count_sums(n_truth: float, n_found: float) -> dict[str, float]:
    difference = n_found - n_truth
    return {
        "count_d": difference,
        "count_d2": difference**2,
        "count_t": n_truth,
        "count_t2": n_truth**2,
    }


def _class_sums(
    truth: InstanceImage,
    found: InstanceImage,
    pairs: NDArray[np.int64],
    iou: NDArray[np.float64],
    k: int,
) -> dict[str, float]:
    """Count what panoptic quality of one class needs; a match is in the class on both sides."""
    ours, theirs = truth.classes[pairs[:, 0]], found.classes[pairs[:, 1]]
    same = (ours == k) & (theirs == k)
    n_truth, n_found = int((truth.classes == k).sum()), int((found.classes == k).sum())
    # Whether the class is right is not known there, so it is neither right nor wrong.
    unknown = int(((ours == UNKNOWN_CLASS) & (theirs == k)).sum())
    return {
        "n_truth": n_truth,
        "n_found": n_found,
        "tp": int(same.sum()),
        "iou": float(iou[same].sum()),
        "unknown": unknown,
        **_count_sums(n_truth, n_found - unknown),
    }


def _detected_sums(
    truth: InstanceImage, found: InstanceImage, pairs: NDArray[np.int64], k: int
) -> dict[str, float]:
    theirs, ours = found.classes[pairs[:, 0]], truth.classes[pairs[:, 1]]
    return {
        "c_tp": int(((ours == k) & (theirs == k)).sum()),
        "c_fp": int(((ours != k) & (ours != UNKNOWN_CLASS) & (theirs == k)).sum()),
        "c_fn": int(((ours == k) & (theirs != k)).sum()),
    }


def _count(image: InstanceImage, positions: NDArray[np.int64], k: int) -> int:
    return int((image.classes[positions] == k).sum())


def columns_of(tallies: list[Tally]) -> dict[str, NDArray[np.float64]]:
    """Return the images' sums as columns."""
    return {name: np.array([tally[name] for tally in tallies]) for name in tallies[0]}


def of_class(columns: Mapping[str, NDArray[np.float64]], k: int) -> dict[str, NDArray[np.float64]]:
    """Return the sums of one class under their plain names."""
    return {name: columns[class_key(k, name)] for name in CLASS_SUMS}


def names_of(n_classes: int) -> Iterator[str]:
    """Yield the names of the sums of all classes."""
    for k in range(n_classes):
        yield from (class_key(k, name) for name in CLASS_SUMS)
