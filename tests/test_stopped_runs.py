"""A run stopped anywhere continues; two runs in one place do not harm each other."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wsiseg
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)
SLIDE = ArraySlide(paint_tissue(400, 500, 1500, seed=8), mpp=0.5)


def cells(result: wsiseg.Result) -> pa.Table:
    return pq.read_table(result.path / "cells.parquet")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, list[tuple[str, int]]]:
    """Cells of an undisturbed run, and every step it reported."""
    steps: list[tuple[str, int]] = []
    result = wsiseg.segment(
        SLIDE,
        tmp_path_factory.mktemp("whole"),
        model=MODEL,
        progress=lambda stage, done, _: steps.append((stage, done)),
    )
    return cells(result), steps


def test_stopped_at_every_step_and_called_again(
    expected: tuple[pa.Table, list[tuple[str, int]]], tmp_path: Path
) -> None:
    table, steps = expected
    assert {stage for stage, _ in steps} >= {"tiles", "cells", "exports"}
    for number, step in enumerate(steps):
        out = tmp_path / str(number)

        def stop(stage: str, done: int, _: int, step: tuple[str, int] = step) -> None:
            if (stage, done) == step:
                raise KeyboardInterrupt

        with pytest.raises(wsiseg.WsisegError, match="call the same command again"):
            wsiseg.segment(SLIDE, out, model=MODEL, progress=stop)
        result = wsiseg.segment(SLIDE, out, model=MODEL)
        assert cells(result).equals(table), step
        assert not list(result.path.glob(".*"))


def test_killed_before_its_first_file(
    expected: tuple[pa.Table, list[tuple[str, int]]], tmp_path: Path
) -> None:
    folder = tmp_path / "array.png.wsiseg"
    (folder / "work").mkdir(parents=True)
    (folder / ".run.json.1234.tmp").write_text("{")
    result = wsiseg.segment(SLIDE, tmp_path, model=MODEL)
    assert cells(result).equals(expected[0])
    assert not list(folder.glob(".*"))


def test_two_calls_at_once_in_one_place(
    expected: tuple[pa.Table, list[tuple[str, int]]], tmp_path: Path
) -> None:
    slow = LocalNetwork(mpp=0.5, core_px=256, margin_px=64, pause_s=0.3)
    seen: list[wsiseg.Result] = []
    other = threading.Thread(
        target=lambda: seen.append(wsiseg.segment(SLIDE, tmp_path, model=slow))
    )
    other.start()
    first = wsiseg.segment(SLIDE, tmp_path, model=MODEL)
    other.join()
    assert cells(first).equals(expected[0])
    assert len(seen) == 1
    assert json.loads((first.path / "run.json").read_text())["status"] == "done"
    assert cells(wsiseg.open_result(first.path)).equals(expected[0])


def test_a_changed_image_is_another_slide(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    rgb = paint_tissue(3000, 3000, 20, seed=1)
    Image.fromarray(rgb).save(path, compress_level=0)
    before = wsiseg.open_slide(path).info.fingerprint
    rgb[1700:1710, 1700:1710] = 0
    Image.fromarray(rgb).save(path, compress_level=0)
    assert wsiseg.open_slide(path).info.fingerprint != before


def test_a_finished_run_gets_the_exports_it_lacks(tmp_path: Path) -> None:
    result = wsiseg.segment(SLIDE, tmp_path, model=MODEL, formats=())
    assert not (result.path / "cells.geojson.gz").exists()
    wsiseg.segment(SLIDE, tmp_path, model=MODEL, formats=("geojson",))
    assert (result.path / "cells.geojson.gz").exists()


def test_overwrite_deletes_and_starts_anew(tmp_path: Path) -> None:
    result = wsiseg.segment(SLIDE, tmp_path, model=MODEL)
    (result.path / "left.txt").touch()
    wsiseg.segment(SLIDE, tmp_path, model=MODEL, overwrite=True)
    assert not (result.path / "left.txt").exists()


def test_no_tissue_is_said(tmp_path: Path) -> None:
    glass = ArraySlide(np.full((300, 300, 3), 245, np.uint8), mpp=0.5)
    result = wsiseg.segment(glass, tmp_path, model=MODEL)
    assert [warning["code"] for warning in result.warnings] == ["no-tissue"]
