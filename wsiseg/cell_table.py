"""Reading a run's cells in a stream: chosen rows, counts by class and by square.

Row groups that cannot hold what is asked for are not read, and wide columns are read only
where a row is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsiseg._cell_files import (
    CellFiles,
    OpenCells,
    column_names,
    feature_names,
    open_cells,
    open_table,
)
from wsiseg.errors import ResultNotReadable, UsageError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

__all__ = [
    "ALL_CLASSES",
    "ALL_REGIONS",
    "CellFiles",
    "ClassCount",
    "SquareCounts",
    "class_codes",
    "column_names",
    "count_classes",
    "count_regions",
    "count_squares",
    "feature_names",
    "open_table",
    "read_cells",
    "stream_batches",
]

ALL_REGIONS = "(all)"
"""Region of the rows that count every nucleus of a run once; no region has this name."""
ALL_CLASSES = "(all)"
"""Class name of the rows that count every nucleus, also those without a class."""

_TESTED = ("x", "y", "class_name")
_SQUARE_BITS = 24


class ClassCount(NamedTuple):
    """How many nuclei a class has."""

    class_name: str
    """The class, or `ALL_CLASSES`."""
    n: int
    """Number of nuclei."""
    median_area_um2: float | None
    """Their median area, None without nuclei."""


class SquareCounts(NamedTuple):
    """How many nuclei the squares of a grid hold."""

    square: NDArray[np.int64]
    """(m, 2): row, column of each square that holds a nucleus, in raster order."""
    n: NDArray[np.int64]
    """(m, 1 + number of classes): nuclei without a class, then of each class."""


def stream_batches(
    files: CellFiles | Path, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield the table's rows in order, at most 16,384 at a time.

    Memory does not grow with their number.

    Parameters
    ----------
    files : CellFiles or Path
        Where the cells are; a path: the cell table alone, with the classes in it.
    columns : sequence of str, optional
        Columns wanted, in that order, also of the further measurements; None for all of the
        cell table.

    Raises
    ------
    ResultNotReadable
        If a table is missing, damaged, or has other rows than the cell table.
    UnknownName
        If there is no such column.
    """
    with open_cells(_as_files(files), columns) as (cells, names):
        yield from cells.batches(names)


def read_cells(
    files: CellFiles | Path,
    classes: Sequence[str] | None,
    within: BaseGeometry | None,
    columns: Sequence[str] | None,
) -> pa.Table:
    """Return the rows of some classes with centroids strictly inside a region.

    Parameters
    ----------
    files : CellFiles or Path
        Where the cells are; a path: the cell table alone, with the classes in it.
    classes : sequence of str, optional
        Class names wanted; None for every row, also those without a class.
    within : shapely geometry, optional
        Polygon or multipolygon in level-0 pixels; None for everywhere.
    columns : sequence of str, optional
        Columns wanted, in that order, also of the further measurements; None for all of the
        cell table.

    Raises
    ------
    ResultNotReadable
        If a table is missing, damaged, or has other rows than the cell table.
    UnknownName
        If there is no such column.
    UsageError
        If `within` is no valid polygon.
    """
    if within is not None:
        _check_region(within)
    with open_cells(_as_files(files), columns, also=_TESTED) as (cells, names):
        schema = cells.schema(names)
        groups = _groups_near(cells.metadata, within)
        parts = [_chosen_rows(cells, group, names, classes, within) for group in groups]
    kept = [part.replace_schema_metadata(schema.metadata) for part in parts if part.num_rows]
    return pa.concat_tables(kept) if kept else schema.empty_table()


