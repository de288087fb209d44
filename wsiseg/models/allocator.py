"""Let glibc keep the network's large buffers between calls."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEEP_BYTES = 1 << 30


def keep_large_buffers() -> bool:
    """Make malloc reuse large blocks instead of giving each back to the system.

    By default every feature map of a CPU prediction is mapped anew and its pages zeroed by
    the kernel, a quarter of the time.  Threads share one arena, because arenas of their own
    cannot hold blocks of this size.  Affects the whole process; results do not change.

    Returns
    -------
    bool
        Whether it took effect; only with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _KEEP_BYTES), (_M_TRIM_THRESHOLD, _KEEP_BYTES))
    return all([mallopt(name, value) == 1 for name, value in wanted])  # noqa: C419
