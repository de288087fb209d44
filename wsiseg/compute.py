"""Where and how the network runs: in this process, or on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from wsiseg.cluster import (
    ClusterOptions,
    SlidesOnDask,
    check_cluster,
    choose_workers,
    cluster_client,
    device_kind,
    needs_of,
    threads_expected,
    without_workers_s,
)
from wsiseg.errors import UsageError
from wsiseg.machine import RUN_GB
from wsiseg.models import MapsModel, ModelCard, Numerics
from wsiseg.models.device import kind_here, numerics_on, parse_device
from wsiseg.pipeline import Progress
from wsiseg.runners import TileRunner

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")
_MOST_LOOKED_AT = 5
"""So many slides every worker must be able to read."""


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """Where and how the network runs."""

    device: str = "auto"
    """`auto` (a GPU if torch can use one), `cpu`, `cuda` (all GPUs), or `cuda:0,1`."""
    precision: str | None = None
    """`float32`, `bfloat16` or `float16`; None: what the model card says for the device."""
    batch_size: int | None = None
    """Tiles per call of the network; None: 1 on a CPU, 8 on a GPU."""
    workers: int | None = None
    """Start that many Dask worker processes; None: run in this process."""
    cluster: str | None = None
    """Address of a running Dask scheduler (`tcp://…`), or a YAML file that says how workers are
    submitted to a queue."""
    memory_gb: float = RUN_GB
    """Memory that a run in this process on a CPU may take; fewer tiles run at once if it is
    little.  Does not change results."""

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise UsageError(f"memory_gb is {self.memory_gb}; a number above 0 is needed")


class SlideCluster(Protocol):
    """Where the slides of a batch run, if not in this process; see `SlidesOnDask`."""

    @property
    def slides_at_once(self) -> int:
        """How many slides keep it busy."""
        ...

    @property
    def run_tiles(self) -> TileRunner:
        """Runs the tiles of a slide; fair between slides, for several threads."""
        ...

    def run_whole(self, function: Callable[[T], R], argument: T, name: str) -> R:
        """Call a function on one of the workers; raises what it raises."""
        ...

    def stop(self) -> None:
        """Drop what is in flight."""
        ...


@dataclass(frozen=True, slots=True)
class Workplace:
    """What the network runs on."""

    device_kind: str
    """`cpu` or `cuda`."""
    cluster: SlideCluster | None = None
    """None: this process."""


def numerics_for(card: ModelCard, compute: ComputeOptions, kind: str | None) -> Numerics:
    """Settle how a model is computed; without a kind of device, on this machine.

    Raises
    ------
    UsageError
        If there is no such device or precision.
    """
    there = kind_here(compute.device) if kind is None else kind
    return numerics_on(there, card, compute.precision, compute.batch_size)


@contextmanager
def workplace(
    compute: ComputeOptions,
    client: Client | None,
    out: Path,
    slides: Sequence[Path],
    models: Sequence[MapsModel],
    progress: Progress | None = None,
) -> Iterator[Workplace]:
    """Start or find the workers that are meant, if any, and see whether they can do it.

    Parameters
    ----------
    compute : ComputeOptions
        What is meant.
    client : distributed.Client or None
        A cluster of the caller's, which goes before that.
    out : Path
        Folder of results.
    slides : sequence of Path
        The slides; a few of them every worker must be able to read.
    models : sequence of MapsModel
        Every worker must have them.
    progress : callable, optional
        Told of waiting for a queue.

    Raises
    ------
    UsageError
        If options contradict each other, or the workers are not able to.
    """
    where = None
    if client is None:
        where = choose_workers(compute.device, compute.workers, compute.cluster)
    if client is None and where is None:
        yield Workplace(kind_here(compute.device))
        return
    with _connected(client, where, progress) as there:
        kind = device_kind(there, parse_device(compute.device)[0])
        step = max(1, len(slides) // _MOST_LOOKED_AT)
        sample = tuple(slides[::step][:_MOST_LOOKED_AT])
        needs = needs_of(out, sample, tuple(models), kind)
        check_cluster(there, needs)
        options = () if where is None else (threads_expected(where), without_workers_s(where))
        with SlidesOnDask(there, needs, *options) as cluster:
            yield Workplace(kind, cluster)


@contextmanager
def _connected(
    client: Client | None, where: ClusterOptions | None, progress: Progress | None
) -> Iterator[Client]:
    """Give the caller's client, or one of the workers that were named."""
    found = nullcontext(client) if where is None else cluster_client(where, progress)
    with found as there:
        if there is None:
            raise UsageError("neither a client nor workers were named")
        yield there
