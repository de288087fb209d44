"""Processes that call the command line for `chaos.py`, and what they are given."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wsiseg.testing.painted import paint_tissue

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """What all calls of one trial have in common."""

    slide: Path
    mpp: float | None
    model: str | None
    pause_s: float
    folder: Path
    """For everything that is written."""
    failing_disk: Path | None
    """A library to preload; None without a compiler."""

    def job(self, out: Path, **more: Any) -> dict[str, Any]:
        scale = [] if self.mpp is None else ["--mpp", str(self.mpp)]
        arguments = ["segment", str(self.slide), "-o", str(out), *scale]
        return {"arguments": arguments, "model": self.model, "pause_s": self.pause_s} | more

    def run_directory(self, out: Path) -> Path:
        return out / f"{self.slide.name}.wsiseg"

    def work(self, out: Path) -> Path:
        return self.run_directory(out) / "work"


def painted(folder: Path, height_px: int, width_px: int) -> Path:
    """Paint a slide for the stand-in: 0.5 µm per pixel."""
    path = folder / "painted.png"
    border_px = min(height_px, width_px) // 20
    Image.fromarray(paint_tissue(height_px, width_px, 1500, seed=11, border_px=border_px)).save(
        path
    )
    return path


def compiled_disk(folder: Path) -> Path | None:
    """Compile the failing disk; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "failing_disk.so"
    flags = ["-shared", "-fPIC", "-O2", "-std=gnu11", "-o", str(library)]
    subprocess.run([compiler, *flags, str(HERE / "failing_disk.c"), "-ldl"], check=True)
    return library


def start(job: dict[str, Any] | None, preload: Path | None = None) -> subprocess.Popen[str]:
    """Start a process, the first of its own group: for one job, or for many."""
    arguments = [] if job is None else [json.dumps(job)]
    environment = os.environ | ({} if preload is None else {"LD_PRELOAD": str(preload)})
    return subprocess.Popen(
        [sys.executable, str(HERE / "chaos_call.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if job is not None else None,
        text=True,
        env=environment,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and all it has started, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Caller:
    """A process that makes one call after the other."""

    def __init__(self, preload: Path | None = None) -> None:
        self._preload = preload
        self.process = start(None, preload)

    def ask(self, job: dict[str, Any]) -> None:
        """Start a call."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the end of the call; without an answer the process has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return dict(json.loads(line)) if line else {"code": -9, "said": "", "seen": 0, "seconds": 0}

    def call(self, job: dict[str, Any]) -> dict[str, Any]:
        self.ask(job)
        return self.answer()

    def restart(self) -> None:
        kill(self.process)
        self.process = start(None, self._preload)


@contextmanager
def callers(n: int, preload: Path | None = None) -> Iterator[list[Caller]]:
    """Start processes that make calls, and end them."""
    processes = [Caller(preload) for _ in range(n)]
    try:
        yield processes
    finally:
        for one in processes:
            kill(one.process)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wsiseg-chaos-") as folder:
        yield Path(folder)
