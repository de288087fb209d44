"""How long answers take: queries and statistics of many nuclei in many slides.

    python benchmarks/answers.py make OUT [--slides 50] [--cells 10_000_000]
    python benchmarks/answers.py measure OUT [--repeats 3]

`make` writes finished runs with all columns of `cells.parquet` and `features.parquet`: random
values, places that cluster, a short polygon for each nucleus (so files are smaller than real
ones; no answer below reads polygons).  `measure` runs each command in a process of its own, and
prints wall seconds (the least and the most of all repeats), seconds from the connection to the
answer without start-up, CPU seconds of all threads (which tell what other programs took, where
wall seconds are more than that), and the largest resident memory.  The same answer by pandas, from
the same files with only the columns it needs, is measured in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsiseg.exporters.parquet import CELLS_SCHEMA, ROW_GROUP_ROWS

CLASSES = ("Epithelial", "Inflammatory", "Spindle", "Miscellaneous")
SHARES = (0.45, 0.25, 0.28, 0.02)
MPP = 0.25
CORE_UM = 256.0
PER_MM2 = 4000
SQL = (
    "SELECT class_name, count(*) / (SELECT sum(analysed_mm2) FROM slides) AS per_mm2 "
    "FROM cells GROUP BY class_name ORDER BY class_name"
)
PANDAS = """
import sys, time, json
import pandas as pd
from pathlib import Path
start = time.perf_counter()
out = Path(sys.argv[1])
runs = sorted(out.glob("*.wsiseg"))
area = sum(json.loads((run / "run.json").read_text())["analysed_mm2"] for run in runs)
columns = sys.argv[2].split(",")
cells = pd.concat(
    [pd.read_parquet(run / "cells.parquet", columns=columns).assign(slide=run.stem) for run in runs]
)
if columns == ["class_name"]:
    print((cells.groupby("class_name").size() / area).to_string())
else:
    grouped = cells.groupby(["slide", "class_name"])["area_um2"]
    print(grouped.describe(percentiles=[0.25, 0.5, 0.75]).to_string())
