"""What comes after tiles begins while tiles still run, and ends when they fail."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsiseg
from wsiseg._spool import CellSpool
from wsiseg.errors import OutputNotWritable
from wsiseg.exporters import ome_zarr
from wsiseg.models import Numerics
from wsiseg.pipeline import run_directory, segment_planned
from wsiseg.plan import PlanOptions, plan_run
from wsiseg.predict import TileJob, TileReport
from wsiseg.records import Cells, Tile
from wsiseg.runners import RunHere
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)
SLIDE = ArraySlide(paint_tissue(1300, 700, 800, seed=3), mpp=0.5)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ome_zarr, "CHUNK_PX", 128)
    monkeypatch.setattr(ome_zarr, "SHARD_PX", 256)


@pytest.mark.usefixtures("small_shards")
def test_shards_are_painted_before_the_last_tile_runs(tmp_path: Path) -> None:
    plan = plan_run(SLIDE, MODEL, Numerics(), PlanOptions(tissue=None))
    folder = run_directory(tmp_path, SLIDE.info.name)
    painted: list[int] = []

    def run(job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        yield from RunHere()(job, tiles[:-1])
        deadline = time.monotonic() + 300
        # Of five rows of shards three can have all their cells before the last tile.
        while len(shards()) < 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        painted.append(len(shards()))
        yield from RunHere()(job, tiles[-1:])

    def shards() -> list[Path]:
        return list(folder.path.glob(".masks.zarr.*/labels/nuclei/0/c/*/*"))

    result = segment_planned(plan, folder, run)
    assert painted == [9]
    assert len(list(result.path.glob("masks.zarr/labels/nuclei/0/c/*/*"))) == 18
    assert not list(result.path.glob(".*"))


def test_a_full_disk_behind_the_tiles_ends_the_run_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: CellSpool, cells: Cells) -> None:
        raise OutputNotWritable("cells cannot be kept (No space left on device)")

    monkeypatch.setattr(CellSpool, "add", full)
    slow = LocalNetwork(mpp=0.5, core_px=128, margin_px=64, pause_s=0.05)
    with pytest.raises(OutputNotWritable, match="No space left"):
        wsiseg.segment(SLIDE, tmp_path, model=slow, options=PlanOptions(tissue=None))
    folder = run_directory(tmp_path, SLIDE.info.name)
    n_run = len(list(folder.work.glob("tile_*")))
    assert 6 <= n_run < 50, "of 66 tiles"
    assert json.loads(folder.run_json.read_text())["status"] == "failed"
    assert not list(folder.path.glob(".*"))
    monkeypatch.undo()
    again = wsiseg.segment(SLIDE, tmp_path, model=slow, options=PlanOptions(tissue=None))
    assert again.summary()["total"]["n"] > 100


def test_a_run_that_is_stopped_leaves_nothing_half_done(tmp_path: Path) -> None:
    def stop(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("tiles", 9):
            raise KeyboardInterrupt

    with pytest.raises(wsiseg.WsisegError, match="call the same command again"):
        wsiseg.segment(SLIDE, tmp_path, model=MODEL, progress=stop)
    names = {path.name for path in run_directory(tmp_path, SLIDE.info.name).path.iterdir()}
    assert names == {"work", "run.json", "log.txt"}


def test_a_stop_while_painting_does_not_wait_for_the_last_shard(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[float] = []
    paint = ome_zarr.paint_box

    def slow(*given: Any) -> Any:
        time.sleep(0.5)
        painted.append(time.monotonic())
        return paint(*given)

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "cells":
            raise KeyboardInterrupt

    monkeypatch.setattr(ome_zarr, "paint_box", slow)
    with pytest.raises(wsiseg.WsisegError, match="call the same command again"):
        wsiseg.segment(
            SLIDE, tmp_path, model=MODEL, options=PlanOptions(tissue=None), progress=stop
        )
    assert len(painted) < 18
    names = {path.name for path in run_directory(tmp_path, SLIDE.info.name).path.iterdir()}
    assert names - {"cells.parquet", "features.parquet"} == {"work", "run.json", "log.txt"}


@pytest.mark.alone
def test_stages_in_turn_add_up_and_busy_ones_stand_beside(tmp_path: Path) -> None:
    start = time.perf_counter()
    result = wsiseg.segment(SLIDE, tmp_path, model=MODEL)
    whole_s = time.perf_counter() - start
    seconds = result.run["seconds"]
    in_turn = {name for name in seconds if not name.endswith("_busy")}
    assert in_turn == {"plan", "tiles", "cells", "exports", "pictures"}
    assert sum(seconds[name] for name in in_turn) == pytest.approx(whole_s, rel=0.3)
    assert set(seconds) - in_turn == {
        f"{name}_busy"
        for name in (
            *("tiles_read", "tiles_predict", "tiles_decode", "tiles_quality", "tiles_measure"),
            *("tile_files", "stitch", "spool", "measure", "table", "features", "masks"),
        )
    }
    assert all(s >= 0 for s in seconds.values())
    assert seconds["stitch_busy"] < seconds["tiles"] + seconds["cells"]


def test_rows_of_tiles_without_a_nucleus_are_no_trouble(tmp_path: Path) -> None:
    rgb = np.full((1300, 700, 3), 245, np.uint8)
    rgb[1100:1104, 300:304] = rgb[20:40, 20:40] = (88, 52, 120)
    slide = ArraySlide(rgb, mpp=0.5)
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(tissue=None))
    assert result.summary()["total"]["n"] == 1
