"""Reading a run's cells from several files of equal rows, as if they were one table.

`cells.parquet` has the rows; further files have the same rows in the same order and add columns
(`features.parquet`), or replace the columns of the class (a version of the classes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wsiseg.errors import ResultNotReadable, UnknownName

FEATURES_NAME = "features.parquet"
"""File beside the cell table that holds further measurements."""
CLASS_COLUMNS = ("class_name", "class_prob")
"""Columns that a version of the classes replaces."""

_BATCH_ROWS = 16_384
_SEGMENT_AGAIN = "segment the slide again with --overwrite"
_CLASSIFY_AGAIN = "make that version again with wsiseg classify --overwrite"
_KEY = "cell_id"

_Origin = tuple[Path, str]
"""A file, and what to do if it is damaged."""


@dataclass(frozen=True, slots=True)
class CellFiles:
    """Where a run's cells are."""

    cells: Path
    """The cell table; `features.parquet` may lie beside it."""
    classes: Path | None = None
    """Table whose `class_name` and `class_prob` stand for those of the cell table; None: its
    own."""

    @property
    def features(self) -> Path:
        """Table of further measurements; older runs have none."""
        return self.cells.with_name(FEATURES_NAME)


@contextmanager
def open_table(path: Path, cure: str = _SEGMENT_AGAIN) -> Iterator[pq.ParquetFile]:
    """Open a table of a run for reading, and close it.

    Raises
    ------
    ResultNotReadable
        If it is missing or damaged, now or at any later read within the block; the message
        ends with the cure.
    """
    if not path.is_file():
        raise ResultNotReadable(f"{path.parent} has no {path.name}; {cure}")
    try:
        with pq.ParquetFile(path) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        raise ResultNotReadable(f"{path} is damaged ({_first_line(error)}); {cure}") from error


def column_names(files: CellFiles) -> tuple[str, ...]:
    """Return the columns of the cell table, also of one without rows.

    Raises
    ------
    ResultNotReadable
        If it is missing or damaged.
    """
    with open_table(files.cells) as table:
        return tuple(table.schema_arrow.names)


def feature_names(files: CellFiles) -> tuple[str, ...]:
    """Return the columns of the table of further measurements; none where it is missing.

    Raises
    ------
    ResultNotReadable
        If it is damaged.
    """
    if not files.features.is_file():
        return ()
    with open_table(files.features) as table:
        return tuple(name for name in table.schema_arrow.names if name != _KEY)


