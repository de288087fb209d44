"""Small run directories, written by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

CLASSES = ("Epithelial", "Inflammatory", "Spindle")
MPP = 0.5
RUN: dict[str, Any] = {
    "format": "wsiseg-run",
    "format_version": 1,
    "result_version": 1,
    "wsiseg_version": "0.1.0",
    "status": "done",
    "error": None,
    "slide": {
        "name": "a.svs",
        "width_px": 4000,
        "height_px": 3000,
        "mpp": MPP,
        "bounds": [100, 50, 3000, 2000],
    },
    "frame": {"scale": 0.5, "width_px": 8000, "height_px": 6000, "mpp": 0.25},
    "model": {"name": "test-model", "sha256": "0" * 64, "card": {}},
    "classes": [
        {"name": name, "index": i + 1, "rgb": [10 * i, 20, 30]} for i, name in enumerate(CLASSES)
    ],
    "n_cells": 0,
    "analysed_mm2": 2.5,
    "no_density_reason": None,
    "warnings": [{"code": "blur", "message": "some tiles are out of focus"}],
}


def cell_table(x: Any, y: Any, class_names: list[str | None], seed: int = 0) -> pa.Table:
    """Make a table with the columns that matter here, as exporters write it."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    rng = np.random.default_rng(seed)
    diamonds = shapely.to_wkb([shapely.Point(p).buffer(5, 1) for p in zip(x, y, strict=True)])
    boxes = {"xmin": x - 5, "ymin": y - 5, "xmax": x + 5, "ymax": y + 5}
    geo = {"primary_column": "geometry", "columns": {"geometry": {"crs": None}}}
    return pa.table(
        {
            "cell_id": pa.array(np.arange(1, len(x) + 1), pa.uint32()),
            "class_name": pa.array(class_names, pa.string()),
            "x": x,
            "y": y,
            "x_um": x * MPP,
            "y_um": y * MPP,
            "area_um2": rng.gamma(9, 4, len(x)).astype(np.float32),
            "geometry": pa.array(list(diamonds), pa.binary()),
            "bbox": pa.StructArray.from_arrays([pa.array(v) for v in boxes.values()], list(boxes)),
        }
    ).replace_schema_metadata({"geo": json.dumps(geo)})


def write_run(folder: Path, table: pa.Table, row_group_rows: int = 64, **changes: Any) -> Path:
    run = copy.deepcopy(RUN) | {"n_cells": table.num_rows} | changes
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    pq.write_table(table, folder / "cells.parquet", row_group_rows, compression="zstd")
    return folder


def random_table(n: int, seed: int = 1) -> pa.Table:
    """Random cells, sorted by y in rows of tiles as runs have them, some without a class."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 4000, n), np.sort(rng.uniform(0, 3000, n))
    names = rng.choice([*CLASSES[:2], None], n, p=[0.6, 0.3, 0.1]).tolist()
    return cell_table(x, y, names, seed)


def write_features(folder: Path, row_group_rows: int = 64, **columns: Any) -> None:
    """Write `features.parquet` of a run."""
    n = len(next(iter(columns.values())))
    ids = pa.array(np.arange(1, n + 1), pa.uint32())
    values = {name: pa.array(column, pa.float32()) for name, column in columns.items()}
    pq.write_table(pa.table({"cell_id": ids} | values), folder / "features.parquet", row_group_rows)
