"""The directory of a run: whose it is, whether it is in the way, and how far the run is.

Several calls may be at work in one directory; nothing here needs a lock.  Until a run is
finished its record lies in `work/`, and `run.json` is a link to it; whoever finishes the run puts a
file in the link's place, and no note of another call can take that away again.  Each call has a
file of its own in `work/`, which becomes `run.json` by rename: a call whose directory was deleted
finds it gone, and cannot declare what another has begun there finished.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import OutputExists, OutputNotWritable, UsageError
from wsiseg.plan import RunPlan
from wsiseg.rundir import (
    RunDir,
    check_same_run,
    clear_away,
    is_left_behind,
    is_running,
    is_temporary,
    json_bytes,
    read_run_json,
    sync_directory,
    temporary_beside,
    unreadable_tiles,
)
from wsiseg.unfinished import (
    is_failure,
    is_in_the_way,
    read_record,
    without_folders,
    write_unfinished,
)

_WORK_OF_PEOPLE = ("reviews", "classes")
"""Folders of a run that hold what people corrected, or clicked for."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call's work on a run."""

    folder: RunDir
    """Shared with other calls."""
    own: Path
    """A file that no other call touches, in `work/`."""


def is_finished(folder: RunDir, plan: RunPlan) -> bool:
    """Return whether the same run is already done there.

    Raises
    ------
    OutputExists
        If the directory holds another run, or something else.
    """
    found = read_record(folder)
    if found is not None and is_failure(found):
        return False
    if found is None:
        if is_in_the_way(folder):
            raise OutputExists(
                f"{folder.path.name} is in the way and has no readable run.json; move it, or "
                "use --overwrite to delete it"
            )
        return False
    check_same_run(found.get("identity", {}), plan.identity, folder.path.name)
    if found.get("status") != "done":
        return False
    n_left_out = len(unreadable_tiles(found))
    if n_left_out and not plan.options.skip_bad_tiles:
        raise OutputExists(
            f"{folder.path.name} was finished with --skip-bad-tiles, without {n_left_out} tiles; "
            "use that option again to take it as it is, or --overwrite to run the slide anew"
        )
    return True


def is_finished_meanwhile(folder: RunDir, plan: RunPlan) -> bool:
    """Return whether another call has just finished the same run."""
    found = read_run_json(folder.run_json) or {}
    return found.get("status") == "done" and found.get("identity") == plan.identity


def refuse_deleting_work(folder: RunDir) -> None:
    """Raise OutputExists if a person's work, which nothing can make again, would be deleted."""
    held = sorted(
        f"{kind}/{path.name}"
        for kind in _WORK_OF_PEOPLE
        for path in (folder.path / kind).glob("*")
        if path.is_dir() or path.suffix == ".json"
    )
    if held:
        raise OutputExists(
            f"--overwrite would delete what people made in {folder.path.name}: {', '.join(held)}; "
            "move it to another folder first (it belongs to the run that is deleted with it)"
        )


def refuse_deleting_input(folder: RunDir, plan: RunPlan) -> None:
    """Raise UsageError if a file the plan was made from lies in the directory to delete."""
    for option, given in (("roi", plan.options.roi), ("tissue", plan.options.tissue)):
        if isinstance(given, Path) and given.resolve().is_relative_to(folder.path.resolve()):
            raise UsageError(
                f"--overwrite would delete {given.name}, which --{option} names, with "
                f"{folder.path.name}; copy it to another folder and name it there"
            )


def begin(folder: RunDir, record: Mapping[str, Any]) -> Attempt:
    """Make the directory, as far as it is not there, and write down that a run is under way.

    What calls on this machine have left that were killed is deleted.  Afterwards look again
    whether the run is finished: another call may have finished it in between.

    Parameters
    ----------
    folder : RunDir
        Holds nothing, or the same run.
    record : mapping
        What `run.json` says until the run is finished.

    Raises
    ------
    OutputNotWritable
        If it cannot be written.
    """
    try:
        folder.work.mkdir(parents=True, exist_ok=True)
        own = temporary_beside(folder.work / "call")
        own.touch()
    except OSError as error:
        raise OutputNotWritable(
            f"cannot create {folder.path.name} in the output folder ({error.strerror}); choose "
            "a folder you may write to, or free some space, then call the same command again"
        ) from error
    _delete_left_behind(folder)
    write_unfinished(folder, record)
    return Attempt(folder, own)


