"""Counting nuclei of groups of runs in SQL: numbers, sizes, and numbers in every tile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.answers.analysed import analysed_shape, tissue_mm2
from wsiseg.answers.intervals import UNKNOWN, Interval, density_of_tiles
from wsiseg.answers.queries import Query
from wsiseg.answers.run_choice import AskedRun
from wsiseg.cell_table import ALL_CLASSES
from wsiseg.errors import ResultNotReadable

# Threads add up in any order, which the last digits of sums show: so they are not given.
_SIZES = (
    "count(*) AS n, round(avg(area_um2), 6) AS mean, round(stddev_samp(area_um2), 6) AS sd, "
    "quantile_cont(area_um2, [0.25, 0.5, 0.75]) AS quartiles"
)
_FAR = 1 << 20
"""More than rows or columns of tiles; both may be negative."""


class Sizes(NamedTuple):
    """How many nuclei there are, and how large they are; None without nuclei."""

    n: int
    mean_um2: float | None
    sd_um2: float | None
    quartiles_um2: tuple[float | None, float | None, float | None]


NOTHING = Sizes(0, None, None, (None, None, None))


@dataclass(frozen=True, slots=True, eq=False)
class TileCounts:
    """The tiles of one slide."""

    row: NDArray[np.int64]
    col: NDArray[np.int64]
    area_mm2: NDArray[np.float64]
    n: NDArray[np.float64]
    """(tiles, classes + 1): nuclei of each class, and in the last column all."""

    def interval(self, class_index: int, confidence: float) -> Interval:
        """Return the interval of the density of one class; -1: of all nuclei."""
        return density_of_tiles(
            self.n[:, class_index], self.area_mm2, self.row, self.col, confidence
        )


def text(value: str) -> str:
    """Return a text as SQL has it."""
    return "'" + value.replace("'", "''") + "'"


def count_groups(opened: Query, members: Sequence[Sequence[str]]) -> list[dict[str | None, Sizes]]:
    """Count the nuclei of groups of slides.

    Parameters
    ----------
    opened : Query
        Runs.
    members : sequence of sequence of str
        Slides of each group; a slide is in one group at most.

    Returns
    -------
    list of dict
        Of each group by class (`"(all)"`: all; None: without a class).  What has no nuclei is
        not there.
    """
    counts: list[dict[str | None, Sizes]] = [{} for _ in members]
    pairs = [(slide, k) for k, slides in enumerate(members) for slide in slides]
    if not pairs:
        return counts
    rows = ", ".join(f"({text(slide)}, {k})" for slide, k in pairs)
    found = opened.run(
        f"WITH members(slide, k) AS (VALUES {rows}) "  # noqa: S608 - ours
        f"SELECT k, class_name, grouping(class_name) AS every, {_SIZES} "
        "FROM cells JOIN members USING (slide) "
        "GROUP BY GROUPING SETS ((k, class_name), (k))"
    )
    for row in found.to_pylist():
        counts[row["k"]][_class_of(row)] = _sizes(row)
    return counts


def count_in_regions(opened: Query) -> dict[tuple[str, int], dict[str | None, Sizes]]:
    """Count the nuclei of every region: by slide and position of the region, then by class."""
    counts: dict[tuple[str, int], dict[str | None, Sizes]] = defaultdict(dict)
    if not any(run.record.get("regions") for run in opened.runs):
        return counts
    found = opened.run(
        f"SELECT slide, region_id, class_name, grouping(class_name) AS every, {_SIZES} "  # noqa: S608
        "FROM (SELECT slide, class_name, area_um2, unnest(region_ids) AS region_id FROM cells) "
        "GROUP BY GROUPING SETS ((slide, region_id, class_name), (slide, region_id))"
    )
    for row in found.to_pylist():
        counts[row["slide"], row["region_id"]][_class_of(row)] = _sizes(row)
    return counts


def count_slides(opened: Query) -> dict[tuple[str, str], int]:
    """Count the nuclei of every slide: by slide and class, `"(all)"` included.

    Raises
    ------
    ResultNotReadable
        If a table holds a class that its run does not have.
    """
    found = opened.run("SELECT slide, class_name, count(*) AS n FROM cells GROUP BY ALL")
    counts: dict[tuple[str, str], int] = defaultdict(int)
    known = {run.slide: run for run in opened.runs}
    for row in found.to_pylist():
        name = row["class_name"]
        counts[row["slide"], ALL_CLASSES] += row["n"]
        check_classes(known[row["slide"]], [name])
        if name is not None:
            counts[row["slide"], name] = row["n"]
    for run in opened.runs:
        check_number(run, counts[run.slide, ALL_CLASSES])
    return counts


def check_number(run: AskedRun, n: int) -> None:
    """Raise ResultNotReadable if not all nuclei of a run were counted, and each once."""
    if n != run.record["n_cells"]:
        raise ResultNotReadable(
            f"{n} cells of {run.slide} were counted, but run.json says {run.record['n_cells']}; "
            "segment the slide again with --overwrite"
        )


def check_classes(run: AskedRun, found: Iterable[str | None]) -> None:
    """Raise ResultNotReadable if there is a class that a run does not have."""
    for name in found:
        if name is not None and name not in (*run.class_names, ALL_CLASSES):
            raise ResultNotReadable(
                f"the cells of {run.slide} have the class {name!r}, which its classes "
                f"({', '.join(run.class_names) or 'none'}) do not hold; segment the slide again "
                "with --overwrite"
            )


def count_tiles(opened: Query) -> dict[str, TileCounts]:
    """Count the nuclei in every tile, by the place of their centroid; by slide."""
    tiles = opened.run(
        "SELECT slide, row, col, x, y, width, height, tissue_share, "
        "coalesce(list_contains(flags, 'unreadable'), false) AS left_out FROM tiles"
    )
    cells = opened.run(
        "SELECT slide, class_name, CAST(floor((x - left_px) / width_px) AS BIGINT) AS col, "
        "CAST(floor((y - top_px) / height_px) AS BIGINT) AS row, count(*) AS n FROM cells JOIN "
        "(SELECT slide, any_value(x - col * width) AS left_px, any_value(width) AS width_px, "
        "any_value(y - row * height) AS top_px, any_value(height) AS height_px FROM tiles "
        "GROUP BY slide) USING (slide) GROUP BY ALL"
    )
    of_slide = {run.slide: run for run in opened.runs}
    counted = _by_slide(cells)
    return {
        slide: _tiles_of(of_slide[slide], mine, counted.get(slide))
        for slide, mine in _by_slide(tiles).items()
    }


def _tiles_of(run: AskedRun, tiles: pa.Table, cells: pa.Table | None) -> TileCounts:
    key = _key(tiles)
    area = _tile_areas(run, tiles)
    cell_key = np.empty(0, np.int64) if cells is None else _key(cells)
    every = np.unique(np.concatenate([key, cell_key]))
    area_mm2 = np.zeros(len(every))
    area_mm2[np.searchsorted(every, key)] = area
    if area_mm2.sum() > 0:
        # Shares of tiles at the slide's edge are of the whole core.
        area_mm2 *= run.analysed_mm2 / area_mm2.sum()
    n = np.zeros((len(every), len(run.class_names) + 1))
    if cells is not None:
        place = np.searchsorted(every, cell_key)
        counts = cells["n"].to_numpy()
        np.add.at(n[:, -1], place, counts)
        position = {name: i for i, name in enumerate(run.class_names)}
        code = np.array([position.get(name, -1) for name in cells["class_name"].to_pylist()])
        with_class = code >= 0
        np.add.at(n, (place[with_class], code[with_class]), counts[with_class])
    return TileCounts(every // (2 * _FAR) - _FAR, every % (2 * _FAR) - _FAR, area_mm2, n)


def _tile_areas(run: AskedRun, tiles: pa.Table) -> NDArray[np.float64]:
    """Return the analysed area of each tile, mm²: all zero where it is not known."""
    mpp = float(run.record["slide"]["mpp"])
    x, y, width, height = (tiles[name].to_numpy() for name in ("x", "y", "width", "height"))
    if run.record.get("regions"):
        import shapely  # takes longer than most answers

        shape = analysed_shape(run.path, run.record)
        if shape is None:
            return np.zeros(len(x))
        shapely.prepare(shape)
        boxes = shapely.box(x, y, x + width, y + height)
        return np.array([tissue_mm2(box, shape, mpp) for box in boxes], np.float64)
    share = np.nan_to_num(tiles["tissue_share"].to_numpy().astype(np.float64))
    left_out = tiles["left_out"].to_numpy(zero_copy_only=False)
    return np.where(left_out, 0.0, share * width * height * mpp**2 / 1e6)


def interval_of(
    tiles: Mapping[str, TileCounts], run: AskedRun, class_name: str, confidence: float
) -> Interval:
    """Return the interval of the density of a class of a slide, from its tiles."""
    if run.slide not in tiles:
        return UNKNOWN
    index = -1 if class_name == ALL_CLASSES else run.class_names.index(class_name)
    return tiles[run.slide].interval(index, confidence)


def _by_slide(table: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each slide."""
    ordered = table.sort_by("slide")
    names = ordered["slide"].to_pylist()
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    ends = [*starts[1:], len(names)] if starts else []
    return {names[a]: ordered.slice(a, b - a) for a, b in zip(starts, ends, strict=True)}


def _key(table: pa.Table) -> NDArray[np.int64]:
    row, col = (table[name].to_numpy().astype(np.int64) + _FAR for name in ("row", "col"))
    key: NDArray[np.int64] = row * (2 * _FAR) + col
    return key


def _class_of(row: Mapping[str, Any]) -> str | None:
    name: str | None = ALL_CLASSES if row["every"] else row["class_name"]
    return name


def _sizes(row: Mapping[str, Any]) -> Sizes:
    quartiles: Iterable[float | None] = row["quartiles"] or (None, None, None)
    low, median, high = quartiles
    return Sizes(row["n"], row["mean"], row["sd"], (low, median, high))
