"""What is independent in a cohort: patients, or slides where nothing says which are whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.cohort_metadata import NO_METADATA, Metadata, SlideNames, listed, read_metadata
from wsiseg.errors import UnknownName
from wsiseg.queries import Query
from wsiseg.run_choice import AskedRun

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


def unit_areas(
    runs: Sequence[AskedRun], known: Metadata, column: str | None
) -> tuple[list[int], NDArray[np.float64]]:
    """Return the position of each run's unit, and the area of each unit."""
    names = [unit_name(run, known, column) for run in runs]
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
