"""Worker processes on this machine: one thread a core, or one process a GPU."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.cluster.options import ClusterOptions
from wsiseg.cluster.packages import import_distributed
from wsiseg.errors import UsageError
from wsiseg.machine import available_mb, cores

if TYPE_CHECKING:
    from distributed import Client

GPU = "GPU"
"""Name of the resource that a worker with a GPU offers."""
_THREAD_NUMBERS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"),
)
ONE_THREAD: Mapping[str, str] = dict.fromkeys(_THREAD_NUMBERS, "1")
"""Environment of a worker: tiles run side by side, so no library starts threads of its own."""
WORKER_SETTINGS: Mapping[str, Any] = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # A paused worker waits for memory to come free; what a library holds never does.
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # It looks at the stacks of all threads 100 times a second, and CPython before 3.12 can lock
    # itself up for ever while that is done (github.com/python/cpython/issues/106883).
    "distributed.worker.profile.enabled": False,
}
"""Nothing that a worker holds is worth writing to disk: its results are small, and files."""
_ALLOWED_FAILURES = 1
_SHARE_OF_FREE = 0.9
_LEAST_MB = 1000
"""Below this a worker cannot run the smallest network."""
_GPU_THREADS = 4
"""Enough that reading and decoding overlap with the GPU's work."""


@contextmanager
def local_client(where: ClusterOptions) -> Iterator[Client]:
    """Start a Dask cluster of spawned processes on this machine.

    Raises
    ------
    UsageError
        If called while a worker process is being started: the script lacks a main guard; or
        if there is too little memory.
    MissingDependency
        If Dask is not installed.
    """
    if multiprocessing.parent_process() is not None:
        raise UsageError(
            "a worker process ran the script that started it; put the call of segment(workers=…) "
            "under: if __name__ == '__main__':"
        )
    distributed = import_distributed()
    import dask  # ours is an extra

    workers = {
        number: {"cls": distributed.Nanny, "options": options}
        for number, options in enumerate(worker_options(where))
    }
    scheduler = {
        "host": "127.0.0.1",
        "port": 0,
        # Any free port: the usual one may be taken by another cluster.
        "dashboard_address": "127.0.0.1:0",
        # A task that was in two processes that died is looked at alone.
        "allowed_failures": _ALLOWED_FAILURES,
    }
    with (
        dask.config.set(process_settings()),
        distributed.SpecCluster(
            workers=workers,
            scheduler={"cls": distributed.Scheduler, "options": scheduler},
            # What goes wrong is said by those who wait for results.
            silence_logs=logging.CRITICAL,
            name="wsiseg",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def process_settings() -> dict[str, Any]:
    """Return Dask's settings for processes that this one starts."""
    return {
        **WORKER_SETTINGS,
        # A nanny starts its worker again each time it dies.  But so long after each death Dask
        # looks whether the worker is there; if it happens to be dead again, it ends the nanny.
        "distributed.deploy.lost-worker-timeout": "1000 days",
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.worker.daemon": False,
        # Set before the process starts: a library reads them when it is imported.
        "distributed.nanny.pre-spawn-environ": dict(ONE_THREAD),
    }


def worker_options(where: ClusterOptions) -> list[dict[str, Any]]:
    """Return the options of each worker process.

    Raises
    ------
    UsageError
        If there is too little memory for that many.
    """
    n_workers = len(where.gpus) or where.workers or 1
    common = {
        "memory_limit": memory_limit_bytes(n_workers, where.memory_gb),
        "silence_logs": logging.CRITICAL,
        # By its file: as a module it would import all of wsiseg before the worker reports.
        "preload": [str(Path(__file__).with_name("preload.py"))],
    }
    if not where.gpus:
        return [common | {"nthreads": 1} for _ in range(n_workers)]
    n_threads = max(2, min(_GPU_THREADS, cores() // n_workers))
    return [
        common
        | {
            "nthreads": n_threads,
            "resources": {GPU: 1},
            "env": {"CUDA_VISIBLE_DEVICES": gpu},
        }
        for gpu in where.gpus
    ]


def memory_limit_bytes(n_workers: int, memory_gb: float | None) -> int:
    """Return the memory of each of n processes on this machine.

    Raises
    ------
    UsageError
        If it is too little for any network.
    """
    # A queue may give its job less than the machine has; distributed knows that limit.
    allowed_mb = import_distributed().system.MEMORY_LIMIT / 1e6
    limit_mb = _SHARE_OF_FREE * min(available_mb(), allowed_mb) / n_workers
    if memory_gb is not None:
        limit_mb = 1000 * memory_gb
    if limit_mb < _LEAST_MB:
        raise UsageError(
            f"{n_workers} workers with {limit_mb / 1000:.1f} GB of memory each; a worker needs "
            f"{_LEAST_MB / 1000:g} GB or more: start fewer"
        )
    return int(1e6 * limit_mb)


def visible_gpus(indices: tuple[int, ...]) -> tuple[str, ...]:
    """Return names for `CUDA_VISIBLE_DEVICES` of the GPUs that torch counts 0, 1, ….

    A job of a queue sees only some of a machine's GPUs; that variable then names them, by
    number or otherwise, and torch counts what it names.
    """
    said = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in said.split(",") if name.strip()]
    return tuple(names[index] if names else str(index) for index in indices)