def count_classes(files: CellFiles | Path, class_names: Sequence[str]) -> list[ClassCount]:
    """Count each class's nuclei and then all; five bytes a nucleus are held.

    Parameters
    ----------
    files : CellFiles or Path
        The cell table.
    class_names : sequence of str
        All the model's classes; each gets its count, zero included.

    Raises
    ------
    ResultNotReadable
        If the table is missing, damaged or has another class.
    """
    codes = [np.empty(0, np.uint8)]
    areas = [np.empty(0, np.float32)]
    for batch in stream_batches(files, ["class_name", "area_um2"]):
        codes.append(class_codes(files, batch["class_name"], class_names))
        areas.append(batch["area_um2"].to_numpy(zero_copy_only=False).astype(np.float32))
    code, area_um2 = np.concatenate(codes), np.concatenate(areas)
    counts = [
        _class_count(name, area_um2[code == i]) for i, name in enumerate(class_names, start=1)
    ]
    return [*counts, _class_count(ALL_CLASSES, area_um2)]


def count_regions(
    files: CellFiles | Path, class_names: Sequence[str], n_regions: int
) -> list[list[ClassCount]]:
    """Count each class's nuclei and then all, for each region; one in two counts in both.

    Parameters
    ----------
    files : CellFiles or Path
        The cell table of a run with regions of interest.
    class_names : sequence of str
        All the model's classes.
    n_regions : int
        Number of regions; each gets its counts, zeros included.

    Raises
    ------
    ResultNotReadable
        If the table is missing, damaged or has another class or region.
    """
    regions, codes = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    areas = [np.empty(0, np.float32)]
    for batch in stream_batches(files, ["class_name", "area_um2", "region_ids"]):
        members = batch["region_ids"]
        row = pc.list_parent_indices(members).to_numpy()
        regions.append(pc.list_flatten(members).to_numpy().astype(np.int64))
        codes.append(class_codes(files, batch["class_name"], class_names)[row])
        areas.append(batch["area_um2"].to_numpy(zero_copy_only=False).astype(np.float32)[row])
    region, code = np.concatenate(regions), np.concatenate(codes)
    area_um2 = np.concatenate(areas)
    if region.max(initial=-1) >= n_regions:
        raise ResultNotReadable(
            f"{_as_files(files).cells} names region {region.max()}, but run.json lists "
            f"{n_regions}; segment the slide again with --overwrite"
        )
    counts = []
    for i in range(n_regions):
        mine = region == i
        of_class = [
            _class_count(name, area_um2[mine & (code == k)])
            for k, name in enumerate(class_names, start=1)
        ]
        counts.append([*of_class, _class_count(ALL_CLASSES, area_um2[mine])])
    return counts


