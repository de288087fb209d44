"""Annotated images of any known format, with one list of classes: `read_label_sets`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable, UsageError
from wsiseg.labels.class_names import classes_of, common_list, names_of_keys, real_names
from wsiseg.labels.description import describe
from wsiseg.labels.files import needed_mpp
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.options import (
    IGNORED_REGION,
    LARGEST_NUCLEUS_UM2,
    UNKNOWN_NUCLEUS,
    LabelOptions,
    SetDescription,
    check_mpp,
)
from wsiseg.labels.recognition import format_of
from wsiseg.labels.records import LabelledImage, LabelSet, LabelSets, patient_of
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.scale import CONTRADICTION

__all__ = ["LabelOptions", "LabelSets", "read_label_sets"]

_DEFAULTS = LabelOptions()
_USUAL_MEDIAN_UM2 = (6.0, 100.0)
"""Of nuclei in sections; MoNuSeg has 19, CoNSeP 13."""


@dataclass(frozen=True, slots=True, eq=False)
class _ReadImage:
    """An image whose nuclei have our classes, by name."""

    found: FoundImage
    mpp: float
    patient: str
    class_names: tuple[str, ...]
    """(n,): of nucleus 1 to n, `UNKNOWN_NUCLEUS` where it is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class _ReadSet:
    described: SetDescription
    images: list[_ReadImage]
    class_names: tuple[str, ...]
    notes: list[str]


def read_label_sets(paths: Sequence[Path], options: LabelOptions = _DEFAULTS) -> LabelSets:
    """Read annotated images, whatever format they are in.

    Parameters
    ----------
    paths : sequence of Path
        Each a folder or file of a known format (its content tells which), or a TOML file that
        describes sets; `docs/labels.md` has formats and rules.
    options : LabelOptions
        What the files do not say.

    Returns
    -------
    LabelSets
        Nuclei of each image are numbered 1 to n, each of one class of the common list or of none.

    Raises
    ------
    UsageError
        If paths, TOML files or options cannot be used, or a class is unknown.
    LabelsNotReadable
        If images or labels cannot be read, are missing, or contradict each other.
    MissingScale, ScaleRefused
        If µm per pixel are not known, or the files say another number than the user.
    """
    described = describe([Path(path) for path in paths], options)
    # All formats are known before the first image is read.
    formats = [format_of(one) for one in described.sets]
    read = [_read_set(one, of) for one, of in zip(described.sets, formats, strict=True)]
    names = common_list(described.classes, ((one.described.name, one.class_names) for one in read))
    if len(names) >= UNKNOWN_CLASS:
        raise UsageError(
            f"{len(names)} classes were found; at most {UNKNOWN_CLASS - 1} are possible"
        )
    index_of = {name: index for index, name in enumerate(names)}
    notes = tuple(note for one in read for note in one.notes)
    return LabelSets(tuple(_label_set(one, index_of) for one in read), tuple(names), notes)


def _read_set(described: SetDescription, of: LabelFormat) -> _ReadSet:
    known = names_of_keys(described, of)
    images: list[_ReadImage] = []
    counts: Counter[str] = Counter()
    notes = [f"{described.name}: {of.note}"] if of.note else []
    if of.mpp and described.mpp and abs(described.mpp - of.mpp) > CONTRADICTION * of.mpp:
        notes.append(
            f"{described.name}: taken for {described.mpp:g} µm/px as was said, though published at "
            f"{of.mpp:g}; mpp = in a TOML file is that of one set"
        )
    for found in of.read(described):
        names = classes_of(found, known, of, described.name)
        n_before = len(names)
        found, names = _without_ignored(found, names)
        if n_before > len(names):
            counts["nuclei of classes to ignore: their pixels are ignored"] += n_before - len(names)
        counts += found.counts
        notes += [f"{described.name}: {note}" for note in found.notes]
        mpp = needed_mpp(
            _first(found.mpp, described.mpp, of.mpp), f"{described.name}: {found.name}"
        )
        check_mpp(mpp, f"{described.name}: mpp of {found.name}")
        images.append(_ReadImage(found, mpp, _patient(found, described), names))
    if not images:
        raise LabelsNotReadable(f"{described.path} holds no image; {of.needs} are needed")
    twice = [name for name, n in Counter(one.found.name for one in images).items() if n > 1]
    if twice:
        raise LabelsNotReadable(f"{described.path} holds two images {twice[0]}; rename one")
    notes += [f"{described.name}: {n:,} {what}" for what, n in counts.items()]
    notes += _size_notes(images, described.name)
    return _ReadSet(described, images, _annotated(images, known, of), notes)


