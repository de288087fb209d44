"""A second counts for one stage, and threads add up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsiseg import stopwatch
from wsiseg.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless it is moved."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_a_stage_within_another_counts_for_itself_alone(clock: list[float]) -> None:
    watch = Stopwatch()
    with watch.stage("outer"):
        clock[0] += 1
        with watch.stage("inner"):
            clock[0] += 10
            with watch.stage("innermost"):
                clock[0] += 100
        clock[0] += 2
        with watch.stage("inner"):
            clock[0] += 20
    with watch.stage("outer"):
        clock[0] += 4
    assert watch.seconds == {"innermost": 100, "inner": 30, "outer": 7}


def test_a_stage_that_fails_counts_too(clock: list[float]) -> None:
    def fail() -> None:
        with watch.stage("a"):
            clock[0] += 3
            raise KeyError("stop")

    watch = Stopwatch()
    with pytest.raises(KeyError):
        fail()
    assert watch.seconds == {"a": 3}


def test_waiting_for_items_counts_and_working_on_them_does_not(clock: list[float]) -> None:
    def source() -> Iterator[int]:
        for item in range(3):
            with watch.stage("reading"):
                clock[0] += 5
            clock[0] += 1
            yield item

    watch = Stopwatch()
    for _ in watch.timed("making", source()):
        clock[0] += 50
    assert watch.seconds == {"reading": 15, "making": 3}


def test_threads_add_up() -> None:
    watch = Stopwatch()

    def work(_: int) -> None:
        with watch.stage("work"):
            time.sleep(0.05)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert watch.seconds["work"] >= 0.2
    watch.add("work", 1.0)
    assert watch.seconds["work"] >= 1.2
