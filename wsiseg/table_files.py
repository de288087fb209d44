"""Tables as CSV, JSON or Parquet: in a file, or on the standard output."""

from __future__ import annotations

import base64
import datetime
import decimal
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from wsiseg.errors import OutputNotWritable, UsageError

TableFormat: TypeAlias = Literal["csv", "json", "parquet"]
"""CSV has a header; JSON is an array of objects; nested values are JSON text in CSV."""
TABLE_FORMATS: tuple[str, ...] = get_args(TableFormat)

_BATCH_ROWS = 65_536


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


def write_table(table: pa.Table, path: Path, file_format: str | None = None) -> None:
    """Write a table to a file, or to the standard output if that is `-`.

    A file appears whole; an older one is replaced, unless it is part of a run.

    Parameters
    ----------
    table : pyarrow.Table
        Any columns.
    path : Path
        File, or `-`.
    file_format : {"csv", "json", "parquet"}, optional
        None: by the end of the file's name.

    Raises
    ------
    UsageError
        If the format is not known, the file lies in a run, or Parquet would go to a terminal.
    OutputNotWritable
        If the file cannot be written.
    """
    chosen = format_of(path, file_format)
    if str(path) == "-":
        _write_out(table, chosen)
        return
    _refuse_runs(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            _write(table, chosen, file)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputNotWritable(
            f"cannot write {path} ({error.strerror or error}); choose a file you may write"
        ) from error


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
        rows = (json.dumps(json_value(row), ensure_ascii=False) for row in batch.to_pylist())
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
        else pa.array([_cell(value) for value in column.to_pylist()], pa.string())
        for column in table.columns
    ]
    return pa.table(dict(zip(_unique(table.column_names), columns, strict=True)))


def _unique(names: list[str]) -> list[str]:
    """Return the names, repeated ones with a number: SQL allows two columns of one name."""
    return [
        name if names.index(name) == i else f"{name}_{names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    ]


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


def _refuse_runs(path: Path) -> None:
    for folder in path.absolute().parents:
        if folder.suffix == ".wsiseg" or (folder / "run.json").is_file():
            raise UsageError(f"{path} would lie in the run {folder.name}; give a file elsewhere")
