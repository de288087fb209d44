"""A table that grows row by row, and goes on after a training that stopped as if it had not."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsiseg.errors import OutputNotWritable
from wsiseg.rundir import write_atomically

STEP = "step"
"""The first column of every log: the number of optimiser steps done."""


def resume_log(path: Path, columns: Sequence[str], last_step: int) -> None:
    """Make a log ready for the rows after a step; later and torn rows are dropped.

    Rows may be ahead of the checkpoint that a training goes on from, and a kill may have cut the
    last of them in half.

    Parameters
    ----------
    path : Path
        The log; made if there is none, or one with other columns.
    columns : sequence of str
        Names of its columns, `STEP` first.
    last_step : int
        Rows of later steps are dropped.

    Raises
    ------
    OutputNotWritable
        If it cannot be written.
    """
    kept = [row for row in _whole_rows(path, columns) if int(row[0]) <= last_step]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([columns, *kept])
    write_atomically(path, buffer.getvalue().encode())


def append_row(path: Path, row: Mapping[str, float | int | str]) -> None:
    """Append a row, in the order of the mapping.

    Raises
    ------
    OutputNotWritable
        If the disk is full.
    """
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow([_text(value) for value in row.values()])
    try:
        with path.open("a", encoding="utf-8", newline="") as lines:
            lines.write(buffer.getvalue())
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write {path.name} ({error.strerror}); free some space and go on with --resume"
        ) from error


def read_log(path: Path) -> dict[str, list[float]]:
    """Return the columns of a log of numbers; empty cells are NaN, a torn last row is left out."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            columns = next(csv.reader(lines), [])
    except FileNotFoundError:
        return {}
    rows = _whole_rows(path, columns)
    return {
        name: [float(row[k]) if row[k] else float("nan") for row in rows]
        for k, name in enumerate(columns)
    }


def _whole_rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    # A row counts with its line break: without it, its last number may have lost digits.
    whole, _, _ = text.rpartition("\n")
    header, *rows = csv.reader(whole.splitlines()) if whole else ([],)
    if header != list(columns):
        return []
    return [row for row in rows if len(row) == len(columns) and row[0].isdigit()]


def _text(value: float | int | str) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return str(value)
