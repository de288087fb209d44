"""Columns of the cell table, by what they are for."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from wsiseg.exporters import ExportableResult
from wsiseg.exporters._cells_batch import _MEASURED, CELLS_SCHEMA
from wsiseg.features import STAIN_COLUMNS

POLYGON_COLUMNS = ("geometry", "bbox")
MEASURED_COLUMNS = (*_MEASURED, *STAIN_COLUMNS)
"""Measurements of a nucleus, all float32."""


def columns_of(result: ExportableResult) -> tuple[str, ...]:
    """Return all columns a run has: of its cell table, some of which old runs lack, and more."""
    return (*result.column_names, *result.feature_names)


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """Return the types of some columns; those not of the cell table are measurements."""
    known = CELLS_SCHEMA.names
    return pa.schema(
        [
            CELLS_SCHEMA.field(name) if name in known else pa.field(name, pa.float32())
            for name in columns
        ]
    )


def listed(column: pa.ChunkedArray) -> pa.Array:
    """Return lists of numbers as text, separated by semicolons."""
    texts = [None if each is None else ";".join(map(str, each)) for each in column.to_pylist()]
    return pa.array(texts, pa.string())
