"""Who is at work on which slide of a batch, so that several calls do not do the same twice.

A claim is a file in `OUT/batch/claims/`, made for one slide by the call that works on it, touched
every few seconds, and removed at the end.  It only avoids double work: results stay right if
claims are lost, doubled or cannot be made.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from wsiseg.rundir import (
    clear_away,
    is_alive,
    is_left_behind,
    temporary_beside,
    where_processes_run,
)

STALE_S = 60.0
"""A claim that was not touched for so long is nobody's any more."""
TOUCH_S = 10.0
"""Time between two touches."""
_JOB_VARIABLES = ("SLURM_JOB_ID", "LSB_JOBID", "JOB_ID", "PBS_JOBID")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as it was found."""

    place: str
    said: Mapping[str, Any]
    """Its content: host, process, job, when it was made."""
    is_fresh: bool
    """Whether somebody is at work."""


def claims_folder(out: Path) -> Path:
    """Return where the claims of a batch are."""
    return out / "batch" / "claims"


class Claims:
    """The claims that one call holds.  Use as a context manager; threads may share it."""

    def __init__(self, out: Path, stale_s: float = STALE_S, touch_s: float = TOUCH_S) -> None:
        self._folder = claims_folder(out)
        self._stale_s = stale_s
        self._touch_s = touch_s
        self._held: dict[PurePosixPath, str] = {}
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="wsiseg-claims", daemon=True)

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._clear_left_behind()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        for place in list(self._held):
            self.release(place)

    def take(self, place: PurePosixPath) -> bool:
        """Claim a slide; False: another call is at work on it."""
        path = self._path(place)
        content = {**_own_marks(), "place": str(place), "token": secrets.token_hex(8)}
        try:
            if not _create(path, content):
                if _look(path, self._now_s(), self._stale_s) is not None:
                    return False
                _take_away(path, self._stale_s, self._now_s)
                if not _create(path, content):
                    return False
        except OSError:
            # A disk that is full or read-only: the slide fails by itself, or is done already.
            return True
        with self._changing:
            self._held[place] = content["token"]
        return True

    def release(self, place: PurePosixPath) -> None:
        """Give a slide back; a claim that another call has taken over stays."""
        with self._changing:
            token = self._held.pop(place, None)
        path = self._path(place)
        with suppress(OSError):
            if token is not None and _read(path).get("token") == token:
                path.unlink()

    def _path(self, place: PurePosixPath) -> Path:
        # A place may be longer than a name.
        name = hashlib.blake2b(os.fsencode(place), digest_size=16).hexdigest()
        return self._folder / f"{name}.json"

    def _clear_left_behind(self) -> None:
        """Remove what calls have left that were killed."""
        for path in (*self._folder.iterdir(), *self._folder.parent.iterdir()):
            if is_left_behind(path):
                clear_away(path)
        now_s = self._now_s()
        for path in self._folder.glob("*.json"):
            if _look(path, now_s, self._stale_s) is None:
                _take_away(path, self._stale_s, self._now_s)

    def _now_s(self) -> float:
        return disk_now_s(self._folder)

    def _touch(self) -> None:
        while not self._ended.wait(self._touch_s):
            with self._changing:
                held = list(self._held)
            for place in held:
                with suppress(OSError):
                    os.utime(self._path(place))


def read_claims(out: Path, stale_s: float = STALE_S) -> Iterator[Claim]:
    """Yield the claims below an output folder; writes nothing but a file that is gone at once."""
    folder = claims_folder(out)
    try:
        paths = sorted(folder.glob("*.json"))
    except OSError:
        return
    if not paths:
        return
    now_s = disk_now_s(folder)
    for path in paths:
        with suppress(OSError):
            said = _read(path)
            is_fresh = _look(path, now_s, stale_s) is not None
            if isinstance(said.get("place"), str):
                yield Claim(said["place"], said, is_fresh)


def disk_now_s(folder: Path) -> float:
    """Return the time by the clock that a disk's own time stamps come from."""
    probe = temporary_beside(folder / "clock")
    try:
        probe.touch()
        now_s = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        # Read-only: its stamps come from elsewhere, but two clocks seldom differ by a minute.
        return datetime.now(UTC).timestamp()
    return now_s


def _own_marks() -> dict[str, Any]:
    """Return what tells whose a claim is."""
    job = next((os.environ[name] for name in _JOB_VARIABLES if os.environ.get(name)), None)
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "where": where_processes_run(),
        "job": job if job is None or task is None else f"{job}, task {task}",
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _create(path: Path, content: Mapping[str, Any]) -> bool:
    """Make a claim; False if there is one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(content).encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> dict[str, Any]:
    """Return what a claim says; nothing while it is being written."""
    return _parsed(path.read_bytes())


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        said = json.loads(content)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _look(path: Path, now_s: float, stale_s: float) -> os.stat_result | None:
    """Return the state of a claim somebody is at work under, None if nobody is."""
    try:
        # Opened: a network disk may answer from memory else.
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            said = _parsed(file.read())
    except FileNotFoundError:
        return None
    if now_s - state.st_mtime > stale_s:
        return None
    process = said.get("process")
    is_here = said.get("where") == where_processes_run()
    # A process here that was killed is gone at once.
    return None if is_here and isinstance(process, int) and not is_alive(process) else state


def _take_away(path: Path, stale_s: float, now_s: Callable[[], float]) -> None:
    """Remove a claim that is nobody's; one that was made in its place meanwhile is put back."""
    aside = temporary_beside(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _look(aside, now_s(), stale_s) is not None:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
