"""Versions of a run's classes: `classes/NAME.parquet` and `classes/NAME.json` in its folder.

The table has the rows of the cell table, in its order, with `cell_id`, `class_name` and
`class_prob`; the JSON says which classes there are, how they were made, and of which cell table
they are.  The run's own files are never changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from wsiseg.errors import ResultNotReadable, UnknownName, UsageError

CLASSES_FORMAT = "wsiseg-classes"
"""What the JSON of a version calls its own format."""
NEWEST_CLASSES_FORMAT = 1
"""Newest `format_version` that this module reads."""
FOLDER_NAME = "classes"
"""Folder in a run that holds the versions."""

CLASSES_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("cell_id", pa.uint32(), nullable=False),
        pa.field("class_name", pa.string()),
        pa.field("class_prob", pa.float32()),
    ]
)
"""Columns of a version's table; a nucleus without a class has null in the last two."""

RESERVED_CLASS_NAMES = ("(all)", "(none)", "(added)", "(deleted)", "Nucleus")
"""What tables and formats call every nucleus, those without a class, and those a reviewer added or
deleted: a class of such a name could not be told from them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FOOTER_END_BYTES = 8
_AGAIN = "make it again with wsiseg classify --overwrite"


@dataclass(frozen=True, slots=True, eq=False)
class ClassVersion:
    """Other classes for the nuclei of a run; made by `read_class_version`."""

    name: str
    """Name of the version."""
    path: Path
    """Its table."""
    record: Mapping[str, Any]
    """Its JSON; not to be changed."""

    @property
    def classes(self) -> Sequence[Mapping[str, Any]]:
        """The classes, each with `name`, `index` (from 1) and `rgb`."""
        classes: Sequence[Mapping[str, Any]] = self.record["classes"]
        return classes


def wrong_class_name(name: str) -> str | None:
    """Return why no class can have this name, None if it can."""
    if not name.strip():
        return "is empty" if not name else "has nothing but spaces"
    if name != name.strip() or not name.isprintable():
        return "begins or ends with a space, or has a character that cannot be shown"
    if name.casefold() in {each.casefold() for each in RESERVED_CLASS_NAMES}:
        return "stands for other nuclei in tables and exports"
    return None


def version_names(run: Path) -> tuple[str, ...]:
    """Return the names of a run's versions, sorted; none where there are none."""
    found = (run / FOLDER_NAME).glob("*.json") if (run / FOLDER_NAME).is_dir() else ()
    return tuple(sorted(path.stem for path in found if _NAME.fullmatch(path.stem)))


def version_paths(run: Path, name: str) -> tuple[Path, Path]:
    """Return where table and JSON of a version are, or would be.

    Raises
    ------
    UsageError
        If no version can have such a name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a version of the classes; use up to 64 letters, digits, "
            "dots, hyphens and underscores, a letter or digit first"
        )
    return run / FOLDER_NAME / f"{name}.parquet", run / FOLDER_NAME / f"{name}.json"


def read_class_version(run: Path, name: str) -> ClassVersion:
    """Return a version of a run's classes.

    Raises
    ------
    UnknownName
        If the run has no version of that name.
    ResultNotReadable
        If it is damaged, of a newer format, or was made for another cell table.
    UsageError
        If no version can have such a name.
    """
    table, record_path = version_paths(run, name)
    if name not in version_names(run):
        known = ", ".join(version_names(run)) or "none"
        raise UnknownName(
            f"{run.name} has no version {name!r} of the classes; known: {known}; wsiseg classify "
            "makes one"
        )
    record = read_classes_record(record_path)
    if record["cells_footer_sha256"] != footer_sha256(run / "cells.parquet"):
        raise ResultNotReadable(
            f"{record_path} was made for another cells.parquet than the one that is there now; "
            f"{_AGAIN}"
        )
    return ClassVersion(name, table, record)


def read_classes_record(path: Path) -> Mapping[str, Any]:
    """Return what the JSON of a version holds.

    Raises
    ------
    ResultNotReadable
        If it is missing, damaged, or of a newer format.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultNotReadable(f"{path} cannot be read ({error}); {_AGAIN}") from error
    if not isinstance(record, dict) or record.get("format") != CLASSES_FORMAT:
        raise ResultNotReadable(f'{path} is of no classes: "format" is not "{CLASSES_FORMAT}"')
    version = record.get("format_version")
    if isinstance(version, int) and version > NEWEST_CLASSES_FORMAT:
        raise ResultNotReadable(
            f"{path} was written by a newer wsiseg (format {version}); this one reads up to "
            f"{NEWEST_CLASSES_FORMAT}; update wsiseg"
        )
    wrong = _first_wrong(record)
    if wrong is not None:
        raise ResultNotReadable(f"{path} is damaged: {wrong}; {_AGAIN}")
    return record


def footer_sha256(table: Path) -> str:
    """Return a SHA-256 of the footer of a Parquet file, as hexadecimal digits.

    The footer has the place, size and bounds of every piece of the table, so that other cells
    have another one; to hash the whole of a large table would take seconds.

    Raises
    ------
    ResultNotReadable
        If the file is missing or no Parquet.
    """
    try:
        with table.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _FOOTER_END_BYTES, 0))
            end = file.read()
            n_bytes = int.from_bytes(end[:4], "little")
            if end[4:] != b"PAR1" or n_bytes + _FOOTER_END_BYTES > size:
                raise ResultNotReadable(
                    f"{table} is damaged (its end is missing); segment the slide again with "
                    "--overwrite"
                )
            file.seek(size - _FOOTER_END_BYTES - n_bytes)
            return hashlib.sha256(file.read(n_bytes)).hexdigest()
    except OSError as error:
        raise ResultNotReadable(
            f"{table} cannot be read ({error.strerror}); segment the slide again with --overwrite"
        ) from error


def _first_wrong(record: Mapping[str, Any]) -> str | None:
    """Return what is not as a reader needs it, None if all is well."""
    for key, kind in (("format_version", int), ("classes", list), ("cells_footer_sha256", str)):
        if not isinstance(record.get(key), kind):
            return f"{key} is {record.get(key)!r}"
    for entry in record["classes"]:
        if not (isinstance(entry, Mapping) and isinstance(entry.get("name"), str)):
            return f"a class is {entry!r}"
        why = wrong_class_name(entry["name"])
        if why is not None:
            return f"the class {entry['name']!r} {why}"
        rgb = entry.get("rgb")
        if not (isinstance(rgb, list) and len(rgb) == 3 and all(v in range(256) for v in rgb)):
            return f"the colour of {entry['name']!r} is {rgb!r}"
    names = [entry["name"] for entry in record["classes"]]
    return None if len(set(names)) == len(names) else f"classes repeat: {', '.join(names)}"
