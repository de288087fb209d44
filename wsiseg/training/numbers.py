"""Numbers that a training needs and its images give, so that nobody has to set them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.quality import QualityOptions, TileQuality, appearance_of, measure_tile, tile_flags
from wsiseg.records import UNKNOWN_CLASS

CROPS_PER_NUCLEUS = 23.0
"""Crops of a training, times nuclei to the power of 0.7: 29,000 for the 27,000 nuclei of which
the first shipped model was made, 1,600 for 430."""
_POWER = 0.7
_LEAST_STEPS, _MOST_STEPS = 50, 50_000
_LARGEST_CROP_PX = 256
_SMALLEST_CROP_PX = 64
_CROP_UNIT_PX = 32
_LARGEST_CLASS_WEIGHT = 4.0
_BLOCK_PX = 512
_AREA_PERCENTILES = (5.0, 95.0)


def images_of(sets: Iterable[LabelSet]) -> list[LabelledImage]:
    """Return the images of all sets."""
    return [image for each in sets for image in each.images]


def common_mpp(sets: Sequence[LabelSet]) -> float:
    """Return the µm per pixel of the image in the middle, by size of images."""
    by_mpp = sorted((image.mpp, image.instances.size) for image in images_of(sets))
    half = sum(size for _, size in by_mpp) / 2
    seen = 0
    for mpp, size in by_mpp:
        seen += size
        if seen >= half:
            return round(mpp, 4)
    raise UsageError("no annotated image was found; at least two, of two patients, are needed")


def nucleus_areas_px(sets: Sequence[LabelSet]) -> NDArray[np.int64]:
    """Return the areas of all annotated nuclei, (n,) int64.

    Raises
    ------
    UsageError
        If there is none.
    """
    found = [
        np.unique(image.instances[image.instances > 0], return_counts=True)[1]
        for image in images_of(sets)
    ]
    areas = np.concatenate([*found, np.empty(0, np.int64)]).astype(np.int64)
    if not len(areas):
        raise UsageError(
            f"{len(images_of(sets))} images have no nucleus between them; annotated nuclei are "
            "needed: are the label files the right ones?"
        )
    return areas


def steps_for(n_nuclei: int, batch_size: int) -> int:
    """Return how long to train: more nuclei need more steps, but each of them fewer."""
    steps = CROPS_PER_NUCLEUS * n_nuclei**_POWER / batch_size
    return int(min(_MOST_STEPS, max(_LEAST_STEPS, 10 * round(steps / 10))))


def crop_px_for(sets: Sequence[LabelSet], wanted: int | None) -> int:
    """Return the side of crops: the largest that fits into half of the images, 256 at most.

    Parameters
    ----------
    sets : sequence of LabelSet
        At the model's scale.
    wanted : int or None
        The side if it was given.

    Raises
    ------
    UsageError
        If all images are smaller than a crop, or the side is no multiple of 32.
    """
    sides = [min(image.instances.shape) for image in images_of(sets)]
    largest = max(sides)
    if wanted is not None and (wanted < _SMALLEST_CROP_PX or wanted % _CROP_UNIT_PX):
        raise UsageError(
            f"crops of {wanted} px; a multiple of {_CROP_UNIT_PX} from {_SMALLEST_CROP_PX} on is "
            "needed"
        )
    least = _SMALLEST_CROP_PX if wanted is None else wanted
    if largest < least:
        raise UsageError(
            f"all {len(sides)} images are smaller than a crop of {least} px at the model's scale "
            f"(the largest has {largest} px on its shorter side); larger pieces are needed"
            + ("" if wanted is None else ", or smaller crops")
        )
    if wanted is not None:
        return wanted
    middle = int(np.median(sides)) // _CROP_UNIT_PX * _CROP_UNIT_PX
    return min(_LARGEST_CROP_PX, max(_SMALLEST_CROP_PX, middle))


def class_counts(sets: Sequence[LabelSet], n_classes: int) -> NDArray[np.int64]:
    """Return the number of nuclei of each class, (n_classes,); a nucleus' first pixel decides."""
    counts = np.zeros(n_classes, np.int64)
    for image in images_of(sets):
        labels, first = np.unique(image.instances.ravel(), return_index=True)
        classes = image.classes.ravel()[first[labels > 0]]
        counts += np.bincount(classes[classes != UNKNOWN_CLASS], minlength=n_classes)[:n_classes]
    return counts


def class_weights_for(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Return weights of the classes' loss: one over the root of how often they occur.

    Their mean over nuclei is 1, and none is above 4: a class of three nuclei cannot be learned,
    only disturb.  A class that does not occur weighs nothing.
    """
    seen = counts > 0
    if not seen.any():
        return (1.0,) * len(counts)
    weights = np.where(seen, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    weights /= (weights * counts).sum() / counts.sum()
    return tuple(round(float(value), 3) for value in np.minimum(weights, _LARGEST_CLASS_WEIGHT))


def nuclear_area_um2(areas_px: NDArray[np.int64], mpp: float) -> tuple[float, float]:
    """Return between which areas nine nuclei of ten lie.

    A slide's median nucleus is among them unless its µm per pixel is wrong.
    """
    low, high = np.percentile(areas_px, _AREA_PERCENTILES) * mpp**2
    return round(float(low), 1), round(float(high), 1)


def appearance(sets: Sequence[LabelSet], mpp: float) -> dict[str, tuple[float, float]]:
    """Return the ranges of stain and colour of the images, measured in blocks of 512 px.

    Blocks with ink, with black matter or with hardly any tissue are left out; empty if all are.
    """
    found = [quality for image in images_of(sets) for quality in measured_blocks(image.rgb, mpp)]
    try:
        ranges = appearance_of(found)
    except ValueError:  # no block has stained tissue
        return {}
    return {name: (round(low, 4), round(high, 4)) for name, (low, high) in ranges.items()}


def measured_blocks(rgb: NDArray[np.uint8], mpp: float) -> Iterable[TileQuality]:
    """Yield the quality of an image's blocks of 512 px, without ink and with enough tissue.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        The image.
    mpp : float
        Its µm per pixel.
    """
    for top in range(0, rgb.shape[0], _BLOCK_PX):
        for left in range(0, rgb.shape[1], _BLOCK_PX):
            quality = measure_tile(rgb[top : top + _BLOCK_PX, left : left + _BLOCK_PX], mpp)
            enough = quality.stained_share >= QualityOptions().least_stained_share
            if enough and not {"ink", "dark"} & set(tile_flags(quality)):
                yield quality
