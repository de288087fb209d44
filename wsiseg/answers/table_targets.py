"""Where a table may be written, judged before any work.  Loads nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from wsiseg.errors import OutputExists, UsageError

TableFormat: TypeAlias = Literal["csv", "json", "parquet"]
"""CSV has a header; JSON is an array of objects; nested values are JSON text in CSV."""
TABLE_FORMATS: tuple[str, ...] = get_args(TableFormat)


def format_of(path: Path, given: str | None) -> TableFormat:
    """Return the format that was given, else the one a file's name ends with.

    Raises
    ------
    UsageError
        If neither is one of csv, json and parquet.
    """
    found = given if given is not None else path.suffix.removeprefix(".").lower()
    for known in TABLE_FORMATS:
        if found == known:
            return known  # type: ignore[return-value]
    what = f"format {given!r}" if given is not None else f"{path.name!r} (its end says nothing)"
    raise UsageError(
        f"{what} is not known; --format csv, json or parquet, or a file that ends with "
        ".csv, .json or .parquet is needed"
    )


def check_target(path: Path, file_format: str | None = None, *, overwrite: bool = False) -> None:
    """Refuse, before any work, what `write_table` would refuse for its name.

    Raises
    ------
    OutputExists
        If there is something of that name.
    UsageError
        If the format is not known, or the file lies in a run.
    """
    format_of(path, file_format)
    if str(path) == "-":
        return
    _refuse_runs(path)
    if not os.path.lexists(path) or (overwrite and path.is_file()):
        return
    more = ", or --overwrite" if path.is_file() else ""
    raise OutputExists(f"{path} exists; give another file{more}")


def _refuse_runs(path: Path) -> None:
    for folder in path.absolute().parents:
        if folder.suffix == ".wsiseg" or (folder / "run.json").is_file():
            raise UsageError(f"{path} would lie in the run {folder.name}; give a file elsewhere")
