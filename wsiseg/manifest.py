"""What `run.json` says: how a run was made, what it gave, what to be careful about."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from wsiseg.assemble import CellCounts, Stopwatch, class_colours, stitch_counts_json
from wsiseg.plan import RunPlan
from wsiseg.predict import TileReport, peak_memory_mb
from wsiseg.results import Result
from wsiseg.rundir import RESULT_VERSION, RUN_FORMAT_VERSION
from wsiseg.side_files import RESEARCH_USE


def started_run(plan: RunPlan, started: str) -> dict[str, Any]:
    """Return what is known of a run before its tiles."""
    info, frame = plan.slide.info, plan.frame
    slide = asdict(info) | {
        "levels": [asdict(level) for level in info.levels],
        "bounds": list(asdict(info.bounds).values()),
        "mpp": plan.scale.mpp,
        "mpp_source": plan.scale.source,
    }
    no_area = None if plan.analysed_mm2 > 0 else "no tissue was found"
    return {
        "format": "wsiseg-run",
        "format_version": RUN_FORMAT_VERSION,
        "result_version": RESULT_VERSION,
        "wsiseg_version": version("wsiseg"),
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
        "warnings": list(plan.warnings),
    }


def cell_fields(counts: CellCounts) -> dict[str, Any]:
    """Return what stitching adds."""
    return {
        "n_cells": counts.n_cells,
        "counts": counts.by_class,
        "stitch": stitch_counts_json(counts),
    }


def late_warnings(plan: RunPlan, result: Result, counts: CellCounts) -> list[dict[str, str]]:
    """Return what only the cells can tell."""
    warnings = []
    if not plan.tiles:
        message = "no tissue was found, so nothing was analysed; --tissue none takes everything"
        warnings.append({"code": "no-tissue", "message": message})
    low, high = plan.model.card.nuclear_area_um2
    median = result.summary()["total"]["median_area_um2"]
    if median is not None and not low <= median <= high:
        warnings.append(
            {
                "code": "nuclear-size",
                "message": f"the median nuclear area is {median:.1f} µm², outside the {low:g} to "
                f"{high:g} µm² this model was made for; the slide's µm per pixel may be wrong",
            }
        )
    if counts.n_cut:
        message = f"{counts.n_cut} nuclei are larger than a tile's margin and may lack a part"
        warnings.append({"code": "cut", "message": message})
    return warnings


def stage_seconds(watch: Stopwatch, reports: Sequence[TileReport]) -> dict[str, float]:
    """Return wall-clock seconds by stage, and the summed busy seconds inside tiles."""
    busy = {
        f"tiles_{stage}_busy": sum(report["seconds"][stage] for report in reports)
        for stage in ("read", "predict", "decode")
    }
    return {name: round(spent, 3) for name, spent in (watch.seconds | busy).items()}


def peak_of_processes(reports: Sequence[TileReport]) -> float:
    """Return the sum over processes of the largest resident size each had, in MB."""
    peaks = {os.getpid(): peak_memory_mb()}
    for report in reports:
        # Reports of an earlier call come from files and do not name a process.
        if "process" in report:
            process = report["process"]
            peaks[process] = max(peaks.get(process, 0.0), report["peak_memory_mb"])
    return round(sum(peaks.values()), 1)
