"""Which runs are asked, and what each is called: runs of one model, with one set of classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from wsiseg.cell_table import open_table
from wsiseg.classes.versions import read_class_version, version_names
from wsiseg.errors import ResultNotReadable, UnknownName, UsageError, WsisegError
from wsiseg.results import Result, find_results, finished_record, open_result

ALL_MODELS = "all"
"""Stands for the runs of every model, told apart by the column `model`."""

RunsGiven = str | Path | Sequence[str | Path]
"""Runs, folders of runs, or globs."""

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, eq=False)
class AskedRun:
    """A finished run that is asked."""

    path: Path
    slide: str
    """What it is called: path below the folder that was given, without `.wsiseg`."""
    record: Mapping[str, Any]
    """Its `run.json`."""
    class_names: tuple[str, ...]
    """Of its model, or of the version of classes that was asked for."""
    classes_path: Path | None
    """Table of that version; None: those of the model."""

    @property
    def file_name(self) -> str:
        """File name of the slide."""
        return PurePosixPath(str(self.record["slide"]["name"])).name

    @property
    def model(self) -> tuple[str, str]:
        """Name and sha256 of the run's model."""
        model = self.record["model"]
        return str(model["name"]), str(model.get("sha256", ""))

    @property
    def analysed_mm2(self) -> float:
        """What was analysed."""
        return float(self.record["analysed_mm2"])


@dataclass(frozen=True, slots=True)
class ChosenRuns:
    """Runs to ask, and why others are not among them."""

    runs: tuple[AskedRun, ...]
    unread: tuple[WsisegError, ...]
    """Failed, unfinished, damaged, newer, or without that version of classes."""


def open_one_result(given: str | Path) -> Result:
    """Open the one run that a path or glob leads to.

    Parameters
    ----------
    given
        A run, a folder that holds one run (at any depth), or a glob.

    Raises
    ------
    ResultNotReadable
        If it leads to no run, or the run is unfinished, damaged or written by a newer version.
    UsageError
        If it leads to several runs.
    """
    paths = find_results(given)
    if len(paths) > 1:
        named = ", ".join(path.name for path in paths[:_MOST_NAMED])
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        raise UsageError(f"{given} leads to {len(paths)} runs ({named}{more}); name one of them")
    return open_result(paths[0])


def choose_runs(
    given: RunsGiven, model: str | None = None, classes: str | None = None
) -> ChosenRuns:
    """Find finished runs of one model.

    Parameters
    ----------
    given : path, glob, or several of them
        Runs, folders of runs, or globs.
    model : str, optional
        Only runs of this model, by name or the first characters of its sha256; `"all"`: of every
        model.  Without it all runs must be of one.
    classes : str, optional
        Name of a version of classes; None for those of the model.

    Raises
    ------
    ResultNotReadable
        If there is no finished run.
    UsageError
        If runs are of several models, and none was chosen: their numbers do not add up.
    UnknownName
        If there is no run of that model, or none with that version of classes.
    """
    places = [given] if isinstance(given, str | Path) else list(given)
    read: list[AskedRun] = []
    unread: list[WsisegError] = []
    for path in find_results(places):
        try:
            record = _whole_record(path)
        except ResultNotReadable as error:
            unread.append(error)
            continue
        names = tuple(str(entry["name"]) for entry in record["classes"])
        read.append(AskedRun(path, _slide_name(path, places), record, names, None))
    if not read:
        raise unread[0]
    chosen = _of_model(_told_apart(read), model)
    if classes is not None:
        chosen, without = _of_classes(chosen, classes)
        unread += without
    return ChosenRuns(tuple(chosen), tuple(unread))


def _whole_record(path: Path) -> Mapping[str, Any]:
    """Return a finished run's record, if its tables are there and of the right length.

    Raises
    ------
    ResultNotReadable
        If it is unfinished, damaged or newer, or lies where no text can name it.
    """
    record = finished_record(path)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ResultNotReadable(
            f"{path.name!r} lies in a folder whose name is no text (UTF-8); rename it"
        ) from error
    _check_rows(path / "cells.parquet", record["n_cells"])
    if (path / "features.parquet").is_file():
        _check_rows(path / "features.parquet", record["n_cells"])
    if (path / "tiles.parquet").is_file():
        with open_table(path / "tiles.parquet"):
            pass
    return record


