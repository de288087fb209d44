"""A Dask scheduler and workers started by hand, as on nodes of a cluster."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from batch_calls import Call, start

STARTING_S = 60.0
WATCH_S = 1.0


@dataclass
class Cluster:
    """The processes; each may be killed and started again."""

    folder: Path
    environ: Mapping[str, str]
    n_workers: int
    port: int = 0
    scheduler: Call | None = None
    workers: list[Call] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self) -> None:
        """Start the scheduler, always at the same address, and wait until it listens."""
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        # A port that was in use a moment ago may be refused for a while.
        for _ in range(60):
            self.scheduler = self._start("scheduler", words)
            if self._listens(self.scheduler):
                return
            time.sleep(1)
        raise SystemExit(f"the scheduler does not start; see {self.folder}")

    def start_worker(self, number: int) -> Call:
        """Start a worker of one thread, as a job on a node would, and without a nanny."""
        words = [self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        words += ["--memory-limit", "0", "--death-timeout", "60"]
        words += ["--local-directory", str(self.folder / f"worker-{number}")]
        return self._start("worker", words)

    def start_all(self) -> None:
        self.port = self.port or free_port()
        self.start_scheduler()
        self.workers = [self.start_worker(number) for number in range(self.n_workers)]

    def mend(self) -> None:
        """Start whatever is not there any more, as a user would."""
        if self.scheduler is None or self.scheduler.process.poll() is not None:
            self._see_workers_end()
            self.start_scheduler()
        for number, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                self.workers[number] = self.start_worker(number)

    def _see_workers_end(self) -> None:
        """Wait for workers to notice that their scheduler died; their jobs would end so."""
        until = time.monotonic() + STARTING_S
        for worker in self.workers:
            while worker.process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            if worker.process.poll() is None:
                worker.kill()
                worker.process.wait()

    def stop(self) -> None:
        for call in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            if call.process.poll() is None:
                call.kill()
                call.process.wait()

    def _start(self, kind: str, words: list[str]) -> Call:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        return start(command, self.folder / f"{kind}.txt", self.environ)

    def _listens(self, call: Call) -> bool:
        until = time.monotonic() + STARTING_S
        while time.monotonic() < until and call.process.poll() is None:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.1)
        return False


@contextmanager
def cluster_by_hand(folder: Path, environ: Mapping[str, str], n_workers: int) -> Iterator[Cluster]:
    folder.mkdir(parents=True, exist_ok=True)
    # One thread each for every maths library, as for any worker of one core.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    cluster = Cluster(folder, {**environ, **dict.fromkeys(names, "1")}, n_workers)
    try:
        cluster.start_all()
        yield cluster
    finally:
        cluster.stop()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Threads:
    """What the threads of a process have used."""

    n_threads: int
    n_busy: int
    """Those with at least a tenth of the process's CPU time."""
    cpu_s: float
    busiest_share: float
    """Of the process's CPU time."""


def threads_of(process: int) -> Threads:
    """Return the threads of a living process, with what the kernel has counted for each."""
    ticks = os.sysconf("SC_CLK_TCK")
    spent = []
    for task in Path(f"/proc/{process}/task").iterdir():
        # The name in brackets may hold blanks.
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        spent.append((int(fields[11]) + int(fields[12])) / ticks)
    total = sum(spent)
    busy = sum(seconds >= total / 10 for seconds in spent)
    return Threads(len(spent), busy, total, max(spent) / total if total else 0.0)


class Watch:
    """Looks at processes once a second, from a thread of its own."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(number) for name, number in processes.items()}
        self.rss_mb: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
        self.cores_used: dict[str, list[float]] = {name: [] for name in processes}
        self.cpu_s: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def growth_mb(self, name: str, after_s: float) -> float:
        """Return how much more the largest is than what it was after some seconds."""
        seen = self.rss_mb[name]
        if not seen:
            return float("nan")
        first = next((mb for at_s, mb in seen if at_s >= after_s), seen[-1][1])
        return max(mb for _, mb in seen) - first

    def _look(self) -> None:
        while not self._stop.wait(WATCH_S):
            for name, process in self._processes.items():
                try:
                    mb = process.memory_info().rss / 1e6
                    share = process.cpu_percent() / 100
                    spent = process.cpu_times()
                except psutil.Error:
                    continue
                self.rss_mb[name].append((time.monotonic() - self._began, mb))
                self.cores_used[name].append(share)
                self.cpu_s[name].append((self.rss_mb[name][-1][0], spent.user + spent.system))
