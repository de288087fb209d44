"""A batch on a Dask cluster started by hand: the same cells, how fast, with how many threads.

    python benchmarks/batch_dask.py [--slides 200] [--model NAME] [--seed 0] [--folder DIR]
        [--speed-slides 40]

`dask scheduler` and two `dask worker` are started as on nodes of a cluster, then
`wsiseg segment … --cluster tcp://…`. Each good slide must be what it is when segmented alone, and
the broken ones listed with their reason. Then a part of the batch with one worker and with two:
how much faster two are, and how many threads of each worker were busy.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from batch_calls import (
    SOME_FAILED,
    Batch,
    add_batch_options,
    at_work_s,
    emptied,
    faults,
    finish,
    given_batch,
    print_table,
    run_singles,
    start,
)
from batch_cluster import Threads, Watch, cluster_by_hand, threads_of
from batch_slides import make_batch, shared_images

from wsiseg.machine import cores

MOST_BUSY_CORES = 1.25
"""Of a worker with one thread; above it threads compete."""


def trial(batch: Batch) -> tuple[list[str], list[tuple[str, object]]]:
    """Segment the whole batch with two workers; return what is wrong, and figures."""
    out = emptied(batch.scratch / "dask")
    print(f"{len(batch.good)} good slides and {len(batch.bad)} broken ones, each alone first")
    sum_s = sum(run_singles(batch).values())
    code, seconds, _, _ = on_workers(batch, out, 2)
    wrong = [] if code == SOME_FAILED else [f"the batch ended with {code}; 3 is needed"]
    rows: list[tuple[str, object]] = [
        ("slides, of which broken", f"{len(batch.made)}, {len(batch.bad)}"),
        ("sum of single runs, one process, warm, s", sum_s),
        ("--cluster with 2 workers, started, s", seconds),
        ("against the sum of single runs (above 1: faster)", sum_s / seconds),
        ("the same without starting and ending, s", at_work_s(batch, out)),
        ("good slides an hour", 3600 * len(batch.good) / seconds),
    ]
    return wrong + faults(batch, out), rows


def on_workers(
    batch: Batch, out: Path, n_workers: int, warm: bool = False
) -> tuple[int, float, list[Threads], Watch]:
    """Segment the batch on new workers; return code, seconds, threads of each worker."""
    environ = batch.environment()
    name = f"{out.name}-{n_workers}"
    with cluster_by_hand(batch.scratch / f"cluster-{name}", environ, n_workers) as cluster:
        if warm:
            # What is compiled and loaded once per worker is no part of a speed.
            elsewhere = emptied(batch.scratch / f"warming-{name}")
            warming = batch.segment(elsewhere, "--cluster", cluster.address)
            start(warming, batch.scratch / f"{name}.txt", environ).process.wait()
        workers = {f"worker {k}": call.process.pid for k, call in enumerate(cluster.workers)}
        began = time.monotonic()
        with Watch(workers) as watch:
            command = batch.segment(out, "--cluster", cluster.address)
            code = start(command, batch.scratch / f"{name}.txt", environ).process.wait()
        seconds = time.monotonic() - began
        return code, seconds, [threads_of(process) for process in workers.values()], watch


def speed(batch: Batch) -> tuple[list[str], list[tuple[str, object]]]:
    """Compare two workers with one, warm; look at what their threads did."""
    wrong: list[str] = []
    rows: list[tuple[str, object]] = [("slides to compare speeds", len(batch.made))]
    seconds, working_s = {}, {}
    for n_workers in (1, 2):
        out = emptied(batch.scratch / f"speed-{n_workers}")
        code, seconds[n_workers], threads, watch = on_workers(batch, out, n_workers, warm=True)
        if code != SOME_FAILED:
            wrong.append(f"with {n_workers} workers the command ended with {code}; 3 is needed")
        rows.append((f"{n_workers} workers, whole command, s", seconds[n_workers]))
        working_s[n_workers] = at_work_s(batch, out)
        rows.append((f"{n_workers} workers, first slide to last, s", working_s[n_workers]))
        for (name, shares), one in zip(watch.cores_used.items(), threads, strict=True):
            said = (
                f"{one.n_threads}, {one.n_busy} with a tenth of its CPU time or more; "
                f"{median(shares or [0]):.2f} cores used, {max(shares, default=0):.2f} at most"
            )
            rows.append((f"   threads of {name}", said))
            if median(shares or [0]) > MOST_BUSY_CORES:
                wrong.append(f"{name} of {n_workers} used {median(shares):.2f} cores; it has one")
    rows.append(("2 workers against 1, whole command", seconds[1] / seconds[2]))
    rows.append(("2 workers against 1, first slide to last", working_s[1] / working_s[2]))
    rows.append(("cores", cores()))
    return wrong, rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_batch_options(parser)
    parser.add_argument("--speed-slides", type=int, default=40)
    given = parser.parse_args()
    with given_batch(given) as batch:
        wrong, rows = trial(batch)
        fewer = batch.scratch / f"speed slides {given.speed_slides}"
        if not fewer.exists():
            sides = tuple(given.side_px)
            make_batch(fewer, given.speed_slides, given.seed + 1, shared_images(), sides)
        slow, more = speed(Batch(fewer, batch.model, batch.scratch))
        print_table(rows + more)
    finish(wrong + slow)


if __name__ == "__main__":
    main()
