"""Writing a version of a run's classes; what it is and how it is read: `wsiseg.class_versions`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.classes.versions import (
    CLASSES_FORMAT,
    CLASSES_SCHEMA,
    FOLDER_NAME,
    NEWEST_CLASSES_FORMAT,
    footer_sha256,
    version_paths,
    wrong_class_name,
)
from wsiseg.errors import OutputExists, OutputNotWritable, ResultNotReadable, UsageError
from wsiseg.exporters._finish import finished_file
from wsiseg.exporters.parquet import ROW_GROUP_ROWS


def refuse_existing_version(run: Path, name: str) -> None:
    """Raise OutputExists if a run has a version of the classes of that name."""
    _, record = version_paths(run, name)
    if record.exists():
        raise OutputExists(
            f"{run.name} has a version {name!r} of the classes already; give another --name, or "
            "--overwrite to replace it"
        )


def refuse_unwritable_version(run: Path) -> None:
    """Raise OutputNotWritable if a run's folder takes no version of the classes."""
    folder = run / FOLDER_NAME
    there = folder if folder.exists() else run
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise OutputNotWritable(_no_writing(run, "Permission denied"))


def _no_writing(run: Path, why: str | None) -> str:
    return (
        f"cannot write into {run} ({why}); classes are kept in the run's own folder: copy the run "
        "(it does not hold the slide) to a folder you may write, and classify the copy"
    )


def write_class_version(
    run: Path,
    name: str,
    batches: Iterable[pa.RecordBatch],
    classes: list[dict[str, Any]],
    made_by: Mapping[str, Any],
) -> None:
    """Write a version of a run's classes; an older one of that name is replaced.

    The JSON appears last, and a version is there only with it.

    Parameters
    ----------
    run : Path
        The run's directory.
    name : str
        Name of the version.
    batches : iterable of pyarrow.RecordBatch
        Rows of `CLASSES_SCHEMA`, as many as the cell table has, in its order.
    classes : list of dict
        The classes, each with `name`, `index` (from 1) and `rgb`.
    made_by : mapping
        How the classes were made; ready for JSON.

    Raises
    ------
    UsageError
        If no class can have one of the names.
    ResultNotReadable
        If there are more or fewer rows than the cell table has, or it is damaged.
    OutputNotWritable
        If the operating system refuses to write.
    """
    table, record_path = version_paths(run, name)
    for entry in classes:
        why = wrong_class_name(entry["name"])
        if why is not None:
            raise UsageError(f"the class {entry['name']!r} {why}; give it another name")
    footer = footer_sha256(run / "cells.parquet")
    try:
        table.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=table.parent):
            pass
    except OSError as error:
        raise OutputNotWritable(_no_writing(run, error.strerror)) from error
    n_cells = pq.read_metadata(run / "cells.parquet").num_rows
    with finished_file(table) as partial:
        _write_table(partial, batches, n_cells, run.name)
        # With the old record the new table would be read as what it is not.
        record_path.unlink(missing_ok=True)
    record = {
        "format": CLASSES_FORMAT,
        "format_version": NEWEST_CLASSES_FORMAT,
        "name": name,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "wsiseg_version": version("wsiseg"),
        "classes": classes,
        "n_cells": n_cells,
        "cells_footer_sha256": footer,
        "made_by": dict(made_by),
    }
    with finished_file(record_path) as partial:
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def _write_table(
    path: Path, batches: Iterable[pa.RecordBatch], n_cells: int, run_name: str
) -> None:
    """Write the rows in groups like those of the cell table, so that both are read in step."""
    n_rows = 0
    with pq.ParquetWriter(
        path, CLASSES_SCHEMA, compression="zstd", use_dictionary=["class_name"]
    ) as writer:
        for rows in _in_groups(batches):
            n_rows += rows.num_rows
            writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
    if n_rows != n_cells:
        raise ResultNotReadable(
            f"{n_rows} classes came for the {n_cells} rows of {run_name}/cells.parquet; a class "
            "for each is needed"
        )


def _in_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows in tables of `ROW_GROUP_ROWS`; the last may have fewer."""
    pending: list[pa.RecordBatch] = []
    n_pending = 0
    for batch in batches:
        pending.append(batch)
        n_pending += batch.num_rows
        while n_pending >= ROW_GROUP_ROWS:
            rows = pa.Table.from_batches(pending, CLASSES_SCHEMA)
            yield rows[:ROW_GROUP_ROWS]
            pending = rows[ROW_GROUP_ROWS:].to_batches()
            n_pending -= ROW_GROUP_ROWS
    if n_pending:
        yield pa.Table.from_batches(pending, CLASSES_SCHEMA)
