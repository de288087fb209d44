"""One run on the real slide: masks, polygons, table and GeoJSON say the same, to anyone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import zarr
from numpy.typing import NDArray
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

import wsiseg
from wsiseg.testing.models import LocalNetwork

SLIDE = "CMU-1-Small-Region.svs"
MODEL = LocalNetwork(mpp=0.25, core_px=512, margin_px=128, darkness=120)
"""At 0.25 µm per pixel the slide is enlarged by 0.501: nothing is a whole number."""


@pytest.fixture(scope="module")
def result(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    out = tmp_path_factory.mktemp("run")
    return wsiseg.segment(shared / "slides" / SLIDE, out, model=MODEL)


@pytest.fixture(scope="module")
def table(result: wsiseg.Result) -> pa.Table:
    return pq.read_table(result.path / "cells.parquet")


@pytest.fixture(scope="module")
def polygons(table: pa.Table) -> NDArray[Any]:
    return shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))


@pytest.fixture(scope="module")
def features(result: wsiseg.Result) -> list[dict[str, Any]]:
    with gzip.open(result.path / "cells.geojson.gz") as file:
        content = json.load(file)
    assert content["type"] == "FeatureCollection"
    found: list[dict[str, Any]] = content["features"]
    return found


def test_there_is_enough_to_compare(table: pa.Table) -> None:
    assert len(table) > 1500


def test_ids_are_one_to_n_everywhere(
    result: wsiseg.Result, table: pa.Table, features: list[dict[str, Any]]
) -> None:
    n = len(table)
    assert table["cell_id"].to_pylist() == list(range(1, n + 1))
    labels = zarr.open_array(result.path / "masks.zarr" / "labels" / "nuclei" / "0", mode="r")
    ids, counts = np.unique(np.asarray(labels[:]), return_counts=True)
    assert ids.tolist() == list(range(n + 1))
    area = table["area_um2"].to_numpy() / result.run["frame"]["mpp"] ** 2
    np.testing.assert_allclose(counts[1:], area, rtol=1e-5)
    assert [feature["id"] for feature in features] == table["uuid"].to_pylist()
    assert result.run["n_cells"] == n == result.summary()["total"]["n"]
    assert sum(result.run["counts"].values()) == n


def test_uuids_are_unique_and_the_same_in_a_second_run(
    shared: Path, table: pa.Table, tmp_path: Path
) -> None:
    assert len(set(table["uuid"].to_pylist())) == len(table)
    second = wsiseg.segment(shared / "slides" / SLIDE, tmp_path, model=MODEL)
    assert pq.read_table(second.path / "cells.parquet").equals(table)


def test_each_polygon_rasterises_to_its_pixels(
    result: wsiseg.Result, table: pa.Table, polygons: NDArray[Any]
) -> None:
    labels = np.asarray(
        zarr.open_array(result.path / "masks.zarr" / "labels" / "nuclei" / "0", mode="r")[:]
    )
    scale = result.run["frame"]["scale"]
    height, width = labels.shape
    for cell_id, polygon in zip(table["cell_id"].to_pylist(), polygons, strict=True):
        x0, y0, x1, y1 = (round(value / scale) for value in polygon.bounds)
        rows = np.arange(max(0, y0 - 1), min(height, y1 + 1))
        cols = np.arange(max(0, x0 - 1), min(width, x1 + 1))
        y, x = np.meshgrid((rows + 0.5) * scale, (cols + 0.5) * scale, indexing="ij")
        inside = shapely.contains_xy(polygon, x, y)
        np.testing.assert_array_equal(inside, labels[np.ix_(rows, cols)] == cell_id)


def test_classes_painted_are_the_tables(result: wsiseg.Result, table: pa.Table) -> None:
    root = zarr.open_group(result.path / "masks.zarr" / "labels", mode="r")
    nuclei, classes = (np.asarray(root[f"{name}/0"][:]) for name in ("nuclei", "classes"))
    names = ["", *result.class_names]
    expected = np.array([0] + [names.index(name) for name in table["class_name"].to_pylist()])
    np.testing.assert_array_equal(classes, expected[nuclei])


def test_coarser_levels_keep_labels(result: wsiseg.Result) -> None:
    root = zarr.open_group(result.path / "masks.zarr" / "labels" / "nuclei", mode="r")
    fine, level = np.asarray(root["0"][:]), 1
    while str(level) in root:
        coarse = np.asarray(root[str(level)][:])
        assert coarse.shape == tuple(-(-side // 2) for side in fine.shape)
        assert set(np.unique(coarse)) <= set(np.unique(fine))
        fine, level = coarse, level + 1
    assert level > 1


def test_polygons_are_valid_also_on_a_hundredth_of_a_pixel(polygons: NDArray[Any]) -> None:
    assert shapely.is_valid(polygons).all()
    snapped = shapely.transform(polygons, lambda points: points.round(2))
    assert shapely.is_valid(snapped).all()
    assert (shapely.area(snapped) > 0).all()


def test_geojson_is_what_qupath_takes(
    features: list[dict[str, Any]], polygons: NDArray[Any], table: pa.Table
) -> None:
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    assert all(shape.is_valid for shape in shapes)
    assert max(map(shapely.hausdorff_distance, shapes, polygons)) < 0.0075
    for feature, name in zip(features, table["class_name"].to_pylist(), strict=True):
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"]["name"] == name
        assert len(properties["classification"]["color"]) == 3
        assert all(isinstance(value, int | float) for value in properties["measurements"].values())


def test_opened_by_geopandas_in_pixels(result: wsiseg.Result, table: pa.Table) -> None:
    frame = geopandas.read_parquet(result.path / "cells.parquet")
    assert frame.crs is None
    assert len(frame) == len(table)
    info = result.run["slide"]
    left, top, right, bottom = frame.total_bounds
    assert -1 <= left < right <= info["width_px"] + 1
    assert -1 <= top < bottom <= info["height_px"] + 1


def test_opened_by_duckdb(result: wsiseg.Result, table: pa.Table) -> None:
    path = str(result.path / "cells.parquet")
    with duckdb.connect() as connection:
        # The geometry column is left out: reading it needs an extension.
        rows = connection.execute(
            "SELECT class_name, count(*), median(area_um2), max(x) FROM read_parquet(?) "
            "GROUP BY class_name ORDER BY class_name",
            [path],
        ).fetchall()
    assert {name: n for name, n, _, _ in rows} == {
        name: n for name, n in result.run["counts"].items() if n
    }
    assert max(row[3] for row in rows) == pytest.approx(max(table["x"].to_pylist()))


def test_opened_by_ome_zarr_at_its_root(result: wsiseg.Result) -> None:
    nodes = list(Reader(parse_url(result.path / "masks.zarr"))())
    names = [str(node.zarr).rstrip("/").rsplit("/", 1)[-1].strip("]") for node in nodes]
    assert nodes[0].data[0].ndim == 3
    assert any("nuclei" in name for name in names)
    assert any("classes" in name for name in names)


def test_ome_zarr_models_finds_nothing_wrong(result: wsiseg.Result) -> None:
    from ome_zarr_models.v05 import Image, ImageLabel

    root = zarr.open_group(result.path / "masks.zarr", mode="r")
    image = Image.from_zarr(root)
    assert image.ome_attributes.multiscales
    for name in ("nuclei", "classes"):
        label = ImageLabel.from_zarr(root[f"labels/{name}"])
        assert label.ome_attributes.image_label is not None


def test_image_and_labels_lie_on_each_other(result: wsiseg.Result) -> None:
    """RGB pixels are means over their area, labels the finest pixel at their corner."""
    root = zarr.open_group(result.path / "masks.zarr", mode="r")
    mpp = result.run["frame"]["mpp"]
    for group in (root, root["labels/nuclei"], root["labels/classes"]):
        for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]:
            scale, translation = (t[t["type"]] for t in dataset["coordinateTransformations"])
            shape = group[dataset["path"]].shape
            for axis, side in ((-2, "height_px"), (-1, "width_px")):
                first_um = scale[axis] / 2 if group is root else mpp / 2
                assert translation[axis] == pytest.approx(first_um)
                true_um = result.run["frame"][side] * mpp
                assert true_um - 1e-6 <= shape[axis] * scale[axis] < true_um + scale[axis]


def test_side_files_are_there_and_speak(result: wsiseg.Result) -> None:
    tiles = pq.read_table(result.path / "tiles.parquet")
    assert len(tiles) == result.run["tiles"]["run"]
    tissue = json.loads((result.path / "tissue.geojson").read_text())
    shape = shapely.geometry.shape(tissue["features"][0]["geometry"])
    assert shape.is_valid
    area_mm2 = shape.area * result.run["slide"]["mpp"] ** 2 / 1e6
    assert area_mm2 == pytest.approx(result.analysed_mm2, rel=0.02)
    for name in ("README.txt", "summary.json"):
        assert "research use only" in (result.path / name).read_text().lower()
    assert not (result.path / "work").exists()


def test_no_path_and_no_user_in_any_output(result: wsiseg.Result) -> None:
    words = [str(result.path.parent).encode(), str(Path.home()).encode() + b"/"]
    for path in result.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in words if word in content], path
