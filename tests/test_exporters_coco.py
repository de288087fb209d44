"""pycocotools opens what is exported, with the same nuclei, classes and pixels."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from export_runs import HOLED, empty_run, export_run
from pycocotools.coco import COCO

import wsiseg
from wsiseg.exporters._plain_names import WITHOUT_CLASS
from wsiseg.exporters.coco import export_coco


def opened(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return export_run(tmp_path_factory.mktemp("run") / "a b.svs.wsiseg")


@pytest.fixture(scope="module")
def coco(result: wsiseg.Result, tmp_path_factory: pytest.TempPathFactory) -> COCO:
    path = tmp_path_factory.mktemp("out") / "a.coco.json"
    export_coco(result, path)
    return opened(path)


def test_the_image_and_the_categories_are_those_of_the_run(
    coco: COCO, result: wsiseg.Result
) -> None:
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("a b.svs", 4000, 3000)
    names = [category["name"] for category in coco.loadCats(coco.getCatIds())]
    assert names == [*result.class_names, WITHOUT_CLASS]


def test_every_nucleus_has_its_class_place_and_area(coco: COCO, result: wsiseg.Result) -> None:
    cells = result.cells().to_pylist()
    assert coco.getAnnIds() == [cell["cell_id"] for cell in cells]
    for cell in cells:
        (annotation,) = coco.loadAnns(cell["cell_id"])
        (category,) = coco.loadCats(annotation["category_id"])
        assert category["name"] == (cell["class_name"] or WITHOUT_CLASS)
        if cell["class_prob"] is None:
            assert "score" not in annotation
        else:
            assert annotation["score"] == pytest.approx(cell["class_prob"], abs=5.1e-5)
        polygon = shapely.from_wkb(cell["geometry"])
        assert annotation["iscrowd"] == 0
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == pytest.approx(polygon.bounds, abs=0.011)
        (flat,) = annotation["segmentation"]
        if polygon.interiors:
            continue
        ring = np.reshape(flat, (-1, 2))
        assert np.abs(ring - np.array(polygon.exterior.coords[:-1])).max() <= 0.00501
        # Vertices move by 0.005 px at most.
        assert annotation["area"] == pytest.approx(polygon.area, abs=0.01 * polygon.length)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_masks_are_the_polygons_with_their_holes(coco: COCO, result: wsiseg.Result) -> None:
    cells = result.cells().to_pylist()[:8]
    for cell in cells:
        polygon = shapely.from_wkb(cell["geometry"])
        (annotation,) = coco.loadAnns(cell["cell_id"])
        mask = coco.annToMask(annotation)
        low_x, low_y, high_x, high_y = (int(value) for value in polygon.buffer(5).bounds)
        y, x = np.mgrid[max(0, low_y) : high_y, max(0, low_x) : high_x]
        inside = shapely.contains_xy(polygon, x + 0.5, y + 0.5)
        # Whose a pixel on the border is, is up to pycocotools.
        clear = shapely.distance(polygon.boundary, shapely.points(x + 0.5, y + 0.5)) > 1
        assert (mask[y, x] == inside)[clear].all()
        assert mask.sum() == mask[y, x].sum()
    (annotation,) = coco.loadAnns(1)
    assert annotation["area"] == pytest.approx(HOLED.area, abs=0.01)


def test_a_run_without_nuclei_has_its_categories(tmp_path: Path) -> None:
    export_coco(empty_run(tmp_path / "a.svs.wsiseg"), tmp_path / "a.json.gz")
    (tmp_path / "a.json").write_bytes(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))
    coco = opened(tmp_path / "a.json")
    assert (len(coco.getAnnIds()), len(coco.getCatIds())) == (0, 5)
    assert (
        "research use only"
        in json.loads((tmp_path / "a.json").read_text())["info"]["description"].lower()
    )
