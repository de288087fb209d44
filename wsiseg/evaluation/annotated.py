"""Annotated images by name, with one list of classes, ready to be paired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluation.records import EvaluateOptions, InstanceImage, ScoredPair
from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.labels.records import LabelledImage, LabelSets
from wsiseg.records import UNKNOWN_CLASS

UNKNOWN_NUCLEUS = ""
"""In a map of classes: a nucleus, of a class that is not known."""
IGNORED_REGION = "-"
"""In a map of classes: neither nucleus nor background; nothing is known there."""
_SCALE_TOLERANCE = 0.02
_NAMED = 5
"""In an error; more are counted."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """One image of a reader's."""

    image: LabelledImage
    """Its `classes` are indices into the reader's own list."""
    organ: str
    """Empty: not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """All that one reader annotated."""

    said: str
    """What the user called it, for errors."""
    images: Mapping[str, AnnotatedImage]
    """By name, in their order."""
    class_names: tuple[str, ...]
    """Of the images, under our names."""
    notes: tuple[str, ...] = ()
    """What was settled by rule while reading."""


def read_labels(
    given: str | Path | LabelSets | Sequence[str | Path], said: str, options: EvaluateOptions
) -> Reader:
    """Read a reader's images, whatever format they are in.

    Parameters
    ----------
    given
        One or several paths, or what was read from them.
    said : str
        What to call it in errors.
    options : EvaluateOptions
        µm per pixel and classes, where files do not say.
    """
    if isinstance(given, LabelSets):
        return reader_of(given, said)
    paths = [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]
    sets = read_label_sets(paths, LabelOptions(mpp=options.mpp, class_of=options.class_of))
    # A name without folders, which are nobody's business in a page that is passed on.
    return reader_of(sets, ", ".join(path.absolute().name for path in paths))


def reader_of(sets: LabelSets, said: str) -> Reader:
    """Return a reader's images by name.

    Raises
    ------
    UsageError
        If two images have one name.
    """
    images: dict[str, AnnotatedImage] = {}
    for one in sets.sets:
        for image in one.images:
            if image.name in images:
                raise UsageError(
                    f"{said} holds two images called {image.name}; images are paired by name: "
                    "rename one, or evaluate the sets one by one"
                )
            images[image.name] = AnnotatedImage(image, one.organs.get(image.name, ""))
    return Reader(said, images, sets.class_names, sets.notes)


def check_classes(
    said: str, names: Sequence[str], truth: Sequence[str], class_of: Mapping[str, str]
) -> None:
    """Raise UsageError if a class is found that the truth does not know, though it knows classes.

    Parameters
    ----------
    said : str
        Whose classes they are.
    names : sequence of str
        As they come.
    truth : sequence of str
        The classes that are scored; empty: none.
    class_of : mapping
        Of the options.
    """
    ours = {name: class_of.get(name, name) for name in names}
    strange = [
        name
        for name, our in ours.items()
        if our not in truth and our not in (UNKNOWN_NUCLEUS, IGNORED_REGION)
    ]
    if truth and strange:
        raise UsageError(
            f"{said} has the classes {', '.join(strange)}, which the truth does not: it has "
            f"{', '.join(truth)}; say which they are with --class-map '{strange[0]}={truth[0]}', "
            f"or '{strange[0]}=' for nuclei whose class is not scored"
        )


def with_classes(
    nuclei: InstanceImage, names: Sequence[str], class_of: Mapping[str, str], common: Sequence[str]
) -> InstanceImage:
    """Return nuclei whose class indices point into the common list.

    Parameters
    ----------
    nuclei : InstanceImage
        Their class indices point into `names`.
    names : sequence of str
        Any list of classes.
    class_of : mapping
        Of the options, where names are not ours yet; nuclei of `IGNORED_REGION` become that.
    common : sequence of str
        The truth's classes; what is not in it is of unknown class.
    """
    table, is_region = _tables(names, class_of, common)
    region = is_region[nuclei.classes]
    classes = table[nuclei.classes]
    if not region.any():
        return InstanceImage(nuclei.labels, classes, nuclei.mpp, nuclei.ignored)
    new_label = np.concatenate(([0], np.cumsum(~region))).astype(np.int32)
    new_label[1:][region] = 0
    there = np.isin(nuclei.labels, np.flatnonzero(region) + 1)
    ignored = there if nuclei.ignored is None else nuclei.ignored | there
    return InstanceImage(new_label[nuclei.labels], classes[~region], nuclei.mpp, ignored)


def _tables(
    names: Sequence[str], class_of: Mapping[str, str], common: Sequence[str]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the common index of each class, and which are regions to ignore."""
    table = np.full(UNKNOWN_CLASS + 1, UNKNOWN_CLASS, np.uint8)
    is_region = np.zeros(UNKNOWN_CLASS + 1, np.bool_)
    place = {name: k for k, name in enumerate(common)}
    for k, name in enumerate(names):
        ours = class_of.get(name, name)
        table[k] = place.get(ours, UNKNOWN_CLASS)
        is_region[k] = ours == IGNORED_REGION
    return table, is_region


def check_names(truth: Iterable[str], found: Iterable[str], said: str, said_truth: str) -> None:
    """Raise UsageError unless both sides have the same images, by name."""
    ours, theirs = list(truth), list(found)
    missing = [name for name in ours if name not in set(theirs)]
    extra = [name for name in theirs if name not in set(ours)]
    if missing or extra:
        parts = [
            f"{len(names)} of {side} have no partner in {other} ({_some(names)})"
            for names, side, other in ((missing, said_truth, said), (extra, said, said_truth))
            if names
        ]
        raise UsageError(
            f"images are paired by name (without ending): {'; '.join(parts)}; give both sides "
            "the same images"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def pair_up(
    name: str, truth: AnnotatedImage, ours: InstanceImage, found: InstanceImage, said: str
) -> ScoredPair:
    """Return an image as both sides have it.

    Raises
    ------
    UsageError
        If their size or µm per pixel differ.
    """
    (height, width), (rows, cols) = ours.labels.shape, found.labels.shape
    if (height, width) != (rows, cols):
        raise UsageError(
            f"{name}: the truth has {width} × {height} px, {said} {cols} × {rows}; both must be "
            "of the same picture"
        )
    if abs(found.mpp / ours.mpp - 1) > _SCALE_TOLERANCE:
        raise UsageError(
            f"{name}: the truth has {ours.mpp:g} µm per pixel, {said} {found.mpp:g}; say the "
            "right one with --mpp, or segment the image again with it"
        )
    return ScoredPair(name, truth.image.patient, ours, found, truth.organ)
