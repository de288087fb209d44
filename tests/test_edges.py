"""Odd slides: nothing on them, hardly any pixels, no tissue, broken in the middle."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import geopandas
import numpy as np
import pytest
import shapely
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from PIL import Image

import wsiseg
from wsiseg.errors import OutputExists, OutputNotWritable, TileNotReadable
from wsiseg.plan import PlanOptions
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)


def check_files_open(result: wsiseg.Result, n: int) -> None:
    assert len(geopandas.read_parquet(result.path / "cells.parquet")) == n
    with gzip.open(result.path / "cells.geojson.gz") as file:
        assert len(json.load(file)["features"]) == n
    assert list(Reader(parse_url(result.path / "masks.zarr"))())
    labels = zarr.open_array(result.path / "masks.zarr/labels/nuclei/0", mode="r")
    assert int(np.asarray(labels[:]).max(initial=0)) == n
    assert result.summary()["total"]["n"] == n
    assert sum(row["n"] for row in wsiseg.slide_stats([result]).to_pylist()) == 2 * n
    for name in ("overlay.png", "thumbnail.png"):
        with Image.open(result.path / name) as picture:
            picture.load()


@pytest.mark.parametrize(
    ("height_px", "width_px"), [(1, 1), (1, 400), (200, 300), (40, 5000), (256, 256)]
)
@pytest.mark.parametrize("glass", [True, False])
def test_empty_slides_of_any_size(
    height_px: int, width_px: int, glass: bool, tmp_path: Path
) -> None:
    colour = 245 if glass else (226, 170, 200)
    rgb = np.full((height_px, width_px, 3), colour, np.uint8)
    result = wsiseg.segment(ArraySlide(rgb, mpp=0.5), tmp_path, model=MODEL)
    check_files_open(result, 0)
    if glass:
        assert result.analysed_mm2 == 0
        assert result.summary()["total"]["per_mm2"] is None
        assert result.run["no_density_reason"] == "no tissue was found"
    else:
        expected = height_px * width_px * 0.25e-6
        assert result.analysed_mm2 == pytest.approx(expected)
        assert result.summary()["total"]["per_mm2"] == 0


def test_a_slide_smaller_than_a_tile_has_its_nuclei(tmp_path: Path) -> None:
    rgb = np.full((60, 90, 3), (226, 170, 200), np.uint8)
    rgb[20:34, 30:48] = (80, 50, 120)
    rgb[0:12, 80:90] = (80, 50, 120)  # at the corner
    result = wsiseg.segment(ArraySlide(rgb, mpp=0.5), tmp_path, model=MODEL)
    check_files_open(result, 2)
    polygons = shapely.from_wkb(result.cells()["geometry"].to_numpy(zero_copy_only=False))
    left, top, right, bottom = shapely.total_bounds(polygons)
    assert left >= 0
    assert top >= 0
    assert right <= 90
    assert bottom <= 60


@pytest.mark.parametrize("mpp", [0.5, 0.499, 0.37])
def test_nuclei_at_the_edge_end_there(mpp: float, tmp_path: Path) -> None:
    """A stand-in that smooths sees dark spots beyond the edge; there is nothing."""
    rgb = np.full((300, 310, 3), (226, 170, 200), np.uint8)
    for x, y in ((0, 150), (309, 60), (155, 0), (100, 299), (0, 0), (309, 299)):
        cv2.circle(rgb, (x, y), 9, (0, 0, 0), -1)
    options = PlanOptions(tissue=None)
    result = wsiseg.segment(ArraySlide(rgb, mpp=mpp), tmp_path, model=MODEL, options=options)
    check_files_open(result, 6)
    labels = zarr.open_array(result.path / "masks.zarr/labels/nuclei/0", mode="r")
    counts = np.bincount(np.asarray(labels[:]).ravel())[1:]
    areas = result.cells()["area_um2"].to_numpy() / result.run["frame"]["mpp"] ** 2
    np.testing.assert_allclose(counts, areas, rtol=1e-5)


class BrokenSlide(ArraySlide):
    """Cannot be read below row 600."""

    def read_level(self, level: int, box: object) -> np.ndarray:  # type: ignore[type-arg, override]
        if box.y_px > 500:  # type: ignore[attr-defined]
            raise TileNotReadable("array.png: the part at row 600 cannot be decoded")
        return super().read_level(level, box)  # type: ignore[arg-type]


def test_a_broken_part_fails_the_slide_and_keeps_finished_tiles(tmp_path: Path) -> None:
    rgb = paint_tissue(900, 600, 1500, seed=1)
    options = PlanOptions(tissue=None)
    with pytest.raises(TileNotReadable, match="row 600"):
        wsiseg.segment(BrokenSlide(rgb, mpp=0.5), tmp_path, model=MODEL, options=options)
    folder = tmp_path / "array.png.wsiseg"
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "failed"
    assert run["error"]["type"] == "TileNotReadable"
    assert list((folder / "work").glob("tile_*"))
    assert not (folder / "cells.parquet").exists()
    with pytest.raises(wsiseg.WsisegError, match=r"failed|unfinished|not finished"):
        wsiseg.open_result(folder)


def test_nothing_is_made_when_refused(tmp_path: Path) -> None:
    rgb = np.full((50, 50, 3), 245, np.uint8)
    with pytest.raises(wsiseg.WsisegError, match="--mpp"):
        wsiseg.segment(ArraySlide(rgb), tmp_path / "out", model=MODEL)
    with pytest.raises(wsiseg.WsisegError, match="force-scale"):
        wsiseg.segment(ArraySlide(rgb), tmp_path / "out", model=MODEL, scale=2.0)
    with pytest.raises(wsiseg.WsisegError, match="geojson"):
        wsiseg.segment(
            ArraySlide(rgb), tmp_path / "out", model=MODEL, scale=0.5, formats=["nonsense"]
        )
    assert not (tmp_path / "out").exists()


def test_something_in_the_way_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "array.png.wsiseg"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    rgb = np.full((50, 50, 3), 245, np.uint8)
    with pytest.raises(OutputExists, match="in the way"):
        wsiseg.segment(ArraySlide(rgb, mpp=0.5), tmp_path, model=MODEL)
    assert (folder / "mine.txt").read_text() == "keep"


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    rgb = np.full((50, 50, 3), 245, np.uint8)
    with pytest.raises(OutputNotWritable):
        wsiseg.segment(ArraySlide(rgb, mpp=0.5), tmp_path / "out", model=MODEL)


def test_tissue_chooses_tiles_and_removes_no_nucleus(tmp_path: Path) -> None:
    rgb = paint_tissue(700, 1100, 1500, seed=2, border_px=280)
    slide = ArraySlide(rgb, mpp=0.5)
    everything = PlanOptions(tissue=None)
    auto = wsiseg.segment(slide, tmp_path / "auto", model=MODEL)
    whole = wsiseg.segment(slide, tmp_path / "all", model=MODEL, options=everything)
    assert auto.run["tiles"]["run"] < whole.run["tiles"]["run"]
    assert auto.cells(columns=["uuid"]).equals(whole.cells(columns=["uuid"]))
    assert auto.analysed_mm2 < whole.analysed_mm2
