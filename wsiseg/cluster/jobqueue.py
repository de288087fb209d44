"""Workers that are submitted to a queue, as a YAML file says; by dask-jobqueue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.cluster.local import GPU, ONE_THREAD, WORKER_SETTINGS
from wsiseg.cluster.packages import import_distributed, import_jobqueue
from wsiseg.errors import UsageError

if TYPE_CHECKING:
    from distributed import Client

_CLASSES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
}
"""Of dask_jobqueue, by what `kind` says."""
_COMMON = {
    *("cores", "processes", "memory", "walltime", "queue", "job_name", "shebang", "python"),
    *("job_extra_directives", "job_directives_skip", "job_script_prologue", "worker_extra_args"),
    *("interface", "protocol", "local_directory", "log_directory", "death_timeout"),
    *("shared_temp_directory", "scheduler_options"),
}
_ONLY = {
    "slurm": {"account", "job_cpu", "job_mem"},
    "pbs": {"account", "resource_spec"},
    "lsf": {"project", "ncpus", "mem", "use_stdin", "lsf_units"},
    "sge": {"project", "resource_spec"},
}
_NEEDED = ("cores", "memory")
_LISTS = ("job_extra_directives", "job_directives_skip", "job_script_prologue", "worker_extra_args")


@dataclass(frozen=True, slots=True)
class Queue:
    """What a YAML file says."""

    kind: str
    """`slurm`, `pbs`, `lsf` or `sge`."""
    options: Mapping[str, Any]
    """Of dask_jobqueue's class for it."""
    least_jobs: int
    most_jobs: int
    """Equal: that many jobs are kept; else they follow the work."""


def read_queue(path: Path) -> Queue:
    """Read a YAML file that describes a queue.

    Raises
    ------
    UsageError
        If it cannot be read, lacks something, or says what is not known.
    MissingDependency
        If Dask is not installed.
    """
    import_distributed()  # says what to install, where it is not
    import yaml  # comes with dask

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path.name}: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise UsageError(f"{path.name}: lines of the form `name: value` are needed")
    said = dict(said)
    kind = said.pop("kind", None)
    if kind not in _CLASSES:
        raise UsageError(f"{path.name}: kind is {kind!r}; one of {', '.join(_CLASSES)} is needed")
    least, most = _jobs(path.name, said.pop("scale", None), said.pop("adapt", None))
    known = _COMMON | _ONLY[kind]
    if unknown := [str(name) for name in said if name not in known]:
        raise UsageError(
            f"{path.name}: {', '.join(unknown)} is not known for {kind}; known are kind, scale, "
            f"adapt, {', '.join(sorted(known))}"
        )
    if missing := [name for name in _NEEDED if said.get(name) is None]:
        raise UsageError(f"{path.name}: {' and '.join(missing)} of a job must be said")
    for name in _LISTS:
        if not isinstance(said.get(name, []), list):
            raise UsageError(f'{path.name}: {name} must be a list: `{name}: ["…"]`')
    return Queue(kind, _completed(path.name, said), least, most)


def _jobs(name: str, scale: Any, adapt: Any) -> tuple[int, int]:
    """Return the least and the most jobs."""
    match scale, adapt:
        case {"jobs": int(n), **rest}, None if n >= 1 and not rest:
            return n, n
        case None, {"minimum": int(n), "maximum": int(most), **rest} if 1 <= n < most and not rest:
            return n, most
    raise UsageError(
        f"{name}: scale is {scale}, adapt is {adapt}; either `scale: {{jobs: 4}}` or "
        "`adapt: {minimum: 1, maximum: 4}` is needed, in jobs"
    )


def _completed(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Add what a worker needs to keep to its cores and its memory."""
    options = dict(said)
    has_gpu = f"{GPU}=" in " ".join(map(str, options.get("worker_extra_args", [])))
    # A thread a core; on a GPU one process owns all cores of its job.
    options.setdefault("processes", 1 if has_gpu else options["cores"])
    cores, processes = options["cores"], options["processes"]
    if not (isinstance(cores, int) and isinstance(processes, int) and 1 <= processes <= cores):
        raise UsageError(
            f"{name}: {cores} cores and {processes} processes; whole numbers are needed, and no "
            "more processes than cores"
        )
    _check_memory(name, options["memory"])
    exports = [f"export {key}={value}" for key, value in worker_environment().items()]
    options["job_script_prologue"] = [*exports, *options.get("job_script_prologue", [])]
    # Any free port: the usual one may be taken by another call on a login node.
    options["scheduler_options"] = {
        "dashboard_address": "127.0.0.1:0",
        **options.get("scheduler_options", {}),
    }
    return options


def _check_memory(name: str, memory: Any) -> None:
    """Raise UsageError unless it is an amount; a cluster that fails later is not closed."""
    from dask.utils import parse_bytes  # ours is an extra

    try:
        parse_bytes(str(memory))
    except ValueError as error:
        raise UsageError(f"{name}: memory is {memory!r}; such as 16GB is needed") from error


def worker_environment() -> dict[str, str]:
    """Return the environment of a worker that another program starts."""
    dask = {
        "DASK_" + name.upper().replace(".", "__"): str(value)
        for name, value in WORKER_SETTINGS.items()
    }
    return dict(ONE_THREAD) | dask


def expected_threads(queue: Queue) -> int:
    """Return how many threads all jobs together have."""
    cores, processes = queue.options["cores"], queue.options["processes"]
    return int(queue.most_jobs * processes * (cores // processes))


def queue_cluster(queue: Queue) -> Any:
    """Return dask-jobqueue's cluster; this is the one place that knows that package.

    Raises
    ------
    UsageError
        If it refuses what the file says.
    MissingDependency
        If dask-jobqueue is not installed.
    """
    cluster_class = getattr(import_jobqueue(), _CLASSES[queue.kind])
    try:
        return cluster_class(**queue.options)
    except (TypeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"the queue's description cannot be used: {said}") from error


@contextmanager
def queue_client(queue: Queue) -> Iterator[Client]:
    """Submit jobs to a queue, and take them back at the end; yields at once, without workers."""
    with queue_cluster(queue) as cluster:
        if queue.least_jobs == queue.most_jobs:
            cluster.scale(jobs=queue.most_jobs)
        else:
            # Few tasks are alive at a time: each that waits is a reason for another worker.
            cluster.adapt(
                minimum_jobs=queue.least_jobs,
                maximum_jobs=queue.most_jobs,
                target_duration="1s",
            )
        with import_distributed().Client(cluster, set_as_default=False) as client:
            yield client
