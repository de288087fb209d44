"""MATLAB files (`.mat`) beside images: the layouts of CoNSeP and of Lizard.

CoNSeP (Graham et al. 2019, doi:10.1016/j.media.2019.101563): `inst_map` and, for each nucleus in
the order of its labels, `inst_type`; or the class of each pixel in `type_map`.
Lizard (Graham et al. 2021, doi:10.1109/ICCVW54120.2021.00082): `inst_map`, and in `id` and `class`
the label and class of each nucleus, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable
from wsiseg.labels.files import (
    by_stem,
    files_below,
    images_below,
    mat_variables,
    read_mat,
    read_rgb,
    refuse_other_size,
    refuse_unpaired,
    stated_mpp,
)
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.numbering import majority, refuse_mask, renumbered, whole_labels
from wsiseg.labels.options import SetDescription

_MAP, _TYPES, _TYPE_MAP = "inst_map", "inst_type", "type_map"
_ID, _CLASS = "id", "class"
_VARIABLES = (_MAP, _TYPES, _TYPE_MAP, _ID, _CLASS)

CONSEP_NAMES = {
    "1": "other",
    "2": "inflammatory",
    "3": "healthy epithelial",
    "4": "dysplastic/malignant epithelial",
    "5": "fibroblast",
    "6": "muscle",
    "7": "endothelial",
}
LIZARD_NAMES = {
    "1": "Neutrophil",
    "2": "Epithelial",
    "3": "Lymphocyte",
    "4": "Plasma",
    "5": "Eosinophil",
    "6": "Connective",
}
LIZARD_CLASSES = {
    "1": "Inflammatory",
    "2": "Epithelial",
    "3": "Inflammatory",
    "4": "Inflammatory",
    "5": "Inflammatory",
    "6": "Spindle",
}

_Arrays = Mapping[str, NDArray[Any]]
_ClassValues = Callable[[_Arrays, NDArray[np.int32], NDArray[np.int64], str], NDArray[np.int64]]


def is_consep(path: Path) -> bool:
    """Return whether a folder holds files of CoNSeP's layout."""
    found = _first_variables(path)
    return _MAP in found and not {_ID, _CLASS} <= found


def is_lizard(path: Path) -> bool:
    """Return whether a folder holds files of Lizard's layout."""
    return {_MAP, _ID, _CLASS} <= _first_variables(path)


def _first_variables(path: Path) -> frozenset[str]:
    files = files_below(path, {".mat"})[:1] if path.is_dir() else []
    return mat_variables(files[0]) if files else frozenset()


def read_consep(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the images of a folder of CoNSeP's layout, by name.

    Raises
    ------
    LabelsNotReadable
        If something is missing or damaged, or differs in size.
    """
    return _read(described, _consep_classes)


def read_lizard(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the images of a folder of Lizard's layout; see `read_consep`."""
    return _read(described, _lizard_classes)


def _read(described: SetDescription, classes: _ClassValues) -> Iterator[FoundImage]:
    folder = described.path
    labels = by_stem(files_below(folder, {".mat"}), "label files")
    images = images_below(folder)
    refuse_unpaired(images, labels, folder, "labels (.mat)")
    for name in sorted(images):
        yield _read_image(name, images[name], labels[name], described, classes)


def _read_image(
    name: str, image: Path, labels: Path, described: SetDescription, classes: _ClassValues
) -> FoundImage:
    rgb, info = read_rgb(image)
    where = str(labels)
    arrays = read_mat(labels, _VARIABLES)
    if _MAP not in arrays:
        raise LabelsNotReadable(
            f"{where}: has no {_MAP}; one number per pixel in a variable of that name is needed"
        )
    numbers = whole_labels(arrays[_MAP], f"{where}: {_MAP}")
    refuse_other_size(rgb.shape, numbers.shape, image, where)
    refuse_mask(numbers, where)
    instances, values = renumbered(numbers)
    found = classes(arrays, instances, values, where)
    keys = tuple(str(value) if value else None for value in found.tolist())
    return FoundImage(name, rgb, instances, keys, where, stated_mpp(info, described.mpp))


def _consep_classes(
    arrays: _Arrays, instances: NDArray[np.int32], values: NDArray[np.int64], where: str
) -> NDArray[np.int64]:
    """Return the class of each nucleus, 0 where it is not known."""
    if _TYPES in arrays:
        types = _whole(arrays[_TYPES], f"{where}: {_TYPES}")
        if len(types) == len(values):
            return types
        # Where labels have gaps some files have a row for each number up to the largest.
        if len(values) and len(types) == values[-1]:
            return types[values - 1]
        raise LabelsNotReadable(
            f"{where}: {_TYPES} has {len(types)} rows and {_MAP} {len(values)} nuclei; one class "
            "for each nucleus is needed"
        )
    if _TYPE_MAP in arrays:
        type_map = whole_labels(arrays[_TYPE_MAP], f"{where}: {_TYPE_MAP}")
        refuse_other_size(instances.shape, type_map.shape, _MAP, f"{where}: {_TYPE_MAP}")
        return majority(instances, type_map)
    return np.zeros(len(values), np.int64)


def _lizard_classes(
    arrays: _Arrays, _: NDArray[np.int32], values: NDArray[np.int64], where: str
) -> NDArray[np.int64]:
    ids, classes = (_whole(arrays[key], f"{where}: {key}") for key in (_ID, _CLASS))
    if len(ids) != len(classes):
        raise LabelsNotReadable(
            f"{where}: {_ID} has {len(ids)} rows and {_CLASS} {len(classes)}; a class for each "
            "id is needed"
        )
    class_of = dict(zip(ids.tolist(), classes.tolist(), strict=True))
    missing = [value for value in values.tolist() if value not in class_of]
    if missing:
        raise LabelsNotReadable(
            f"{where}: {_MAP} has the label {missing[0]}, and {_ID} does not; {len(missing)} "
            "nuclei are without a class: correct the file"
        )
    return np.array([class_of[value] for value in values.tolist()], np.int64)


def _whole(column: NDArray[Any], where: str) -> NDArray[np.int64]:
    return whole_labels(np.atleast_2d(column), where).ravel().astype(np.int64)


def _layout(names: Sequence[str]) -> str:
    return f"Images/*.png and Labels/*.mat with {', '.join(names)}"


CONSEP = LabelFormat(
    "consep",
    ".mat files of CoNSeP's layout",
    _layout((_MAP, _TYPES)),
    is_consep,
    read_consep,
    value_names=CONSEP_NAMES,
    class_of={
        "1": "Miscellaneous",
        "2": "Inflammatory",
        **dict.fromkeys("34", "Epithelial"),
        **dict.fromkeys("567", "Spindle"),
    },
)
LIZARD = LabelFormat(
    "lizard",
    ".mat files of Lizard's layout",
    _layout((_MAP, _ID, _CLASS)),
    is_lizard,
    read_lizard,
    value_names=LIZARD_NAMES,
    class_of=LIZARD_CLASSES,
    mpp=0.5,
)