def count_squares(
    files: CellFiles | Path, class_names: Sequence[str], grid_um: float
) -> SquareCounts:
    """Count the nuclei in the squares of a grid that starts at the slide's (0, 0).

    Parameters
    ----------
    files : CellFiles or Path
        The cell table.
    class_names : sequence of str
        All the model's classes.
    grid_um : float
        Side of a square, at least 1 µm.

    Raises
    ------
    ResultNotReadable
        If the table is missing, damaged or has another class.
    """
    n_codes = len(class_names) + 1
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in stream_batches(files, ["x_um", "y_um", "class_name"]):
        row, col = (
            np.floor(batch[name].to_numpy() / grid_um).astype(np.int64) for name in ("y_um", "x_um")
        )
        code = class_codes(files, batch["class_name"], class_names)
        key, n = np.unique(((row << _SQUARE_BITS) + col) * n_codes + code, return_counts=True)
        keys.append(key)
        counts.append(n)
    square, position = np.unique(np.concatenate(keys) // n_codes, return_inverse=True)
    table = np.zeros((len(square), n_codes), np.int64)
    np.add.at(table, (position, np.concatenate(keys) % n_codes), np.concatenate(counts))
    rows_cols = np.stack([square >> _SQUARE_BITS, square & ((1 << _SQUARE_BITS) - 1)], axis=1)
    return SquareCounts(rows_cols, table)


def _class_count(name: str, area_um2: NDArray[np.float32]) -> ClassCount:
    if len(area_um2) == 0:
        return ClassCount(name, 0, None)
    return ClassCount(name, len(area_um2), float(np.median(area_um2)))


def class_codes(
    files: CellFiles | Path, column: pa.Array | pa.ChunkedArray, class_names: Sequence[str]
) -> NDArray[np.uint8]:
    """Return 1 + the index of each row's class, 0 without one.

    Raises
    ------
    ResultNotReadable
        If a row has another class.
    """
    names = column.cast(pa.string())
    index = pc.index_in(names, value_set=pa.array(class_names, pa.string()))
    if index.null_count > names.null_count:
        strange = pc.filter(names, pc.and_(pc.is_null(index), pc.is_valid(names)))[0].as_py()
        raise _strange_class(_as_files(files), strange, class_names)
    codes = pc.fill_null(index, -1).to_numpy(zero_copy_only=False) + 1
    return np.asarray(codes, np.uint8)


def _strange_class(files: CellFiles, name: str, class_names: Sequence[str]) -> ResultNotReadable:
    known = ", ".join(class_names)
    if files.classes is not None:
        return ResultNotReadable(
            f"{files.classes} has the class {name!r}, which is not one of its version ({known}); "
            "make that version again with wsiseg classify --overwrite"
        )
    return ResultNotReadable(
        f"{files.cells} has the class {name!r}, which the run's model does not have "
        f"({known or 'it has none'}); segment the slide again with --overwrite"
    )


def _as_files(files: CellFiles | Path) -> CellFiles:
    return files if isinstance(files, CellFiles) else CellFiles(files)


def _check_region(region: BaseGeometry) -> None:
    # Importing shapely costs a third of this module's time; most readers need no region.
    import shapely

    if not isinstance(region, (shapely.Polygon, shapely.MultiPolygon)):
        kind = getattr(region, "geom_type", type(region).__name__)
        raise UsageError(f"within is a {kind}; a shapely polygon or multipolygon is needed")
    if not shapely.is_valid(region):
        reason = shapely.is_valid_reason(region)
        raise UsageError(f"within is no valid polygon ({reason}); repair it: shapely.make_valid")
    shapely.prepare(region)


def _groups_near(metadata: pq.FileMetaData, within: BaseGeometry | None) -> list[int]:
    """Return the row groups whose centroids may lie within the region."""
    groups = range(metadata.num_row_groups)
    if within is None:
        return list(groups)
    if within.is_empty:
        return []
    low_x, low_y, high_x, high_y = within.bounds
    return [
        i
        for i in groups
        if _may_hold(metadata.row_group(i), "x", low_x, high_x)
        and _may_hold(metadata.row_group(i), "y", low_y, high_y)
    ]


def _may_hold(group: pq.RowGroupMetaData, name: str, low: float, high: float) -> bool:
    """Return whether a row group may have values of a column in [low, high]."""
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == name:
            known = column.is_stats_set and column.statistics.has_min_max
            return not known or (column.statistics.min <= high and column.statistics.max >= low)
    return True


def _chosen_rows(
    cells: OpenCells,
    group: int,
    names: list[str],
    classes: Sequence[str] | None,
    within: BaseGeometry | None,
) -> pa.Table:
    """Return the wanted rows and columns of one row group."""
    if classes is None and within is None:
        return cells.row_group(group, names)
    tests = cells.row_group(group, _TESTED)
    wanted = np.ones(tests.num_rows, np.bool_)
    if classes is not None:
        listed = pa.array(classes, pa.string())
        wanted &= pc.is_in(tests["class_name"].cast(pa.string()), value_set=listed).to_numpy()
    if within is not None:
        wanted &= _inside(tests, within)
    if not wanted.any():
        return tests.slice(0, 0)
    return cells.row_group(group, names).filter(pa.array(wanted))


def _inside(centroids: pa.Table, region: BaseGeometry) -> NDArray[np.bool_]:
    import shapely

    x, y = (centroids[name].to_numpy() for name in ("x", "y"))
    inside: NDArray[np.bool_] = shapely.contains_xy(region, x, y)
    return inside
