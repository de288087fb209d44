"""From the options of a call to the workers it runs on."""

from __future__ import annotations

from wsiseg.cluster.jobqueue import read_queue
from wsiseg.cluster.local import visible_gpus, worker_options
from wsiseg.cluster.options import ClusterOptions, check_cluster_name, queue_file
from wsiseg.errors import UsageError
from wsiseg.models.device import gpus_here, gpus_meant, kind_here, parse_device


def check_choice(
    device: str, workers: int | None, memory_gb: float | None, cluster: str | None
) -> None:
    """Refuse what a call with these options would refuse, without starting or asking anything.

    Raises
    ------
    UsageError
        If they contradict each other, or name what is not there.
    MissingDependency
        If a package that they need is not installed.
    """
    if cluster is not None:
        refuse_own_workers(cluster, workers, device, memory_gb)
        check_cluster_name(cluster)
        path = queue_file(cluster)
        if path is not None:
            read_queue(path)
        return
    where = choose_workers(device, workers, memory_gb)
    if where is not None:
        worker_options(where)


def refuse_own_workers(
    cluster: str, workers: int | None, device: str, memory_gb: float | None = None
) -> None:
    """Raise UsageError if a cluster is named, and what this machine's workers have as well."""
    if memory_gb is not None:
        raise UsageError(
            f"--cluster {cluster} with --memory-gb {memory_gb:g}; a cluster's workers have the "
            "memory that they were started with, or that its YAML file says: leave --memory-gb out"
        )
    _, gpus = parse_device(device)
    if workers is not None or gpus:
        raise UsageError(
            f"--cluster {cluster} with --workers {workers} and --device {device}; a cluster has "
            "its own workers and numbers of GPUs: leave --workers and the numbers out"
        )


def choose_workers(
    device: str, workers: int | None, memory_gb: float | None = None
) -> ClusterOptions | None:
    """Return which processes of this machine are meant; None: the calling one alone.

    Parameters
    ----------
    device : str
        `auto`, `cpu`, `cuda`, `cuda:0,1`.
    workers : int or None
        Processes on this machine; on GPUs one for each.
    memory_gb : float or None
        Memory of each process on this machine; None: a share of what is free.

    Raises
    ------
    UsageError
        If they contradict each other, or there is no such device.
    """
    meant = gpus_meant(device)
    if workers is not None and kind_here(device) == "cuda":
        meant = meant or tuple(range(gpus_here() if device == "auto" else 1))
        if workers > len(meant):
            raise UsageError(
                f"--workers {workers} with --device {device}: there is one process for each GPU, "
                f"{len(meant)} at most; leave --workers out, or use --device cpu"
            )
        meant = meant[:workers]
    if meant:
        return ClusterOptions(gpus=visible_gpus(meant), memory_gb=memory_gb)
    if workers is not None:
        return ClusterOptions(workers, memory_gb=memory_gb)
    return None
