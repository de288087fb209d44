"""Several files of equal rows are read as one table; against whole tables put side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from run_dirs import cell_table, random_table, write_features, write_run

from wsiseg.cell_table import CellFiles, stream_batches
from wsiseg.errors import ResultNotReadable, UnknownName
from wsiseg.results import Result, open_result

N = 1000
BLOB = shapely.Point(2000, 1500).buffer(700)


def noise(seed: int) -> Any:
    values = np.random.default_rng(seed).normal(size=N).astype(np.float32).tolist()
    return [None if k % 7 == 0 else value for k, value in enumerate(values)]


@pytest.fixture(scope="module", params=[64, 50, 1000, 7])
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run whose further measurements have row groups of another size, or the same."""
    folder = write_run(tmp_path_factory.mktemp("out") / "a.wsiseg", random_table(N))
    write_features(folder, request.param, prob_A=noise(1), ring_od=noise(2))
    return open_result(folder)


def side_by_side(result: Result, columns: list[str]) -> pa.Table:
    """The slow twin: all of every file, in memory."""
    cells = pq.read_table(result.cells_path)
    features = pq.read_table(result.path / "features.parquet")
    found = {
        name: (cells if name in cells.column_names else features)[name].combine_chunks()
        for name in columns
    }
    return pa.table(found)


def test_rows_of_other_nuclei_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a.wsiseg", random_table(N))
    write_features(folder, 64, prob_A=noise(1))
    path = folder / "features.parquet"
    table = pq.read_table(path)
    order = np.arange(N)
    order[[700, 701]] = [701, 700]
    pq.write_table(table.take(order), path, 64)
    shuffled = open_result(folder)
    said = r"features\.parquet is damaged: where the cell table has the cell 701, it has .* 702;"
    for columns in (["prob_A"], ["x", "prob_A"], ["prob_A", "cell_id"]):
        with pytest.raises(ResultNotReadable, match=said):
            list(shuffled.batches(columns))
        with pytest.raises(ResultNotReadable, match=said):
            shuffled.cells(columns=columns)
    assert sum(batch.num_rows for batch in shuffled.batches(["x"])) == N
    pq.write_table(table.drop_columns("cell_id"), path)
    with pytest.raises(ResultNotReadable, match="damaged: it has no column cell_id; segment"):
        shuffled.cells(columns=["prob_A"])


COLUMNS = (
    ["ring_od"],
    ["prob_A", "area_um2", "ring_od", "cell_id"],
    ["x", "prob_A", "class_name"],
)


@pytest.mark.parametrize("columns", COLUMNS)
def test_batches_take_further_measurements_by_name(result: Result, columns: list[str]) -> None:
    table = pa.Table.from_batches(result.batches(columns))
    assert table.column_names == columns
    assert table.combine_chunks().equals(side_by_side(result, columns).combine_chunks())


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("classes", [None, ["Inflammatory"], []])
@pytest.mark.parametrize("within", [None, BLOB, shapely.box(1e6, 1e6, 2e6, 2e6)])
def test_cells_take_further_measurements_by_name(
    result: Result, columns: list[str], classes: list[str] | None, within: Any
) -> None:
    chosen = result.cells(classes, within, columns)
    ids = result.cells(classes, within, ["cell_id"])["cell_id"].to_numpy() - 1
    slow = side_by_side(result, columns).take(pa.array(ids))
    assert chosen.combine_chunks().equals(slow.combine_chunks())


def test_without_names_the_cell_table_alone_is_read(result: Result) -> None:
    assert "prob_A" not in result.cells().column_names
    assert result.feature_names == ("prob_A", "ring_od")


def test_a_run_without_further_measurements(tmp_path: Path) -> None:
    result = open_result(write_run(tmp_path / "old.wsiseg", random_table(10)))
    assert result.feature_names == ()
    with pytest.raises(
        UnknownName,
        match=r"no column 'ring_od'; known: cell_id, .*old\.wsiseg has no features\.parquet.*"
        "segment the slide again with --overwrite",
    ):
        result.cells(columns=["ring_od"])


def test_a_measurement_that_was_not_made(result: Result) -> None:
    said = (
        r"no column 'texture_energy'; known: .*prob_A.*a\.wsiseg; if it .*segment the slide again"
    )
    with pytest.raises(UnknownName, match=said):
        result.cells(columns=["cell_id", "texture_energy"])


@pytest.mark.parametrize("n", [N - 1, N + 1])
def test_other_rows_mean_damage(tmp_path: Path, n: int) -> None:
    folder = write_run(tmp_path / "a.wsiseg", random_table(N))
    write_features(folder, ring_od=[0.0] * n)
    result = open_result(folder)
    said = rf"features\.parquet is damaged: it has {n} rows, the cell table {N}; segment the slide"
    with pytest.raises(ResultNotReadable, match=said):
        result.cells(columns=["ring_od"])
    with pytest.raises(ResultNotReadable, match=said):
        list(result.batches(["cell_id", "ring_od"]))
    assert result.cells().num_rows == N


def test_damaged_measurements_are_said_to_be(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a.wsiseg", random_table(10))
    (folder / "features.parquet").write_bytes(b"PAR1 nothing")
    result = open_result(folder)
    with pytest.raises(ResultNotReadable, match=r"features\.parquet is damaged"):
        _ = result.feature_names
    with pytest.raises(ResultNotReadable, match=r"features\.parquet is damaged"):
        list(result.batches(["ring_od"]))


def test_a_run_without_nuclei(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a.wsiseg", cell_table([], [], []))
    pq.write_table(
        pa.table({"cell_id": pa.array([], pa.uint32()), "ring_od": pa.array([], pa.float32())}),
        folder / "features.parquet",
    )
    result = open_result(folder)
    assert result.cells(columns=["ring_od", "x"]).column_names == ["ring_od", "x"]
    assert list(result.batches(["ring_od", "x"])) == []


def test_streaming_two_files_holds_one_row_group_of_each(tmp_path: Path) -> None:
    n_groups, group_bytes = 40, 1_000_000
    values = np.random.default_rng(0).bytes(n_groups * group_bytes)
    rows = [values[a : a + 1000] for a in range(0, len(values), 1000)]
    for name, column in (("cells", "geometry"), ("features", "wide")):
        table = pa.table({"cell_id": np.arange(len(rows), dtype=np.uint32), column: rows})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=1000)
    del table
    del rows
    before, most, n = pa.total_allocated_bytes(), 0, 0
    for batch in stream_batches(CellFiles(tmp_path / "cells.parquet"), ["wide", "geometry"]):
        most = max(most, pa.total_allocated_bytes() - before)
        n += batch.num_rows
    assert n == n_groups * group_bytes // 1000
    assert most < 16 * group_bytes
