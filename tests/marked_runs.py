"""Small runs whose nuclei can be told apart by planted numbers, and marks in them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from run_dirs import RUN, cell_table, write_features, write_run

BOUNDS_PX = (100, 50)
"""Corner of the slide's bounds: what QuPath counts from."""


def marked_run(
    folder: Path, n: int = 400, seed: int = 0, features: bool = True, **changes: Any
) -> tuple[Path, NDArray[np.int64]]:
    """Write a run of diamonds in a grid, 5 px in radius and 40 px apart.

    Returns
    -------
    folder, kind
        `kind` is the hidden class of each, 0 or 1: a number in `features.parquet` tells it, the
        model's own class does not.
    """
    rng = np.random.default_rng(seed)
    # Of two kinds equally common the median lies in the gap between them, anywhere.
    kind = (rng.random(n) < 0.35).astype(np.int64)
    side = int(np.ceil(np.sqrt(n)))
    x, y = 200 + 40.0 * (np.arange(n) % side), 200 + 40.0 * (np.arange(n) // side)
    names = rng.choice(["Epithelial", "Spindle"], n).tolist()
    ids = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed} {i}")) for i in range(n)]
    table = cell_table(x, y, names, seed)
    table = table.append_column("uuid", pa.array(ids))
    table = table.append_column("hematoxylin_od_mean", pa.nulls(n, pa.float32()))
    table = table.append_column("solidity", pa.array(rng.normal(0.9, 0.02, n), pa.float32()))
    slide = RUN["slide"] | {"name": folder.name.removesuffix(".wsiseg")}
    write_run(folder, table, **({"slide": slide} | changes))
    if features:
        near = np.where(rng.random(n) < 0.1, None, rng.gamma(3, 5, n)).tolist()
        telling = (rng.normal(size=n) + 6 * kind).astype(np.float32)
        write_features(folder, ring_eosin_od_mean=telling, nearest_cell_um=near)
    return folder, kind


def centre_px(folder_table: pa.Table, cell: int) -> tuple[float, float]:
    """Return a cell's centroid as QuPath counts."""
    x, y = (float(folder_table[name][cell].as_py()) for name in ("x", "y"))
    return x - BOUNDS_PX[0], y - BOUNDS_PX[1]


def feature(
    geometry: dict[str, Any] | None,
    class_name: str | None,
    kind: str = "annotation",
    ident: str | None = None,
    **properties: Any,
) -> dict[str, Any]:
    said: dict[str, Any] = {"objectType": kind} | properties
    if class_name is not None:
        said["classification"] = {"name": class_name, "color": [200, len(class_name), 7]}
    return {"type": "Feature", "geometry": geometry, "properties": said} | (
        {} if ident is None else {"id": ident}
    )


def points(xy: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "MultiPoint", "coordinates": [list(p) for p in xy]}


def box(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    return {
        "type": "Polygon",
        "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
    }


def write_marks(path: Path, features: Sequence[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path
