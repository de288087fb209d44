"""Statistics of a cohort: counts, densities and sizes of every class, zeros included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from wsiseg.answers.cohort_metadata import Metadata, listed
from wsiseg.answers.cohort_units import (
    check_slides_once,
    false_positives_of,
    metadata_of,
    size_notes,
    unit_areas,
    unit_counts,
    unit_notes,
    unit_of,
)
from wsiseg.answers.counting import (
    NOTHING,
    Sizes,
    TileCounts,
    check_classes,
    check_number,
    count_groups,
    count_in_regions,
    count_slides,
    count_tiles,
    interval_of,
)
from wsiseg.answers.detection import MULTIPLE, stands_out
from wsiseg.answers.intervals import CONFIDENCE, UNKNOWN, Interval, density_of_units
from wsiseg.answers.queries import Query, open_query
from wsiseg.answers.run_choice import AskedRun, RunsGiven
from wsiseg.cell_table import ALL_CLASSES, ALL_REGIONS
from wsiseg.errors import UnknownName, UsageError, WsisegError

_NUMBERS: tuple[tuple[str, pa.DataType], ...] = (
    ("class_name", pa.string()),
    ("n_slides", pa.int64()),
    ("n_units", pa.int64()),
    ("n", pa.int64()),
    ("analysed_mm2", pa.float64()),
    ("per_mm2", pa.float64()),
    ("per_mm2_low", pa.float64()),
    ("per_mm2_high", pa.float64()),
    ("interval_over", pa.string()),
    ("share", pa.float64()),
    ("mean_area_um2", pa.float64()),
    ("sd_area_um2", pa.float64()),
    ("q25_area_um2", pa.float64()),
    ("median_area_um2", pa.float64()),
    ("q75_area_um2", pa.float64()),
    ("false_positives_per_mm2", pa.float64()),
    ("above_false_positives", pa.bool_()),
    ("no_density_reason", pa.string()),
)
_OWN_KEYS = ("slide", "region", "region_class", "model")
_RESERVED = (*_OWN_KEYS, *(name for name, _ in _NUMBERS))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A table, and what to mind about it."""

    table: pa.Table
    notes: tuple[str, ...]
    """A sentence each."""
    unread: tuple[WsisegError, ...]
    """Why runs are no part of it: failed, unfinished, damaged, newer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Runs that are counted together."""

    keys: Mapping[str, Any]
    runs: tuple[AskedRun, ...]

    @property
    def class_names(self) -> list[str]:
        """Of all its runs; a model's order is kept."""
        return list(dict.fromkeys(name for run in self.runs for name in run.class_names))

    @property
    def analysed_mm2(self) -> float:
        return sum(run.analysed_mm2 for run in self.runs)

    @property
    def no_density_reason(self) -> str | None:
        if self.analysed_mm2 > 0:
            return None
        said = {str(run.record.get("no_density_reason") or "") for run in self.runs} - {""}
        return "; ".join(sorted(said)) or "no area was analysed"


def cohort_stats(
    runs: RunsGiven,
    *,
    by: str | Sequence[str] = ("slide",),
    metadata: str | Path | None = None,
    unit: str | None = None,
    model: str | None = None,
    classes: str | None = None,
    confidence: float = CONFIDENCE,
) -> Answer:
    """Count the nuclei of every class of each slide, region, or group of slides.

    Parameters
    ----------
    runs : path, glob, or several of them
        Runs, folders of runs, or globs.
    by : str or sequence of str
        `"slide"`, `"region"` (each region of each slide), or columns of the metadata, whose equal
        values group slides.  Classes are always told apart.
    metadata : path, optional
        CSV with a column `slide`: file names, or paths below the folder of results.
    unit : str, optional
        Column of the metadata whose values are independent, for the intervals of groups; None:
        `patient` if there is such a column, else each slide.
    model, classes : str, optional
        As for `wsiseg.open_query`.
    confidence : float
        Of the intervals.

    Returns
    -------
    Answer
        For each group a row for each class of its models, also those without nuclei, and one
        for `"(all)"`: keys, `n`, `analysed_mm2`, `per_mm2` with the ends of its interval,
        `share` of all nuclei, sizes, and false positives; see `docs/answers.md`.

    Raises
    ------
    ResultNotReadable
        If there is no finished run, or a table is damaged.
    UsageError
        If runs are of several models and none was chosen, metadata cannot be used, a group holds
        a slide twice, or `unit` is given for slides or regions, whose intervals have none.
    UnknownName
        If `by` or `unit` names no column.
    """
    check_confidence(confidence)
    with open_query(runs, model, classes) as opened:
        known = metadata_of(opened, metadata)
        wanted = _keys(by, known)
        unit_column = unit_of(unit, known)
        _check_unit(unit, wanted)
        if "region" in wanted:
            rows = list(_region_rows(opened, known, wanted, confidence))
        elif "slide" in wanted:
            groups = _slide_groups(opened, known, wanted)
            rows = list(_slide_rows(opened, groups, confidence))
        else:
            groups = _pooled_groups(opened, known, wanted)
            for group in groups:
                check_slides_once(group.runs)
            rows = list(_pooled_rows(opened, groups, known, unit_column, confidence))
        table = pa.Table.from_pylist(rows, _schema(wanted))
        pooled = not {"slide", "region"} & {*wanted}
        units = unit_notes(opened.runs, known, unit_column if pooled else None)
        notes = (*size_notes(opened), *known.notes, *units, *_notes(table))
        return Answer(table, notes, opened.unread)


