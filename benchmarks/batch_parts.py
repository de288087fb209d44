"""A batch as a job array: does every slide come out once, whatever happens to the calls?

    python benchmarks/batch_parts.py [--slides 200] [--model NAME] [--seed 0] [--folder DIR]
        [--parts 8] [--then 5] [--at-once 3] [--pause-s 0]

Eight calls `--part k/8`, a few at the same time, as a cluster with few free nodes runs them: two
are killed with -9 in the middle, one gets SIGTERM. Then five calls `--part k/5`. At the end each
good slide must be what it is when segmented alone, and each of the broken ones listed with its
reason. Last, `--skip-bad-tiles` finishes the slide with a damaged tile.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batch_calls import (
    DONE,
    INTERRUPTED,
    SOME_FAILED,
    Batch,
    Call,
    add_batch_options,
    emptied,
    faults,
    finish,
    given_batch,
    is_at_work,
    n_done,
    print_table,
    record_of,
    run,
    run_singles,
    start,
    status,
)

from wsiseg.machine import cores

POLL_S = 0.02
MOST_STOPPING_S = 30.0


@dataclass(frozen=True)
class Ended:
    """How one call ended."""

    part: str
    code: int
    done_to: str | None
    """What was done to it, if anything."""
    stopping_s: float
    """From the signal on."""


def disturbed_parts(
    batch: Batch, out: Path, parts: Sequence[str], at_once: int, pause_s: float, seed: int
) -> list[Ended]:
    """Run the parts, a few at a time; kill two of them and interrupt one, in the middle."""
    rng = random.Random(seed)
    # Any part may be done before it is its turn to be killed: then the next one is.
    fates = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]
    fates_left = rng.sample(fates, len(fates))
    waiting, running, ended = list(parts), [], []
    while waiting or running:
        while waiting and len(running) < at_once:
            part = waiting.pop(0)
            said = batch.scratch / f"{out.name}-{part.replace('/', '-of-')}.txt"
            call = start(batch.segment(out, "--part", part), said, batch.environment(pause_s))
            running.append((part, call, n_done(batch, out) + rng.randint(1, 3)))
        time.sleep(POLL_S)
        n_now = n_done(batch, out)
        for one in list(running):
            part, call, at_n_done = one
            code = call.process.poll()
            if code is not None:
                running.remove(one)
                ended.append(Ended(part, code, None, 0.0))
            elif fates_left and n_now >= at_n_done and is_at_work(out, call):
                running.remove(one)
                ended.append(_end(part, call, fates_left.pop()))
    return ended


def _end(part: str, call: Call, number: int) -> Ended:
    sent = time.monotonic()
    call.kill(number)
    code = call.process.wait()
    return Ended(part, code, signal.Signals(number).name, time.monotonic() - sent)


def disturbance_faults(ended: Sequence[Ended]) -> list[str]:
    """Return what is wrong with how the calls of the first round ended."""
    found = []
    done_to = sorted(one.done_to for one in ended if one.done_to)
    if done_to != ["SIGKILL", "SIGKILL", "SIGTERM"]:
        found.append(f"only {done_to} were done to calls at work; take more slides, or a pause")
    for one in ended:
        if one.done_to is None and one.code not in (DONE, SOME_FAILED):
            found.append(f"part {one.part} ended with {one.code}")
        if one.done_to == "SIGTERM" and one.code != INTERRUPTED:
            found.append(f"part {one.part} ended with {one.code} after SIGTERM, not with 75")
        if one.done_to == "SIGTERM" and one.stopping_s > MOST_STOPPING_S:
            found.append(f"part {one.part} took {one.stopping_s:.1f} s to end after SIGTERM")
    return found


def undisturbed_parts(
    batch: Batch, out: Path, parts: Sequence[str], at_once: int, pause_s: float
) -> list[Ended]:
    waiting, running, ended = list(parts), [], []
    while waiting or running:
        while waiting and len(running) < at_once:
            part = waiting.pop(0)
            said = batch.scratch / f"{out.name}-{part.replace('/', '-of-')}.txt"
            command = batch.segment(out, "--part", part)
            running.append((part, start(command, said, batch.environment(pause_s))))
        time.sleep(POLL_S)
        for one in list(running):
            code = one[1].process.poll()
            if code is not None:
                running.remove(one)
                ended.append(Ended(one[0], code, None, 0.0))
    return ended


def trial(batch: Batch, given: argparse.Namespace) -> list[str]:
    out = emptied(batch.scratch / "parts")
    print(f"{len(batch.good)} good slides and {len(batch.bad)} broken ones, each alone first")
    single_s = run_singles(batch)
    began = time.monotonic()
    first = [f"{k}/{given.parts}" for k in range(1, given.parts + 1)]
    ended = disturbed_parts(batch, out, first, given.at_once, given.pause_s, given.seed)
    first_s, first_n = time.monotonic() - began, n_done(batch, out)
    for one in sorted(ended, key=lambda one: one.part):
        print(f"   part {one.part} ended with {one.code} {one.done_to or ''}")
    before = {place: _made_at(out, place) for place in batch.good}
    began = time.monotonic()
    then = [f"{k}/{given.then}" for k in range(1, given.then + 1)]
    again = undisturbed_parts(batch, out, then, min(2, given.at_once), given.pause_s)
    then_s = time.monotonic() - began
    wrong = disturbance_faults(ended) + disturbance_free_faults(again)
    redone = [place for place, at in before.items() if at and at != _made_at(out, place)]
    wrong += [f"{place} was done, and was done again" for place in redone]
    wrong += faults(batch, out)
    wrong += _counted_once(batch, out)
    _, status_s = status(batch, out)
    wrong += _skipping_faults(batch, out)
    stopping = [one.stopping_s for one in ended if one.done_to == "SIGTERM"]
    sum_s = sum(single_s.values())
    print_table(
        [
            ("slides, of which broken", f"{len(batch.made)}, {len(batch.bad)}"),
            ("sum of single runs, one process, warm, s", sum_s),
            (f"{given.parts} calls, {given.at_once} at once, two killed, one stopped, s", first_s),
            ("good slides done by then", first_n),
            (f"{given.then} calls, s", then_s),
            (
                "both rounds against the sum of single runs (above 1: faster)",
                sum_s / (first_s + then_s),
            ),
            (
                "good slides an hour, both rounds, starting included",
                3600 * len(batch.good) / (first_s + then_s),
            ),
            ("SIGTERM to the end, s", max(stopping, default=float("nan"))),
            ("wsiseg status, s", status_s),
            ("cores", cores()),
        ]
    )
    return wrong


def disturbance_free_faults(ended: Sequence[Ended]) -> list[str]:
    """Return what is wrong with how undisturbed calls ended; some have broken slides to tell of."""
    found = [
        f"part {one.part} ended with {one.code}"
        for one in ended
        if one.code not in (DONE, SOME_FAILED)
    ]
    if not any(one.code == SOME_FAILED for one in ended):
        found.append("no call ended with 3, though slides are broken")
    return found


def _made_at(out: Path, place: str) -> int:
    """Return when a finished slide's record was written; 0 if it is not finished."""
    if record_of(out, place).get("status") != "done":
        return 0
    return (out / f"{place}.wsiseg" / "run.json").stat().st_mtime_ns


