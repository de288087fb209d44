"""Columns of the cell table, by what they are for."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from wsiseg.exporters import ExportableResult
from wsiseg.exporters._cells_batch import _MEASURED, CELLS_SCHEMA
from wsiseg.features import STAIN_COLUMNS

POLYGON_COLUMNS = ("geometry", "bbox")
PLAIN_COLUMNS = tuple(name for name in CELLS_SCHEMA.names if name not in POLYGON_COLUMNS)
"""All that are no polygons."""
MEASURED_COLUMNS = (*_MEASURED, *STAIN_COLUMNS)
"""Measurements of a nucleus, all float32."""


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """Return the types of some columns; those not of the cell table are measurements."""
    known = CELLS_SCHEMA.names
    return pa.schema(
        [
            CELLS_SCHEMA.field(name) if name in known else pa.field(name, pa.float32())
            for name in columns
        ]
    )


def feature_names(result: ExportableResult) -> tuple[str, ...]:
    """Return the columns of further measurements; runs of older versions have none."""
    return tuple(getattr(result, "feature_names", ()))
