"""How far a batch is, from its files alone: nobody who is at work is asked."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from wsiseg._rates import Interval, Rate, recent_rate
from wsiseg.claims import disk_now_s, read_claims
from wsiseg.errors import OutputNotWritable, ResultNotReadable
from wsiseg.rundir import RunDir, is_temporary
from wsiseg.unfinished import STOPPED, read_record

State = Literal["done", "running", "interrupted", "failed", "left"]

_SUFFIX = ".wsiseg"
_READERS = 8
"""Threads that read records: a network disk answers several at once."""
_NEEDED = ("n_cells", "analysed_mm2", "started_utc", "finished_utc")
_QUIET_S = 120.0
"""A single run, which is not claimed, is at work if a tile came within so many seconds."""


@dataclass(frozen=True, slots=True)
class SlideFailure:
    """A slide that failed."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What became of the slides below an output folder so far."""

    n_slides: int | None
    """All slides of the batch; None: no list says which there are."""
    n_done: int
    running: tuple[str, ...]
    """Places that somebody is at work on."""
    interrupted: tuple[str, ...]
    """Places that were begun; nobody is at work on them."""
    failed: tuple[SlideFailure, ...]
    n_left: int | None
    """Not begun; None if that is not known."""
    n_left_earlier: int
    """Those of them that earlier calls had in their lists, and the last one has not."""
    n_cells: int
    """In the slides that are done."""
    analysed_mm2: float
    """Of the slides that are done."""
    rate: Rate | None
    """Of the slides that were done last; None without any."""
    unread_lists: tuple[str, ...] = ()
    """Lists of slides that are damaged, and do not count."""

    @property
    def hours_to_go(self) -> float | None:
        """Time for all that is not done at that rate; failed slides are not counted."""
        if self.n_left is None or self.rate is None:
            return None
        todo = self.n_left + len(self.running) + len(self.interrupted)
        return todo / self.rate.slides_per_hour

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return asdict(self) | {"hours_to_go": self.hours_to_go}


@dataclass(frozen=True, slots=True)
class _SlideState:
    """What the record of one slide says."""

    place: str
    state: State
    reason: str = ""
    n_cells: int = 0
    analysed_mm2: float = 0.0
    interval: Interval | None = None
    """When its run was made."""


def batch_status(out: str | Path) -> BatchStatus:
    """Say how far the slides below an output folder are.

    Parameters
    ----------
    out : str or Path
        The folder that was given for the results.

    Raises
    ------
    ResultNotReadable
        If it holds neither runs nor a list of slides.
    """
    folder = Path(out)
    newest, earlier, unread = _read_lists(folder)
    runs = dict(_find_runs(folder))
    if not (runs or newest):
        raise ResultNotReadable(
            f"{folder} holds no runs; give the folder that --out named when they were made"
        )
    listed = newest | earlier
    claimed = {claim.place for claim in read_claims(folder) if claim.is_fresh}
    now_s = disk_now_s(folder)

    def look(run: tuple[str, Path]) -> _SlideState:
        place, path = run
        return _state(place, path, place in claimed, place in listed, now_s)

    with ThreadPoolExecutor(_READERS, "wsiseg-status") as readers:
        found = list(readers.map(look, runs.items()))
    found += [
        _SlideState(place, "running" if place in claimed else "left")
        for place in sorted(listed - runs.keys())
    ]
    found.sort(key=lambda one: one.place)
    return replace(_sum_up(found, newest, earlier), unread_lists=unread)


def _sum_up(found: Sequence[_SlideState], newest: set[str], earlier: set[str]) -> BatchStatus:
    states = Counter(one.state for one in found)
    done = [one for one in found if one.state == "done"]
    is_known = bool(newest)
    left = {one.place for one in found if one.state == "left"}
    return BatchStatus(
        n_slides=len(found) if is_known else None,
        n_done=states["done"],
        running=tuple(one.place for one in found if one.state == "running"),
        interrupted=tuple(one.place for one in found if one.state == "interrupted"),
        failed=tuple(SlideFailure(one.place, one.reason) for one in found if one.state == "failed"),
        n_left=len(left) if is_known else None,
        n_left_earlier=len(left & earlier - newest),
        n_cells=sum(one.n_cells for one in done),
        analysed_mm2=sum(one.analysed_mm2 for one in done),
        rate=recent_rate([one.interval for one in done if one.interval is not None]),
    )


