"""Whether two folders of results are the same, to the last byte that is not a time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zarr

SAME_BYTES = (
    *("cells.parquet", "tissue.geojson", "summary.json", "README.txt"),
    *("thumbnail.png", "overlay.png"),
)
SAME_IN_RUN_JSON = (
    *("status", "error", "identity", "run_key", "slide", "frame", "n_cells", "counts", "stitch"),
    *("tiles", "warnings", "analysed_mm2", "classes"),
)


def differences(expected: Path, found: Path) -> list[str]:
    """Return what two run directories do not have in common, in words; empty if nothing.

    What lies beside them counts too.
    """
    odd = list(_different_names(expected.parent, found.parent))
    return odd + list(_differences(expected, found))


def run_differences(expected: Path, found: Path) -> list[str]:
    """Return the same of directories that lie among others."""
    odd = list(_different_names(expected, found))
    return odd + list(_differences(expected, found))


def _different_names(expected: Path, found: Path) -> Iterator[str]:
    names = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        for folder in (expected, found)
    ]
    odd = sorted(names[0] ^ names[1])
    if odd:
        yield f"{len(odd)} names: {', '.join(odd[:4])}"


def _differences(expected: Path, found: Path) -> Iterator[str]:
    if not (found / "run.json").is_file():
        yield "no run.json"
        return
    for name in SAME_BYTES:
        paths = [run / name for run in (expected, found)]
        if not paths[1].is_file() or paths[0].read_bytes() != paths[1].read_bytes():
            yield name
    texts = [gzip.decompress((run / "cells.geojson.gz").read_bytes()) for run in (expected, found)]
    if texts[0] != texts[1]:
        yield "cells.geojson.gz"
    cells = [pq.read_table(run / "cells.parquet") for run in (expected, found)]
    if not cells[0].equals(cells[1]):
        yield "rows of cells.parquet"
    if pc.count_distinct(cells[1]["uuid"]).as_py() != len(cells[1]):
        yield "cells twice"
    yield from _different_records(expected, found)
    yield from _different_masks(expected / "masks.zarr", found / "masks.zarr")


def _different_records(expected: Path, found: Path) -> Iterator[str]:
    records: list[dict[str, Any]] = [
        json.loads((run / "run.json").read_text()) for run in (expected, found)
    ]
    for key in SAME_IN_RUN_JSON:
        if records[0].get(key) != records[1].get(key):
            yield f"run.json: {key}"
    tiles = [pq.read_table(run / "tiles.parquet") for run in (expected, found)]
    kept = [name for name in tiles[0].column_names if not name.startswith("seconds_")]
    if not tiles[0].select(kept).equals(tiles[1].select(kept)):
        yield "tiles.parquet"


def _different_masks(expected: Path, found: Path) -> Iterator[str]:
    for path in sorted(expected.rglob("zarr.json")):
        name = path.relative_to(expected)
        if not (found / name).is_file() or path.read_bytes() != (found / name).read_bytes():
            yield f"masks.zarr/{name}"
        elif json.loads(path.read_text())["node_type"] == "array":
            arrays = [zarr.open_array(masks / name.parent, mode="r") for masks in (expected, found)]
            if not np.array_equal(arrays[0][:], arrays[1][:]):
                yield f"masks.zarr/{name.parent}"
