"""What tests run in worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch

from wsiseg.errors import SlideNotReadable
from wsiseg.machine import cores

THREAD_NUMBERS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"),
)


def threads_here(_: object) -> dict[str, Any]:
    """Return how many threads each library would use in this process."""
    found: dict[str, Any] = {name: os.environ.get(name) for name in THREAD_NUMBERS}
    return found | {"cv2": cv2.getNumThreads(), "cores": cores(), "torch": torch.get_num_threads()}


def process_and_gpu(pause_s: float) -> tuple[int, str | None]:
    """Return which process this is, and which GPU it sees."""
    time.sleep(pause_s)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def refuse(name: str) -> None:
    """Fail as a slide does."""
    raise SlideNotReadable(f"{name}: is empty")


def noted(argument: tuple[Path, str, float]) -> str:
    """Append a name to a file, in the order of calls."""
    path, name, pause_s = argument
    with path.open("a") as file:
        file.write(f"{name}\n")
    time.sleep(pause_s)
    return name


def seconds_by_thread(work_s: float) -> list[float]:
    """Keep OpenCV, numpy and torch busy; return the CPU seconds of each thread of this process."""
    before = _cpu_seconds()
    picture = np.zeros((1000, 1000), np.float32)
    tensor = torch.from_numpy(picture)
    for call in (
        lambda: cv2.GaussianBlur(picture, (0, 0), 5),
        lambda: picture @ picture,
        lambda: tensor @ tensor,
    ):
        until_s = time.process_time() + work_s
        while time.process_time() < until_s:
            call()
    return [seconds - before.get(thread, 0.0) for thread, seconds in _cpu_seconds().items()]


def _cpu_seconds() -> dict[int, float]:
    threads = psutil.Process().threads()
    return {thread.id: thread.user_time + thread.system_time for thread in threads}


def end_process(_: object) -> None:
    """End this process, as a broken library does."""
    os.kill(os.getpid(), signal.SIGKILL)
