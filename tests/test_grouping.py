"""Where, when and in which order tiles run never matters: same input, same cells."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wsiseg
from wsiseg.models.numerics import Numerics
from wsiseg.pipeline import run_directory, segment_planned
from wsiseg.plan import PlanOptions, plan_run
from wsiseg.predict import TileJob, TileReport
from wsiseg.records import Tile
from wsiseg.runners import RunHere
from wsiseg.scale import ScaleOptions
from wsiseg.slides import open_slide
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue

MPP = 0.5
GRID_TILES = 24
"""4 rows × 6 columns; most of the last column shows glass only and is not run."""


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("painted") / "painted.png"
    Image.fromarray(paint_tissue(900, 1300, 1500, seed=4, border_px=60)).save(path)
    return path


@pytest.fixture(scope="module")
def reference(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Cells of an undisturbed run in this process, and hashes of what the network saw."""
    out, record = tmp_path_factory.mktemp("reference"), tmp_path_factory.mktemp("seen")
    result = wsiseg.segment(picture, out, model=network(record), scale=MPP)
    assert result.summary()["total"]["n"] > 500
    seen = hashes(record)
    assert len(seen) == result.run["tiles"]["run"] < result.run["tiles"]["planned"] == GRID_TILES
    return result.path, seen


def network(record: Path, pause_s: float = 0.0) -> LocalNetwork:
    return LocalNetwork(mpp=MPP, core_px=256, margin_px=64, record=record, pause_s=pause_s)


def hashes(record: Path) -> set[str]:
    return {path.name for path in record.iterdir()}


def check_equal(result_path: Path, reference: tuple[Path, set[str]], record: Path) -> None:
    expected = pq.read_table(reference[0] / "cells.parquet")
    assert pq.read_table(result_path / "cells.parquet").equals(expected)
    features = pq.read_table(reference[0] / "features.parquet")
    assert pq.read_table(result_path / "features.parquet").equals(features)
    assert hashes(record) == reference[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_dask_workers_give_the_cells_of_one_process(
    workers: int, picture: Path, reference: tuple[Path, set[str]], tmp_path: Path
) -> None:
    record = tmp_path / "seen"
    record.mkdir()
    result = wsiseg.segment(
        picture,
        tmp_path / "out",
        model=network(record),
        scale=MPP,
        compute=wsiseg.ComputeOptions(workers=workers),
    )
    check_equal(result.path, reference, record)


def test_shuffled_tiles_give_the_same_cells(
    picture: Path, reference: tuple[Path, set[str]], tmp_path: Path
) -> None:
    record = tmp_path / "seen"
    record.mkdir()

    def shuffled(job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        order = np.random.default_rng(1).permutation(len(tiles))
        assert order.tolist() != sorted(order.tolist())
        return RunHere(predictors=3)(job, [tiles[i] for i in order])

    options = PlanOptions(scale=ScaleOptions(mpp=MPP))
    with open_slide(picture) as slide:
        plan = plan_run(slide, network(record), Numerics(), options)
        folder = run_directory(tmp_path / "out", slide.info.name)
        result = segment_planned(plan, folder, shuffled)
    check_equal(result.path, reference, record)


def run_slowly(picture: Path, out: Path, record: Path) -> None:
    wsiseg.segment(picture, out, model=network(record, pause_s=0.2), scale=MPP)


def test_killed_and_started_again_gives_the_same_cells(
    picture: Path, reference: tuple[Path, set[str]], tmp_path: Path
) -> None:
    record, out = tmp_path / "seen", tmp_path / "out"
    record.mkdir()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_slowly, args=(picture, out, record))
    process.start()
    work = run_directory(out, picture.name).work
    deadline = time.monotonic() + 120
    while len(list(work.glob("tile_*.safetensors"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done_before = len(list(work.glob("tile_*.safetensors")))
    assert 5 <= done_before < len(reference[1])
    assert not (work.parent / "cells.parquet").exists()

    result = wsiseg.segment(picture, out, model=network(record), scale=MPP)
    check_equal(result.path, reference, record)
    assert f"{done_before} tiles were done before" in (result.path / "log.txt").read_text()


def test_a_finished_run_is_not_repeated(
    picture: Path, reference: tuple[Path, set[str]], tmp_path: Path
) -> None:
    record = tmp_path / "seen"
    record.mkdir()
    before = (reference[0] / "run.json").read_bytes()
    wsiseg.segment(picture, reference[0].parent, model=network(record), scale=MPP)
    assert (reference[0] / "run.json").read_bytes() == before
    assert not hashes(record)


def test_another_option_is_refused_and_named(
    picture: Path, reference: tuple[Path, set[str]], tmp_path: Path
) -> None:
    other = LocalNetwork(mpp=MPP, core_px=256, margin_px=64, darkness=100)
    with pytest.raises(wsiseg.WsisegError, match=r"model_sha256.*--overwrite"):
        wsiseg.segment(picture, reference[0].parent, model=other, scale=MPP)


@pytest.mark.parametrize("damage", ["flipped", "cut", "other run"])
def test_a_damaged_tile_file_is_computed_again(
    damage: str, picture: Path, reference: tuple[Path, set[str]], tmp_path: Path
) -> None:
    record, out = tmp_path / "seen", tmp_path / "out"
    record.mkdir()

    class Stop(Exception):
        pass

    def stop_at_the_end(stage: str, done: int, total: int) -> None:
        if stage == "cells":
            raise Stop

    with pytest.raises(Stop):
        wsiseg.segment(picture, out, model=network(record), scale=MPP, progress=stop_at_the_end)
    tiles = sorted(run_directory(out, picture.name).work.glob("tile_*.safetensors"))
    content = bytearray(tiles[7].read_bytes())
    if damage == "flipped":
        content[len(content) * 3 // 4] ^= 1
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content = bytearray(tiles[8].read_bytes().replace(b'"run_key":"', b'"run_key":"0', 1))
    tiles[7].write_bytes(content)
    for seen in record.iterdir():
        seen.unlink()
    result = wsiseg.segment(picture, out, model=network(record), scale=MPP)
    assert len(hashes(record)) == 1
    expected = pq.read_table(reference[0] / "cells.parquet")
    assert pq.read_table(result.path / "cells.parquet").equals(expected)


def test_the_shipped_model_gives_the_same_cells_on_workers(shared: Path, tmp_path: Path) -> None:
    with open_slide(shared / "slides" / "CMU-1-Small-Region.svs") as slide:
        rgb = slide.read_level(0, slide.info.levels[0].box)[1200:1800, 900:1500]
    path = tmp_path / "piece.png"
    Image.fromarray(rgb).save(path)
    here = wsiseg.segment(path, tmp_path / "here", scale=0.499)
    there = wsiseg.segment(
        path, tmp_path / "there", scale=0.499, compute=wsiseg.ComputeOptions(workers=2)
    )
    cells = pq.read_table(here.path / "cells.parquet")
    assert len(cells) > 100
    assert pq.read_table(there.path / "cells.parquet").equals(cells)
