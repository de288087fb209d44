"""SQL over many runs, read where they lie by DuckDB; nothing is written, nothing else is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wsiseg.errors import (
    MissingDependency,
    ResultNotReadable,
    UnknownName,
    UsageError,
    WsisegError,
)
from wsiseg.machine import cores
from wsiseg.results import find_results, finished_record

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ALL_MODELS = "all"
"""Stands for the runs of every model, told apart by the column `model`."""
TABLES = ("slides", "cells", "tiles", "regions")
"""What a query may name."""
MEMORY_GB = 4
"""What a query may take; one that needs more fails, for nothing is put on disk."""

_SLIDES = pa.schema(
    [
        ("slide", pa.string()),
        ("file_name", pa.string()),
        ("model", pa.string()),
        ("model_sha256", pa.string()),
        ("mpp", pa.float64()),
        ("width_px", pa.int64()),
        ("height_px", pa.int64()),
        ("analysed_mm2", pa.float64()),
        ("no_density_reason", pa.string()),
        ("n_cells", pa.int64()),
        ("n_tiles", pa.int64()),
        ("n_unreadable_tiles", pa.int64()),
        ("warnings", pa.list_(pa.string())),
        ("class_names", pa.list_(pa.string())),
        ("wsiseg_version", pa.string()),
        ("result_version", pa.int64()),
        ("finished_utc", pa.string()),
    ]
)
_REGIONS = pa.schema(
    [
        ("slide", pa.string()),
        ("model", pa.string()),
        ("region", pa.string()),
        ("region_class", pa.string()),
        ("region_id", pa.int64()),
        ("kind", pa.string()),
        ("missing", pa.bool_()),
        ("analysed_mm2", pa.float64()),
    ]
)
_MEANING: Mapping[str, str] = {
    "slide": "folder below the one that was given, and file name",
    "analysed_mm2": "tissue within regions, without tiles that could not be read; for densities",
    "no_density_reason": "why analysed_mm2 is 0",
    "warnings": "codes",
    "region_id": "position in the region list; what cells.region_ids counts in",
    "missing": "a TMA core that is not there: its zero cells say nothing",
    "x": "centroid, level-0 px from the slide's left edge",
    "y": "centroid, level-0 px from the slide's top edge",
    "x_um": "centroid in µm",
    "y_um": "centroid in µm",
    "cell_id": "1 … n within a slide",
    "class_prob": "mean probability of the class over the nucleus",
    "nucleus_prob": "mean nucleus probability",
    "cut": "larger than a tile's margin: part of it may be missing",
    "region": "the smallest region that holds the centroid",
    "region_ids": "all regions that hold it",
    "flags": "what is the matter with a tile",
    "tissue_share": "share of the core that is tissue",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a query may name."""

    table: str
    name: str
    kind: str
    """DuckDB's type."""
    meaning: str
    """Where the name does not say it."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Runs ready to be asked; made by `open_query`."""

    _connection: DuckDBPyConnection
    unread: tuple[WsisegError, ...]
    """Why runs are not part of the tables: failed, unfinished, damaged, newer."""

    def run(self, sql: str) -> pa.Table:
        """Return what one SELECT gives.

        Raises
        ------
        UsageError
            If it is not exactly one SELECT, names what is not there, or asks for files,
            extensions or settings.
        ResultNotReadable
            If a run's table is damaged.
        """
        duckdb = _import_duckdb()
        _refuse_all_but_select(self._connection, sql)
        try:
            return self._connection.sql(sql).to_arrow_table()
        except duckdb.PermissionException as error:
            raise UsageError(
                f"the query asks for what it may not ({_said(error)}); it may read the tables "
                f"{', '.join(TABLES)}, and nothing else"
            ) from error
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise _damaged(error) from error
        except duckdb.OutOfMemoryException as error:
            raise UsageError(
                f"the query needs more than {MEMORY_GB} GB of memory; group, filter or LIMIT it"
            ) from error
        except duckdb.Error as error:
            raise UsageError(f"the query cannot be answered: {_said(error)}") from error

    def columns(self) -> list[Column]:
        """Return every column of every table."""
        found = []
        for table in TABLES:
            for name, kind, *_ in self._connection.execute(f"DESCRIBE {table}").fetchall():
                found.append(Column(table, name, kind, _MEANING.get(name, "")))
        return found