def check_confidence(confidence: float) -> None:
    """Raise UsageError unless a confidence is one."""
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence is {confidence}; give a number from 0.5 to below 1")


def _keys(by: str | Sequence[str], known: Metadata) -> list[str]:
    """Return the columns to group by; classes are told apart in any case."""
    given = by.split(",") if isinstance(by, str) else list(by)
    wanted = list(dict.fromkeys(name.strip() for name in given if name.strip()))
    for name in ("class", "region"):
        if name in wanted and name in known.columns:
            raise UsageError(
                f"{name!r} is a column of the metadata and a key of every answer too; rename the "
                "column"
            )
    wanted = [name for name in wanted if name != "class"] or ["slide"]
    for name in wanted:
        if name in ("slide", "region"):
            continue
        if name not in known.columns:
            raise UnknownName(
                f"there is nothing to group by called {name!r}; there are slide, region and "
                f"columns of the metadata: {listed(known.columns)}"
            )
        if name in _RESERVED:
            raise UsageError(
                f"the metadata's column {name!r} has the name of a column of the answer; rename it"
            )
    return wanted


def _check_unit(unit: str | None, wanted: Sequence[str]) -> None:
    """Raise UsageError if a unit is given where none is used."""
    if unit is not None and {"slide", "region"} & {*wanted}:
        raise UsageError(
            f"unit {unit!r} is of the intervals of groups, but the rows are slides or regions; "
            "group by columns of the metadata, or leave it out"
        )


def _schema(wanted: Sequence[str]) -> pa.Schema:
    place = [name for name in ("slide",) if {"slide", "region"} & set(wanted)]
    region = ["region", "region_class"] if "region" in wanted else []
    own = [name for name in wanted if name not in ("slide", "region")]
    keys = [*place, *own, "model", *region]
    return pa.schema([*((name, pa.string()) for name in keys), *_NUMBERS])


def _values(run: AskedRun, known: Metadata, wanted: Sequence[str]) -> dict[str, str | None]:
    mine = known.values.get(run.slide, {})
    return {name: mine.get(name) for name in wanted if name not in ("slide", "region")}


def _slide_groups(opened: Query, known: Metadata, wanted: Sequence[str]) -> list[_Group]:
    return [
        _Group({"slide": run.slide, "model": run.model[0]} | _values(run, known, wanted), (run,))
        for run in opened.runs
    ]


def _pooled_groups(opened: Query, known: Metadata, wanted: Sequence[str]) -> list[_Group]:
    """Return the runs with equal values, and of one model."""
    found: dict[tuple[str | None, ...], list[AskedRun]] = {}
    for run in opened.runs:
        key = (*_values(run, known, wanted).values(), *run.model)
        found.setdefault(key, []).append(run)
    ordered = sorted(found.items(), key=lambda item: [(v is None, v or "") for v in item[0]])
    return [
        _Group(dict(zip([*wanted, "model"], key[:-1], strict=True)), tuple(mine))
        for key, mine in ordered
    ]


def _slide_rows(
    opened: Query, groups: Sequence[_Group], confidence: float
) -> Iterator[dict[str, Any]]:
    counts = count_groups(opened, [[run.slide for run in group.runs] for group in groups])
    for group, mine in zip(groups, counts, strict=True):
        check_classes(group.runs[0], mine)
        check_number(group.runs[0], mine.get(ALL_CLASSES, NOTHING).n)
    tiles = count_tiles(opened)
    for group, mine in zip(groups, counts, strict=True):
        yield from _one_slide(group, mine, tiles, confidence)


