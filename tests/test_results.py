"""Finished runs: opening, choosing cells, counting, exporting; against row-by-row twins."""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from wsiseg import _cell_table
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.geometry import Frame
from wsiseg.results import Result, find_results, open_result, slide_stats

CLASSES = ("Epithelial", "Inflammatory", "Spindle")
MPP = 0.5
RUN: dict[str, Any] = {
    "format": "wsiseg-run",
    "format_version": 1,
    "result_version": 1,
    "wsiseg_version": "0.1.0",
    "status": "done",
    "error": None,
    "slide": {
        "name": "a.svs",
        "width_px": 4000,
        "height_px": 3000,
        "mpp": MPP,
        "bounds": [100, 50, 3000, 2000],
    },
    "frame": {"scale": 0.5, "width_px": 8000, "height_px": 6000, "mpp": 0.25},
    "model": {"name": "test-model", "sha256": "0" * 64, "card": {}},
    "classes": [
        {"name": name, "index": i + 1, "rgb": [10 * i, 20, 30]} for i, name in enumerate(CLASSES)
    ],
    "n_cells": 0,
    "analysed_mm2": 2.5,
    "no_density_reason": None,
    "warnings": [{"code": "blur", "message": "some tiles are out of focus"}],
}


def cell_table(x: Any, y: Any, class_names: list[str | None], seed: int = 0) -> pa.Table:
    """Make a table with the columns that matter here, as exporters write it."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    rng = np.random.default_rng(seed)
    diamonds = shapely.to_wkb([shapely.Point(p).buffer(5, 1) for p in zip(x, y, strict=True)])
    boxes = {"xmin": x - 5, "ymin": y - 5, "xmax": x + 5, "ymax": y + 5}
    geo = {"primary_column": "geometry", "columns": {"geometry": {"crs": None}}}
    return pa.table(
        {
            "cell_id": pa.array(np.arange(1, len(x) + 1), pa.uint32()),
            "class_name": pa.array(class_names, pa.string()),
            "x": x,
            "y": y,
            "x_um": x * MPP,
            "y_um": y * MPP,
            "area_um2": rng.gamma(9, 4, len(x)).astype(np.float32),
            "geometry": pa.array(list(diamonds), pa.binary()),
            "bbox": pa.StructArray.from_arrays([pa.array(v) for v in boxes.values()], list(boxes)),
        }
    ).replace_schema_metadata({"geo": json.dumps(geo)})


def write_run(folder: Path, table: pa.Table, row_group_rows: int = 64, **changes: Any) -> Path:
    run = copy.deepcopy(RUN) | {"n_cells": table.num_rows} | changes
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    pq.write_table(table, folder / "cells.parquet", row_group_rows, compression="zstd")
    return folder


def random_table(n: int, seed: int = 1) -> pa.Table:
    """Random cells, sorted by y in rows of tiles as runs have them, some without a class."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 4000, n), np.sort(rng.uniform(0, 3000, n))
    names = rng.choice([*CLASSES[:2], None], n, p=[0.6, 0.3, 0.1]).tolist()
    return cell_table(x, y, names, seed)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return open_result(
        write_run(tmp_path_factory.mktemp("out") / "a.svs.wsiseg", random_table(2000))
    )


@pytest.fixture
def empty(tmp_path: Path) -> Result:
    nothing = {"analysed_mm2": 0, "no_density_reason": "no tissue was found"}
    return open_result(write_run(tmp_path / "empty.wsiseg", cell_table([], [], []), **nothing))


def test_a_result_knows_its_run(result: Result) -> None:
    assert result.name == "a.svs"
    assert result.model_name == "test-model"
    assert result.class_names == CLASSES
    assert result.class_colours == {
        "Epithelial": (0, 20, 30),
        "Inflammatory": (10, 20, 30),
        "Spindle": (20, 20, 30),
    }
    assert result.mpp == MPP
    assert result.frame == Frame(0.5, 8000, 6000)
    assert result.bounds_origin_px == (100, 50)
    assert result.analysed_mm2 == 2.5
    assert result.no_density_reason is None
    assert result.warnings[0]["code"] == "blur"


