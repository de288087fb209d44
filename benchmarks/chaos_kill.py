"""kill -9 again and again, until the run is done."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from chaos_compare import differences
from chaos_processes import Case, kill, start

from wsiseg.models import Numerics
from wsiseg.runners import tiles_at_once

POLL_S = 0.005
_MOST_MISSES = 6


@dataclass(frozen=True)
class Course:
    """How an undisturbed run went."""

    n_tiles: int
    starting_s: float
    """Until its first file."""
    tiles_s: float
    ending_s: float
    """From its last tile on."""


@dataclass(frozen=True)
class Moment:
    """When to kill: so long after so many tiles are done."""

    at_s: float
    """From the first file of the undisturbed run on; below zero: while the command starts."""
    n_tiles: int
    after_s: float


def kills(case: Case, n: int, seed: int) -> int:
    """Kill n calls at moments spread evenly over a run, in as many runs as that needs."""
    rng = random.Random(seed)
    expected = case.folder / "undisturbed"
    course = _undisturbed(case, expected)
    print(
        f"   undisturbed: {course.starting_s:.1f} s to start, {course.n_tiles} tiles in "
        f"{course.tiles_s:.1f} s, then {course.ending_s:.1f} s"
    )
    wrong = misses = 0
    left = n
    for number in itertools.count():
        if left <= 0:
            return wrong
        out = case.folder / f"out-{number}"
        moments = _moments(course, left, rng)
        done, faults = _killed_run(case, out, course, moments)
        faults += differences(case.run_directory(expected), case.run_directory(out))
        for fault in faults:
            print(f"   run {number}: {fault}")
        wrong += bool(faults)
        left -= done
        misses = 0 if done else misses + 1
        if misses == _MOST_MISSES:
            print("   no call was killed in time; that counts as wrong")
            return wrong + 1
        if misses:
            # The machine is not as busy as it was: what is left comes sooner.
            course = _sooner(course)
    return wrong


def _sooner(course: Course) -> Course:
    return replace(
        course,
        starting_s=course.starting_s * 0.6,
        tiles_s=course.tiles_s * 0.6,
        ending_s=course.ending_s * 0.6,
    )


def _undisturbed(case: Case, out: Path) -> Course:
    began = time.monotonic()
    process = start(case.job(out))
    first = last = 0.0
    while process.poll() is None:
        time.sleep(POLL_S)
        now = time.monotonic()
        if not first and case.work(out).exists():
            first = now
        if any(case.work(out).glob("tile_*")) and _grown(case, out):
            last = now
    assert process.stdout is not None
    reply = json.loads(process.stdout.read())
    if reply["code"]:
        raise SystemExit(reply["said"])
    ended = time.monotonic()
    n_tiles = json.loads((case.run_directory(out) / "run.json").read_text())["tiles"]["run"]
    _grown.most = 0
    return Course(n_tiles, first - began, last - first, ended - last)


class _Grown:
    """Whether there are more tiles than ever before."""

    def __init__(self) -> None:
        self.most = 0

    def __call__(self, case: Case, out: Path) -> bool:
        n_tiles = _n_tiles(case, out)
        grown = n_tiles > self.most
        self.most = max(self.most, n_tiles)
        return grown


_grown = _Grown()


def _n_tiles(case: Case, out: Path) -> int:
    return sum(1 for _ in case.work(out).glob("tile_*.safetensors"))


def _moments(course: Course, n: int, rng: random.Random) -> list[Moment]:
    whole_s = course.tiles_s + course.ending_s
    moments = []
    for _ in range(n):
        at_s = rng.uniform(-0.1 * whole_s, whole_s)
        if at_s < 0:
            moments.append(Moment(at_s, 0, rng.uniform(0, course.starting_s)))
        elif at_s < course.tiles_s:
            progress = at_s / course.tiles_s * course.n_tiles
            part_s = progress % 1 * course.tiles_s / course.n_tiles
            moments.append(Moment(at_s, int(progress), part_s))
        else:
            moments.append(Moment(at_s, course.n_tiles, at_s - course.tiles_s))
    return sorted(moments, key=lambda moment: moment.at_s)


def _killed_run(
    case: Case, out: Path, course: Course, moments: list[Moment]
) -> tuple[int, list[str]]:
    """Kill the calls of one run; return how many were killed, and what was wrong."""
    record = case.folder / f"{out.name}.record"
    done, kept = 0, []
    for moment in moments:
        process = start(case.job(out, record=str(record)))
        if not _killed(case, out, process, moment):
            break
        done += 1
        kept.append(_n_tiles(case, out))
    else:
        process = start(case.job(out, record=str(record)))
    assert process.stdout is not None
    reply = json.loads(process.stdout.read())
    process.wait()
    faults = [] if reply["code"] == 0 else [f"ended with {reply['code']}: {reply['said']}"]
    in_end = sum(moment.n_tiles == course.n_tiles for moment in moments[:done])
    in_start = sum(moment.at_s < 0 for moment in moments[:done])
    print(
        f"   {out.name}: {done} killed ({in_start} while starting, {in_end} after the last tile); "
        f"tiles kept each time: {' '.join(map(str, kept))}"
    )
    return done, faults + _too_often(record, course.n_tiles, done)


def _killed(case: Case, out: Path, process: subprocess.Popen[str], moment: Moment) -> bool:
    """Wait for the moment and kill; False if the process was done before."""
    log = case.run_directory(out) / "log.txt"
    size = log.stat().st_size if log.exists() else 0
    began = time.monotonic()
    since = None
    while process.poll() is None:
        now = time.monotonic()
        if moment.at_s < 0:
            since = began
        elif since is None:
            # All tiles may be there from the first: then the call has to be at work as well.
            at_work = log.exists() and log.stat().st_size > size
            if at_work and _n_tiles(case, out) >= moment.n_tiles:
                since = now
        if since is not None and now - since >= moment.after_s:
            kill(process)
            return True
        time.sleep(POLL_S)
    return False


def _too_often(record: Path, n_tiles: int, killed: int) -> list[str]:
    """Return whether more tiles were computed twice than were in flight at the kills."""
    counts = Counter(record.read_text().split())
    again = sum(counts.values()) - len(counts)
    # Read or predicted, and not yet in a file: two steps for each thread, and the queue.
    at_once = tiles_at_once(Numerics())
    in_flight = 2 * (at_once + 1) + at_once
    print(f"   {len(counts)} tiles, {again} computed again ({again / max(1, killed):.1f} a kill)")
    if len(counts) != n_tiles:
        return [f"{len(counts)} tiles were computed, {n_tiles} are needed"]
    if again > killed * in_flight:
        return [f"{again} tiles were computed again, more than {killed} × {in_flight} in flight"]
    return []
