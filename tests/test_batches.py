"""Batches: failures stay alone, several calls share the work, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from wsiseg import batches
from wsiseg.batches import Done, Failed, place_directory, run_batch, write_places
from wsiseg.claims import Claims, claims_folder, read_claims
from wsiseg.errors import (
    Interrupted,
    MissingScale,
    OutputExists,
    OutputNotWritable,
    SlideNotReadable,
)
from wsiseg.listing import SlideEntry
from wsiseg.results import open_result
from wsiseg.rundir import RESULT_VERSION
from wsiseg.unfinished import failure_of, without_folders


def entries_of(*places: str) -> list[SlideEntry]:
    return [SlideEntry(Path("slides", place), place=PurePosixPath(place)) for place in places]


def finishing(out: Path, seen: list[str] | None = None) -> Callable[[SlideEntry], Path]:
    """Return what segments a slide at once, and notes that."""

    def segment_one(entry: SlideEntry) -> Path:
        if seen is not None:
            seen.append(str(entry.place))
        folder = place_directory(out, entry.place).path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    return segment_one


def failing(
    out: Path, errors: dict[str, BaseException], seen: list[str] | None = None
) -> Callable[[SlideEntry], Path]:
    """Return what fails for some slides."""
    finish = finishing(out, seen)

    def segment_one(entry: SlideEntry) -> Path:
        if str(entry.place) in errors:
            raise errors[str(entry.place)]
        return finish(entry)

    return segment_one


def record_of(out: Path, place: str) -> dict[str, object]:
    text = (out / f"{place}.wsiseg" / "run.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_slide_that_fails_spares_the_others_and_leaves_its_reason(
    tmp_path: Path, at_once: int
) -> None:
    errors = {
        "b.svs": SlideNotReadable(f"b.svs: {Path('slides').absolute()}/b.svs is empty"),
        "sub/a.svs": MissingScale("a.svs: no µm"),
        "d.svs": ZeroDivisionError(f"cannot read {tmp_path}/x/y.txt"),
    }
    places = ["a.svs", "b.svs", "a.tiff", "sub/a.svs", "d.svs", "odd ;\n.svs"]
    outcomes = list(run_batch(entries_of(*places), tmp_path, failing(tmp_path, errors), at_once))
    if at_once == 1:
        assert [str(one.place) for one in outcomes] == places
    found = {str(one.place): one for one in outcomes}
    assert found.keys() == set(places)
    assert {place for place, one in found.items() if isinstance(one, Failed)} == errors.keys()
    bug = found["d.svs"]
    assert isinstance(bug, Failed)
    assert "unexpected ZeroDivisionError" in str(bug.error)
    assert record_of(tmp_path, "sub/a.svs") | {"finished_utc": ""} == {
        "format": "wsiseg-run",
        "format_version": 1,
        "result_version": RESULT_VERSION,
        "status": "failed",
        "error": {"type": "MissingScale", "message": "a.svs: no µm"},
        "finished_utc": "",
        "slide": {"name": "a.svs"},
        "identity": None,
    }
    assert record_of(tmp_path, "b.svs")["error"] == {
        "type": "SlideNotReadable",
        "message": "b.svs: b.svs is empty",
    }
    log = (tmp_path / "d.svs.wsiseg" / "log.txt").read_text(encoding="utf-8")
    assert "ZeroDivisionError: cannot read x/y.txt" in log
    assert "wsiseg/batches.py:" in log
    assert str(tmp_path) not in log
    with pytest.raises(ValueError, match=r"b\.svs is empty; remove the cause"):
        open_result(tmp_path / "b.svs.wsiseg")
    assert list(claims_folder(tmp_path).iterdir()) == []


def test_errors_do_not_keep_a_slides_memory(tmp_path: Path) -> None:
    class Big:
        pass

    alive: list[weakref.ref[Big]] = []

    def segment_one(entry: SlideEntry) -> Path:
        big = Big()
        alive.append(weakref.ref(big))
        try:
            raise KeyError(entry.path)
        except KeyError as error:
            raise SlideNotReadable("no") from error

    outcomes = list(run_batch(entries_of("a", "b", "c"), tmp_path, segment_one))
    assert len(outcomes) == 3
    assert [reference() for reference in alive] == [None] * 3


def test_what_is_there_of_others_is_not_touched(tmp_path: Path) -> None:
    mine = tmp_path / "a.svs.wsiseg" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("precious")
    run = tmp_path / "b.svs.wsiseg" / "run.json"
    run.parent.mkdir()
    run.write_text('{"status": "done", "identity": {"slide": 1}}')
    errors: dict[str, BaseException] = {
        "a.svs": SlideNotReadable("no"),
        "b.svs": SlideNotReadable("no"),
        "c.svs": OutputExists("another run"),
    }
    list(run_batch(entries_of("a.svs", "b.svs", "c.svs"), tmp_path, failing(tmp_path, errors)))
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]
    assert json.loads(run.read_text())["status"] == "done"
    assert not (tmp_path / "c.svs.wsiseg").exists()


def test_a_name_too_long_for_the_disk_fails_alone(tmp_path: Path) -> None:
    long = "ä" * 124 + ".svs"
    outcomes = list(run_batch(entries_of(long, "b.svs"), tmp_path, finishing(tmp_path)))
    assert [type(one) for one in outcomes] == [Failed, Done]
    assert isinstance(outcomes[0], Failed)
    assert "too long for the disk" in str(outcomes[0].error)


def test_a_disk_of_no_use_ends_the_batch_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    errors: dict[str, BaseException] = {"b": OutputNotWritable("b: cannot write tile (No space)")}
    work = failing(tmp_path, errors, seen)
    # Of no use to this slide alone.
    outcomes = list(run_batch(entries_of("a", "b", "c"), tmp_path, work))
    assert [type(one) for one in outcomes] == [Done, Failed, Done]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputNotWritable, match=r"No space left.*b: cannot write tile.*again"):
        list(run_batch(entries_of("a", "b", "c"), tmp_path, work))
    assert seen == ["a", "c", "a"]
    assert [path.name for path in (tmp_path / "batch").iterdir()] == ["claims"]


def test_what_cannot_be_claimed_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    entries = entries_of("a", "b")
    assert all(isinstance(x, Done) for x in run_batch(entries, tmp_path, finishing(tmp_path)))


@pytest.mark.parametrize("at_once", [1, 4])
def test_two_calls_share_a_batch(tmp_path: Path, at_once: int) -> None:
    entries = entries_of(*(f"{k}.svs" for k in range(12)))
    seen: list[str] = []
    outcomes: dict[int, list[Done | Failed]] = {}

    def segment_one(entry: SlideEntry) -> Path:
        if not is_finished(entry, False):
            seen.append(str(entry.place))
            time.sleep(0.02)
        return finishing(tmp_path)(entry)

    def is_finished(entry: SlideEntry, meanwhile: bool) -> bool:
        return place_directory(tmp_path, entry.place).path.exists()

    def call(number: int) -> None:
        outcomes[number] = list(
            run_batch(entries, tmp_path, segment_one, at_once, is_finished=is_finished, poll_s=0.01)
        )

    threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(str(entry.place) for entry in entries)
    for told in outcomes.values():
        assert sorted(str(one.place) for one in told) == sorted(seen)
        assert all(isinstance(one, Done) for one in told)


def test_a_claim_that_nobody_touches_is_taken_over(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        place = PurePosixPath("a.svs")
        assert mine.take(place)
        assert not other.take(place)
        (claim,) = read_claims(tmp_path)
        assert (claim.place, claim.is_fresh, claim.said["process"]) == ("a.svs", True, os.getpid())
        (path,) = claims_folder(tmp_path).glob("*.json")
        old = path.stat().st_mtime - 61
        os.utime(path, (old, old))
        (claim,) = read_claims(tmp_path)
        assert not claim.is_fresh
        assert other.take(place)
        # It is the other's now, and stays when the first one is done.
        mine.release(place)
        assert path.exists()
        other.release(place)
        assert list(claims_folder(tmp_path).iterdir()) == []


def test_a_claim_is_touched_while_its_call_is_at_work(tmp_path: Path) -> None:
    with Claims(tmp_path, touch_s=0.01) as claims:
        assert claims.take(PurePosixPath("a"))
        (path,) = claims_folder(tmp_path).glob("*.json")
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": "x"}'])
def test_a_claim_that_cannot_be_read_is_one_until_it_is_stale(tmp_path: Path, content: str) -> None:
    with Claims(tmp_path) as claims:
        assert claims.take(PurePosixPath("a"))
        (path,) = claims_folder(tmp_path).glob("*.json")
        path.write_text(content)
        with Claims(tmp_path) as other:
            assert not other.take(PurePosixPath("a"))
            os.utime(path, (1, 1))
            assert other.take(PurePosixPath("a"))


def test_what_a_killed_process_claimed_is_free_at_once(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        pass
    with Claims(tmp_path) as other:
        assert other.take(PurePosixPath("a"))
        assert other.take(PurePosixPath("b"))
        paths = list(claims_folder(tmp_path).glob("*.json"))
        for path in paths:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"process": killed.pid}))
        assert [claim.is_fresh for claim in read_claims(tmp_path)] == [False, False]
        with Claims(tmp_path) as claims:
            # What it has left is cleared away, also of slides that nobody claims any more.
            assert not any(path.exists() for path in paths)
            assert claims.take(PurePosixPath("a"))


def test_what_failed_at_another_call_is_not_tried_again(tmp_path: Path) -> None:
    seen: list[str] = []
    with Claims(tmp_path) as other:
        assert other.take(PurePosixPath("a"))
        assert other.take(PurePosixPath("b"))
        call = run_batch(entries_of("a", "b", "c"), tmp_path, finishing(tmp_path, seen), poll_s=0)
        assert str(next(call).place) == "c"
        for place, why in (("a", MissingScale("no µm")), ("b", Interrupted("no"))):
            folder = place_directory(tmp_path, PurePosixPath(place))
            batches.leave_failure(folder, Path(place), tmp_path, why)
        other.release(PurePosixPath("a"))
        other.release(PurePosixPath("b"))
        a, b = call
    assert isinstance(a, Failed)
    assert isinstance(a.error, MissingScale)
    assert isinstance(b, Done)
    assert seen == ["c", "b"]


def test_an_old_failure_is_not_what_another_call_found_meanwhile(tmp_path: Path) -> None:
    """The other call was stopped before it came to anything; yesterday's record is older."""
    folder = place_directory(tmp_path, PurePosixPath("a"))
    batches.leave_failure(folder, Path("a"), tmp_path, MissingScale("no µm"))
    os.utime(folder.work / "record.json", (1e9, 1e9))
    with Claims(tmp_path) as other:
        assert other.take(PurePosixPath("a"))
        call = run_batch(entries_of("a", "b"), tmp_path, finishing(tmp_path), poll_s=0.01)
        first = next(call)
        other.release(PurePosixPath("a"))
        (second,) = call
    assert [str(one.place) for one in (first, second)] == ["b", "a"]
    assert isinstance(second, Done)


