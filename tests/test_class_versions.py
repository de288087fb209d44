"""Versions of a run's classes: every reader follows them, and the run's own files stay."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from run_dirs import CLASSES, cell_table, random_table, write_run
from test_results_counting import slow_summary

from wsiseg.answers.stats import slide_stats
from wsiseg.assemble import ONLY_CLASS
from wsiseg.cell_table import ALL_CLASSES
from wsiseg.classes.versions import CLASSES_SCHEMA, RESERVED_CLASS_NAMES, footer_sha256
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.exporters._plain_names import WITHOUT_CLASS
from wsiseg.exporters.class_table import (
    refuse_existing_version,
    refuse_unwritable_version,
    write_class_version,
)
from wsiseg.results import Result, open_result
from wsiseg.review._records import NO_CLASS, NO_NUCLEUS, NOT_FOUND

N = 1000
NEW = ("Tumour", "Other")


def version_of(names: list[str | None], batch_rows: int = 300) -> list[pa.RecordBatch]:
    table = pa.table(
        {
            "cell_id": np.arange(1, len(names) + 1),
            "class_name": names,
            "class_prob": pa.array([None if n is None else 0.75 for n in names], pa.float32()),
        },
        CLASSES_SCHEMA,
    )
    return table.to_batches(batch_rows)


def classes(names: tuple[str, ...] = NEW) -> list[dict[str, Any]]:
    return [{"name": n, "index": i, "rgb": [i, i, i]} for i, n in enumerate(names, start=1)]


def random_names(n: int = N) -> list[str | None]:
    return np.random.default_rng(5).choice([*NEW, None], n, p=[0.5, 0.4, 0.1]).tolist()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "a.wsiseg", random_table(N))


@pytest.fixture
def versioned(run: Path) -> Result:
    write_class_version(run, "clicks", version_of(random_names()), classes(), {"how": "a test"})
    return open_result(run, classes="clicks")


def test_a_version_is_written_beside_the_run(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert open_result(run).class_versions == ()
    write_class_version(run, "clicks", version_of(random_names()), classes(), {"how": "a test"})
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    assert sorted(p.name for p in (run / "classes").iterdir()) == ["clicks.json", "clicks.parquet"]
    table = pq.read_table(run / "classes" / "clicks.parquet")
    assert table.schema.equals(CLASSES_SCHEMA)
    assert table["class_name"].to_pylist() == random_names()
    record = json.loads((run / "classes" / "clicks.json").read_text())
    assert record["format"] == "wsiseg-classes"
    assert record["n_cells"] == N
    assert record["made_by"] == {"how": "a test"}
    assert open_result(run).class_versions == ("clicks",)


def test_every_reader_follows_a_version(versioned: Result, run: Path) -> None:
    names = random_names()
    own = open_result(run)
    assert (own.classes_version, versioned.classes_version) == (None, "clicks")
    assert own.class_names == CLASSES
    assert versioned.class_names == NEW
    assert versioned.class_colours == {"Tumour": (1, 1, 1), "Other": (2, 2, 2)}
    batches = pa.Table.from_batches(versioned.batches())
    assert batches["class_name"].to_pylist() == names
    assert batches.drop_columns("class_name").equals(own.cells().drop_columns("class_name"))
    assert versioned.cells(columns=["class_prob"])["class_prob"][1].as_py() in (0.75, None)

    region = shapely.Point(2000, 1500).buffer(700)
    chosen = set(versioned.cells(["Tumour"], region)["cell_id"].to_pylist())
    inside = set(own.cells(within=region)["cell_id"].to_pylist())
    assert chosen == {k for k in inside if names[k - 1] == "Tumour"}
    assert chosen
    with pytest.raises(UnknownName, match="no class 'Spindle'; known: Tumour, Other"):
        versioned.cells(["Spindle"])


def test_counts_follow_a_version(versioned: Result, run: Path) -> None:
    rows = pa.Table.from_batches(versioned.batches()).to_pylist()
    summary = versioned.summary()
    assert summary["classes_version"] == "clicks"
    assert open_result(run).summary()["classes_version"] is None
    for name in NEW:
        chosen = [row for row in rows if row["class_name"] == name]
        assert summary["classes"][name]["n"] == len(chosen) > 0
        median = float(np.median([row["area_um2"] for row in chosen]))
        assert summary["classes"][name]["median_area_um2"] == pytest.approx(median)
    total = slow_summary(rows, 2.5)["total"]
    assert summary["total"] == total
    assert {row["class_name"] for row in slide_stats([versioned]).to_pylist()} == {*NEW, "(all)"}
    assert set(versioned.density()["class_name"].to_pylist()) == {*NEW, "(all)"}


def test_versions_change_to_and_fro(versioned: Result) -> None:
    own = versioned.with_classes(None)
    assert own.class_names == CLASSES
    assert own.with_classes("clicks").class_names == NEW


def test_what_there_is_not(run: Path) -> None:
    with pytest.raises(UnknownName, match=r"no version 'x' of the classes; known: none; wsiseg cl"):
        open_result(run, classes="x")
    with pytest.raises(UsageError, match=r"'\.\./x' is no name for a version"):
        open_result(run, classes="../x")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "x"}, 'is of no classes: "format" is not "wsiseg-classes"'),
        ({"format_version": 2}, r"written by a newer wsiseg \(format 2\).*update wsiseg"),
        ({"format_version": None}, "damaged: format_version is None"),
        ({"classes": [{"name": "A", "rgb": [0, 0]}]}, "damaged: the colour of 'A'"),
        ({"classes": [{"name": "A", "rgb": [0, 0, 0]}] * 2}, "damaged: classes repeat: A, A"),
        ({"cells_footer_sha256": "0" * 64}, "made for another cells.parquet than the one"),
    ],
)
def test_records_that_are_refused(
    versioned: Result, run: Path, changes: dict[str, Any], said: str
) -> None:
    path = run / "classes" / "clicks.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ResultNotReadable, match=said):
        open_result(run, classes="clicks")


def test_tables_that_are_refused(versioned: Result, run: Path) -> None:
    path = run / "classes" / "clicks.parquet"
    pq.write_table(pa.Table.from_batches(version_of(random_names(N - 1))), path)
    with pytest.raises(ResultNotReadable, match=r"has 999 rows, .* 1000; make that version again"):
        versioned.cells()
    path.unlink()
    with pytest.raises(ResultNotReadable, match=r"no clicks\.parquet; make that version again"):
        versioned.cells()
    # The run itself needs none of it.
    assert open_result(run).cells().num_rows == N


def test_classes_of_other_nuclei_are_refused(versioned: Result, run: Path) -> None:
    path = run / "classes" / "clicks.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([*range(1, N), 0]), path)
    with pytest.raises(ResultNotReadable, match=r"has the cell 1, it has the cell 2; make that"):
        versioned.summary()
    with pytest.raises(ResultNotReadable, match=r"has the cell 1, it has the cell 2; make that"):
        versioned.cells(["Tumour"])


@pytest.mark.parametrize("name", [*RESERVED_CLASS_NAMES, "nucleus", "", " ", "A ", "A\n"])
def test_names_that_no_class_can_have(run: Path, versioned: Result, name: str) -> None:
    with pytest.raises(UsageError, match="give it another name"):
        write_class_version(run, "v", version_of(random_names()), classes(("A", name)), {})
    path = run / "classes" / "clicks.json"
    record = json.loads(path.read_text())
    record["classes"][0]["name"] = name
    path.write_text(json.dumps(record))
    with pytest.raises(ResultNotReadable, match="is damaged: the class"):
        open_result(run, classes="clicks")


def test_every_name_with_another_meaning_is_reserved() -> None:
    meant = {ALL_CLASSES, NO_CLASS, NOT_FOUND, NO_NUCLEUS, WITHOUT_CLASS, ONLY_CLASS}
    assert meant == set(RESERVED_CLASS_NAMES)


def test_a_class_that_is_not_of_the_version(run: Path) -> None:
    write_class_version(run, "v", version_of(["Strange"] * N), classes(), {})
    with pytest.raises(ResultNotReadable, match="has the class 'Strange', which is not one of its"):
        open_result(run, classes="v").summary()


def test_other_cells_have_another_footer(tmp_path: Path) -> None:
    one, same, other = (
        write_run(tmp_path / f"{k}.wsiseg", random_table(N, seed)) / "cells.parquet"
        for k, seed in enumerate((1, 1, 2))
    )
    assert footer_sha256(one) == footer_sha256(same) != footer_sha256(other)
    one.write_bytes(one.read_bytes()[:-1])
    with pytest.raises(ResultNotReadable, match="its end is missing"):
        footer_sha256(one)


def test_a_version_is_replaced_whole_or_not(versioned: Result, run: Path) -> None:
    with pytest.raises(OutputExists, match=r"has a version 'clicks'.*--name.*--overwrite"):
        refuse_existing_version(run, "clicks")
    with pytest.raises(ResultNotReadable, match=r"999 classes came for the 1000 rows"):
        write_class_version(run, "clicks", version_of(random_names(N - 1)), classes(), {})
    # What fails leaves the older one as it was.
    assert open_result(run, "clicks").cells()["class_name"].to_pylist() == random_names()
    assert sorted(p.name for p in (run / "classes").iterdir()) == ["clicks.json", "clicks.parquet"]
    write_class_version(run, "clicks", version_of(["Other"] * N), classes(), {})
    assert open_result(run, "clicks").summary()["classes"]["Other"]["n"] == N


def test_a_folder_that_cannot_be_written(run: Path) -> None:
    (run / "classes").touch()
    with pytest.raises(OutputNotWritable, match=r"copy the run .* to a folder you may write"):
        write_class_version(run, "v", version_of(random_names()), classes(), {})
    with pytest.raises(OutputNotWritable, match=r"copy the run .* to a folder you may write"):
        refuse_unwritable_version(run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("inner", ["classes", "."])
def test_a_run_that_may_only_be_read(run: Path, inner: str) -> None:
    (run / inner).mkdir(exist_ok=True)
    (run / inner).chmod(0o555)
    said = r"\(Permission denied\); classes are kept"
    try:
        with pytest.raises(OutputNotWritable, match=said):
            refuse_unwritable_version(run)
        with pytest.raises(OutputNotWritable, match=said):
            write_class_version(run, "v", version_of(random_names()), classes(), {})
    finally:
        (run / inner).chmod(0o755)


def test_a_full_or_forbidden_folder_is_told_in_a_sentence(
    versioned: Result, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("wsiseg.exporters.class_table.tempfile.TemporaryFile", refuse)
    with pytest.raises(
        OutputNotWritable, match=r"a\.wsiseg \(Permission denied\); classes are kept"
    ):
        write_class_version(run, "v", version_of(random_names()), classes(), {})
    monkeypatch.setattr("wsiseg.exporters.class_table.os.access", lambda *_: False)
    with pytest.raises(OutputNotWritable, match="copy the run"):
        refuse_unwritable_version(run)


def test_a_run_without_nuclei(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a.wsiseg", cell_table([], [], []))
    write_class_version(run, "v", [], classes(), {})
    summary = open_result(run, "v").summary()
    assert {name: each["n"] for name, each in summary["classes"].items()} == dict.fromkeys(NEW, 0)
