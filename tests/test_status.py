"""How far a batch is, from files alone."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from typer.testing import CliRunner

import wsiseg
from wsiseg._rates import Interval, recent_rate
from wsiseg.batches import place_directory, write_places
from wsiseg.claims import Claims, claims_folder
from wsiseg.cli import app
from wsiseg.errors import Interrupted, ResultNotReadable, SlideNotReadable
from wsiseg.listing import SlideEntry
from wsiseg.rundir import json_bytes
from wsiseg.unfinished import leave_failure, write_unfinished

START = datetime(2026, 1, 1, tzinfo=UTC)


def write_record(out: Path, place: str, **changes: Any) -> Path:
    """Write the record of a run as pipelines do, finished unless something else is said."""
    record = {
        "format": "wsiseg-run",
        "status": "done",
        "error": None,
        "started_utc": START.isoformat(),
        "finished_utc": (START + timedelta(seconds=60)).isoformat(),
        "model": {"card": {"n_cells": 5, "status": "done"}},
        "identity": {"slide": place},
        "n_cells": 1000,
        "analysed_mm2": 2.5,
    } | changes
    folder = place_directory(out, PurePosixPath(place))
    folder.work.mkdir(parents=True)
    if record["status"] == "done":
        folder.run_json.write_bytes(json_bytes(record))
    else:
        write_unfinished(folder, {key: value for key, value in record.items() if key != "n_cells"})
    return folder.path


def write_list(out: Path, *places: str) -> None:
    write_places(out, [SlideEntry(Path("x"), place=PurePosixPath(place)) for place in places])


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A batch with a slide in each state."""
    places = ("a.svs", "sub/a.svs", "b.svs", "c.svs", "d.svs", "e.svs", "f.svs", "g.svs")
    write_list(tmp_path, *places)
    write_record(tmp_path, "a.svs")
    write_record(tmp_path, "sub/a.svs", n_cells=0, analysed_mm2=0.5)
    write_record(tmp_path, "b.svs", status="running")
    why = {"type": "Interrupted", "message": "stopped"}
    write_record(tmp_path, "c.svs", status="failed", error=why)
    for place, error in (("d.svs", SlideNotReadable("d.svs: is empty")), ("e.svs", Interrupted())):
        leave_failure(place_directory(tmp_path, PurePosixPath(place)), Path(place), tmp_path, error)
    return tmp_path


def test_each_slide_is_in_one_state(batch: Path) -> None:
    with Claims(batch) as claims:
        for place in ("b.svs", "f.svs"):
            claims.take(PurePosixPath(place))
        found = wsiseg.batch_status(batch)
        assert (found.n_slides, found.n_done, found.n_left) == (8, 2, 1)
        assert found.running == ("b.svs", "f.svs")
        assert found.interrupted == ("c.svs", "e.svs")
        assert [(one.place, one.reason) for one in found.failed] == [("d.svs", "d.svs: is empty")]
        assert (found.n_cells, found.analysed_mm2) == (1000, 3.0)
        assert found.rate is not None
        assert found.hours_to_go == 5 / found.rate.slides_per_hour
        # As by processes that were killed: nobody touches the claims any more.
        for claim in claims_folder(batch).glob("*.json"):
            os.utime(claim, (1, 1))
        found = wsiseg.batch_status(batch)
        assert (found.running, found.n_left) == ((), 2)
        assert found.interrupted == ("b.svs", "c.svs", "e.svs")


def test_without_a_list_what_is_left_is_not_known(tmp_path: Path) -> None:
    write_record(tmp_path, "sub/a.svs")
    running = write_record(tmp_path, "b.svs", status="running")
    write_record(tmp_path, "c.svs", status="running")
    old = time.time() - 300
    os.utime(tmp_path / "c.svs.wsiseg/work", (old, old))
    (running / "masks.zarr").mkdir()
    found = wsiseg.batch_status(tmp_path)
    assert (found.n_slides, found.n_left, found.hours_to_go) == (None, None, None)
    assert (found.n_done, found.running, found.interrupted) == (1, ("b.svs",), ("c.svs",))


