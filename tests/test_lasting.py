"""Results that last: of former versions, moved, renamed, without slide and model, untouched."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import highdicom
import pyarrow.parquet as pq
import pytest
import shapely
import zarr
from fhir.resources.bundle import Bundle
from typer.testing import CliRunner

import wsiseg
from wsiseg.cli import app
from wsiseg.rundir import RESULT_VERSION

FROZEN = Path(__file__).parent / "data" / "results"
EXPECTED: dict[str, Any] = json.loads((FROZEN / "expected.json").read_text())
WITH_CELLS = [name for name, expected in EXPECTED.items() if expected["n"]]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All frozen results, in folders named after their result version."""
    folder = tmp_path_factory.mktemp("frozen")
    for archive in FROZEN.glob("result_version_*.zip"):
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder / archive.stem.removeprefix("result_version_"))
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_version_that_ended_is_frozen() -> None:
    kept = {int(name.split("/")[0]) for name in EXPECTED}
    assert kept >= set(range(1, RESULT_VERSION))


def test_nothing_frozen_is_left_out(frozen: Path) -> None:
    assert {str(run.relative_to(frozen)) for run in frozen.rglob("*.wsiseg")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_former_version_says_the_same_numbers(frozen: Path, name: str) -> None:
    expected = EXPECTED[name]
    result = wsiseg.open_result(frozen / name)
    assert result.run["result_version"] == int(name.split("/")[0])
    summary = result.summary()
    assert summary["analysed_mm2"] == expected["analysed_mm2"]
    n = {key: found["n"] for key, found in summary["classes"].items()}
    assert n == dict.fromkeys(result.class_names, 0) | expected["n"]
    cells = result.cells(columns=["x", "y", "area_um2", "uuid"])
    for column in ("x", "y", "area_um2"):
        assert sum(cells[column].to_pylist()) == pytest.approx(expected[column], abs=0.01)
    assert (cells["uuid"].to_pylist() or [None])[0] == expected["first_uuid"]
    assert sorted({row["name"] for row in result.regions}) == expected["regions"]


@pytest.mark.parametrize("name", WITH_CELLS)
def test_a_former_version_is_exported(frozen: Path, name: str, tmp_path: Path) -> None:
    result = wsiseg.open_result(frozen / name)
    n = sum(EXPECTED[name]["n"].values())
    result.export("geojson", tmp_path / "a.geojson")
    assert len(json.loads((tmp_path / "a.geojson").read_text())["features"]) == n
    for version in ("0.5", "0.4"):
        (path,) = wsiseg.export_runs(
            [result], "ome-zarr", tmp_path / f"{version}.ome.zarr", {"version": version}
        )
        labels = zarr.open_array(path / "labels" / "nuclei" / "0", mode="r")
        assert int(labels[...].max()) == n
        assert zarr.open_group(path, mode="r")["0"].shape[0] == 3


def _rows_of_csv(path: Path) -> int:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return len(list(csv.DictReader(file)))


def _nuclei_of_dicom(path: Path) -> int:
    found = highdicom.ann.annread(path)
    # The library reads no groups where there are none.
    groups = found.get_annotation_groups() if "AnnotationGroupSequence" in found else []
    return sum(group.number_of_annotations for group in groups)


def _nuclei_of_fhir(path: Path) -> int:
    bundle = Bundle.model_validate_json(path.read_text(encoding="utf-8"))
    return int(bundle.entry[-1].resource.component[0].valueQuantity.value)


READ: dict[str, Callable[[Path], int]] = {
    "csv": _rows_of_csv,
    "geoparquet": lambda path: len(geopandas.read_parquet(path)),
    "coco": lambda path: len(json.loads(path.read_bytes())["annotations"]),
    "dicom-ann": _nuclei_of_dicom,
    "fhir": _nuclei_of_fhir,
}
"""How many nuclei a file of a format has, by its own library."""


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("form", READ)
def test_a_former_version_is_exported_for_others(
    frozen: Path, name: str, form: str, tmp_path: Path
) -> None:
    (path,) = wsiseg.export_runs([wsiseg.open_result(frozen / name)], form, f"{tmp_path}/")
    assert READ[form](path) == sum(EXPECTED[name]["n"].values())


def exported(form: str) -> Callable[[wsiseg.Result, Path], bytes]:
    """Return what asks for the bytes of an export."""
    return lambda result, to: wsiseg.export_runs([result], form, f"{to}/")[0].read_bytes()


SQL = "SELECT class_name, count(*) AS n, sum(area_um2) AS um2 FROM cells GROUP BY ALL ORDER BY ALL"


def square(folder: Path) -> Path:
    """Write a region, as QuPath exports it; return its file."""
    ring = [[0, 0], [200, 0], [200, 200], [0, 200], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "name": "square"},
    }
    path = folder / "square.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def page_text(page: Path) -> str:
    """Return a page without the moment it was written."""
    return re.sub(r"20\d\d-\d\d-\d\d[ T]?[\d:+Z]*", "", page.read_text(encoding="utf-8"))


