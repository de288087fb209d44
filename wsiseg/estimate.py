"""How long a run will take, and how much room, from a few of its tiles run on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsiseg._disk_need import coarse_frames, nuclei_bytes, picture_bytes
from wsiseg.features import feature_columns
from wsiseg.geometry import Frame
from wsiseg.machine import cores, peak_memory_mb
from wsiseg.outlines import trace_outlines
from wsiseg.pipeline import tile_job
from wsiseg.plan import RunPlan
from wsiseg.predict import TileReport
from wsiseg.records import Tile
from wsiseg.rundir import RunDir, read_run_json, read_tile_file, read_tile_report
from wsiseg.runners import RunHere

# Wall-clock seconds on two cores of a 2024 server; together a tenth of a small run.
_START_S = 4.5
"""Starting Python, importing torch, loading the model."""
_FINISH_S = 1.0
"""Overlay, exports and records of a run with few nuclei."""
_SECONDS_PER_NUCLEUS = 180e-6
"""Stitching, measuring, painting, exporting."""
_SECONDS_PER_MODEL_MPX = 0.012
"""Label pyramids: painting what is mostly empty."""
_DASK_START_S = 6.0
"""A cluster's processes start, and each imports torch."""

_LEAST_MEASURED = 4
_MOST_MEASURED = 12
_PAINTING_MB = 350.0
"""Four shards of 4096² px with both labels, at a time when tiles are done."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run needs."""

    tissue_mm2: float
    """Area that counts."""
    n_tiles: int
    """Tiles of the run."""
    n_done: int
    """Of these, tiles that an earlier call has finished."""
    n_nuclei: int
    """Nuclei, from the tiles looked at."""
    seconds: float
    """Wall-clock, from the command's start to its end."""
    disk_bytes: int
    """Size of the finished run."""
    work_bytes: int
    """Tile files while it runs; they come on top and go at the end."""
    peak_memory_mb: float
    """Largest resident size, all processes together."""
    is_guess: bool
    """The seconds are for Dask workers or a GPU, where they were never held against real runs."""


@dataclass(frozen=True, slots=True)
class TileCost:
    """What a tile costs, on average over a few."""

    seconds: float
    """Wall-clock, with as many tiles at once as measured."""
    busy_s: float
    """In one thread: reading, predicting, decoding."""
    read_s: float
    """Of this, reading."""
    work_bytes: float
    """Size of its file."""
    peak_memory_mb: float
    """Largest resident size of this process so far."""
    nuclei_per_mm2: float
    """Nuclei per mm² of what counts."""
    vertices_per_nucleus: float
    """Vertices of an outline."""


def estimate(
    plan: RunPlan,
    folder: RunDir,
    predictors: int,
    workers: int | None = None,
    formats: Sequence[str] = ("geojson",),
) -> Estimate:
    """Estimate what carrying out a plan needs.

    A few tiles are run into a temporary folder, as many at once as the run would; nothing
    stays.

    Parameters
    ----------
    plan : RunPlan
        What would be done.
    folder : RunDir
        Where to; need not exist.  Tiles that are done there are not counted again.
    predictors : int
        Calls of the network at the same time in this process.
    workers : int, optional
        Dask processes that would run the tiles instead; the seconds are then a guess.
    formats : sequence of str
        Exports.

    Returns
    -------
    Estimate
        Measured on this machine, as busy as it is now.

    Raises
    ------
    TileNotReadable
        If the slide is damaged at a tile looked at.
    """
    missing = _missing_tiles(plan, folder)
    done = _is_done(plan, folder)
    n_done = len(plan.tiles) - (0 if done else len(missing))
    cost = measure_tiles(plan, missing or [tile for tile, _ in plan.tiles], predictors)
    n_nuclei = cost.nuclei_per_mm2 * plan.analysed_mm2
    disk = picture_bytes(plan, _spread([tile for tile, _ in plan.tiles], 6))
    columns = feature_columns(plan.options.measure, plan.model.card.class_names)
    n_vertices = n_nuclei * cost.vertices_per_nucleus
    disk += nuclei_bytes(n_nuclei, n_vertices, len(columns), formats)
    seconds = _START_S + _after_tiles_s(plan, n_nuclei, cost)
    if workers is None:
        seconds += _tiles_s(plan, len(missing), cost.seconds, predictors)
    else:
        at_once = min(workers, cores())
        seconds += _DASK_START_S + _tiles_s(plan, len(missing), cost.busy_s / at_once, workers)
    memory = cost.peak_memory_mb + _PAINTING_MB
    return Estimate(
        tissue_mm2=plan.analysed_mm2,
        n_tiles=len(plan.tiles),
        n_done=n_done,
        n_nuclei=round(n_nuclei),
        seconds=_START_S if done else seconds,
        disk_bytes=round(disk),
        work_bytes=0 if done else round(cost.work_bytes * len(plan.tiles)),
        peak_memory_mb=memory if workers is None else memory * (1 + workers) / predictors,
        is_guess=workers is not None or plan.numerics.device_kind != "cpu",
    )


