"""A client of the cluster that was named."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wsiseg.cluster.checks import threads_of
from wsiseg.cluster.jobqueue import expected_threads, queue_client, read_queue
from wsiseg.cluster.local import local_client
from wsiseg.cluster.options import ClusterOptions, queue_file
from wsiseg.cluster.packages import import_distributed
from wsiseg.errors import UsageError
from wsiseg.models.device import parse_device

if TYPE_CHECKING:
    from distributed import Client

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done, steps in all."""
log = logging.getLogger("wsiseg")
_CONNECT_S = 20
_PAUSE_S = 2.0
_REMIND_S = 60.0
WITHOUT_WORKERS_S = 600.0
"""So long a cluster that no queue fills may be without any worker."""


@contextmanager
def cluster_client(where: ClusterOptions, progress: Progress | None = None) -> Iterator[Client]:
    """Start or find the workers that were named, and let go of them at the end.

    Parameters
    ----------
    where : ClusterOptions
        Which workers.
    progress : callable, optional
        Told how many worker threads there are, of how many, while a queue is waited for.

    Raises
    ------
    UsageError
        If there is no such scheduler, the file cannot be used, or the script lacks a main
        guard.
    MissingDependency
        If a package is not installed.
    """
    if where.cluster is None:
        with local_client(where) as client:
            yield client
    elif (path := queue_file(where.cluster)) is None:
        with _remote_client(where.cluster) as client:
            yield client
    else:
        queue = read_queue(path)
        with queue_client(queue) as client:
            wait_in_queue(client, expected_threads(queue), progress)
            yield client


@contextmanager
def _remote_client(address: str) -> Iterator[Client]:
    distributed = import_distributed()
    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    # Each kind of address fails in its own way, if it is wrong or nobody answers.
    except (OSError, ValueError, TypeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"no Dask scheduler answers at {address} ({said}); start one with `dask scheduler`, "
            "and give the address that it prints"
        ) from error
    with client:
        yield client


def wait_in_queue(client: Client, n_threads: int, progress: Progress | None) -> None:
    """Wait until the first worker runs, however long that takes, and say so now and then."""
    tell = progress or _say_nothing
    start_s = said_s = time.monotonic()
    tell("workers", 0, n_threads)
    while not (running := threads_of(client)):
        time.sleep(_PAUSE_S)
        if time.monotonic() - said_s > _REMIND_S:
            said_s = time.monotonic()
            log.info("waiting in the queue for %.0f min, no worker yet", (said_s - start_s) / 60)
            tell("workers", 0, n_threads)
    tell("workers", running, n_threads)


def threads_expected(cluster: str | None) -> int:
    """Return how many threads the workers of a queue will have when all run; 0 if not known."""
    path = None if cluster is None else queue_file(cluster)
    return 0 if path is None else expected_threads(read_queue(path))


def without_workers_s(cluster: str | None) -> float | None:
    """Return how long a cluster may be without any worker; None: for ever, as in a queue."""
    if cluster is not None and queue_file(cluster) is not None:
        return None
    return WITHOUT_WORKERS_S


def device_kind(client: Client, device: str) -> str:
    """Return on what kind of device a cluster runs the network: `cpu` or `cuda`.

    Parameters
    ----------
    client : distributed.Client
        Connected to the scheduler.
    device : str
        `auto`: on GPUs if some worker offers the resource GPU; or `cpu`, `cuda`.

    Raises
    ------
    UsageError
        If it is none of them; the numbers of GPUs are the workers' own affair.
    """
    name, gpus = parse_device(device)
    if gpus:
        raise UsageError(
            f"device {device!r} on a cluster; its workers have their own GPUs: leave the numbers "
            "out"
        )
    if name != "auto":
        return name
    return "cuda" if threads_of(client, gpu=True) else "cpu"


def _say_nothing(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