def reviewed(result: wsiseg.Result, to: Path) -> int:
    """Have a sample drawn and read back without an edit; return how many nuclei came back."""
    sample = to / "sample.geojson"
    options = wsiseg.ReviewOptions(n=3, side_um=25.0)
    wsiseg.make_review(result, sample, options, to=to / "review")
    review = wsiseg.read_review(result, sample, to=to / "review")
    assert review.is_untouched
    return sum(1 for found in json.loads(sample.read_text())["features"] if found.get("id"))


ANSWERS: dict[str, Callable[[wsiseg.Result, Path], Any]] = {
    "cells": lambda result, _: result.cells().num_rows,
    "cells in a region": lambda result, _: (
        result.cells(within=shapely.box(0, 0, 200, 200)).num_rows
    ),
    "summary": lambda result, _: result.summary(),
    "density": lambda result, _: result.density(grid_um=20).to_pylist(),
    "densest": lambda result, _: result.densest(0.0025).to_pylist(),
    "mixing": lambda result, _: result.mixing().to_pylist(),
    "query": lambda result, _: wsiseg.query(result.path, SQL).to_pylist(),
    "cohort_stats": lambda result, _: wsiseg.cohort_stats(
        result.path, by="region"
    ).table.to_pylist(),
    "within": lambda result, to: wsiseg.stats_within(result, square(to)).to_pylist(),
    "cite": lambda result, _: wsiseg.cite(result.path).text,
    "report": lambda result, to: page_text(wsiseg.write_report(result.path, to).pages[0]),
    "review": lambda result, to: reviewed(result, to),
    "slide_stats": lambda result, _: wsiseg.slide_stats([result]).to_pylist(),
    "region_stats": lambda result, _: wsiseg.region_stats([result]).to_pylist(),
    "geojson": lambda result, to: result.export("geojson", to / "a.geojson").read_bytes(),
    "ome-zarr": lambda result, to: contents(result.export("ome-zarr", to / "a.ome.zarr")),
    **{form: exported(form) for form in READ},
}
"""What is asked of a result, wherever it lies; nothing of it may need slide or model."""
COMMANDS: dict[str, list[str]] = {
    "stats": ["stats", "{run}"],
    "stats by region": ["stats", "{run}", "--by", "region"],
    "densest": ["stats", "{run}", "--densest", "0.0025"],
    "query": ["query", "{run}", "SELECT class_name, count(*) FROM cells GROUP BY ALL"],
    "tables": ["query", "{run}", "--tables"],
    "report": ["report", "{run}", "--to", "{to}/pages"],
    "cite": ["cite", "{run}"],
    "review": [
        *("review", "make", "{run}", "-n", "3", "--side-um", "25"),
        *("-o", "{to}/s.geojson", "--to", "{to}/review"),
    ],
    "export": ["export", "{run}", "--format", "geojson", "--to", "{to}/cells.geojson"],
}
"""The same on the command line."""


@pytest.fixture
def newest(frozen: Path) -> Path:
    return frozen / WITH_CELLS[-1]