def _check_rows(path: Path, n_cells: int) -> None:
    with open_table(path) as table:
        n_rows = table.metadata.num_rows
    if n_rows != n_cells:
        raise ResultNotReadable(
            f"{path} is damaged: it has {n_rows} rows, run.json says {n_cells} cells; segment the "
            "slide again with --overwrite"
        )


def _slide_name(path: Path, given: Sequence[str | Path]) -> str:
    """Return a run's path below the folder that was given, without `.wsiseg`."""
    for start in given:
        if Path(start).is_dir() and path != Path(start) and path.is_relative_to(start):
            return path.relative_to(start).as_posix().removesuffix(".wsiseg")
    # Of "." and "..", where the run is where one stands, only the whole path has a name.
    return Path(os.path.abspath(path)).name.removesuffix(".wsiseg")  # noqa: PTH100


def _told_apart(read: Sequence[AskedRun]) -> list[AskedRun]:
    """Return the runs with names that differ: of runs from several folders, with the folder.

    Those of one name get their path below the folder that all runs have in common.
    """
    often = {name for name, n in Counter(run.slide for run in read).items() if n > 1}
    if not often:
        return list(read)
    # Not resolved: two links to one run are two names.
    paths = [Path(os.path.abspath(run.path)) for run in read]  # noqa: PTH100
    common = os.path.commonpath([path.parent for path in paths])
    longer = [path.relative_to(common).as_posix().removesuffix(".wsiseg") for path in paths]
    names = [
        name if run.slide in often else run.slide for run, name in zip(read, longer, strict=True)
    ]
    if len(set(names)) < len(names):
        names = longer
    return [replace(run, slide=name) for run, name in zip(read, names, strict=True)]


def _of_model(read: Sequence[AskedRun], model: str | None) -> list[AskedRun]:
    """Return the runs to ask."""
    counts = Counter(run.model for run in read)
    known = ", ".join(
        f"{name} ({sha256[:12]}, {n} slides)" for (name, sha256), n in sorted(counts.items())
    )
    if model is None and len(counts) > 1:
        raise UsageError(
            f"these runs are of {len(counts)} models: {known}; their cells do not add up: choose "
            f"one with --model, or --model {ALL_MODELS} to tell them apart by the column model"
        )
    if model is None or model == ALL_MODELS:
        return list(read)
    chosen = [run for run in read if model == run.model[0] or _is_start_of(model, run.model[1])]
    if not chosen:
        raise UnknownName(f"no run is of model {model!r}; there are {known}")
    if len({run.model for run in chosen}) > 1:
        raise UsageError(
            f"model {model!r} stands for several: {known}; give the first characters of a sha256"
        )
    return chosen


def _is_start_of(text: str, sha256: str) -> bool:
    return len(text) >= 6 and sha256.startswith(text)


def _of_classes(read: Sequence[AskedRun], name: str) -> tuple[list[AskedRun], list[WsisegError]]:
    """Return the runs with a version of classes in place of their own, and why others lack it."""
    chosen: list[AskedRun] = []
    without: list[WsisegError] = []
    for run in read:
        try:
            version = read_class_version(run.path, name)
            _check_rows(version.path, run.record["n_cells"])
        except (ResultNotReadable, UnknownName) as error:
            without.append(error)
            continue
        names = tuple(str(entry["name"]) for entry in version.classes)
        chosen.append(replace(run, class_names=names, classes_path=version.path))
    if not chosen:
        known = sorted({known for run in read for known in version_names(run.path)})
        raise UnknownName(
            f"no run has classes {name!r} that can be read; there are "
            f"{', '.join(known) or 'none: make them with wsiseg classify'}"
        ) from without[0]
    return chosen, without
