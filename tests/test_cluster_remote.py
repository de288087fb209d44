"""A scheduler and workers that were started by hand, as on machines of a cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cluster_tasks import process_and_gpu

import wsiseg
from wsiseg.cluster import ClusterOptions, SlidesOnDask, check_cluster, cluster_client, needs_of
from wsiseg.cluster.dispatch import Work
from wsiseg.cluster.tasks import packed_call
from wsiseg.errors import Interrupted
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

HERE = Path(__file__).resolve().parent
PATIENCE_S = 90.0


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Dask's commands, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments, "--no-dashboard"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        process.wait(timeout=PATIENCE_S)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def profiler_runs(dask_worker: Any) -> bool:
    """Say, in a worker, whether Dask looks at its stacks."""
    return any(dask_worker.periodic_callbacks[name].is_running() for name in PROFILERS)


PROFILERS = ("profile", "profile-cycle")


def worker(address: str, *more: str) -> list[str]:
    # No nanny, so that ending the command ends the worker.
    return ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", *more]


def test_workers_join_by_hand_and_a_lost_scheduler_is_noticed(tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    where = ClusterOptions(cluster=address)
    slide = ArraySlide(paint_tissue(500, 800, 800, seed=5), 0.5, name="a.png")
    model = LocalNetwork(mpp=0.5)
    here = wsiseg.segment(slide, tmp_path / "here", model=model, formats=())
    scheduler_command = ("distributed.cli.dask_scheduler", "--host", address)
    with (
        started(*scheduler_command) as scheduler,
        started(*worker(address, "--resources", "GPU=1")),
        cluster_client(where) as client,
    ):
        needs = needs_of(tmp_path, device_kind="cuda")
        check_cluster(client, needs, timeout_s=PATIENCE_S)
        there = wsiseg.segment(slide, tmp_path / "there", model=model, formats=(), client=client)
        assert there.cells().equals(here.cells())
        # Dask's profiler can lock a process up for ever; these workers came with it.
        assert set(client.run(profiler_runs).values()) == {False}
        with SlidesOnDask(client, needs) as slides:
            seen: set[int] = set()
            until_s = time.monotonic() + PATIENCE_S

            def works() -> Iterator[Work]:
                """Go on until another worker has come."""
                while len(seen) < 2 and time.monotonic() < until_s:
                    yield Work(packed_call(process_and_gpu, 0.05), "tiles", "a.png")

            with started(*worker(address, "--resources", "GPU=1")) as second:
                for _, (process, _) in slides._dispatcher.results(works()):
                    seen.add(process)
                assert second.pid in seen
            # The second has left; what it had goes to the first.
            (first,) = seen - {second.pid}
            assert slides.run_whole(process_and_gpu, 0, "a.png")[0] == first
            with ThreadPoolExecutor(1) as threads:
                waiting = threads.submit(slides.run_whole, process_and_gpu, 60, "a.png")
                time.sleep(0.5)
                start_s = time.monotonic()
                scheduler.kill()
                with pytest.raises(Interrupted, match=r"scheduler was lost; .* same command"):
                    waiting.result()
                assert time.monotonic() - start_s < 30
    assert not [each for each in threading.enumerate() if each.name == "wsiseg-dispatch"]