# --- opening


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResultNotReadable, match="does not exist"):
        open_result(tmp_path / "no.wsiseg")
    (tmp_path / "file.wsiseg").touch()
    with pytest.raises(ResultNotReadable, match="is not a folder"):
        open_result(tmp_path / "file.wsiseg")
    with pytest.raises(ResultNotReadable, match=r"has no run\.json"):
        open_result(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"format": "wsiseg-run"', b"\xff\xfe", b"[]", b"{}", b"[" * 100_000],
)
def test_a_run_json_that_is_damaged(tmp_path: Path, content: bytes) -> None:
    folder = write_run(tmp_path / "a.wsiseg", random_table(3))
    (folder / "run.json").write_bytes(content)
    with pytest.raises(ResultNotReadable, match=r"run\.json is (damaged|not of a wsiseg run)"):
        open_result(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"format_version": 2, "status": "unheard of", "slide": None},
            r"was written by a newer wsiseg \(format 2\); this one reads up to 1; update wsiseg",
        ),
        ({"format_version": "1"}, "damaged: format_version is '1'"),
        ({"status": "running"}, "is not finished .*call the same command again"),
        ({"status": "failed", "error": {"type": "X", "message": "disk full"}}, "failed: disk full"),
        ({"status": "failed"}, "failed: no reason is recorded"),
        ({"slide": RUN["slide"] | {"mpp": None}}, r"damaged: slide\.mpp is None"),
        ({"slide": RUN["slide"] | {"mpp": 0}}, r"damaged: slide\.mpp is 0"),
        ({"slide": RUN["slide"] | {"bounds": [0, 0]}}, r"damaged: slide\.bounds"),
        ({"slide": RUN["slide"] | {"bounds": [0, None, 1, 1]}}, r"damaged: slide\.bounds"),
        ({"frame": []}, r"damaged: frame\.scale is None"),
        ({"analysed_mm2": -1}, "damaged: analysed_mm2 is -1"),
        ({"analysed_mm2": True}, "damaged: analysed_mm2 is True"),
        ({"analysed_mm2": float("nan")}, "damaged: analysed_mm2 is nan"),
        ({"classes": ["Epithelial"]}, "damaged: a class is 'Epithelial'"),
        ({"classes": [{"name": "E", "rgb": [0, 0, 256]}]}, "damaged: the colour of 'E'"),
        ({"classes": [{"name": "E", "rgb": [0, 0, 0]}] * 2}, "damaged: classes repeat: E, E"),
        ({"n_cells": 4}, "has 3 rows, run.json says 4"),
    ],
)
def test_runs_that_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    folder = write_run(tmp_path / "a.wsiseg", random_table(3), **changes)
    with pytest.raises(ResultNotReadable, match=sentence):
        open_result(folder)


def test_a_cell_table_that_is_damaged(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a.wsiseg", random_table(500))
    cells = folder / "cells.parquet"
    whole = cells.read_bytes()
    opened = open_result(folder)

    cells.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultNotReadable, match=r"cells\.parquet is damaged"):
        open_result(folder)

    cells.write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    with pytest.raises(ResultNotReadable, match=r"cells\.parquet is damaged"):
        opened.cells()
    with pytest.raises(ResultNotReadable, match=r"cells\.parquet is damaged"):
        list(opened.batches())

    cells.unlink()
    with pytest.raises(ResultNotReadable, match=r"has no cells\.parquet"):
        open_result(folder)


# --- finding


def test_runs_are_found_by_path_folder_and_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        write_run(tmp_path / "out" / place, random_table(1))
        for place in ("b.wsiseg", "a [1].wsiseg", "deep/er/c.wsiseg", "renamed")
    ]
    # What lies inside a run is never a run.
    (made[0] / "masks.zarr" / "x.wsiseg").mkdir(parents=True)
    (tmp_path / "out" / "notes.txt").touch()
    out = tmp_path / "out"
    assert find_results(out) == sorted(made)
    assert find_results(str(made[1])) == [made[1]]
    assert find_results(str(out / "*.wsiseg")) == sorted(made[:2])
    assert find_results(str(out / "**" / "c.wsiseg")) == [made[2]]
    assert find_results(str(out / "*")) == sorted(made)
    monkeypatch.chdir(tmp_path)
    assert find_results([out, made[0], Path("out") / "b.wsiseg"]) == sorted(made)
    for nothing in (tmp_path / "no", out / "*.nothing", out / "notes.txt", []):
        with pytest.raises(ResultNotReadable, match=r"give a run, a folder of runs, or a glob"):
            find_results(nothing)


# --- cells


def slow_cells(result: Result, classes: list[str] | None, within: Any) -> list[int]:
    return [
        row["cell_id"]
        for row in pq.read_table(result.cells_path).to_pylist()
        if (classes is None or row["class_name"] in classes)
        and (within is None or shapely.Point(row["x"], row["y"]).within(within))
    ]


REGIONS = {
    "everywhere": None,
    "blob": shapely.Point(2000, 1500).buffer(700),
    "ring": shapely.Point(2000, 1500).buffer(900).difference(shapely.Point(2000, 1500).buffer(500)),
    "two": shapely.union_all([shapely.box(0, 0, 300, 300), shapely.box(3000, 2500, 4000, 3000)]),
    "far": shapely.box(1e6, 1e6, 2e6, 2e6),
    "nothing": shapely.Polygon(),
}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("classes", [None, ["Inflammatory"], ["Epithelial", "Spindle"], []])
def test_cells_are_those_of_the_slow_twin(
    result: Result, region: str, classes: list[str] | None
) -> None:
    chosen = result.cells(classes, REGIONS[region])
    assert chosen["cell_id"].to_pylist() == slow_cells(result, classes, REGIONS[region])
    assert chosen.schema.equals(pq.read_schema(result.cells_path), check_metadata=True)


