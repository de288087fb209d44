"""What users call for one slide, and what one slide of many needs too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.choosing import choose_model
from wsiseg.cluster import ClusterOptions, SlidesOnDask, check_workers, cluster_client
from wsiseg.errors import Interrupted, UsageError
from wsiseg.exporters import find_exporter
from wsiseg.finished import finished_run
from wsiseg.listing import SlideEntry, refuse_same_place
from wsiseg.machine import RUN_GB
from wsiseg.models import MapsModel, ModelFile, Numerics, check_weights, list_models, load_model
from wsiseg.models.device import choose_numerics
from wsiseg.pipeline import Progress, judged, run_directory, segment_planned
from wsiseg.plan import PlanOptions, RunPlan, plan_run
from wsiseg.results import Result
from wsiseg.rundir import RunDir
from wsiseg.runners import RunHere, TileRunner, tiles_at_once
from wsiseg.scale import ScaleOptions, resolve_scale
from wsiseg.slides import Slide, SlideInfo, open_slide
from wsiseg.slides.stamp import stamp_of

if TYPE_CHECKING:
    from distributed import Client

NEAREST_MODEL = "auto"
"""Name that stands for the shipped model nearest to the slide in µm per pixel."""

Planned = Callable[[RunPlan], None]
"""Told what is about to run."""


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
    memory_gb: float = RUN_GB
    """Memory that a run in this process on a CPU may take; fewer tiles run at once if it is
    little.  Does not change results."""

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise UsageError(f"memory_gb is {self.memory_gb}; a number above 0 is needed")


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
    with plan_slide(slide, model, scale, options, compute) as plan:
        if planned is not None:
            planned(plan)
        folder = run_directory(Path(out), plan.slide.info.name)
        with tile_runner(compute, client, plan.numerics) as run_tiles:
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
        chosen = model_for(info, model, options.scale)
        return chosen, choose_numerics(
            chosen.card, compute.device, compute.precision, compute.batch_size
        )

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
        chosen = model_for(opened.info, model, options.scale)
        if isinstance(chosen, ModelFile):
            # Here nothing has been made yet; in the first tile it would have.
            check_weights(chosen)
        numerics = choose_numerics(
            chosen.card, compute.device, compute.precision, compute.batch_size
        )
        yield plan_run(opened, chosen, numerics, options, stamp)


def with_scale(options: PlanOptions, scale: ScaleOptions | float | None) -> PlanOptions:
    """Return the options with what is said of the scale apart from them."""
    if scale is None:
        return options
    rules = scale if isinstance(scale, ScaleOptions) else ScaleOptions(mpp=float(scale))
    return replace(options, scale=rules)


def model_for(info: SlideInfo, model: str | Path | MapsModel, scale: ScaleOptions) -> MapsModel:
    """Return the model named, or for `"auto"` the shipped one nearest in µm per pixel."""
    if model != NEAREST_MODEL:
        return load_model(model)
    found = resolve_scale(info.name, info.mpp_x, info.mpp_y, info.objective_power, scale)
    return load_model(choose_model(found.mpp, list_models()).name)


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
def tile_runner(
    compute: ComputeOptions, client: Client | None, numerics: Numerics
) -> Iterator[TileRunner]:
    """Choose where tiles run."""
    if client is not None:
        check_workers(client)
        with SlidesOnDask(client) as slides:
            yield slides.run_tiles
    elif compute.workers is not None:
        where = ClusterOptions(compute.workers)
        with cluster_client(where) as local, SlidesOnDask(local) as slides:
            yield slides.run_tiles
    else:
        yield RunHere(tiles_at_once(numerics, compute.memory_gb))
