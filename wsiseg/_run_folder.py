"""The directory of a run: whose it is, whether it is in the way, and clearing it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wsiseg.errors import OutputExists, OutputNotWritable, UsageError
from wsiseg.plan import RunPlan
from wsiseg.rundir import RunDir, check_same_run, read_run_json


def is_finished(folder: RunDir, plan: RunPlan) -> bool:
    """Return whether the same run is already done there.

    Raises
    ------
    OutputExists
        If the directory holds another run, or something else.
    """
    found = read_run_json(folder.run_json)
    if found is None:
        if _is_in_the_way(folder):
            raise OutputExists(
                f"{folder.path.name} is in the way and has no readable run.json; move it, or "
                "use --overwrite to delete it"
            )
        return False
    check_same_run(found.get("identity", {}), plan.identity, folder.path.name)
    return bool(found.get("status") == "done")


def is_finished_meanwhile(folder: RunDir, plan: RunPlan) -> bool:
    """Return whether another call has just finished the same run."""
    found = read_run_json(folder.run_json) or {}
    return found.get("status") == "done" and found.get("identity") == plan.identity


def refuse_deleting_input(folder: RunDir, plan: RunPlan) -> None:
    """Raise UsageError if a file the plan was made from lies in the directory to delete."""
    for option, given in (("roi", plan.options.roi), ("tissue", plan.options.tissue)):
        if isinstance(given, Path) and given.resolve().is_relative_to(folder.path.resolve()):
            raise UsageError(
                f"--overwrite would delete {given.name}, which --{option} names, with "
                f"{folder.path.name}; copy it to another folder and name it there"
            )


def delete(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot delete {path.name} ({error.strerror}); check who owns it"
        ) from error


def delete_partials(folder: RunDir) -> None:
    """Remove what a killed call was writing under a temporary name."""
    for path in filter(_is_partial, folder.path.iterdir()):
        delete(path)


def _is_in_the_way(folder: RunDir) -> bool:
    """Return whether something stands in the run's place that no run has put there."""
    if not folder.path.is_dir():
        return os.path.lexists(folder.path)
    # What a run makes before its run.json: another call may be at it, or was killed there.
    ours = (path == folder.work or _is_partial(path) for path in folder.path.iterdir())
    return not all(ours)


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def open_folder(folder: RunDir) -> None:
    """Make the directory, as far as it is not there."""
    try:
        folder.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot create {folder.path.name} in the output folder ({error.strerror}); choose "
            "a folder you may write to"
        ) from error
