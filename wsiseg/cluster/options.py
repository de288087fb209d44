"""Which workers to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsiseg.errors import UsageError

ADDRESSES = ("tcp://", "tls://")
FILES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Processes on this machine, or a Dask cluster: one of `workers`, `gpus`, `cluster`."""

    workers: int | None = None
    """Start that many processes of one thread on this machine."""
    gpus: tuple[str, ...] = ()
    """Start a process for each of these GPUs of this machine, named as in
    `CUDA_VISIBLE_DEVICES`."""
    cluster: str | None = None
    """Address of a running scheduler (`tcp://…`, `tls://…`), or a YAML file that says how
    workers are submitted to a queue."""
    memory_gb: float | None = None
    """Memory of each process on this machine; one that takes more is ended.  None: an equal
    share of what is free."""

    def __post_init__(self) -> None:
        ways = (self.workers is not None, bool(self.gpus), self.cluster is not None)
        if sum(ways) != 1:
            raise UsageError(
                f"workers {self.workers}, GPUs {', '.join(self.gpus) or None}, cluster "
                f"{self.cluster!r}; one of them is needed"
            )
        if self.workers is not None:
            check_worker_count(self.workers)
        if self.cluster is not None:
            check_cluster_name(self.cluster)
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise UsageError(f"memory_gb is {self.memory_gb}; a number above 0 is needed")


def check_worker_count(workers: int) -> None:
    """Raise UsageError unless there is at least one."""
    if workers < 1:
        raise UsageError(f"{workers} workers; 1 or more are needed")


def check_cluster_name(cluster: str) -> None:
    """Raise UsageError unless it is a scheduler's address or a YAML file that exists."""
    if cluster.startswith(ADDRESSES):
        return
    if not cluster.endswith(FILES):
        raise UsageError(
            f"--cluster {cluster}: the address of a Dask scheduler (tcp://HOST:PORT) or a YAML "
            "file that describes a queue is needed"
        )
    if not Path(cluster).is_file():
        raise UsageError(f"--cluster {cluster}: there is no such file; check the path")


def queue_file(cluster: str) -> Path | None:
    """Return the YAML file, if that is what names a cluster."""
    return Path(cluster) if cluster.endswith(FILES) else None
