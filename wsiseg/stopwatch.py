"""Seconds by stage, also where stages run in several threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Adds up what stages took.

    A stage within another one of the same thread counts for itself alone.  Stages of several
    threads add up, so a stage may be busy for longer than the clock runs.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._inner = threading.local()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in the order the stages first ended."""
        with self._lock:
            return dict(self._seconds)

    def add(self, name: str, seconds: float) -> None:
        """Add what was measured elsewhere."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage; do not yield in there."""
        outer = getattr(self._inner, "seconds", 0.0)
        self._inner.seconds = 0.0
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.add(name, spent - self._inner.seconds)
            self._inner.seconds = outer + spent

    def timed(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items; the time each takes to come counts for a stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
