"""Annotated images in memory, and their split by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One image with a label per nucleus."""

    name: str
    """File name without suffix."""
    patient: str
    """Images of one patient never stand on both sides of a split."""
    rgb: NDArray[np.uint8]
    """(h, w, 3)."""
    instances: NDArray[np.int32]
    """(h, w); 0 is background."""
    classes: NDArray[np.uint8]
    """(h, w); class index from 0, `UNKNOWN_CLASS` where not known."""
    mpp: float = 0.25
    """µm per pixel."""
    ignored: NDArray[np.bool_] | None = None
    """(h, w); True where nothing is known, neither learned from nor scored.  None: nowhere."""

    def __post_init__(self) -> None:
        shape = self.rgb.shape[:2]
        if self.instances.shape != shape or self.classes.shape != shape:
            raise ValueError(
                f"{self.name}: image {shape}, instances {self.instances.shape} and classes "
                f"{self.classes.shape} differ in size; one label per pixel is needed"
            )
        if self.ignored is not None and self.ignored.shape != shape:
            raise ValueError(
                f"{self.name}: image {shape} and ignored pixels {self.ignored.shape} differ in "
                "size; one value per pixel is needed"
            )


@dataclass(frozen=True, slots=True, eq=False)
class LabelSet:
    """Annotated images of one origin, with the same things annotated in all of them."""

    name: str
    """For logs and errors."""
    images: tuple[LabelledImage, ...]
    """At least one.  Their `classes` are indices into the class list of all sets together."""
    class_names: tuple[str, ...]
    """Classes annotated here; () where only nuclei are."""
    weight: float = 1.0
    """Share of the crops of a training that come from this set, among all sets' weights."""
    licence: str = ""
    """SPDX expression or words; empty: not known."""
    organs: dict[str, str] = field(default_factory=dict)
    """Organ of each image by name, where known."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelSets:
    """Annotated images of several origins, with one list of classes."""

    sets: tuple[LabelSet, ...]
    """At least one; their names differ."""
    class_names: tuple[str, ...]
    """The common list; `LabelledImage.classes` are indices into it.  () where no set has any."""
    notes: tuple[str, ...] = ()
    """What was settled by rule while reading and the user should know, a sentence each."""


def patient_of(name: str) -> str:
    """Return the patient of an image: `TCGA-XX-XXXX` for TCGA, else the image itself."""
    return name[:12].upper() if name[:5].upper() == "TCGA-" else name


def refuse_shared_patients(learned: Sequence[LabelSet], judged: Sequence[LabelSet]) -> None:
    """Refuse images to judge by whose patients are also learned from.

    Raises
    ------
    UsageError
        If a patient has images on both sides; names some of them.
    """
    known = {image.patient: one.name for one in learned for image in one.images}
    shared = {
        image.patient: f"{image.patient} (in {known[image.patient]} and {one.name})"
        for one in judged
        for image in one.images
        if image.patient in known
    }
    if shared:
        named = ", ".join(list(shared.values())[:3])
        raise UsageError(
            f"{len(shared)} patients have images both to learn from and to judge by: {named}; "
            "scores would be too good: leave their images out of one of the two"
        )
