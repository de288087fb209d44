"""Random deaths of workers, scheduler and client over a batch; disks that fill or turn read-only.

Trials of `chaos.py`: `batch` kills with -9, again and again, one of two Dask workers, the scheduler
or the client that were started by hand, and does what a user would do: starts what died, and gives
the same command again. `batchdisk` lets the disk fill up in the middle of a batch and frees it,
then makes it read-only and writable again. The results must be those of an undisturbed batch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from batch_calls import (
    INTERRUPTED,
    SOME_FAILED,
    USAGE,
    Batch,
    Call,
    faults,
    is_at_work,
    n_done,
    run,
    run_singles,
    start,
)
from batch_cluster import Cluster, cluster_by_hand
from batch_model import make_model
from batch_slides import make_batch, shared_images
from chaos_processes import HERE, Case

POLL_S = 0.05
N_SLIDES = {"short": 12, "long": 24}
PAUSE_S = 0.3
MOST_CALLS = 300
EARLY_KILLS = 0.2
"""Share of the calls that are disturbed before they have begun a slide."""
LONGEST_CALL_S = 300.0
"""A call that does nothing new for so long hangs."""
NOTICED_S = 60.0
"""A client whose scheduler died must have ended by then."""


def kills_of_a_batch(case: Case, n: int, seed: int) -> int:
    """Kill n times in as many batches as that needs; return how many went wrong."""
    rng = random.Random(seed)
    batch = _batch(case, n, seed)
    run_singles(batch)
    killed: Counter[str] = Counter()
    wrong = rounds = 0
    while killed.total() < n:
        out = batch.scratch / f"chaos-{rounds}"
        said = batch.scratch / f"cluster-{rounds}"
        with cluster_by_hand(said, batch.environment(PAUSE_S), 2) as cluster:
            now, found = _killed_batch(batch, out, cluster, n - killed.total(), rng)
        found += faults(batch, out)
        for fault in found:
            print(f"   batch {rounds}: {fault}")
        wrong += bool(found)
        killed.update(now)
        rounds += 1
        if not now.total():
            print("   nothing was killed in time; that counts as wrong")
            return wrong + 1
        shutil.rmtree(out, ignore_errors=True)
    told = ", ".join(f"{count} of {kind}" for kind, count in sorted(killed.items()))
    print(f"   {killed.total()} killed ({told}) over {rounds} batches of {len(batch.made)} slides")
    return wrong


def _killed_batch(
    batch: Batch, out: Path, cluster: Cluster, most: int, rng: random.Random
) -> tuple[Counter[str], list[str]]:
    """Give the command again and again until the batch is done; kill in between."""
    killed: Counter[str] = Counter()
    found: list[str] = []
    said = batch.scratch / f"{out.name}.txt"
    for _ in range(MOST_CALLS):
        call = start(
            batch.segment(out, "--cluster", cluster.address), said, batch.environment(PAUSE_S)
        )
        try:
            kills, problem = _one_call(batch, out, cluster, call, most - killed.total(), rng)
        finally:
            if call.process.poll() is None:
                call.kill()
                call.process.wait()
        killed.update(kills)
        if problem:
            last = (call.text().strip().splitlines() or ["nothing"])[-1]
            return killed, [*found, f"{problem}; its last words: {last}"]
        code = call.process.returncode
        if code == SOME_FAILED and n_done(batch, out) == len(batch.good):
            return killed, found
        if not kills:
            last = (call.text().strip().splitlines() or ["nothing"])[-1]
            return killed, [*found, f"an undisturbed call ended with {code}: {last}"]
        cluster.mend()
    return killed, [*found, f"not done after {MOST_CALLS} calls"]


def _one_call(
    batch: Batch, out: Path, cluster: Cluster, call: Call, most: int, rng: random.Random
) -> tuple[Counter[str], str | None]:
    """Watch a call, killing workers, and then perhaps what ends it; what is wrong, if anything."""
    killed: Counter[str] = Counter()
    # Some while the command starts, the others while it has slides in its hands.
    next_kill = time.monotonic() + rng.uniform(0.5, 8) if rng.random() < EARLY_KILLS else None
    seen, seen_at = n_done(batch, out), time.monotonic()
    while call.process.poll() is None:
        time.sleep(POLL_S)
        now = time.monotonic()
        done = n_done(batch, out)
        if done > seen:
            seen, seen_at = done, now
        if now - seen_at > LONGEST_CALL_S:
            return killed, f"the client did nothing for {LONGEST_CALL_S:.0f} s"
        if next_kill is None and is_at_work(out, call):
            next_kill = now + rng.uniform(0, 8)
        if next_kill is None or now < next_kill or killed.total() >= most:
            continue
        kind = rng.choice(("worker", "worker", "scheduler", "client"))
        _kill(kind, cluster, call, rng)
        killed[kind] += 1
        if kind == "client":
            call.process.wait()
        elif kind == "scheduler":
            with contextlib.suppress(subprocess.TimeoutExpired):
                call.process.wait(NOTICED_S)
            if call.process.poll() is None:
                return killed, f"the client lives on {NOTICED_S:.0f} s after its scheduler died"
            # 2: it had not yet found the scheduler.
            if call.process.returncode not in (USAGE, INTERRUPTED, SOME_FAILED):
                return killed, f"the client ended with {call.process.returncode} with its scheduler"
        else:
            time.sleep(rng.uniform(0, 3))
            cluster.mend()
            next_kill = time.monotonic() + rng.uniform(0.5, 8)
            seen_at = time.monotonic()
    return killed, None


def _kill(kind: str, cluster: Cluster, call: Call, rng: random.Random) -> None:
    if kind == "client":
        call.kill()
        return
    victim = rng.choice(cluster.workers) if kind == "worker" else cluster.scheduler
    assert victim is not None
    if victim.process.poll() is None:
        victim.kill()
        victim.process.wait()


def disks_of_a_batch(case: Case, n: int, seed: int) -> int:
    """Fill the disk, and make it read-only, n times each in the middle of a batch."""
    rng = random.Random(seed)
    batch = _batch(case, n, seed)
    run_singles(batch)
    wrong = 0
    for number in range(n):
        with _small_disk(case, number) as disk:
            if disk is None:
                print("   small disks cannot be mounted here; only the failing library is tried")
                break
            found = _filled(batch, disk / "out", rng)
        wrong += _tell(found, f"disk full {number}")
        with _small_disk(case, number) as disk:
            if disk is not None:
                found = _read_only(batch, disk, rng)
        wrong += _tell(found, f"disk read-only {number}")
    if case.failing_disk is not None:
        for name, code in (("no space", errno.ENOSPC), ("read-only", errno.EROFS)):
            for number in range(n):
                out = batch.scratch / f"failing-{code}-{number}"
                found = _failing(batch, case, out, code, rng)
                wrong += _tell(found, f"library, {name} {number}")
                shutil.rmtree(out, ignore_errors=True)
    return wrong


def _tell(found: list[str], what: str) -> int:
    for fault in found:
        print(f"   {what}: {fault}")
    if not found:
        print(f"   {what}: well")
    return int(bool(found))


@contextlib.contextmanager
def _small_disk(case: Case, number: int) -> Iterator[Path | None]:
    """Mount a disk of 512 MB in memory; None where that is not allowed."""
    place = case.folder / f"disk-{number}"
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def _filled(batch: Batch, out: Path, rng: random.Random) -> list[str]:
    """Take all space away once a few slides are done; free it; call again."""
    said = batch.scratch / "filled.txt"
    out.mkdir()
    at_n_done = rng.randint(2, len(batch.good) // 2)
    call = start(batch.segment(out), said, batch.environment(PAUSE_S))
    if not _wait_for(batch, out, call, at_n_done):
        return ["the call ended before the disk was full"]
    ballast = out.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    found = _ended_clearly(call, os.strerror(errno.ENOSPC))
    ballast.unlink()
    return found + _continued(batch, out, said)


def _read_only(batch: Batch, disk: Path, rng: random.Random) -> list[str]:
    """Make the disk read-only once a few slides are done; then writable again; call again."""
    said, out = batch.scratch / "readonly.txt", disk / "out"
    out.mkdir()
    call = start(batch.segment(out), said, batch.environment(PAUSE_S))
    if not _wait_for(batch, out, call, rng.randint(2, len(batch.good) // 2)):
        return ["the call ended before the disk was read-only"]
    # Refused while a file is open for writing.
    remount = ["mount", "-o", "remount,ro", str(disk)]
    while subprocess.run(remount, capture_output=True, check=False).returncode:
        time.sleep(0.01)
        if call.process.poll() is not None:
            return ["the call ended before the disk was read-only"]
    found = _ended_clearly(call, os.strerror(errno.EROFS))
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    return found + _continued(batch, out, said)


def _failing(batch: Batch, case: Case, out: Path, number: int, rng: random.Random) -> list[str]:
    """Let all changes of OUT fail from some on, in that process; then call again."""
    said = batch.scratch / f"{out.name}.txt"
    kinds = 15 if number == errno.EROFS else 7
    arguments = batch.segment(out)[3:]
    job = {"arguments": arguments, "folder": str(out), "errno": number, "kinds": kinds}
    counted = _failing_call(batch, case, job | {"from": -1})
    shutil.rmtree(out)
    seen = json.loads(counted.stdout.splitlines()[-1])["seen"]
    failing_from = rng.randrange(seen // 5, seen)
    done = _failing_call(batch, case, job | {"from": failing_from})
    said.write_text(done.stderr)
    found = _clear_faults(done.returncode, done.stderr, os.strerror(number))
    return [f"from {failing_from} of {seen}: {one}" for one in found] + _continued(batch, out, said)


def _failing_call(
    batch: Batch, case: Case, job: dict[str, object]
) -> subprocess.CompletedProcess[str]:
    environ = batch.environment() | {"LD_PRELOAD": str(case.failing_disk)}
    command = [sys.executable, str(HERE / "chaos_batch_call.py"), json.dumps(job)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def _wait_for(batch: Batch, out: Path, call: Call, n: int) -> bool:
    while call.process.poll() is None:
        if n_done(batch, out) >= n:
            return True
        time.sleep(POLL_S)
    return False


def _ended_clearly(call: Call, reason: str) -> list[str]:
    try:
        code = call.process.wait(LONGEST_CALL_S)
    except subprocess.TimeoutExpired:
        call.kill(signal.SIGKILL)
        call.process.wait()
        return [f"the call was still there after {LONGEST_CALL_S:.0f} s"]
    return _clear_faults(code, call.text(), reason)


def _clear_faults(code: int, said: str, reason: str) -> list[str]:
    """Return what is wrong with how a call told of a disk that failed."""
    found = []
    if code != SOME_FAILED:
        found.append(f"ended with {code}, not with 3")
    if "Traceback" in said or "Exception ignored" in said:
        found.append("a traceback")
    if reason not in said:
        found.append(f"does not say {reason!r}: {(said.strip().splitlines() or ['nothing'])[-1]}")
    return found


def _continued(batch: Batch, out: Path, said: Path) -> list[str]:
    """Give the same command again; return what is wrong with how it ends, and the results."""
    code = run(batch.segment(out), said, batch.environment())
    found = [] if code == SOME_FAILED else [f"the same command then ended with {code}"]
    return found + faults(batch, out)


def _batch(case: Case, n: int, seed: int) -> Batch:
    """Make slides; a few for a few disturbances."""
    slides = case.folder / "slides"
    n_slides = N_SLIDES["long" if n > 2 else "short"]
    make_batch(slides, n_slides, seed, shared_images(), (300, 900))
    return Batch(slides, str(make_model(case.folder / "model")), case.folder)
