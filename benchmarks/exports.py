"""What does giving a run away cost: seconds, memory, bytes, for each format?

    python benchmarks/exports.py RUN [--formats csv,coco,…]
    python benchmarks/exports.py --make RUN [--nuclei 1000000]

The second makes a run full of ellipses (no slide, no network) for the first.  Each export is done
in a fresh process, which has imported what it needs and exported twenty nuclei before; memory is
the highest resident size of that process, and in brackets what was added to it (Linux).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from many_nuclei import CORE_PX, Pattern
from outputs import COLOURS, NAMES, SCALE, SLIDE_MPP, _table_of

import wsiseg
from wsiseg.exporters.formats import FORMATS, suffix_of
from wsiseg.exporters.parquet import CELLS_SCHEMA


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_run(arguments.run, arguments.nuclei)
    elif arguments.one:
        json.dump(measure(arguments.run, arguments.one), sys.stdout)
    else:
        n = wsiseg.open_result(arguments.run).run["n_cells"]
        print(f"{n:,} nuclei")
        for name in arguments.formats.split(","):
            command = [sys.executable, __file__, str(arguments.run), "--one", name]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                print(f"{name:12s} {done.stderr.strip().splitlines()[-1]}")
                continue
            found = json.loads(done.stdout)
            print(
                f"{name:12s} {found['s']:7.1f} s  {found['mb']:8.1f} MB  "
                f"memory {found['peak_mb']:6.0f} MB (+{found['added_mb']:.0f})"
            )


def make_run(folder: Path, nuclei: int) -> None:
    n_across = 39
    n_cols = round((nuclei / n_across**2) ** 0.5)
    n_rows = round(nuclei / n_across**2 / n_cols)
    folder.mkdir(parents=True)
    _table_of(n_rows, n_cols, Pattern(n_across), folder / "cells.parquet")
    n_cells = pq.read_metadata(folder / "cells.parquet").num_rows
    write_record(folder, n_cells, n_cols * CORE_PX, n_rows * CORE_PX)


def write_record(folder: Path, n_cells: int, width_px: int, height_px: int) -> None:
    size = {"width_px": round(width_px * SCALE), "height_px": round(height_px * SCALE)}
    run: dict[str, Any] = {
        "format": "wsiseg-run",
        "format_version": 1,
        "result_version": 1,
        "wsiseg_version": "0.1.0",
        "status": "done",
        "error": None,
        "slide": {"name": "made.svs", **size, "mpp": SLIDE_MPP, "bounds": [0, 0, *size.values()]},
        "frame": {
            "scale": SCALE,
            "width_px": width_px,
            "height_px": height_px,
            "mpp": SLIDE_MPP * SCALE,
        },
        "model": {"name": "made", "sha256": "0" * 64, "card": {}},
        "classes": [
            {"name": name, "index": i + 1, "rgb": list(COLOURS[name])}
            for i, name in enumerate(NAMES)
        ],
        "n_cells": n_cells,
        "analysed_mm2": 1.0,
        "no_density_reason": None,
        "warnings": [],
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def measure(run: Path, name: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=run.parent) as scratch:
        small = Path(scratch, "small.wsiseg")
        small.mkdir()
        first = pq.ParquetFile(run / "cells.parquet").read_row_group(0)[:20]
        pq.write_table(first.cast(CELLS_SCHEMA), small / "cells.parquet")
        write_record(small, first.num_rows, CORE_PX, CORE_PX)
        wsiseg.open_result(small).export(name, Path(scratch, f"small{suffix_of(name)}"))
        before = peak_mb()
        start = time.perf_counter()
        path = wsiseg.open_result(run).export(name, Path(scratch, f"a{suffix_of(name)}"))
        seconds = time.perf_counter() - start
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        n_bytes = sum(each.stat().st_size for each in files)
    peak = peak_mb()
    return {"s": seconds, "mb": n_bytes / 1e6, "peak_mb": peak, "added_mb": peak - before}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
