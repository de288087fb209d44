"""SQL over runs: right numbers, one SELECT, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wsiseg
from wsiseg.answers import queries
from wsiseg.answers.queries import open_query, query
from wsiseg.errors import ResultNotReadable, UnknownName, UsageError
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of them in a folder with an odd name, one without a nucleus."""
    folder = tmp_path_factory.mktemp("query")
    for seed, n in enumerate((80, 0, 30)):
        rgb = paint_tissue(300, 320, n, seed) if n else np.full((300, 320, 3), 245, np.uint8)
        Image.fromarray(rgb).save(folder / f"s{seed}.png")
    out = folder / "out"
    for name, place in (("s0", out), ("s1", out), ("s2", out / "it's; a" / "b")):
        wsiseg.segment(folder / f"{name}.png", place, model=MODEL, scale=0.5, formats=())
    return out


def runs_of(out: Path) -> dict[str, wsiseg.Result]:
    return {
        "s0.png": wsiseg.open_result(out / "s0.png.wsiseg"),
        "s1.png": wsiseg.open_result(out / "s1.png.wsiseg"),
        "it's; a/b/s2.png": wsiseg.open_result(out / "it's; a" / "b" / "s2.png.wsiseg"),
    }


def test_counts_are_those_of_the_tables(made: Path) -> None:
    expected = [
        {"slide": slide, "class_name": name, "n": n}
        for slide, run in runs_of(made).items()
        for name, n in run.run["counts"].items()
        if n
    ]
    found = query(
        made, "SELECT slide, class_name, count(*) AS n FROM cells GROUP BY ALL ORDER BY ALL"
    )
    assert found.to_pylist() == sorted(expected, key=lambda row: (row["slide"], row["class_name"]))
    assert sum(row["n"] for row in expected) > 5


def test_every_run_is_a_slide_also_without_nuclei(made: Path) -> None:
    rows = query(made, "SELECT slide, n_cells, analysed_mm2 FROM slides ORDER BY slide").to_pylist()
    runs = runs_of(made)
    assert rows == [
        {
            "slide": slide,
            "n_cells": runs[slide].run["n_cells"],
            "analysed_mm2": runs[slide].analysed_mm2,
        }
        for slide in sorted(runs)
    ]
    assert [row["n_cells"] for row in rows if row["slide"] == "s1.png"] == [0]