def _read_lists(out: Path) -> tuple[set[str], set[str], tuple[str, ...]]:
    """Return the places of the list that was used last, those of all others, and damaged lists."""
    lists: list[tuple[float, set[str]]] = []
    unread: list[str] = []
    for path in sorted((out / "batch").glob("slides-*.json")):
        try:
            lists.append((path.stat().st_mtime, _places(path)))
        except (OSError, ValueError, RecursionError):
            unread.append(f"batch/{path.name}")
    lists.sort(key=lambda one: one[0])
    newest = lists[-1][1] if lists else set()
    return newest, set().union(*(places for _, places in lists[:-1])), tuple(unread)


def _places(path: Path) -> set[str]:
    """Return the places of a list.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is damaged.
    """
    said = json.loads(path.read_bytes())
    places = said.get("places") if isinstance(said, dict) else None
    if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
        raise ValueError(f"{path.name} is no list of places")
    return set(places)


def _find_runs(out: Path) -> Iterator[tuple[str, Path]]:
    """Yield the place and the directory of each run; looks into none of them."""
    waiting = [(PurePosixPath(), out)]
    while waiting:
        place, folder = waiting.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False) or is_temporary(Path(entry.name)):
                    continue
                if entry.name.endswith(_SUFFIX):
                    yield str(place / entry.name.removesuffix(_SUFFIX)), Path(entry.path)
                else:
                    waiting.append((place / entry.name, Path(entry.path)))


def _state(place: str, path: Path, is_claimed: bool, is_listed: bool, now_s: float) -> _SlideState:
    """Return how far a slide is that was begun."""
    folder = RunDir(path)
    try:
        record = _read_done(folder.run_json) or read_record(folder)
    except OutputNotWritable as unread:
        return _SlideState(place, "failed", str(unread))
    if record is None:
        if folder.run_json.exists():
            return _not_readable(place, "it is no JSON of a run")
        record = {}
    status, error = record.get("status"), record.get("error")
    if status == "done":
        return _done(place, record)
    if is_claimed or (status == "running" and not is_listed and _has_news(folder, now_s)):
        return _SlideState(place, "running")
    if status == "failed" and isinstance(error, Mapping) and error.get("type") not in STOPPED:
        return _SlideState(place, "failed", str(error.get("message")))
    return _SlideState(place, "interrupted")


def _read_done(run_json: Path) -> dict[str, Any] | None:
    """Return what is needed of a finished run's record, None if that is not seen at once.

    Of thousands of records reading all takes too long.  In ours each key that is not inside
    another stands on a line of its own, after one blank.
    """
    try:
        text = run_json.read_bytes()
    except OSError:
        return None
    if b'\n "status": "done",' not in text:
        return None
    found = {}
    for name in _NEEDED:
        key = f'\n "{name}": '.encode()
        start = text.find(key) + len(key)
        if start < len(key):
            return None
        try:
            found[name] = json.loads(text[start : text.index(b"\n", start)].rstrip(b","))
        except ValueError:
            return None
    return {"status": "done", **found}


def _not_readable(place: str, why: str) -> _SlideState:
    return _SlideState(
        place,
        "failed",
        f"not readable: run.json is damaged: {why}; segment the slide again with --overwrite",
    )


def _done(place: str, record: Mapping[str, Any]) -> _SlideState:
    interval = None
    n_cells, area_mm2 = record.get("n_cells"), record.get("analysed_mm2")
    if not isinstance(n_cells, int) or isinstance(n_cells, bool):
        return _not_readable(place, f"n_cells is {n_cells!r}")
    if not isinstance(area_mm2, int | float) or not math.isfinite(area_mm2):
        return _not_readable(place, f"analysed_mm2 is {area_mm2!r}")
    with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
        start, end = (
            datetime.fromisoformat(record[name]).timestamp()
            for name in ("started_utc", "finished_utc")
        )
        interval = Interval(start, max(start, end), area_mm2)
    return _SlideState(place, "done", "", n_cells, float(area_mm2), interval)


def _has_news(folder: RunDir, now_s: float) -> bool:
    """Return whether a file came into a run's working folder a short while ago."""
    try:
        return now_s - folder.work.stat().st_mtime < _QUIET_S
    except OSError:
        return False
