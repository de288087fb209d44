"""`wsiseg query`: what it prints and writes, what it refuses, and what it says of older runs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result as Said
from run_dirs import CLASSES, random_table, write_run
from typer.testing import CliRunner

import wsiseg
from wsiseg.answers.table_files import write_table
from wsiseg.classes.versions import CLASSES_SCHEMA
from wsiseg.cli import app
from wsiseg.errors import OutputNotWritable, ResultNotReadable, UsageError
from wsiseg.exporters.class_table import write_class_version

HOSTILE = "O'Brien \"; DROP TABLE cells; --$(touch x)\n\x1b[31m"


def run(*arguments: object, given: str | None = None) -> Said:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=given)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def named(name: str) -> dict[str, Any]:
    return {
        "slide": {
            "name": name,
            "width_px": 4000,
            "height_px": 3000,
            "mpp": 0.5,
            "bounds": [0, 0, 4000, 3000],
        }
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs; one is of a slide and a model with odd names."""
    folder = tmp_path_factory.mktemp("asked")
    write_run(folder / "a.svs.wsiseg", random_table(300, 1))
    odd = HOSTILE.replace("\n", "").replace("\x1b", "")
    model = {"name": HOSTILE, "sha256": "0" * 64, "card": {}}
    write_run(folder / f"{odd}.svs.wsiseg", random_table(50, 2), **named(HOSTILE), model=model)
    return folder


COUNT = "SELECT file_name, n_cells FROM slides ORDER BY n_cells DESC"


def test_a_table_is_aligned_and_cannot_move_the_cursor(out: Path) -> None:
    said = run("query", out, COUNT, "--model", "all")
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert lines[0].split() == ["file_name", "n_cells"]
    assert lines[1].split() == ["a.svs", "300"]
    assert len({len(line) for line in lines}) == 1
    assert all(line.isprintable() for line in lines)
    assert "O'Brien" in lines[2]


def test_long_answers_say_how_many_rows_more(out: Path) -> None:
    sql = "SELECT cell_id FROM cells ORDER BY ALL"
    said = run("query", out, sql, "--model", "all").stdout.splitlines()
    assert len(said) == 1 + 40 + 1
    assert said[-1].startswith("… and 310 more rows")
    every = run("query", out, sql, "--model", "all", "--rows", 0).stdout.splitlines()
    assert len(every) == 351
    none = run("query", out, sql + " LIMIT 0", "--model", "all").stdout
    assert none == "(no rows; columns: cell_id)\n"


def test_csv_and_json_can_be_piped(out: Path) -> None:
    sql = "SELECT slide, file_name, [1, NULL] AS list, 'NaN'::FLOAT AS nothing, sum(n_cells) AS n"
    sql += " FROM slides GROUP BY ALL ORDER BY n DESC"
    given = run("query", out, sql, "--model", "all", "--format", "json")
    rows = json.loads(given.stdout)
    assert [row["n"] for row in rows] == [300, 50]
    assert rows[1]["file_name"] == HOSTILE
    assert rows[0]["nothing"] is None
    assert rows[0]["list"] == [1, None]
    text = run("query", out, sql, "--model", "all", "--to", "-", "--format", "csv").stdout
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [int(line["n"]) for line in lines] == [300, 50]
    assert lines[1]["file_name"].splitlines() == HOSTILE.splitlines()
    assert json.loads(lines[0]["list"]) == [1, None]


