"""One run or many, into a file or a folder, with choices that the format knows."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import shapely
import zarr
from export_runs import REGIONS, export_run
from typer.testing import CliRunner

import wsiseg
from wsiseg._disk_need import nuclei_bytes
from wsiseg.cli import app
from wsiseg.errors import (
    MissingDependency,
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.exporters import exporter_names
from wsiseg.exporters.formats import FORMATS
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[wsiseg.Result]:
    out = tmp_path_factory.mktemp("runs")
    slides = [
        ArraySlide(paint_tissue(300, 400, 1500, seed=k), name=f"{k}.svs", mpp=0.5) for k in (1, 2)
    ]
    return [wsiseg.segment(slide, out, model=MODEL, formats=()) for slide in slides]


def features(path: Path) -> list[Any]:
    with gzip.open(path) as file:
        return list(json.load(file)["features"])


def test_many_runs_go_into_a_folder_named_after_their_slides(
    results: list[wsiseg.Result], tmp_path: Path
) -> None:
    written = wsiseg.export_runs(results, "geojson", f"{tmp_path}/new/")
    assert [path.name for path in written] == ["1.svs.geojson.gz", "2.svs.geojson.gz"]
    for path, result in zip(written, results, strict=True):
        assert len(features(path)) == result.cells().num_rows
    with pytest.raises(OutputExists, match=r"1\.svs\.geojson\.gz"):
        wsiseg.export_runs(results, "geojson", tmp_path / "new")
    (masks,) = wsiseg.export_runs(results[:1], "ome-zarr", tmp_path / "new", {"version": "0.4"})
    assert masks.name == "1.svs.ome.zarr"
    assert zarr.open_group(masks, mode="r").metadata.zarr_format == 2


def test_choices_reach_the_format(results: list[wsiseg.Result], tmp_path: Path) -> None:
    choices = {"split": 20, "centroids": True, "classes": results[0].class_names[:1]}
    written = wsiseg.export_runs(results[:1], "geojson", tmp_path / "c.geojson.gz", choices)
    assert len(written) > 1
    cells = [cell for path in written for cell in features(path)]
    assert {cell["geometry"]["type"] for cell in cells} == {"Point"}
    assert len(cells) == results[0].cells(classes=results[0].class_names[:1]).num_rows


@pytest.mark.parametrize(
    ("format", "choices", "kind", "words"),
    [
        ("geojson", {"version": "0.4"}, UsageError, "geojson has no choice of version.*split"),
        ("ome-zarr", {"split": 3}, UsageError, "ome-zarr has no choice of split.*version"),
        ("ome-zarr", {"version": "0.3"}, UsageError, "0.3"),
        ("geojson", {"split": 0}, UsageError, "split is 0"),
        ("geojson", {"classes": ("Tumour",)}, UnknownName, "Tumour"),
        ("geojson", {"regions": ("A-1",)}, UnknownName, "A-1"),
        ("geojson", {"classes": ()}, UsageError, "classes names nothing"),
        ("xls", {}, UnknownName, "xls.*geojson"),
        ("csv", {"split": 3}, UsageError, "csv has no choice of split.*columns"),
        ("fhir", {"classes": ("A",)}, UsageError, "fhir has no choice of classes.*release"),
        ("coco", {"classes": ("Tumour",)}, UnknownName, "Tumour"),
        ("geoparquet", {"columns": ("colour",)}, UnknownName, "colour"),
        ("geoparquet", {"columns": ("x", "y", "x")}, UsageError, "columns names 'x' 2 times"),
        ("dicom-ann", {"bbox": (1, 1, 0, 0)}, UsageError, "bbox"),
        ("coco", {"bbox": ("a", 1, 2, 3)}, UsageError, "bbox is .'a', 1, 2, 3.; give xmin"),
        ("coco", {"bbox": 7}, UsageError, "bbox is 7; give xmin"),
    ],
)
def test_what_a_format_cannot_do_is_refused(
    format: str,  # noqa: A002
    choices: dict[str, Any],
    kind: type[Exception],
    words: str,
    results: list[wsiseg.Result],
    tmp_path: Path,
) -> None:
    for to in (tmp_path / "x", f"{tmp_path}/new/deep/"):
        with pytest.raises(kind, match=words):
            wsiseg.export_runs(results[:1], format, to, choices)
        assert list(tmp_path.iterdir()) == []


def test_one_file_for_many_runs_is_refused(results: list[wsiseg.Result], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 runs cannot go into one file"):
        wsiseg.export_runs(results, "geojson", tmp_path / "x.geojson")
    with pytest.raises(UsageError, match=r"run of 1\.svs was given twice"):
        wsiseg.export_runs([results[0]] * 2, "geojson", tmp_path)
    with pytest.raises(OutputNotWritable, match="make it first"):
        wsiseg.export_runs(results[:1], "geojson", tmp_path / "no" / "x.geojson")
    assert list(tmp_path.iterdir()) == []


def test_runs_of_slides_with_one_name_go_into_folders_like_their_own(
    results: list[wsiseg.Result], tmp_path: Path
) -> None:
    one, two = results
    places = {"1.svs": one, "sub/1.svs": one, "sub/2.svs": two}
    for place, result in places.items():
        shutil.copytree(result.path, tmp_path / "out" / f"{place}.wsiseg")
    runs = [wsiseg.open_result(run) for run in wsiseg.find_results(tmp_path / "out")]
    written = wsiseg.export_runs(runs, "geojson", f"{tmp_path}/to/")
    found = sorted(path.relative_to(tmp_path / "to").as_posix() for path in written)
    assert found == ["1.svs.geojson.gz", "2.svs.geojson.gz", "sub/1.svs.geojson.gz"]
    assert set(wsiseg.slide_stats(runs)["slide"].to_pylist()) == {"1.svs", "2.svs", "sub/1.svs"}


def test_the_command_says_what_it_wrote(results: list[wsiseg.Result], tmp_path: Path) -> None:
    runs = results[0].path.parent
    options = ["--format", "geojson", "--split", "1000", "--to", f"{tmp_path}/all/"]
    done = CliRunner().invoke(app, ["export", str(runs), *options])
    assert done.exit_code == 0
    assert [Path(line).name for line in done.stdout.split()] == [
        "1.svs-001.geojson.gz",
        "2.svs-001.geojson.gz",
    ]


def test_an_unreadable_run_does_not_stop_the_others(
    results: list[wsiseg.Result], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(results[0].path, runs / "1.svs.wsiseg")
    (runs / "2.svs.wsiseg").mkdir()
    (runs / "2.svs.wsiseg" / "run.json").write_text("{")
    options = ["--format", "geojson", "--to", f"{tmp_path}/all/"]
    done = CliRunner().invoke(app, ["export", str(runs), *options])
    assert done.exit_code == 3
    assert done.stderr.startswith("not exported: ")
    assert done.stdout.split() == [str(tmp_path / "all/1.svs.geojson.gz")]


def test_masks_with_a_file_that_lost_its_content_are_refused(
    results: list[wsiseg.Result], tmp_path: Path
) -> None:
    shutil.copytree(results[0].path, tmp_path / "1.svs.wsiseg")
    shards = (tmp_path / "1.svs.wsiseg/masks.zarr/labels/nuclei/0").rglob("c/*/*")
    next(path for path in shards if path.is_file()).write_bytes(b"")
    result = wsiseg.open_result(tmp_path / "1.svs.wsiseg")
    with pytest.raises(ResultNotReadable, match="empty"):
        wsiseg.export_runs([result], "ome-zarr", f"{tmp_path}/new/", {"version": "0.4"})
    assert not (tmp_path / "new").exists()


def test_a_name_with_a_comma_stands_in_quotes(results: list[wsiseg.Result], tmp_path: Path) -> None:
    options = ["--format", "geojson", "--to", f"{tmp_path}/x", "--regions", '"A, 1",B']
    done = CliRunner().invoke(app, ["export", str(results[0].path), *options])
    assert done.exit_code == 2
    assert "'A, 1'" in done.stderr


def test_names_are_read_as_csv(tmp_path: Path) -> None:
    run = export_run(tmp_path / "a.wsiseg")
    odd = REGIONS[1]
    assert {",", '"'} <= set(odd)
    quoted = '"' + odd.replace('"', '""') + '"'
    for number, (said, wanted) in enumerate(
        [(quoted, {1}), (f"Tumour, {quoted}", {0, 1}), (f'{quoted} ,"Stroma"', {1, 2})]
    ):
        to = tmp_path / f"{number}.csv"
        words = ["--format", "csv", "--to", str(to), "--regions", said, "--columns", "cell_id"]
        done = CliRunner().invoke(app, ["export", str(run.path), *words])
        assert done.exit_code == 0, done.output
        ids = [row["cell_id"] for row in run.cells().to_pylist() if wanted & {*row_ids(row)}]
        assert [int(line) for line in to.read_text().splitlines()[1:]] == ids != []
    words = ["--format", "csv", "--to", f"{tmp_path}/x", "--classes", "one\ntwo"]
    done = CliRunner().invoke(app, ["export", str(run.path), *words])
    assert done.exit_code == 2
    assert "no list of names" in done.stderr


def row_ids(row: dict[str, Any]) -> list[int]:
    return row["region_ids"] or []


def test_every_format_is_described_and_listed() -> None:
    assert set(FORMATS) == set(exporter_names())
    listed = {each["format"]: each for each in wsiseg.list_formats()}
    assert listed.keys() == FORMATS.keys()
    assert "classes, regions, bbox" in listed["geojson"]["choices"]
    assert listed["csv"]["needs"] == ""
    done = CliRunner().invoke(app, ["export", "--list"])
    assert done.exit_code == 0
    for name, each in FORMATS.items():
        assert re.search(rf"^{name} +{re.escape(each.suffix)} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.part"])
def test_a_package_that_is_missing_is_named_before_anything_is_done(
    results: list[wsiseg.Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    monkeypatch.setitem(FORMATS, "csv", FORMATS["csv"]._replace(package=package, extra="tables"))
    message = rf"format csv needs {package}: pip install 'wsiseg\[tables\]'"
    with pytest.raises(MissingDependency, match=message):
        wsiseg.export_runs(results, "csv", f"{tmp_path}/new/")
    with pytest.raises(MissingDependency, match=message):
        wsiseg.segment("nowhere.svs", tmp_path / "out", formats=["csv"])
    assert list(tmp_path.iterdir()) == []
    listed = {each["format"]: each["needs"] for each in wsiseg.list_formats()}
    assert listed["csv"] == "pip install 'wsiseg[tables]'"


def test_a_run_makes_the_formats_it_is_asked_for(
    results: list[wsiseg.Result], tmp_path: Path
) -> None:
    slide = ArraySlide(paint_tissue(300, 400, 1500, seed=1), name="1.svs", mpp=0.5)
    result = wsiseg.segment(slide, tmp_path, model=MODEL, formats=("csv", "geoparquet", "coco"))
    made = {path.name for path in result.path.iterdir() if path.name.startswith("cells.")}
    # The cell table is the GeoParquet.
    assert made == {"cells.parquet", "cells.csv.gz", "cells.coco.json"}
    rows = gzip.decompress((result.path / "cells.csv.gz").read_bytes()).decode().splitlines()
    assert len(rows) - 1 == result.cells().num_rows == results[0].cells().num_rows


# Coordinates of a small slide have fewer digits, which tells where they are not compressed.
@pytest.mark.parametrize(
    ("name", "rel"), [("csv", 0.3), ("coco", 0.6), ("dicom-ann", 0.1), ("geojson", 0.3)]
)
def test_files_are_about_as_large_as_estimated(
    results: list[wsiseg.Result], name: str, rel: float, tmp_path: Path
) -> None:
    result = results[0]
    shapes = shapely.from_wkb(result.cells()["geometry"].to_pylist())
    n, n_vertices = len(shapes), int(shapely.get_num_coordinates(shapes).sum())
    n_features = len(result.feature_names)
    without = nuclei_bytes(n, n_vertices, n_features, ())
    said = nuclei_bytes(n, n_vertices, n_features, (name,)) - without
    result.export(name, tmp_path / "a.gz" if name in ("csv", "geojson") else tmp_path / "a")
    (path,) = tmp_path.iterdir()
    # Beside the nuclei a file has some kilobytes of its own, and these are few nuclei.
    assert said == pytest.approx(path.stat().st_size, rel=rel, abs=6000)
    assert n > 100


def test_each_option_of_the_command_reaches_its_choice(
    results: list[wsiseg.Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[Any] = []

    def export_runs(*arguments: Any) -> list[Path]:
        said.extend(arguments)
        return []

    monkeypatch.setattr(wsiseg, "export_runs", export_runs)
    options = ["--classes", "A,B", "--regions", "C", "--bbox", "1,2,3.5,4", "--columns", "x,y"]
    more = ["--split", "7", "--centroids", "--ome-zarr", "0.4", "--unit", "px", "--labels"]
    last = ["--source", "slide.dcm", "--fhir", "R4B"]
    where = [str(results[0].path), "--format", "csv", "--to", f"{tmp_path}/x"]
    done = CliRunner().invoke(app, ["export", *where, *options, *more, *last])
    assert done.exit_code == 0, done.output
    assert said[1:] == [
        "csv",
        f"{tmp_path}/x",
        {
            "classes": ("A", "B"),
            "regions": ("C",),
            "bbox": (1.0, 2.0, 3.5, 4.0),
            "columns": ("x", "y"),
            "split": 7,
            "centroids": True,
            "version": "0.4",
            "unit": "px",
            "labels": True,
            "source": Path("slide.dcm"),
            "release": "R4B",
        },
    ]
    every = {name for each in wsiseg.list_formats() for name in each["choices"].split(", ")}
    assert every == said[3].keys()
    said.clear()
    CliRunner().invoke(app, ["export", *where])
    assert said[3] == {}
    done = CliRunner().invoke(app, ["export", *where, "--classes-from", "clicks"])
    assert done.exit_code == 2
    assert "clicks" in done.stderr
    done = CliRunner().invoke(app, ["export", *where, "--bbox", "1,2,three,4"])
    assert done.exit_code == 2
    assert "xmin,ymin,xmax,ymax" in done.stderr
