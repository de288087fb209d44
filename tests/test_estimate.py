"""What a dry run says, against what the run then does."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsiseg.estimate import TileCost, _tiles_s, estimate, measure_tiles
from wsiseg.models import Numerics
from wsiseg.pipeline import segment_planned, tile_job
from wsiseg.plan import PlanOptions, RunPlan, plan_run
from wsiseg.rundir import RunDir
from wsiseg.runners import RunHere
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

START_S = 4.5
"""Starting Python and torch; a run called from a test has started."""


def _plan(
    height_px: int = 1500, width_px: int = 1400, pause_s: float = 0.0, batch_size: int = 1
) -> RunPlan:
    rgb = paint_tissue(height_px, width_px, 500, seed=3)
    slide = ArraySlide(rgb, mpp=0.5, downsamples=(1, 4), name="painted.png")
    model = LocalNetwork(pause_s=pause_s)
    return plan_run(slide, model, Numerics(batch_size=batch_size), PlanOptions(tissue=None))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in which temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.alone
def test_an_estimate_comes_near_the_run_and_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    plan, folder = _plan(pause_s=0.35), RunDir(tmp_path / "out" / "painted.png.wsiseg")
    # Where numba's cache is empty functions are compiled first: no part of any estimate.
    segment_planned(_plan(300, 300), RunDir(scratch / "warm.wsiseg"), RunHere(1))
    said = estimate(plan, folder, predictors=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]
    assert [path.name for path in scratch.iterdir()] == ["warm.wsiseg"]

    start = time.perf_counter()
    result = segment_planned(plan, folder, RunHere(2))
    seconds = time.perf_counter() - start
    assert said.n_tiles == len(plan.tiles) == 36
    assert said.seconds - START_S == pytest.approx(seconds, rel=0.3)
    assert said.n_nuclei == pytest.approx(len(result.cells()), rel=0.2)
    assert said.disk_bytes == pytest.approx(_bytes(folder.path), rel=0.3)
    assert said.tissue_mm2 == pytest.approx(1500 * 1400 * 0.25e-6)
    assert said.peak_memory_mb == pytest.approx(result.run["peak_memory_mb"], rel=0.7)
    assert not said.is_guess


def test_files_of_tiles_are_as_large_as_said(tmp_path: Path) -> None:
    plan, folder = _plan(), RunDir(tmp_path)
    said = estimate(plan, folder, predictors=2)
    _run_tiles(plan, folder, 36)
    assert said.work_bytes == pytest.approx(_bytes(folder.work), rel=0.1)


def _run_tiles(plan: RunPlan, folder: RunDir, n: int) -> None:
    """Leave what a call that was stopped after n tiles leaves."""
    stopped = replace(plan, tiles=plan.tiles[:n])
    measured = [tile for tile, _ in stopped.tiles]
    folder.work.mkdir(exist_ok=True)
    assert len(list(RunHere(2)(tile_job(plan, folder), measured))) == n


def test_tiles_that_are_done_are_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder = _plan(), RunDir(tmp_path)
    # A known cost: what a busy machine makes of the seconds is another test's business.
    cost = TileCost(0.5, 1.0, 0.01, 1000.0, 500.0, 200.0, 40.0)
    monkeypatch.setattr("wsiseg.estimate.measure_tiles", lambda *_: cost)
    whole = estimate(plan, folder, predictors=2)
    _run_tiles(plan, folder, 30)
    rest = estimate(plan, folder, predictors=2)
    assert (whole.n_done, rest.n_done, rest.n_tiles) == (0, 30, 36)
    assert whole.seconds - rest.seconds == pytest.approx(30 * 0.5)
    assert (rest.disk_bytes, rest.work_bytes) == (whole.disk_bytes, whole.work_bytes)
    # Files of another run are not done.
    other = replace(plan, options=replace(plan.options, grid_offset_px=32))
    assert estimate(other, folder, predictors=2).n_done == 0


def test_a_finished_run_takes_no_time(tmp_path: Path) -> None:
    plan, folder = _plan(300, 300), RunDir(tmp_path / "painted.png.wsiseg")
    assert estimate(plan, folder, predictors=1).seconds > START_S
    segment_planned(plan, folder, RunHere(1))
    assert estimate(plan, folder, predictors=1).seconds == START_S


@pytest.mark.parametrize(("height_px", "width_px"), [(1, 1), (2000, 8), (300, 200)])
def test_any_slide_can_be_estimated(tmp_path: Path, height_px: int, width_px: int) -> None:
    said = estimate(_plan(height_px, width_px), RunDir(tmp_path), predictors=3)
    assert said.n_tiles >= 1
    assert said.seconds > START_S
    assert 0 < said.disk_bytes < 2e6


def test_a_slide_without_tissue_needs_next_to_nothing(tmp_path: Path) -> None:
    slide = ArraySlide(np.full((600, 600, 3), 245, np.uint8), mpp=0.5)
    plan = plan_run(slide, LocalNetwork(pause_s=9), Numerics(), PlanOptions())
    said = estimate(plan, RunDir(tmp_path), predictors=2)
    assert (said.n_tiles, said.n_nuclei, said.work_bytes) == (0, 0, 0)
    assert said.tissue_mm2 == 0
    assert said.seconds < START_S + 3


def test_what_dask_needs_is_a_guess(tmp_path: Path) -> None:
    plan = _plan(pause_s=0.05)
    here = estimate(plan, RunDir(tmp_path), predictors=1)
    there = estimate(plan, RunDir(tmp_path), predictors=1, workers=4)
    assert (here.is_guess, there.is_guess) == (False, True)
    # A process each, and the one that started them.
    assert there.peak_memory_mb == pytest.approx(5 * here.peak_memory_mb, rel=0.1)


@pytest.mark.parametrize(
    ("n_tiles", "at_once", "batch_size", "rounds"),
    [
        *((0, 2, 1, 0), (1, 2, 1, 1), (2, 2, 1, 1), (3, 2, 1, 2), (21, 2, 1, 11)),
        *((9, 1, 8, 2), (8, 1, 8, 1), (33, 2, 8, 3)),
    ],
)
def test_tiles_take_whole_rounds(n_tiles: int, at_once: int, batch_size: int, rounds: int) -> None:
    plan = _plan(300, 300, batch_size=batch_size)
    used = min(at_once, -(-n_tiles // batch_size))
    # A second for each tile of a round, shared by those that run at once.
    expected = rounds * used * batch_size * 1.0
    assert _tiles_s(plan, n_tiles, 1.0, at_once) == expected


def test_a_tile_costs_what_its_slowest_stage_does() -> None:
    plan = _plan(pause_s=0.3)
    tiles = [tile for tile, _ in plan.tiles]
    alone, pair = (measure_tiles(plan, tiles, at_once) for at_once in (1, 2))
    assert isinstance(alone, TileCost)
    assert alone.busy_s > 0.3
    assert alone.seconds >= 0.3
    # The pauses of two predictors pass at the same time.
    assert 0.15 <= pair.seconds < 0.75 * alone.seconds
    # Painted outlines: a nucleus of 7 px radius has about 40 vertices.
    assert 15 < alone.vertices_per_nucleus < 60
