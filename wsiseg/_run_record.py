"""Reading `run.json`, the record of a run, and refusing what is not whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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
        value: Any = run
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kinds) or isinstance(value, bool):
            return f"{key} is {value!r}"
    slide, frame = run["slide"], run["frame"]
    if len(slide["bounds"]) != 4 or not all(_is_finite(value) for value in slide["bounds"]):
        return f"slide.bounds is {slide['bounds']}"
    for key, value in (("slide.mpp", slide["mpp"]), ("frame.scale", frame["scale"])):
        if not (_is_finite(value) and value > 0):
            return f"{key} is {value}"
    if not (_is_finite(run["analysed_mm2"]) and run["analysed_mm2"] >= 0):
        return f"analysed_mm2 is {run['analysed_mm2']}"
    return _first_wrong_class(run["classes"])


def _first_wrong_class(classes: list[Any]) -> str | None:
    for entry in classes:
        if not (isinstance(entry, Mapping) and isinstance(entry.get("name"), str)):
            return f"a class is {entry!r}"
        rgb = entry.get("rgb")
        if not (isinstance(rgb, list) and len(rgb) == 3 and all(v in range(256) for v in rgb)):
            return f"the colour of {entry['name']!r} is {rgb!r}"
    names = [entry["name"] for entry in classes]
    return None if len(set(names)) == len(names) else f"classes repeat: {', '.join(names)}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, _NUMBER) and math.isfinite(value)
