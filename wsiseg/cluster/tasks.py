"""What runs in a worker process."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2

from wsiseg.cluster.packages import import_distributed
from wsiseg.errors import UsageError
from wsiseg.machine import limit_cores
from wsiseg.models import MapsModel
from wsiseg.models.loaded import LoadedOnce
from wsiseg.predict import TileJob, TileProcessor, TileReport
from wsiseg.records import Tile
from wsiseg.rundir import RunDir, read_finished_report
from wsiseg.worker_needs import (
    PROCESS,
    ClusterNeeds,
    NamedModel,
    host,
    named_model,
    other_models,
    unmet,
)

_JOBS = 8
"""Slides kept open in a process: tiles of several are run in turn."""
_preparing = threading.Lock()


class WorkerUnfit(Exception):
    """A worker lacks what tasks need; others may have it."""

    def __init__(self, address: str, where: str, reasons: tuple[str, ...]) -> None:
        super().__init__(address, where, reasons)
        self.address = address
        self.where = where
        self.reasons = reasons

    def __str__(self) -> str:
        return f"worker {self.address} on {self.where}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class _SentJob:
    """A job on its way: its model by name if it lies in files."""

    job: TileJob
    named: NamedModel | None


def packed_job(job: TileJob) -> bytes:
    """Return what a worker loads a job from."""
    named = named_model(job.model)
    # The model stays behind: its folder is one of this machine.
    sent = job if named is None else replace(job, model=cast("MapsModel", None))
    return pickle.dumps(_SentJob(sent, named))


def packed_call(function: Callable[..., Any], *arguments: Any) -> bytes:
    """Return a call as bytes; also of functions that only this process knows by name."""
    return cast("bytes", import_distributed().protocol.pickle.dumps((function, arguments)))


def run_call(packed_needs: bytes, packed: bytes) -> Any:
    """Make a call in this worker, once it is known to be fit; the task.

    Raises
    ------
    WorkerUnfit
        If this process lacks something.
    """
    _be_prepared(packed_needs)
    # The bytes come from our own client.
    function, arguments = pickle.loads(packed)  # noqa: S301
    return function(*arguments)


def run_batch(packed: bytes, tiles: Sequence[Tile]) -> list[TileReport]:
    """Run a batch of tiles in this process.

    A process that dies takes the reports along that it still has, and Dask runs those tiles
    again: where all their files are there, the reports are in them.  Tiles that an earlier call
    has left out are tried again.
    """
    folder, run_key, processor = _loaded(packed)
    found = [read_finished_report(folder.tile_file(tile), run_key) for tile in tiles]
    there = [report for report in found if report is not None]
    return there if len(there) == len(tiles) else processor.run(tiles)


@functools.lru_cache(maxsize=_JOBS)
def _loaded(packed: bytes) -> tuple[RunDir, str, TileProcessor]:
    """Open a job's slide once in a process, and its model once for all jobs."""
    sent = cast("_SentJob", pickle.loads(packed))  # noqa: S301
    model = sent.job.model if sent.named is None else _same_model(sent.named)
    job = replace(sent.job, model=LoadedOnce(model))
    return RunDir(job.folder), job.run_key, TileProcessor(job)


def _same_model(named: NamedModel) -> MapsModel:
    """Find a model in this process; raise UsageError unless it is the client's."""
    reasons = other_models((named,))
    if reasons:
        raise UsageError(f"worker on {host()}: {'; '.join(reasons)}")
    return named.load()


def _be_prepared(packed_needs: bytes) -> None:
    """Settle the number of threads, and look once whether this process has what is needed."""
    with _preparing:
        is_client, reasons = _looked_at(packed_needs)
        worker = import_distributed().get_worker()
        if not is_client:
            # Tasks run side by side: libraries need no threads of their own.
            cv2.setNumThreads(1)
            limit_cores(worker.state.nthreads)
            _stop_profiling(worker)
    if reasons:
        raise WorkerUnfit(str(worker.address), host(), reasons)


def _stop_profiling(worker: Any) -> None:
    """Stop Dask's profiler in a worker that was started by hand; see `local.WORKER_SETTINGS`."""
    for name in ("profile", "profile-cycle"):
        callback = worker.periodic_callbacks.get(name)
        if callback is not None:
            worker.loop.add_callback(callback.stop)


@functools.lru_cache(maxsize=4)
def _looked_at(packed_needs: bytes) -> tuple[bool, tuple[str, ...]]:
    """Return whether this is the client's own process, and what it lacks."""
    needs = cast("ClusterNeeds", pickle.loads(packed_needs))  # noqa: S301
    return needs.process == PROCESS, tuple(unmet(needs))
