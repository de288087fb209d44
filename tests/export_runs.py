"""A small run with all that exporters must carry: holes, missing values, regions, odd names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from run_dirs import RUN, write_run
from slow_cells import CLASS_COLOURS, CLASS_NAMES, cells_of, parts_of
from slow_masks import blobs

import wsiseg
from wsiseg.exporters.parquet import CELLS_SCHEMA, CellsWriter
from wsiseg.geometry import Frame

SCALE = 2.004
MODEL_MPP = 0.5
MPP = MODEL_MPP / SCALE
REGIONS = ("Tumour", 'A "1", ä', "Stroma", "empty")
HOLED = shapely.Polygon(
    [(10.25, 10), (50, 11), (52.5, 60), (9, 55.75)],
    [[(20, 20), (20, 30.5), (30, 20)], [(30, 40), (40, 40.25), (35, 50)]],
)
"""The polygon of the first nucleus; the others have no holes."""


def export_run(folder: Path, n_more_than: int = 40) -> wsiseg.Result:
    """Write a run; some nuclei have no class, some no region, one a measurement that is null."""
    table = _table(folder.parent)
    assert table.num_rows > n_more_than
    write_run(folder, table, **_record())
    pq.write_table(features_of(table), folder / "features.parquet")
    return wsiseg.open_result(folder)


def features_of(table: pa.Table) -> pa.Table:
    """Return further measurements, one of which some nuclei lack."""
    n = table.num_rows
    nearest = [None if i % 4 == 0 else i / 3 for i in range(n)]
    return pa.table(
        {
            "cell_id": table["cell_id"],
            "nearest_cell_um": pa.array(nearest, pa.float32()),
            "prob_Spindle": pa.array(np.linspace(0, 1, n), pa.float32()),
        }
    )


def empty_run(folder: Path) -> wsiseg.Result:
    """Write a run without nuclei, in which nothing was analysed."""
    changes = _record() | {"analysed_mm2": 0.0, "no_density_reason": "there is no tissue"}
    return wsiseg.open_result(write_run(folder, CELLS_SCHEMA.empty_table(), **changes))


def _record() -> dict[str, Any]:
    return {
        "slide": RUN["slide"] | {"name": "a b.svs", "mpp": MPP, "fingerprint": "f" * 64},
        "frame": {"scale": SCALE, "width_px": 1996, "height_px": 1497, "mpp": MODEL_MPP},
        "model": {"name": "test-model", "sha256": "0123456789abcdef" * 4, "card": {}},
        "classes": [
            {"name": name, "index": i + 1, "rgb": list(CLASS_COLOURS[name])}
            for i, name in enumerate(CLASS_NAMES)
        ],
        "regions": [
            {"name": name, "class": None, "kind": "annotation", "missing": False}
            | {"analysed_mm2": 1.0}
            for name in REGIONS
        ],
        "finished_utc": "2026-01-02T03:04:05+00:00",
    }


def _table(folder: Path) -> pa.Table:
    path = folder / "made.parquet"
    with CellsWriter(path, Frame(SCALE, 1996, 1497), MPP, CLASS_NAMES) as writer:
        writer.write(*parts_of(cells_of(np.kron(blobs(4), np.ones((3, 3), int)), 4), MODEL_MPP))
    table = pq.read_table(path)
    path.unlink()
    n = table.num_rows
    ids = [[None, [], [0], [1, 2], [0, 2]][i % 5] for i in range(n)]
    table = replaced(table, "region_ids", ids)
    table = replaced(table, "region", [REGIONS[each[-1]] if each else None for each in ids])
    geometry = table["geometry"].to_pylist()
    table = replaced(table, "geometry", [shapely.to_wkb(HOLED), *geometry[1:]])
    eccentricity = table["eccentricity"].to_pylist()
    table = replaced(table, "eccentricity", [*eccentricity[:-1], None])
    return table.replace_schema_metadata(None)


def replaced(table: pa.Table, name: str, values: list[object]) -> pa.Table:
    """Return the table with other values in a column."""
    field = CELLS_SCHEMA.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
