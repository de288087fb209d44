"""Many small images in one array (`.npy`): PanNuke's folds and CoNIC.

PanNuke (Gamper et al. 2020, arXiv:2003.10778): `images.npy` (n, 256, 256, 3), `masks.npy`
(n, 256, 256, 6) with one label per nucleus in a channel for each class and the background last,
`types.npy` with the tissue of each image.  0.25 µm per pixel.
CoNIC (Graham et al. 2024, doi:10.1016/j.media.2023.103047): `images.npy` (n, 256, 256, 3),
`labels.npy` (n, 256, 256, 2) with labels and the class of each pixel, and the image each patch was
cut from in `patch_info.csv`.  0.5 µm per pixel.

The arrays stay on disk; one image is in memory at a time besides those that were read.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable
from wsiseg.labels.files import files_below, open_npy, refuse_other_size, rgb_of_array
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.mat_files import LIZARD_CLASSES, LIZARD_NAMES
from wsiseg.labels.numbering import (
    MOST_PIECES,
    majority,
    n_pieces,
    refuse_mask,
    renumbered,
    whole_labels,
)
from wsiseg.labels.options import OverlapRule, SetDescription
from wsiseg.labels.outlined import lay_down, patches_of_labels

IMAGES, MASKS, LABELS, TISSUES = "images.npy", "masks.npy", "labels.npy", "types.npy"
_PATCHES = "patch_info.csv"
_PANNUKE_CLASSES = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")


def is_pannuke(path: Path) -> bool:
    """Return whether a folder holds `images.npy` and `masks.npy`."""
    return {IMAGES, MASKS} <= _npy_names(path)


def is_conic(path: Path) -> bool:
    """Return whether a folder holds `images.npy` and `labels.npy`."""
    return {IMAGES, LABELS} <= _npy_names(path)


def _npy_names(path: Path) -> set[str]:
    return {file.name for file in files_below(path, {".npy"})} if path.is_dir() else set()


def read_pannuke(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the images of a fold of PanNuke, in its order.

    Raises
    ------
    LabelsNotReadable
        If an array is missing, damaged or of another shape, or nuclei of two classes cover each
        other and that is refused.
    """
    folder = described.path
    images = open_npy(_only(folder, IMAGES), 4, "an array (n, height, width, 3)")
    path = _only(folder, MASKS)
    masks = open_npy(path, 4, "an array (n, height, width, 6)")
    _refuse_shapes(images, masks, len(_PANNUKE_CLASSES) + 1, path)
    tissues = _tissues(folder, len(images))
    largest, n_most = 0.0, 0
    for k in range(len(images)):
        name = f"{described.name}_{k:05d}"
        rgb = rgb_of_array(images[k], f"{folder / IMAGES}: image {k}")
        where = f"{path}: image {k}"
        labels = masks[k, ..., : len(_PANNUKE_CLASSES)]
        instances, keys, counts = _one_label_per_pixel(labels, where, described.overlaps)
        largest = max(largest, float(labels.max(initial=0)))
        if largest == 1:
            n_most = max(
                n_most, *(n_pieces(channel != 0) for channel in np.moveaxis(labels, -1, 0))
            )
        yield FoundImage(
            name, rgb, instances, keys, where, described.mpp, organ=tissues[k], counts=counts
        )
    # An image may have one nucleus of a class, drawn in pieces; a fold has more than that.
    if largest == 1 and n_most > MOST_PIECES:
        raise LabelsNotReadable(
            f"{path}: all labels in it are 1, one in {n_most} pieces, so it holds masks of all "
            "nuclei together; another number for each nucleus is needed"
        )


def _one_label_per_pixel(
    channels: NDArray[Any], where: str, overlaps: OverlapRule
) -> tuple[NDArray[np.int32], tuple[str | None, ...], Counter[str]]:
    """Return PanNuke's channels as one label image, the class of each nucleus, and counts."""
    height_px, width_px = channels.shape[:2]
    taken = np.zeros((height_px, width_px), np.uint8)
    together = np.zeros((height_px, width_px), np.int32)
    keys: list[str | None] = []
    parts = []
    for channel, class_name in enumerate(_PANNUKE_CLASSES):
        labels = whole_labels(channels[..., channel], f"{where}, channel {channel}")
        instances, values = renumbered(labels)
        taken += labels > 0
        together[instances > 0] = (instances + len(keys))[instances > 0]
        keys += [class_name] * len(values)
        parts.append((instances, [f"{class_name} nucleus {value}" for value in values.tolist()]))
    if taken.max(initial=0) <= 1:
        return together, tuple(keys), Counter()
    patches = [patch for labels, titles in parts for patch in patches_of_labels(labels, titles)]
    laid = lay_down(patches, width_px, height_px, where, overlaps)
    return laid.instances, tuple(keys[k] for k in laid.kept), laid.counts


