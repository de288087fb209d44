"""CSV: one row a nucleus, units in the names of the columns.

RFC 4180, UTF-8, with a header; a point as decimal sign; missing values are empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import shapely

from wsiseg.errors import UsageError
from wsiseg.exporters import ExportableResult
from wsiseg.exporters._choice import ColumnChoice, chosen_batches
from wsiseg.exporters._columns import POLYGON_COLUMNS, columns_of, listed, schema_of
from wsiseg.exporters._finish import finished_file, refuse_existing
from wsiseg.exporters._packed import open_for_text

_NAMES = {"x": "x_px", "y": "y_px"}
"""What the columns whose names lack their unit are called."""
_WKT_DECIMALS = 3
_EVERYTHING = ColumnChoice()


def export_csv(
    result: ExportableResult, destination: Path, options: ColumnChoice = _EVERYTHING
) -> None:
    """Write a run's nuclei as CSV, packed if the name of `destination` ends in ``.gz``.

    Memory does not depend on the number of nuclei.  Without a choice of columns all but the
    polygons are written, features too; `geometry` is written as WKT if it is named.  `x` and
    `y` become `x_px` and `y_px`; `region_ids` are positions in the run's list of regions,
    separated by semicolons.

    Raises
    ------
    UnknownName
        If the model has no such class, the run no such region, or the table no such column.
    UsageError
        If `bbox` is among the columns; xmin to ymax are those of the geometry.
    OutputExists
        If something is at `destination` already.
    OutputNotWritable
        If the operating system refuses to write.
    """
    columns = options.columns or tuple(
        name for name in columns_of(result) if name not in POLYGON_COLUMNS
    )
    if "bbox" in columns:
        raise UsageError("CSV has no column for bbox; name geometry (as WKT), or x and y")
    batches = chosen_batches(result, options, columns)
    refuse_existing(destination)
    with (
        finished_file(destination) as partial,
        open_for_text(partial, destination) as stream,
    ):
        for text in _texts(batches, columns):
            stream.write(text)


def _texts(batches: Iterator[pa.RecordBatch], columns: Sequence[str]) -> Iterator[pa.Buffer]:
    yield _text(schema_of(columns).empty_table(), header=True)
    for batch in batches:
        yield _text(pa.table(batch), header=False)


def _text(table: pa.Table, header: bool) -> pa.Buffer:
    flat = pa.table(
        [_flat(name, table.column(name)) for name in table.column_names],
        [_NAMES.get(name, name) for name in table.column_names],
    )
    out = pa.BufferOutputStream()
    pyarrow.csv.write_csv(flat, out, pyarrow.csv.WriteOptions(include_header=header))
    return out.getvalue()


def _flat(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return a column as CSV can hold it."""
    if name == "region_ids":
        return listed(column)
    if name == "geometry":
        shapes = shapely.from_wkb(column.to_numpy())
        return pa.array(shapely.to_wkt(shapes, rounding_precision=_WKT_DECIMALS), pa.string())
    if pa.types.is_boolean(column.type):
        return pc.cast(column, pa.uint8())
    return column
