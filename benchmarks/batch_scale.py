"""Thousands of slides with nothing to compute: does anything grow with their number?

    python benchmarks/batch_scale.py [--slides 1000 10000] [--ways here dask] [--side-px 64]
        [--seed 0] [--folder DIR]

Slides are tiny TIFF files, 100 to a folder, segmented by a network that finds nothing, in one
process and by a Dask cluster of two workers started by hand. Once a second the memory of client,
scheduler and workers is noted, and how many slides are done. Afterwards: time per slide in each
tenth of the batch, growth of memory from the first tenth on, and how long `wsiseg status` takes,
in the middle of the batch and at its end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from batch_calls import DONE, Batch, Call, finish, print_table, start, status
from batch_cluster import Watch, cluster_by_hand
from batch_model import make_model
from batch_slides import write_slide
from numpy.typing import NDArray

PER_FOLDER = 100
POLL_S = 1.0
MOST_GROWTH_MB = 200.0
MOST_STATUS_S = 5.0
MOST_SLOWER = 1.5
"""CPU time of the costliest tenth of a batch, the first left out, against the median one."""
ENOUGH = 500
"""Tenths of fewer slides are a matter of chance."""


@dataclass(frozen=True)
class Course:
    """How a batch went."""

    code: int
    done_at_s: list[float]
    """When each slide was done, in order."""
    watch: Watch
    status_s: list[float]
    n_files: int
    """In OUT at the end, folders included."""


def make_tiny(folder: Path, n: int, side_px: int) -> None:
    """Make slides that differ in name alone: hard links to one file."""
    random = np.random.default_rng(0)
    rgb = random.integers(150, 255, (side_px, side_px, 3)).astype(np.uint8)
    rgb[side_px // 4 : -side_px // 4, side_px // 4 : -side_px // 4] = (200, 90, 160)
    folder.mkdir(parents=True)
    original = folder.parent / f"{folder.name}.svs"
    write_slide(original, rgb, 0.25)
    for number in range(n):
        path = folder / f"block {number // PER_FOLDER:03d}" / f"S{number:05d}.svs"
        path.parent.mkdir(exist_ok=True)
        try:
            os.link(original, path)
        except OSError:
            shutil.copyfile(original, path)


def course(batch: Batch, n: int, out: Path, on_dask: bool) -> Course:
    """Run a batch to its end and note everything."""
    environ = batch.environment()
    folder = batch.scratch / f"cluster-{out.name}"
    with cluster_by_hand(folder, environ, 2) if on_dask else nullcontext() as cluster:
        more = ["--cluster", cluster.address] if cluster else []
        call = start(batch.segment(out, *more), batch.scratch / f"{out.name}.txt", environ)
        processes = {"client": call.process.pid}
        if cluster:
            assert cluster.scheduler is not None
            processes["scheduler"] = cluster.scheduler.process.pid
            processes |= {f"worker {k}": one.process.pid for k, one in enumerate(cluster.workers)}
        with Watch(processes) as watch:
            middle_s = _wait(batch, out, call, n)
    found = list(out.rglob("*"))
    written = sorted(path.stat().st_mtime for path in found if path.name == "run.json")
    _, end_s = status(batch, out)
    began = time.time() - (time.monotonic() - call.began)
    at_s = [at - began for at in written]
    return Course(call.process.returncode, at_s, watch, [*middle_s, end_s], len(found))


def _wait(batch: Batch, out: Path, call: Call, n: int) -> list[float]:
    """Wait for the end; ask for the status once, in the middle."""
    asked: list[float] = []
    while call.process.poll() is None:
        time.sleep(POLL_S)
        if not asked and sum(1 for _ in out.glob("*/*.wsiseg")) >= n // 2:
            asked.append(status(batch, out)[1])
    return asked


def report(name: str, n: int, one: Course) -> list[str]:
    """Print the figures of a course; return what is wrong."""
    at_s = np.array([0.0, *one.done_at_s])
    # The first tenth includes starting.
    ends = np.linspace(0, len(at_s) - 1, 11).astype(int)
    tenths_ms = np.diff(at_s[ends]) / np.diff(ends) * 1000
    cpu_ms = _cpu_s(one.watch, at_s[ends])
    cpu_ms = np.diff(cpu_ms) / np.diff(ends) * 1000
    # CPU time hardly depends on what else the machine does.
    later = cpu_ms[1:]
    rows: list[tuple[str, object]] = [
        (f"{n} slides, {name}: whole command, s", float(at_s[-1])),
        ("ms a slide by tenths of the batch", " ".join(f"{ms:.0f}" for ms in tenths_ms)),
        ("CPU ms a slide, all processes", " ".join(f"{ms:.0f}" for ms in cpu_ms)),
        ("the same: costliest tenth against the median one, from the second on",
         float(later.max() / np.median(later))),
        ("files and folders in OUT for each slide", one.n_files / n),
        ("wsiseg status, s, in the middle and at the end",
         ", ".join(f"{seconds:.2f}" for seconds in one.status_s)),
    ]  # fmt: skip
    wrong = [] if one.code == DONE else [f"{name}: ended with {one.code}"]
    if len(one.done_at_s) != n:
        wrong.append(f"{name}: {len(one.done_at_s)} records for {n} slides")
    after_s = float(at_s[ends[1]])
    for process, seen in one.watch.rss_mb.items():
        growth = one.watch.growth_mb(process, after_s)
        marks = [mb for _, mb in seen[:: max(1, len(seen) // 10)]]
        rows.append((f"{process}, MB, over time", " ".join(f"{mb:.0f}" for mb in marks)))
        rows.append((f"{process}, growth from the first tenth on, MB", growth))
        if not growth <= MOST_GROWTH_MB:
            wrong.append(f"{name}, {n} slides: {process} grew by {growth:.0f} MB")
    if n >= ENOUGH and later.max() > MOST_SLOWER * np.median(later):
        wrong.append(f"{name}, {n} slides: time per slide is not flat")
    if max(one.status_s) > MOST_STATUS_S:
        wrong.append(f"{name}, {n} slides: status took {max(one.status_s):.1f} s")
    print_table(rows)
    return wrong


def _cpu_s(watch: Watch, at_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the CPU seconds of all processes together at some times."""
    seen = [np.array(marks) for marks in watch.cpu_s.values() if marks]
    return np.sum([np.interp(at_s, one[:, 0], one[:, 1]) for one in seen], axis=0)


def trials(folder: Path, numbers: Sequence[int], ways: Sequence[str], side_px: int) -> list[str]:
    model = make_model(folder / "model", finds_nothing=True)
    wrong = []
    for n in numbers:
        slides = folder / f"tiny-{n}"
        make_tiny(slides, n, side_px)
        batch = Batch(slides, str(model), folder)
        for way in ways:
            out = folder / f"out-{n}-{way}"
            wrong += report(way, n, course(batch, n, out, way == "dask"))
            shutil.rmtree(out)
        shutil.rmtree(slides)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--slides", type=int, nargs="+", default=(1000, 10_000))
    parser.add_argument("--ways", nargs="+", choices=("here", "dask"), default=("here", "dask"))
    parser.add_argument("--side-px", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="a disk with room for 300,000 files")
    given = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    with tempfile.TemporaryDirectory(prefix="wsiseg-scale-", dir=given.folder) as folder:
        wrong = trials(Path(folder), given.slides, given.ways, given.side_px)
    finish(wrong)


if __name__ == "__main__":
    main()