@contextmanager
def open_query(
    runs: str | Path | Sequence[str | Path], model: str | None = None
) -> Iterator[Query]:
    """Make the tables `slides`, `cells`, `tiles` and `regions` of all runs.

    Parameters
    ----------
    runs : path, glob, or several of them
        Runs, folders of runs, or globs.
    model : str, optional
        Only runs of this model, by name or the first characters of its sha256; `"all"`: of every
        model.  Without it all runs must be of one.

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
        If there is no run of that model.
    MissingDependency
        If DuckDB is not installed.
    """
    duckdb = _import_duckdb()
    read, unread = _read_runs(runs)
    chosen = _of_model(read, model)
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        try:
            _make_tables(connection, chosen)
        except duckdb.Error as error:
            raise _damaged(error) from error
        connection.execute(f"SET threads={cores()}")
        connection.execute(f"SET memory_limit='{MEMORY_GB}GB'")
        connection.execute("SET temp_directory=''")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        yield Query(connection, tuple(unread))


def query(
    runs: str | Path | Sequence[str | Path], sql: str, *, model: str | None = None
) -> pa.Table:
    """Ask one SELECT of all runs; see `open_query` and `Query.run`.

    Examples
    --------
    >>> query("results/", "SELECT slide, n_cells FROM slides")  # doctest: +SKIP
    """
    with open_query(runs, model) as opened:
        return opened.run(sql)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A finished run, and what it is called."""

    path: Path
    slide: str
    record: Mapping[str, Any]


def _read_runs(
    runs: str | Path | Sequence[str | Path],
) -> tuple[list[_Run], list[WsisegError]]:
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    read: list[_Run] = []
    unread: list[WsisegError] = []
    for path in find_results(given):
        try:
            read.append(_Run(path, _slide_name(path, given), finished_record(path)))
        except ResultNotReadable as error:
            unread.append(error)
    if not read:
        raise unread[0]
    return _told_apart(read), unread


def _slide_name(path: Path, given: Sequence[str | Path]) -> str:
    """Return a run's path below the folder that was given, without `.wsiseg`."""
    for start in given:
        if Path(start).is_dir() and path != Path(start) and path.is_relative_to(start):
            return str(PurePosixPath(path.relative_to(start)).with_suffix(""))
    return path.stem


def _told_apart(read: Sequence[_Run]) -> list[_Run]:
    """Return the runs with names that differ: of runs from several folders, with the folder."""
    names = [run.slide for run in read]
    if len(set(names)) == len(names):
        return list(read)
    return [_Run(run.path, str(run.path.with_suffix("")), run.record) for run in read]


def _of_model(read: Sequence[_Run], model: str | None) -> list[_Run]:
    """Return the runs to ask."""
    counts: dict[tuple[str, str], int] = {}
    for run in read:
        key = _model_of(run)
        counts[key] = counts.get(key, 0) + 1
    known = ", ".join(
        f"{name} ({sha256[:12]}, {n} slides)" for (name, sha256), n in sorted(counts.items())
    )
    if model is None and len(counts) > 1:
        raise UsageError(
            f"these runs are of {len(counts)} models: {known}; their cells do not add up: choose "
            f"one with --model, or --model {ALL_MODELS} to tell them apart by the column model"
        )
    if model is None or model == ALL_MODELS:
        return list(read)
    chosen = [
        run for run in read if model == _model_of(run)[0] or _is_start_of(model, _model_of(run)[1])
    ]
    if not chosen:
        raise UnknownName(f"no run is of model {model!r}; there are {known}")
    return chosen


def _is_start_of(text: str, sha256: str) -> bool:
    return len(text) >= 6 and sha256.startswith(text)


def _model_of(run: _Run) -> tuple[str, str]:
    model = run.record["model"]
    return str(model["name"]), str(model.get("sha256", ""))


