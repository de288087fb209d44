"""From the options of a call to the workers it runs on."""

from __future__ import annotations

from wsiseg.cluster.local import visible_gpus
from wsiseg.cluster.options import ClusterOptions
from wsiseg.errors import UsageError
from wsiseg.models.device import gpus_here, gpus_meant, kind_here, parse_device


def choose_workers(
    device: str, workers: int | None, cluster: str | None, memory_gb: float | None = None
) -> ClusterOptions | None:
    """Return which workers a call means; None: it runs in the calling process.

    Parameters
    ----------
    device : str
        `auto`, `cpu`, `cuda`, `cuda:0,1`.
    workers : int or None
        Processes on this machine; on GPUs one for each.
    cluster : str or None
        A scheduler's address, or a YAML file that describes a queue.
    memory_gb : float or None
        Memory of each process on this machine; None: a share of what is free.

    Raises
    ------
    UsageError
        If they contradict each other, or there is no such device.
    """
    if cluster is not None:
        _, gpus = parse_device(device)
        if workers is not None or gpus:
            raise UsageError(
                f"--cluster {cluster} with --workers {workers} and --device {device}; a cluster "
                "has its own workers and numbers of GPUs: leave --workers and the numbers out"
            )
        return ClusterOptions(cluster=cluster)
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
