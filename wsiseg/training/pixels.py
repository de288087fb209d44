"""Annotated images as they are trained from: all their pixels side by side on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.training.stains import Stains, stain_statistics


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The pixels of many images, end to end, so that crops are gathered by index.

    Nothing but numbers travels to the device for a batch, which keeps a GPU busy from one
    process.
    """

    rgb: Tensor
    """(n_px, 3), uint8."""
    instances: Tensor
    """(n_px,), int32: 0 is background; 1 to n in each image."""
    classes: Tensor
    """(n_px,), uint8: `UNKNOWN_CLASS` where not known."""
    known: Tensor
    """(n_px,), bool: False where nothing is to be learned."""
    first: NDArray[np.int64]
    """(n_images,): position of each image's first pixel."""
    size: NDArray[np.int64]
    """(n_images, 2): height, width."""
    stains: Stains
    """Of each image."""
    chance: NDArray[np.float64]
    """(n_images,): share of crops from each; adds up to 1."""
    names: tuple[str, ...]
    """Of the images, for messages."""
    most_instances: int
    """Of any image."""


def place_pixels(sets: Sequence[LabelSet], device: torch.device) -> Pixels:
    """Copy the images of all sets to a device.

    A set has its weight's share of the crops, and an image its area's share of those.

    Raises
    ------
    ValueError
        If there is no image, or a weight is not positive.
    """
    images = [image for labelled in sets for image in labelled.images]
    if not images or not all(labelled.images and labelled.weight > 0 for labelled in sets):
        raise ValueError(
            f"{len(sets)} sets with {[len(s.images) for s in sets]} images and weights "
            f"{[s.weight for s in sets]}; images in each and weights above 0 are needed"
        )
    size = np.array([image.instances.shape for image in images], np.int64)
    numbered = [_numbered(image.instances) for image in images]
    return Pixels(
        rgb=_end_to_end([image.rgb.reshape(-1, 3) for image in images], device),
        instances=_end_to_end([labels.ravel() for labels in numbered], device),
        classes=_end_to_end([image.classes.ravel() for image in images], device),
        known=_end_to_end([_known(image).ravel() for image in images], device),
        first=np.concatenate([[0], np.cumsum(size.prod(1))[:-1]]),
        size=size,
        stains=stain_statistics([image.rgb for image in images]),
        chance=_chances(sets),
        names=tuple(image.name for image in images),
        most_instances=max(int(labels.max(initial=0)) for labels in numbered),
    )


def _end_to_end(parts: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _numbered(instances: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return labels as 1 to n: a table of instances then has no gaps."""
    present = np.bincount(instances.ravel()) > 0
    present[0] = False
    return np.cumsum(present).astype(np.int32)[instances] * present[instances]


def _known(image: LabelledImage) -> NDArray[np.bool_]:
    if image.ignored is None:
        return np.ones(image.instances.shape, np.bool_)
    return ~image.ignored


def _chances(sets: Sequence[LabelSet]) -> NDArray[np.float64]:
    total = sum(labelled.weight for labelled in sets)
    chances: list[float] = []
    for labelled in sets:
        areas = np.array([image.instances.size for image in labelled.images], np.float64)
        chances += list(areas / areas.sum() * labelled.weight / total)
    return np.array(chances)