print("seconds", time.perf_counter() - start)
"""
WSISEG_QUERY = """
import sys, time
import wsiseg.answers.queries
start = time.perf_counter()
print(wsiseg.answers.queries.query(sys.argv[1], sys.argv[2]))
print("seconds", time.perf_counter() - start)
"""
WSISEG_STATS = """
import sys, time
import wsiseg.answers.cohort
start = time.perf_counter()
print(wsiseg.answers.cohort.cohort_stats(sys.argv[1]).table.num_rows)
print("seconds", time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("out", type=Path)
    make.add_argument("--slides", type=int, default=50)
    make.add_argument("--cells", type=int, default=10_000_000)
    measure = commands.add_parser("measure")
    measure.add_argument("out", type=Path)
    measure.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.command == "make":
        for number in range(arguments.slides):
            make_run(arguments.out, number, arguments.cells // arguments.slides)
    else:
        measure_all(arguments.out, arguments.repeats)


def make_run(out: Path, number: int, n: int) -> None:
    """Write one finished run."""
    rng = np.random.default_rng([7, number])
    side_um = np.ceil(np.sqrt(n / PER_MM2) * 1000 / CORE_UM) * CORE_UM
    folder = out / f"slide_{number:03}.svs.wsiseg"
    folder.mkdir(parents=True)
    x_um, y_um = clustered(rng, n, side_um)
    order = np.lexsort((x_um, x_um // CORE_UM, y_um // CORE_UM))
    x_um, y_um = x_um[order], y_um[order]
    write_cells(folder, rng, x_um, y_um)
    write_tiles(folder, x_um, y_um, side_um)
    record = run_record(f"slide_{number:03}.svs", n, side_um)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def clustered(rng: np.random.Generator, n: int, side_um: float) -> tuple[Any, Any]:
    """Return places around random parents (Neyman and Scott's process)."""
    parents = rng.uniform(0, side_um, (max(1, n // 40), 2))
    of = rng.integers(len(parents), size=n)
    place = (parents[of] + rng.normal(0, 40, (n, 2))) % side_um
    return place[:, 0], place[:, 1]


def write_cells(folder: Path, rng: np.random.Generator, x_um: Any, y_um: Any) -> None:
    """Write `cells.parquet` and `features.parquet`."""
    n = len(x_um)
    square = shapely.to_wkb(shapely.Point(0, 0).buffer(10, 2))
    float32 = {
        field.name: rng.gamma(9, 4, n).astype(np.float32)
        for field in CELLS_SCHEMA
        if field.type == pa.float32()
    }
    x, y = x_um / MPP, y_um / MPP
    corners = [x - 10, y - 10, x + 10, y + 10]
    boxes = CELLS_SCHEMA.field("bbox").type
    given = {
        "cell_id": np.arange(1, n + 1, dtype=np.uint32),
        "uuid": [f"{i:08x}-0000-5000-8000-{i * 7919 % 2**48:012x}" for i in range(n)],
        "class_name": rng.choice(CLASSES, n, p=SHARES),
        **{"x": x, "y": y, "x_um": x_um, "y_um": y_um},
        "cut": np.zeros(n, np.bool_),
        "geometry": pa.array([square], pa.binary()).take(pa.array(np.zeros(n, np.int32))),
        "bbox": pa.StructArray.from_arrays(
            [pa.array(c) for c in corners], fields=[boxes.field(k) for k in range(4)]
        ),
        **float32,
    }
    columns = [
        pa.array(given[field.name], field.type) if field.name in given else pa.nulls(n, field.type)
        for field in CELLS_SCHEMA
    ]
    table = pa.Table.from_arrays(columns, schema=CELLS_SCHEMA)
    pq.write_table(
        table,
        folder / "cells.parquet",
        ROW_GROUP_ROWS,
        compression="zstd",
        use_dictionary=["class_name", "region", "region_class"],
    )
    features = {"cell_id": given["cell_id"]} | {
        name: rng.gamma(9, 4, n).astype(np.float32)
        for name in ("nearest_cell_um", "cells_within_50um", "texture_entropy")
    }
    pq.write_table(pa.table(features), folder / "features.parquet", ROW_GROUP_ROWS)


def write_tiles(folder: Path, x_um: Any, y_um: Any, side_um: float) -> None:
    """Write `tiles.parquet`."""
    k = round(side_um / CORE_UM)
    row, col = (axis.ravel() for axis in np.indices((k, k)))
    n = np.zeros((k, k), np.int32)
    np.add.at(n, ((y_um // CORE_UM).astype(int), (x_um // CORE_UM).astype(int)), 1)
    core_px = CORE_UM / MPP
    tiles = {
        "row": row.astype(np.int32),
        "col": col.astype(np.int32),
        "x": col * core_px,
        "y": row * core_px,
        "width": np.full(k * k, core_px),
        "height": np.full(k * k, core_px),
        "tissue_share": np.ones(k * k, np.float32),
        "n_cells": n.ravel(),
        "flags": pa.array([[]] * (k * k), pa.list_(pa.string())),
    }
    pq.write_table(pa.table(tiles), folder / "tiles.parquet")


def run_record(name: str, n: int, side_um: float) -> dict[str, Any]:
    """Return the `run.json` of a finished run."""
    side_px = round(side_um / MPP)
    return {
        "format": "wsiseg-run",
        "format_version": 1,
        "result_version": 3,
        "wsiseg_version": "0.1.0",
        "status": "done",
        "error": None,
        "finished_utc": "2026-01-01T00:00:00+00:00",
        "slide": {
            "name": name,
            "mpp": MPP,
            "width_px": side_px,
            "height_px": side_px,
            "bounds": [0, 0, side_px, side_px],
        },
        "frame": {"scale": 1.0, "width_px": side_px, "height_px": side_px, "mpp": MPP},
        "model": {"name": "synthetic", "sha256": "0" * 64, "card": {"core_px": 1024}},
        "classes": [
            {"name": each, "index": i + 1, "rgb": [40 * i, 90, 200]}
            for i, each in enumerate(CLASSES)
        ],
        "n_cells": n,
        "analysed_mm2": side_um**2 / 1e6,
        "no_density_reason": None,
        "tiles": {"planned": 1, "run": 1, "unreadable": []},
        "regions": [],
        "warnings": [],
    }


def measure_all(out: Path, repeats: int) -> None:
    """Measure each command in turn, all of them again, and print."""
    wsiseg = [sys.executable, "-m", "wsiseg"]
    inline = [sys.executable, "-c"]
    jobs = {
        "wsiseg query (command)": [*wsiseg, "query", str(out), SQL],
        "wsiseg.query (Python)": [*inline, WSISEG_QUERY, str(out), SQL],
        "pandas, the same query": [*inline, PANDAS, str(out), "class_name"],
        "wsiseg stats (command)": [*wsiseg, "stats", str(out)],
        "wsiseg.cohort_stats (Python)": [*inline, WSISEG_STATS, str(out)],
        "pandas, counts and quartiles alone": [*inline, PANDAS, str(out), "class_name,area_um2"],
    }
    measured: dict[str, list[tuple[float, float, float, float | None]]] = {
        name: [] for name in jobs
    }
    for _ in range(repeats):
        for name, command in jobs.items():
            measured[name].append(run_once(command))
    print(f"load before: {os.getloadavg()[0]:.2f}; {os.cpu_count()} cores")
    for name, rows in measured.items():
        walls = [row[0] for row in rows]
        inside = [row[3] for row in rows if row[3] is not None]
        said = f", without start {min(inside):.2f} to {max(inside):.2f} s" if inside else ""
        print(
            f"{name:36} {min(walls):6.2f} to {max(walls):6.2f} s{said}, "
            f"CPU {min(row[2] for row in rows):.2f} to {max(row[2] for row in rows):.2f} s, "
            f"peak {max(row[1] for row in rows):.0f} MB"
        )


def run_once(command: list[str]) -> tuple[float, float, float, float | None]:
    """Return wall seconds, largest resident MB, CPU seconds, and the seconds it says itself."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[:4]} failed with {child.returncode}")
    last = said.strip().splitlines()[-1].split() if said.strip() else []
    seconds = float(last[1]) if last[:1] == ["seconds"] else None
    cpu = used.ru_utime + used.ru_stime
    return wall, used.ru_maxrss * resource_unit() / 1e6, cpu, seconds


def resource_unit() -> int:
    """Return the bytes that ru_maxrss counts in."""
    return 1 if sys.platform == "darwin" else 1024


if __name__ == "__main__":
    main()
