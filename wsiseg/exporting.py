"""Giving runs away: one or many, in a format, with a choice of cells."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from wsiseg.answers.stats import names_apart
from wsiseg.errors import OutputExists, OutputNotWritable, UsageError
from wsiseg.exporters import ExporterProtocol, exporter_names, find_exporter
from wsiseg.exporters.formats import FORMATS, is_installed, suffix_of
from wsiseg.plugins import load_plugin
from wsiseg.results import Result


def export_runs(
    results: Sequence[Result],
    format: str,  # noqa: A002
    to: str | Path,
    choices: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write runs in another format.

    Parameters
    ----------
    results
        Finished runs.
    format
        Name of a plug-in of the group `wsiseg.exporters`, such as `"geojson"`.
    to
        The file or folder to make; or, for many runs, a folder in which each makes one named
        after its slide: one that exists, or a name that ends in a slash.  Where several runs are
        of slides with one name, theirs go into folders like those the runs are in.
    choices
        What the format can choose; `list_formats` lists it.  Of all with nuclei: `classes`,
        `regions`, `bbox` (as in `wsiseg.exporters._choice.CellChoice`).

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    UnknownName
        If there is no such format, class or region.
    UsageError
        If the format has no such choice, or one file was named for many runs.
    MissingDependency
        If the format needs a package that is not installed.
    OutputExists
        If something is in the way; what was written before stays.
    OutputNotWritable
        If it cannot be written.
    """
    exporter = find_exporter(format)
    options = _options(exporter, format, choices or {})
    is_folder = _is_folder(to)
    if len(results) > 1 and not is_folder:
        raise UsageError(f"{len(results)} runs cannot go into one file {to}; name a folder: {to}/")
    names = names_apart(results)
    _refuse_equal_names(names if is_folder else ())
    written: list[Path] = []
    for name, result in zip(names, results, strict=True):
        file_name = f"{name}{suffix_of(format)}"
        target = Path(to) / file_name if is_folder else Path(to)
        with _way(target, is_folder):
            written += exporter(result, target, **options) or [target]
    return written


def list_formats() -> list[dict[str, str]]:
    """List the formats that can be exported, also of plug-ins.

    Returns
    -------
    list of dict
        For each `format`: `suffix` (of its files), `what` it is, its `choices`, what it `needs`
        ("" if nothing is missing, else what to install).
    """
    return [_format_facts(name) for name in exporter_names()]


def _format_facts(name: str) -> dict[str, str]:
    found = FORMATS.get(name)
    missing = found is not None and not is_installed(name)
    return {
        "format": name,
        "suffix": suffix_of(name),
        "what": "a plug-in" if found is None else found.what,
        "choices": ", ".join(_choices(load_plugin("wsiseg.exporters", name))),
        "needs": f"pip install 'wsiseg[{found.extra}]'" if found and missing else "",
    }


def _choices(exporter: ExporterProtocol) -> list[str]:
    """Return the names of the fields of an exporter's `options`."""
    parameter = inspect.signature(exporter).parameters.get("options")
    return [] if parameter is None else [field.name for field in fields(parameter.default)]


def _options(
    exporter: ExporterProtocol,
    format: str,  # noqa: A002
    choices: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the exporter's keyword arguments: its own `options`, with the choices in them."""
    if not choices:
        return {}
    parameter = inspect.signature(exporter).parameters.get("options")
    known = _choices(exporter)
    for name in choices:
        if name not in known:
            listed = ", ".join(known) or "nothing"
            raise UsageError(f"{format} has no choice of {name}; it can choose {listed}")
    return {} if parameter is None else {"options": replace(parameter.default, **choices)}


def _is_folder(to: str | Path) -> bool:
    if str(to).endswith(("/", os.sep)):
        return True
    # An OME-Zarr is a folder too, but none to put exports into.
    return Path(to).is_dir() and Path(to).suffix != ".zarr"


def _refuse_equal_names(names: Sequence[str]) -> None:
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        raise UsageError(
            f"the run of {twice[0]} was given twice; its exports would have one name: give each "
            "run once"
        )


@contextmanager
def _way(target: Path, is_folder: bool) -> Iterator[None]:
    """Make the folder an export goes into; after a failure it is as it was."""
    if os.path.lexists(target):
        raise OutputExists(f"{target} exists; give another destination or remove it first")
    new = [folder for folder in target.parents if is_folder and not folder.exists()]
    if not is_folder and not target.parent.is_dir():
        raise OutputNotWritable(f"{target.parent} is not a folder; make it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot make {target.parent} ({error.strerror}); choose another folder"
        ) from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()
        raise
