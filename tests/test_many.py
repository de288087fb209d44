"""Many slides: one place each, failures listed, parts, and signals before the time is up."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import wsiseg
from wsiseg import many
from wsiseg.errors import Interrupted, MissingScale, UnknownName, UsageError
from wsiseg.many import SlideTask
from wsiseg.predict import TileJob, TileProcessor, TileReport
from wsiseg.records import Tile
from wsiseg.runners import RunHere
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue

MODEL = LocalNetwork(mpp=0.25, core_px=256, margin_px=64)
GOOD = ("a.png", "a.tiff", "sub/a.png", "sub/odd ;\n-.png")
LARGE = "a.tiff"
"""Has four tiles, the others have two."""
BAD = ("broken.svs", "empty.tif", "sub/gone.svs")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small slides, some with one name, some broken."""
    folder = tmp_path_factory.mktemp("slides")
    (folder / "sub").mkdir()
    for seed, name in enumerate(GOOD):
        side_px = 300 if name == LARGE else 200
        Image.fromarray(paint_tissue(side_px, 300, 900, seed=seed)).save(folder / name)
    (folder / "broken.svs").write_bytes(b"no slide")
    (folder / "empty.tif").touch()
    (folder / "sub/gone.svs").symlink_to("nowhere")
    return folder


