"""Folders of label images alone, as other programs leave them: what was found, without pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable
from wsiseg.evaluation.records import InstanceImage, instance_image
from wsiseg.labels.files import by_stem, files_below, read_label_picture
from wsiseg.labels.numbering import refuse_mask, whole_labels
from wsiseg.labels.recognition import FORMATS
from wsiseg.records import UNKNOWN_CLASS

_SUFFIXES = (".png", ".tif", ".tiff", ".npy")


@dataclass(frozen=True, slots=True)
class LabelImages:
    """Files of label images, and of their classes where there are any."""

    inst: Mapping[str, Path]
    """By name: one number per nucleus."""
    types: Mapping[str, Path]
    """By name: one value per class; empty, or as many as `inst`."""


def label_images_in(folder: Path) -> LabelImages | None:
    """Return the label images of a folder, or of `inst/` and `types/` in it.

    None if it is no such folder, or holds pictures too, so that it has one of the formats of
    annotated images.

    Raises
    ------
    LabelsNotReadable
        If two files have one name, or only some images have classes.
    """
    if not folder.is_dir() or any(one.is_there(folder) for one in FORMATS):
        return None
    inst = _files(folder / "inst" if (folder / "inst").is_dir() else folder)
    types = _files(folder / "types")
    missing = sorted(inst.keys() - types.keys()) if types else []
    if missing:
        raise LabelsNotReadable(
            f"{folder / 'types'} has no {missing[0]}; the classes of all images in inst/ are "
            "needed, or of none"
        )
    return LabelImages(inst, types) if inst else None


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return by_stem(files_below(folder, _SUFFIXES, 0), f"files in {folder}")


def class_values(files: LabelImages) -> tuple[str, ...]:
    """Return the values of classes in all images, as text, ascending; 0 is none.

    Raises
    ------
    LabelsNotReadable
        If there are more values than there can be classes.
    """
    values: set[int] = set()
    for path in files.types.values():
        values |= set(np.unique(_read(path)).tolist())
    values.discard(0)
    if len(values) > UNKNOWN_CLASS:
        folder = next(iter(files.types.values())).parent
        raise LabelsNotReadable(
            f"{folder} holds {len(values)} values; one for each class is needed, at most "
            f"{UNKNOWN_CLASS} (one number for each nucleus belongs into inst/)"
        )
    return tuple(str(value) for value in sorted(values))


def read_label_image(
    files: LabelImages, name: str, values: tuple[str, ...], mpp: float
) -> InstanceImage:
    """Return an image's nuclei; their class indices point into the values.

    Raises
    ------
    LabelsNotReadable
        If a file is no label image, or its classes differ in size.
    """
    path = files.inst[name]
    labels = _read(path)
    refuse_mask(labels, str(path))
    if name not in files.types:
        return instance_image(labels, mpp)
    types = _read(files.types[name])
    if types.shape != labels.shape:
        raise LabelsNotReadable(
            f"{files.types[name]} is {types.shape}, {path} {labels.shape}; one value for each "
            "pixel is needed"
        )
    classes = np.full(labels.shape, UNKNOWN_CLASS, np.uint8)
    for k, value in enumerate(values):
        classes[types == int(value)] = k
    return instance_image(labels, mpp, classes)


def _read(path: Path) -> NDArray[np.int32]:
    if path.suffix.lower() != ".npy":
        return whole_labels(read_label_picture(path), str(path))
    try:
        return whole_labels(np.load(path, allow_pickle=False), str(path))
    except (OSError, ValueError) as error:
        raise LabelsNotReadable(
            f"{path} cannot be read ({error}); an array (h, w) of whole numbers is needed"
        ) from error
