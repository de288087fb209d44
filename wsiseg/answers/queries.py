"""SQL over many runs, read where they lie by DuckDB; nothing is written, nothing else is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wsiseg.answers._query_columns import Column, is_feature, meaning_of
from wsiseg.answers._query_guard import check_select, names_in
from wsiseg.answers._query_tables import TABLES, files_of_nulls, files_without, make_tables
from wsiseg.answers.run_choice import AskedRun, RunsGiven, choose_runs
from wsiseg.answers.table_rows import told_apart
from wsiseg.errors import ResultNotReadable, UsageError, WsisegError
from wsiseg.machine import cores

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

__all__ = ["TABLES", "Column", "Query", "open_query", "query"]

STAIN_COLUMNS = (*("hematoxylin_od_mean", "hematoxylin_od_sd", "eosin_od_mean", "eosin_od_sd"),)
"""Columns of `cells` that older runs have without a value."""
MEMORY_GB = 4
"""What a query may take; one that needs more fails, for nothing is put on disk."""
ANSWER_GB = 2
"""What an answer may hold, beside that."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Runs ready to be asked; made by `open_query`."""

    _connection: DuckDBPyConnection
    runs: tuple[AskedRun, ...]
    """The runs whose rows the tables hold."""
    unread: tuple[WsisegError, ...]
    """Why runs are not part of the tables: failed, unfinished, damaged, newer."""
    _files: Mapping[str, list[str]]

    def run(self, sql: str) -> pa.Table:
        """Return what one SELECT gives.

        Raises
        ------
        UsageError
            If it is not exactly one SELECT, names what is not there, or asks for files,
            extensions or settings; or if the answer is larger than `ANSWER_GB`.
        ResultNotReadable
            If a run's table is damaged.

        Notes
        -----
        Columns of one name, as a join of two tables gives, are told apart by a number: `a`, `a_2`.
        """
        import duckdb

        tree = check_select(self._connection, sql, TABLES)
        try:
            return _plain_numbers(_fetched(self._connection.sql(sql)))
        # What goes wrong in a later piece of an answer comes through Arrow, as an OSError.
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise self._told(error, sql, tree) from error

    def _told(self, error: Exception, sql: str, tree: Any) -> WsisegError:
        """Return what to say of an error, which is known by the words it begins with."""
        said = str(error).strip()
        if said.startswith("Permission Error"):
            return UsageError(
                f"the query asks for what it may not ({_said(error)}); it may read the tables "
                f"{', '.join(TABLES)}, and nothing else"
            )
        if said.startswith("Out of Memory Error"):
            return UsageError(
                f"the query needs more than {MEMORY_GB} GB of memory; group, filter or LIMIT it"
            )
        if _is_of_a_file(error, sql):
            return _damaged(error)
        return UsageError(f"the query cannot be answered: {_said(error)}{self._no_features(tree)}")

    def _no_features(self, tree: Any) -> str:
        named = names_in(tree)
        if "features" not in named:
            return ""
        if not self._files["features"]:
            return "; no run has features.parquet: segment anew with --measure, and --overwrite"
        there = {column.name.casefold() for column in self.columns() if column.table == "features"}
        lacking = sorted(name for name in named - there if is_feature(name))
        if not lacking:
            return ""
        return (
            f"; no run has features.{lacking[0]}: they were made by an older version, or with a "
            "--measure that left it out"
        )

    @property
    def run_notes(self) -> list[str]:
        """What to mind about the runs, whatever is asked: a sentence each."""
        versions = Counter(run.record.get("result_version") for run in self.runs)
        if len(versions) < 2:
            return []
        listed = ", ".join(f"{n} of {version}" for version, n in versions.most_common())
        return [
            f"the runs were made with different result versions ({listed}): their nuclei differ a "
            "little for that alone"
        ]

    def notes(self, sql: str) -> list[str]:
        """Return, a sentence each, what the runs lack of what a SELECT names.

        Raises
        ------
        UsageError
            As `run` does, if it is no SELECT.
        """
        named = names_in(check_select(self._connection, sql, TABLES))
        said = [*self.run_notes]
        n_runs = len(self.runs)
        for table in ("features", "tiles"):
            n = n_runs - len(self._files[table])
            if table in named and n:
                said.append(
                    f"{n} of {n_runs} runs have no {table}.parquet: {table} has no rows for them"
                )
        for (table, column), n in sorted(files_without(self._connection, self._files).items()):
            if table in named and (column.casefold() in named or "*" in named):
                said.append(
                    f"{n} of {len(self._files[table])} runs have no {table}.{column}: it is "
                    "null there"
                )
        every = {"*", "cells"} <= named
        stains = [name for name in STAIN_COLUMNS if every or name in named]
        cells = self._files["cells"]
        for column, n in files_of_nulls(self._connection, cells, stains).items():
            said.append(
                f"{n} of {len(cells)} runs have no value in cells.{column}: it was not measured "
                "when they were made"
            )
        return said

    def columns(self) -> list[Column]:
        """Return every column of every table."""
        return [
            Column(table, name, kind, meaning_of(table, name))
            for table in TABLES
            for name, kind, *_ in self._connection.execute(f"DESCRIBE {table}").fetchall()
        ]


