"""One call of the command line, as `chaos.py` makes them: with a stand-in and a failing disk.

    python benchmarks/chaos_call.py '{"arguments": ["segment", …], …}'
    python benchmarks/chaos_call.py            # a call per line of standard input

A line of JSON on standard output answers each.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg import cli, many, model_choice
from wsiseg.models import ModelCard, load_model
from wsiseg.testing.models import LocalNetwork

WRITES, SYNCS, NAMES, REMOVALS = 1, 2, 4, 8
"""Kinds of calls that a failing disk refuses, as in `failing_disk.c`."""


class Disk(Protocol):
    """What lets changes below a folder fail from the n-th on."""

    def arm(self, folder: str, failing_from: int, error_number: int, kinds: int) -> None: ...

    def seen(self) -> int: ...


class CompiledDisk:
    """The preloaded library: every call of every library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.disk_seen.restype = ctypes.c_long

    def arm(self, folder: str, failing_from: int, error_number: int, kinds: int) -> None:
        arguments = (folder.encode(), ctypes.c_long(failing_from), error_number, kinds)
        self._library.disk_arm(*arguments)

    def seen(self) -> int:
        return int(self._library.disk_seen())


class PythonDisk:
    """Where there is no compiler: what Python itself opens, makes, renames and makes safe."""

    def __init__(self) -> None:
        self._folder, self._from, self._error, self._kinds, self._seen = "", -1, 0, 0, 0
        self._counting = threading.Lock()
        sys.addaudithook(self._look)
        fsync = os.fsync

        def watched(file: int) -> None:
            path = Path(f"/proc/self/fd/{file}")
            self._count(str(path.readlink()) if path.is_symlink() else self._folder, SYNCS)
            fsync(file)

        os.fsync = watched

    def arm(self, folder: str, failing_from: int, error_number: int, kinds: int) -> None:
        self._folder, self._from, self._error = folder, failing_from, error_number
        self._kinds, self._seen = kinds, 0

    def seen(self) -> int:
        return self._seen

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._folder:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            makes = os.O_CREAT | os.O_TRUNC
            if self._kinds & REMOVALS:
                makes |= os.O_WRONLY | os.O_RDWR
            if arguments[2] & makes:
                self._count(os.fsdecode(arguments[0]), NAMES)
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            kind = NAMES if event == "os.mkdir" else REMOVALS
            self._count(os.fsdecode(arguments[0]), kind)
        elif event in ("os.rename", "os.link", "os.symlink"):
            self._count(os.fsdecode(arguments[1]), NAMES)

    def _count(self, path: str, kind: int) -> None:
        below = path == self._folder or path.startswith(f"{self._folder}/")
        if not (below and kind & self._kinds):
            return
        with self._counting:
            number = self._seen
            self._seen += 1
        if 0 <= self._from <= number:
            raise OSError(self._error, os.strerror(self._error))


@dataclass(frozen=True)
class Watched:
    """A model that waits, and writes down every block it is given."""

    model: Any
    pause_s: float
    record: str | None

    @property
    def card(self) -> ModelCard:
        return self.model.card

    def predictor(self, numerics: Any) -> Callable[[NDArray[np.uint8]], Sequence[Any]]:
        predict = self.model.predictor(numerics)

        def watched(rgb: NDArray[np.uint8]) -> Sequence[Any]:
            time.sleep(self.pause_s)
            if self.record:
                names = (hashlib.sha256(block.tobytes()).hexdigest() for block in rgb)
                lines = "".join(f"{name}\n" for name in names).encode()
                # One short write at the end of a file is whole, whoever else writes.
                file = os.open(self.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(file, lines)
                os.close(file)
            return predict(rgb)

        return watched


def call(job: dict[str, Any], disk: Disk) -> dict[str, Any]:
    """Run a command as a process of its own would, and tell how it ended."""
    name = job["model"]
    stand_in = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)
    model = Watched(
        stand_in if name is None else load_model(name), job["pause_s"], job.get("record")
    )
    model_choice.load_model = many.load_model = lambda _: model
    failing = job.get("disk")
    time.sleep(job.get("delay_s", 0.0))
    said = io.StringIO()
    sys.argv = ["wsiseg", *job["arguments"], "--model", "given"]
    if failing:
        disk.arm(failing["folder"], failing["from"], failing["errno"], failing["kinds"])
    start = time.perf_counter()
    code: Any = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:  # noqa: BLE001 - any other end is what is looked for
            import traceback

            traceback.print_exception(error)
            code = 1
    seen = disk.seen() if failing else 0
    disk.arm("", -1, 0, 0)
    seconds = time.perf_counter() - start
    return {"code": code, "said": said.getvalue(), "seen": seen, "seconds": seconds}


def main() -> None:
    compiled = "failing_disk" in os.environ.get("LD_PRELOAD", "")
    disk: Disk = CompiledDisk() if compiled else PythonDisk()
    answers = os.fdopen(os.dup(1), "w")
    jobs = sys.argv[1:] or iter(sys.stdin.readline, "")
    for line in jobs:
        print(json.dumps(call(json.loads(line), disk)), file=answers, flush=True)


if __name__ == "__main__":
    main()