def test_slides_of_earlier_lists_are_told_apart(tmp_path: Path) -> None:
    write_list(tmp_path, "a", "b")
    (first,) = (tmp_path / "batch").iterdir()
    write_list(tmp_path, "b", "c")
    os.utime(first, (1, 1))
    found = wsiseg.batch_status(tmp_path)
    assert (found.n_slides, found.n_left, found.n_left_earlier) == (3, 3, 1)
    # The last call is the one that counts, not the last new list.
    write_list(tmp_path, "a", "b")
    for path in (tmp_path / "batch").iterdir():
        if path != first:
            os.utime(path, (1, 1))
    assert wsiseg.batch_status(tmp_path).n_left_earlier == 1


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"status": "done"}', '{\n "status": "done",\n}', ""),
        *('{"status": "done", "n_cells": "x"}', '{"status": "done", "n_cells": true}'),
        '{"status": "done", "n_cells": 5, "analysed_mm2": []}',
        '{"status": "done", "n_cells": 5, "analysed_mm2": NaN}',
        '{\n "status": "done",\n "n_cells": "x",\n "analysed_mm2": 1.0,\n "started_utc": 5,\n'
        ' "finished_utc": 5\n}',
    ],
)
def test_a_damaged_record_is_not_readable(tmp_path: Path, content: str) -> None:
    write_list(tmp_path, "a", "b")
    folder = tmp_path / "a.wsiseg"
    folder.mkdir()
    (folder / "run.json").write_text(content)
    (tmp_path / "batch" / "slides-0.json").write_text("{")
    found = wsiseg.batch_status(tmp_path)
    assert found.n_left == 1
    assert found.n_done + len(found.interrupted) == 0
    (failure,) = found.failed
    assert failure.place == "a"
    assert failure.reason.startswith("not readable: run.json is damaged: ")
    assert "--overwrite" in failure.reason


@pytest.mark.parametrize("content", ['{"places": [1, "c"]}', '{"places": 5}', "[]", "{", "5"])
def test_a_damaged_list_does_not_count_and_is_told(tmp_path: Path, content: str) -> None:
    write_record(tmp_path, "a")
    write_list(tmp_path, "a", "b")
    (tmp_path / "batch" / "slides-0.json").write_text(content)
    found = wsiseg.batch_status(tmp_path)
    assert (found.n_slides, found.n_left) == (2, 1)
    assert found.unread_lists == ("batch/slides-0.json",)
    done = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert "not counted: batch/slides-0.json is damaged" in done.stdout


def test_times_that_are_none_only_leave_out_the_rate(tmp_path: Path) -> None:
    write_record(tmp_path, "a", started_utc="2026-01-01", finished_utc=5)
    found = wsiseg.batch_status(tmp_path)
    assert (found.n_done, found.rate) == (1, None)


def test_hidden_names_are_places_too(tmp_path: Path) -> None:
    places = (".h.png", "sub/.h.png", ".sub/h.png")
    write_list(tmp_path, *places)
    for place in places:
        write_record(tmp_path, place)
    (tmp_path / ".a.svs.1234.tmp" / "b.wsiseg").mkdir(parents=True)
    found = wsiseg.batch_status(tmp_path)
    assert (found.n_slides, found.n_done, found.n_left) == (3, 3, 0)


def test_records_are_read_alike_the_quick_way_and_whole(tmp_path: Path) -> None:
    folder = write_record(tmp_path, "a")
    quick = wsiseg.batch_status(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record))
    assert wsiseg.batch_status(tmp_path) == quick
    assert quick.n_cells == 1000


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ResultNotReadable, match="holds no runs"):
            wsiseg.batch_status(folder)


def runs(*spans_s: tuple[float, float]) -> list[Interval]:
    return [Interval(start, end, 2.0) for start, end in spans_s]


def test_the_rate_is_that_of_the_last_runs_while_somebody_worked() -> None:
    assert recent_rate([]) is None
    one = recent_rate(runs((100, 136)))
    assert one is not None
    assert (one.slides_per_hour, one.mm2_per_hour) == (100, 200)
    # Two at once, 60 s each: 120 an hour, in spite of a night without work, and of slower ones.
    slow = runs(*((1000 * k, 1000 * k + 900) for k in range(20)))
    before = runs(*((50_000 + 30 * k, 50_060 + 30 * k) for k in range(30)))
    after = runs(*((90_000 + 30 * k, 90_060 + 30 * k) for k in range(120)))
    found = recent_rate(slow + after + before)
    assert found is not None
    assert found.n_slides == 119
    assert found.slides_per_hour == pytest.approx(120, rel=0.01)
    few = recent_rate(before + after[:10])
    assert few is not None
    assert few.slides_per_hour == pytest.approx(120, rel=0.05)
    # Times are told in whole seconds.
    none = recent_rate(runs(*[(5, 5)] * 9))
    assert none is not None
    assert none.slides_per_hour == 9 * 3600


def test_the_command_says_it_in_a_table_and_in_json(batch: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["status", str(batch), "--json", str(tmp_path / "s.json")])
    assert done.exit_code == 3
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.count("  "))
    assert (said["done"], said["failed"], said["left"]) == ("2", "1", "2")
    assert "failed: d.svs: d.svs: is empty" in done.stdout.splitlines()
    values = json.loads((tmp_path / "s.json").read_text())
    assert values["failed"] == [{"place": "d.svs", "reason": "d.svs: is empty"}]
    printed = CliRunner().invoke(app, ["status", str(batch), "--json", "-"])
    assert json.loads(printed.stdout) == values
    (batch / "d.svs.wsiseg/run.json").unlink()
    (batch / "d.svs.wsiseg/work/record.json").unlink()
    assert CliRunner().invoke(app, ["status", str(batch)]).exit_code == 0
    assert CliRunner().invoke(app, ["status", str(batch / "none")]).exit_code == 3
