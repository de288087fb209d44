"""Several calls at once in one place."""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from chaos_compare import differences
from chaos_disk import NAMES, SYNCS, WRITES
from chaos_processes import Caller, Case, callers

KILLED = -9
KILLED_ROUNDS = 0.2
"""Share of the rounds in which one call is killed."""
OVERWRITING = 0.15
"""Share of the rounds in which one call says --overwrite; the others may fail then."""


def together(case: Case, n: int, seed: int) -> int:
    """Two or three calls at once, from the start or with all tiles done, some killed."""
    rng = random.Random(seed)
    with callers(3, case.failing_disk) as group:
        expected = case.folder / "undisturbed"
        for caller in group:
            shutil.rmtree(expected, ignore_errors=True)
            reply = caller.call(case.job(expected))
            if reply["code"]:
                print(reply["said"])
                return 1
        seconds = group[0].call(case.job(case.folder / "timed"))["seconds"]
        all_tiles = _with_all_tiles(case, group[0])
        codes: Counter[int] = Counter()
        wrong = 0
        for number in range(n):
            start = all_tiles if number % 2 else None
            faults, ended = _round(case, group, expected, start, seconds, rng)
            codes.update(ended)
            for fault in faults:
                print(f"   round {number}: {fault}")
            wrong += bool(faults)
    said = ", ".join(f"{count} ended with {code}" for code, count in sorted(codes.items()))
    print(f"   {n} rounds: {said}; {wrong} wrong")
    return wrong


def _with_all_tiles(case: Case, caller: Caller) -> Path:
    """Make a run that stopped when its last tile was written."""
    out = case.folder / "all-tiles"
    disk = {"folder": str(out), "from": -1, "errno": errno.ENOSPC, "kinds": WRITES | SYNCS | NAMES}
    total = caller.call(case.job(out, disk=disk))["seen"]
    for failing_from in range(total - 1, 0, -max(1, total // 100)):
        shutil.rmtree(out)
        caller.call(case.job(out, disk=disk | {"from": failing_from}))
        run = case.run_directory(out)
        if not (run / "cells.parquet").exists():
            break
    n_tiles = len(list(case.work(out).glob("tile_*.safetensors")))
    print(f"   half of the rounds begin with {n_tiles} tiles done")
    return out


def _round(
    case: Case,
    group: list[Caller],
    expected: Path,
    start: Path | None,
    seconds: float,
    rng: random.Random,
) -> tuple[list[str], list[int]]:
    out = case.folder / "out"
    if start is not None:
        shutil.copytree(start, out, symlinks=True)
    callers = group[: rng.choice((2, 2, 3))]
    spread_s = seconds * rng.choice((0.02, 0.2, 1.0))
    overwriting = rng.choice(callers) if rng.random() < OVERWRITING else None
    for caller in callers:
        job = case.job(out, delay_s=rng.uniform(0, spread_s))
        job["arguments"] += ["--overwrite"] * (caller is overwriting)
        caller.ask(job | {"pause_s": case.pause_s * rng.choice((0, 1, 4))})
    killed = rng.choice(callers) if rng.random() < KILLED_ROUNDS else None
    if killed is not None:
        time.sleep(rng.uniform(0, seconds))
        killed.restart()
    others = [caller for caller in callers if caller is not killed]
    replies = [caller.answer() for caller in others]
    may_fail = overwriting is not None
    faults = [fault for reply in replies for fault in reply_faults(reply, may_fail)]
    if killed is not None or overwriting is not None:
        # What a killed call left may stay until then; one whose run was deleted may have failed.
        faults += reply_faults(others[0].call(case.job(out)), may_fail=False)
    faults += differences(case.run_directory(expected), case.run_directory(out))
    shutil.rmtree(out, ignore_errors=True)
    return faults, [reply["code"] for reply in replies] + [KILLED] * (killed is not None)


def reply_faults(reply: dict[str, Any], may_fail: bool) -> list[str]:
    """Return what is wrong with how a call ended that nothing but another call disturbed."""
    said = reply["said"]
    lines = said.strip().splitlines() or ["nothing"]
    if "Traceback" in said or "Exception ignored" in said:
        return [f"a traceback: {lines[-1]}"]
    allowed = (0, 3) if may_fail else (0,)
    return [] if reply["code"] in allowed else [f"ended with {reply['code']}: {lines[-1]}"]