def test_files_are_written_by_their_end_and_replaced_if_asked(out: Path, tmp_path: Path) -> None:
    sql = "SELECT cell_id, area_um2, geometry FROM cells WHERE slide = 'a.svs' ORDER BY cell_id"
    target = tmp_path / "a.parquet"
    target.write_text("older")
    refused = run("query", out, sql, "--model", "all", "--to", target)
    assert refused.exit_code == 2
    assert "a.parquet exists" in refused.stderr
    assert target.read_text() == "older"
    said = run("query", out, sql, "--model", "all", "--to", target, "--overwrite")
    assert (said.exit_code, said.stdout) == (0, "")
    table = pq.read_table(target)
    own = wsiseg.open_result(out / "a.svs.wsiseg").cells(columns=table.column_names)
    assert table.to_pylist() == own.to_pylist()
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("to", "words"),
    [("a.txt", "its end says nothing"), ("a.wsiseg/cells.parquet", "would lie in the run")],
)
def test_what_cannot_be_written_is_refused(to: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.wsiseg").mkdir()
    with pytest.raises(UsageError, match=words):
        write_table(pa.table({"a": [1]}), tmp_path / to)
    with pytest.raises(OutputNotWritable, match="choose a file"):
        write_table(pa.table({"a": [1]}), tmp_path / "none" / "a.csv")
    assert not list((tmp_path / "a.wsiseg").iterdir())


REFUSED = [
    "COPY cells TO 'x.csv'",
    "COPY (SELECT 1) TO 'x.csv'",
    "ATTACH 'x.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CREATE TABLE z (a INT)",
    "CREATE TABLE z AS SELECT * FROM cells",
    "DROP VIEW cells",
    "DELETE FROM slides",
    "UPDATE slides SET n_cells = 0",
    "INSERT INTO slides SELECT * FROM slides",
    "WITH z AS (INSERT INTO slides SELECT * FROM slides RETURNING *) SELECT * FROM z",
    "WITH z AS (DELETE FROM slides RETURNING *) SELECT * FROM z",
    "SET enable_external_access = true",
    "RESET allowed_paths",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL enable_logging()",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW cells",
    "EXPORT DATABASE 'x'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'other.csv'",
    'SELECT * FROM "other.parquet"',
    "SELECT * FROM read_parquet('other.parquet')",
    "SELECT * FROM parquet_metadata('other.parquet')",
    "SELECT * FROM read_parquet('https://example.org/a.parquet')",
    "SELECT * FROM read_duckdb('x.db')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table(['run_files'])",
    "SELECT * FROM enable_logging(level = 'debug')",
    "SELECT * FROM enable_profiling(save_location = 'x.json')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM run_files",
    "SELECT * FROM own.run_files",
    "SELECT * FROM (WITH run_files AS (SELECT 1) SELECT 1 a), run_files",
    "WITH run_files AS (SELECT * FROM run_files) FROM run_files",
    "WITH RECURSIVE pg_settings AS (FROM pg_settings UNION ALL FROM pg_settings) FROM pg_settings",
    "WITH a AS (FROM duckdb_views), duckdb_views AS (SELECT 1) FROM a",
    "SELECT * FROM pg_settings",
    "SELECT * FROM sqlite_master",
    "SHOW run_files",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "DESCRIBE own.run_files",
    "SELECT * FROM information_schema.tables",
    "SELECT (SELECT content FROM read_text('/etc/passwd')) FROM slides",
    "SELECT n_cells FROM slides WHERE n_cells IN (SELECT size FROM read_text('/etc/passwd'))",
    "WITH z AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM z",
    'WITH "other.csv" AS (SELECT 1) SELECT * FROM (SELECT * FROM "other.csv"), \'other.parquet\'',
    "SELECT getenv('HOME')",
    "SELECT list_transform([1], x -> getenv('HOME'))",
    "SELECT current_setting('allowed_paths')",
    "SELECT write_log('x')",
    "SELECT sleep_ms(1)",
    "SELECT pragma_version()",
    "",
    ";",
    "not SQL at all",
]


@pytest.fixture
def alone(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder a command runs in, with files that a query may not see."""
    (tmp_path / "other.csv").write_text("secret\n42\n")
    pq.write_table(pa.table({"secret": [42]}), tmp_path / "other.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("sql", REFUSED)
def test_the_command_refuses_all_but_one_reading_select(out: Path, alone: Path, sql: str) -> None:
    before, there = digest(out), digest(alone)
    said = run("query", out / "a.svs.wsiseg", sql)
    assert said.exit_code == 2
    assert said.stdout == ""
    assert said.stderr.startswith("error: ")
    assert "root:" not in said.stderr
    assert "42" not in said.stderr
    assert (digest(out), digest(alone)) == (before, there)


@pytest.mark.parametrize(
    ("sql", "n"),
    [
        ("FROM slides", 1),
        ("VALUES (1), (2)", 2),
        ("WITH z AS (SELECT * FROM cells) SELECT count(*) FROM z", 1),
        ("SELECT * FROM range(3) UNION ALL SELECT 9", 4),
        ("SELECT unnest(class_names) FROM slides", 3),
        ("SUMMARIZE slides", 17),
        ("DESCRIBE slides", 17),
        ("WITH a AS (SELECT 1), b AS (FROM a) SELECT * FROM b, (WITH c AS (FROM a) FROM c)", 1),
        ("WITH cells AS (SELECT * FROM cells LIMIT 2) SELECT (WITH z AS (FROM cells) SELECT 1)", 1),
        ("SELECT '; DROP TABLE cells' AS text, 'it''s' AS other -- COPY", 1),
        ("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) FROM t", 5),
    ],
)
def test_what_reads_is_answered(out: Path, sql: str, n: int) -> None:
    assert wsiseg.query(out / "a.svs.wsiseg", sql).num_rows == n


def test_the_question_may_come_from_standard_input(out: Path) -> None:
    said = run("query", out / "a.svs.wsiseg", "-", "--format", "json", given="SELECT 1 AS one")
    assert json.loads(said.stdout) == [{"one": 1}]


def test_a_forgotten_question_is_told(out: Path) -> None:
    for arguments in (["query", out], ["query", out / "a.svs.wsiseg", out / "a.svs.wsiseg"]):
        said = run(*arguments)
        assert said.exit_code == 2
        assert "one SELECT in quotes" in said.stderr


def test_tables_are_described_with_a_meaning_each(out: Path) -> None:
    said = run("query", out / "a.svs.wsiseg", "--tables")
    assert said.exit_code == 0
    assert "centroid, µm from the slide's left edge" in said.stdout
    rows = json.loads(run("query", out / "a.svs.wsiseg", "--tables", "--format", "json").stdout)
    assert {row["table"] for row in rows} == {"slides", "cells", "features", "tiles", "regions"}
    assert [row for row in rows if not row["meaning"]] == []


def test_a_read_only_folder_can_be_asked(out: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "out" / "a.svs.wsiseg", random_table(20)).parent
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = digest(folder)
    assert run("query", folder, "SELECT count(*) FROM cells").stdout.split()[-1] == "20"
    assert run("stats", folder).exit_code == 0
    assert digest(folder) == before
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def test_runs_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "a.svs.wsiseg", random_table(20))
    write_run(tmp_path / "new.svs.wsiseg", random_table(20), format_version=99)
    write_run(tmp_path / "short.svs.wsiseg", random_table(20), n_cells=21)
    (write_run(tmp_path / "gone.svs.wsiseg", random_table(9)) / "cells.parquet").unlink()
    failed = {"status": "failed", "error": {"type": "X", "message": "no light"}}
    write_run(tmp_path / "dark.svs.wsiseg", random_table(20), **failed)
    for command in (
        ["query", tmp_path, "SELECT sum(n_cells) AS n FROM slides"],
        ["stats", tmp_path],
    ):
        said = run(*command, "--format", "json")
        assert said.exit_code == 3
        assert json.loads(said.stdout)[-1]["n"] == 20
        told = [line for line in said.stderr.splitlines() if line.startswith("not counted: ")]
        assert len(told) == 4
        for words in ("newer wsiseg (format 99)", "21 cells", "no cells.parquet", "no light"):
            assert [line for line in told if words in line], words


def test_older_runs_are_null_where_a_column_is_missing_and_it_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "new.svs.wsiseg", random_table(20))
    older = write_run(tmp_path / "old.svs.wsiseg", random_table(30))
    table = pq.read_table(older / "cells.parquet")
    pq.write_table(table.drop_columns(["area_um2"]), older / "cells.parquet")
    sql = "SELECT count(*) AS n, count(area_um2) AS m FROM cells"
    said = run("query", tmp_path, sql, "--format", "json")
    assert json.loads(said.stdout) == [{"n": 50, "m": 20}]
    assert said.exit_code == 0
    assert "1 of 2 runs have no cells.area_um2: it is null there" in said.stderr
    assert run("query", tmp_path, "SELECT count(*) AS n FROM cells").stderr == ""
    wrong = run("query", tmp_path, "SELECT prob_None FROM cells")
    assert wrong.exit_code == 2
    assert "prob_None" in wrong.stderr


def test_features_are_a_table_where_runs_have_them(tmp_path: Path) -> None:
    with_them = write_run(tmp_path / "new.svs.wsiseg", random_table(20))
    write_run(tmp_path / "old.svs.wsiseg", random_table(30))
    features = {"cell_id": np.arange(1, 21, dtype=np.uint32), "nearest_cell_um": np.arange(20.0)}
    pq.write_table(pa.table(features), with_them / "features.parquet")
    sql = "SELECT avg(nearest_cell_um) AS mean FROM features JOIN cells USING (slide, cell_id)"
    said = run("query", tmp_path, sql, "--format", "json")
    assert json.loads(said.stdout) == [{"mean": 9.5}]
    assert "1 of 2 runs have no features.parquet" in said.stderr


def test_class_names_are_those_of_the_run(out: Path) -> None:
    found = wsiseg.query(out / "a.svs.wsiseg", "SELECT class_names FROM slides").to_pylist()
    assert found == [{"class_names": list(CLASSES)}]


def test_a_version_of_the_classes_is_asked_in_place_of_the_models(tmp_path: Path) -> None:
    cells = random_table(40).append_column("class_prob", pa.array([0.9] * 40, pa.float32()))
    folder = write_run(tmp_path / "out" / "a.svs.wsiseg", cells)
    write_run(tmp_path / "out" / "b.svs.wsiseg", random_table(30))
    names = ["New"] * 25 + [None] * 15
    table = pa.table(
        {"cell_id": np.arange(1, 41), "class_name": names, "class_prob": [0.5] * 40},
        CLASSES_SCHEMA,
    )
    classes = [
        {"name": "New", "index": 1, "rgb": [1, 2, 3]},
        {"name": "Rare", "index": 2, "rgb": [0, 0, 0]},
    ]
    write_class_version(folder, "clicks", table.to_batches(), classes, {"how": "a test"})
    sql = "SELECT class_name, count(*) AS n FROM cells GROUP BY ALL ORDER BY n"
    said = run("query", tmp_path / "out", sql, "--classes-from", "clicks", "--format", "json")
    assert json.loads(said.stdout) == [
        {"class_name": None, "n": 15},
        {"class_name": "New", "n": 25},
    ]
    assert said.exit_code == 3
    assert "b.svs.wsiseg has no version 'clicks'" in said.stderr
    counted = run("stats", tmp_path / "out", "--classes-from", "clicks", "--format", "json")
    rows = [(row["slide"], row["class_name"], row["n"]) for row in json.loads(counted.stdout)]
    assert rows == [("a.svs", "New", 25), ("a.svs", "Rare", 0), ("a.svs", "(all)", 40)]
    found = run(
        "stats", tmp_path / "out", "--densest", 1, "--classes-from", "clicks", "--format", "json"
    )
    assert [row["class_name"] for row in json.loads(found.stdout)] == ["New", "Rare", "(all)"]
    none = run("query", tmp_path / "out", sql, "--classes-from", "other")
    assert none.exit_code == 2
    assert "there are clicks" in none.stderr
    assert len(wsiseg.query(tmp_path / "out", sql).to_pylist()) == 3


def test_an_odd_name_is_counted_as_any_other(out: Path) -> None:
    rows = json.loads(run("stats", out, "--model", "all", "--format", "json").stdout)
    assert {(row["slide"], row["n"]) for row in rows if row["class_name"] == "(all)"} == {
        ("a.svs", 300),
        (HOSTILE.replace("\n", "").replace("\x1b", "") + ".svs", 50),
    }
    shown = run("stats", out, "--model", "all")
    assert all(line.isprintable() for line in shown.stdout.splitlines())


def test_a_measurement_that_no_run_has_is_told_of(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a.svs.wsiseg", random_table(20))
    features = {"cell_id": np.arange(1, 21, dtype=np.uint32), "nearest_cell_um": np.arange(20.0)}
    pq.write_table(pa.table(features), folder / "features.parquet")
    said = run("query", tmp_path, "SELECT avg(texture_energy) FROM features")
    assert said.exit_code == 2
    assert "no run has features.texture_energy: they were made by an older" in said.stderr
    wrong = run("query", tmp_path, "SELECT avg(nearest_cel_um) FROM features")
    assert "older" not in wrong.stderr
    assert "nearest_cell_um" in wrong.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "m", "sha256": "0" * 64, "card": None}},
        {"model": {"name": "m", "sha256": "0" * 64, "card": {"about": None}}},
        {"tiles": None},
        {"tiles": {"unreadable": [{}]}},
        {"regions": None},
        {"regions": [{}]},
        {"regions": [{"name": "a", "class": "b", "kind": "c", "missing": 0, "analysed_mm2": 1}]},
        {"warnings": ["x"]},
        {"warnings": [{}]},
        {"options": []},
        {"result_version": "new"},
    ],
)
def test_a_damaged_record_is_told_and_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_run(tmp_path / "a.svs.wsiseg", random_table(20))
    write_run(tmp_path / "b.svs.wsiseg", random_table(20), **changes)
    for command in (["query", tmp_path, "SELECT sum(n_cells) FROM slides"], ["stats", tmp_path]):
        said = run(*command)
        assert said.exit_code == 3
        assert "b.svs.wsiseg/run.json is damaged: " in said.stderr
    with pytest.raises(ResultNotReadable, match="is damaged"):
        wsiseg.open_result(tmp_path / "b.svs.wsiseg")


def test_a_damaged_table_of_tiles_takes_its_run_with_it_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "a.svs.wsiseg", random_table(20))
    (write_run(tmp_path / "b.svs.wsiseg", random_table(9)) / "tiles.parquet").write_bytes(b"x")
    for command in (
        ["query", tmp_path, "SELECT sum(n_cells) AS n FROM slides"],
        ["stats", tmp_path],
    ):
        said = run(*command, "--format", "json")
        assert said.exit_code == 3
        assert json.loads(said.stdout)[-1]["n"] == 20
        assert "tiles.parquet is damaged" in said.stderr


def test_runs_of_several_folders_are_called_by_what_tells_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("one/a", "one/b", "two/in/a"):
        write_run(tmp_path / f"{place}.svs.wsiseg", random_table(20))
    sql = "SELECT slide FROM slides ORDER BY slide"

    def names(*given: Path | str) -> list[str]:
        return wsiseg.query([*given], sql)["slide"].to_pylist()

    both = (tmp_path / "one", tmp_path / "two/in")
    assert names(*both) == ["b.svs", "one/a.svs", "two/in/a.svs"]
    monkeypatch.chdir(tmp_path)
    assert names("one", "two/in") == names(*both)
    monkeypatch.chdir(tmp_path / "one/a.svs.wsiseg")
    assert names(".") == ["a.svs"]
    (tmp_path / "one/a.svs.wsiseg/crops").mkdir()
    monkeypatch.chdir(tmp_path / "one/a.svs.wsiseg/crops")
    assert names("..") == ["a.svs"]


def test_what_was_made_in_other_ways_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a.svs.wsiseg", random_table(20))
    write_run(tmp_path / "b.svs.wsiseg", random_table(20), result_version=3)
    for command in (["query", tmp_path, "SELECT 1"], ["stats", tmp_path]):
        assert "different result versions (1 of 1, 1 of 3)" in run(*command).stderr
    missing = run("query", tmp_path, "SELECT nearest_cell_um FROM features")
    assert missing.exit_code == 2
    assert "no run has features.parquet" in missing.stderr


def test_frozen_results_of_every_version_are_counted(tmp_path: Path) -> None:
    frozen = Path(__file__).parent / "data" / "results"
    for path in frozen.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / path.stem.rpartition("_")[2])
    expected = json.loads((frozen / "expected.json").read_text())
    rows = json.loads(run("stats", tmp_path, "--format", "json").stdout)
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = found.setdefault(row["slide"] + ".wsiseg", {})
        if row["n"] and row["class_name"] != "(all)":
            counts[row["class_name"]] = row["n"]
    assert found == {place: values["n"] for place, values in expected.items()}
    sql = "SELECT slide, sum(area_um2) AS um2, sum(x) AS x FROM cells GROUP BY slide"
    sums = json.loads(run("query", tmp_path, sql, "--format", "json").stdout)
    assert len(sums) > 3
    for row in sums:
        values = expected[row["slide"] + ".wsiseg"]
        assert (row["um2"], row["x"]) == pytest.approx((values["area_um2"], values["x"]), rel=1e-5)


def test_stains_that_were_not_measured_are_told(tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", None), ("c", None)):
        stain = pa.array([value] * 20, pa.float32())
        table = random_table(20).append_column("eosin_od_mean", stain)
        write_run(tmp_path / f"{name}.svs.wsiseg", table)
    said = run(
        "query", tmp_path, "SELECT avg(eosin_od_mean) AS mean FROM cells", "--format", "json"
    )
    assert json.loads(said.stdout) == [{"mean": 0.5}]
    assert "2 of 3 runs have no value in cells.eosin_od_mean" in said.stderr


@pytest.mark.parametrize(
    "names",
    [
        ("a[1].svs", "a1.svs"),
        ("q?.svs", "qq.svs", "q*.svs"),
        ("{a,b}.svs", "a.svs"),
        ("class_name=Spindle/a.svs", "slide=x/b.svs"),
        ("per%20cent.svs", "back\\slash.svs", "~.svs", "a b.svs"),
    ],
)
def test_a_name_stands_for_nothing_but_itself(tmp_path: Path, names: tuple[str, ...]) -> None:
    """DuckDB takes paths for globs, and folders called `name=value` for columns."""
    wanted = {}
    for k, name in enumerate(names):
        table = random_table(50 + k, k)
        write_run(tmp_path / f"{name}.wsiseg", table)
        for each in CLASSES:
            wanted[name, each] = table["class_name"].to_pylist().count(each)
        wanted[name, "(all)"] = 50 + k
    rows = json.loads(run("stats", tmp_path, "--format", "json").stdout)
    assert {(row["slide"], row["class_name"]): row["n"] for row in rows} == wanted
    sql = (
        "SELECT slide, class_name, count(*) AS n FROM cells WHERE class_name NOT NULL GROUP BY ALL"
    )
    asked = wsiseg.query(tmp_path, sql).to_pylist()
    assert {(row["slide"], row["class_name"]): row["n"] for row in asked} == {
        key: n for key, n in wanted.items() if n and key[1] != "(all)"
    }


def test_columns_of_one_name_are_all_there(out: Path, tmp_path: Path) -> None:
    sql = "SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a, 5 AS a"
    row = {"a": 1, "a_3": 2, "a_2": 3, "a_4": 4, "a_5": 5}
    assert wsiseg.query(out / "a.svs.wsiseg", sql).to_pylist() == [row]
    said = run("query", out / "a.svs.wsiseg", sql, "--format", "json")
    assert json.loads(said.stdout) == [row]
    table = pa.table([pa.array([k]) for k in range(4)], ["a", "a", "a_2", "a"])
    for end in ("csv", "json", "parquet"):
        write_table(table, tmp_path / f"a.{end}")
    found = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert found == [{"a": 0, "a_3": 1, "a_2": 2, "a_4": 3}]
    assert json.loads((tmp_path / "a.json").read_text()) == found
    lines = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [{name: int(value) for name, value in line.items()} for line in lines] == found


@pytest.mark.parametrize(
    ("sql", "end"),
    [("SELECT INTERVAL 1 DAY AS i", "parquet"), ("SELECT [DATE '20000-01-01'] AS i", "json")],
)
def test_what_a_format_cannot_hold_is_told_and_leaves_nothing(
    out: Path, tmp_path: Path, sql: str, end: str
) -> None:
    said = run("query", out / "a.svs.wsiseg", sql, "--to", tmp_path / f"z.{end}")
    assert said.exit_code == 2
    assert f"{end} cannot hold a column" in said.stderr
    assert "i (" in said.stderr
    assert not list(tmp_path.iterdir())


def test_dates_beyond_the_calendar_are_text(out: Path) -> None:
    for asked in (["--format", "csv"], ["--format", "json"], []):
        said = run("query", out / "a.svs.wsiseg", "SELECT DATE '20000-01-01' AS i", *asked)
        assert (said.exit_code, "20000-01-01" in said.stdout) == (0, True)


def test_an_answer_never_replaces_what_it_was_asked_with(out: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "cohort.csv"
    metadata.write_text("slide,group\na.svs,x\n")
    before = metadata.read_bytes()
    asked = ["stats", out / "a.svs.wsiseg", "--metadata", metadata, "--by", "group"]
    said = run(*asked, "--to", metadata)
    assert said.exit_code == 2
    assert metadata.read_bytes() == before
    assert run(*asked, "--to", tmp_path, "--format", "csv", "--overwrite").exit_code == 2