def measure_tiles(
    plan: RunPlan, tiles: Sequence[Tile], predictors: int, least: int = _LEAST_MEASURED
) -> TileCost:
    """Run a few of the tiles and return what one costs.

    Parameters
    ----------
    plan : RunPlan
        The run they belong to.
    tiles : sequence of Tile
        Tiles to choose from; may be empty.
    predictors : int
        Calls of the network at the same time.
    least : int
        Tiles to measure if there are few.
    """
    if not tiles:
        return TileCost(0.0, 0.0, 0.0, 0.0, peak_memory_mb(), 0.0, 0.0)
    batch = plan.numerics.batch_size
    predictors = min(predictors, -(-len(tiles) // batch))
    at_once = min(predictors * batch, len(tiles))
    wanted = min(max(len(tiles) // 4, least), _MOST_MEASURED)
    measured = _spread(tiles, min(max(1, -(-wanted // at_once)) * at_once, len(tiles)))
    # The first calls load the model and find the fastest way through memory.
    warm = _spread(tiles, at_once)
    with tempfile.TemporaryDirectory(prefix="wsiseg-estimate-") as temporary:
        folder = RunDir(Path(temporary))
        folder.work.mkdir()
        job = tile_job(plan, folder)
        reports = list(RunHere(predictors)(job, [*warm, *measured]))[len(warm) :]
        return _cost(plan, folder, measured, reports, predictors)


def _cost(
    plan: RunPlan,
    folder: RunDir,
    tiles: Sequence[Tile],
    reports: Sequence[TileReport],
    predictors: int,
) -> TileCost:
    """Average over the tiles measured; nuclei also over those that warmed up."""
    stages = {name: _mean(reports, name) for name in reports[0]["seconds"]}
    busy = sum(stages.values())
    read, predict = stages["read"], stages["predict"]
    # Readers, predictors and decoders overlap until the cores are full.
    slowest = max(read, predict, busy - read - predict) / predictors
    on_gpu = plan.numerics.device_kind == "cuda"
    cores_bound = (busy - predict if on_gpu else busy) / cores()
    files = [folder.tile_file(tile) for tile in tiles]
    found = [read_tile_file(folder.tile_file(tile), plan.run_key, tile) for tile in tiles]
    vertices = [int(trace_outlines(one.instances).first_vertex[-1]) for one in found if one]
    n_found = sum(len(one.instances) for one in found if one)
    area = sum(_tissue_mm2(plan, tile) for tile in tiles)
    n_own = sum(report["n_own"] for report in reports)
    return TileCost(
        seconds=max(slowest, cores_bound),
        busy_s=busy,
        read_s=read,
        work_bytes=float(np.mean([file.stat().st_size for file in files])),
        peak_memory_mb=peak_memory_mb(),
        nuclei_per_mm2=n_own / area if area else 0.0,
        vertices_per_nucleus=sum(vertices) / n_found if n_found else 0.0,
    )


def _mean(reports: Sequence[TileReport], stage: str) -> float:
    return float(np.mean([report["seconds"][stage] for report in reports]))


def _tissue_mm2(plan: RunPlan, tile: Tile) -> float:
    """Return the area that counts in a tile's core."""
    share = next(share for planned, share in plan.tiles if planned == tile)
    inside_px = tile.core.intersection(plan.frame.box).area_px
    return share * inside_px * plan.model_mpp**2 / 1e6


def _tiles_s(plan: RunPlan, n_tiles: int, tile_s: float, at_once: int) -> float:
    """Return the seconds of all tiles: whole batches, the last round perhaps not full."""
    batch = plan.numerics.batch_size
    n_batches = -(-n_tiles // batch)
    at_once = max(1, min(at_once, n_batches))
    return -(-n_batches // at_once) * at_once * batch * tile_s


def _after_tiles_s(plan: RunPlan, n_nuclei: float, cost: TileCost) -> float:
    """Return the seconds of everything but tiles."""
    frames = coarse_frames(plan)
    # The tissue is found, and the thumbnail and the OME-Zarr picture made, from whole levels.
    overviews = [plan.area.frame, frames.thumbnail, frames.rgb]
    outer = plan.grid.tile(0, 0).outer.area_px * _source_px_per_px(plan, plan.frame)
    source = sum(frame.box.area_px * _source_px_per_px(plan, frame) for frame in overviews)
    return (
        _FINISH_S
        + n_nuclei * _SECONDS_PER_NUCLEUS
        + plan.frame.box.area_px / 1e6 * _SECONDS_PER_MODEL_MPX
        + cost.read_s * source / outer
    )


def _source_px_per_px(plan: RunPlan, frame: Frame) -> float:
    """Return how many pixels of the slide's level are read for one of a frame."""
    finer = [level.downsample for level in plan.slide.info.levels]
    source = max((step for step in finer if step <= frame.scale * (1 + 1e-9)), default=1.0)
    return float((frame.scale / source) ** 2)


def _missing_tiles(plan: RunPlan, folder: RunDir) -> list[Tile]:
    return [
        tile
        for tile, _ in plan.tiles
        if read_tile_report(folder.tile_file(tile), plan.run_key) is None
    ]


def _is_done(plan: RunPlan, folder: RunDir) -> bool:
    found = read_run_json(folder.run_json) or {}
    return found.get("status") == "done" and found.get("identity") == plan.identity


def _spread(tiles: Sequence[Tile], n: int) -> list[Tile]:
    """Return n of the tiles, the middles of n equal parts; some twice if there are fewer."""
    return [tiles[(2 * k + 1) * len(tiles) // (2 * n)] for k in range(n)] if tiles else []