def test_columns_of_cells_are_those_of_the_file(made: Path) -> None:
    cells = query(made, "SELECT * FROM cells WHERE slide = 's0.png' ORDER BY cell_id")
    own = runs_of(made)["s0.png"].cells()
    assert cells.column_names == ["slide", "model", *own.column_names]
    for name in ("cell_id", "uuid", "area_um2", "x", "region_ids", "cut"):
        assert cells[name].to_pylist() == own[name].to_pylist()
    tiles = query(made, "SELECT count(*) AS n FROM tiles").to_pylist()
    assert tiles == [{"n": sum(run.run["tiles"]["run"] for run in runs_of(made).values())}]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY cells TO 'x.csv'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE z (a INT)",
        "DROP VIEW cells",
        "DELETE FROM slides",
        "UPDATE slides SET n_cells = 0",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY cells TO 'x.csv'",
        "EXPORT DATABASE 'x'",
        "CALL pragma_version()",
        "",
        "not SQL at all",
    ],
)
def test_only_one_select(
    made: Path, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        query(made, sql)
    assert not list(tmp_path.iterdir())
    assert query(made, "SELECT count(*) AS n FROM slides").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    "source",
    [
        *("read_csv('/etc/passwd')", "read_text('/etc/passwd')", "read_blob('/etc/passwd')"),
        *("'/etc/passwd'", "glob('/etc/*')", "read_parquet('https://example.org/a.parquet')"),
        *("read_json('/etc/passwd')", "'{other}'", "read_parquet('{other}')", "incoming", "runs"),
    ],
)
def test_no_other_file_is_read(made: Path, source: str, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(UsageError):
        query(made, f"SELECT * FROM {source.format(other=other)}")


def test_python_s_own_tables_are_no_tables(made: Path) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(UsageError, match="secret"):
        query(made, "SELECT * FROM secret")
    assert len(secret) == 1


def test_a_missing_column_is_named_with_those_that_are_like_it(made: Path) -> None:
    with pytest.raises(UsageError, match=r"area_um3.*area_um2"):
        query(made, "SELECT area_um3 FROM cells")


def as_of_other_model(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["model"] |= {"name": "other-model", "sha256": "f" * 64}
    (run / "run.json").write_text(json.dumps(record))


def copied(made: Path, to: Path) -> Path:
    for file in made.rglob("*"):
        if file.name in ("run.json", "cells.parquet", "tiles.parquet"):
            target = to / file.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return to


def test_two_models_are_not_summed_silently(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path / "copy")
    as_of_other_model(out / "s0.png.wsiseg")
    count = "SELECT model, count(*) AS n FROM cells GROUP BY model ORDER BY model"
    with pytest.raises(UsageError, match=r"2 models.*local-stand-in.*other-model.*--model"):
        query(out, count)
    runs = runs_of(made)
    by_model = {
        "local-stand-in": runs["it's; a/b/s2.png"].run["n_cells"],
        "other-model": runs["s0.png"].run["n_cells"],
    }
    rows = [{"model": name, "n": n} for name, n in by_model.items()]
    assert query(out, count, model="all").to_pylist() == rows
    assert query(out, count, model="other-model").to_pylist() == rows[1:]
    assert query(out, count, model="f" * 8).to_pylist() == rows[1:]
    with pytest.raises(UnknownName, match="other-model"):
        query(out, count, model="third")


def test_what_cannot_be_read_is_told_and_left_out(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path / "copy")
    record = json.loads((out / "s0.png.wsiseg/run.json").read_text())
    (out / "s0.png.wsiseg/run.json").write_text(
        json.dumps(record | {"status": "failed", "error": {"type": "X", "message": "no light"}})
    )
    with open_query(out) as opened:
        assert [str(error) for error in opened.unread if "no light" in str(error)]
        assert opened.run("SELECT count(*) AS n FROM slides").to_pylist() == [{"n": 2}]


def test_a_damaged_table_is_an_error_not_a_number(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path / "copy")
    cells = out / "s0.png.wsiseg/cells.parquet"
    whole = cells.read_bytes()
    cells.write_bytes(whole[:-200])
    with open_query(out) as opened:
        assert [str(error) for error in opened.unread if "s0.png.wsiseg" in str(error)]
        assert opened.run("SELECT count(*) AS n FROM slides").to_pylist() == [{"n": 2}]
    n = 1000
    # Where the end is whole, damage shows only to those who read it.
    cells.write_bytes(whole[:4] + b"\xff" * n + whole[4 + n :])
    with pytest.raises(ResultNotReadable, match="cannot be read"):
        query(out, "SELECT sum(x), sum(area_um2), max(uuid) FROM cells")


def test_columns_are_described(made: Path) -> None:
    with open_query(made) as opened:
        columns = opened.columns()
    assert {column.table for column in columns} == {
        "slides",
        "cells",
        "features",
        "tiles",
        "regions",
    }
    meaning = {(column.table, column.name): column.meaning for column in columns}
    assert "px" in meaning["cells", "x"]


def test_older_runs_have_null_where_they_have_no_column(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path / "copy")
    path = out / "s0.png.wsiseg/cells.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["region_ids"]), path)
    rows = query(
        out, "SELECT slide, count(*) AS n, count(region_ids) AS m FROM cells GROUP BY slide"
    ).to_pylist()
    n = runs_of(made)["s0.png"].run["n_cells"]
    assert {"slide": "s0.png", "n": n, "m": 0} in rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT regexp_matches(slide, '(') FROM slides",
        "SELECT CAST(slide AS INTEGER) FROM slides",
        "SELECT slide + 1 FROM slides",
        "SELECT no_such_function(slide) FROM slides",
        "SELECT * FROM no_such_table",
        "SELECT count(*) FROM slides WHERE slide > (SELECT slide FROM slides)",
        "SELECT * FROM cells WHERE cell_id = ?",
        "SELECT error('a corrupt parquet')",
        "SELECT CASE i WHEN 999999 THEN error('late') ELSE 'x' END FROM range(1000000) t(i)",
        "SELECT '\ud800'",
    ],
)
def test_a_wrong_question_is_no_damage(made: Path, sql: str) -> None:
    with pytest.raises(UsageError):
        query(made, sql)


def test_an_answer_has_an_end(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "ANSWER_GB", 0.01)
    with pytest.raises(UsageError, match=r"larger than 0\.01 GB"):
        query(made, "SELECT i FROM range(10_000_000_000) t(i)")
    assert query(made, "SELECT i FROM range(1_000_000) t(i)").num_rows == 1_000_000