def _counted_once(batch: Batch, out: Path) -> list[str]:
    """Return whether anything is counted twice, or not at all, over the whole batch."""
    said, _ = status(batch, out)
    counts = (said["n_slides"], said["n_done"], len(said["failed"]), said["n_left"])
    needed = (len(batch.made), len(batch.good), len(batch.bad), 0)
    return [] if counts == needed else [f"status counts {counts}; {needed} are there"]


def _skipping_faults(batch: Batch, out: Path) -> list[str]:
    """Finish the slide with a damaged tile by leaving that out; return what is wrong."""
    (place,) = (one.place for one in batch.made if one.broken == "bad tile")
    before = {place: _made_at(out, place) for place in batch.good}
    said = batch.scratch / "skipping.txt"
    code = run(batch.segment(out, "--skip-bad-tiles"), said, batch.environment())
    found = [] if code == SOME_FAILED else [f"--skip-bad-tiles ended with {code}"]
    record = record_of(out, place)
    if record.get("status") != "done" or not record.get("tiles", {}).get("unreadable"):
        found.append(
            f"--skip-bad-tiles: {place} is {record.get('status')}, without a list of tiles"
        )
    if before != {place: _made_at(out, place) for place in batch.good}:
        found.append("--skip-bad-tiles ran finished slides again")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_batch_options(parser)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--then", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--pause-s", type=float, default=0.0, help="of the stand-in, for a tile")
    given = parser.parse_args()
    with given_batch(given) as batch:
        wrong = trial(batch, given)
    finish(wrong)


if __name__ == "__main__":
    main()
