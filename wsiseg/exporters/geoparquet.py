"""A part of the cell table as GeoParquet 1.1, valid by itself.

Specification: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsiseg.exporters import ExportableResult
from wsiseg.exporters._cells_batch import BBOX_FIELDS
from wsiseg.exporters._choice import ColumnChoice, chosen_batches
from wsiseg.exporters._columns import POLYGON_COLUMNS, columns_of, schema_of
from wsiseg.exporters._facts import run_facts
from wsiseg.exporters._finish import finished_file, refuse_existing
from wsiseg.exporters._row_groups import RowGroups
from wsiseg.exporters.parquet import geo_metadata

_EVERYTHING = ColumnChoice()


def export_geoparquet(
    result: ExportableResult, destination: Path, options: ColumnChoice = _EVERYTHING
) -> None:
    """Write a run's nuclei as GeoParquet, in level-0 pixels without a map projection.

    Memory does not depend on the number of nuclei: one row group is held.  Without a choice
    of columns all are written, features too.  `geometry` and `bbox` always are, behind the
    others.  The file's metadata say which run it is of (`wsiseg`).

    Raises
    ------
    UnknownName
        If the model has no such class, the run no such region, or the table no such column.
    OutputExists
        If something is at `destination` already.
    OutputNotWritable
        If the operating system refuses to write.
    """
    names = options.columns or columns_of(result)
    columns = (*(name for name in names if name not in POLYGON_COLUMNS), *POLYGON_COLUMNS)
    batches = chosen_batches(result, options, columns)
    refuse_existing(destination)
    first = next(batches, None)
    schema = schema_of(columns) if first is None else first.schema.remove_metadata()
    rows = batches if first is None else chain([first], batches)
    with finished_file(destination) as partial:
        _write(rows, partial, schema, run_facts(result))


def _write(
    batches: Iterable[pa.RecordBatch], partial: Path, schema: pa.Schema, facts: dict[str, str]
) -> None:
    bounds_px: NDArray[np.float64] | None = None
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        groups = RowGroups(writer, schema)
        for batch in batches:
            bounds_px = _grown(bounds_px, batch)
            groups.add(batch.replace_schema_metadata(None))
        groups.end()
        said = {"geo": geo_metadata(bounds_px), "wsiseg": facts}
        writer.add_key_value_metadata({name: json.dumps(value) for name, value in said.items()})


def _grown(
    bounds_px: NDArray[np.float64] | None, batch: pa.RecordBatch
) -> NDArray[np.float64] | None:
    """Return bounds that hold the rows too."""
    if batch.num_rows == 0:
        return bounds_px
    low_x, low_y, high_x, high_y = (
        batch.column("bbox").field(name).to_numpy() for name in BBOX_FIELDS
    )
    own = np.array([low_x.min(), low_y.min(), high_x.max(), high_y.max()])
    if bounds_px is None:
        return own
    return np.hstack((np.minimum(bounds_px[:2], own[:2]), np.maximum(bounds_px[2:], own[2:])))
