"""The order in which the shards of a pyramid are made: each as soon as those it stands on are.

A shard is always made by one task, since two writers in one zarr shard are unsafe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, Frame

MakeShard = Callable[[int, Box], bool]
"""Makes the shard of a level that covers a box; the finest level is 0, the others are made
from the level before.  Says whether anything is in it: on blanks alone nothing stands."""


class Stopped(Exception):
    """What is made is not wanted any more; ends threads, and is shown to nobody."""


class Tasks:
    """Tasks in a pool of threads that may add others.

    Parameters
    ----------
    threads
        How many run at a time.
    name
        What the threads are called.
    stopped
        When set, no further task begins, and `check` and `wait` raise `Stopped`.
    """

    def __init__(self, threads: int, name: str, stopped: Event) -> None:
        self._stopped = stopped
        self._pool = ThreadPoolExecutor(threads, name)
        self._started: deque[Future[None]] = deque()

    def add(self, task: Callable[[], None]) -> None:
        """Run a task as soon as a thread is free."""
        self._started.append(self._pool.submit(self._run, task))

    def _run(self, task: Callable[[], None]) -> None:
        if self._stopped.is_set():
            raise Stopped("what is made is not wanted any more")
        task()

    def check(self) -> None:
        """Raise the error of a task that has failed, of the first that is looked at."""
        while self._started and self._started[0].done():
            self._started.popleft().result()

    def wait(self) -> None:
        """Return when all tasks are done, those they add included; raise the first error."""
        # A task adds others before it is done, so none is missed.
        while self._started:
            self._started.popleft().result()

    def stop(self) -> None:
        """Start no further task; return when none runs any more."""
        self._pool.shutdown(cancel_futures=True)


class Pyramid:
    """Makes all shards of the levels of one image.

    Parameters
    ----------
    frames
        One per level, each of half the size of the one before.
    side_px
        Side of a shard, the same on all levels.
    make
        Makes one; called from the threads of `tasks`.
    tasks
        Where they are made.
    """

    def __init__(
        self, frames: Sequence[Frame], side_px: int, make: MakeShard, tasks: Tasks
    ) -> None:
        self._frames = frames
        self._side_px = side_px
        self._make = make
        self._tasks = tasks
        self._lock = Lock()
        self._next_row = 0
        shapes = [(-(-f.height_px // side_px), -(-f.width_px // side_px)) for f in frames]
        finer = [(0, 0), *shapes]
        self._unmade = [_children(shape, of) for shape, of in zip(shapes, finer, strict=False)]
        """Per level and shard: how many of those it stands on are not made yet."""
        self._is_blank = [np.ones(shape, np.bool_) for shape in shapes]
        """Per level and shard: whether all of those it stands on were blank so far."""

    def start_above(self, y_px: int) -> None:
        """Start the finest shards that end at or above a row, and were not started yet."""
        rows, cols = self._is_blank[0].shape
        bottom_px = self._frames[0].height_px
        while (
            self._next_row < rows and min((self._next_row + 1) * self._side_px, bottom_px) <= y_px
        ):
            for col in range(cols):
                self._start(0, self._next_row, col)
            self._next_row += 1

    def _start(self, level: int, row: int, col: int) -> None:
        self._tasks.add(lambda: self._run(level, row, col))

    def _run(self, level: int, row: int, col: int) -> None:
        """Make one shard, or find that it is blank, and start what waited for it alone."""
        side_px = self._side_px
        box = Box(col * side_px, row * side_px, side_px, side_px)
        blank = level > 0 and bool(self._is_blank[level][row, col])
        is_filled = not blank and self._make(level, box.intersection(self._frames[level].box))
        if level + 1 == len(self._frames):
            return
        with self._lock:
            above = (row // 2, col // 2)
            if is_filled:
                self._is_blank[level + 1][above] = False
            self._unmade[level + 1][above] -= 1
            is_ready = self._unmade[level + 1][above] == 0
        if is_ready:
            self._start(level + 1, *above)


def _children(shape: tuple[int, int], finer: tuple[int, int]) -> NDArray[np.int8]:
    """Return how many shards of the finer level each stands on."""
    rows, cols = (
        np.minimum(2 * np.arange(n) + 2, n_finer) - 2 * np.arange(n)
        for n, n_finer in zip(shape, finer, strict=True)
    )
    return np.asarray(np.outer(rows, cols), np.int8)