def _size_notes(images: Sequence[_ReadImage], set_name: str) -> list[str]:
    """Return what sizes say of a wrong µm per pixel, or of a background that is not 0."""
    area_um2 = np.concatenate(
        [np.bincount(one.found.instances.ravel())[1:] * one.mpp**2 for one in images]
    )
    if not len(area_um2):
        return [f"{set_name}: no image has a nucleus"]
    median, (low, high) = float(np.median(area_um2)), _USUAL_MEDIAN_UM2
    said = []
    if not low <= median <= high:
        said.append(
            f"{set_name}: half of the nuclei are smaller than {median:.1f} µm², where {low:g} to "
            f"{high:g} are usual; are the µm per pixel right?"
        )
    n_large = int(np.count_nonzero(area_um2 > LARGEST_NUCLEUS_UM2))
    if n_large:
        said.append(
            f"{set_name}: {n_large} labels are larger than {LARGEST_NUCLEUS_UM2:,.0f} µm²; is the "
            "background 0, and are the µm per pixel right?"
        )
    return said


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _annotated(
    images: Sequence[_ReadImage], known: Mapping[str, str], of: LabelFormat
) -> tuple[str, ...]:
    """Return the classes annotated in a set, also those of which no nucleus was found in it.

    Where no nucleus at all has a class, none is annotated.
    """
    found = real_names(name for one in images for name in one.class_names)
    if not found:
        return ()
    return tuple(real_names([*([] if of.names_classes else known.values()), *found]))


def _without_ignored(
    found: FoundImage, names: tuple[str, ...]
) -> tuple[FoundImage, tuple[str, ...]]:
    """Return an image without nuclei of the classes to ignore; their pixels are ignored."""
    out = np.array([name == IGNORED_REGION for name in names], np.bool_)
    if not out.any():
        return found, names
    table = np.zeros(len(names) + 1, np.int32)
    table[1:][~out] = np.arange(1, int((~out).sum()) + 1)
    pixels = np.append(False, out)[found.instances]
    ignored = pixels if found.ignored is None else pixels | found.ignored
    kept = [k for k in range(len(names)) if not out[k]]
    keys = tuple(found.class_keys[k] for k in kept)
    changed = replace(found, instances=table[found.instances], class_keys=keys, ignored=ignored)
    return changed, tuple(names[k] for k in kept)


def _patient(found: FoundImage, described: SetDescription) -> str:
    name = found.source or found.name
    if found.patient:
        return found.patient
    if not described.patient:
        return patient_of(name)
    match = re.search(described.patient, name)
    if match is None or not (match[1] if match.re.groups else match[0]):
        raise UsageError(
            f"{described.name}: patient = {described.patient!r} finds nothing in {name!r}; an "
            "expression that finds the patient in every name is needed"
        )
    return str(match[1] if match.re.groups else match[0])


def _label_set(read: _ReadSet, index_of: Mapping[str, int]) -> LabelSet:
    described = read.described
    organs = {one.found.name: one.found.organ or described.organ for one in read.images}
    images = []
    # One at a time, so that what was found of an image is let go as soon as it is brought over.
    while read.images:
        images.append(_labelled(read.images.pop(0), index_of))
    return LabelSet(
        described.name,
        tuple(images),
        tuple(name for name in index_of if name in read.class_names),
        described.weight,
        described.licence,
        {name: organ for name, organ in organs.items() if organ},
    )


def _labelled(read: _ReadImage, index_of: Mapping[str, int]) -> LabelledImage:
    found = read.found
    table: NDArray[np.uint8] = np.array(
        [UNKNOWN_CLASS]
        + [UNKNOWN_CLASS if n == UNKNOWN_NUCLEUS else index_of[n] for n in read.class_names],
        np.uint8,
    )
    return LabelledImage(
        found.name,
        read.patient,
        found.rgb,
        found.instances,
        table[found.instances],
        read.mpp,
        found.ignored,
    )
