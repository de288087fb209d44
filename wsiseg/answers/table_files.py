"""Tables as CSV, JSON or Parquet: in a file, or on the standard output."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from wsiseg.answers.table_rows import rows_of, told_apart
from wsiseg.answers.table_targets import TableFormat, check_target, format_of
from wsiseg.errors import OutputNotWritable, UsageError

_BATCH_ROWS = 65_536


def write_table(
    table: pa.Table, path: Path, file_format: str | None = None, *, overwrite: bool = False
) -> None:
    """Write a table to a file, or to the standard output if that is `-`.

    A file appears whole, or not at all.

    Parameters
    ----------
    table : pyarrow.Table
        Any columns; of those of one name, all but the first get a number (`a`, `a_2`).
    path : Path
        File, or `-`.
    file_format : {"csv", "json", "parquet"}, optional
        None: by the end of the file's name.
    overwrite : bool, default False
        Replace a file that is there, which else is refused.

    Raises
    ------
    OutputExists
        If there is something of that name.
    UsageError
        If the format is not known or cannot hold a value, the file lies in a run, or Parquet
        would go to a terminal.
    OutputNotWritable
        If the file cannot be written.
    """
    check_target(path, file_format, overwrite=overwrite)
    chosen = format_of(path, file_format)
    apart = told_apart(table)
    if str(path) == "-":
        _write_out(apart, chosen)
        return
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            _write(apart, chosen, file)
        check_target(path, file_format, overwrite=overwrite)
        partial.replace(path)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write {path} ({error.strerror or error}); choose a file you may write"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def json_value(value: Any) -> Any:
    """Return a value as JSON has it: no NaN, dates as text, bytes in base64."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.date | datetime.time | datetime.datetime):
        return value.isoformat()
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def _write_out(table: pa.Table, chosen: TableFormat) -> None:
    if chosen == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal; give a file with --to, or a pipe")
    sys.stdout.flush()
    if isinstance(sys.stdout, io.TextIOWrapper):
        _write(table, chosen, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        held = io.BytesIO()
        _write(table, chosen, held)
        sys.stdout.write(held.getvalue().decode("utf-8", "replace"))


def _write(table: pa.Table, chosen: TableFormat, file: IO[bytes]) -> None:
    """Write a table.

    Raises
    ------
    UsageError
        If the format cannot hold one of its columns.
    """
    try:
        _write_values(table, chosen, file)
    # Dates after the year 9999 overflow on their way to text; Arrow's own errors are ValueErrors
    # or NotImplementedErrors.
    except (pa.ArrowException, ValueError, OverflowError) as error:
        kinds = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
        raise UsageError(
            f"{chosen} cannot hold a column of this answer ({error}): its columns are {kinds}; "
            "make text of that one (CAST(… AS VARCHAR)), or choose another format"
        ) from error


def _write_values(table: pa.Table, chosen: TableFormat, file: IO[bytes]) -> None:
    if chosen == "parquet":
        # Through memory: Arrow seeks and closes what it writes to, and a pipe cannot seek.
        held = pa.BufferOutputStream()
        pq.write_table(table, held, compression="zstd")
        file.write(held.getvalue())
    elif chosen == "csv":
        pyarrow.csv.write_csv(_flat(table), file)
    else:
        for text in _json_texts(table):
            file.write(text.encode("utf-8", "backslashreplace"))


def _json_texts(table: pa.Table) -> Iterator[str]:
    """Yield an array of objects, a line each, a batch at a time."""
    start = "["
    for batch in table.to_batches(_BATCH_ROWS):
        every = rows_of(pa.Table.from_batches([batch]))
        rows = (json.dumps(json_value(row), ensure_ascii=False) for row in every)
        text = ",\n ".join(rows)
        if text:
            yield f"{start}{text}"
            start = ",\n "
    yield "[]\n" if start == "[" else "]\n"


def _flat(table: pa.Table) -> pa.Table:
    """Return the table with text in place of what CSV has no cell for."""
    columns = [
        column
        if _is_cell(column.type)
        else pa.array([_cell(row[name]) for row in rows_of(table.select([name]))], pa.string())
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.table(columns, table.column_names)


def _is_cell(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_string(kind)
        or types.is_null(kind)
    )


def _cell(value: Any) -> str | None:
    plain = json_value(value)
    if plain is None or isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False)