def _one_slide(
    group: _Group,
    counts: Mapping[str | None, Sizes],
    tiles: Mapping[str, TileCounts],
    confidence: float,
) -> Iterator[dict[str, Any]]:
    (run,) = group.runs
    for name in (*group.class_names, ALL_CLASSES):
        interval = interval_of(tiles, run, name, confidence) if run.analysed_mm2 > 0 else UNKNOWN
        row = _row(group, name, counts, group.analysed_mm2, group.no_density_reason)
        yield row | _ends(interval, "tiles") | {"n_slides": 1, "n_units": 1}


def _pooled_rows(
    opened: Query,
    groups: Sequence[_Group],
    known: Metadata,
    unit_column: str | None,
    confidence: float,
) -> Iterator[dict[str, Any]]:
    of_slide = count_slides(opened)
    counts = count_groups(opened, [[run.slide for run in group.runs] for group in groups])
    for group, mine in zip(groups, counts, strict=True):
        units, area_mm2 = unit_areas(group.runs, known, unit_column)
        for name in (*group.class_names, ALL_CLASSES):
            n = unit_counts(group.runs, units, of_slide, name)
            interval = density_of_units(n, area_mm2, confidence)
            row = _row(group, name, mine, group.analysed_mm2, group.no_density_reason)
            n_units = int((area_mm2 > 0).sum())
            yield (
                row
                | _ends(interval, unit_column or "slides")
                | {"n_slides": len(group.runs), "n_units": n_units}
            )


def _region_rows(
    opened: Query, known: Metadata, wanted: Sequence[str], confidence: float
) -> Iterator[dict[str, Any]]:
    counted = count_in_regions(opened)
    groups = _slide_groups(opened, known, wanted)
    whole: dict[str, list[dict[str, Any]]] = {}
    for row in _slide_rows(opened, groups, confidence):
        whole.setdefault(row["slide"], []).append(row)
    for group in groups:
        (run,) = group.runs
        for i, region in enumerate(run.record.get("regions", ())):
            place = {"region": region["name"], "region_class": region["class"]}
            sizes = counted.get((run.slide, i), {})
            for name in (*group.class_names, ALL_CLASSES):
                yield _region_row(group, region, name, sizes) | place
        for row in whole[run.slide]:
            yield row | {"region": ALL_REGIONS, "region_class": None}


def _region_row(
    group: _Group, region: Mapping[str, Any], name: str, sizes: Mapping[str | None, Sizes]
) -> dict[str, Any]:
    area_mm2 = float(region["analysed_mm2"])
    reason = None if area_mm2 > 0 else "no tissue in the region"
    if region["missing"]:
        area_mm2, reason = 0.0, "the core is marked as missing"
    row = _row(group, name, sizes, area_mm2, reason) | {"n_slides": 1, "n_units": 1}
    return row | {"n": None, "share": None} if region["missing"] else row


def _row(
    group: _Group,
    name: str,
    counts: Mapping[str | None, Sizes],
    area_mm2: float,
    reason: str | None,
) -> dict[str, Any]:
    sizes = counts.get(name, NOTHING)
    n_all = counts.get(ALL_CLASSES, NOTHING).n
    per_mm2 = sizes.n / area_mm2 if area_mm2 > 0 else None
    rate = false_positives_of(group.runs[0]).get(name)
    low, median, high = sizes.quartiles_um2
    return {
        **group.keys,
        "class_name": name,
        "n": sizes.n,
        "analysed_mm2": area_mm2,
        "per_mm2": per_mm2,
        "share": sizes.n / n_all if n_all else None,
        "mean_area_um2": sizes.mean_um2,
        "sd_area_um2": sizes.sd_um2,
        "q25_area_um2": low,
        "median_area_um2": median,
        "q75_area_um2": high,
        "false_positives_per_mm2": rate,
        "above_false_positives": stands_out(per_mm2, rate),
        "no_density_reason": reason,
    }


def _ends(interval: Interval, over: str) -> dict[str, Any]:
    return {
        "per_mm2_low": interval.low,
        "per_mm2_high": interval.high,
        "interval_over": None if interval.low is None else over,
    }


def _notes(table: pa.Table) -> Iterator[str]:
    rows = table.select(["class_name", "n", "above_false_positives", "false_positives_per_mm2"])
    low = [row["class_name"] for row in rows.to_pylist() if row["above_false_positives"] is False]
    if low:
        names = ", ".join(dict.fromkeys(low))
        yield (
            f"{len(low)} densities ({names}) are not distinguishable from false positives: below "
            f"{MULTIPLE:g} times the model's finds on held-back images that match no annotation"
        )
    unknown = dict.fromkeys(
        row["class_name"] for row in rows.to_pylist() if row["false_positives_per_mm2"] is None
    )
    if unknown:
        yield (
            f"the false positives of {', '.join(unknown)} were never measured: rare classes may be "
            "only that"
        )