def test_regions_find_something_and_not_everything(result: Result) -> None:
    for name in ("blob", "ring", "two"):
        assert 0 < len(slow_cells(result, None, REGIONS[name])) < 2000


def test_one_class_may_be_given_by_its_name(result: Result) -> None:
    assert result.cells("Epithelial").equals(result.cells(["Epithelial"]))


def test_a_centroid_on_the_boundary_is_outside(tmp_path: Path) -> None:
    table = cell_table([10, 10, 15, 20.001], [10, 15, 15, 15], ["Spindle"] * 4)
    result = open_result(write_run(tmp_path / "a.wsiseg", table))
    square = shapely.box(10, 10, 20, 20)
    assert result.cells(within=square)["cell_id"].to_pylist() == [3]


def test_row_groups_far_from_the_region_are_not_read(result: Result) -> None:
    metadata = pq.read_metadata(result.cells_path)
    assert metadata.num_row_groups == 32
    near = _cell_table._groups_near(metadata, shapely.box(0, 1000, 4000, 1001))
    assert len(near) == 1
    assert _cell_table._groups_near(metadata, None) == list(range(32))


def test_columns_come_as_asked(result: Result) -> None:
    whole = result.cells(["Inflammatory"])
    some = result.cells(["Inflammatory"], columns=["area_um2", "cell_id"])
    assert some.column_names == ["area_um2", "cell_id"]
    assert some.equals(whole.select(["area_um2", "cell_id"]))
    assert result.cells([], columns=["y"]).column_names == ["y"]


def test_geoparquet_metadata_goes_only_with_its_columns(result: Result) -> None:
    assert b"geo" in result.cells(columns=["bbox", "geometry"]).schema.metadata
    assert result.cells(columns=["geometry"]).schema.metadata is None


def test_what_cells_refuses(result: Result) -> None:
    with pytest.raises(UnknownName, match="'Tumour'; known: Epithelial, Inflammatory, Spindle"):
        result.cells(["Epithelial", "Tumour"])
    with pytest.raises(UnknownName, match="no column 'size'; known: cell_id, class_name"):
        result.cells(columns=["size"])
    with pytest.raises(UsageError, match="within is a LineString"):
        result.cells(within=shapely.LineString([(0, 0), (1, 1)]))
    with pytest.raises(UsageError, match="within is a str"):
        result.cells(within="POLYGON EMPTY")
    bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    with pytest.raises(UsageError, match=r"Self-intersection.*make_valid"):
        result.cells(within=bow_tie)


def test_batches_are_the_table_in_order(result: Result) -> None:
    whole = pq.read_table(result.cells_path)
    assert pa.Table.from_batches(result.batches()).equals(whole)
    some = pa.Table.from_batches(result.batches(["y", "x"]))
    assert some.equals(whole.select(["y", "x"]))
    with pytest.raises(UnknownName, match="no column 'z'"):
        next(result.batches(["z"]))


# --- counting


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
    assert empty.cells(["Spindle"], REGIONS["blob"]).column_names == empty.cells().column_names
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
    region = REGIONS["blob"]
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


# --- exporting


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the registry by one exporter that notes its calls."""
    calls: list[Any] = []

    def exporter(result: Result, destination: Path, **options: Any) -> None:
        calls.append((result, destination, options))
        destination.touch()

    def load(group: str, name: str) -> Callable[..., None]:
        assert (group, name) == ("wsiseg.exporters", "note")
        return exporter

    monkeypatch.setattr("wsiseg.results.load_plugin", load)
    return calls


def test_export_calls_the_plugin(result: Result, exported: list[Any], tmp_path: Path) -> None:
    target = tmp_path / "a.note"
    assert result.export("note", str(target), level=3) == target
    assert exported == [(result, target, {"level": 3})]
    with pytest.raises(OutputExists, match="exists"):
        result.export("note", target)
    with pytest.raises(OutputNotWritable, match="is not a folder"):
        result.export("note", tmp_path / "no" / "a.note")
    (tmp_path / "broken link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExists, match="exists"):
        result.export("note", tmp_path / "broken link")
    assert len(exported) == 1


def test_an_unknown_format_is_named_with_the_known_ones(result: Result, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"'pdf'.*known: .*geojson"):
        result.export("pdf", tmp_path / "a.pdf")


# --- cost


def test_reading_results_imports_nothing_heavy() -> None:
    code = (
        "import sys, wsiseg.results\n"
        "print(*{'torch', 'numba', 'shapely', 'cv2', 'pyarrow.dataset', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


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