def _make_tables(connection: DuckDBPyConnection, runs: Sequence[_Run]) -> None:
    tables = {
        "slides": pa.Table.from_pylist([_slide_row(run) for run in runs], _SLIDES),
        "regions": pa.Table.from_pylist(
            [row for run in runs for row in _region_rows(run)], _REGIONS
        ),
        "run_files": pa.table(
            {
                **{
                    name: [str((run.path / f"{name}.parquet").absolute()) for run in runs]
                    for name in ("cells", "tiles")
                },
                "slide": [run.slide for run in runs],
                "model": [_model_of(run)[0] for run in runs],
            }
        ),
    }
    for name, table in tables.items():
        connection.register("incoming", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608 - ours
        connection.unregister("incoming")
    files = [path for name in ("cells", "tiles") for path in tables["run_files"][name].to_pylist()]
    connection.execute(f"SET allowed_paths={_list(files)}")
    for name in ("cells", "tiles"):
        paths = [path for path in tables["run_files"][name].to_pylist() if Path(path).is_file()]
        if not paths:
            raise ResultNotReadable(
                f"no run has {name}.parquet; segment the slides again with --overwrite"
            )
        connection.execute(
            f"CREATE VIEW {name} AS SELECT f.slide, f.model, t.* EXCLUDE (filename) "  # noqa: S608
            f"FROM read_parquet({_list(paths)}, filename=true, union_by_name=true) t "
            f"JOIN run_files f ON f.{name} = t.filename"
        )


def _slide_row(run: _Run) -> dict[str, Any]:
    record = run.record
    slide, tiles = record["slide"], record.get("tiles", {})
    name, sha256 = _model_of(run)
    return {
        "slide": run.slide,
        "file_name": slide["name"],
        "model": name,
        "model_sha256": sha256,
        "mpp": slide["mpp"],
        "width_px": slide.get("width_px"),
        "height_px": slide.get("height_px"),
        "analysed_mm2": record["analysed_mm2"],
        "no_density_reason": record.get("no_density_reason"),
        "n_cells": record["n_cells"],
        "n_tiles": tiles.get("run"),
        "n_unreadable_tiles": len(tiles.get("unreadable", ())),
        "warnings": [warning["code"] for warning in record["warnings"]],
        "class_names": [entry["name"] for entry in record["classes"]],
        "wsiseg_version": record.get("wsiseg_version"),
        "result_version": record.get("result_version"),
        "finished_utc": record.get("finished_utc"),
    }


def _region_rows(run: _Run) -> Iterator[dict[str, Any]]:
    for index, region in enumerate(run.record.get("regions", ())):
        yield {
            "slide": run.slide,
            "model": _model_of(run)[0],
            "region": region["name"],
            "region_class": region["class"],
            "region_id": index,
            "kind": region["kind"],
            "missing": region["missing"],
            "analysed_mm2": region["analysed_mm2"],
        }


def _refuse_all_but_select(connection: DuckDBPyConnection, sql: str) -> None:
    """Raise UsageError unless a text is exactly one SELECT."""
    duckdb = _import_duckdb()
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(f"the query is no SQL: {_said(error)}") from error
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise UsageError(
            f"the query holds {', '.join(kinds) or 'nothing'}; exactly one SELECT is needed: "
            "results are only read"
        )


def _damaged(error: Exception) -> ResultNotReadable:
    return ResultNotReadable(
        f"a run's table cannot be read ({_said(error)}); segment that slide again with --overwrite"
    )


def _list(paths: Sequence[str]) -> str:
    """Return paths as a list in SQL."""
    quoted = ("'" + path.replace("'", "''") + "'" for path in paths)
    return f"[{', '.join(quoted)}]"


def _said(error: Exception) -> str:
    """Return the first line of what DuckDB says, with the names it suggests."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines else type(error).__name__
    more = [line for line in lines[1:] if line.startswith(("Candidate", "Did you mean"))]
    return " ".join([told, *more[:1]])


def _import_duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise MissingDependency("queries need DuckDB: pip install 'wsiseg[query]'") from error
    return duckdb
