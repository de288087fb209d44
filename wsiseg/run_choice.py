"""Which runs are asked, and what each is called: runs of one model, with one set of classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wsiseg.errors import ResultNotReadable, UnknownName, UsageError, WsisegError
from wsiseg.results import find_results, finished_record

ALL_MODELS = "all"
"""Stands for the runs of every model, told apart by the column `model`."""
NEWEST_CLASSES_FORMAT = 1
"""Newest `format_version` of a version of classes that this module reads."""

RunsGiven = str | Path | Sequence[str | Path]
"""Runs, folders of runs, or globs."""


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
            record = finished_record(path)
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


def _slide_name(path: Path, given: Sequence[str | Path]) -> str:
    """Return a run's path below the folder that was given, without `.wsiseg`."""
    for start in given:
        if Path(start).is_dir() and path != Path(start) and path.is_relative_to(start):
            return path.relative_to(start).as_posix().removesuffix(".wsiseg")
    return path.name.removesuffix(".wsiseg")


def _told_apart(read: Sequence[AskedRun]) -> list[AskedRun]:
    """Return the runs with names that differ: of runs from several folders, with the folder."""
    often = {name for name, n in Counter(run.slide for run in read).items() if n > 1}
    return [
        AskedRun(
            run.path,
            run.path.as_posix().removesuffix(".wsiseg") if run.slide in often else run.slide,
            run.record,
            run.class_names,
            run.classes_path,
        )
        for run in read
    ]


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


def _of_classes(
    read: Sequence[AskedRun], name: str
) -> tuple[list[AskedRun], list[ResultNotReadable]]:
    """Return the runs with a version of classes in place of their own, and why others lack it."""
    chosen, without = [], []
    for run in read:
        try:
            chosen.append(_with_classes(run, name))
        except ResultNotReadable as error:
            without.append(error)
    if not chosen:
        known = sorted({path.stem for run in read for path in run.path.glob("classes/*.json")})
        raise UnknownName(
            f"no run has classes {name!r} that can be read; there are "
            f"{', '.join(known) or 'none: make them with wsiseg classify'}"
        ) from without[0]
    return chosen, without


def _with_classes(run: AskedRun, name: str) -> AskedRun:
    """Return a run with the classes of a version.

    Raises
    ------
    ResultNotReadable
        If it is not there, damaged, newer, or of other cells.
    """
    if Path(name).name != name:
        raise UsageError(f"{name!r} is no name of a version of classes; it holds no folder")
    about, table = (run.path / "classes" / f"{name}{end}" for end in (".json", ".parquet"))
    try:
        said = json.loads(about.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultNotReadable(f"{run.path} has no classes {name!r}") from error
    except (OSError, ValueError) as error:
        raise ResultNotReadable(f"{about} is damaged ({error}); make it again") from error
    if not isinstance(said, dict) or said.get("format") != "wsiseg-classes":
        raise ResultNotReadable(f"{about} is no version of classes; make it again")
    version = said.get("format_version")
    if not isinstance(version, int) or version > NEWEST_CLASSES_FORMAT:
        raise ResultNotReadable(
            f"{about} was written by a newer wsiseg (format {version}); update wsiseg"
        )
    if said.get("n_cells") != run.record["n_cells"] or not table.is_file():
        raise ResultNotReadable(
            f"{about} is not of this run's {run.record['n_cells']} cells; make it again"
        )
    names = tuple(str(entry["name"]) for entry in said["classes"])
    return AskedRun(run.path, run.slide, run.record, names, table)
