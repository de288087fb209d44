"""What users call: one slide, or many."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.cluster import RunOnDask, check_workers, local_client
from wsiseg.errors import Interrupted, UsageError, WsisegError
from wsiseg.models import DEFAULT_MODEL, MapsModel, load_model
from wsiseg.models.device import choose_numerics
from wsiseg.pipeline import Progress, RunHere, TileRunner, run_directory, segment_planned
from wsiseg.plan import PlanOptions, plan_run
from wsiseg.results import Result
from wsiseg.scale import ScaleOptions
from wsiseg.slides import Slide, open_slide

if TYPE_CHECKING:
    from distributed import Client

_MB_PER_PREDICTOR = 1500
_MOST_PREDICTORS = 16


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """Where and how the network runs."""

    device: str = "auto"
    """`auto` (a GPU if torch can use one), `cpu` or `cuda`."""
    precision: str | None = None
    """`float32`, `bfloat16` or `float16`; None: what the model card says for the device."""
    batch_size: int | None = None
    """Tiles per call of the network; None: 1 on a CPU, 8 on a GPU."""
    workers: int | None = None
    """Start that many Dask worker processes; None: run in this process."""


@dataclass(frozen=True, slots=True)
class Done:
    """A slide that was segmented."""

    slide: str
    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """A slide that was not."""

    slide: str
    error: WsisegError


def segment(
    slide: str | Path | Slide,
    out: str | Path,
    *,
    model: str | Path | MapsModel = DEFAULT_MODEL,
    scale: ScaleOptions | float | None = None,
    options: PlanOptions = PlanOptions(),
    compute: ComputeOptions = ComputeOptions(),
    client: Client | None = None,
    formats: Sequence[str] = ("geojson",),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Segment every nucleus of one slide.

    Calling it again continues an interrupted run, and returns a finished one at once.

    Parameters
    ----------
    slide : str, Path or Slide
        A slide or image file.
    out : str or Path
        Folder in which `<slide name>.wsiseg/` is made.
    model : str, Path or MapsModel
        Name of a shipped model, a model folder, or a model object.
    scale : ScaleOptions or float, optional
        µm per pixel, if the file does not say it, or how to settle it.
    options : PlanOptions
        Tissue, stitching; `scale` stands in `scale`.
    compute : ComputeOptions
        Device, precision, workers.
    client : distributed.Client, optional
        Run the tiles on this cluster.
    formats : sequence of str
        Exports into the run directory.
    overwrite : bool
        Delete an existing run first.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Result
        The finished run.

    Raises
    ------
    WsisegError
        One of its kinds; the message says what to do.  Finished tiles stay.

    Examples
    --------
    >>> import wsiseg
    >>> result = wsiseg.segment("a.svs", out="results/")  # doctest: +SKIP
    >>> result.summary()["total"]["n"]  # doctest: +SKIP
    12034
    """
    chosen = load_model(model)
    numerics = choose_numerics(chosen.card, compute.device, compute.precision, compute.batch_size)
    if scale is not None:
        rules = scale if isinstance(scale, ScaleOptions) else ScaleOptions(mpp=float(scale))
        options = replace(options, scale=rules)
    with _opened(slide) as opened:
        plan = plan_run(opened, chosen, numerics, options)
        folder = run_directory(Path(out), opened.info.name)
        with _runner(compute, client, numerics.device_kind) as run_tiles:
            try:
                return segment_planned(plan, folder, run_tiles, formats, overwrite, progress)
            except KeyboardInterrupt as error:
                raise Interrupted(
                    f"{opened.info.name}: interrupted; finished tiles are kept, call the same "
                    "command again to continue"
                ) from error


def segment_many(
    slides: Iterable[str | Path],
    out: str | Path,
    *,
    model: str | Path | MapsModel = DEFAULT_MODEL,
    scale: ScaleOptions | float | None = None,
    options: PlanOptions = PlanOptions(),
    compute: ComputeOptions = ComputeOptions(),
    client: Client | None = None,
    formats: Sequence[str] = ("geojson",),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[Done | Failed]:
    """Segment slides one after the other; one that fails does not stop the others.

    Parameters are those of `segment`.

    Yields
    ------
    Done or Failed
        One per slide, in order.
    """
    names: dict[str, Path] = {}
    paths = [Path(slide) for slide in slides]
    for path in paths:
        if path.name in names:
            raise UsageError(
                f"two slides are called {path.name}; their results would have the same place: "
                "give them different output folders"
            )
        names[path.name] = path
    chosen = load_model(model)
    started = local_client(compute.workers) if compute.workers is not None and not client else None
    with started or nullcontext(client) as shared_client:
        for path in paths:
            try:
                result = segment(
                    path,
                    out,
                    model=chosen,
                    scale=scale,
                    options=options,
                    compute=replace(compute, workers=None),
                    client=shared_client,
                    formats=formats,
                    overwrite=overwrite,
                    progress=progress,
                )
                yield Done(path.name, result)
            except Interrupted:
                raise
            except WsisegError as error:
                yield Failed(path.name, error)


SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu"}
    | {".czi", ".dcm", ".png", ".jpg", ".jpeg"}
)
"""What is taken for a slide in a folder; files named one by one may have any."""


def find_slides(paths: Iterable[Path]) -> list[Path]:
    """Return the slides among files and folders, folders searched without their folders.

    Raises
    ------
    UsageError
        If a folder holds no slide.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            entry
            for entry in path.iterdir()
            # macOS leaves `._name` beside a file on some disks.
            if entry.suffix.lower() in SLIDE_SUFFIXES and not entry.name.startswith(".")
        )
        if not inside:
            raise UsageError(
                f"{path} holds no slide; files ending in {', '.join(sorted(SLIDE_SUFFIXES))} "
                "are looked for"
            )
        found += inside
    return found


@contextmanager
def _opened(slide: str | Path | Slide) -> Iterator[Slide]:
    """Open a path and close it again; leave a caller's slide open."""
    if isinstance(slide, str | Path):
        with open_slide(Path(slide)) as opened:
            yield opened
    else:
        yield slide


@contextmanager
def _runner(
    compute: ComputeOptions, client: Client | None, device_kind: str
) -> Iterator[TileRunner]:
    """Choose where tiles run."""
    if client is not None:
        check_workers(client)
        yield RunOnDask(client)
    elif compute.workers is not None:
        with local_client(compute.workers) as local:
            yield RunOnDask(local)
    else:
        yield RunHere(1 if device_kind == "cuda" else cpu_predictors())


def cpu_predictors() -> int:
    """Return how many tiles to predict at once here: one a core, as memory allows."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, _available_mb() // _MB_PER_PREDICTOR, _MOST_PREDICTORS))


def _available_mb() -> int:
    if sys.platform != "linux":
        return 8000
    with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
        found = dict(line.split(":") for line in lines)
    return int(found["MemAvailable"].split()[0]) // 1024
