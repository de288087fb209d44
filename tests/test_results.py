"""Finished runs: opening, choosing cells, exporting; against row-by-row twins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from run_dirs import CLASSES, MPP, RUN, cell_table, random_table, write_run

from wsiseg.cell_table import _groups_near
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.geometry import Frame
from wsiseg.results import Result, find_results, open_result


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return open_result(
        write_run(tmp_path_factory.mktemp("out") / "a.svs.wsiseg", random_table(2000))
    )


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
    near = _groups_near(metadata, shapely.box(0, 1000, 4000, 1001))
    assert len(near) == 1
    assert _groups_near(metadata, None) == list(range(32))


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

    monkeypatch.setattr("wsiseg.exporters.load_plugin", load)
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
