"""What is scored: label images with a class for each nucleus, and how they are scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluation.sampling import Estimate
from wsiseg.labels.records import LabelledImage
from wsiseg.records import UNKNOWN_CLASS


@dataclass(frozen=True, slots=True, eq=False)
class InstanceImage:
    """A label image with labels 1 … n, and a class for each; made by `instance_image`."""

    labels: NDArray[np.int32]
    """(h, w); 0 is background, every label from 1 to n is there."""
    classes: NDArray[np.uint8]
    """(n,): class index of label 1, 2, …; `UNKNOWN_CLASS` where not known."""
    mpp: float
    """µm per pixel."""
    ignored: NDArray[np.bool_] | None = None
    """(h, w); True where nothing is known, which is not scored.  None: nowhere."""

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(
                f"labels are {self.labels.dtype} of shape {self.labels.shape}; integers (h, w) "
                "are needed"
            )
        if self.labels.max(initial=0) != len(self.classes) or self.labels.min(initial=0) < 0:
            raise ValueError(
                f"labels run from {self.labels.min(initial=0)} to {self.labels.max(initial=0)}, "
                f"with {len(self.classes)} classes; one class for each label from 1 is needed"
            )
        if self.ignored is not None and self.ignored.shape != self.labels.shape:
            raise ValueError(
                f"labels {self.labels.shape} and ignored pixels {self.ignored.shape} differ in "
                "size; one value per pixel is needed"
            )
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"mpp is {self.mpp}; µm per pixel, above 0, are needed")

    @property
    def n(self) -> int:
        """Number of nuclei."""
        return len(self.classes)


def instance_image(
    labels: NDArray[np.integer],
    mpp: float,
    classes: NDArray[np.uint8] | None = None,
    ignored: NDArray[np.bool_] | None = None,
) -> InstanceImage:
    """Return a label image with its labels renumbered in their order, and a class for each.

    Parameters
    ----------
    labels : ndarray, (h, w), integer
        0 is background; other labels need not be consecutive, nor their pixels connected.
    mpp : float
        µm per pixel.
    classes : ndarray, (h, w), uint8, optional
        Class index of each pixel; an instance has that of most of its pixels, the lowest of
        equals.  None: not known.
    ignored : ndarray, (h, w), bool, optional
        Where nothing is known.

    Raises
    ------
    ValueError
        If sizes differ or a label is negative.
    """
    inside = labels != 0
    label, position = np.unique(labels[inside], return_inverse=True)
    if label.min(initial=0) < 0:
        raise ValueError(f"labels reach down to {label.min()}; 0 is background, instances are > 0")
    compact = np.zeros(labels.shape, np.int32)
    compact[inside] = position + 1
    if classes is None:
        of_label = np.full(len(label), UNKNOWN_CLASS, np.uint8)
    elif classes.shape != labels.shape:
        raise ValueError(
            f"labels {labels.shape} and classes {classes.shape} differ in size; one class per "
            "pixel is needed"
        )
    else:
        there = np.flatnonzero(np.bincount(classes[inside], minlength=UNKNOWN_CLASS + 1))
        width = max(1, len(there))
        column = np.searchsorted(there, classes[inside])
        key = position.astype(np.int64) * width + column
        votes = np.bincount(key, minlength=len(label) * width).reshape(len(label), width)
        of_label = there[votes.argmax(axis=1)].astype(np.uint8)
    return InstanceImage(compact, of_label, mpp, ignored)


def labelled_instances(image: LabelledImage) -> InstanceImage:
    """Return an annotated image's nuclei, without its picture."""
    return instance_image(image.instances, image.mpp, image.classes, image.ignored)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPair:
    """One image as the truth has it and as it was found."""

    name: str
    """Without suffix."""
    patient: str
    """Images of one patient are drawn together when intervals are made."""
    truth: InstanceImage
    """Counts as right; of two readers, the first."""
    found: InstanceImage
    """Of the same size and µm per pixel; class indices of the same list."""
    organ: str = ""
    """Empty: not known."""

    def __post_init__(self) -> None:
        if self.truth.labels.shape != self.found.labels.shape:
            raise ValueError(
                f"{self.name}: the truth is {self.truth.labels.shape}, what was found "
                f"{self.found.labels.shape}; label images of the same size are needed"
            )


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How nuclei are paired and intervals are made."""

    mpp: float | None = None
    """µm per pixel of label images whose files do not say."""
    class_of: Mapping[str, str] = field(default_factory=dict)
    """Our name for a class of either side; "": class not known; "-": a region to ignore."""
    radius_um: float = 3.0
    """Centroids further apart are no pair: 12 px at 0.25 µm/px, as in HoVer-Net's code."""
    tolerance_um: float = 0.5
    """Outlines no further apart agree, for surface Dice."""
    n_draws: int = 2000
    """Samples of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""
    device: str = "auto"
    """Where a model runs, if one is judged: `auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        for name in ("mpp", "radius_um", "tolerance_um"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}; give a number above 0")
        if self.n_draws < 1:
            raise UsageError(f"n_draws is {self.n_draws}; at least 1 is needed")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; 0 or more is needed")


@dataclass(frozen=True, slots=True)
class PerturbationPoint:
    """How a model scores on images that were changed in one way."""

    kind: str
    """What was changed, such as `blur`."""
    strength: float
    """How far; the unchanged images are one point of each kind."""
    unit: str
    """Of the strength."""
    pq: Estimate
    """Panoptic quality, pooled over the images."""
    n_images: int
    """Images it was measured on."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "kind": self.kind,
            "strength": self.strength,
            "unit": self.unit,
            "pq": self.pq.value,
            "pq_low": self.pq.low,
            "pq_high": self.pq.high,
            "n_images": self.n_images,
        }
