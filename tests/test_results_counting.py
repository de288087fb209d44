"""Counts, densities and sizes of finished runs, against row-by-row twins."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image
from run_dirs import CLASSES, cell_table, random_table, write_run

from wsiseg.answers.stats import slide_stats
from wsiseg.cell_table import stream_batches
from wsiseg.errors import ResultNotReadable, UnknownName, UsageError
from wsiseg.results import Result, open_result

BLOB = shapely.Point(2000, 1500).buffer(700)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return open_result(
        write_run(tmp_path_factory.mktemp("out") / "a.svs.wsiseg", random_table(2000))
    )


@pytest.fixture
def empty(tmp_path: Path) -> Result:
    nothing = {"analysed_mm2": 0, "no_density_reason": "no tissue was found"}
    return open_result(write_run(tmp_path / "empty.wsiseg", cell_table([], [], []), **nothing))


def slow_summary(rows: list[dict[str, Any]], area_mm2: float) -> dict[str, Any]:
    def numbers(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        areas = [row["area_um2"] for row in chosen]
        return {
            "n": len(chosen),
            "per_mm2": len(chosen) / area_mm2 if area_mm2 else None,
            "median_area_um2": pytest.approx(statistics.median(areas)) if areas else None,
        }

    by_class = {name: [row for row in rows if row["class_name"] == name] for name in CLASSES}
    return {
        "classes": {name: numbers(chosen) for name, chosen in by_class.items()},
        "total": numbers(rows),
    }


def test_summary_is_that_of_the_slow_twin(result: Result) -> None:
    summary = result.summary()
    slow = slow_summary(pq.read_table(result.cells_path).to_pylist(), 2.5)
    assert {key: summary[key] for key in slow} == slow
    assert summary["classes"]["Spindle"] == {"n": 0, "per_mm2": 0, "median_area_um2": None}
    assert summary["total"]["n"] == 2000 > sum(c["n"] for c in summary["classes"].values())
    assert (summary["slide"], summary["model"]) == ("a.svs", "test-model")
    json.dumps(summary, allow_nan=False)


def test_a_run_without_nuclei_has_zeros_and_a_reason(empty: Result) -> None:
    assert empty.cells().num_rows == 0
    assert empty.cells(["Spindle"], BLOB).column_names == empty.cells().column_names
    assert sum(batch.num_rows for batch in empty.batches()) == 0
    assert empty.density().num_rows == 0
    summary = empty.summary()
    assert summary["total"] == {"n": 0, "per_mm2": None, "median_area_um2": None}
    assert list(summary["classes"]) == list(CLASSES)
    assert summary["no_density_reason"] == "no tissue was found"


def test_a_class_the_model_does_not_have_means_damage(tmp_path: Path) -> None:
    table = cell_table([1, 2], [1, 2], ["Spindle", "Mitosis"])
    result = open_result(write_run(tmp_path / "a.wsiseg", table))
    with pytest.raises(ResultNotReadable, match="the class 'Mitosis'"):
        result.summary()


def test_dictionary_columns_are_read_alike(tmp_path: Path, result: Result) -> None:
    table = pq.read_table(result.cells_path)
    packed = table.set_column(1, "class_name", table["class_name"].dictionary_encode())
    other = open_result(write_run(tmp_path / "a.wsiseg", packed))
    assert other.summary() == result.summary()
    region = BLOB
    ids = other.cells(["Inflammatory"], region)["cell_id"]
    assert ids.equals(result.cells(["Inflammatory"], region)["cell_id"])


@pytest.mark.parametrize("grid_um", [250, 33.3, 5000])
def test_density_is_that_of_the_slow_twin(result: Result, grid_um: float) -> None:
    slow: Counter[tuple[float, float, str]] = Counter()
    for row in pq.read_table(result.cells_path).to_pylist():
        corner = (row["x_um"] // grid_um, row["y_um"] // grid_um)
        for name in (*CLASSES, "(all)"):
            slow[*corner, name] += row["class_name"] == name or name == "(all)"
    rows = result.density(grid_um).to_pylist()
    found = {
        (round(row["x_um"] / grid_um), round(row["y_um"] / grid_um), row["class_name"]): row["n"]
        for row in rows
    }
    assert len(found) == len(rows)
    assert found == dict(slow)
    assert 0 in found.values()
    for row in rows:
        assert row["per_mm2"] == pytest.approx(row["n"] * 1e6 / grid_um**2)
    assert [(r["y_um"], r["x_um"]) for r in rows] == sorted((r["y_um"], r["x_um"]) for r in rows)


def test_a_square_owns_its_left_and_top_edge(tmp_path: Path) -> None:
    table = cell_table([499.9, 500, 500], [0, 500, 499.9], ["Spindle"] * 3)
    density = open_result(write_run(tmp_path / "a.wsiseg", table)).density(250)
    found = [
        (row["x_um"], row["y_um"], row["n"])
        for row in density.to_pylist()
        if row["class_name"] == "Spindle"
    ]
    assert found == [(0, 0, 1), (250, 0, 1), (250, 250, 1)]


@pytest.mark.parametrize("grid_um", [0, -5, 0.5, float("nan"), float("inf")])
def test_a_grid_needs_a_side(result: Result, grid_um: float) -> None:
    with pytest.raises(UsageError, match="at least 1 µm"):
        result.density(grid_um)


def test_a_model_without_classes_has_totals(tmp_path: Path) -> None:
    table = cell_table([1, 2, 900], [1, 2, 2], [None] * 3)
    result = open_result(write_run(tmp_path / "a.wsiseg", table, classes=[]))
    assert result.class_names == ()
    assert result.summary()["total"]["n"] == 3
    assert result.summary()["classes"] == {}
    assert result.density()["n"].to_pylist() == [2, 1]
    assert slide_stats([result])["class_name"].to_pylist() == ["(all)"]
    with pytest.raises(UnknownName, match="the model has no classes"):
        result.cells(["Spindle"])


def test_slide_stats_is_the_full_product_of_slide_and_class(result: Result, empty: Result) -> None:
    stats = slide_stats([result, empty])
    rows = stats.to_pylist()
    assert [row["class_name"] for row in rows] == [*CLASSES, "(all)"] * 2
    for each, part in ((result, rows[:4]), (empty, rows[4:])):
        summary = each.summary()
        for row, numbers in zip(
            part, [*summary["classes"].values(), summary["total"]], strict=True
        ):
            assert {key: row[key] for key in numbers} == numbers
            assert row["analysed_mm2"] == each.analysed_mm2
            assert row["no_density_reason"] == each.no_density_reason
    assert rows[4]["n"] == 0
    assert rows[4]["per_mm2"] is None
    assert slide_stats([]).schema.equals(stats.schema)


@pytest.mark.real
def test_real_nuclei_are_chosen_and_counted_as_by_hand(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "consep_train"
    path = sorted((folder / "inst").glob("*.png"))[0]
    inst = np.asarray(Image.open(path)).astype(np.int64)
    types = np.asarray(Image.open(folder / "types" / path.name))
    n = np.bincount(inst.ravel())
    ids = np.flatnonzero(n)[1:]
    row, col = np.indices(inst.shape) + 0.5
    y, x = (np.bincount(inst.ravel(), v.ravel())[ids] / n[ids] for v in (row, col))
    kinds = {2: "Inflammatory", 3: "Epithelial", 4: "Spindle"}
    _, first = np.unique(inst, return_index=True)
    names = [kinds.get(int(kind)) for kind in types.ravel()[first[1:]]]
    result = open_result(write_run(tmp_path / "real.wsiseg", cell_table(x, y, names)))
    assert {k: v["n"] for k, v in result.summary()["classes"].items()} == {
        name: names.count(name) for name in CLASSES
    }
    region = shapely.Point(400, 500).buffer(250)
    inside = np.hypot(x - 400, y - 500) < 249
    chosen = set(result.cells(within=region)["cell_id"].to_pylist())
    assert set(np.flatnonzero(inside) + 1) <= chosen
    assert chosen <= set(np.flatnonzero(np.hypot(x - 400, y - 500) < 250) + 1)
    assert chosen


def test_streaming_holds_one_row_group(tmp_path: Path) -> None:
    """Arrow reads ahead and keeps what it has read, unless row groups are read one by one."""
    path, n_groups, group_bytes = tmp_path / "cells.parquet", 40, 1_000_000
    values = np.random.default_rng(0).bytes(n_groups * group_bytes)
    rows = [values[a : a + 1000] for a in range(0, len(values), 1000)]
    pq.write_table(pa.table({"geometry": rows}), path, row_group_size=1000)
    del rows
    before, most, n = pa.total_allocated_bytes(), 0, 0
    for batch in stream_batches(path, None):
        most = max(most, pa.total_allocated_bytes() - before)
        n += batch.num_rows
    assert n == n_groups * group_bytes // 1000
    assert most < 8 * group_bytes
