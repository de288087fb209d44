"""Planning again what a finished run was, from its `run.json`, for a seam check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsiseg.api import ComputeOptions, plan_slide
from wsiseg.errors import ResultNotReadable, UnknownName, UsageError
from wsiseg.model_choice import NEAREST_MODEL
from wsiseg.models import MapsModel, load_model
from wsiseg.plan import PlanOptions, RunPlan
from wsiseg.results import Result
from wsiseg.rundir import RESULT_VERSION
from wsiseg.scale import ScaleOptions
from wsiseg.slides import Slide, open_slide
from wsiseg.stitch import StitchOptions
from wsiseg.tissue import TissueOptions

_AGAIN = "segment the slide again with --overwrite"


def is_run(path: Path) -> bool:
    """Return whether a path is a run's directory, rather than a slide."""
    return path.is_dir() and (path.suffix == ".wsiseg" or (path / "run.json").is_file())


@contextmanager
def plan_of_run(
    result: Result,
    slide: str | Path | Slide | None,
    model: str | Path | MapsModel,
    compute: ComputeOptions,
) -> Iterator[RunPlan]:
    """Open a run's slide and plan the run again.

    Parameters
    ----------
    result : Result
        The finished run.
    slide : str, Path or Slide or None
        Its slide.
    model : str, Path or MapsModel
        `"auto"`: the shipped model of the run's name.
    compute : ComputeOptions
        Only `workers` counts.

    Raises
    ------
    UsageError
        If it is another slide or model, or `compute` says what the run settles.
    ResultNotReadable
        If this version of wsiseg would give other cells.
    """
    name = result.path.name
    if slide is None:
        raise UsageError(
            f"{name} does not say where its slide lies; name {result.name} with --slide"
        )
    if replace(compute, workers=None, memory_gb=None) != ComputeOptions():
        raise UsageError(
            f"{name}: device, precision, batch size and tta are the run's own; leave them out"
        )
    made = result.run.get("result_version")
    if made != RESULT_VERSION:
        raise ResultNotReadable(
            f"{name} has result version {made}, this wsiseg makes {RESULT_VERSION}, with other "
            f"cells; {_AGAIN}"
        )
    try:
        options, numerics = _options_of(result), result.run["numerics"]
        own = replace(
            compute,
            device=numerics["device_kind"],
            precision=numerics["precision"],
            batch_size=numerics["batch_size"],
            tta=numerics.get("tta", "none"),
        )
        reader, fingerprint = result.run["slide"]["reader"], result.run["slide"]["fingerprint"]
        sha256, identity = result.run["model"]["sha256"], result.run["identity"]
    except (KeyError, TypeError) as error:
        raise ResultNotReadable(
            f"{name}/run.json is damaged: it lacks {error}; {_AGAIN}"
        ) from error
    with _opened(slide, reader) as opened:
        if opened.info.fingerprint != fingerprint:
            raise UsageError(
                f"{opened.info.name} is not the slide of {name}: their fingerprints differ "
                f"({opened.info.fingerprint[:12]}…, {fingerprint[:12]}…); give the file that "
                "was segmented"
            )
        chosen = _model_of(result, model, sha256)
        with plan_slide(opened, chosen, options=options, compute=own) as plan:
            _refuse_another_run(name, plan, identity)
            yield plan


@contextmanager
def _opened(slide: str | Path | Slide, reader: str) -> Iterator[Slide]:
    """Open a path with the run's reader; leave a caller's slide open."""
    if isinstance(slide, str | Path):
        with open_slide(slide, reader) as opened:
            yield opened
    else:
        yield slide


def _options_of(result: Result) -> PlanOptions:
    """Return the options a run was made with."""
    said, tissue = result.run["options"], result.run["identity"]["tissue"]
    if isinstance(tissue, Mapping) and "file" in tissue:
        # What was given is kept as it was used.
        used: TissueOptions | Path | None = result.path / "tissue.geojson"
    else:
        used = None if tissue == "none" else TissueOptions(**tissue)
    return PlanOptions(
        scale=ScaleOptions(**said["scale"]),
        tissue=used,
        roi=result.path / "regions.geojson" if result.regions else None,
        stitch=StitchOptions(**said["stitch"]),
        grid_offset_px=said["grid_offset_px"],
        measure=said["measure"],
    )


def _model_of(result: Result, model: str | Path | MapsModel, sha256: str) -> MapsModel:
    wanted = result.model_name if model == NEAREST_MODEL else model
    try:
        found = load_model(wanted)
    except UnknownName as error:
        if model != NEAREST_MODEL:
            raise
        raise UsageError(
            f"{result.path.name} was made with the model {result.model_name}, which is not "
            "shipped; name its folder with --model"
        ) from error
    if found.card.sha256 != sha256:
        raise UsageError(
            f"{result.path.name} was made with the model {result.model_name} (sha256 "
            f"{sha256[:12]}…), {found.card.name} has {found.card.sha256[:12]}…; name the folder "
            "of the run's model with --model"
        )
    return found


def _refuse_another_run(name: str, plan: RunPlan, identity: Mapping[str, Any]) -> None:
    """Raise UsageError unless the plan's tiles would be those of the run."""
    differing = [key for key, value in plan.tile_identity.items() if identity.get(key) != value]
    if differing:
        raise UsageError(
            f"{name} cannot be run again as it was: {', '.join(differing)} would differ; check "
            "the slide itself, without the run"
        )
