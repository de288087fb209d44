"""What this machine has: cores and memory, and how much of it a run takes."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

MB_PER_PREDICTOR = {"rows": 250, "torch": 1500}
"""Memory that a tile in work needs at most on a CPU, by the backend of the network."""
BASE_MB = 1000
"""Memory of a run on a CPU besides: Python, torch, stitching, measuring, painting."""
RUN_GB = 4.0
"""Memory that a run on a CPU takes at most, unless told otherwise."""
_MOST_PREDICTORS = 64


def cpu_predictors(backend: str, memory_gb: float = RUN_GB) -> int:
    """Return how many tiles to predict at once here: one a core, as memory allows.

    Parameters
    ----------
    backend : str
        What runs the network; see `wsiseg.models.Numerics`.
    memory_gb : float
        What the run may take, if it is free.
    """
    room_mb = min(1000 * memory_gb, available_mb()) - BASE_MB
    return max(1, min(cores(), int(room_mb / MB_PER_PREDICTOR[backend]), _MOST_PREDICTORS))


_most_cores: int | None = None


def cores() -> int:
    """Return how many cores this process may use."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return here if _most_cores is None else min(here, _most_cores)


def limit_cores(n_cores: int) -> None:
    """Let this process count on so many cores at most: others run beside it, one for each."""
    global _most_cores
    _most_cores = max(1, n_cores)


def available_mb() -> int:
    """Return the memory that is free, in MB; a modest guess where it is not known."""
    if sys.platform != "linux":
        return 8000
    with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
        found = dict(line.split(":") for line in lines)
    return int(found["MemAvailable"].split()[0]) // 1024


_SECONDS_BETWEEN_LOOKS = 0.5
_SHARE_OF_TIME = 0.02


class PeakMemory:
    """The most memory that this process and all below it take, looked at twice a second.

    Use as a context manager.  On Linux it is the sum of the processes' proportional set sizes
    (pages shared by n of them count 1/n for each), so a page counts once; elsewhere the largest
    resident size that this process has had.
    """

    def __init__(self) -> None:
        self.mb = 0.0
        """Most so far."""
        self.processes: set[int] = set()
        """Ids of all processes seen."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wsiseg-memory", daemon=True)

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Measure now."""
        tree = process_tree(os.getpid()) if sys.platform == "linux" else [os.getpid()]
        self.processes.update(tree)
        now_mb = sum(map(pss_mb, tree)) if sys.platform == "linux" else peak_memory_mb()
        self.mb = max(self.mb, now_mb)

    def _watch(self) -> None:
        pause_s = _SECONDS_BETWEEN_LOOKS
        while not self._ended.wait(pause_s):
            start = time.thread_time()
            self.look()
            # A look at many GB takes long, and holds up who asks for memory meanwhile.
            spent_s = time.thread_time() - start
            pause_s = max(_SECONDS_BETWEEN_LOOKS, spent_s / _SHARE_OF_TIME)


def process_tree(root: int) -> list[int]:
    """Return the ids of a process and of all that descend from it, on Linux."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    tree, waiting = [], [root]
    while waiting:
        tree.append(waiting.pop())
        waiting += children.get(tree[-1], [])
    return tree


def _parent(entry: Path) -> int | None:
    """Return the id of a process's parent, None if it is gone."""
    try:
        status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # "id (name) state parent …", and a name may hold anything.
    return int(status.rpartition(")")[2].split()[1])


def pss_mb(process: int) -> float:
    """Return the proportional set size of a process in MB, 0 if it is gone or not ours."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def peak_memory_mb() -> float:
    """Return the largest resident size this process has had, in MB; 0 if not known."""
    if sys.platform == "win32":
        return 0.0
    import resource  # not on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1e6 if sys.platform == "darwin" else 1e3)
