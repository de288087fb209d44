"""What runs in a worker process."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numba

from wsiseg.cluster.needs import ClusterNeeds, NamedModel, host, named_model, unmet
from wsiseg.cluster.packages import import_distributed
from wsiseg.machine import limit_cores
from wsiseg.models import MapsModel
from wsiseg.models.loaded import LoadedOnce
from wsiseg.predict import TileJob, TileProcessor, TileReport
from wsiseg.records import Tile

_JOBS = 16
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
    """Run a batch of tiles in this process."""
    return _processor(packed).run(tiles)


@functools.lru_cache(maxsize=_JOBS)
def _processor(packed: bytes) -> TileProcessor:
    """Open a job's slide once in a process, and its model once for all jobs."""
    sent = cast("_SentJob", pickle.loads(packed))  # noqa: S301
    model = sent.job.model if sent.named is None else sent.named.load()
    return TileProcessor(replace(sent.job, model=LoadedOnce(model)))


def _be_prepared(packed_needs: bytes) -> None:
    """Settle the number of threads, and look once whether this process has what is needed."""
    with _preparing:
        _settle_threads()
        reasons = _lacks(packed_needs)
    if reasons:
        worker = import_distributed().get_worker()
        raise WorkerUnfit(str(worker.address), host(), reasons)


def _settle_threads() -> None:
    """Let libraries start no threads of their own: tasks run side by side."""
    cv2.setNumThreads(1)
    numba.set_num_threads(1)
    limit_cores(import_distributed().get_worker().state.nthreads)


@functools.lru_cache(maxsize=4)
def _lacks(packed_needs: bytes) -> tuple[str, ...]:
    return tuple(unmet(cast("ClusterNeeds", pickle.loads(packed_needs))))  # noqa: S301
