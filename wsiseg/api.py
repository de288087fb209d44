"""What users call for one slide, and what one slide of many needs too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.choosing import choose_model
from wsiseg.cluster import SlidesOnDask, choose_workers, cluster_client, needs_of
from wsiseg.compute import ComputeOptions, numerics_for, workplace
from wsiseg.errors import Interrupted, UsageError
from wsiseg.exporters import find_exporter
from wsiseg.finished import finished_run
from wsiseg.listing import SlideEntry, refuse_same_place
from wsiseg.models import MapsModel, ModelFile, Numerics, check_weights, list_models, load_model
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
    options = with_scale(options, scale)
    paths = [Path(slide)] if isinstance(slide, str | Path) else []
    is_here = client is None and compute.cluster is None
    if paths and not overwrite and is_here:
        there = run_directory(Path(out), paths[0].name)
        done = finished_before(paths[0], there, model, options, compute, formats)
        if done is not None:
            # Before workers are started for it.
            return judged(done, strict)
    models = models_meant(model)
    with (
        workplace(compute, client, Path(out), paths, models, progress) as place,
        plan_slide(slide, model, None, options, compute, place.device_kind) as plan,
    ):
        if planned is not None:
            planned(plan)
        folder = run_directory(Path(out), plan.slide.info.name)
        here = RunHere(tiles_at_once(plan.numerics, compute.memory_gb))
        run_tiles = here if place.cluster is None else place.cluster.run_tiles
        return carry_out(plan, folder, run_tiles, formats, overwrite, progress, strict)


def models_meant(model: str | Path | MapsModel) -> list[MapsModel]:
    """Return the model that is named, or all among which slides choose."""
    if model != NEAREST_MODEL:
        return [load_model(model)]
    return [load_model(card.name) for card in list_models()]


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
    kind: str | None = None,
) -> Result | None:
    """Return the run if it is finished, and that is to be seen without opening the slide."""

    def choose(info: SlideInfo) -> tuple[MapsModel, Numerics]:
        chosen = model_for(info, model, options.scale)
        return chosen, numerics_for(chosen.card, compute, kind)

    return finished_run(slide, folder, options, choose, formats)


@contextmanager
def plan_slide(
    slide: str | Path | Slide,
    model: str | Path | MapsModel = NEAREST_MODEL,
    scale: ScaleOptions | float | None = None,
    options: PlanOptions = PlanOptions(),
    compute: ComputeOptions = ComputeOptions(),
    kind: str | None = None,
) -> Iterator[RunPlan]:
    """Open a slide and settle everything that is settled before its first tile runs.

    Parameters are those of `segment`, and the kind of device, if that is not this machine's;
    nothing is written.
    """
    options = with_scale(options, scale)
    # Before anything is read: what is written to the file meanwhile makes it another one.
    stamp = stamp_of(Path(slide)) if isinstance(slide, str | Path) else None
    with _opened(slide) as opened:
        chosen = model_for(opened.info, model, options.scale)
        if isinstance(chosen, ModelFile):
            # Here nothing has been made yet; in the first tile it would have.
            check_weights(chosen)
        numerics = numerics_for(chosen.card, compute, kind)
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
def tile_runner(compute: ComputeOptions, numerics: Numerics) -> Iterator[TileRunner]:
    """Choose where tiles run that go into a folder of this machine.

    Raises
    ------
    UsageError
        If that is a cluster, which does not see the folder.
    """
    if compute.cluster is not None:
        raise UsageError(
            f"cluster {compute.cluster}: this runs on one machine; use workers instead"
        )
    where = choose_workers(compute.device, compute.workers, None)
    if where is None:
        yield RunHere(tiles_at_once(numerics, compute.memory_gb))
        return
    needs = needs_of(None, device_kind=numerics.device_kind)
    with cluster_client(where) as local, SlidesOnDask(local, needs) as slides:
        yield slides.run_tiles
