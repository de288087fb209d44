"""Whether a cluster can do what is asked, before anything is asked of it."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsiseg.cluster.local import GPU
from wsiseg.errors import OutputNotWritable, UsageError
from wsiseg.worker_needs import ClusterNeeds, answer, other_versions

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
_PAUSE_S = 0.5
_SHARE_FOR_WAITING = 0.5
"""Of the time for all checks, this much may pass until there is a worker."""
_MOST_SHOWN = 3


def check_cluster(client: Client, needs: ClusterNeeds, timeout_s: float = 30) -> None:
    """Refuse a cluster that could not run the tasks; every worker there is now is asked.

    Parameters
    ----------
    client : distributed.Client
        Connected to the scheduler.
    needs : ClusterNeeds
        What tasks need of a worker.
    timeout_s : float
        All checks together take no longer.

    Raises
    ------
    UsageError
        If there is no worker, none offers the resource GPU, one has other versions or another
        model, does not see the slides, or does not share the output folder.
    OutputNotWritable
        If the output folder cannot be written here.
    """
    until_s = time.monotonic() + timeout_s
    _check_scheduler(client, needs)
    wait_for_workers(client, needs.gpu, _SHARE_FOR_WAITING * timeout_s)
    with _probe_folder(needs.out) as probe:
        answers = _within(
            until_s - time.monotonic(), lambda: client.run(answer, needs, probe, on_error="return")
        )
        if answers is None:
            raise UsageError(
                f"the workers of the Dask cluster did not answer within {timeout_s:g} s; see "
                "whether they are overloaded or stopped, and start them again"
            )
        problems = list(_problems(answers))
        if probe is not None and not problems:
            problems = list(_unseen_answers(answers, probe, until_s))
    if problems:
        more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
        raise UsageError("; ".join(problems[:_MOST_SHOWN]) + more)


def _check_scheduler(client: Client, needs: ClusterNeeds) -> None:
    """Raise UsageError unless the scheduler can load what it passes on to workers."""
    try:
        lacking: list[str] = client.run_on_scheduler(  # type: ignore[no-untyped-call]
            other_versions, needs.versions
        )
    # What cannot be imported there is raised here.
    except (ImportError, AttributeError) as error:
        lacking = [f"it cannot load wsiseg ({error}): start it from the environment of this call"]
    if lacking:
        raise UsageError(f"scheduler {client_address(client)}: {'; '.join(lacking)}")


def client_address(client: Client) -> str:
    """Return the address of a client's scheduler."""
    return str(client.scheduler_info(n_workers=0)["address"])


def check_workers(client: Client) -> int:
    """Return how many threads the workers have.

    Raises
    ------
    UsageError
        If there are no workers.
    """
    threads = threads_of(client)
    if not threads:
        raise UsageError(_no_workers(client, gpu=False))
    return threads


def threads_of(client: Client, gpu: bool = False) -> int:
    """Return how many threads the workers have; of those with a GPU alone, if that is asked."""
    if not gpu:
        return int(sum(client.nthreads().values()))  # type: ignore[no-untyped-call]
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return int(
        sum(worker["nthreads"] for worker in workers.values() if worker["resources"].get(GPU))
    )


def wait_for_workers(client: Client, gpu: bool, timeout_s: float) -> None:
    """Return as soon as there is a worker; one with the resource GPU, if that is asked.

    Raises
    ------
    UsageError
        If none comes in time; says how to start one.
    """
    until_s = time.monotonic() + timeout_s
    while not threads_of(client, gpu):
        if time.monotonic() >= until_s:
            raise UsageError(_no_workers(client, gpu and threads_of(client) > 0))
        time.sleep(_PAUSE_S)


def start_command(address: str, gpu: bool) -> str:
    """Return the command that starts workers by hand."""
    if gpu:
        return (
            f"CUDA_VISIBLE_DEVICES=0 dask worker {address} --nworkers 1 --nthreads 4 "
            f"--resources {GPU}=1"
        )
    return f"dask worker {address} --nthreads 1 --nworkers N"


def _no_workers(client: Client, gpu: bool) -> str:
    address = client_address(client)
    if gpu:
        return (
            f"no worker of the Dask cluster offers the resource {GPU}, which device cuda needs; "
            f"start one for each GPU: {start_command(address, gpu=True)}; or use --device cpu"
        )
    return (
        "the Dask cluster has no workers; start some, N being the number of cores: "
        f"{start_command(address, gpu=False)}"
    )


def _problems(answers: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each worker that is of no use."""
    for address, said in answers.items():
        if isinstance(said, BaseException):
            yield (
                f"worker {address} cannot run wsiseg ({type(said).__name__}: "
                f"{' '.join(str(said).split())}): start it from the environment of this call"
            )
            continue
        where, lacking, _ = said
        if lacking:
            yield f"worker {address} on {where}: {'; '.join(lacking)}"


def _unseen_answers(answers: Mapping[str, Any], probe: Path, until_s: float) -> Iterator[str]:
    """Yield a sentence for each worker whose file does not appear here in time."""
    for address, (where, _, name) in answers.items():
        # Network disks show new files late.
        while not (probe / name).is_file():
            if time.monotonic() > until_s:
                yield (
                    f"worker {address} on {where}: what it writes into the output folder does "
                    "not appear here: use a folder on a disk that all machines share"
                )
                break
            time.sleep(_PAUSE_S)


@contextmanager
def _probe_folder(out: Path | None) -> Iterator[Path | None]:
    """Make a folder with one file inside the output folder, and remove it afterwards."""
    if out is None:
        yield None
        return
    probe = out / f".wsiseg-check-{uuid.uuid4().hex}"
    made = not out.exists()
    try:
        probe.mkdir(parents=True)
        (probe / "client").touch()
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write in {out.name} ({error.strerror}); choose a folder you may write to"
        ) from error
    try:
        yield probe
    finally:
        with suppress(OSError):
            for path in list(probe.iterdir()):
                path.unlink()
            probe.rmdir()
            if made:
                out.rmdir()


def _within(timeout_s: float, call: Callable[[], T]) -> T | None:
    """Return what a call returns, None if it takes too long; the call itself goes on."""
    done: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(call())
        # Whatever it is, it is raised where the answer is waited for.
        except BaseException as error:  # noqa: BLE001
            done.put(error)

    threading.Thread(target=run, name="wsiseg-check", daemon=True).start()
    try:
        found = done.get(timeout=max(0.0, timeout_s))
    except queue.Empty:
        return None
    if isinstance(found, BaseException):
        raise found
    return found
