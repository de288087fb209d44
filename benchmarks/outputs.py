"""What does a nucleus cost after its tile is done: seconds, memory, bytes?

    python benchmarks/outputs.py [--nuclei 1000000] [--across 39] [--json-nuclei 100000]
    python benchmarks/outputs.py --row 98 --across 55

Makes tiles full of ellipses (no slide, no network), then measures, each in a fresh process that
has done the same once on little:

  table     stitch, trace, measure, name, write cells.parquet, on one thread
  geojson   cells.parquet to GeoJSON, plain and .gz
  json      the same features by the standard library: made from the rows, then `json.dump`, and
            `json.dumps` of all at once; on fewer nuclei, since it takes kilobytes a nucleus
  overlay   choosing crops and reading their nuclei

Seconds are of all the process's threads together, memory is the highest resident size above what
it was before the stage (Linux).  `--row` stitches three rows of so many tiles instead.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely
from many_nuclei import CORE_PX, Pattern, seen_tiles, tiles_of_nuclei

from wsiseg.cell_table import read_cells, stream_batches
from wsiseg.exporters.geojson import MEASUREMENTS, write_geojson
from wsiseg.exporters.parquet import CellsWriter, cells_batch
from wsiseg.geometry import Frame
from wsiseg.identity import cell_uuids
from wsiseg.measure import measure_instances
from wsiseg.outlines import trace_outlines
from wsiseg.pictures import Centroids, choose_crops
from wsiseg.records import Cells
from wsiseg.stitch import StitchOptions, stitch

SCALE = 1.0108
SLIDE_MPP = 0.25
NAMES = ("Epithelial", "Inflammatory", "Spindle", "Necrotic", "Miscellaneous")
COLOURS = {name: (60 * i, 80, 200) for i, name in enumerate(NAMES)}
CHUNK = 16_384


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--across", type=int, default=39, help="nuclei along a core's edge")
    parser.add_argument("--json-nuclei", type=int, default=100_000)
    parser.add_argument("--row", type=int, help="stitch three rows of so many tiles, no more")
    parser.add_argument("--stage", choices=sorted(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        json.dump(STAGES[arguments.stage](arguments), sys.stdout)
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        stages = ["row"] if arguments.row else [name for name in STAGES if name != "row"]
        found = {name: _in_fresh_process(name, folder) for name in stages}
    for name, numbers in found.items():
        n = numbers.pop("n")
        told = ", ".join(f"{key} {value:,.2f}" for key, value in numbers.items())
        print(f"{name:11s} {n:>9,} nuclei: {told}")
    if "json" in found:
        for name in ("geojson", "geojson.gz"):
            ours = found[name]["us_cpu"]
            per_dump, per_dumps = (found["json"][key] for key in ("us_dump", "us_dumps"))
            print(f"{name}: {per_dump / ours:.0f} times json.dump, {per_dumps / ours:.0f} dumps")


def _in_fresh_process(stage: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, *sys.argv, "--stage", stage, "--folder", folder]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def write_table(arguments: argparse.Namespace) -> dict[str, float]:
    pattern = Pattern(arguments.across)
    n_cols = round((arguments.nuclei / arguments.across**2) ** 0.5)
    n_rows = round(arguments.nuclei / arguments.across**2 / n_cols)
    seen_tiles(pattern)
    path = arguments.folder / "cells.parquet"
    _table_of(2, 2, pattern, path)
    with _measured() as numbers:
        spent = _table_of(n_rows, n_cols, pattern, path)
    n = int(spent.pop("n"))
    each = {f"us_{stage}": seconds / n * 1e6 for stage, seconds in spent.items()}
    return {**_each(numbers, n), **each, "bytes": path.stat().st_size / n}


def _table_of(n_rows: int, n_cols: int, pattern: Pattern, path: Path) -> dict[str, float]:
    """Write a table; return seconds of processor time by step, and the number of nuclei."""
    spent: dict[str, float] = {"n": 0}

    def timed(step: str, call: Callable[..., Any], *given: Any) -> Any:
        start = time.process_time()
        made = call(*given)
        spent[step] = spent.get(step, 0.0) + time.process_time() - start
        return made

    frame = Frame(SCALE, n_cols * CORE_PX, n_rows * CORE_PX)
    bands = stitch(tiles_of_nuclei(n_rows, n_cols, pattern), StitchOptions())
    with CellsWriter(path, frame, SLIDE_MPP, NAMES) as writer:
        while band := timed("stitch", next, bands, None):
            for cells in _chunks(band.cells):
                masks = cells.instances
                outlines = timed("outlines", trace_outlines, masks)
                shapes = timed("measure", measure_instances, masks, SLIDE_MPP * SCALE)
                uuids = timed("uuids", cell_uuids, masks, "f" * 64, "a" * 64)
                parts = cells, outlines, shapes, uuids
                batch = timed("batch", cells_batch, *parts, NAMES, frame, SLIDE_MPP)
                timed("write", writer.write_batch, batch)
            spent["n"] += len(band.cells)
            del band
    return spent


def _chunks(cells: Cells) -> Iterator[Cells]:
    for start in range(0, len(cells), CHUNK):
        index = np.arange(start, min(len(cells), start + CHUNK))
        places = (column[index] for column in (cells.cell_id, cells.tile_row, cells.tile_col))
        yield Cells(cells.instances.taken(index), *places)


def write_ours(arguments: argparse.Namespace, suffix: str) -> dict[str, float]:
    table, path = arguments.folder / "cells.parquet", arguments.folder / f"cells{suffix}"
    few = pq.ParquetFile(table).read_row_group(0).slice(0, 10_000)
    write_geojson(iter(few.to_batches()), path, COLOURS, (0.0, 0.0))
    del few
    with _measured() as numbers:
        write_geojson(stream_batches(table, None), path, COLOURS, (0.0, 0.0))
    n = pq.read_metadata(table).num_rows
    return {**_each(numbers, n), "bytes": path.stat().st_size / n}


def write_json(arguments: argparse.Namespace) -> dict[str, float]:
    """Write features as one would without a library for it."""
    table = pq.read_table(arguments.folder / "cells.parquet").slice(0, arguments.json_nuclei)
    n, path = table.num_rows, arguments.folder / "json.geojson"
    with _measured() as numbers:
        start = time.process_time()
        collection = {"type": "FeatureCollection", "features": _features(table.to_pylist())}
        made = time.process_time()
        with path.open("w") as file:
            json.dump(collection, file, separators=(",", ":"))
        dumped = time.process_time()
        text = json.dumps(collection, separators=(",", ":"))
        end = time.process_time()
        with gzip.open(path.with_suffix(".gz"), "wt") as packed:
            packed.write(text)
        gzipped = time.process_time()
    return {
        **_each(numbers, n),
        "us_dump": (dumped - start) / n * 1e6,
        "us_dumps": (made - start + end - dumped) / n * 1e6,
        "us_dumps_alone": (end - dumped) / n * 1e6,
        "us_gzip": (gzipped - end) / n * 1e6,
        "bytes": path.stat().st_size / n,
    }


def _features(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    features = []
    for row, polygon in zip(rows, shapely.from_wkb([r["geometry"] for r in rows]), strict=True):
        rings = [polygon.exterior, *polygon.interiors]
        properties = {
            "objectType": "detection",
            "classification": {"name": row["class_name"], "color": COLOURS[row["class_name"]]},
            "measurements": {
                name: round(float(row[column]), decimals)
                for column, name, decimals in MEASUREMENTS
                if row[column] is not None
            },
        }
        coordinates = [[[round(x, 2), round(y, 2)] for x, y in ring.coords] for ring in rings]
        geometry = {"type": "Polygon", "coordinates": coordinates}
        features.append(
            {"type": "Feature", "id": row["uuid"], "geometry": geometry, "properties": properties}
        )
    return features


def choose_overlay(arguments: argparse.Namespace) -> dict[str, float]:
    table, side_px = arguments.folder / "cells.parquet", CORE_PX * SCALE
    n_across = int((arguments.nuclei / arguments.across**2) ** 0.5)
    seams = [k * side_px for k in range(1, n_across)]
    boxes = [
        (x * side_px, y * side_px, side_px, side_px)
        for y in range(n_across)
        for x in range(n_across)
    ]
    with _measured() as numbers:
        batches = stream_batches(table, ["cell_id", "x", "y"])
        centroids = (
            Centroids(*(batch[name].to_numpy() for name in ("cell_id", "x", "y")))
            for batch in batches
        )
        for crop in choose_crops(centroids, seams, seams, boxes, 0, 256 * SCALE):
            x, y, width, height = crop.box
            around = shapely.box(x - 64, y - 64, x + width + 64, y + height + 64)
            read_cells(table, None, around, ["class_name", "geometry"])
    return _each(numbers, pq.read_metadata(table).num_rows)


def stitch_rows(arguments: argparse.Namespace) -> dict[str, float]:
    pattern, n = Pattern(arguments.across), 0
    seen_tiles(pattern)
    for _ in stitch(tiles_of_nuclei(2, 2, pattern), StitchOptions()):
        pass
    with _measured() as numbers:
        for band in stitch(tiles_of_nuclei(3, arguments.row, pattern), StitchOptions()):
            n += len(band.cells)
            del band
    return _each(numbers, n)


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """Give a mapping that holds seconds and memory after the block."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, wall, cpu = _highest_mb(), time.perf_counter(), time.process_time()
    numbers: dict[str, float] = {}
    yield numbers
    numbers |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    numbers["peak_mb"] = _highest_mb() - before


def _highest_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _each(numbers: dict[str, float], n: int) -> dict[str, float]:
    return {
        "n": n,
        "us_cpu": numbers["cpu"] / n * 1e6,
        "us_wall": numbers["wall"] / n * 1e6,
        "peak_mb": numbers["peak_mb"],
    }


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "table": write_table,
    "geojson": lambda arguments: write_ours(arguments, ".geojson"),
    "geojson.gz": lambda arguments: write_ours(arguments, ".geojson.gz"),
    "json": write_json,
    "overlay": choose_overlay,
    "row": stitch_rows,
}

if __name__ == "__main__":
    main()