def _tissues(folder: Path, n_images: int) -> list[str]:
    if TISSUES not in _npy_names(folder):
        return [""] * n_images
    path = _only(folder, TISSUES)
    try:
        tissues = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LabelsNotReadable(
            f"{path}: is no .npy array of text that can be read ({error}); one tissue for each "
            "image is needed: copy it again, or take it away"
        ) from error
    if tissues.shape != (n_images,):
        raise LabelsNotReadable(
            f"{path}: has the shape {tissues.shape}; ({n_images},) is needed, a tissue for each "
            "image"
        )
    return [str(tissue) for tissue in tissues.tolist()]


def read_conic(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the patches of CoNIC, in its order.

    Raises
    ------
    LabelsNotReadable
        If an array is missing, damaged or of another shape.
    """
    folder = described.path
    images = open_npy(_only(folder, IMAGES), 4, "an array (n, height, width, 3)")
    path = _only(folder, LABELS)
    labels = open_npy(path, 4, "an array (n, height, width, 2)")
    _refuse_shapes(images, labels, 2, path)
    names, sources = _patches(described, len(images))
    for k in range(len(images)):
        where = f"{path}: image {k}"
        rgb = rgb_of_array(images[k], f"{folder / IMAGES}: image {k}")
        numbers = whole_labels(labels[k, ..., 0], where)
        refuse_mask(numbers, where)
        instances, _ = renumbered(numbers)
        values = majority(instances, whole_labels(labels[k, ..., 1], f"{where}, classes"))
        keys = tuple(str(value) if value else None for value in values.tolist())
        yield FoundImage(names[k], rgb, instances, keys, where, described.mpp, source=sources[k])


def _patches(described: SetDescription, n_images: int) -> tuple[list[str], list[str]]:
    """Return names of the patches, and what each was cut from: `consep_1-0004` of `consep_1`."""
    found = files_below(described.path, {".csv"})
    paths = [path for path in found if path.name == _PATCHES]
    if not paths:
        return [f"{described.name}_{k:05d}" for k in range(n_images)], [""] * n_images
    try:
        with paths[0].open(newline="", encoding="utf-8-sig") as lines:
            names = [row[-1].strip() for row in csv.reader(lines) if row][1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsNotReadable(
            f"{paths[0]} cannot be read ({error}); a CSV with the name of each patch is needed"
        ) from error
    if len(names) != n_images:
        raise LabelsNotReadable(
            f"{paths[0]} names {len(names)} patches, and there are {n_images}; one for each is "
            "needed"
        )
    return names, [name.rpartition("-")[0] or name for name in names]


def _only(folder: Path, name: str) -> Path:
    found = [path for path in files_below(folder, {".npy"}) if path.name == name]
    if len(found) != 1:
        raise LabelsNotReadable(
            f"{folder} holds {len(found)} files {name}; exactly one is needed: name one fold at a "
            "time"
        )
    return found[0]


def _refuse_shapes(images: NDArray[Any], labels: NDArray[Any], n_channels: int, path: Path) -> None:
    if images.shape[3] != 3 or labels.shape[3] != n_channels or len(images) != len(labels):
        raise LabelsNotReadable(
            f"{path}: has the shape {labels.shape} and {IMAGES} {images.shape}; (n, height, "
            f"width, {n_channels}) and (n, height, width, 3) are needed"
        )
    refuse_other_size(images.shape[1:], labels.shape[1:], IMAGES, path)
    if not len(images):
        raise LabelsNotReadable(f"{path}: holds no image; at least one is needed")


PANNUKE = LabelFormat(
    "pannuke",
    "a fold of PanNuke",
    f"{IMAGES} and {MASKS} (and {TISSUES})",
    is_pannuke,
    read_pannuke,
    value_names={name: name for name in _PANNUKE_CLASSES},
    class_of={
        "Neoplastic": "Epithelial",
        "Inflammatory": "Inflammatory",
        "Connective": "Spindle",
        "Dead": "Miscellaneous",
        "Epithelial": "Epithelial",
    },
    mpp=0.25,
    note="PanNuke does not tell patients, so a split may have one patient on both sides; give "
    "folds, not shares of them, to learn from and to judge by",
)
CONIC = LabelFormat(
    "conic",
    "CoNIC's arrays",
    f"{IMAGES} and {LABELS} (and {_PATCHES})",
    is_conic,
    read_conic,
    value_names=LIZARD_NAMES,
    class_of=LIZARD_CLASSES,
    mpp=0.5,
)
