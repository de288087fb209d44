"""Disks that fill up, or turn read-only, at the n-th change of a file."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from chaos_compare import differences
from chaos_processes import Caller, Case, callers

WRITES, SYNCS, NAMES, REMOVALS = 1, 2, 4, 8


def full_disk(case: Case, n: int, seed: int) -> int:
    """No space from the n-th change on; each kind of change alone too."""
    kinds = {
        "writes, syncs and names": WRITES | SYNCS | NAMES,
        "writes": WRITES,
        "syncs": SYNCS,
        "names": NAMES,
    }
    return _fail(case, n, seed, errno.ENOSPC, kinds)


def read_only_disk(case: Case, n: int, seed: int) -> int:
    """Nothing can be changed from the n-th change on."""
    return _fail(case, n, seed, errno.EROFS, {"everything": WRITES | SYNCS | NAMES | REMOVALS})


def _fail(case: Case, n: int, seed: int, number: int, kinds: dict[str, int]) -> int:
    if case.failing_disk is None:
        print("   no C compiler: only what Python itself opens, names and makes safe fails")
    wrong = 0
    with callers(1, case.failing_disk) as (caller,):
        expected = case.folder / "undisturbed"
        reply = caller.call(case.job(expected))
        if reply["code"]:
            print(reply["said"])
            return 1
        for name, kind in kinds.items():
            wrong += _fail_in_turn(case, caller, expected, (number, kind, name), n, seed)
    return wrong


def _fail_in_turn(
    case: Case, caller: Caller, expected: Path, how: tuple[int, int, str], n: int, seed: int
) -> int:
    number, kind, name = how
    counted = case.folder / "counted"
    disk = {"folder": str(counted), "from": -1, "errno": number, "kinds": kind}
    total = caller.call(case.job(counted, disk=disk))["seen"]
    shutil.rmtree(counted)
    if not total:
        return 0
    chosen = _spread(total, n, random.Random(seed))
    codes: Counter[int] = Counter()
    wrong = 0
    for failing_from in sorted(chosen):
        out = case.folder / f"out-{failing_from}"
        disk = {"folder": str(out), "from": failing_from, "errno": number, "kinds": kind}
        faults, code = _one(case, caller, expected, out, disk)
        codes[code] += 1
        for fault in faults:
            print(f"   {name} from {failing_from} of {total}: {fault}")
        wrong += bool(faults)
        shutil.rmtree(out, ignore_errors=True)
    ended = ", ".join(f"{count} ended with {code}" for code, count in sorted(codes.items()))
    print(
        f"   {os.strerror(number)}, {name}: {len(chosen)} of {total} tried, {ended}; {wrong} wrong"
    )
    return wrong


def _spread(total: int, n: int, rng: random.Random) -> set[int]:
    """Choose n of the changes, one from each stretch; if there are many, the ends always."""
    chosen = {
        rng.randrange(k * total // n, max(k * total // n + 1, (k + 1) * total // n))
        for k in range(n)
    }
    if n >= 24:
        chosen |= {*range(4), *range(total - 8, total)} & set(range(total))
    return {number for number in chosen if number < total}


def _one(
    case: Case, caller: Caller, expected: Path, out: Path, disk: dict[str, Any]
) -> tuple[list[str], int]:
    """Let one call fail and call again; return what is wrong, and how the first ended."""
    first = caller.call(case.job(out, disk=disk))
    run = case.run_directory(out)
    faults = failure_faults(first, run, disk["errno"])
    if first["code"] == 0:
        # A call may end well if all that failed was clearing up.
        left = differences(case.run_directory(expected), run)
        work = (".wsiseg/work", ".wsiseg/.work.")
        faults += [f"ended well, but: {one}" for one in left if not any(w in one for w in work)]
    kept = len(list(case.work(out).glob("tile_*.safetensors")))
    record = case.folder / "record"
    record.unlink(missing_ok=True)
    again = caller.call(case.job(out, record=str(record)))
    if again["code"]:
        faults.append(f"the same command then ended with {again['code']}: {again['said']}")
        return faults, first["code"]
    computed = len(record.read_text().split()) if record.exists() else 0
    done = json.loads((run / "run.json").read_text())["tiles"]["run"]
    if first["code"] and computed > done - kept:
        faults.append(f"{kept} of {done} tiles were done, yet {computed} were computed again")
    return faults + differences(case.run_directory(expected), run), first["code"]


def failure_faults(reply: dict[str, Any], run: Path, number: int) -> list[str]:
    """Return what is wrong with how a call failed."""
    said = reply["said"]
    faults = []
    if "Traceback" in said or "Exception ignored" in said:
        faults.append(f"a traceback: {said.strip().splitlines()[-1]}")
    if reply["code"] not in (0, 3):
        faults.append(f"ended with {reply['code']}")
    if reply["code"]:
        last = said.strip().splitlines()[-1]
        if not last.startswith(("failed: ", "error: ")) or os.strerror(number) not in last:
            faults.append(f"does not say why: {last}")
        if "again" not in last:
            faults.append(f"does not say what to do: {last}")
        record = run / "run.json"
        if record.exists():
            status = json.loads(record.read_text())["status"]
            if status not in ("running", "failed"):
                faults.append(f"run.json says {status}")
    return faults
