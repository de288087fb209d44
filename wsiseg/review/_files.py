"""The tables a review leaves beside its run."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import shapely

from wsiseg.evaluation.polygons import boundary_distances, polygon_iou
from wsiseg.review._changes import ReviewedCell

_STEP_UM = 0.1

CORRECTED_SCHEMA: pa.Schema = pa.schema(
    [
        *((name, pa.string()) for name in ("square", "square_kind", "uuid")),
        ("cell_id", pa.uint32()),
        *((name, pa.string()) for name in ("change", "class_name", "original_class_name")),
        *((name, pa.float64()) for name in ("x", "y", "x_um", "y_um")),
        ("area_um2", pa.float32()),
        ("geometry", pa.binary()),
    ]
)
"""Columns of `corrected_cells.parquet`; those of `cells.parquet` mean the same.

`cell_id` is null for added nuclei.  Where the outline is new, x, y and the area are the polygon's.
"""

CHANGES_SCHEMA: pa.Schema = pa.schema(
    [
        *((name, pa.string()) for name in ("square", "square_kind", "change", "uuid")),
        ("cell_id", pa.uint32()),
        *((name, pa.string()) for name in ("original_class_name", "corrected_class_name")),
        *((name, pa.float64()) for name in ("x_um", "y_um")),
        *((name, pa.float32()) for name in ("original_area_um2", "corrected_area_um2")),
        *((name, pa.float64()) for name in ("iou", "hd95_um", "boundary_distance_um")),
        ("found_by", pa.string()),
    ]
)
"""Columns of `changes.parquet` and `changes.csv`: one row a nucleus that was changed."""


def corrected_table(
    cells: Sequence[ReviewedCell], kinds: Mapping[str, str], mpp: float
) -> pa.Table:
    """Return the nuclei of the reviewed squares as they are after correction."""
    rows = [_corrected_row(cell, kinds, mpp) for cell in cells if cell.geometry is not None]
    table = pa.Table.from_pylist(rows, CORRECTED_SCHEMA)
    geometry = {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"], "crs": None}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    return table.replace_schema_metadata({"geo": json.dumps(geo)})


def _corrected_row(cell: ReviewedCell, kinds: Mapping[str, str], mpp: float) -> dict[str, Any]:
    original = cell.original
    if original is not None and not cell.is_redrawn:
        x_px, y_px, area_um2 = original.x_px, original.y_px, original.area_um2
    else:
        x_px, y_px, area_um2 = _of_outline(cell, mpp)
    return {
        "square": cell.square,
        "square_kind": kinds[cell.square],
        "uuid": cell.uuid,
        "cell_id": None if original is None else original.cell_id,
        "change": cell.change,
        "class_name": cell.class_name,
        "original_class_name": None if original is None else original.class_name,
        "x": x_px,
        "y": y_px,
        "x_um": x_px * mpp,
        "y_um": y_px * mpp,
        "area_um2": area_um2,
        "geometry": shapely.to_wkb(cell.geometry, byte_order=1),
    }


def _of_outline(cell: ReviewedCell, mpp: float) -> tuple[float, float, float]:
    centre = shapely.centroid(cell.geometry)
    return centre.x, centre.y, shapely.area(cell.geometry) * mpp**2


def changes_table(cells: Sequence[ReviewedCell], kinds: Mapping[str, str], mpp: float) -> pa.Table:
    """Return one row for each nucleus that was deleted, added, relabelled or redrawn."""
    rows = [_change_row(cell, kinds, mpp) for cell in cells if cell.change != "unchanged"]
    return pa.Table.from_pylist(rows, CHANGES_SCHEMA)


def _change_row(cell: ReviewedCell, kinds: Mapping[str, str], mpp: float) -> dict[str, Any]:
    original, outline = cell.original, cell.geometry
    row: dict[str, Any] = {
        "square": cell.square,
        "square_kind": kinds[cell.square],
        "change": cell.change,
        "uuid": cell.uuid,
    }
    if original is not None:
        row |= {
            "cell_id": original.cell_id,
            "original_class_name": original.class_name,
            "x_um": original.x_px * mpp,
            "y_um": original.y_px * mpp,
            "original_area_um2": original.area_um2,
        }
    if outline is not None:
        x_px, y_px, area_um2 = _of_outline(cell, mpp)
        if original is None:
            row |= {"x_um": x_px * mpp, "y_um": y_px * mpp}
        else:
            row["found_by"] = cell.found_by
        same = original is not None and not cell.is_redrawn
        row["corrected_area_um2"] = row["original_area_um2"] if same else area_um2
        row["corrected_class_name"] = cell.class_name
    if original is not None and outline is not None:
        pair = np.array([original.geometry], object), np.array([outline], object)
        hd95, mean = boundary_distances(*pair, _STEP_UM / mpp)
        row["iou"] = float(polygon_iou(*pair)[0])
        row |= {"hd95_um": float(hd95[0]) * mpp, "boundary_distance_um": float(mean[0]) * mpp}
    return row


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as CSV."""
    stream = io.BytesIO()
    pyarrow.csv.write_csv(table, stream)
    return stream.getvalue()


def plain(value: Any) -> Any:
    """Return values as JSON has them: None for what is not defined."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
