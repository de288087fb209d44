"""Counts of many runs in one table: the full product of slides, classes and regions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from wsiseg.cell_table import ALL_REGIONS, ClassCount, count_classes, count_regions
from wsiseg.results import Result, class_numbers


def slide_stats(results: Sequence[Result]) -> pa.Table:
    """Count the nuclei of every slide and class.

    Parameters
    ----------
    results
        Finished runs.

    Returns
    -------
    pyarrow.Table
        For each run a row for each class of its model, also those without nuclei, and a
        row `"(all)"`: `slide`, `model`, `class_name`, `n`, `analysed_mm2`, `per_mm2` (null
        if nothing was analysed; `no_density_reason` says why), `median_area_um2` (null
        without nuclei).  A class that a model does not have gets no row: that is no zero.
        `slide` is the file name; where several runs have one name, the path below the folder
        that holds all of them, such as `sub/a.svs`.
    """
    rows = [
        _row(name, result, count, result.analysed_mm2, result.no_density_reason)
        for name, result in zip(names_apart(results), results, strict=True)
        for count in count_classes(result.cell_files, result.class_names)
    ]
    return pa.Table.from_pylist(rows, schema=_STATS_SCHEMA)


def region_stats(results: Sequence[Result]) -> pa.Table:
    """Count the nuclei of every slide, region and class.

    A nucleus in several regions counts in each of them, and once in region `"(all)"`.

    Parameters
    ----------
    results
        Finished runs, with or without regions of interest.

    Returns
    -------
    pyarrow.Table
        The columns of `slide_stats` with `region` and `region_class` after `model`.  For each
        run the rows of every region, in the order of its file, then those of `"(all)"`.  A
        TMA core that is missing has null for n, not zero: there was nothing to count.  A run
        of the whole slide has `"(all)"` alone.
    """
    named = zip(names_apart(results), results, strict=True)
    rows = [row for name, result in named for row in _region_rows(name, result)]
    return pa.Table.from_pylist(rows, schema=_REGION_SCHEMA)


def names_apart(results: Sequence[Result]) -> list[str]:
    """Return a name for each run: its slide's, or where that is not enough, its place.

    Parameters
    ----------
    results
        Runs, among which several may be of slides called the same, in different folders.

    Returns
    -------
    list of str
        The slide's file name, if no other run has it; else the run's path below the folder that
        holds all runs, without `.wsiseg`, such as `sub/a.svs`.
    """
    # Only the last part: run.json may come from anywhere.
    names = [PurePath(result.name).name for result in results]
    often = {name for name, n in Counter(names).items() if n > 1}
    if not often:
        return names
    paths = [result.path.resolve() for result in results]
    start = os.path.commonpath([path.parent for path in paths])
    return [
        path.relative_to(start).as_posix().removesuffix(".wsiseg") if name in often else name
        for name, path in zip(names, paths, strict=True)
    ]


def _region_rows(name: str, result: Result) -> Iterator[dict[str, Any]]:
    files, names = result.cell_files, result.class_names
    regions = result.regions
    counted = count_regions(files, names, len(regions)) if regions else []
    for region, counts in zip(regions, counted, strict=True):
        place = {"region": region["name"], "region_class": region["class"]}
        area_mm2 = region["analysed_mm2"]
        for count in counts:
            if region["missing"]:
                row = _row(name, result, count, 0.0, "the core is marked as missing")
                yield row | place | {"n": None, "median_area_um2": None}
            else:
                reason = None if area_mm2 > 0 else "no tissue in the region"
                yield _row(name, result, count, area_mm2, reason) | place
    for count in count_classes(files, names):
        row = _row(name, result, count, result.analysed_mm2, result.no_density_reason)
        yield row | {"region": ALL_REGIONS, "region_class": None}


def _row(
    name: str, result: Result, count: ClassCount, area_mm2: float, reason: str | None
) -> dict[str, Any]:
    return {
        "slide": name,
        "model": result.model_name,
        "class_name": count.class_name,
        "analysed_mm2": area_mm2,
        "no_density_reason": reason,
    } | class_numbers(count, area_mm2)


_NUMBERS = (
    ("class_name", pa.string()),
    ("n", pa.int64()),
    ("analysed_mm2", pa.float64()),
    ("per_mm2", pa.float64()),
    ("median_area_um2", pa.float64()),
    ("no_density_reason", pa.string()),
)
_RUN = (("slide", pa.string()), ("model", pa.string()))
_STATS_SCHEMA = pa.schema([*_RUN, *_NUMBERS])
_REGION_SCHEMA = pa.schema(
    [*_RUN, ("region", pa.string()), ("region_class", pa.string()), *_NUMBERS]
)
