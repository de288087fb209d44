"""What SIGTERM, SIGUSR1 and Ctrl-C do to a command: it ends soon, and can be called again."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from wsiseg.machine import process_tree

INTERRUPTED = 75
"""Exit code of a command that a signal ended: the same command continues (EX_TEMPFAIL)."""
HARD_END_S = 25.0
"""A command that has not ended so long after the first signal is ended, with all below it."""
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Schedulers send one of the last two before a job's time is up."""
_NUMBERS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_RETRY_S = 0.05
_LONGEST_IMPORT_S = 10.0
_IMPORTING = "<frozen importlib"
_NOISY = ("distributed", "tornado", "asyncio")
"""Packages that log each connection which a signal cuts."""

_at_work = threading.Event()


def end_at_once_on_signals() -> None:
    """Let a signal end this process at once, with `INTERRUPTED`: for a command that starts.

    Nothing is lost then, whereas KeyboardInterrupt in the middle of an import may be swallowed,
    or turned into another error.
    """
    for number in _NUMBERS:
        signal.signal(number, _end_at_once)


def work_begins() -> None:
    """Say that from now on a signal must let go of what is in flight, not end all at once."""
    _at_work.set()


@contextmanager
def ended_by_signals() -> Iterator[Callable[[], bool]]:
    """Let the first signal end the command; later ones change nothing.

    Before `work_begins` it ends at once.  After that KeyboardInterrupt is raised, and whatever is
    in flight has `HARD_END_S` to finish or be dropped.  Files appear whole, so the hard end after
    that costs no more than the work in flight.

    Yields
    ------
    callable
        Says whether a signal has come.
    """
    _at_work.clear()
    ending = _Ending()
    hook = sys.unraisablehook

    def unraisable(found: sys.UnraisableHookArgs) -> None:
        if not ending.came:
            hook(found)
        elif found.exc_type is KeyboardInterrupt:
            ending.raise_again()

    before = {number: signal.signal(number, ending) for number in _NUMBERS}
    sys.unraisablehook = unraisable
    try:
        yield lambda: ending.came
    finally:
        for number, old in before.items():
            # When Python ends it gives up its handlers, but leaves ignored what is ignored.
            signal.signal(number, signal.SIG_IGN if ending.came else old)
        if not ending.came:
            sys.unraisablehook = hook


@contextmanager
def noted_signals() -> Iterator[Callable[[], bool]]:
    """Only take note of signals, for work that looks now and then whether it should stop.

    What is in the middle of changing something, as the step of a training, can so finish it.  It
    has `HARD_END_S` to look; after that the process is ended with all below it.

    Yields
    ------
    callable
        Says whether a signal has come.
    """
    ends: list[threading.Timer] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not ends:
            ends.append(_later(HARD_END_S, _end_hard))

    before = {number: signal.signal(number, note) for number in _NUMBERS}
    try:
        yield lambda: bool(ends)
    finally:
        for end in ends:
            end.cancel()
        for number, old in before.items():
            signal.signal(number, old)


class _Ending:
    """What a signal sets off, when there is work in flight."""

    def __init__(self) -> None:
        self.came = False
        self._number = signal.SIGINT
        self._is_raised = False
        self._first_s = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt once, where it is not swallowed."""
        if not _at_work.is_set():
            _end_at_once(number, frame)
        if not self.came:
            self.came = True
            self._number, self._first_s = signal.Signals(number), time.monotonic()
            _silence()
            _later(HARD_END_S, _end_hard)
        if self._is_raised:
            return
        waited_s = time.monotonic() - self._first_s
        if _is_importing(frame) and waited_s < _LONGEST_IMPORT_S:
            _later(_RETRY_S, self._send_again)
            return
        self._is_raised = True
        raise KeyboardInterrupt(f"interrupted by {self._number.name}")

    def raise_again(self) -> None:
        """Do it again, because Python had to ignore it, as in `__del__`."""
        self._is_raised = False
        _later(_RETRY_S, self._send_again)

    def _send_again(self) -> None:
        if hasattr(signal, "pthread_kill"):
            # To the main thread itself, so that it wakes if it waits.
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)
        else:
            _thread.interrupt_main(self._number)


def _later(seconds: float, call: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether an import is under way: it would be left half done, or swallow what is raised.

    C code of some packages turns any exception into an ImportError, and prints the first.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORTING):
            return True
        frame = frame.f_back
    return False


def _silence() -> None:
    """Stop what other packages say of work that is cut short: that is as it should be."""
    import logging  # not before the signals are settled

    warnings.simplefilter("ignore")
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _NOISY:
            logging.getLogger(name).disabled = True


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    """End this process: it has not begun its work."""
    name = signal.Signals(number).name
    with suppress(OSError):
        os.write(2, f"interrupted by {name}; call the same command again\n".encode())
    os._exit(INTERRUPTED)


def _end_hard() -> None:
    """End this process and all below it."""
    with suppress(OSError):
        os.write(2, b"what was in flight did not end in time and is dropped; call again\n")
    if sys.platform == "linux":
        for process in process_tree(os.getpid()):
            if process != os.getpid():
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
    os._exit(INTERRUPTED)
