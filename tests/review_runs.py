"""Runs to review, written by hand: square nuclei on a loose grid, tissue and regions."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from run_dirs import CLASSES, MPP, RUN, write_run

ORIGIN = tuple(RUN["slide"]["bounds"][:2])
TISSUE = shapely.box(400, 300, 2800, 1900)
HALF_PX = 5


def square_cell(x: float, y: float) -> shapely.Polygon:
    return shapely.box(x - HALF_PX, y - HALF_PX, x + HALF_PX, y + HALF_PX)


def reviewable_table(
    xy: Sequence[tuple[float, float]],
    class_names: Sequence[str | None],
    probs: Sequence[float] | None = None,
) -> pa.Table:
    x, y = np.array(xy, np.float64).reshape(-1, 2).T
    outlines = [square_cell(*point) for point in xy]
    certain = np.linspace(0.5, 1, len(x)) if probs is None else np.asarray(probs)
    return pa.table(
        {
            "cell_id": pa.array(np.arange(1, len(x) + 1), pa.uint32()),
            "uuid": pa.array([str(uuid.UUID(int=k + 1)) for k in range(len(x))], pa.string()),
            "class_name": pa.array(class_names, pa.string()),
            "class_prob": pa.array(certain, pa.float32()),
            "nucleus_prob": pa.array(np.ones(len(x)), pa.float32()),
            "x": x,
            "y": y,
            "x_um": x * MPP,
            "y_um": y * MPP,
            "area_um2": np.full(len(x), (2 * HALF_PX * MPP) ** 2, np.float32),
            "geometry": pa.array(list(shapely.to_wkb(outlines, byte_order=1)), pa.binary()),
        }
    )


def loose_grid(step_px: int = 40, seed: int = 0) -> tuple[list[tuple[float, float]], list[Any]]:
    """Return places all over the tissue, and a class for each; a few have none."""
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = (int(v) for v in TISSUE.bounds)
    rows, cols = np.mgrid[y0 + 20 : y1 : step_px, x0 + 20 : x1 : step_px]
    jitter = rng.integers(-8, 9, (2, rows.size))
    places = list(zip(cols.ravel() + jitter[0] + 0.0, rows.ravel() + jitter[1] + 0.0, strict=True))
    names = rng.choice([*CLASSES, None], rows.size, p=[0.5, 0.3, 0.15, 0.05])
    return places, names.tolist()


def area_file(path: Path, name: str, area: shapely.Geometry) -> None:
    moved = shapely.transform(area, lambda xy: xy - np.array(ORIGIN))
    feature = {
        "type": "Feature",
        "geometry": shapely.geometry.mapping(moved),
        "properties": {"objectType": "annotation", "name": name, "isLocked": True},
    }
    content = {"type": "FeatureCollection", "origin_px": list(ORIGIN), "features": [feature]}
    path.write_text(json.dumps(content), encoding="utf-8")


def reviewable_run(
    folder: Path, table: pa.Table | None = None, tissue: shapely.Geometry = TISSUE, **changes: Any
) -> Path:
    if table is None:
        table = reviewable_table(*loose_grid())
    changes = {"analysed_mm2": tissue.area * MPP**2 / 1e6} | changes
    run = write_run(folder, table, 500, **changes)
    area_file(run / "tissue.geojson", "wsiseg tissue", tissue)
    return run
