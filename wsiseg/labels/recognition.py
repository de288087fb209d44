"""Which format annotated images are in, by what is there."""

from __future__ import annotations

from wsiseg.errors import LabelsNotReadable, UsageError
from wsiseg.labels.aperio import APERIO
from wsiseg.labels.arrays import CONIC, PANNUKE
from wsiseg.labels.files import IMAGE_SUFFIXES, files_below
from wsiseg.labels.folders import FOLDERS
from wsiseg.labels.found import LabelFormat
from wsiseg.labels.geojson import GEOJSON
from wsiseg.labels.mat_files import CONSEP, LIZARD
from wsiseg.labels.options import SetDescription
from wsiseg.labels.reviews import REVIEW

FORMATS: tuple[LabelFormat, ...] = (
    *(FOLDERS, APERIO, CONSEP, LIZARD, PANNUKE, CONIC, GEOJSON, REVIEW),
)
"""All formats of annotated images."""


def format_of(described: SetDescription) -> LabelFormat:
    """Return the format of a set: the one it is said to have, or the only one that is there.

    Raises
    ------
    UsageError
        If there is no format of that name, or several are there.
    LabelsNotReadable
        If none is.
    """
    known = {one.name: one for one in FORMATS}
    if described.format:
        if described.format not in known:
            raise UsageError(
                f"{described.name}: the format {described.format!r} is not known; known are "
                f"{', '.join(known)}"
            )
        return known[described.format]
    found = [one for one in FORMATS if one.is_there(described.path)]
    if len(found) > 1:
        raise UsageError(
            f"{described.path} holds {' and '.join(one.title for one in found)}; say in a TOML "
            f"file which to read (format = {' or '.join(repr(one.name) for one in found)})"
        )
    if not found:
        raise _unknown(described)
    return found[0]


def _unknown(described: SetDescription) -> LabelsNotReadable:
    path = described.path
    needed = "; ".join(f"{one.name}: {one.needs}" for one in FORMATS)
    if not path.is_dir():
        return LabelsNotReadable(
            f"{path} is a file of no known format; a folder, a .geojson or a TOML file of sets is "
            f"needed ({needed})"
        )
    inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    if not inside:
        return LabelsNotReadable(f"{path} is empty; one of these is needed: {needed}")
    sets = [
        child.name
        for child in inside
        if child.is_dir() and any(one.is_there(child) for one in FORMATS)
    ]
    if sets:
        return LabelsNotReadable(
            f"{path} holds no labels itself, but folders that do: {', '.join(sets)}; name these, "
            "or describe them in a TOML file"
        )
    n_images = len(files_below(path, IMAGE_SUFFIXES))
    said = f"{n_images} images and no labels" if n_images else "neither images nor labels"
    return LabelsNotReadable(f"{path} holds {said}; one of these is needed: {needed}")
