"""Nuclei found and nuclei annotated, paired by their centroids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from wsiseg.evaluation.assignment import assign
from wsiseg.evaluation.records import InstanceImage
from wsiseg.records import UNKNOWN_CLASS

_FAR = 1e6
"""Above all sums of distances within one group of competing nuclei, in µm."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Found and annotated nuclei of one image, and who has a partner."""

    pairs: NDArray[np.int64]
    """(n, 2): positions of a found and an annotated nucleus, one to one."""
    unpaired_found: NDArray[np.int64]
    """Positions, ascending."""
    unpaired_truth: NDArray[np.int64]
    """Positions, ascending."""
    false: NDArray[np.int64]
    """Unpaired found nuclei whose centroid lies on no annotated nucleus."""
    of_other_class: NDArray[np.int64]
    """Positions of found nuclei whose partner has another class, where both are known."""


def centroids_um(image: InstanceImage) -> NDArray[np.float64]:
    """Return the mean of each nucleus' pixel centres, (n, 2): x, y in µm from the top left."""
    row, col = np.nonzero(image.labels)
    label = image.labels[row, col] - 1
    n = np.bincount(label, minlength=image.n)
    sums = [np.bincount(label, weights=v + 0.5, minlength=image.n) for v in (col, row)]
    return np.stack(sums, axis=1) / n[:, None] * image.mpp


def pair_centroids(
    found_um: NDArray[np.float64], annotated_um: NDArray[np.float64], radius_um: float
) -> NDArray[np.int64]:
    """Pair centroids one to one: as many as can be, and of those the nearest in sum.

    Parameters
    ----------
    found_um, annotated_um : ndarray, (n, 2) and (m, 2)
        x, y in µm.
    radius_um : float
        Pairs are no further apart than this.

    Returns
    -------
    ndarray, (k, 2)
        Positions among the found and among the annotated, in the order of the former.
    """
    if not (len(found_um) and len(annotated_um)):
        return np.empty((0, 2), np.int64)
    # A hair more, and exactly tested below: which pairs are at the very radius must not hang on
    # how a tree rounds.
    near = KDTree(annotated_um).query_ball_point(found_um, radius_um * (1 + 1e-9))
    first = np.repeat(np.arange(len(found_um)), [len(there) for there in near])
    second = np.concatenate([np.asarray(sorted(there), np.int64) for there in near])
    distance = np.sqrt(((found_um[first] - annotated_um[second]) ** 2).sum(axis=1))
    close = distance <= radius_um
    first, second, distance = first[close], second[close], distance[close]
    chosen = assign(first, second, distance, _FAR)
    return np.stack([first[chosen], second[chosen]], axis=1)


def detect(
    found_um: NDArray[np.float64],
    found_classes: NDArray[np.uint8],
    truth: InstanceImage,
    radius_um: float,
) -> Detections:
    """Say which found nuclei are there, by their centroids.

    A false positive has no partner, and its centroid lies on no annotated nucleus either: it is
    there where nobody saw one.  Without the second condition halves of one nucleus, and nuclei
    with a poor outline, would count too.

    Parameters
    ----------
    found_um : ndarray, (n, 2)
        Centroids of what was found: x, y in µm from the image's top left.
    found_classes : ndarray, (n,)
        Class indices.
    truth : InstanceImage
        The annotated nuclei.
    radius_um : float
        Pairs are no further apart than this.
    """
    pairs = pair_centroids(found_um, centroids_um(truth), radius_um)
    unpaired = np.setdiff1d(np.arange(len(found_um)), pairs[:, 0])
    height, width = truth.labels.shape
    place = np.floor(found_um[unpaired] / truth.mpp).astype(np.int64)
    col, row = np.clip(place[:, 0], 0, width - 1), np.clip(place[:, 1], 0, height - 1)
    nothing_there = truth.labels[row, col] == 0
    ours, theirs = truth.classes[pairs[:, 1]], found_classes[pairs[:, 0]]
    known = (ours != UNKNOWN_CLASS) & (theirs != UNKNOWN_CLASS)
    return Detections(
        pairs=pairs,
        unpaired_found=unpaired,
        unpaired_truth=np.setdiff1d(np.arange(truth.n), pairs[:, 1]),
        false=unpaired[nothing_there],
        of_other_class=pairs[known & (ours != theirs), 0],
    )