class OpenCells:
    """The files that hold some columns, open and of equal rows; made by `open_cells`."""

    def __init__(
        self,
        tables: Sequence[pq.ParquetFile],
        place: dict[str, int],
        origins: Sequence[_Origin],
    ) -> None:
        self._tables = tables
        self._place = place
        self._origins = origins

    @property
    def metadata(self) -> pq.FileMetaData:
        """What the cell table's own footer says."""
        return self._tables[0].metadata

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the schema of some columns; GeoParquet's metadata only if they are whole."""
        fields = [self._tables[self._place[name]].schema_arrow.field(name) for name in names]
        whole = {"geometry", "bbox"} <= set(names)
        said = self._tables[0].schema_arrow.metadata if whole else None
        return pa.schema(fields, said)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, at most 16,384 at a time; holds one row group of each file."""
        schema = self.schema(names)
        wanted = self._wanted(names)
        streams = [_row_batches(self._tables[i], each) for i, each in wanted.items()]
        for pieces in _in_step(streams):
            found = dict(zip(wanted, pieces, strict=True))
            self._refuse_other_cells(found)
            columns = [found[self._place[name]].column(name) for name in names]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def row_group(self, group: int, names: Sequence[str]) -> pa.Table:
        """Return some columns of the rows of one row group of the cell table."""
        start = sum(self.metadata.row_group(i).num_rows for i in range(group))
        stop = start + self.metadata.row_group(group).num_rows
        found = {
            i: _rows(self._tables[i], each, start, stop) for i, each in self._wanted(names).items()
        }
        self._refuse_other_cells(found)
        columns = [found[self._place[name]].column(name) for name in names]
        return pa.Table.from_arrays(columns, schema=self.schema(names))

    def _wanted(self, names: Sequence[str]) -> dict[int, list[str]]:
        """Return what to read of which file; with a second file also whose rows they are."""
        used = sorted({self._place[name] for name in names})
        if not any(used):
            return {i: list(names) for i in used}
        of_file = {i: [n for n in names if self._place[n] == i] for i in sorted({0, *used})}
        return {i: each if _KEY in each else [_KEY, *each] for i, each in of_file.items()}

    def _refuse_other_cells(self, found: Mapping[int, pa.RecordBatch | pa.Table]) -> None:
        """Raise ResultNotReadable if rows of two files are not of the same nuclei."""
        for i, piece in found.items():
            if i == 0:
                continue
            ids, needed = (each.column(_KEY).cast(pa.uint32()) for each in (piece, found[0]))
            if not ids.equals(needed):
                differs = pc.fill_null(pc.not_equal(ids, needed), True)
                row = pc.index(differs, True).as_py()
                path, cure = self._origins[i]
                raise ResultNotReadable(
                    f"{path} is damaged: where the cell table has the cell {needed[row]}, it has "
                    f"the cell {ids[row]}; {cure}"
                )


@contextmanager
def open_cells(
    files: CellFiles, columns: Sequence[str] | None, also: Sequence[str] = ()
) -> Iterator[tuple[OpenCells, list[str]]]:
    """Open what is needed for some columns.

    Parameters
    ----------
    files : CellFiles
        Where the cells are.
    columns : sequence of str, optional
        Columns wanted of the cell table or the further measurements; None for those of the
        cell table.
    also : sequence of str
        Further columns of the cell table that are needed.

    Yields
    ------
    (OpenCells, list of str)
        The files, and the names of the columns wanted.

    Raises
    ------
    ResultNotReadable
        If a file is missing or damaged, or not of the rows of the cell table (of which nuclei
        they are is compared as they are read).
    UnknownName
        If there is no such column.
    """
    with ExitStack() as stack:
        cells = stack.enter_context(open_table(files.cells))
        tables, place = [cells], dict.fromkeys(cells.schema_arrow.names, 0)
        origins = [(files.cells, _SEGMENT_AGAIN)]
        names = list(cells.schema_arrow.names if columns is None else columns)
        needed = {*names, *also}
        if files.classes is not None and needed & set(CLASS_COLUMNS):
            origins.append((files.classes, _CLASSIFY_AGAIN))
            tables.append(stack.enter_context(_open_aligned(*origins[-1], cells)))
            place |= dict.fromkeys(CLASS_COLUMNS, len(tables) - 1)
        if needed - place.keys() and files.features.is_file():
            origins.append((files.features, _SEGMENT_AGAIN))
            tables.append(stack.enter_context(_open_aligned(*origins[-1], cells)))
            known = tables[-1].schema_arrow.names
            place = dict.fromkeys(known, len(tables) - 1) | place
        for name in names:
            if name not in place:
                raise _unknown_column(files, name, list(place))
        yield OpenCells(tables, place, origins), names


@contextmanager
def _open_aligned(path: Path, cure: str, cells: pq.ParquetFile) -> Iterator[pq.ParquetFile]:
    """Open a table that must have the rows of the cell table."""
    with open_table(path, cure) as table:
        n, needed = table.metadata.num_rows, cells.metadata.num_rows
        if n != needed:
            raise ResultNotReadable(
                f"{path} is damaged: it has {n} rows, the cell table {needed}; {cure}"
            )
        if _KEY not in table.schema_arrow.names:
            raise ResultNotReadable(f"{path} is damaged: it has no column {_KEY}; {cure}")
        yield table


def _unknown_column(files: CellFiles, name: str, known: Sequence[str]) -> UnknownName:
    said = f"the cell table has no column {name!r}; known: {', '.join(known)}"
    run = files.cells.parent.name
    if files.features.is_file():
        return UnknownName(f"{said} ({run}; if it is a measurement that this run lacks: {_ANEW})")
    return UnknownName(
        f"{said}; {run} has no {FEATURES_NAME}, where further measurements are: {_ANEW}"
    )


_ANEW = "segment the slide again with --overwrite and all measurements, by a version that has them"


def _row_batches(table: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    # Over several row groups at once arrow keeps all it has read until the end.
    for group in range(table.num_row_groups):
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names):
            if batch.num_rows:
                yield batch


def _in_step(streams: Sequence[Iterator[pa.RecordBatch]]) -> Iterator[list[pa.RecordBatch]]:
    """Yield pieces of equal rows; the streams have as many rows, cut anywhere."""
    held = [next(stream, None) for stream in streams]
    while True:
        pieces = [piece for piece in held if piece is not None]
        if not pieces or len(pieces) < len(held):
            return
        n = min(piece.num_rows for piece in pieces)
        yield [piece.slice(0, n) for piece in pieces]
        held = [
            piece.slice(n) if piece.num_rows > n else next(stream, None)
            for piece, stream in zip(pieces, streams, strict=True)
        ]


def _rows(table: pq.ParquetFile, names: list[str], start: int, stop: int) -> pa.Table:
    """Return rows of a table; reads only the row groups that have some of them."""
    groups: list[int] = []
    first, offset = 0, 0
    for i in range(table.num_row_groups):
        n = table.metadata.row_group(i).num_rows
        if first < stop and first + n > start:
            offset = offset if groups else start - first
            groups.append(i)
        first += n
    return table.read_row_groups(groups, columns=names).slice(offset, stop - start)


def _first_line(error: Exception) -> Any:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
