"""What `run.json` says of a slide that is not finished: under way, or failed and why.

Until a run is finished its record lies in `work/`, and `run.json` is a link to it, so that nothing
written here can replace the record of a finished run.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsiseg import errors
from wsiseg.errors import OutputNotWritable, WsisegError
from wsiseg.rundir import (
    RESULT_VERSION,
    RUN_FORMAT_VERSION,
    RunDir,
    is_temporary,
    read_run_json,
    write_json,
)

STOPPED = frozenset(
    {"Interrupted", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "OutputNotWritable"}
)
"""Types of errors that say nothing of a slide: it only was not finished."""
_RECORD = "record.json"
"""In `work/`: what `run.json` says until the run is finished."""


def write_unfinished(folder: RunDir, record: Mapping[str, Any]) -> None:
    """Write what `run.json` says, unless it says that the run is finished.

    Raises
    ------
    OutputNotWritable
        If it cannot be written.
    """
    write_json(folder.work / _RECORD, record)
    if folder.run_json.is_symlink():
        return
    try:
        folder.run_json.symlink_to(Path(folder.work.name, _RECORD))
    except OSError:
        # A finished run; or one from a disk, or a version, that has no links.
        if (read_run_json(folder.run_json) or {}).get("status") != "done":
            write_json(folder.run_json, record)


def read_record(folder: RunDir) -> dict[str, Any] | None:
    """Return what is recorded of a run, None if nothing is.

    Raises
    ------
    OutputNotWritable
        If it may not be read.
    """
    # Where a run was copied without its link, only the record is left.
    return read_run_json(folder.run_json) or read_run_json(folder.work / _RECORD)


def is_failure(record: Mapping[str, Any]) -> bool:
    """Return whether a slide failed before its run began: nothing of a run is there."""
    return record.get("status") == "failed" and record.get("identity") is None


def is_in_the_way(folder: RunDir) -> bool:
    """Return whether something stands in a run's place that no run has put there."""
    if not folder.path.is_dir():
        return os.path.lexists(folder.path)
    # What a run makes before its record: another call may be at it, or was killed there.
    ours = (
        path == folder.work or is_temporary(path) or _is_link_to_nothing(path)
        for path in folder.path.iterdir()
    )
    return not all(ours)


def _is_link_to_nothing(path: Path) -> bool:
    return path.name == "run.json" and path.is_symlink() and not path.exists()


def leave_failure(folder: RunDir, slide: Path, out: Path, error: BaseException) -> None:
    """Record why a slide of a batch failed, unless its run has begun or something is in the way.

    What cannot be written is left out: the failure itself is what matters.

    Parameters
    ----------
    folder : RunDir
        Where the slide's results would be.
    slide, out : Path
        The slide and the output folder, of which only their names may be told.
    error : BaseException
        Why it failed.
    """
    with suppress(OSError):
        found = read_record(folder)
        if is_in_the_way(folder) if found is None else not is_failure(found):
            return
        folder.work.mkdir(parents=True, exist_ok=True)
        write_unfinished(folder, _failure(slide, out, error))


def _failure(slide: Path, out: Path, error: BaseException) -> dict[str, Any]:
    return {
        "format": "wsiseg-run",
        "format_version": RUN_FORMAT_VERSION,
        "result_version": RESULT_VERSION,
        "status": "failed",
        "error": {
            "type": type(error).__name__,
            "message": without_folders(str(error), slide.parent, out),
        },
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "slide": {"name": slide.name},
        "identity": None,
    }


def failure_of(folder: RunDir, since_s: float) -> WsisegError | None:
    """Return why a slide failed, by what is recorded of it; None if it did not, or was stopped.

    Parameters
    ----------
    folder : RunDir
        Where the slide's results would be.
    since_s : float
        What was recorded before, by the clock of the folder's disk, counts for nothing.
    """
    try:
        record = read_record(folder) or {}
        if not record or folder.run_json.stat().st_mtime < since_s:
            return None
    except OutputNotWritable as error:
        return error
    except OSError:
        return None
    said = record.get("error")
    if record.get("status") != "failed" or not isinstance(said, Mapping):
        return None
    if said.get("type") in STOPPED:
        return None
    kind = getattr(errors, str(said.get("type")), WsisegError)
    known = isinstance(kind, type) and issubclass(kind, WsisegError)
    return (kind if known else WsisegError)(str(said.get("message")))


def append_traceback(folder: RunDir, slide: Path, out: Path, error: BaseException) -> None:
    """Write into a run's `log.txt` where in the program an error came from, if that is possible."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        f"{_now()} ERROR {type(error).__name__}: {error}",
        *(f"  {_module(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames),
    ]
    text = without_folders("\n".join(lines), slide.parent, out)
    with suppress(OSError), (folder.path / "log.txt").open("a", encoding="utf-8") as file:
        file.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def _module(path: str) -> str:
    """Return a source file's path below the folder of packages it is in."""
    parts = Path(path).parts
    for start in ("site-packages", "wsiseg"):
        if start in parts:
            last = len(parts) - 1 - parts[::-1].index(start)
            return "/".join(parts[last + (start == "site-packages") :])
    return "/".join(parts[-2:])


def without_folders(text: str, *folders: Path) -> str:
    """Return a text in which paths have lost the folders they lie in.

    Parameters
    ----------
    text : str
        What may name files of this machine.
    folders : Path
        Folders that are known to be named, with whatever characters.
    """
    for path in _longest_first(folders):
        text = text.replace(f"{path}/", "").replace(path, "…")
    # Other absolute paths, as far as they can be told from text.
    return re.sub(r"(?<![\w./…])/(?:[^/\s'\",;:()]+/)+", "…/", text)


def _longest_first(folders: tuple[Path, ...]) -> Iterator[str]:
    known = {str(path) for folder in folders for path in (folder.absolute(), folder.resolve())}
    known.add(str(Path.home()))
    yield from sorted((path for path in known if len(path) > 1), key=len, reverse=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