@pytest.fixture(scope="module")
def expected(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Cells of each good slide, run alone."""
    out = tmp_path_factory.mktemp("single")
    return {
        name: wsiseg.segment(slides / name, out / str(n), model=MODEL, scale=0.25).cells()
        for n, name in enumerate(GOOD)
    }


def segment_all(folder: Path, out: Path, **options: Any) -> dict[str, wsiseg.Done | wsiseg.Failed]:
    entries = wsiseg.list_slides([folder], out)
    outcomes = list(wsiseg.segment_many(entries, out, model=MODEL, scale=0.25, **options))
    found = {str(one.place): one for one in outcomes}
    assert len(found) == len(outcomes)
    return found


def check(found: dict[str, Any], out: Path, expected: dict[str, Any]) -> None:
    """Make sure that good slides are done, as if run alone, and bad ones failed."""
    assert {place for place, one in found.items() if isinstance(one, wsiseg.Failed)} == set(BAD)
    assert found.keys() == {*GOOD, *BAD}
    for place in GOOD:
        cells = pq.read_table(out / f"{place}.wsiseg" / "cells.parquet")
        assert cells.equals(expected[place])
        assert found[place].result.path == out / f"{place}.wsiseg"


def test_a_folder_is_mirrored_and_each_slide_is_as_if_alone(
    slides: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    steps: list[tuple[str, int, int]] = []
    found = segment_all(slides, tmp_path, progress=lambda *step: steps.append(step))
    check(found, tmp_path, expected)
    assert [step for step in steps if step[0] == "slides"] == [
        ("slides", k, 7) for k in range(1, 8)
    ]
    for place in BAD:
        record = json.loads((tmp_path / f"{place}.wsiseg" / "run.json").read_text())
        assert (record["status"], record["identity"]) == ("failed", None)
        assert str(slides) not in json.dumps(record)
    # Again, with one of the bad ones made good: the others are left as they are.
    before = {place: (tmp_path / f"{place}.wsiseg" / "run.json").stat() for place in GOOD}
    (slides / "sub/gone.svs").unlink()
    Image.fromarray(paint_tissue(200, 300, 900, seed=9)).save(slides / "sub/gone.svs", "PNG")
    again = segment_all(slides, tmp_path)
    (slides / "sub/gone.svs").unlink()
    (slides / "sub/gone.svs").symlink_to("nowhere")
    assert isinstance(again["sub/gone.svs"], wsiseg.Done)
    assert before == {place: (tmp_path / f"{place}.wsiseg" / "run.json").stat() for place in GOOD}


def test_parts_together_are_the_whole(
    slides: Path, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}
    for index in (1, 2, 3):
        part = segment_all(slides, tmp_path, part=wsiseg.Part(index, 3))
        assert not found.keys() & part.keys()
        found |= part
    check(found, tmp_path, expected)
    # Another number of parts, and another call for all: everything is there.
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    auto = segment_all(slides, tmp_path, part="auto")
    named = segment_all(slides, tmp_path, part="1/2")
    check(auto | named, tmp_path, expected)
    assert len(list((tmp_path / "batch").glob("slides-*.json"))) == 1


def test_options_that_no_slide_can_use_start_nothing(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for options in (
        {"compute": wsiseg.ComputeOptions(device="tpu")},
        {"formats": ("xls",)},
        {"part": "9/8"},
        {"part": "auto"},
    ):
        with pytest.raises((UsageError, UnknownName)):
            segment_all(slides, out, **options)
    assert not out.exists()


def test_a_single_slide_leaves_nothing_if_it_fails(slides: Path, tmp_path: Path) -> None:
    (failed,) = wsiseg.segment_many([slides / "a.png"], tmp_path / "out", model=MODEL)
    assert isinstance(failed, wsiseg.Failed)
    assert isinstance(failed.error, MissingScale)
    assert not (tmp_path / "out").exists()
    (done,) = wsiseg.segment_many([slides / "a.png"], tmp_path / "out", model=MODEL, scale=0.25)
    assert isinstance(done, wsiseg.Done)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png.wsiseg"]


@dataclass
class Cluster:
    """A stand-in for workers: whole slides and tiles run here, after a trip through pickle."""

    slides_at_once: int = 3
    wholes: list[str] = field(default_factory=list)
    tiles: list[str] = field(default_factory=list)
    stopped: bool = False

    def run_whole(self, function: Callable[[Any], Any], argument: Any, name: str) -> Any:
        self.wholes.append(name)
        called, task = pickle.loads(pickle.dumps((function, argument)))
        assert isinstance(task, SlideTask)
        assert task.entry.path.is_absolute()
        assert task.out.is_absolute()
        return called(task)

    def run_tiles(self, job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        self.tiles.append(job.slide.info.name)
        processor = TileProcessor(pickle.loads(pickle.dumps(job)))
        for tile in tiles:
            yield from processor.run([tile])

    def stop(self) -> None:
        self.stopped = True


def test_on_workers_small_slides_run_whole_and_tiles_of_large_ones_are_spread(
    slides: Path, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()

    @contextmanager
    def workers_for(*arguments: Any) -> Iterator[Cluster]:
        yield cluster

    monkeypatch.setattr(many, "workers_for", workers_for)
    monkeypatch.setattr(many, "_FEW", 3)
    check(segment_all(slides, tmp_path), tmp_path, expected)
    assert cluster.tiles == [LARGE]
    assert sorted(cluster.wholes) == sorted(set(GOOD) - {LARGE})
    assert cluster.stopped


def test_an_interruption_says_how_far_the_batch_is(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunHere.__call__

    def interrupted(self: RunHere, job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        if job.slide.info.name == "a.tiff":
            raise KeyboardInterrupt
        yield from run(self, job, tiles)

    monkeypatch.setattr(RunHere, "__call__", interrupted)
    with pytest.raises(Interrupted, match=r"after 1 of 7 slides; .*same command again to"):
        segment_all(slides, tmp_path)
    with pytest.raises(Interrupted, match=r"same command again, but without --overwrite, to"):
        segment_all(slides, tmp_path, overwrite=True)
    assert list((tmp_path / "batch/claims").iterdir()) == []


SLOW = """
import pathlib, sys, time
from types import SimpleNamespace
from wsiseg import model_choice
from wsiseg import cli
from wsiseg.testing import models
def sleep(seconds):
    pathlib.Path(sys.argv[4], "asleep").touch()
    time.sleep(seconds)
models.time = SimpleNamespace(sleep=sleep)
model = models.LocalNetwork(mpp=0.25, core_px=256, margin_px=64, pause_s=1)
model_choice.load_model = lambda name: model
cli.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="other systems have other signals")
def test_a_signal_ends_a_batch_which_can_be_called_again(
    slides: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SLOW, "segment", str(slides), "-o", str(tmp_path)]
    with subprocess.Popen([*command, "--mpp", "0.25"], stderr=subprocess.PIPE, text=True) as call:
        wait_until((tmp_path / "asleep").exists, call)
        call.send_signal(signal.SIGTERM)
        # Others change nothing.
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            time.sleep(0.1)
            call.send_signal(number)
        said = call.communicate(timeout=30)[1]
    assert call.returncode == 75, said
    assert "interrupted after 0 of 7 slides" in said
    assert "Traceback" not in said
    assert list((tmp_path / "batch/claims").iterdir()) == []
    check(segment_all(slides, tmp_path), tmp_path, expected)


STUCK = """
import pathlib, subprocess, sys, time
from wsiseg import signals
signals.HARD_END_S = 0.3
child = subprocess.Popen(["sleep", "600"])
with signals.ended_by_signals():
    signals.work_begins()
    try:
        pathlib.Path(sys.argv[1]).write_text(str(child.pid))
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children are not known")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_what_does_not_end_in_time_is_ended_with_all_below_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    command = [sys.executable, "-c", STUCK, str(started)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as call:
        wait_until(lambda: started.exists() and started.read_text() != "", call)
        call.send_signal(number)
        said = call.communicate(timeout=20)[1]
    assert call.returncode == 75
    assert "did not end in time" in said
    stat = Path("/proc", started.read_text(), "stat")
    deadline = time.monotonic() + 10
    while stat.exists() and ") Z " not in stat.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until(there: Callable[[], bool], call: subprocess.Popen[str]) -> None:
    """Wait until something is so, while a command runs."""
    deadline = time.monotonic() + 60
    while not there():
        assert call.poll() is None, call.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
