"""Calls of the command line over a batch of slides, and what must hold of their results."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from batch_model import environment, make_model
from batch_slides import Made, make_batch, read_batch, shared_images
from chaos_compare import run_differences

HERE = Path(__file__).resolve().parent
DONE, USAGE, SOME_FAILED, INTERRUPTED = 0, 2, 3, 75


@dataclass(frozen=True)
class Batch:
    """Slides, a model, and how each slide alone turned out."""

    slides: Path
    model: str
    """A shipped one's name, or a folder."""
    scratch: Path
    """For everything that is written."""

    @property
    def made(self) -> list[Made]:
        return read_batch(self.slides)

    @property
    def good(self) -> list[str]:
        return [one.place for one in self.made if one.broken is None]

    @property
    def bad(self) -> list[str]:
        return [one.place for one in self.made if one.broken is not None]

    @property
    def expected(self) -> Path:
        """Results of each slide alone."""
        return self.scratch / "single"

    def environment(self, pause_s: float = 0.0) -> dict[str, str]:
        folder = Path(self.model)
        return environment(folder if folder.is_dir() else None, pause_s)

    def segment(self, out: Path, *more: str) -> list[str]:
        """Return the command that segments the batch."""
        words = ["segment", str(self.slides), "-o", str(out), "--model", self.model, "--quiet"]
        return [sys.executable, "-m", "wsiseg", *words, *more]


@dataclass(frozen=True)
class Call:
    """A process that runs a command, and where it writes."""

    process: subprocess.Popen[bytes]
    said: Path
    began: float

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal: to the whole group if it is SIGKILL, as a machine that dies does."""
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def text(self) -> str:
        return self.said.read_text(errors="replace")


def start(command: Sequence[str], said: Path, environ: Mapping[str, str]) -> Call:
    """Start a command as the first process of its own group."""
    with said.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=dict(environ), start_new_session=True
        )
    return Call(process, said, time.monotonic())


def run(command: Sequence[str], said: Path, environ: Mapping[str, str]) -> int:
    """Run a command to its end and return its exit code."""
    call = start(command, said, environ)
    try:
        return call.process.wait()
    finally:
        if call.process.poll() is None:
            call.kill()


def emptied(folder: Path) -> Path:
    """Return a folder without what an earlier trial has left there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def run_directory(out: Path, place: str) -> Path:
    return out / f"{place}.wsiseg"


def record_of(out: Path, place: str) -> dict[str, Any]:
    """Return a slide's `run.json`; empty if there is none."""
    try:
        return dict(json.loads((run_directory(out, place) / "run.json").read_text()))
    except OSError:
        return {}


def at_work_s(batch: Batch, out: Path) -> float:
    """Return the time from the first slide's beginning to the last one's end, without starting."""
    records = [record_of(out, place) for place in batch.good]
    times = [
        [datetime.fromisoformat(record[name]) for record in records]
        for name in ("started_utc", "finished_utc")
    ]
    return (max(times[1]) - min(times[0])).total_seconds()


def n_done(batch: Batch, out: Path) -> int:
    """Return how many good slides are done."""
    return sum(record_of(out, place).get("status") == "done" for place in batch.good)


def is_at_work(out: Path, call: Call) -> bool:
    """Return whether a call has a slide in its hands."""
    owner = f'"process": {call.process.pid},'
    claims = out / "batch" / "claims"
    return any(owner in _text(path) for path in claims.rglob("*") if path.is_file())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def run_singles(batch: Batch) -> dict[str, float]:
    """Segment each good slide alone, in one process, anew; return seconds by place."""
    shutil.rmtree(batch.expected, ignore_errors=True)
    command = [str(HERE / "batch_single.py"), str(batch.slides), str(batch.expected), batch.model]
    done = subprocess.run(
        [sys.executable, *command],
        env=batch.environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["place"]: row["seconds"] for row in rows}


