"""What users call for many slides."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from wsiseg.api import (
    ComputeOptions,
    Planned,
    carry_out,
    connected,
    entries_of,
    finished_before,
    known_formats,
    options_of,
    plan_slide,
    workers_for,
)
from wsiseg.batches import Done, Failed, place_directory, run_batch, write_places
from wsiseg.cluster import ClusterNeeds, needs_of
from wsiseg.errors import Interrupted, TileCrashed, WsisegError
from wsiseg.listing import SlideEntry
from wsiseg.model_choice import NEAREST_MODEL, known_model, model_for
from wsiseg.models import MapsModel, list_models, load_model
from wsiseg.parts import Part, parse_part
from wsiseg.pipeline import Progress, judged
from wsiseg.plan import PlanOptions, RunPlan
from wsiseg.runners import RunHere, RunInTurn, TileRunner, tiles_at_once
from wsiseg.scale import ScaleOptions, resolve_scale
from wsiseg.slides import open_slide

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("wsiseg")
T = TypeVar("T")
R = TypeVar("R")
_SPREAD_AT_ONCE = 4
"""Slides whose tiles are spread at the same time: each takes memory in this process, where it is
put together, and every worker has all of them open."""
_LOOK_S = 0.5
_FEW = 16
"""So many tiles and fewer are not worth spreading over workers."""


@dataclass(frozen=True, slots=True)
class SlideTask:
    """All that decides how one slide of a batch is segmented.  It pickles."""

    entry: SlideEntry
    out: Path
    model: str | Path | MapsModel
    options: PlanOptions
    """What the entry says, else what is said for all."""
    compute: ComputeOptions
    formats: tuple[str, ...]
    overwrite: bool
    strict: bool


class SlideCluster(Protocol):
    """Where the slides of a batch run, if not in this process."""

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


def segment_many(
    slides: Iterable[str | Path | SlideEntry],
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
    part: Part | str | None = None,
) -> Iterator[Done | Failed]:
    """Segment slides; one that fails does not stop the others.

    Several calls may be at work on the same slides, also on other machines: each slide is done
    by one of them, and what one leaves undone the next takes over.  Which slides there are, and
    who is at work on which, stands in `OUT/batch/`; a slide that fails before its run begins
    leaves the reason in its `run.json`.  One slide alone leaves neither.

    Parameters are those of `segment`, and `part`.  What a `SlideEntry` says about its slide (µm
    per pixel, model, regions, tissue, place) goes before what is said for all.

    Parameters
    ----------
    part : Part or str, optional
        Only the slides of this part: `"3/8"`, or `"auto"` for what a scheduler's variables say.

    Yields
    ------
    Done or Failed
        One per slide, in order; those another call was at work on come last, and on several
        workers slides come as they end.

    Raises
    ------
    UsageError
        If something said for all slides cannot be used; then nothing was started.
    OutputNotWritable
        If nothing can be written into the output folder any more.
    Interrupted
        If the call was interrupted; calling it again continues.
    """
    entries = entries_of(slides, options)
    formats = known_formats(formats)
    share = parse_part(part, os.environ) if isinstance(part, str) else part
    mine = [entry for entry in entries if share is None or share.holds(entry.place)]
    known = known_model(model, options)
    if not mine:
        if len(entries) > 1:
            write_places(Path(out), entries)
        return
    if client is None and compute.cluster is None:
        # What cannot be used is refused before processes start.
        _settled(known, compute)
    with (
        connected(compute, client, progress) as (there, remote),
        workers_for(there, remote, _needs(mine, Path(out), known, there)) as cluster,
    ):
        settled = _settled(known, there)

        def task_of(entry: SlideEntry) -> SlideTask:
            chosen = known if entry.model is None else entry.model
            own = options_of(entry, scale, options)
            return SlideTask(entry, Path(out), chosen, own, settled, formats, overwrite, strict)

        if len(entries) > 1:
            write_places(Path(out), entries)
            yield from _batch(mine, task_of, cluster, progress, planned)
        else:
            yield _alone(task_of(mine[0]), cluster, progress, planned)


def _needs(
    entries: Sequence[SlideEntry], out: Path, known: str | MapsModel, compute: ComputeOptions
) -> ClusterNeeds:
    """Return what every worker must have: the first slide stands for all."""
    shipped = [card.name for card in list_models()]
    models = [load_model(each) for each in (shipped if known == NEAREST_MODEL else [known])]
    kind = compute.numerics(models[0].card).device_kind
    return needs_of(out, tuple(entry.path for entry in entries[:1]), tuple(models), kind)


def _alone(
    task: SlideTask,
    cluster: SlideCluster | None,
    progress: Progress | None,
    planned: Planned | None,
) -> Done | Failed:
    """Segment one slide that is no batch: it is not claimed, and a failure leaves nothing."""
    entry = task.entry
    path = place_directory(task.out, entry.place).path
    try:
        if not _is_finished(task):
            path = _segment_spread(task, cluster, progress, planned)
    except Interrupted:
        raise
    except WsisegError as error:
        return Failed(entry.path.name, error, entry.place)
    return Done(entry.path.name, path, entry.place)


def _batch(
    entries: Sequence[SlideEntry],
    task_of: Callable[[SlideEntry], SlideTask],
    cluster: SlideCluster | None,
    progress: Progress | None,
    planned: Planned | None,
) -> Iterator[Done | Failed]:
    at_once = 1 if cluster is None else cluster.slides_at_once
    stop = threading.Event()
    spread = threading.Semaphore(_SPREAD_AT_ONCE)

    def tell(stage: str, done: int, total: int) -> None:
        if stop.is_set():
            raise Interrupted("interrupted; finished tiles are kept")
        # The stages of several slides at once would be a muddle.
        if progress is not None and at_once == 1:
            progress(stage, done, total)

    def segment_one(entry: SlideEntry) -> Path:
        task = task_of(entry)
        if cluster is not None and at_once > 1 and _has_few_tiles(task):
            try:
                return cluster.run_whole(segment_here, _for_elsewhere(task), str(entry.place))
            except TileCrashed as error:
                # Tile by tile it turns out which of them it is.
                log.warning("%s", error)
        with _turn(spread, stop):
            return _segment_spread(task, cluster, tell, planned)

    def is_finished(entry: SlideEntry, meanwhile: bool) -> bool:
        task = task_of(entry)
        # What another call has just made is not to be made once more.
        return _is_finished(replace(task, overwrite=False) if meanwhile else task)

    drop = (lambda: None) if cluster is None else cluster.stop
    out, n_ended = task_of(entries[0]).out, 0
    try:
        for outcome in run_batch(
            entries, out, segment_one, at_once, is_finished=is_finished, stop=stop, drop=drop
        ):
            n_ended += 1
            yield outcome
            if progress is not None:
                progress("slides", n_ended, len(entries))
    except (KeyboardInterrupt, Interrupted) as error:
        how_far = f"{n_ended} of {len(entries)} slides"
        raise _interrupted(error, how_far, task_of(entries[0]).overwrite) from error


@contextmanager
def _turn(places: threading.Semaphore, stop: threading.Event) -> Iterator[None]:
    """Wait for one of several places; Interrupted if there is to be none any more."""
    while not places.acquire(timeout=_LOOK_S):
        if stop.is_set():
            raise Interrupted("interrupted before this slide's turn")
    try:
        yield
    finally:
        places.release()


def _interrupted(error: BaseException, how_far: str, overwrite: bool) -> Interrupted:
    """Return what is said of a batch that was interrupted; why, if that was no signal."""
    by_signal = any(isinstance(one, KeyboardInterrupt) for one in (error, error.__cause__))
    # What is to be done stands in such a reason too.
    reason = "" if by_signal else f" ({str(error).partition('; finished tiles')[0]})"
    but = ", but without --overwrite," if overwrite else ""
    return Interrupted(
        f"interrupted after {how_far}{reason}; finished tiles of the others are kept, call the "
        f"same command again{but} to continue"
    )


def _is_finished(task: SlideTask) -> bool:
    """Return whether a slide is done, as far as that is to be seen without opening it."""
    if task.overwrite:
        return False
    folder = place_directory(task.out, task.entry.place)
    done = finished_before(
        task.entry.path, folder, task.model, task.options, task.compute, task.formats
    )
    return done is not None and judged(done, task.strict) is done


def _segment_spread(
    task: SlideTask,
    cluster: SlideCluster | None,
    progress: Progress | None,
    planned: Planned | None,
) -> Path:
    """Segment a slide from this process, its tiles on the cluster, if there is one."""
    compute = task.compute
    with plan_slide(task.entry.path, task.model, None, task.options, compute) as plan:
        if planned is not None:
            planned(plan)
        here = RunHere(tiles_at_once(plan.numerics, compute.memory_gb))
        run_tiles = here if cluster is None else cluster.run_tiles
        return _carry_out(task, plan, run_tiles, progress)


def segment_here(task: SlideTask) -> Path:
    """Segment a slide in this process, one tile at a time; what a worker does.

    Returns
    -------
    Path
        The run's directory.
    """
    with plan_slide(task.entry.path, task.model, None, task.options, task.compute) as plan:
        return _carry_out(task, plan, RunInTurn(), None)


def _carry_out(
    task: SlideTask, plan: RunPlan, run_tiles: TileRunner, progress: Progress | None
) -> Path:
    folder = place_directory(task.out, task.entry.place)
    result = carry_out(plan, folder, run_tiles, task.formats, task.overwrite, progress, task.strict)
    return result.path


def _for_elsewhere(task: SlideTask) -> SlideTask:
    """Return a task with whole paths: a worker may have another working directory."""
    entry, options = task.entry, task.options
    if isinstance(options.roi, Path):
        options = replace(options, roi=options.roi.absolute())
    if isinstance(options.tissue, Path):
        options = replace(options, tissue=options.tissue.absolute())
    entry = replace(entry, path=entry.path.absolute())
    return replace(task, entry=entry, out=task.out.absolute(), options=options)


def _has_few_tiles(task: SlideTask) -> bool:
    """Return whether a slide has so few tiles that one worker does it as fast as several."""
    with open_slide(task.entry.path) as slide:
        info = slide.info
        card = model_for(info, task.model, task.options).card
        scale = resolve_scale(
            info.name, info.mpp_x, info.mpp_y, info.objective_power, task.options.scale
        )
        per_core = card.core_px * card.mpp / scale.mpp
        return math.ceil(info.width_px / per_core) * math.ceil(info.height_px / per_core) <= _FEW


def _settled(known: str | MapsModel, compute: ComputeOptions) -> ComputeOptions:
    """Return where the network runs, the same for all slides and workers.

    Raises
    ------
    UsageError
        If it cannot run there: before anything is begun, not once for each slide.
    """
    cards = list_models() if isinstance(known, str) else [known.card]
    kinds = {compute.numerics(card).device_kind for card in cards}
    return replace(compute, device=kinds.pop()) if kinds else compute
