"""Annotated images at another µm per pixel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Frame
from wsiseg.labels.numbering import renumbered
from wsiseg.labels.options import check_mpp
from wsiseg.labels.records import LabelledImage, LabelSet, LabelSets
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.slides.frames import LEVEL_TOLERANCE
from wsiseg.slides.protocol import WHITE
from wsiseg.slides.resampling import taps, weigh

SMALLEST_PX = 4
"""A nucleus that is left with fewer pixels is dropped: it has no shape to learn."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """An image at another µm per pixel."""

    image: LabelledImage
    n_dropped: int
    """Nuclei that became too small."""


def resample(image: LabelledImage, mpp: float) -> LabelledImage:
    """Return an annotated image at another µm per pixel; see `resample_counted`."""
    return resample_counted(image, mpp).image


def resample_counted(image: LabelledImage, mpp: float) -> Resampled:
    """Return an annotated image at another µm per pixel, and how many nuclei were lost.

    Pixels are those that a slide's frame of that µm per pixel has (`wsiseg.slides.frames`):
    anti-aliased, white beyond the image, as many as cover it.  Labels are those at the centres
    of the new pixels; a new pixel whose centre is beyond the image is ignored.  Nuclei left with
    fewer than `SMALLEST_PX` pixels become background, the others are numbered 1 to n again.

    Parameters
    ----------
    image : LabelledImage
        Any size.
    mpp : float
        µm per pixel wanted.

    Raises
    ------
    UsageError
        If `mpp` is not plausible.
    """
    check_mpp(mpp, "mpp")
    ratio = mpp / image.mpp
    if math.isclose(ratio, 1.0, rel_tol=1e-9):
        return Resampled(image, 0)
    height_px, width_px = image.instances.shape
    frame = Frame.of_slide(width_px, height_px, ratio)
    rows, rows_in = _nearest(frame.height_px, height_px, ratio)
    cols, cols_in = _nearest(frame.width_px, width_px, ratio)
    picked = np.ix_(rows, cols)
    inside = rows_in[:, None] & cols_in
    labels = np.where(inside, image.instances[picked], 0).astype(np.int32)
    n_before = int(np.count_nonzero(np.bincount(image.instances.ravel())[1:]))
    area_px = np.bincount(labels.ravel())
    labels[area_px[labels] < SMALLEST_PX] = 0
    instances, values = renumbered(labels)
    classes = np.where(instances > 0, image.classes[picked], UNKNOWN_CLASS)
    ignored = None if image.ignored is None else image.ignored[picked] | ~inside
    if ignored is None and not inside.all():
        ignored = ~inside
    changed = LabelledImage(
        image.name,
        image.patient,
        _resampled(image.rgb, frame),
        instances,
        classes.astype(np.uint8),
        mpp,
        ignored,
    )
    return Resampled(changed, n_before - len(values))


def resample_sets(sets: LabelSets, mpp: float) -> LabelSets:
    """Return all sets at one µm per pixel; images within 5 % of it stay as they are.

    Slides are read by the same rule (`LEVEL_TOLERANCE`).  What was lost is told in the notes.

    Parameters
    ----------
    sets : LabelSets
        As read.
    mpp : float
        µm per pixel wanted.

    Raises
    ------
    UsageError
        If `mpp` is not plausible.
    """
    check_mpp(mpp, "mpp")
    dropped: Counter[str] = Counter()
    changed = []
    for one in sets.sets:
        found = _resample_set(one, mpp)
        changed.append(replace(one, images=tuple(each.image for each in found)))
        dropped[one.name] += sum(each.n_dropped for each in found)
    said = tuple(
        f"{name}: {n:,} nuclei have fewer than {SMALLEST_PX} pixels at {mpp:g} µm/px: dropped"
        for name, n in dropped.items()
        if n
    )
    return replace(sets, sets=tuple(changed), notes=sets.notes + said)


def _resample_set(one: LabelSet, mpp: float) -> Sequence[Resampled]:
    return [
        Resampled(image, 0)
        if abs(image.mpp / mpp - 1) <= LEVEL_TOLERANCE
        else resample_counted(image, mpp)
        for image in one.images
    ]


def _nearest(n_out: int, n_in: int, ratio: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the source pixel under the centre of each new one, and whether there is one."""
    at = np.floor((np.arange(n_out) + 0.5) * ratio).astype(np.int64)
    return np.minimum(at, n_in - 1), at < n_in


def _resampled(rgb: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """Return the pixels of a frame of an image."""
    first_col, col_weights = taps(0, frame.width_px, frame.scale)
    first_row, row_weights = taps(0, frame.height_px, frame.scale)
    top, left = (max(0, -int(first[0])) for first in (first_row, first_col))
    bottom = max(0, int(first_row[-1]) + row_weights.shape[1] - rgb.shape[0])
    right = max(0, int(first_col[-1]) + col_weights.shape[1] - rgb.shape[1])
    around = np.pad(rgb, ((top, bottom), (left, right), (0, 0)), constant_values=WHITE)
    return weigh(around, first_col + left, col_weights, first_row + top, row_weights)
