"""The tables of a query: made from records, or views of the runs' own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wsiseg.answers.run_choice import AskedRun

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TABLES = ("slides", "cells", "features", "tiles", "regions")
"""What a query may name."""
FILES = ("cells", "features", "tiles")
"""Those that are files of a run."""

_SLIDES = pa.schema(
    [
        *((name, pa.string()) for name in ("slide", "file_name", "model", "model_sha256")),
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
        *((name, pa.string()) for name in ("slide", "model", "region", "region_class")),
        ("region_id", pa.int64()),
        ("kind", pa.string()),
        ("missing", pa.bool_()),
        ("analysed_mm2", pa.float64()),
    ]
)


_AS_THEY_ARE = "filename=true, hive_partitioning=false"
"""How files are read: a folder called `class_name=x` says nothing of what is in them."""
_RUN_FILES = "own.run_files"
"""Which file is of which run; in a schema of its own, for no query may name one."""
_EMPTY: Mapping[str, str] = {
    "cells": "cell_id UINTEGER",
    "features": "cell_id UINTEGER",
    "tiles": '"row" INTEGER, col INTEGER, x DOUBLE, y DOUBLE, width DOUBLE, height DOUBLE, '
    "tissue_share FLOAT, n_cells INTEGER, flags VARCHAR[]",
}
"""Columns of a table for which no run has a file."""


def make_tables(connection: DuckDBPyConnection, runs: Sequence[AskedRun]) -> dict[str, list[str]]:
    """Make all tables; return the paths of the files behind them."""
    columns = {name: [_file(run, name) for run in runs] for name in FILES}
    columns["versions"] = [
        "" if run.classes_path is None else str(run.classes_path.absolute()) for run in runs
    ]
    files = {
        **columns,
        "slide": [run.slide for run in runs],
        "model": [run.model[0] for run in runs],
    }
    tables = {
        "slides": pa.Table.from_pylist([_slide_row(run) for run in runs], _SLIDES),
        "regions": pa.Table.from_pylist([r for run in runs for r in _region_rows(run)], _REGIONS),
        _RUN_FILES: pa.table(files),
    }
    connection.execute(f"CREATE SCHEMA {_RUN_FILES.partition('.')[0]}")
    for name, table in tables.items():
        connection.register("incoming", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608 - ours
        connection.unregister("incoming")
    there = {
        name: [path for path in paths if path and Path(path).is_file()]
        for name, paths in columns.items()
    }
    # Polygons stay what they are, WKB; its own type needs an extension to be of use.
    connection.execute("SET enable_geoparquet_conversion=false")
    every = [path for paths in there.values() for path in paths]
    # DuckDB asks whether it may look for the one, and then whether it may open the other.
    allowed = dict.fromkeys([*map(_exactly, every), *every])
    connection.execute(f"SET allowed_paths={_list(allowed)}")
    for name in FILES:
        _make_view(connection, name, there[name], there["versions"] if name == "cells" else [])
    return there


def _make_view(
    connection: DuckDBPyConnection, name: str, paths: Sequence[str], versions: Sequence[str]
) -> None:
    if not paths:
        connection.execute(f"CREATE TABLE {name} (slide VARCHAR, model VARCHAR, {_EMPTY[name]})")
        return
    chosen, joined = "t.* EXCLUDE (filename)", ""
    if versions:
        chosen += " REPLACE (v.class_name AS class_name, v.class_prob AS class_prob)"
        joined = (
            f" JOIN read_parquet({_list(map(_exactly, versions))}, {_AS_THEY_ARE}) v "
            "ON v.filename = f.versions AND v.cell_id = t.cell_id"
        )
    connection.execute(
        f"CREATE VIEW {name} AS SELECT f.slide, f.model, {chosen} "  # noqa: S608 - ours
        f"FROM read_parquet({_list(map(_exactly, paths))}, {_AS_THEY_ARE}, union_by_name=true) t "
        f"JOIN {_RUN_FILES} f ON f.{name} = t.filename{joined}"
    )


def files_without(
    connection: DuckDBPyConnection, paths: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], int]:
    """Return how many files lack a column that others have, by table and column."""
    lacking: dict[tuple[str, str], int] = {}
    for name in FILES:
        if not paths[name]:
            continue
        rows = connection.execute(
            f"SELECT name, count(*) FROM parquet_schema({_list(map(_exactly, paths[name]))}) "  # noqa: S608
            "WHERE repetition_type IS NOT NULL GROUP BY name"
        ).fetchall()
        n_files = len(paths[name])
        lacking |= {(name, column): n_files - n for column, n in rows if n < n_files}
    return lacking


def files_of_nulls(
    connection: DuckDBPyConnection, paths: Sequence[str], columns: Sequence[str]
) -> dict[str, int]:
    """Return in how many files a column has no value at all, though the file has rows."""
    if not (paths and columns):
        return {}
    rows = connection.execute(
        "SELECT path_in_schema, count(*) FROM (SELECT file_name, path_in_schema, "  # noqa: S608
        "sum(num_values) AS n, sum(stats_null_count) AS n_null "
        f"FROM parquet_metadata({_list(map(_exactly, paths))}) "
        f"WHERE list_contains({_list(columns)}, path_in_schema) GROUP BY ALL) "
        "WHERE n = n_null AND n > 0 GROUP BY path_in_schema"
    ).fetchall()
    return dict(rows)


def _file(run: AskedRun, name: str) -> str:
    return str((run.path / f"{name}.parquet").absolute())


def _slide_row(run: AskedRun) -> dict[str, Any]:
    record = run.record
    slide, tiles = record["slide"], record.get("tiles", {})
    return {
        "slide": run.slide,
        "file_name": slide["name"],
        "model": run.model[0],
        "model_sha256": run.model[1],
        "mpp": slide["mpp"],
        "width_px": slide.get("width_px"),
        "height_px": slide.get("height_px"),
        "analysed_mm2": record["analysed_mm2"],
        "no_density_reason": record.get("no_density_reason"),
        "n_cells": record["n_cells"],
        "n_tiles": tiles.get("run"),
        "n_unreadable_tiles": len(tiles.get("unreadable", ())),
        "warnings": [warning["code"] for warning in record["warnings"]],
        "class_names": list(run.class_names),
        "wsiseg_version": record.get("wsiseg_version"),
        "result_version": record.get("result_version"),
        "finished_utc": record.get("finished_utc"),
    }


def _region_rows(run: AskedRun) -> Iterator[dict[str, Any]]:
    for index, region in enumerate(run.record.get("regions", ())):
        yield {
            "slide": run.slide,
            "model": run.model[0],
            "region": region["name"],
            "region_class": region["class"],
            "region_id": index,
            "kind": region["kind"],
            "missing": region["missing"],
            "analysed_mm2": region["analysed_mm2"],
        }


def _exactly(path: str) -> str:
    """Return a path in which nothing stands for other names: DuckDB takes paths for globs."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def _list(paths: Iterable[str]) -> str:
    """Return paths as a list in SQL."""
    quoted = ("'" + path.replace("'", "''") + "'" for path in paths)
    return f"[{', '.join(quoted)}]"
