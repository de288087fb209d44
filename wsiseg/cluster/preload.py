"""What a worker process of this machine does when it starts; Dask calls it by name."""

from __future__ import annotations

import signal


def dask_setup(_: object) -> None:
    """Leave Ctrl-C, which a terminal sends to all its processes, to the one that was called."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
