"""What SIGTERM, SIGUSR1 and Ctrl-C do to a command: it ends soon, and can be called again."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from wsiseg.machine import process_tree

HARD_END_S = 25.0
"""A command that has not ended so long after the first signal is ended, with all below it."""
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Schedulers send one of the last two before a job's time is up."""


@contextmanager
def ended_by_signals(code: int) -> Iterator[Callable[[], bool]]:
    """Let the first signal raise KeyboardInterrupt; later ones change nothing.

    Whatever is in flight then has `HARD_END_S` to finish or be dropped.  Files appear whole, so
    the hard end after that costs no more than the work in flight.

    Parameters
    ----------
    code : int
        Exit code of the hard end.

    Yields
    ------
    callable
        Says whether a signal has come.
    """
    came = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if came.is_set():
            return
        came.set()
        watchdog = threading.Timer(HARD_END_S, _end_hard, (code,))
        watchdog.daemon = True
        watchdog.start()
        raise KeyboardInterrupt(f"interrupted by {signal.Signals(number).name}")

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield came.is_set
    finally:
        for number, old in before.items():
            # When Python ends it gives up its handlers, but leaves ignored what is ignored.
            signal.signal(number, signal.SIG_IGN if came.is_set() else old)


def _end_hard(code: int) -> None:
    """End this process and all below it."""
    with suppress(OSError):
        os.write(2, b"what was in flight did not end in time and is dropped; call again\n")
    if sys.platform == "linux":
        for process in process_tree(os.getpid()):
            if process != os.getpid():
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
    os._exit(code)