@contextmanager
def open_query(
    runs: RunsGiven, model: str | None = None, classes: str | None = None
) -> Iterator[Query]:
    """Make the tables `slides`, `cells`, `features`, `tiles` and `regions` of all runs.

    Parameters
    ----------
    runs : path, glob, or several of them
        Runs, folders of runs, or globs.
    model : str, optional
        Only runs of this model, by name or the first characters of its sha256; `"all"`: of every
        model.  Without it all runs must be of one.
    classes : str, optional
        Name of a version of classes, as `wsiseg classify` writes them, in place of the model's;
        runs without it are left out, and told of in `Query.unread`.

    Yields
    ------
    Query
        Until the block ends.

    Raises
    ------
    ResultNotReadable
        If there is no finished run.
    UsageError
        If runs are of several models, and none was chosen: their numbers do not add up.
    UnknownName
        If there is no run of that model, or with that version of classes.

    Examples
    --------
    >>> with open_query("results/") as opened:  # doctest: +SKIP
    ...     opened.run("SELECT slide, n_cells FROM slides")
    """
    import duckdb

    chosen = choose_runs(runs, model, classes)
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        try:
            files = make_tables(connection, chosen.runs)
        except duckdb.Error as error:
            raise _damaged(error) from error
        connection.execute(f"SET threads={cores()}")
        connection.execute(f"SET memory_limit='{MEMORY_GB}GB'")
        connection.execute("SET temp_directory=''")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        yield Query(connection, chosen.runs, chosen.unread, files)


def query(
    runs: RunsGiven, sql: str, *, model: str | None = None, classes: str | None = None
) -> pa.Table:
    """Ask one SELECT of all runs; see `open_query` and `Query.run`.

    Examples
    --------
    >>> query("results/", "SELECT slide, n_cells FROM slides")  # doctest: +SKIP
    """
    with open_query(runs, model, classes) as opened:
        return opened.run(sql)


def _fetched(relation: DuckDBPyRelation) -> pa.Table:
    """Return an answer, fetched piece by piece: DuckDB's limit of memory does not hold for it.

    Raises
    ------
    UsageError
        If it is larger than `ANSWER_GB`.
    """
    batches: list[pa.RecordBatch] = []
    held = 0
    with pa.RecordBatchReader.from_stream(relation) as reader:
        for batch in reader:
            batches.append(batch)
            held += batch.nbytes
            if held > ANSWER_GB * 1e9:
                raise UsageError(
                    f"the answer is larger than {ANSWER_GB} GB; group or filter it, LIMIT it, or "
                    "name fewer columns (wsiseg export writes whole tables of runs)"
                )
        schema = reader.schema
    return told_apart(pa.Table.from_batches(batches, schema))


def _plain_numbers(table: pa.Table) -> pa.Table:
    """Return whole decimals, as sums of integers are, as integers where they fit."""
    fields = []
    for field in table.schema:
        is_whole = pa.types.is_decimal(field.type) and field.type.scale == 0
        fields.append(field.with_type(pa.int64()) if is_whole else field)
    try:
        return table.cast(pa.schema(fields))
    except pa.ArrowInvalid:
        return table


def _is_of_a_file(error: Exception, sql: str) -> bool:
    """Return whether an error is about what is in a file, rather than about the question."""
    import duckdb

    kinds = ("IO Error", "INTERNAL Error", "Serialization Error")
    words = ("parquet", "protocol", "thrift", "zstd", "decompress", "invalid data", "corrupt")
    # What the reader of Parquet throws by itself comes without a kind.
    if type(error) is duckdb.Error or str(error).strip().startswith(kinds):
        return True
    asked = sql.lower()
    return any(word in str(error).lower() and word not in asked for word in words)


def _damaged(error: Exception) -> ResultNotReadable:
    return ResultNotReadable(
        f"a run's table cannot be read ({_said(error)}); segment that slide again with --overwrite"
    )


def _said(error: Exception) -> str:
    """Return the first line of what DuckDB says, with the names it suggests."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines else type(error).__name__
    more = [line for line in lines[1:] if line.startswith(("Candidate", "Did you mean"))]
    return " ".join([told, *more[:1]])
