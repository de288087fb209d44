"""Groups of patients or slides compared: by how much densities differ, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.answers.cohort import Answer, check_confidence
from wsiseg.answers.cohort_metadata import Metadata, some
from wsiseg.answers.cohort_units import (
    check_slides_once,
    false_positives_of,
    metadata_of,
    runs_of_one_slide,
    unit_areas,
    unit_counts,
    unit_name,
    unit_notes,
    unit_of,
)
from wsiseg.answers.counting import count_slides
from wsiseg.answers.detection import stands_out
from wsiseg.answers.intervals import CONFIDENCE, dominance, poisson_variance, ratio_of_means, shift
from wsiseg.answers.queries import Query, open_query
from wsiseg.answers.run_choice import AskedRun, RunsGiven
from wsiseg.cell_table import ALL_CLASSES
from wsiseg.errors import UnknownName, UsageError

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("class_name", "model", "reference", "group", "unit")),
        ("n_reference", pa.int64()),
        ("n_group", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                *("mean_per_mm2_reference", "mean_per_mm2_group"),
                *("ratio", "ratio_low", "ratio_high"),
                *("shift_per_mm2", "shift_low", "shift_high"),
                *("cliffs_delta", "cliffs_delta_low", "cliffs_delta_high"),
            )
        ),
        ("above_false_positives", pa.bool_()),
    ]
)


_LOW_ENDS = ("ratio_low", "shift_low", "cliffs_delta_low")


class _Counted(NamedTuple):
    """The units of one group, of which all have an area."""

    n: NDArray[np.float64]
    area_mm2: NDArray[np.float64]

    @property
    def density(self) -> NDArray[np.float64]:
        density: NDArray[np.float64] = self.n / self.area_mm2
        return density


def compare_groups(
    runs: RunsGiven,
    column: str,
    metadata: str | Path,
    *,
    unit: str | None = None,
    model: str | None = None,
    classes: str | None = None,
    confidence: float = CONFIDENCE,
) -> Answer:
    """Compare the densities of every class between groups of patients (or slides).

    Each patient counts once, with the nuclei of all their slides over all that was analysed of
    them: nuclei, and slides of one patient, are not independent.

    Parameters
    ----------
    runs : path, glob, or several of them
        Runs, folders of runs, or globs.
    column : str
        Column of the metadata that names the group of each slide.
    metadata : path
        As for `cohort_stats`.
    unit : str, optional
        Column whose values are independent; None: `patient` if there is such a column, else each
        slide.
    model, classes : str, optional
        As for `wsiseg.open_query`.
    confidence : float
        Of every single interval.

    Returns
    -------
    Answer
        For each pair of groups, of which the first by name is the reference, a row for each
        class and `"(all)"`: units in each, mean densities; their ratio (group over reference;
        Welch's interval on the logarithm), shift (Hodges and Lehmann's, per mm²) and Cliff's
        delta with intervals; see `docs/answers.md`.

    Raises
    ------
    UnknownName
        If the metadata have no such column.
    UsageError
        If there are fewer than two groups, a patient or slide is in two, or a slide twice in one.
    """
    check_confidence(confidence)
    with open_query(runs, model, classes) as opened:
        known = metadata_of(opened, metadata)
        if column not in known.columns:
            raise UnknownName(
                f"the metadata have no column {column!r}; there are {', '.join(known.columns)}"
            )
        unit_column = unit_of(unit, known)
        compared = list(_compared(opened, known, column, unit_column, confidence))
        notes = [
            *opened.run_notes,
            *known.notes,
            *unit_notes(opened.runs, known, unit_column),
            *_notes(opened, known, column, compared, confidence),
        ]
        return Answer(pa.Table.from_pylist(compared, _SCHEMA), tuple(notes), opened.unread)


def _compared(
    opened: Query, known: Metadata, column: str, unit_column: str | None, confidence: float
) -> Iterator[dict[str, Any]]:
    of_slide = count_slides(opened)
    for model in dict.fromkeys(run.model for run in opened.runs):
        runs = [run for run in opened.runs if run.model == model]
        groups = _groups(runs, known, column)
        _check_units(groups, known, unit_column)
        for reference, other in combinations(sorted(groups), 2):
            both = (groups[reference], groups[other])
            names = dict.fromkeys(name for run in runs for name in run.class_names)
            for name in (*names, ALL_CLASSES):
                a, b = (_counted(mine, known, unit_column, of_slide, name) for mine in both)
                rate = false_positives_of(runs[0]).get(name)
                yield {
                    "class_name": name,
                    "model": model[0],
                    "reference": reference,
                    "group": other,
                    "unit": unit_column or "slide",
                    **_effects(a, b, rate, confidence),
                }


def _groups(runs: Sequence[AskedRun], known: Metadata, column: str) -> dict[str, list[AskedRun]]:
    """Return the runs of each group.

    Raises
    ------
    UsageError
        If there are fewer than two.
    """
    groups: dict[str, list[AskedRun]] = {}
    for run in runs:
        value = known.values.get(run.slide, {}).get(column)
        if value is not None:
            groups.setdefault(value, []).append(run)
    if len(groups) < 2:
        found = ", ".join(repr(name) for name in groups) or "no value"
        raise UsageError(
            f"the slides have {found} in the column {column!r}; at least two groups are needed"
        )
    return groups


def _check_units(
    groups: Mapping[str, Sequence[AskedRun]], known: Metadata, unit_column: str | None
) -> None:
    """Raise UsageError if a patient or a slide is in two groups, or a slide twice in one."""
    place = {run.slide: group for group, runs in groups.items() for run in runs}
    for mine in runs_of_one_slide(run for runs in groups.values() for run in runs):
        names = dict.fromkeys(place[run.slide] for run in mine)
        if len(names) > 1:
            raise UsageError(
                f"{some([run.slide for run in mine])} are runs of the same slide in the groups "
                f"{some([repr(name) for name in names])}, which are then not independent; leave "
                "some of them out"
            )
    for runs in groups.values():
        check_slides_once(runs)
    seen: dict[tuple[str, str], str] = {}
    for group, runs in groups.items():
        for run in runs:
            unit = unit_name(run, known, unit_column)
            other = seen.setdefault(unit, group)
            if other != group:
                raise UsageError(
                    f"{unit[0]} {unit[1]!r} has slides in the groups {other!r} and {group!r}, "
                    "which are then not independent; give --unit slide if they are"
                )


def _counted(
    runs: Sequence[AskedRun],
    known: Metadata,
    unit_column: str | None,
    of_slide: Mapping[tuple[str, str], int],
    class_name: str,
) -> _Counted:
    """Return nuclei and area of each unit of which anything was analysed."""
    units, area_mm2 = unit_areas(runs, known, unit_column)
    n = unit_counts(runs, units, of_slide, class_name)
    there = area_mm2 > 0
    return _Counted(n[there], area_mm2[there])


def _effects(
    reference: _Counted, group: _Counted, rate: float | None, confidence: float
) -> dict[str, Any]:
    a, b = reference.density, group.density
    least = poisson_variance(*reference), poisson_variance(*group)
    ratio = ratio_of_means(a, b, confidence, least)
    moved, delta = (estimate(a, b, confidence) for estimate in (shift, dominance))
    means = [float(x.mean()) if len(x) else None for x in (a, b)]
    clear = [stands_out(mean, rate) for mean in means if mean]
    return {
        "n_reference": len(a),
        "n_group": len(b),
        "mean_per_mm2_reference": means[0],
        "mean_per_mm2_group": means[1],
        "ratio": ratio.value,
        "ratio_low": ratio.interval.low,
        "ratio_high": ratio.interval.high,
        "shift_per_mm2": moved.value,
        "shift_low": moved.interval.low,
        "shift_high": moved.interval.high,
        "cliffs_delta": delta.value,
        "cliffs_delta_low": delta.interval.low,
        "cliffs_delta_high": delta.interval.high,
        "above_false_positives": None if None in (*means, *clear) or not clear else any(clear),
    }


def _notes(
    opened: Query,
    known: Metadata,
    column: str,
    compared: Sequence[Mapping[str, Any]],
    confidence: float,
) -> Iterator[str]:
    n = len(compared)
    n_intervals = sum(row[name] is not None for row in compared for name in _LOW_ENDS)
    yield (
        f"{n} comparisons were made, with {n_intervals} intervals: of so many intervals of "
        f"{confidence:.12g}, about {n_intervals * (1 - confidence):.2g} miss the truth by chance; "
        f"with a confidence of {_confidence_for_all(confidence, n_intervals)} each, they would "
        "hold all together"
    )
    empty = [
        run.slide
        for run in opened.runs
        if run.slide in known.values and known.values[run.slide].get(column) is None
    ]
    if empty:
        yield f"{len(empty)} slides have no value of {column} and are in no group"
    nothing = [run.slide for run in opened.runs if run.analysed_mm2 <= 0]
    if nothing:
        yield (
            f"{len(nothing)} slides have no analysed area and so no density: "
            f"{', '.join(nothing[:5])}"
        )
    few = [row for row in compared if min(row["n_reference"], row["n_group"]) < 5]
    if few:
        yield "some groups have fewer than 5 units: their intervals rest on little"


def _confidence_for_all(confidence: float, n_intervals: int) -> str:
    """Return Bonferroni's confidence of each interval, rounded up and never to 1."""
    miss = (1 - confidence) / max(1, n_intervals)
    digits = 1 - math.floor(math.log10(miss))
    return f"{1 - math.floor(miss * 10**digits + 1e-6) / 10**digits:.{digits}f}"
