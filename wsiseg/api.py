"""What users call for one slide, and what one slide of many needs too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.cluster import (
    ClusterNeeds,
    ClusterOptions,
    SlidesOnDask,
    check_cluster,
    choose_workers,
    client_address,
    cluster_client,
    device_kind,
    needs_of,
    refuse_own_workers,
    threads_expected,
    without_workers_s,
)
from wsiseg.errors import Interrupted, UsageError
from wsiseg.exporters import find_exporter
from wsiseg.finished import finished_run
from wsiseg.listing import SlideEntry, refuse_same_place
from wsiseg.model_choice import NEAREST_MODEL, model_for
from wsiseg.models import (
    MapsModel,
    ModelCard,
    ModelFile,
    Numerics,
    check_weights,
)
from wsiseg.models.device import kind_here, numerics_on, parse_device
from wsiseg.pipeline import Progress, judged, run_directory, segment_planned
from wsiseg.plan import PlanOptions, RunPlan, plan_run
from wsiseg.results import Result
from wsiseg.rundir import RunDir
from wsiseg.runners import RunHere, TileRunner, tiles_at_once
from wsiseg.scale import ScaleOptions
from wsiseg.slides import Slide, SlideInfo, open_slide
from wsiseg.slides.stamp import stamp_of

if TYPE_CHECKING:
    from distributed import Client

Planned = Callable[[RunPlan], None]
"""Told what is about to run."""


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """Where and how the network runs."""

    device: str = "auto"
    """`auto` (a GPU if torch can use one; on a cluster if its workers offer some), `cpu`, `cuda`
    (all GPUs, with a process for each if there are several), or `cuda:0,1` (those)."""
    precision: str | None = None
    """`float32`, `bfloat16` or `float16`; None: what the model card says for the device."""
    batch_size: int | None = None
    """Tiles per call of the network; None: 1 on a CPU, 8 on a GPU."""
    workers: int | None = None
    """Start that many Dask worker processes; None: run in this process."""
    memory_gb: float | None = None
    """Memory that a run in this process on a CPU may take (None: 4); fewer tiles run at once if
    it is little.  With workers: the limit of each (None: a share of what is free).  Does not
    change results, and does not go with `cluster`."""
    cluster: str | None = None
    """Run on this Dask cluster: the address of its scheduler (`tcp://…`), or a YAML file that
    says how workers are submitted to a queue."""
    tta: str = "none"
    """Test-time augmentation: `none`; `flips`: the mean over a tile and its mirror images, for
    four times the time; `flips+turns`: those of the turned tile as well, for eight times."""

    def __post_init__(self) -> None:
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise UsageError(f"memory_gb is {self.memory_gb}; a number above 0 is needed")

    def numerics(self, card: ModelCard) -> Numerics:
        """Settle how a model is computed; what a cluster's workers have is not looked for here."""
        name, _ = parse_device(self.device)
        here = self.cluster is None or name == "auto"
        kind = kind_here(self.device) if here else name
        return numerics_on(kind, card, self.precision, self.batch_size, self.tta)


