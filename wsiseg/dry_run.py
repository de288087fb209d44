"""What segmenting slides would take, without doing it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsiseg.api import (
    ComputeOptions,
    entries_of,
    known_formats,
    options_of,
    plan_slide,
)
from wsiseg.batches import Failed, place_directory
from wsiseg.cluster import check_choice
from wsiseg.errors import WsisegError
from wsiseg.estimate import Estimate, estimate
from wsiseg.listing import SlideEntry
from wsiseg.model_choice import NEAREST_MODEL, known_model
from wsiseg.models import MapsModel
from wsiseg.parts import Part, parse_part
from wsiseg.pipeline import refuse_as_a_run_would
from wsiseg.plan import PlanOptions, RunPlan
from wsiseg.rundir import refuse_unwritable
from wsiseg.runners import tiles_at_once
from wsiseg.scale import ScaleOptions


@dataclass(frozen=True, slots=True)
class SlideEstimate:
    """What segmenting a slide would take."""

    slide: str
    model: str
    """Resolved name."""
    mpp: float
    """µm per level-0 pixel."""
    mpp_source: str
    """Where that comes from."""
    estimate: Estimate
    warnings: tuple[str, ...]
    """What is known before any tile runs."""
    is_of_this_machine: bool = False
    """The run would be on a cluster, of which the seconds and the memory say nothing."""


def estimate_many(
    slides: Iterable[str | Path | SlideEntry],
    out: str | Path,
    *,
    model: str | Path | MapsModel = NEAREST_MODEL,
    scale: ScaleOptions | float | None = None,
    options: PlanOptions = PlanOptions(),
    compute: ComputeOptions = ComputeOptions(),
    formats: Sequence[str] = ("geojson",),
    overwrite: bool = False,
    strict: bool = False,
    part: Part | str | None = None,
) -> Iterator[SlideEstimate | Failed]:
    """Say for each slide what `segment_many` would do, how long and how large; write nothing.

    Parameters are those of `segment_many`; a few tiles of each slide are run to measure.

    Yields
    ------
    SlideEstimate or Failed
        One per slide, in order; what would be refused is Failed.
    """
    formats = known_formats(formats)
    check_choice(compute.device, compute.workers, compute.memory_gb, compute.cluster)
    entries = entries_of(slides, options)
    known = known_model(model, options)
    share = parse_part(part, os.environ) if isinstance(part, str) else part
    for entry in entries:
        if share is not None and not share.holds(entry.place):
            continue
        chosen = known if entry.model is None else entry.model
        try:
            with plan_slide(
                entry.path, chosen, options=options_of(entry, scale, options), compute=compute
            ) as plan:
                yield _estimate(plan, Path(out), entry.place, compute, formats, overwrite, strict)
        except WsisegError as error:
            yield Failed(entry.path.name, error, entry.place)


def _estimate(
    plan: RunPlan,
    out: Path,
    place: PurePosixPath,
    compute: ComputeOptions,
    formats: Sequence[str],
    overwrite: bool,
    strict: bool,
) -> SlideEstimate:
    name = plan.slide.info.name
    warnings = [*plan.warnings, *plan.first_look]
    folder = place_directory(out, place)
    refuse_as_a_run_would(plan, folder, overwrite, strict)
    if overwrite:
        # What is there would be deleted; in a folder that cannot be, nothing is done yet.
        folder = place_directory(out / "none", place)
    refuse_unwritable(out)
    predictors = tiles_at_once(plan.numerics, compute.memory_gb)
    need = estimate(plan, folder, predictors, compute.workers, formats)
    return SlideEstimate(
        slide=name,
        model=plan.model.card.name,
        mpp=plan.scale.mpp,
        mpp_source=plan.scale.source,
        estimate=need,
        warnings=tuple(warning["message"] for warning in warnings),
        is_of_this_machine=compute.cluster is not None,
    )
