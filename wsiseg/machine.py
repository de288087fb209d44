"""What this machine has: cores and memory."""

from __future__ import annotations

import os
import sys

MB_PER_PREDICTOR = 1500
"""Memory that one call of the network needs at most."""
_MOST_PREDICTORS = 16


def cpu_predictors() -> int:
    """Return how many tiles to predict at once here: one a core, as memory allows."""
    return max(1, min(cores(), available_mb() // MB_PER_PREDICTOR, _MOST_PREDICTORS))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def available_mb() -> int:
    """Return the memory that is free, in MB; a modest guess where it is not known."""
    if sys.platform != "linux":
        return 8000
    with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
        found = dict(line.split(":") for line in lines)
    return int(found["MemAvailable"].split()[0]) // 1024