def give_up(attempt: Attempt, record: Mapping[str, Any], error: BaseException) -> None:
    """Write down why a call stopped, if that is possible and its directory is still there."""
    said = without_folders(str(error), attempt.folder.path.parent)
    why = {"type": type(error).__name__, "message": said}
    if attempt.own.exists():
        with suppress(OutputNotWritable):
            write_unfinished(attempt.folder, {**record, "status": "failed", "error": why})
        clear_away(attempt.own)


def finish(attempt: Attempt, record: Mapping[str, Any]) -> None:
    """Declare a run finished, after all its files, and clear away what only a running one needs.

    Raises
    ------
    OutputNotWritable
        If `run.json` cannot be written; or if another call has finished the run, or deleted it.
    """
    folder = attempt.folder
    try:
        sync_directory(folder.path)
        # Not made if it is not there: then this is not the directory this call began in.
        with attempt.own.open("r+b") as file:
            file.write(json_bytes(record))
            file.flush()
            os.fsync(file.fileno())
        attempt.own.replace(folder.run_json)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write run.json ({error.strerror}); free some space, or see whether another "
            "call has deleted the run, then call the same command again"
        ) from error
    with suppress(OSError):
        # Before the tiles go that could make all this again.
        sync_directory(folder.path)
        clear_away(folder.work)
    # What another machine's call was writing, of which nobody knows whether it still runs: if it
    # does, it finds the run finished.
    _delete_where(folder.path, lambda path: is_temporary(path) and not is_running(path))


def clear(folder: RunDir) -> None:
    """Delete what killed calls have left of a run that is finished, as far as possible."""
    clear_away(folder.work)
    _delete_where(folder.path, is_left_behind)


def _delete_left_behind(folder: RunDir) -> None:
    """Delete what killed calls were writing in the directory, or clearing away beside it."""
    _delete_where(folder.path, is_left_behind)
    beside = _short(folder.path).name
    _delete_where(
        folder.path.parent,
        lambda path: path.name.startswith(f".{beside}.") and is_left_behind(path),
    )


def _delete_where(folder: Path, condition: Callable[[Path], bool]) -> None:
    with suppress(OSError):
        for path in filter(condition, folder.iterdir()):
            clear_away(path)


def delete(folder: RunDir) -> None:
    """Delete a run's directory, or whatever stands in its place.

    At once nothing has its name, so a call that is still at work there fails, and does not mix
    its files with those of the next run.

    Raises
    ------
    OutputNotWritable
        If it is not to be moved.
    """
    aside = temporary_beside(_short(folder.path))
    try:
        folder.path.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputNotWritable(
            f"cannot delete {folder.path.name} ({error.strerror}); check who owns it"
        ) from error
    clear_away(aside)


def _short(path: Path) -> Path:
    """Return a path with a name that leaves room for more."""
    return path.with_name(path.name[:40])


_logging: set[int | None] = set()
"""Threads that are at work on a slide."""


@contextmanager
def logged_to(path: Path, log: logging.Logger) -> Iterator[None]:
    """Let a logger also write into a file.

    What threads say that do the same for other slides does not go there.  On a full disk the
    file lacks lines, for a log is no reason to stop.
    """
    own = threading.get_ident()
    log_file = _LogFile(path, encoding="utf-8", delay=True)
    log_file.addFilter(lambda record: record.thread == own or record.thread not in _logging)
    _logging.add(own)
    log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(log_file)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logging.discard(own)
        log.removeHandler(log_file)
        with suppress(OSError):
            log_file.close()


class _LogFile(logging.FileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        # Not as the base class does, which shows a traceback where a line cannot be written.
        with suppress(OSError):
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(self.format(record) + self.terminator)
            self.stream.flush()
