"""Where the files of a review are, and what is in the way there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsiseg.errors import OutputExists, OutputNotWritable, ResultNotReadable, UsageError
from wsiseg.results import Result

REVIEWS = "reviews"
"""Folder of a run that holds its reviews."""
SAMPLE = "sample.json"
EDITED, CORRECTED = "edited.geojson.gz", "corrected_cells.parquet"
CHANGES, CHANGES_CSV, AGREEMENT = "changes.parquet", "changes.csv", "agreement.json"

_READINGS = (EDITED, CORRECTED, CHANGES, CHANGES_CSV, AGREEMENT)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def check_name(name: str) -> None:
    """Raise UsageError unless a review can be called so."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a review; up to 64 letters, digits, spaces, '.', "
            "'_' and '-' are needed, beginning with a letter or a digit"
        )


def folder_of(result: Result, name: str, to: str | Path | None) -> Path:
    """Return the folder of a review, without a look at whether it is there."""
    if to is None:
        check_name(name)
    return result.path / REVIEWS / name if to is None else Path(to)


def review_folders(result: Result, name: str | None, to: str | Path | None) -> list[Path]:
    """Return where the sample may be that an edited file is of.

    Raises
    ------
    ResultNotReadable
        If the run has no review.
    """
    if to is not None:
        return [Path(to)]
    there = sorted(path.parent for path in (result.path / REVIEWS).glob(f"*/{SAMPLE}"))
    if name is not None:
        folder = folder_of(result, name, None)
        if folder not in there:
            known = ", ".join(path.name for path in there) or "none"
            raise ResultNotReadable(f"{result.path.name} has no review {name!r}; known: {known}")
        return [folder]
    if not there:
        raise ResultNotReadable(
            f"{result.path.name} has no review; make one with wsiseg review make, or name the "
            "folder of its files with --to"
        )
    return there


def refuse_other(path: Path, content: bytes, overwrite: bool) -> bool:
    """Return whether a file is new; raise OutputExists if another is in the way."""
    if not os.path.lexists(path):
        return True
    with suppress(OSError):
        if path.is_file() and path.read_bytes() == content:
            return False
    if overwrite and (path.is_file() or path.is_symlink()):
        return True
    raise OutputExists(
        f"{path} exists and holds something else; give another name, or use --overwrite to "
        "replace it"
    )


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a review's folder, and take it away again if it stays empty for an error.

    Raises
    ------
    OutputNotWritable
        If it is not allowed to.
    """
    new = [path for path in (folder, folder.parent) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot make {folder} ({error.strerror}); name a folder you may write to with --to"
        ) from error
    try:
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise


def remove_readings(folder: Path) -> None:
    """Remove what was read of an earlier sample; its nuclei are others."""
    for name in _READINGS:
        with suppress(FileNotFoundError):
            (folder / name).unlink()
