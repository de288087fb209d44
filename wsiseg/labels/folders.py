"""Folders of `images/`, `inst/` and `types/`: a picture of labels beside each image.

`inst/` holds one number per nucleus, `types/` (where classes are known) one value per class, and
`ignored/` (where given) anything but 0 where nothing is known.  `manifest.csv` is optional; its
columns `name`, `organ`, `patient` and `mpp` are used.  A nucleus has the value that most of its
pixels have, not counting 0; of equals the smallest.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable
from wsiseg.labels.files import (
    PICTURE_SUFFIXES,
    by_stem,
    files_below,
    named,
    read_label_picture,
    read_rgb,
    refuse_other_size,
    refuse_unpaired,
    stated_mpp,
)
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.numbering import majority, refuse_mask, renumbered, whole_labels
from wsiseg.labels.options import SetDescription

_MANIFEST = "manifest.csv"


@dataclass(frozen=True, slots=True)
class _Files:
    """Files of a folder, by name without suffix."""

    images: Mapping[str, Path]
    inst: Mapping[str, Path]
    types: Mapping[str, Path]
    ignored: Mapping[str, Path]


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder with `images/` and `inst/`."""
    return (path / "images").is_dir() and (path / "inst").is_dir()


def read_folder(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the images of a folder, in the manifest's order or that of their names.

    Raises
    ------
    LabelsNotReadable
        If something is missing, is no label image, or differs in size.
    """
    folder = described.path
    files = _Files(
        *(
            by_stem(_pictures(folder / part), f"files in {folder / part}")
            for part in ("images", "inst", "types", "ignored")
        )
    )
    rows = _manifest(folder)
    names = sorted(files.images) if rows is None else list(rows)
    if rows is not None:
        missing = [name for name in names if name not in files.images]
        if missing:
            raise LabelsNotReadable(
                f"{folder / _MANIFEST} names {named(missing)}, and images/ has no such image; "
                "add it, or take the line out"
            )
    inst = {name for name in files.inst if rows is None or name in rows}
    refuse_unpaired(names, inst, folder, "label images in inst/")
    if files.types:
        refuse_unpaired(names, set(files.types) & {*names}, folder, "pictures of classes in types/")
    left_out = sorted(files.images.keys() - {*names})
    stray = sorted(files.ignored.keys() - files.images.keys())
    if stray:
        raise LabelsNotReadable(
            f"{folder / 'ignored'}: {named(stray)} has the name of no image, so that nothing would "
            "be ignored there; rename it, or take it away"
        )
    for name in names:
        found = _read_image(folder, name, files, rows[name] if rows else {}, described)
        if left_out and name == names[0]:
            found = replace(found, notes=(f"{_MANIFEST} leaves out {named(left_out)}",))
        yield found


def _pictures(folder: Path) -> list[Path]:
    return files_below(folder, PICTURE_SUFFIXES, 0) if folder.is_dir() else []


def _manifest(folder: Path) -> dict[str, dict[str, str]] | None:
    """Return the rows of the manifest by name; None without one."""
    path = folder / _MANIFEST
    if not path.exists():
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsNotReadable(f"{path} cannot be read ({error}); a CSV is needed") from error
    if any(not row.get("name") for row in rows) or not rows:
        raise LabelsNotReadable(
            f"{path} has no rows with a column name; one row for each image is needed"
        )
    found = {row["name"]: row for row in rows}
    if len(found) < len(rows):
        twice = [name for name, n in Counter(row["name"] for row in rows).items() if n > 1]
        raise LabelsNotReadable(f"{path} names {named(twice)} more than once; once is needed")
    return found


def _read_image(
    folder: Path, name: str, files: _Files, row: Mapping[str, str], described: SetDescription
) -> FoundImage:
    rgb, info = read_rgb(files.images[name])
    where = str(files.inst[name])
    labels = whole_labels(read_label_picture(files.inst[name]), where)
    refuse_other_size(rgb.shape, labels.shape, files.images[name], where)
    refuse_mask(labels, where)
    instances, _ = renumbered(labels)
    keys: tuple[str | None, ...] = (None,) * int(instances.max(initial=0))
    if name in files.types:
        where = str(files.types[name])
        keys = _class_keys(instances, files.types[name])
    ignored = None
    if name in files.ignored:
        ignored = _numbers(files.ignored[name], instances.shape) != 0
    mpp = _row_mpp(row, folder)
    return FoundImage(
        name,
        rgb,
        instances,
        keys,
        where,
        stated_mpp(info, described.mpp) if mpp is None else mpp,
        ignored,
        (row.get("organ") or "").strip(),
        (row.get("patient") or "").strip(),
    )


def _class_keys(instances: NDArray[np.int32], path: Path) -> tuple[str | None, ...]:
    values = majority(instances, _numbers(path, instances.shape))
    return tuple(str(value) if value else None for value in values.tolist())


def _numbers(path: Path, shape: tuple[int, ...]) -> NDArray[np.int32]:
    values = whole_labels(read_label_picture(path), str(path))
    refuse_other_size(shape, values.shape, "its label image", path)
    return values


def _row_mpp(row: Mapping[str, str], folder: Path) -> float | None:
    text = (row.get("mpp") or "").strip()
    try:
        return float(text) if text else None
    except ValueError as error:
        raise LabelsNotReadable(
            f"{folder / _MANIFEST}: mpp of {row['name']} is {text!r}; a number is needed"
        ) from error


FOLDERS = LabelFormat(
    "folders",
    "folders of images, instances and types",
    "images/ and inst/ (and types/) with pictures of the same names",
    is_folder,
    read_folder,
)
