"""What is independent in a cohort: patients, or slides where nothing says which are whose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.answers.cohort_metadata import (
    NO_METADATA,
    Metadata,
    SlideNames,
    listed,
    read_metadata,
    some,
)
from wsiseg.answers.detection import false_positives, false_positives_of_all
from wsiseg.answers.queries import Query
from wsiseg.answers.run_choice import AskedRun
from wsiseg.errors import UnknownName, UsageError

PATIENT = "patient"
"""Column of the metadata that says which slides are of one patient."""


def metadata_of(opened: Query, path: str | Path | None) -> Metadata:
    """Return what is known of the runs' slides."""
    if path is None:
        return NO_METADATA
    return read_metadata(Path(path), [SlideNames(run.slide, run.file_name) for run in opened.runs])


def unit_of(unit: str | None, known: Metadata) -> str | None:
    """Return the column of what is independent; None: each slide is.

    Raises
    ------
    UnknownName
        If there is no such column.
    """
    if unit is None:
        return next((name for name in known.columns if name.casefold() == PATIENT), None)
    if unit == "slide":
        return None
    if unit not in known.columns:
        raise UnknownName(
            f"the metadata have no column {unit!r}; there are {listed(known.columns)}"
        )
    return unit


def unit_name(run: AskedRun, known: Metadata, column: str | None) -> tuple[str, str]:
    """Return what stands for a run's unit: its value in a column, else the slide itself."""
    value = known.values.get(run.slide, {}).get(column) if column is not None else None
    return ("slide", run.slide) if value is None else (str(column), value)


def slide_of(run: AskedRun) -> tuple[str, str] | None:
    """Return what is the same for every run of one slide by one model; None: not known."""
    fingerprint = run.record["slide"].get("fingerprint")
    return None if fingerprint is None else (str(fingerprint), run.model[1])


def runs_of_one_slide(runs: Iterable[AskedRun]) -> list[list[AskedRun]]:
    """Return the runs that share a slide and a model with others, by slide."""
    found: dict[tuple[str, str], list[AskedRun]] = {}
    for run in runs:
        key = slide_of(run)
        if key is not None:
            found.setdefault(key, []).append(run)
    return [mine for mine in found.values() if len(mine) > 1]


def check_slides_once(runs: Sequence[AskedRun]) -> None:
    """Raise UsageError if runs to be summed hold the nuclei of a slide twice.

    Runs of regions of a slide may be summed: their regions need not overlap.
    """
    for mine in runs_of_one_slide(runs):
        if not all(run.record.get("regions") for run in mine):
            raise UsageError(
                f"{some([run.slide for run in mine])} are runs of the same slide, whose nuclei "
                "would count twice; name one of them, or leave the others out of RUNS"
            )


def false_positives_of(run: AskedRun) -> dict[str, float]:
    """Return the false positives per mm² of a run's classes, as far as they were measured."""
    model = run.record["model"]
    return false_positives(model) if run.classes_path is None else false_positives_of_all(model)


def size_notes(opened: Query) -> list[str]:
    """Say what to mind about the runs, and of which the nuclei have no size: a sentence each."""
    said = opened.notes("SELECT area_um2 FROM cells")
    lacking = len(said) > len(opened.run_notes)
    return [*said, "sizes are those of the other runs' nuclei alone"] if lacking else said


def unit_notes(
    runs: Sequence[AskedRun], known: Metadata, column: str | None = None
) -> Iterator[str]:
    """Say which runs are of one slide, and which have no unit of their own: a sentence each."""
    for mine in runs_of_one_slide(runs):
        yield (
            f"{some([run.slide for run in mine])} are runs of the same slide by the same model: "
            "what they have in common is in each of their numbers"
        )
    if column is None:
        return
    alone = [run.slide for run in runs if unit_name(run, known, column)[0] != column]
    if alone:
        yield (
            f"{len(alone)} slides have no {column} ({some(alone)}): each counts as one of its own"
        )


def _first_of_slide(runs: Sequence[AskedRun]) -> dict[str, AskedRun]:
    """Return the first run of its slide for every run of a slide that has several, by name."""
    return {run.slide: mine[0] for mine in runs_of_one_slide(runs) for run in mine}


def unit_areas(
    runs: Sequence[AskedRun], known: Metadata, column: str | None
) -> tuple[list[int], NDArray[np.float64]]:
    """Return the position of each run's unit, and the area of each unit."""
    first = _first_of_slide(runs)
    names = [unit_name(first.get(run.slide, run), known, column) for run in runs]
    position = {name: i for i, name in enumerate(dict.fromkeys(names))}
    units = [position[name] for name in names]
    areas = [run.analysed_mm2 for run in runs]
    area_mm2 = np.bincount(units, areas, len(position)).astype(np.float64)
    return units, area_mm2


def unit_counts(
    runs: Sequence[AskedRun],
    units: Sequence[int],
    of_slide: Mapping[tuple[str, str], int],
    class_name: str,
) -> NDArray[np.float64]:
    """Return how many nuclei of a class each unit has."""
    n = [of_slide.get((run.slide, class_name), 0) for run in runs]
    return np.bincount(units, n, max(units, default=-1) + 1).astype(np.float64)