def faults(batch: Batch, out: Path) -> list[str]:
    """Return what is not as it should be after a batch that has come to its end."""
    found = []
    for place in batch.good:
        record = record_of(out, place)
        if record.get("status") != "done":
            found.append(f"{place}: {record.get('status')} ({record.get('error')})")
            continue
        odd = run_differences(run_directory(batch.expected, place), run_directory(out, place))
        found += [f"{place}: {one}" for one in odd]
    for place in batch.bad:
        record = record_of(out, place)
        if record.get("status") != "failed" or not record.get("error"):
            found.append(f"{place}: broken, but run.json says {record.get('status')!r}")
    places = {*batch.good, *batch.bad}
    runs = {path.relative_to(out).as_posix() for path in out.rglob("*.wsiseg")}
    if runs != {f"{place}.wsiseg" for place in places}:
        odd = sorted(runs ^ {f"{place}.wsiseg" for place in places})
        found.append(f"{len(odd)} run directories too many or too few: {odd[:3]}")
    left = [str(path.relative_to(out)) for path in out.rglob("*.tmp")]
    if left:
        found.append(f"{len(left)} temporary files are left: {left[:3]}")
    # A call that was killed after its slide was done leaves its claim; that must mean nothing.
    if claims := sum(1 for _ in (out / "batch").glob("claims/*")):
        print(f"   {out.name}: {claims} claims of calls that were killed are left")
    return found + _status_faults(batch, out) + _told_paths(batch, out)


def status(batch: Batch, out: Path) -> tuple[dict[str, Any], float]:
    """Return what `wsiseg status` says, and the seconds it took."""
    command = [sys.executable, "-m", "wsiseg", "status", str(out), "--json", "-"]
    start_s = time.perf_counter()
    done = subprocess.run(
        command, env=batch.environment(), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start_s
    if not done.stdout.strip():
        print(f"wsiseg status ended with {done.returncode}: {done.stderr.strip()}")
        return {"failed": []}, seconds
    return dict(json.loads(done.stdout)), seconds


def failures_in(said: Mapping[str, Any]) -> dict[str, str]:
    """Return reasons by place from what `wsiseg status` says."""
    return {row["place"]: row["reason"] for row in said["failed"]}


def _status_faults(batch: Batch, out: Path) -> list[str]:
    said, _ = status(batch, out)
    told = failures_in(said)
    found = [f"status says {place} is running" for place in said.get("running", [])]
    found += [f"status says {place} is not finished" for place in said.get("interrupted", [])]
    if set(told) != set(batch.bad):
        found.append(f"status lists {sorted(told)} as failed, not {sorted(batch.bad)}")
    found += [f"status gives no reason for {place}" for place, why in told.items() if not why]
    return found


def _told_paths(batch: Batch, out: Path) -> list[str]:
    """Return the files of OUT that tell where things lie on this machine."""
    secret = str(batch.slides.parent).encode()
    texts = [path for path in out.rglob("*") if path.suffix in (".json", ".txt", ".geojson")]
    return [
        f"{path.relative_to(out)} holds an absolute path"
        for path in texts
        if path.is_file() and secret in path.read_bytes()
    ]


def add_batch_options(parser: argparse.ArgumentParser, slides: int = 200) -> None:
    parser.add_argument("--slides", type=int, default=slides, help="how many to make")
    parser.add_argument("--model", help="a shipped model's name; else a stand-in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side-px", type=int, nargs=2, default=(300, 1500))
    parser.add_argument("--folder", type=Path, help="keep everything there, and use what is there")


@contextmanager
def given_batch(given: argparse.Namespace) -> Iterator[Batch]:
    """Make the batch that the options describe; what was made in a folder before is used again."""
    sys.stdout.reconfigure(line_buffering=True)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="wsiseg-batch-"))
    folder = folder.resolve()
    slides = folder / f"slides {given.slides}"
    try:
        if not slides.exists():
            folder.mkdir(parents=True, exist_ok=True)
            images = shared_images()
            make_batch(slides, given.slides, given.seed, images, tuple(given.side_px))
        model = given.model
        if model is None:
            model = str(folder / "model" / "stand-in")
            if not Path(model).exists():
                make_model(folder / "model")
        yield Batch(slides, model, folder)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def print_table(rows: Sequence[tuple[str, object]]) -> None:
    """Print figures as the rows of a Markdown table."""
    print("\n| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {f'{value:.2f}' if isinstance(value, float) else value} |")


def finish(wrong: Sequence[str]) -> None:
    """Say what was wrong, and end with 1 if anything was."""
    for one in wrong:
        print(f"WRONG: {one}")
    print(f"{len(wrong)} wrong" if wrong else "all is well")
    sys.exit(1 if wrong else 0)
