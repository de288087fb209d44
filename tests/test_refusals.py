"""What the command line refuses: one line each, the right exit code, nothing left behind."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import tifffile
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from PIL import Image
from refused import MPP, error_of, names_in, run_command, stand_in
from slide_files import TILED, write_dicom, write_ome_pyramid

import wsiseg
from wsiseg import model_choice
from wsiseg.models import DEFAULT_MODEL, load_model
from wsiseg.testing.painted import paint_tissue

RGB = paint_tissue(400, 500, 1500, seed=4)
GREY = np.ascontiguousarray(RGB[..., 1])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that is no slide, or not one that can be segmented."""
    here = tmp_path_factory.mktemp("inputs")
    Image.fromarray(RGB).save(here / "good.png")
    (here / "text.svs").write_text("these are no pixels\n")
    (here / "zero.svs").touch()
    (here / "no-slides").mkdir()
    (here / "no-slides" / "notes.txt").write_text("nothing here")
    (here / "folder.svs").mkdir()
    (here / "link.svs").symlink_to(here / "gone.svs")
    tifffile.imwrite(here / "whole.svs", RGB, compression="jpeg", **TILED)
    whole = (here / "whole.svs").read_bytes()
    (here / "cut.svs").write_bytes(whole[: len(whole) // 2])
    for name in ("png", "jpg"):
        Image.fromarray(RGB).save(here / f"whole.{name}")
        whole = (here / f"whole.{name}").read_bytes()
        (here / f"cut.{name}").write_bytes(whole[: len(whole) // 2])
    (dicom,) = write_dicom(here / "cut", RGB, (1,))
    dicom.write_bytes(dicom.read_bytes()[:20000])
    tifffile.imwrite(here / "wide.tif", RGB.astype(np.uint16) * 257, **TILED)
    tifffile.imwrite(here / "grey.tif", GREY, tile=(128, 128), photometric="minisblack")
    Image.fromarray(GREY).save(here / "grey.png")
    channels = np.stack([GREY] * 4)
    with tifffile.TiffWriter(here / "fluorescence.ome.tif", ome=True) as tiff:
        tiff.write(channels, metadata={"axes": "CYX"}, photometric="minisblack")
    with tifffile.TiffWriter(here / "scenes.ome.tif", ome=True) as tiff:
        for _ in range(2):
            tiff.write(RGB, **TILED)
    write_ome_pyramid(here / "coarse.ome.tif", RGB, mpp=2.0)
    return here


@pytest.fixture
def run(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command beside the inputs, in this process, with a stand-in for the network."""
    monkeypatch.chdir(inputs)
    monkeypatch.setattr(model_choice, "load_model", stand_in)
    return run_command


SLIDES = [
    ("missing.svs", ["missing.svs does not exist", "check the path"]),
    ("link.svs", ["link.svs is a link to a file that does not exist"]),
    ("text.svs", ["text.svs: no reader can open it", "is needed", "export it"]),
    ("zero.svs", ["zero.svs: is empty (0 bytes)", "copy it again"]),
    ("cut.svs", ["cut.svs: is truncated", "copy it again"]),
    ("cut.png", ["cut.png: the image is truncated", "copy it again"]),
    ("cut.jpg", ["cut.jpg: the image is truncated", "copy it again"]),
    ("cut", ["level-0.dcm: is truncated", "copy it again"]),
    ("wide.tif", ["wide.tif: has 16 bits per sample; 8-bit RGB is needed: export"]),
    ("grey.tif", ["grey.tif: has 1 sample", "8-bit RGB of an H&E slide is needed: export"]),
    ("grey.png", ["grey.png: its pixels are of the kind L", "is needed: export"]),
    ("fluorescence.ome.tif", ["has 4 channels", "RGB plane is needed: export"]),
    ("scenes.ome.tif", ["several images of like size", "is needed: export the one"]),
]


@pytest.mark.parametrize(("name", "words"), SLIDES, ids=[name for name, _ in SLIDES])
def test_a_file_that_is_no_slide_is_refused(
    run: Callable[..., Any], inputs: Path, tmp_path: Path, name: str, words: list[str]
) -> None:
    before = names_in(inputs)
    result = run("segment", name, "-o", tmp_path / "out", *MPP)
    line = error_of(result)
    assert result.exit_code == 3
    assert [word for word in words if word not in line] == []
    assert str(inputs) not in line
    assert names_in(inputs) == before
    assert names_in(tmp_path) == []


COMMANDS = [
    (["no-slides", *MPP], ["no-slides holds no slide", ".svs"]),
    (["folder.svs", *MPP], ["folder.svs holds no slide"]),
    (["good.png"], ["good.png", "--mpp", "--mpp-from-objective"]),
    (["good.png", "--mpp-from-objective"], ["neither", "objective power", "--mpp"]),
    (["good.png", "--mpp", "-1"], ["--mpp is -1", "between 0.02 and 20 is needed"]),
    (["good.png", "--mpp", "0"], ["--mpp is 0", "between 0.02 and 20 is needed"]),
    (["good.png", "--mpp", "50"], ["--mpp is 50", "between 0.02 and 20 is needed"]),
    (["good.png", "--mpp", "nan"], ["--mpp is nan", "between 0.02 and 20 is needed"]),
    (["good.png", "--override-mpp", "inf"], ["--override-mpp is inf"]),
    (["coarse.ome.tif"], ["4.0 times", "--force-scale"]),
    (["coarse.ome.tif", *MPP], ["contradicts", "--override-mpp"]),
    (["good.png", *MPP, "--model", "nuclei"], ["'nuclei'", DEFAULT_MODEL, "card.json"]),
    (["good.png", *MPP, "--format", "xls"], ["'xls'", "geojson"]),
    (["good.png", *MPP, "--precision", "int3"], ["'int3'", "float32"]),
    (["good.png", *MPP, "--batch-size", "0"], ["0"]),
]


@pytest.mark.parametrize(("arguments", "words"), COMMANDS, ids=[" ".join(c) for c, _ in COMMANDS])
def test_a_wrong_command_is_refused(
    run: Callable[..., Any], inputs: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    before = names_in(inputs)
    result = run("segment", *arguments, "-o", tmp_path / "out")
    line = error_of(result)
    assert result.exit_code == 2
    assert [word for word in words if word not in line] == []
    assert names_in(inputs) == before
    assert names_in(tmp_path) == []


def test_a_device_that_is_not_there_is_refused(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run("segment", "good.png", "-o", tmp_path / "out", *MPP, "--device", "cuda")
    line = error_of(result)
    assert result.exit_code == 2
    assert "cuda" in line
    assert "cpu" in line
    assert names_in(tmp_path) == []


# ---------------------------------------------------------------- models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    shipped = load_model(DEFAULT_MODEL)
    return Path(shutil.copytree(shipped.folder, tmp_path / "model"))  # type: ignore[attr-defined]


def test_a_damaged_model_is_refused_before_work(
    run: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    weights = model / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    result = run("segment", "good.png", "-o", tmp_path / "out", *MPP, "--model", model)
    line = error_of(result)
    assert result.exit_code == 3
    assert "damaged" in line
    assert "install it again" in line
    assert names_in(tmp_path) == sorted(["model", *(f"model/{name}" for name in names_in(model))])


def test_a_model_of_a_newer_format_is_refused(
    run: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps(card | {"format_version": 99}))
    result = run("segment", "good.png", "-o", tmp_path / "out", *MPP, "--model", model)
    line = error_of(result)
    assert result.exit_code == 3
    assert "format 99" in line
    assert "update wsiseg" in line
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- output


def test_an_output_below_a_file_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/deep/er"):
        result = run("segment", "good.png", "-o", tmp_path / out, *MPP)
        line = error_of(result)
        assert result.exit_code == 3
        assert "choose" in line
        assert names_in(tmp_path) == ["file"]
        assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="a folder nobody can write to is needed")
def test_an_output_nobody_can_write_to_is_refused(run: Callable[..., Any]) -> None:
    """Root too: nothing can be made below /proc."""
    result = run("segment", "good.png", "-o", "/proc/out", *MPP)
    assert result.exit_code == 3
    assert "choose a folder you may write to" in error_of(result)


# ---------------------------------------------------------------- regions and tissue

ROIS = {
    "no GeoJSON": ("this is no GeoJSON", ["roi.geojson", "GeoJSON"]),
    "other JSON": ('{"a": [1, 2]}', ["roi.geojson", "GeoJSON"]),
    "empty": ('{"type": "FeatureCollection", "features": []}', ["roi.geojson"]),
    "no bytes": ("", ["roi.geojson"]),
    "outside": (
        json.dumps(
            {
                "type": "Feature",
                "properties": {},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[9e3, 9e3], [9.5e3, 9e3], [9.5e3, 9.5e3], [9e3, 9e3]]],
                },
            }
        ),
        ["roi.geojson", "outside"],
    ),
}


@pytest.mark.parametrize("option", ["--roi", "--tissue"])
@pytest.mark.parametrize("kind", ROIS)
def test_regions_that_are_none_are_refused(
    run: Callable[..., Any], tmp_path: Path, option: str, kind: str
) -> None:
    text, words = ROIS[kind]
    path = tmp_path / "roi.geojson"
    path.write_text(text)
    result = run("segment", "good.png", "-o", tmp_path / "out", *MPP, option, path)
    line = error_of(result)
    assert result.exit_code == 2
    assert [word for word in words if word not in line] == []
    assert names_in(tmp_path) == ["roi.geojson"]


@pytest.mark.parametrize("option", ["--roi", "--tissue"])
def test_a_file_of_regions_that_is_missing_is_refused(
    run: Callable[..., Any], tmp_path: Path, option: str
) -> None:
    result = run("segment", "good.png", "-o", tmp_path / "out", *MPP, option, "gone.geojson")
    assert "gone.geojson" in error_of(result)
    assert result.exit_code == 2
    assert names_in(tmp_path) == []


# ---------------------------------------------------------------- results


def test_exports_of_unknown_classes_and_formats_are_refused(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    assert run("segment", "good.png", "-o", tmp_path / "out", *MPP).exit_code == 0
    before = names_in(tmp_path)
    export = ["export", tmp_path / "out" / "good.png.wsiseg", "--to", tmp_path / "x", "--format"]
    for arguments, words in (
        (["xls"], ["'xls'", "geojson"]),
        (["geojson", "--classes", "Tumour"], ["'Tumour'", "Epithelial"]),
        (["geojson", "--regions", "Nowhere"], ["Nowhere"]),
        (["ome-zarr", "--ome-zarr", "0.3"], ["0.3", "0.4"]),
    ):
        result = run(*export, *arguments)
        line = error_of(result)
        assert result.exit_code == 2, line
        assert [word for word in words if word not in line] == []
        assert names_in(tmp_path) == before


# ---------------------------------------------------------------- odd, but accepted


def check_files_open(result: wsiseg.Result, n: int) -> None:
    """With the libraries of other projects."""
    assert len(geopandas.read_parquet(result.path / "cells.parquet")) == n
    with gzip.open(result.path / "cells.geojson.gz") as file:
        features = json.load(file)["features"]
    assert len(features) == n
    assert len({feature["id"] for feature in features}) == n
    assert all(shapely.geometry.shape(each["geometry"]).is_valid for each in features)
    assert list(Reader(parse_url(result.path / "masks.zarr"))())


def only_result(result: Any, out: Path) -> wsiseg.Result:
    assert result.exit_code == 0, result.stderr
    (folder,) = out.iterdir()
    return wsiseg.open_result(folder)


def test_a_slide_that_is_long_and_thin(run: Callable[..., Any], tmp_path: Path) -> None:
    rgb = paint_tissue(40, 30_000, 1500, seed=6)
    Image.fromarray(rgb).save(tmp_path / "thin.png", compress_level=1)
    out = tmp_path / "out"
    result = only_result(run("segment", tmp_path / "thin.png", "-o", out, *MPP), out)
    x = result.cells(columns=["x"])["x"].to_numpy()
    check_files_open(result, len(x))
    assert len(x) > 500
    assert x.max() > 29_800


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_transparent_pixels_are_glass(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """What is transparent has no colour, whatever is stored there."""
    hidden = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    hidden[:, :200, 3] = 0
    laid = RGB.copy()
    laid[:, :200] = 255
    tables = []
    for pixels, folder in ((hidden, "hidden"), (laid, "laid")):
        path = tmp_path / folder / name
        path.parent.mkdir()
        if name.endswith("png"):
            Image.fromarray(pixels).save(path)
        else:
            extra = {"extrasamples": ["unassalpha"]} if pixels.shape[2] == 4 else {}
            tifffile.imwrite(path, pixels, **TILED, **extra)
        out = tmp_path / folder / "out"
        result = only_result(run("segment", path, "-o", out, *MPP), out)
        tables.append(result.cells().drop_columns(["uuid"]))
        check_files_open(result, tables[-1].num_rows)
    assert tables[0].num_rows > 50
    assert tables[0].equals(tables[1])


def test_a_dicom_folder_has_the_cells_of_its_file(run: Callable[..., Any], tmp_path: Path) -> None:
    paths = write_dicom(tmp_path / "case", RGB)
    folder, file = tmp_path / "folder", tmp_path / "file"
    whole = only_result(run("segment", tmp_path / "case", "-o", folder), folder)
    one = only_result(run("segment", paths[0], "-o", file), file)
    assert (whole.name, one.name) == ("case", "level-0.dcm")
    assert whole.cells().num_rows > 50
    assert whole.cells().equals(one.cells())


def test_a_refusal_as_the_user_sees_it(inputs: Path, tmp_path: Path) -> None:
    """In a process of its own: libraries write to the real stderr, too."""
    (tmp_path / "many").mkdir()
    for name in ("cut.svs", "wide.tif", "grey.png", "cut.jpg"):
        shutil.copy(inputs / name, tmp_path / "many")
    command = [sys.executable, "-m", "wsiseg", "segment", "many", "-o", "out", *MPP]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    names = names_in(tmp_path / "many")
    lines = done.stderr.splitlines()
    last = [line.split(":")[1].strip() for line in lines if line.startswith("failed: ")]
    assert last == names
    others = [line for line in lines if not line.startswith("failed: ")]
    assert all(line.startswith("slides: ") or ": failed: " in line for line in others)
    assert [line.split(":")[0] for line in others if ": failed: " in line] == names
    assert done.stdout == ""
    # Of a batch the reasons stay, and nothing else.
    left = {path.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("*")}
    assert left == {"batch", *(f"{name}.wsiseg" for name in names)}
    for name in names:
        record = json.loads((tmp_path / "out" / f"{name}.wsiseg" / "run.json").read_text())
        assert record["status"] == "failed"
