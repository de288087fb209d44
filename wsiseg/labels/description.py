"""TOML files that describe several sets of annotated images."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from wsiseg.errors import UsageError
from wsiseg.labels.options import (
    LabelOptions,
    OverlapRule,
    SetDescription,
    check_classes,
    check_mpp,
    check_overlaps,
    check_pattern,
)

_TOP_KEYS = ("classes", "set")
_KINDS: Mapping[str, tuple[type, ...]] = {
    "path": (str,),
    "name": (str,),
    "format": (str,),
    "mpp": (int, float),
    "weight": (int, float),
    "licence": (str,),
    "class_of": (dict,),
    "patient": (str,),
    "overlaps": (str,),
    "organ": (str,),
    "slide": (str,),
}
_WORDS = {str: "text", int: "a number", float: "a number", dict: "a table of texts"}


@dataclass(frozen=True, slots=True)
class Described:
    """What paths and TOML files name."""

    sets: tuple[SetDescription, ...]
    """At least one; their names differ."""
    classes: tuple[str, ...]
    """The common list, () if nothing says it."""


def describe(paths: Sequence[Path], options: LabelOptions) -> Described:
    """Return the sets that paths name, before anything of them is read.

    Parameters
    ----------
    paths : sequence of Path
        Folders and files of annotated images, and TOML files that name such.
    options : LabelOptions
        What holds where a TOML file does not say.

    Raises
    ------
    UsageError
        If there is none, a TOML file is damaged, a set is named twice, or lists of classes
        contradict each other.
    """
    if not paths:
        raise UsageError("no annotated images were given; name folders, or a TOML file of sets")
    sets: list[SetDescription] = []
    classes = options.classes
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist; check the path")
        if path.suffix.lower() != ".toml":
            sets.append(_plain(path, options))
            continue
        found = _read_toml(path, options)
        sets += found.sets
        if classes and found.classes and classes != found.classes:
            raise UsageError(
                f"{path} has the classes {', '.join(found.classes)}, and {', '.join(classes)} were "
                "given before; all sets share one list: name it once"
            )
        classes = classes or found.classes
    _refuse_twice(sets)
    return Described(tuple(sets), classes)


def _plain(path: Path, options: LabelOptions, name: str | None = None) -> SetDescription:
    resolved = path if path.name not in {"", ".."} else path.resolve()
    return SetDescription(
        name or resolved.name,
        path,
        mpp=options.mpp,
        licence=options.licence,
        class_of_any=options.class_of,
        patient=options.patient,
        overlaps=options.overlaps,
    )


def _refuse_twice(sets: Sequence[SetDescription]) -> None:
    names: dict[str, Path] = {}
    for one in sets:
        if one.name in names:
            raise UsageError(
                f"two sets are called {one.name} ({names[one.name]} and {one.path}); give a set "
                "once, or give each a name (name = in a TOML file)"
            )
        names[one.name] = one.path
    places: dict[Path, str] = {}
    for one in sets:
        place = one.path.resolve()
        if place in places:
            raise UsageError(f"{one.path} is given twice ({places[place]} and {one.name})")
        places[place] = one.name


def _read_toml(path: Path, options: LabelOptions) -> Described:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML file that can be read: {error}") from error
    _refuse_unknown(values, _TOP_KEYS, str(path))
    tables = values.get("set")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise UsageError(f"{path} names no set; at least one [[set]] with a path is needed")
    classes = values.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UsageError(f"{path}: classes is {classes!r}; a list of names is needed")
    check_classes(tuple(classes))
    sets = tuple(
        _described(table, path, number, options) for number, table in enumerate(tables, start=1)
    )
    return Described(sets, tuple(classes))


def _refuse_unknown(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [key for key in values if key not in known]
    if unknown:
        raise UsageError(f"{where}: {unknown[0]!r} is not known; known are {', '.join(known)}")


def _described(
    table: Mapping[str, Any], path: Path, number: int, options: LabelOptions
) -> SetDescription:
    where = f"{path}, set {number}"
    _refuse_unknown(table, tuple(_KINDS), where)
    for key, value in table.items():
        kinds = _KINDS[key]
        is_wrong = isinstance(value, bool) or not isinstance(value, kinds)
        if is_wrong or (key == "class_of" and not all(isinstance(v, str) for v in value.values())):
            raise UsageError(f"{where}: {key} is {value!r}; {_WORDS[kinds[0]]} is needed")
    if "path" not in table:
        raise UsageError(f"{where} has no path; the folder or file of its images is needed")
    target = path.parent / table["path"]
    if not target.exists():
        raise UsageError(
            f"{where}: {target} does not exist; paths are relative to the TOML file's folder"
        )
    base = _plain(target, options, table.get("name"))
    mpp, weight = table.get("mpp", base.mpp), float(table.get("weight", 1.0))
    check_mpp(None if mpp is None else float(mpp), f"{where}: mpp")
    check_pattern(table.get("patient", base.patient))
    if not (weight > 0 and math.isfinite(weight)):
        raise UsageError(f"{where}: weight is {weight:g}; a number above 0 is needed")
    overlaps = table.get("overlaps", base.overlaps)
    check_overlaps(overlaps, f"{where}: overlaps")
    return replace(
        base,
        format=table.get("format", ""),
        mpp=None if mpp is None else float(mpp),
        weight=weight,
        licence=table.get("licence", base.licence),
        class_of=table.get("class_of", {}),
        patient=table.get("patient", base.patient),
        overlaps=cast(OverlapRule, overlaps),
        organ=table.get("organ", ""),
        slide=path.parent / table["slide"] if "slide" in table else None,
    )