def test_what_another_call_made_meanwhile_is_said_to_be_so(tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []

    def is_finished(entry: SlideEntry, meanwhile: bool) -> bool:
        told.append((str(entry.place), meanwhile))
        return False

    def segment_one(entry: SlideEntry) -> Path:
        if str(entry.place) == "a":
            # Another call is done with b while this one is at a.
            (finishing(tmp_path)(entries_of("b")[0]) / "run.json").write_text("{}")
        return finishing(tmp_path)(entry)

    list(run_batch(entries_of("a", "b"), tmp_path, segment_one, is_finished=is_finished))
    assert told == [("a", False), ("b", True)]


def test_a_failure_is_tried_again_by_the_next_call(tmp_path: Path) -> None:
    errors: dict[str, BaseException] = {"a": SlideNotReadable("a: gone")}
    list(run_batch(entries_of("a"), tmp_path, failing(tmp_path, errors)))
    folder = place_directory(tmp_path, PurePosixPath("a"))
    failure = failure_of(folder, since_s=0.0)
    assert isinstance(failure, SlideNotReadable)
    assert failure_of(folder, since_s=time.time() + 60) is None
    assert str(failure) == "a: gone"
    (outcome,) = run_batch(entries_of("a"), tmp_path, finishing(tmp_path))
    assert isinstance(outcome, Done)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("raised", [Interrupted("no"), KeyboardInterrupt()])
def test_an_interruption_ends_all(tmp_path: Path, at_once: int, raised: BaseException) -> None:
    stop = threading.Event()
    seen: list[str] = []

    def segment_one(entry: SlideEntry) -> Path:
        seen.append(str(entry.place))
        if str(entry.place) == "2":
            raise raised
        for _ in range(2000 if at_once > 1 else 0):
            if stop.wait(0.005):
                raise Interrupted("stopped")
        return finishing(tmp_path)(entry)

    entries = entries_of(*map(str, range(50)))
    dropped: list[bool] = []
    with pytest.raises(type(raised)) as caught:
        list(
            run_batch(
                entries,
                tmp_path,
                segment_one,
                at_once,
                stop=stop,
                drop=lambda: dropped.append(stop.is_set()),
            )
        )
    assert caught.value is raised
    assert len(seen) <= 5
    assert dropped == [True] * (at_once > 1)
    assert list(claims_folder(tmp_path).iterdir()) == []


def test_a_caller_that_stops_listening_ends_the_threads(tmp_path: Path) -> None:
    stop = threading.Event()

    def segment_one(entry: SlideEntry) -> Path:
        if str(entry.place) != "0":
            assert stop.wait(10)
            raise Interrupted("stopped")
        return finishing(tmp_path)(entry)

    before = threading.active_count()
    call = run_batch(entries_of(*map(str, range(9))), tmp_path, segment_one, 3, stop=stop)
    next(call)
    assert isinstance(call, Iterator)
    call.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_places_are_written_once_under_the_name_of_their_content(tmp_path: Path) -> None:
    for places in (["b", "\udcff/a"], ["b", "\udcff/a"], ["b"]):
        write_places(tmp_path, entries_of(*places))
    files = sorted((tmp_path / "batch").iterdir(), key=lambda path: path.stat().st_size)
    assert [json.loads(path.read_text())["places"] for path in files] == [
        ["b"],
        ["b", "\udcff/a"],
    ]


def test_folders_are_told_to_nobody() -> None:
    text = "/home/me/x y/a.svs: '/data/b/d.svs' and /var/lib/z, 3/8, a/b, http://x/y/z"
    said = without_folders(text, Path("/home/me/x y"))
    assert said == "a.svs: '…/d.svs' and …/z, 3/8, a/b, http://x/y/z"
    assert without_folders("in /data/b c", Path("/data/b c")) == "in …"
