"""Tiles on Dask workers: a local cluster, or any client's."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from wsiseg.errors import MissingDependency, UsageError
from wsiseg.predict import TileJob, TileProcessor, TileReport
from wsiseg.records import Tile
from wsiseg.runners import batches_of

if TYPE_CHECKING:
    from distributed import Client

_TASKS_PER_THREAD = 3


@dataclass(frozen=True, slots=True)
class RunOnDask:
    """Run tiles as tasks of a Dask client; few tasks are alive at any time."""

    client: Client

    def __call__(self, job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        """Yield reports as tasks finish, in any order."""
        distributed = _import_distributed()
        packed = pickle.dumps(job)
        batches = iter(batches_of(tiles, job.numerics.batch_size))
        threads = check_workers(self.client)
        # A task's name must be new in each run: Dask would hand out an old result.
        name = f"wsiseg-{hashlib.sha256(packed).hexdigest()[:12]}-{id(tiles):x}"

        def submit(batch: Sequence[Tile]) -> Any:
            key = f"{name}-{batch[0].row}-{batch[0].col}"
            return self.client.submit(run_batch, packed, batch, key=key, pure=False)

        first = [submit(batch) for batch in islice(batches, threads * _TASKS_PER_THREAD)]
        running = distributed.as_completed(first)
        for task in running:
            reports: list[TileReport] = task.result()
            task.release()
            for batch in batches:
                running.add(submit(batch))
                break
            yield from reports


def check_workers(client: Client) -> int:
    """Return how many threads the workers have.

    Raises
    ------
    UsageError
        If there are no workers.
    """
    threads = sum(client.nthreads().values())  # type: ignore[no-untyped-call]
    if not threads:
        raise UsageError(
            "the Dask cluster has no workers; start some, or wait for them with "
            "client.wait_for_workers(1)"
        )
    return int(threads)


def check_worker_count(workers: int) -> None:
    """Raise UsageError unless there is at least one."""
    if workers < 1:
        raise UsageError(f"{workers} workers; 1 or more are needed")


def run_batch(packed: bytes, tiles: Sequence[Tile]) -> list[TileReport]:
    """Run a batch of tiles in this worker; the task."""
    return _processor(packed).run(tiles)


@functools.lru_cache(maxsize=2)
def _processor(packed: bytes) -> TileProcessor:
    """Load a job once per process.  The bytes come from our own client."""
    return TileProcessor(pickle.loads(packed))  # noqa: S301


@contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """Start a Dask cluster of spawned one-thread processes on this machine.

    Raises
    ------
    UsageError
        If called while a worker process is being started: the script lacks a main guard.
    MissingDependency
        If Dask is not installed.
    """
    check_worker_count(workers)
    if multiprocessing.parent_process() is not None:
        raise UsageError(
            "a worker process ran the script that started it; put the call of segment(workers=…) "
            "under: if __name__ == '__main__':"
        )
    distributed = _import_distributed()
    import dask  # ours is an extra

    settings = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.worker.daemon": False,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            # Any free port: the default one may be taken by another cluster.
            dashboard_address=":0",
            memory_limit=0,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingDependency(
            "workers and clients need Dask: pip install 'wsiseg[cluster]'"
        ) from error
    return distributed
