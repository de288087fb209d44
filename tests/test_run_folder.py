"""A finished run stays finished, whatever other calls in its directory still do."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from wsiseg import _run_folder, rundir, unfinished
from wsiseg._run_folder import begin, clear, delete, finish, give_up, logged_to
from wsiseg.errors import OutputNotWritable
from wsiseg.rundir import RunDir, is_left_behind, temporary, temporary_beside

RUNNING = {"status": "running", "identity": {"slide": "a"}}
DONE = RUNNING | {"status": "done"}
SLOW = KeyError("too slow")


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "a.svs.wsiseg")


def status(folder: RunDir) -> Any:
    return json.loads(folder.run_json.read_text())["status"]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def of_process(path: Path, process: int) -> Path:
    """Return a temporary path as another process here would name it."""
    here = f"-{os.getpid()}-"
    name = temporary_beside(path).name
    assert here in name
    return path.with_name(name.replace(here, f"-{process}-"))


def of_another_machine(path: Path) -> Path:
    where = rundir.where_processes_run()
    other = "0" * 8 if where != "0" * 8 else "1" * 8
    return path.with_name(temporary_beside(path).name.replace(where, other))


def test_a_run_says_how_far_it_is(folder: RunDir) -> None:
    attempt = begin(folder, RUNNING)
    assert status(folder) == "running"
    give_up(attempt, RUNNING, SLOW)
    assert json.loads(folder.run_json.read_text())["error"]["type"] == "KeyError"
    finish(begin(folder, RUNNING), DONE)
    assert status(folder) == "done"
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("late", ["note", "start", "finish", "clear"])
def test_nothing_undoes_a_finished_run(folder: RunDir, late: str) -> None:
    faster, slower = begin(folder, RUNNING), begin(folder, RUNNING)
    finish(faster, DONE)
    before = folder.run_json.read_bytes()
    if late == "note":
        give_up(slower, RUNNING, SLOW)
    elif late == "start":
        begin(folder, RUNNING)
    elif late == "finish":
        with pytest.raises(OutputNotWritable, match="again"):
            finish(slower, DONE | {"late": True})
    clear(folder)
    assert folder.run_json.read_bytes() == before
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


def test_a_note_between_another_calls_last_two_steps_harms_nothing(
    folder: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written when the run was not finished, and comes when it is."""
    faster, slower = begin(folder, RUNNING), begin(folder, RUNNING)
    write_json = unfinished.write_json

    def write_late(path: Path, record: Any) -> None:
        monkeypatch.setattr(unfinished, "write_json", write_json)
        monkeypatch.setattr(_run_folder, "clear_away", lambda path: None)
        finish(faster, DONE)
        write_json(path, record)

    monkeypatch.setattr(unfinished, "write_json", write_late)
    give_up(slower, RUNNING, SLOW)
    assert status(folder) == "done"


def test_a_call_whose_run_was_deleted_does_not_finish_the_next(folder: RunDir) -> None:
    first = begin(folder, RUNNING)
    delete(folder)
    second = begin(folder, RUNNING | {"identity": {"slide": "b"}})
    give_up(first, RUNNING, SLOW)
    with pytest.raises(OutputNotWritable, match="deleted the run"):
        finish(first, DONE)
    assert status(folder) == "running"
    finish(second, DONE)
    assert not list(folder.path.parent.glob(".*"))


def test_a_disk_without_links_has_a_plain_record(
    folder: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "symlink_to", no_links)
    attempt = begin(folder, RUNNING)
    assert not folder.run_json.is_symlink()
    give_up(attempt, RUNNING, SLOW)
    assert status(folder) == "failed"
    slower = begin(folder, RUNNING)
    finish(begin(folder, RUNNING), DONE)
    give_up(slower, RUNNING, SLOW)
    begin(folder, RUNNING)
    assert status(folder) == "done"


def test_only_what_nobody_writes_is_cleared_at_the_start(folder: RunDir) -> None:
    begin(folder, RUNNING)
    masks = folder.path / "masks.zarr"
    gone = [of_process(masks, dead_process()), temporary_beside(masks)]
    unrelated = folder.path.parent / f".b.svs.wsiseg{gone[0].name[len('.masks.zarr') :]}"
    with temporary(masks) as ours:
        living = [ours, of_process(masks, 1), of_another_machine(masks)]
        for path in (*gone, *living, unrelated):
            (path / "labels").mkdir(parents=True)
        attempt = begin(folder, RUNNING)
        assert not any(path.exists() for path in gone)
        assert all(path.exists() for path in (*living, unrelated))
        finish(attempt, DONE)
        # Those of living calls here are theirs to delete; of others nobody knows.
        assert {path.name for path in folder.path.glob(".*")} == {path.name for path in living[:2]}
    clear(folder)
    assert [path.name for path in folder.path.glob(".*")] == [living[1].name]


def test_a_folder_that_cannot_be_removed_is_no_failure(
    folder: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = begin(folder, RUNNING)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as theirs:
        theirs.setattr(shutil, "rmtree", refuse)
        finish(attempt, DONE)
    assert status(folder) == "done"


def test_names_of_older_versions_say_nothing_of_their_process(tmp_path: Path) -> None:
    assert not is_left_behind(tmp_path / ".masks.zarr.0123456789abcdef.tmp")
    assert not is_left_behind(tmp_path / "cells.parquet")


def test_a_log_on_a_full_disk_lacks_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("wsiseg.test_run_folder")
    log.propagate = False
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    for path in (full, tmp_path / "missing" / "log.txt"):
        with logged_to(path, log):
            log.info("a line")
    with logged_to(tmp_path / "log.txt", log):
        log.info("another line")
    assert (tmp_path / "log.txt").read_text().endswith("INFO another line\n")
    assert capsys.readouterr().err == ""


def test_a_log_holds_what_is_said_of_its_own_slide(tmp_path: Path) -> None:
    log = logging.getLogger("wsiseg.of-a-test")
    here, there = threading.Barrier(2), threading.Barrier(2)

    def other() -> None:
        with logged_to(tmp_path / "other.txt", log):
            here.wait(10)
            log.info("other")
            there.wait(10)

    threads = [threading.Thread(target=other)]
    threads[0].start()
    with logged_to(tmp_path / "own.txt", log):
        here.wait(10)
        log.info("own")
        # Of a thread that is at work on no slide.
        threads.append(threading.Thread(target=log.info, args=("both",)))
        threads[1].start()
        threads[1].join()
        there.wait(10)
    threads[0].join()
    said = {path.stem: path.read_text().split() for path in tmp_path.iterdir()}
    assert {name: {"own", "other", "both"} & set(words) for name, words in said.items()} == {
        "own": {"own", "both"},
        "other": {"other", "both"},
    }
