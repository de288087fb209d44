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
    first = next(iter(result.batches()), None)
    names = CELLS_SCHEMA.names if first is None else first.schema.names
    return (*names, *result.feature_names)


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """Return the types of some columns; those not of the cell table are measurements."""
    known = CELLS_SCHEMA.names
    return pa.schema(
        [
            CELLS_SCHEMA.field(name) if name in known else pa.field(name, pa.float32())
            for name in columns
        ]
    )