def segment(
    slide: str | Path | Slide,
    out: str | Path,
    *,
    model: str | Path | MapsModel = NEAREST_MODEL,
    scale: ScaleOptions | float | None = None,
    options: PlanOptions = PlanOptions(),
    compute: ComputeOptions = ComputeOptions(),
    client: Client | None = None,
    formats: Sequence[str] = ("geojson",),
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    planned: Planned | None = None,
) -> Result:
    """Segment every nucleus of one slide.

    Calling it again continues an interrupted run, and returns a finished one at once.

    Parameters
    ----------
    slide : str, Path or Slide
        A slide or image file, or the folder of a DICOM slide.
    out : str or Path
        Folder in which `<slide name>.wsiseg/` is made.
    model : str, Path or MapsModel
        Name of a shipped model, a model folder, or a model object; `"auto"`: the shipped
        model nearest to the slide in µm per pixel.
    scale : ScaleOptions or float, optional
        µm per pixel, if the file does not say it, or how to settle it.
    options : PlanOptions
        Tissue, regions of interest, stitching; `scale` stands in `scale`.
    compute : ComputeOptions
        Device, precision, workers.
    client : distributed.Client, optional
        Run the tiles on this cluster.
    formats : sequence of str
        Exports into the run directory.
    overwrite : bool
        Delete an existing run first.
    strict : bool
        Take warnings for failures, before the expensive part where they can be known.
    progress : callable, optional
        Called with (stage, done, total).
    planned : callable, optional
        Called with the plan before it runs.

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
    formats = known_formats(formats)
    if isinstance(slide, str | Path) and not overwrite:
        there = run_directory(Path(out), Path(slide).name)
        said = with_scale(options, scale)
        done = finished_before(Path(slide), there, model, said, compute, formats)
        if done is not None:
            return judged(done, strict)
    with (
        connected(compute, client, progress) as (compute_there, cluster),
        plan_slide(slide, model, scale, options, compute_there) as plan,
    ):
        if planned is not None:
            planned(plan)
        folder = run_directory(Path(out), plan.slide.info.name)
        paths = (Path(slide),) if isinstance(slide, str | Path) else ()
        needs = needs_of(Path(out), paths, (plan.model,), plan.numerics.device_kind)
        with tile_runner(compute_there, cluster, plan.numerics, needs) as run_tiles:
            return carry_out(plan, folder, run_tiles, formats, overwrite, progress, strict)


def carry_out(
    plan: RunPlan,
    folder: RunDir,
    run_tiles: TileRunner,
    formats: Sequence[str],
    overwrite: bool,
    progress: Progress | None,
    strict: bool,
) -> Result:
    """Do what `segment_planned` does; say how to go on if it is interrupted."""
    try:
        return segment_planned(plan, folder, run_tiles, formats, overwrite, progress, strict)
    except KeyboardInterrupt as error:
        again = "the same command again"
        if overwrite:
            again += ", but without --overwrite,"
        raise Interrupted(
            f"{plan.slide.info.name}: interrupted; finished tiles are kept, call "
            f"{again} to continue"
        ) from error


def finished_before(
    slide: Path,
    folder: RunDir,
    model: str | Path | MapsModel,
    options: PlanOptions,
    compute: ComputeOptions,
    formats: Sequence[str],
) -> Result | None:
    """Return the run if it is finished, and that is to be seen without opening the slide."""

    def choose(info: SlideInfo) -> tuple[MapsModel, Numerics]:
        chosen = model_for(info, model, options)
        return chosen, compute.numerics(chosen.card)

    return finished_run(slide, folder, options, choose, formats)


@contextmanager
def plan_slide(
    slide: str | Path | Slide,
    model: str | Path | MapsModel = NEAREST_MODEL,
    scale: ScaleOptions | float | None = None,
    options: PlanOptions = PlanOptions(),
    compute: ComputeOptions = ComputeOptions(),
) -> Iterator[RunPlan]:
    """Open a slide and settle everything that is settled before its first tile runs.

    Parameters are those of `segment`; nothing is written.
    """
    options = with_scale(options, scale)
    # Before anything is read: what is written to the file meanwhile makes it another one.
    stamp = stamp_of(Path(slide)) if isinstance(slide, str | Path) else None
    with _opened(slide) as opened:
        chosen = model_for(opened.info, model, options)
        if isinstance(chosen, ModelFile):
            # Here nothing has been made yet; in the first tile it would have.
            check_weights(chosen)
        yield plan_run(opened, chosen, compute.numerics(chosen.card), options, stamp)


def with_scale(options: PlanOptions, scale: ScaleOptions | float | None) -> PlanOptions:
    """Return the options with what is said of the scale apart from them."""
    if scale is None:
        return options
    rules = scale if isinstance(scale, ScaleOptions) else ScaleOptions(mpp=float(scale))
    return replace(options, scale=rules)


def known_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Return the formats, each the name of an exporter.

    Raises
    ------
    UnknownName
        If one is not; the message lists the known ones.
    """
    names = (formats,) if isinstance(formats, str) else tuple(formats)
    for name in names:
        find_exporter(name)
    return names


