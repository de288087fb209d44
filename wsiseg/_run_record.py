"""Reading `run.json`, the record of a run, and refusing what is not whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsiseg.errors import ResultNotReadable

RUN_FORMAT = "wsiseg-run"
"""What `run.json` calls its own format."""
NEWEST_RUN_FORMAT = 1
"""Newest `format_version` that this module reads."""

_NUMBER = (int, float)
_NEEDED: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("slide.name", str),
    ("slide.mpp", _NUMBER),
    ("slide.bounds", list),
    ("frame.scale", _NUMBER),
    ("frame.width_px", int),
    ("frame.height_px", int),
    ("model.name", str),
    ("classes", list),
    ("n_cells", int),
    ("analysed_mm2", _NUMBER),
    ("warnings", list),
)
_MAYBE: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("model.sha256", str),
    ("model.card", dict),
    ("model.card.about", dict),
    ("slide.width_px", int),
    ("slide.height_px", int),
    ("tiles", dict),
    ("tiles.run", int),
    ("tiles.planned", int),
    ("tiles.unreadable", list),
    ("regions", list),
    ("options", dict),
    ("numerics", dict),
    ("seconds", dict),
    ("stitch", dict),
    ("counts", dict),
    ("no_density_reason", (str, type(None))),
    ("result_version", int),
    ("wsiseg_version", str),
    ("finished_utc", str),
)
"""What may be missing, as older versions did not write all of it, but is of this kind if there."""
_REGION: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("name", str),
    ("class", (str, type(None))),
    ("kind", str),
    ("missing", bool),
    ("analysed_mm2", _NUMBER),
)
_WARNING = (("code", str), ("message", str))
_NOTHING = object()
"""Stands for what is not there."""
_MOST_SHOWN = 80
_AGAIN = "segment the slide again with --overwrite"


def read_run(folder: Path) -> Mapping[str, Any]:
    """Return what the `run.json` of a finished run holds.

    Parameters
    ----------
    folder : Path
        The run's directory.

    Raises
    ------
    ResultNotReadable
        If it is missing, damaged, unfinished, or written by a newer version.
    """
    run = _read_json(folder / "run.json")
    _check_version(folder, run)
    _check_status(folder, run)
    wrong = _first_wrong(run)
    if wrong is not None:
        raise ResultNotReadable(f"{folder}/run.json is damaged: {wrong}; {_AGAIN}")
    return run


def _read_json(path: Path) -> dict[str, Any]:
    """Return what `run.json` holds, if it is one."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultNotReadable(
            f"{path.parent} has no run.json; a run's *.wsiseg folder is needed"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultNotReadable(f"{path} is damaged ({error}); {_AGAIN}") from error
    if not isinstance(run, dict) or run.get("format") != RUN_FORMAT:
        raise ResultNotReadable(f'{path} is not of a wsiseg run: "format" is not "{RUN_FORMAT}"')
    return run


def _check_version(folder: Path, run: Mapping[str, Any]) -> None:
    version = run.get("format_version")
    if not isinstance(version, int):
        raise ResultNotReadable(f"{folder}/run.json is damaged: format_version is {version!r}")
    if version > NEWEST_RUN_FORMAT:
        raise ResultNotReadable(
            f"{folder} was written by a newer wsiseg (format {version}); this one reads up to "
            f"{NEWEST_RUN_FORMAT}; update wsiseg"
        )


def _check_status(folder: Path, run: Mapping[str, Any]) -> None:
    status = run.get("status")
    if status == "done":
        return
    if status == "failed":
        error = run.get("error")
        why = error.get("message") if isinstance(error, Mapping) else "no reason is recorded"
        raise ResultNotReadable(
            f"{folder} failed: {why}; remove the cause, then call the same command again"
        )
    raise ResultNotReadable(
        f"{folder} is not finished (status {status!r}); it is still running or was "
        "interrupted: call the same command again to finish it"
    )


def _first_wrong(run: Mapping[str, Any]) -> str | None:
    """Return what is not as a reader of the run needs it, None if all is well."""
    for key, kinds in _NEEDED:
        value = _at(run, key)
        if not _is_a(value, kinds):
            return f"{key} is {_shown(value)}"
    for key, kinds in _MAYBE:
        value = _at(run, key)
        if value is not _NOTHING and not _is_a(value, kinds):
            return f"{key} is {_shown(value)}"
    slide, frame = run["slide"], run["frame"]
    if len(slide["bounds"]) != 4 or not all(_is_finite(value) for value in slide["bounds"]):
        return f"slide.bounds is {slide['bounds']}"
    for key, value in (("slide.mpp", slide["mpp"]), ("frame.scale", frame["scale"])):
        if not (_is_finite(value) and value > 0):
            return f"{key} is {value}"
    if not (_is_finite(run["analysed_mm2"]) and run["analysed_mm2"] >= 0):
        return f"analysed_mm2 is {run['analysed_mm2']}"
    return (
        _first_wrong_class(run["classes"])
        or _first_wrong_entry("a region", run.get("regions", []), _REGION)
        or _first_wrong_entry("a warning", run["warnings"], _WARNING)
        or _first_wrong_box(run.get("tiles", {}).get("unreadable", []))
    )


def _at(run: Mapping[str, Any], key: str) -> Any:
    """Return what is at a dotted key, `_NOTHING` if it is not there."""
    value: Any = run
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _NOTHING
        value = value[part]
    return value


def _shown(value: Any) -> str:
    text = repr(None if value is _NOTHING else value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _first_wrong_entry(
    what: str, entries: list[Any], needed: Sequence[tuple[str, type | tuple[type, ...]]]
) -> str | None:
    for entry in entries:
        for key, kinds in needed:
            value = entry.get(key, _NOTHING) if isinstance(entry, Mapping) else _NOTHING
            if not _is_a(value, kinds):
                return f"{what} is {_shown(entry)}"
    return None


def _first_wrong_box(unreadable: list[Any]) -> str | None:
    for tile in unreadable:
        box = tile.get("box") if isinstance(tile, Mapping) else None
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
            return f"a tile that was left out is {_shown(tile)}"
    return None


def _first_wrong_class(classes: list[Any]) -> str | None:
    for entry in classes:
        if not (isinstance(entry, Mapping) and isinstance(entry.get("name"), str)):
            return f"a class is {entry!r}"
        rgb = entry.get("rgb")
        if not (isinstance(rgb, list) and len(rgb) == 3 and all(v in range(256) for v in rgb)):
            return f"the colour of {entry['name']!r} is {rgb!r}"
    names = [entry["name"] for entry in classes]
    return None if len(set(names)) == len(names) else f"classes repeat: {', '.join(names)}"


def _is_a(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Return whether a value is of a kind; to Python, but not here, true and false are numbers."""
    return isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))


def _is_finite(value: Any) -> bool:
    return isinstance(value, _NUMBER) and math.isfinite(value)
