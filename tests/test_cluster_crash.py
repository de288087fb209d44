"""What ends a worker process is found out, and others do not pay for it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cluster_tasks import end_process, process_and_gpu

from wsiseg.cluster import ClusterOptions, SlidesOnDask, cluster_client
from wsiseg.errors import TileCrashed
from wsiseg.models import Numerics
from wsiseg.pipeline import segment_planned
from wsiseg.plan import PlanOptions, plan_run
from wsiseg.results import Result
from wsiseg.rundir import RunDir
from wsiseg.runners import RunInTurn, TileRunner
from wsiseg.slides import Slide
from wsiseg.testing.crashing import CrashingSlide
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MPP = 0.5
BAD = (1, 0)
"""Row and column of the tile whose middle ends the process that reads it."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let Dask keep what it says about processes that die to itself."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def run(slide: Slide, out: Path, run_tiles: TileRunner, skip: bool) -> Result:
    options = PlanOptions(skip_bad_tiles=skip)
    plan = plan_run(slide, LocalNetwork(mpp=MPP), Numerics(batch_size=2), options)
    return segment_planned(plan, RunDir(out / slide.info.name), run_tiles, formats=())


def slides_of(seed: int) -> tuple[ArraySlide, CrashingSlide]:
    rgb = paint_tissue(512, 768, 800, seed)
    crash_px = (BAD[1] * 256 + 128, BAD[0] * 256 + 128)
    return ArraySlide(rgb, MPP, name="good.png"), CrashingSlide(rgb, MPP, crash_px, "bad.png")


def test_the_tile_that_ends_its_process_is_found_and_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Found as soon as Dask blames a task for the first time.
    monkeypatch.setattr("wsiseg.cluster.local._ALLOWED_FAILURES", 0)
    good, bad = slides_of(seed=1)
    alone = run(good, tmp_path / "alone", RunInTurn(), skip=False)
    where = ClusterOptions(workers=1)
    with cluster_client(where) as client, SlidesOnDask(client) as slides:
        with ThreadPoolExecutor(2) as threads:
            both = [
                threads.submit(run, slide, tmp_path / "out", slides.run_tiles, True)
                for slide in (good, bad)
            ]
            results = [done.result() for done in both]
        assert len(client.nthreads()) == 1
    reference = pq.read_table(alone.path / "cells.parquet")
    assert pq.read_table(results[0].path / "cells.parquet").equals(reference)
    assert results[0].warnings == alone.warnings
    (warning,) = (each for each in results[1].warnings if each["code"] == "unreadable-tiles")
    assert "1 of 6 tiles were left out" in warning["message"]
    assert "the process that ran it died, also when it ran alone" in warning["message"]
    tiles = pq.read_table(results[1].path / "tiles.parquet").to_pylist()
    assert [(each["row"], each["col"]) for each in tiles if each["n_cells"] == 0] == [BAD]
    # Cells elsewhere are those of the whole slide.
    x, y = (np.asarray(results[1].cells()[name]) for name in ("x", "y"))
    assert len(x) > 0.7 * reference.num_rows
    assert not ((x < 200) & (y > 312)).any()


@pytest.mark.slow
def test_a_bad_tile_fails_its_slide_alone(tmp_path: Path) -> None:
    good, bad = slides_of(seed=2)
    where = ClusterOptions(workers=2)
    with cluster_client(where) as client, SlidesOnDask(client) as slides:
        with ThreadPoolExecutor(3) as threads:
            failing = threads.submit(run, bad, tmp_path, slides.run_tiles, False)
            whole = threads.submit(slides.run_whole, end_process, None, "c.png")
            fine = threads.submit(run, good, tmp_path, slides.run_tiles, False)
            with pytest.raises(TileCrashed, match=r"c\.png: .*; run it tile by tile to find out"):
                whole.result()
            said = r"bad\.png: tile in row 1, column 0: the process .* --skip-bad-tiles"
            with pytest.raises(TileCrashed, match=said):
                failing.result()
            assert fine.result().summary()["total"]["n"] > 50
        assert len(client.nthreads()) == 2


@pytest.mark.slow
def test_workers_killed_at_random_change_nothing(tmp_path: Path) -> None:
    good, _ = slides_of(seed=3)
    alone = run(good, tmp_path / "alone", RunInTurn(), skip=False)
    where = ClusterOptions(workers=2)
    with (
        cluster_client(where) as client,
        SlidesOnDask(client) as slides,
        ThreadPoolExecutor(4) as threads,
    ):
        running = [
            threads.submit(run, good, tmp_path / str(k), slides.run_tiles, False) for k in range(3)
        ]
        for _ in range(4):
            process, _ = slides.run_whole(process_and_gpu, 0, "a.png")
            os.kill(process, signal.SIGKILL)
            time.sleep(1)
        results = [done.result() for done in running]
    reference = pq.read_table(alone.path / "cells.parquet")
    for result in results:
        assert pq.read_table(result.path / "cells.parquet").equals(reference)
