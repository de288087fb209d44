"""The dispatcher of tasks, with a cluster that is pretended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from wsiseg.cluster import ClusterNeeds, dispatch
from wsiseg.cluster.dispatch import Dispatcher, Work
from wsiseg.cluster.tasks import WorkerUnfit


class PretendedFuture:
    """A task on its way."""

    def __init__(self) -> None:
        self.status = "pending"
        self._told: list[Callable[[Any], None]] = []
        self._what: Any = None

    def add_done_callback(self, told: Callable[[Any], None]) -> None:
        self._told.append(told)

    def exception(self) -> Any:
        return self._what

    def result(self, timeout: float | None = None) -> Any:
        return self._what

    def end(self, status: str, what: Any) -> None:
        self.status, self._what = status, what
        for told in self._told:
            told(self)


class PretendedClient:
    """A cluster whose workers are unfit, until all but one are gone."""

    status = "running"

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.is_fit = False
        self.futures: list[PretendedFuture] = []

    def nthreads(self) -> dict[int, int]:
        return dict.fromkeys(range(self.n_threads), 1)

    def retire_workers(self, *args: Any, **options: Any) -> None:
        pass

    def submit(self, *args: Any, **options: Any) -> PretendedFuture:
        future = PretendedFuture()
        self.futures.append(future)
        if self.is_fit:
            threading.Timer(0.001, lambda: future.end("finished", "done")).start()
        return future


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.01)
    assert condition()


def test_tasks_that_unfit_workers_gave_back_are_run_by_the_one_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are more than one worker may have alive."""
    monkeypatch.setattr(dispatch, "_TICK_S", 0.02)
    monkeypatch.setattr(dispatch, "_LOOK_S", 0.02)
    client: Any = PretendedClient(11)
    dispatcher = Dispatcher(client, ClusterNeeds(), 0, None)
    results: list[Any] = []

    def consume() -> None:
        works = (Work(b"", "tiles", "a") for _ in range(100))
        results.extend(result for _, result in dispatcher.results(works))

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    wait_until(lambda: len(client.futures) == 33)
    client.n_threads = 1
    wait_until(lambda: dispatcher.most_tasks == 3)
    client.is_fit = True
    for future in list(client.futures):
        future.end("error", WorkerUnfit("tcp://x", "host", ("it is of another version",)))
    thread.join(timeout=20)
    dispatcher.stop()
    assert results == ["done"] * 100