def entries_of(slides: Iterable[str | Path | SlideEntry], options: PlanOptions) -> list[SlideEntry]:
    """Return what is said of each slide; refuse two of one place, or one outline for several."""
    if isinstance(slides, str | Path):
        raise UsageError(f"slides is {str(slides)!r}; a list of slides is needed: [{slides!r}]")
    entries = [
        slide if isinstance(slide, SlideEntry) else SlideEntry(Path(slide)) for slide in slides
    ]
    _refuse_shared_outline(entries, options)
    refuse_same_place(entries)
    return entries


def _refuse_shared_outline(entries: Sequence[SlideEntry], options: PlanOptions) -> None:
    """Raise UsageError if one outline would be laid on several slides."""
    for option in ("roi", "tissue"):
        lacking = [entry for entry in entries if getattr(entry, option) is None]
        given = getattr(options, option)
        if len(lacking) > 1 and isinstance(given, Path | tuple):
            raise UsageError(
                f"--{option} names one outline for {len(lacking)} slides; segment them one by one, "
                f"or list them in a CSV file with a column {option}"
            )


def options_of(
    entry: SlideEntry, scale: ScaleOptions | float | None, options: PlanOptions
) -> PlanOptions:
    """Return the options for one slide: what its list says, else what is said for all."""
    rules = with_scale(options, scale).scale
    if entry.mpp is not None or entry.override_mpp is not None:
        rules = replace(rules, mpp=entry.mpp, override_mpp=entry.override_mpp)
    if entry.mpp_from_objective is not None:
        rules = replace(rules, from_objective=entry.mpp_from_objective)
        if entry.mpp_from_objective and entry.mpp is None and entry.override_mpp is None:
            rules = replace(rules, mpp=None, override_mpp=None)
    options = replace(options, scale=rules)
    if entry.roi is not None:
        options = replace(options, roi=entry.roi)
    if entry.tissue is not None:
        options = replace(options, tissue=entry.tissue)
    return options


@contextmanager
def _opened(slide: str | Path | Slide) -> Iterator[Slide]:
    """Open a path and close it again; leave a caller's slide open."""
    if isinstance(slide, str | Path):
        with open_slide(Path(slide)) as opened:
            yield opened
    else:
        yield slide


@contextmanager
def connected(
    compute: ComputeOptions, client: Client | None, progress: Progress | None = None
) -> Iterator[tuple[ComputeOptions, Client | None]]:
    """Connect to the cluster that is named, if one is, and settle on what its workers compute.

    Yields
    ------
    ComputeOptions
        With `cpu` or `cuda` as the device, if there is a cluster.
    Client or None
        The one given, or of the cluster named; None if processes of this machine are meant.
    """
    if client is not None:
        name = compute.cluster or client_address(client)
        kind = device_kind(client, compute.device)
        yield replace(compute, device=kind, workers=None, cluster=name), client
    elif compute.cluster is not None:
        refuse_own_workers(compute.cluster, compute.workers, compute.device, compute.memory_gb)
        with cluster_client(ClusterOptions(cluster=compute.cluster), progress) as there:
            yield replace(compute, device=device_kind(there, compute.device)), there
    else:
        yield compute, None


@contextmanager
def workers_for(
    compute: ComputeOptions, client: Client | None, needs: ClusterNeeds
) -> Iterator[SlidesOnDask | None]:
    """Give what runs tiles and slides in other processes; None: they run in this one.

    Raises
    ------
    UsageError
        If the cluster's workers cannot do what is needed.
    """
    if client is not None:
        check_cluster(client, needs)
        with SlidesOnDask(
            client,
            needs,
            threads_expected(compute.cluster),
            without_workers_s(compute.cluster),
        ) as slides:
            yield slides
        return
    where = choose_workers(compute.device, compute.workers, compute.memory_gb)
    if where is None:
        yield None
        return
    needs = replace(needs, gpu=bool(where.gpus))
    with cluster_client(where) as local, SlidesOnDask(local, needs) as slides:
        yield slides


@contextmanager
def tile_runner(
    compute: ComputeOptions,
    client: Client | None,
    numerics: Numerics,
    needs: ClusterNeeds | None = None,
) -> Iterator[TileRunner]:
    """Choose where tiles run."""
    with workers_for(compute, client, needs or ClusterNeeds()) as slides:
        if slides is None:
            yield RunHere(tiles_at_once(numerics, compute.memory_gb))
        else:
            yield slides.run_tiles