@pytest.mark.parametrize("answer", ANSWERS)
def test_moved_and_renamed_it_answers_as_before(newest: Path, answer: str, tmp_path: Path) -> None:
    """The slide is gone all the while: these slides were never kept."""
    ask = ANSWERS[answer]
    moved = tmp_path / "elsewhere" / "of a päthologist; 'ours'" / "painted.png.wsiseg"
    shutil.copytree(newest, moved)
    before = contents(moved)
    for place in (tmp_path / "1", tmp_path / "2"):
        place.mkdir()
    assert ask(wsiseg.open_result(moved), tmp_path / "1") == ask(
        wsiseg.open_result(newest), tmp_path / "2"
    )
    assert contents(moved) == before, "reading wrote into the run"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_need_no_right_to_write(newest: Path, command: str, tmp_path: Path) -> None:
    """Compared by content, since to root a folder without the right to write is none."""
    run = tmp_path / "renamed.wsiseg"
    shutil.copytree(newest, run)
    before = contents(run)
    for path in (*run.rglob("*"), run):
        path.chmod(0o555 if path.is_dir() else 0o444)
    words = [word.format(run=run, to=tmp_path) for word in COMMANDS[command]]
    found = CliRunner().invoke(app, words)
    for path in (run, *run.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert found.exit_code == 0, found.output
    assert contents(run) == before


def test_results_are_read_without_any_model(newest: Path, tmp_path: Path) -> None:
    """Whoever gets a result need not have the model, nor what models need."""
    code = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'timm', 'openslide', 'tiffslide'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "import wsiseg\n"
        f"result = wsiseg.open_result({str(newest)!r})\n"
        "print(result.summary()['total']['n'], result.cells().num_rows)\n"
        f"result.export('geojson', {str(tmp_path / 'a.geojson')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n = sum(EXPECTED[WITH_CELLS[-1]]["n"].values())
    assert done.stdout.split() == [str(n), str(n)]
    assert (tmp_path / "a.geojson").stat().st_size > 1000


def test_a_newer_format_is_refused_with_a_sentence(newest: Path, tmp_path: Path) -> None:
    run = tmp_path / "new.wsiseg"
    shutil.copytree(newest, run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"format_version": 99}))
    found = CliRunner().invoke(app, ["stats", str(run)])
    assert found.exit_code != 0
    assert "newer wsiseg" in found.output
    assert not re.search(r"Traceback", found.output)


def test_a_column_that_is_missing_is_no_zero(newest: Path, tmp_path: Path) -> None:
    run = tmp_path / "less.wsiseg"
    shutil.copytree(newest, run)
    table = pq.read_table(run / "cells.parquet").drop_columns(["area_um2"])
    pq.write_table(table, run / "cells.parquet")
    found = CliRunner().invoke(app, ["stats", str(run)])
    assert found.exit_code != 0
    assert "area_um2" in found.output
    with pytest.raises(wsiseg.WsisegError, match="area_um2"):
        wsiseg.open_result(run).summary()


PLACES = re.compile(rb"(?:/(?:home|root|tmp|Users|mnt|work)/|[A-Z]:\\\\)[\w.-]+")


def test_no_path_of_a_machine_in_any_frozen_result(frozen: Path) -> None:
    for path in frozen.rglob("*"):
        if path.suffix in (".json", ".txt", ".geojson", ".gz", ".parquet"):
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            assert not PLACES.findall(content), path


def test_what_people_made_of_a_frozen_result_is_read(frozen: Path, tmp_path: Path) -> None:
    run = tmp_path / "renamed.wsiseg"
    shutil.copytree(frozen / "4/painted.png.wsiseg", run)
    result = wsiseg.open_result(run, classes="sizes")
    assert {name: found["n"] for name, found in result.summary()["classes"].items()} == {
        "Large": 20,
        "Small": 20,
    }
    assert len(set(result.feature_names) & {"nearest_cell_um", "texture_entropy"}) == 2
    assert result.cells(columns=["nearest_cell_um"])["nearest_cell_um"].null_count < 40
    review = wsiseg.read_review(run, run / "reviews/review/edited.geojson.gz")
    assert review.edits["random"]["deleted"] == 1
    assert review.edits["random"]["relabelled"] == 1
