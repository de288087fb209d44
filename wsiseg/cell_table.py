"""Reading `cells.parquet` in a stream: chosen rows, counts by class and by square.

Row groups that cannot hold what is asked for are not read, and wide columns are read only
where a row is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsiseg.errors import ResultNotReadable, UnknownName, UsageError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

ALL_REGIONS = "(all)"
"""Region of the rows that count every nucleus of a run once; no region has this name."""
ALL_CLASSES = "(all)"
"""Class name of the rows that count every nucleus, also those without a class."""

_BATCH_ROWS = 16_384
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


@contextmanager
def open_table(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a cell table for reading, and close it.

    Raises
    ------
    ResultNotReadable
        If it is missing or damaged, now or at any later read within the block.
    """
    if not path.is_file():
        raise ResultNotReadable(
            f"{path.parent} has no {path.name}; segment the slide again with --overwrite"
        )
    try:
        with pq.ParquetFile(path) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        raise ResultNotReadable(
            f"{path} is damaged ({_first_line(error)}); segment the slide again with --overwrite"
        ) from error


def stream_batches(path: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Yield the table's rows in order, at most 16,384 at a time.

    Memory does not grow with their number.

    Parameters
    ----------
    path : Path
        The cell table.
    columns : sequence of str, optional
        Columns wanted, in that order; None for all.

    Raises
    ------
    ResultNotReadable
        If the table is missing or damaged.
    UnknownName
        If it has no such column.
    """
    with open_table(path) as table:
        names = _known_columns(table.schema_arrow, columns)
        # Over several row groups at once arrow keeps all it has read until the end.
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names):
                yield batch.select(names)


def read_cells(
    path: Path,
    classes: Sequence[str] | None,
    within: BaseGeometry | None,
    columns: Sequence[str] | None,
) -> pa.Table:
    """Return the rows of some classes with centroids strictly inside a region.

    Parameters
    ----------
    path : Path
        The cell table.
    classes : sequence of str, optional
        Class names wanted; None for every row, also those without a class.
    within : shapely geometry, optional
        Polygon or multipolygon in level-0 pixels; None for everywhere.
    columns : sequence of str, optional
        Columns wanted, in that order; None for all.

    Raises
    ------
    ResultNotReadable
        If the table is missing or damaged.
    UnknownName
        If it has no such column.
    UsageError
        If `within` is no valid polygon.
    """
    if within is not None:
        _check_region(within)
    with open_table(path) as table:
        names = _known_columns(table.schema_arrow, columns)
        schema = _schema_of(table.schema_arrow, names)
        groups = _groups_near(table.metadata, within)
        parts = [_chosen_rows(table, group, names, classes, within) for group in groups]
    kept = [part.replace_schema_metadata(schema.metadata) for part in parts if part.num_rows]
    return pa.concat_tables(kept) if kept else schema.empty_table()


def count_classes(path: Path, class_names: Sequence[str]) -> list[ClassCount]:
    """Count each class's nuclei and then all; five bytes a nucleus are held.

    Parameters
    ----------
    path : Path
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
    for batch in stream_batches(path, ["class_name", "area_um2"]):
        codes.append(_class_codes(path, batch["class_name"], class_names))
        areas.append(batch["area_um2"].to_numpy(zero_copy_only=False).astype(np.float32))
    code, area_um2 = np.concatenate(codes), np.concatenate(areas)
    counts = [
        _class_count(name, area_um2[code == i]) for i, name in enumerate(class_names, start=1)
    ]
    return [*counts, _class_count(ALL_CLASSES, area_um2)]


def count_regions(path: Path, class_names: Sequence[str], n_regions: int) -> list[list[ClassCount]]:
    """Count each class's nuclei and then all, for each region; one in two counts in both.

    Parameters
    ----------
    path : Path
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
    for batch in stream_batches(path, ["class_name", "area_um2", "region_ids"]):
        members = batch["region_ids"]
        row = pc.list_parent_indices(members).to_numpy()
        regions.append(pc.list_flatten(members).to_numpy().astype(np.int64))
        codes.append(_class_codes(path, batch["class_name"], class_names)[row])
        areas.append(batch["area_um2"].to_numpy(zero_copy_only=False).astype(np.float32)[row])
    region, code = np.concatenate(regions), np.concatenate(codes)
    area_um2 = np.concatenate(areas)
    if region.max(initial=-1) >= n_regions:
        raise ResultNotReadable(
            f"{path} names region {region.max()}, but run.json lists {n_regions}; segment the "
            "slide again with --overwrite"
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


def count_squares(path: Path, class_names: Sequence[str], grid_um: float) -> SquareCounts:
    """Count the nuclei in the squares of a grid that starts at the slide's (0, 0).

    Parameters
    ----------
    path : Path
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
    for batch in stream_batches(path, ["x_um", "y_um", "class_name"]):
        row, col = (
            np.floor(batch[name].to_numpy() / grid_um).astype(np.int64) for name in ("y_um", "x_um")
        )
        code = _class_codes(path, batch["class_name"], class_names)
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


def _class_codes(path: Path, column: pa.Array, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Return 1 + the index of each row's class, 0 without one."""
    names = column.cast(pa.string())
    index = pc.index_in(names, value_set=pa.array(class_names, pa.string()))
    if index.null_count > names.null_count:
        strange = pc.filter(names, pc.and_(pc.is_null(index), pc.is_valid(names)))[0].as_py()
        raise ResultNotReadable(
            f"{path} has the class {strange!r}, which the run's model does not have "
            f"({', '.join(class_names) or 'it has none'}); segment the slide again with --overwrite"
        )
    codes = pc.fill_null(index, -1).to_numpy(zero_copy_only=False) + 1
    return np.asarray(codes, np.uint8)


def _known_columns(schema: pa.Schema, columns: Sequence[str] | None) -> list[str]:
    """Return the columns to read; UnknownName if the table lacks one."""
    if columns is None:
        return list(schema.names)
    for name in columns:
        if name not in schema.names:
            known = ", ".join(schema.names)
            raise UnknownName(f"the cell table has no column {name!r}; known: {known}")
    return list(columns)


def _schema_of(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Return the schema of some columns; GeoParquet's metadata only if they are whole."""
    chosen = pa.schema([schema.field(name) for name in names])
    whole = {"geometry", "bbox"} <= set(names)
    return chosen.with_metadata(schema.metadata) if whole else chosen


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
    table: pq.ParquetFile,
    group: int,
    names: list[str],
    classes: Sequence[str] | None,
    within: BaseGeometry | None,
) -> pa.Table:
    """Return the wanted rows and columns of one row group."""
    if classes is None and within is None:
        return table.read_row_group(group, columns=names).select(names)
    tests = table.read_row_group(group, columns=["x", "y", "class_name"])
    wanted = np.ones(tests.num_rows, np.bool_)
    if classes is not None:
        listed = pa.array(classes, pa.string())
        wanted &= pc.is_in(tests["class_name"].cast(pa.string()), value_set=listed).to_numpy()
    if within is not None:
        wanted &= _inside(tests, within)
    if not wanted.any():
        return tests.slice(0, 0)
    return table.read_row_group(group, columns=names).select(names).filter(pa.array(wanted))


def _inside(centroids: pa.Table, region: BaseGeometry) -> NDArray[np.bool_]:
    import shapely

    x, y = (centroids[name].to_numpy() for name in ("x", "y"))
    inside: NDArray[np.bool_] = shapely.contains_xy(region, x, y)
    return inside


def _first_line(error: Exception) -> Any:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
