"""Numbers that a training needs and its images give, so that nobody has to set them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.quality import QualityOptions, TileQuality, appearance_of, measure_tile, tile_flags
from wsiseg.records import UNKNOWN_CLASS

STEPS_PER_ROOT_NUCLEUS = 12.0
"""Steps of 16 crops: 2,000 for the 27,000 nuclei of which the first shipped model was made, 300
for 640.  More nuclei need more steps, but each of them fewer."""
_LEAST_STEPS, _MOST_STEPS = 200, 50_000
_LARGEST_CROP_PX = 256
_SMALLEST_CROP_PX = 64
_CROP_UNIT_PX = 32
_LARGEST_CLASS_WEIGHT = 4.0
_SAME_MPP = 0.02
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


def at_scale(sets: Sequence[LabelSet], mpp: float) -> tuple[LabelSet, ...]:
    """Return the sets with all images at that many µm per pixel.

    Images within 2 % of it are taken as they are: a slide's own µm per pixel is no surer.
    """
    return tuple(
        replace(each, images=tuple(_scaled(image, mpp) for image in each.images)) for each in sets
    )


def _scaled(image: LabelledImage, mpp: float) -> LabelledImage:
    factor = image.mpp / mpp
    if abs(factor - 1) <= _SAME_MPP:
        return image
    height, width = (max(1, round(side * factor)) for side in image.instances.shape)
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR

    def nearest(array: NDArray[np.generic]) -> NDArray[np.generic]:
        # OpenCV's nearest takes no int32, and this one takes a pixel's middle.
        rows, cols = (
            np.minimum((np.arange(n) + 0.5) * (side / n), side - 1).astype(np.int64)
            for n, side in ((height, array.shape[0]), (width, array.shape[1]))
        )
        return np.ascontiguousarray(array[rows[:, np.newaxis], cols])

    return replace(
        image,
        rgb=np.asarray(cv2.resize(image.rgb, (width, height), interpolation=smooth), np.uint8),
        instances=nearest(image.instances).astype(np.int32),
        classes=nearest(image.classes).astype(np.uint8),
        ignored=None if image.ignored is None else nearest(image.ignored).astype(np.bool_),
        mpp=mpp,
    )


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
    """Return how long to train: with the square root of the number of nuclei."""
    steps = STEPS_PER_ROOT_NUCLEUS * math.sqrt(n_nuclei) * 16 / batch_size
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
    found = [quality for image in images_of(sets) for quality in _measured(image.rgb, mpp)]
    if not found:
        return {}
    ranges = appearance_of(found)
    return {name: (round(low, 4), round(high, 4)) for name, (low, high) in ranges.items()}


def _measured(rgb: NDArray[np.uint8], mpp: float) -> Iterable[TileQuality]:
    for top in range(0, rgb.shape[0], _BLOCK_PX):
        for left in range(0, rgb.shape[1], _BLOCK_PX):
            quality = measure_tile(rgb[top : top + _BLOCK_PX, left : left + _BLOCK_PX], mpp)
            enough = quality.stained_share >= QualityOptions().least_stained_share
            if enough and not {"ink", "dark"} & set(tile_flags(quality)):
                yield quality
