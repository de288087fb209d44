"""What `run.json` says: how a run was made, what it gave, what to be careful about."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import shapely

from wsiseg.assemble import CellCounts, class_colours, stitch_counts_json
from wsiseg.geometry import Box
from wsiseg.machine import PeakMemory
from wsiseg.models import ModelCard
from wsiseg.plan import RunPlan, RunWarning
from wsiseg.predict import TileReport
from wsiseg.quality import TileQuality, slide_warnings
from wsiseg.regions import Region, area_px2, union_of
from wsiseg.results import Result
from wsiseg.rundir import RESULT_VERSION, RUN_FORMAT_VERSION
from wsiseg.side_files import RESEARCH_USE
from wsiseg.stopwatch import Stopwatch
from wsiseg.tiles import plan_tiles

_NO_AREA_MM2 = 1e-9
"""Less is what rounding leaves."""
_LEAST_PROBED = 30
"""Nuclei below which their median size says nothing."""


def started_run(plan: RunPlan, started: str) -> dict[str, Any]:
    """Return what is known of a run before its tiles."""
    info, frame = plan.slide.info, plan.frame
    slide = asdict(info) | {
        "levels": [asdict(level) for level in info.levels],
        "bounds": list(asdict(info.bounds).values()),
        "mpp": plan.scale.mpp,
        "mpp_source": plan.scale.source,
        "stamp": None if plan.stamp is None else plan.stamp.to_json(),
    }
    nothing = "no tissue in the regions" if plan.regions else "no tissue was found"
    no_area = None if plan.analysed_mm2 > 0 else nothing
    return {
        "format": "wsiseg-run",
        "format_version": RUN_FORMAT_VERSION,
        "result_version": RESULT_VERSION,
        "wsiseg_version": version("wsiseg"),
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "openslide-python")},
        },
        "use": RESEARCH_USE,
        "status": "running",
        "error": None,
        "started_utc": started,
        "finished_utc": None,
        "slide": slide,
        "frame": asdict(frame) | {"mpp": plan.model_mpp},
        "model": {
            "name": plan.model.card.name,
            "sha256": plan.model.card.sha256,
            "card": plan.model.card.to_json(),
        },
        "identity": plan.identity,
        "options": {
            "scale": asdict(plan.options.scale),
            "tissue": plan.identity["tissue"],
            "stitch": asdict(plan.options.stitch),
            "measure": list(plan.options.measure),
            "decode": plan.decode.to_json(),
            "grid_offset_px": plan.options.grid_offset_px,
        },
        "numerics": plan.numerics.to_json() | {"platform": platform.machine()},
        "run_key": plan.run_key,
        "classes": [
            {"name": name, "index": index + 1, "rgb": list(rgb)}
            for index, (name, rgb) in enumerate(class_colours(plan).items())
        ],
        "analysed_mm2": plan.analysed_mm2,
        "no_density_reason": no_area,
        "tiles": {
            "planned": plan.grid.n_rows * plan.grid.n_cols,
            "run": len(plan.tiles),
            "unreadable": [],
        },
        "regions": [
            {
                "name": region.name,
                "class": region.class_name,
                "kind": region.kind,
                "missing": region.missing,
                "uuid": region.uuid,
                "analysed_mm2": area_mm2,
            }
            for region, area_mm2 in zip(plan.regions, plan.region_mm2, strict=True)
        ],
        "warnings": [*plan.warnings, *plan.first_look],
    }


def cell_fields(counts: CellCounts) -> dict[str, Any]:
    """Return what stitching adds."""
    return {
        "n_cells": counts.n_cells,
        "counts": counts.by_class,
        "stitch": stitch_counts_json(counts),
    }


def left_out_fields(
    plan: RunPlan, record: Mapping[str, Any], reports: Sequence[TileReport]
) -> dict[str, Any]:
    """Return what tiles that were left out change: they are listed, and their area is not analysed.

    Parameters
    ----------
    plan : RunPlan
        What was run.
    record : mapping
        What `run.json` says so far.
    reports : sequence of TileReport
        Of all tiles.
    """
    left_out = [report for report in reports if "unreadable" in report]
    if not left_out:
        return {}
    cores = {(tile.row, tile.col): tile.core for tile, _ in plan.tiles}
    boxes = [_level0_box(cores[r["row"], r["col"]], plan) for r in left_out]
    lost = shapely.union_all([shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes])
    regions = [
        entry
        | {"analysed_mm2": max(0.0, entry["analysed_mm2"] - _tissue_mm2(plan, [region], lost))}
        for entry, region in zip(record["regions"], plan.regions, strict=True)
    ]
    counted = [region for region in plan.regions if not region.missing]
    without = 0.0 if plan.regions and not counted else _tissue_mm2(plan, counted, lost)
    left_mm2 = plan.analysed_mm2 - without
    analysed_mm2 = left_mm2 if left_mm2 > _NO_AREA_MM2 else 0.0
    listed = [
        {"row": report["row"], "col": report["col"], "box": box, "reason": report["unreadable"]}
        for report, box in zip(left_out, boxes, strict=True)
    ]
    none_left = None if analysed_mm2 else "no tile could be read"
    return {
        "analysed_mm2": analysed_mm2,
        "no_density_reason": record["no_density_reason"] or none_left,
        "regions": regions,
        "tiles": {**record["tiles"], "unreadable": listed},
    }


def _level0_box(core: Box, plan: RunPlan) -> list[float]:
    """Return x, y, width, height in level-0 px of a core, as far as there is slide."""
    box, scale = core.intersection(plan.frame.box), plan.frame.scale
    return [box.x_px * scale, box.y_px * scale, box.width_px * scale, box.height_px * scale]


def _tissue_mm2(plan: RunPlan, regions: Sequence[Region], shape: Any) -> float:
    """Return the tissue in a shape and, if there are any, in the regions."""
    info = plan.slide.info
    within = shape.intersection(union_of(regions)) if regions else shape
    size_px = (info.width_px, info.height_px)
    return area_px2(within, plan.area.inside, plan.area.frame, size_px) * plan.scale.mpp**2 / 1e6


def warnings_of_cells(
    plan: RunPlan, result: Result, counts: CellCounts, reports: Sequence[TileReport]
) -> list[RunWarning]:
    """Return what all tiles and cells tell; without a tile, what the first look told."""
    warnings = tile_warnings(plan, reports) if reports else list(plan.first_look)
    warnings += _left_out(reports, plan.analysed_mm2 - result.analysed_mm2)
    if plan.analysed_mm2 == 0:
        what = "the regions hold no tissue" if plan.regions else "no tissue was found"
        message = f"{what}, so nothing was analysed; --tissue none takes everything for tissue"
        warnings.append({"code": "no-tissue", "message": message})
    median = result.summary()["total"]["median_area_um2"]
    warnings += _nuclear_size(plan.model.card, median)
    if counts.n_cut:
        message = f"{counts.n_cut} nuclei are larger than a tile's margin and may lack a part"
        warnings.append({"code": "cut", "message": message})
    return warnings


def _left_out(reports: Sequence[TileReport], lost_mm2: float) -> list[RunWarning]:
    reasons = [report["unreadable"] for report in reports if "unreadable" in report]
    if not reasons:
        return []
    message = (
        f"{len(reasons)} of {len(reports)} tiles were left out ({lost_mm2:.3g} mm² of tissue, not "
        f"part of any density); the first: {reasons[0]}"
    )
    return [{"code": "unreadable-tiles", "message": message}]


def tile_warnings(plan: RunPlan, reports: Sequence[TileReport]) -> list[RunWarning]:
    """Return what tiles tell of the slide's stain, focus, ink and the network's confidence."""
    counted = plan_tiles(plan.grid, plan.counted)
    # Tiles that ran only for the sake of a neighbouring region say nothing of it.
    shares = {(tile.row, tile.col): share for tile, share in counted}
    measured = [
        (TileQuality.from_json(report["quality"]), shares.get((report["row"], report["col"]), 0.0))
        for report in reports
        if "unreadable" not in report
    ]
    confidence = [(report["mean_confidence"], report["n_own"]) for report in reports]
    return slide_warnings(measured, plan.model.card.appearance, confidence)


def probe_warnings(plan: RunPlan, reports: Sequence[TileReport]) -> list[RunWarning]:
    """Return what a few tiles tell of nuclear size and confidence, from enough nuclei.

    Stain, focus and ink were judged at first look, on more places than these.
    """
    sized = [report for report in reports if report["median_area_px"] is not None]
    if sum(report["n_own"] for report in sized) < _LEAST_PROBED:
        return []
    areas = np.repeat([r["median_area_px"] for r in sized], [r["n_own"] for r in sized])
    median_um2 = float(np.median(areas)) * plan.model_mpp**2
    confidence = [(report["mean_confidence"], report["n_own"]) for report in sized]
    return [*_nuclear_size(plan.model.card, median_um2), *slide_warnings([], None, confidence)]


def _nuclear_size(card: ModelCard, median_um2: float | None) -> list[RunWarning]:
    low, high = card.nuclear_area_um2
    if median_um2 is None or low <= median_um2 <= high:
        return []
    message = (
        f"the median nuclear area is {median_um2:.1f} µm², outside the {low:g} to {high:g} µm² "
        "this model was made for; the slide's µm per pixel may be wrong"
    )
    return [{"code": "nuclear-size", "message": message}]


def stage_seconds(watch: Stopwatch, reports: Sequence[TileReport]) -> dict[str, float]:
    """Return the seconds of `run.json`.

    Names that end in `_busy` are sums over threads and processes, of stages that run at the
    same time; the others follow one after the other, and add up to the whole.
    """
    in_tiles = {
        f"tiles_{stage}_busy": sum(report["seconds"][stage] for report in reports)
        for stage in ("read", "predict", "decode", "quality", "measure")
    }
    spent = {name: s for name, s in watch.seconds.items() if name != "waiting"} | in_tiles
    in_turn = {name: s for name, s in spent.items() if not name.endswith("_busy")}
    busy = {name: s for name, s in spent.items() if name.endswith("_busy")}
    return {name: round(s, 3) for name, s in (in_turn | busy).items()}


def peak_of_processes(peak: PeakMemory, reports: Sequence[TileReport]) -> float:
    """Return the peak memory of a run in MB.

    That of this process and all below it, at the same time and shared pages counted once;
    of workers elsewhere, which cannot be seen from here, the largest each has had.
    """
    elsewhere: dict[int, float] = {}
    for report in reports:
        # Reports of an earlier call come from files and do not name a process.
        process = report.get("process")
        if process is not None and process not in peak.processes:
            elsewhere[process] = max(elsewhere.get(process, 0.0), report["peak_memory_mb"])
    return round(peak.mb + sum(elsewhere.values()), 1)
