"""Memory, seconds and files of whole runs, over slides of growing size.

    python benchmarks/memory.py SLIDE [SLIDE …] [--model NAME | --stand-in] [--out DIR]

Runs `wsiseg segment` on each slide, one after the other, each in a process of its own, and
looks at the process tree every --every seconds: its memory is the sum of PSS (what each process
has for itself, and its share of what several have), from Linux' `smaps_rollup`, so it counts
threads, worker processes and children, and no page twice.  Peak RSS of the first process is
given beside it, since that is what others report.

--stand-in takes `wsiseg.testing.models.fine_network` in place of a network: dark spots are
nuclei, at a hundredth of the cost; for the largest slides, where the network is not what is
asked about.  Its nuclei are of no use.

Prints one table of totals, one of seconds by stage per mm² of tissue, one of files.  With
--keep the results stay in --out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from measuring import conditions

STAND_IN = """
import sys, wsiseg
from wsiseg.testing.models import fine_network
if __name__ == "__main__":
    mpp = float(sys.argv[3]) if len(sys.argv) > 3 else None
    wsiseg.segment(sys.argv[1], sys.argv[2], model=fine_network(), scale=mpp)
"""
"""What the command line cannot do: run a model that is an object."""


@dataclass(slots=True)
class Seen:
    """What was seen of a process tree while it ran."""

    peak_pss_mb: float = 0.0
    peak_rss_mb: float = 0.0
    peak_at_s: float = 0.0
    """When the peak of PSS was, after the start."""
    over_time_mb: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--out", type=Path, default=Path("/tmp/wsiseg-benchmarks/memory"))
    parser.add_argument("--every", type=float, default=0.25)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    print(conditions("torch", "numpy", "numba", "pyarrow", "zarr"))
    model = "the stand-in network" if arguments.stand_in else arguments.model
    print(f"model: {model}")
    rows = []
    for path in arguments.slides:
        rows.append(measure(path, arguments))
        print(f"{path.name}: done in {rows[-1]['wall_s']:.0f} s", file=sys.stderr, flush=True)
    print_totals(rows)
    print_stages(rows)
    print_files(rows)


def measure(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one slide and return what was seen."""
    out = arguments.out / path.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.perf_counter()
    with subprocess.Popen(command(path, out, arguments)) as process:
        seen = watch(psutil.Process(process.pid), arguments.every)
    if process.returncode:
        raise SystemExit(f"{path.name}: the run ended with exit code {process.returncode}")
    wall_s = time.perf_counter() - started
    run_folder = next(out.glob("*.wsiseg"))
    run = json.loads((run_folder / "run.json").read_text())
    row = {"name": path.name, "run": run, "seen": seen, "wall_s": wall_s}
    row["files"] = files_by_kind(run_folder)
    if not arguments.keep:
        shutil.rmtree(out)
    return row


def command(path: Path, out: Path, arguments: argparse.Namespace) -> list[str]:
    mpp = [] if arguments.mpp is None else [str(arguments.mpp)]
    if arguments.stand_in:
        script = out / "stand_in.py"
        script.write_text(STAND_IN)
        return [sys.executable, *map(str, (script, path, out)), *mpp]
    words = [sys.executable, "-m", "wsiseg", "segment", str(path), "-o", str(out), "--quiet"]
    return [*words, "--model", arguments.model, *(["--mpp", *mpp] if mpp else [])]


def watch(process: psutil.Process, every_s: float) -> Seen:
    """Look at a process and its children until it ends."""
    seen, started = Seen(), time.perf_counter()
    done = threading.Event()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        pss_mb, rss_mb = tree_mb(process)
        seen.over_time_mb.append(pss_mb)
        seen.peak_rss_mb = max(seen.peak_rss_mb, rss_mb)
        if pss_mb > seen.peak_pss_mb:
            seen.peak_pss_mb, seen.peak_at_s = pss_mb, time.perf_counter() - started
        done.wait(every_s)
    return seen


def tree_mb(process: psutil.Process) -> tuple[float, float]:
    """Return the PSS of a process tree and the RSS of its first process, in MB."""
    pss = rss = 0.0
    try:
        rss = process.memory_info().rss / 1e6
        for one in [process, *process.children(recursive=True)]:
            pss += pss_kb(one.pid) / 1e3 * 1.024
    except psutil.NoSuchProcess:
        pass
    return pss, rss


def pss_kb(pid: int) -> int:
    """Return a process' proportional set size in KiB; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def files_by_kind(folder: Path) -> dict[str, tuple[int, int]]:
    """Return number and bytes of the files, by the first name below the run's folder."""
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            parts = path.relative_to(folder).parts
            kind = "/".join(parts[:3]) if parts[0] == "masks.zarr" and len(parts) > 3 else parts[0]
            kind = kind if not kind.startswith("masks.zarr/") or "labels" in kind else "masks.zarr"
            number[kind] += 1
            size[kind] += path.stat().st_size
    return {kind: (number[kind], size[kind]) for kind in sorted(number)}


def print_totals(rows: list[dict[str, Any]]) -> None:
    print(
        "\n| slide | side px | tissue mm² | tiles | nuclei | wall s | s/mm² | peak PSS MB | at s | "
        "median PSS MB | peak RSS MB | run.json peak MB | files | MB |\n" + "|---" * 14 + "|"
    )
    for row in rows:
        run, seen = row["run"], row["seen"]
        mm2 = run["analysed_mm2"]
        typical = sorted(seen.over_time_mb)[len(seen.over_time_mb) // 2]
        n_files = sum(number for number, _ in row["files"].values())
        n_bytes = sum(size for _, size in row["files"].values())
        print(
            f"| {row['name']} | {run['slide']['width_px']} × {run['slide']['height_px']} | "
            f"{mm2:.2f} | {run['tiles']['run']} | {run['n_cells']:,} | {row['wall_s']:.0f} | "
            f"{per_area(row['wall_s'], mm2)} | {seen.peak_pss_mb:.0f} | {seen.peak_at_s:.0f} | "
            f"{typical:.0f} | {seen.peak_rss_mb:.0f} | {run.get('peak_memory_mb', 0):.0f} | "
            f"{n_files} | {n_bytes / 1e6:.1f} |"
        )


def print_stages(rows: list[dict[str, Any]]) -> None:
    """Print the seconds of `run.json`; those called busy are sums over threads."""
    stages = list(dict.fromkeys(name for row in rows for name in row["run"]["seconds"]))
    print("\ns/mm² by stage")
    print("| slide | " + " | ".join(stages) + " |\n" + "|---" * (len(stages) + 1) + "|")
    for row in rows:
        seconds, mm2 = row["run"]["seconds"], row["run"]["analysed_mm2"]
        cells = [per_area(seconds.get(name, 0.0), mm2) for name in stages]
        print(f"| {row['name']} | " + " | ".join(cells) + " |")


def per_area(seconds: float, mm2: float) -> str:
    return f"{seconds / mm2:.3g}" if mm2 else "–"


def print_files(rows: list[dict[str, Any]]) -> None:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["files"]))
    print("\nfiles / MB")
    print("| slide | " + " | ".join(kinds) + " |\n" + "|---" * (len(kinds) + 1) + "|")
    for row in rows:
        found = [row["files"].get(kind, (0, 0)) for kind in kinds]
        cells = [f"{number} / {size / 1e6:.2f}" for number, size in found]
        print(f"| {row['name']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
