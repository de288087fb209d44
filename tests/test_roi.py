"""A region of interest chooses among the slide's nuclei; it changes none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from shapely import affinity

import wsiseg
from wsiseg.errors import UsageError
from wsiseg.geometry import Box
from wsiseg.plan import PlanOptions
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MPP = 0.5
MODEL = LocalNetwork(mpp=MPP, core_px=256, margin_px=64)
BOUNDS = Box(1000, 2000, 900, 700)
RNG = np.random.default_rng(5)


def star(x: float, y: float, radius: float, points: int = 23) -> shapely.Polygon:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    length = radius * RNG.uniform(0.5, 1.0, points)
    return shapely.Polygon(np.stack([x + length * np.cos(angle), y + length * np.sin(angle)], 1))


HOLED = star(300, 350, 290) - star(250, 330, 60) - star(380, 400, 50)
SCATTERED = shapely.MultiPolygon([star(700, 150, 130), star(690, 560, 120), star(860, 360, 60)])
INNER = star(330, 250, 90)


def feature(name: str | None, geometry: Any, **properties: Any) -> dict[str, Any]:
    shape = json.loads(shapely.to_geojson(geometry))
    named = {} if name is None else {"name": name}
    return {
        "type": "Feature",
        "id": "5f0a9d5e-1111-4222-8333-944455556666",
        "geometry": shape,
        "properties": {"objectType": "annotation", **named, **properties},
    }


def roi_file(folder: Path, *features: dict[str, Any]) -> Path:
    path = folder / "rois.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


@pytest.fixture(scope="module")
def slide() -> ArraySlide:
    """Painted tissue within the bounds, glass around them, as MRXS has it."""
    rgb = np.full((2000 + 800, 1000 + 1000, 3), 245, np.uint8)
    rgb[2000:2700, 1000:1900] = paint_tissue(700, 900, 1500, seed=3)
    return ArraySlide(rgb, mpp=MPP, bounds=BOUNDS)


@pytest.fixture(scope="module")
def everything(slide: ArraySlide, tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return wsiseg.segment(slide, tmp_path_factory.mktemp("full"), model=MODEL)


def in_slide(geometry: Any) -> Any:
    return affinity.translate(geometry, BOUNDS.x_px, BOUNDS.y_px)


def without(table: pa.Table, *names: str) -> list[dict[str, Any]]:
    return table.drop_columns([*names]).to_pylist()


REGION_COLUMNS = ("cell_id", "region", "region_class", "region_ids")


@pytest.mark.parametrize("origin", ["auto", "bounds", "slide"])
def test_a_region_run_is_the_whole_run_filtered(
    origin: Any, slide: ArraySlide, everything: wsiseg.Result, tmp_path: Path
) -> None:
    tumour = {"name": "Tumor", "color": [200, 0, 0]}
    shapes = [HOLED, SCATTERED]
    if origin == "slide":
        shapes = [in_slide(shape) for shape in shapes]
    path = roi_file(
        tmp_path,
        feature("holed", shapes[0], classification=tumour),
        feature("scattered", shapes[1]),
    )
    options = PlanOptions(roi=path, roi_origin=origin)
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=options)
    both = in_slide(shapely.union(HOLED, SCATTERED))
    expected = everything.cells(within=both)
    found = result.cells()
    assert 40 < found.num_rows < everything.cells().num_rows
    assert without(found, *REGION_COLUMNS) == without(expected, *REGION_COLUMNS)
    assert found["cell_id"].to_pylist() == list(range(1, found.num_rows + 1))
    names = found["region"].to_pylist()
    for name, shape in (("holed", HOLED), ("scattered", SCATTERED)):
        inside = everything.cells(within=in_slide(shape))["uuid"].to_pylist()
        rows = [name == region for region in names]
        assert found.filter(pa.array(rows))["uuid"].to_pylist() == inside
    classes = set(zip(names, found["region_class"].to_pylist(), strict=True))
    assert classes == {("holed", "Tumor"), ("scattered", None)}
    area_mm2 = both.area * MPP**2 / 1e6
    # All of it is tissue, but for the mask's edge.
    assert result.analysed_mm2 == pytest.approx(area_mm2, rel=0.01)


def test_few_tiles_run_for_a_small_region(
    slide: ArraySlide, everything: wsiseg.Result, tmp_path: Path
) -> None:
    path = roi_file(tmp_path, feature("inner", INNER))
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(roi=path))
    assert 0 < result.run["tiles"]["run"] < everything.run["tiles"]["run"]
    expected = everything.cells(within=in_slide(INNER))
    assert expected.num_rows > 5
    assert result.cells()["uuid"].to_pylist() == expected["uuid"].to_pylist()


def test_overlapping_regions_each_count_a_nucleus(
    slide: ArraySlide, everything: wsiseg.Result, tmp_path: Path
) -> None:
    missing = star(750, 200, 100)
    path = roi_file(
        tmp_path,
        feature("outer", HOLED),
        feature("inner", INNER),
        feature(None, star(840, 40, 10), classification="Empty"),
        {**feature("A-1", missing), "properties": {"name": "A-1", "isMissing": True}}
        | {"properties": {"objectType": "tmaCore", "name": "A-1", "isMissing": True}},
    )
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(roi=path))
    rows = wsiseg.region_stats([result]).to_pylist()
    by_place = {(row["region"], row["class_name"]): row for row in rows}
    total = {name: by_place[name, "(all)"] for name in ("outer", "inner", "A-1", "(all)")}
    for name, shape in (("outer", HOLED), ("inner", INNER)):
        inside = everything.cells(within=in_slide(shape))
        assert total[name]["n"] == inside.num_rows > 5
        for class_name in result.class_names:
            n = inside["class_name"].to_pylist().count(class_name)
            assert by_place[name, class_name]["n"] == n
        area_mm2 = shape.area * MPP**2 / 1e6
        assert total[name]["analysed_mm2"] == pytest.approx(area_mm2, rel=0.01)
        assert total[name]["per_mm2"] == pytest.approx(inside.num_rows / area_mm2, rel=0.01)
    overlap = everything.cells(within=in_slide(HOLED & INNER)).num_rows
    assert overlap > 0
    assert total["(all)"]["n"] == total["outer"]["n"] + total["inner"]["n"] - overlap
    assert total["A-1"]["n"] is None
    assert total["A-1"]["per_mm2"] is None
    assert "missing" in total["A-1"]["no_density_reason"]
    assert by_place["Empty", "(all)"]["n"] == 0
    inner = result.cells(within=in_slide(INNER))["region"].to_pylist()
    assert set(inner) == {"inner"}, "the smallest region gives a nucleus its name"


def test_the_regions_used_can_be_given_back(slide: ArraySlide, tmp_path: Path) -> None:
    path = roi_file(tmp_path, feature("holed", HOLED), feature("inner", INNER))
    result = wsiseg.segment(slide, tmp_path / "1", model=MODEL, options=PlanOptions(roi=path))
    written = result.path / "regions.geojson"
    shapes = json.loads(written.read_text())["features"]
    again = [shapely.geometry.shape(one["geometry"]) for one in shapes]
    for before, after in zip((HOLED, INNER), again, strict=True):
        assert after.symmetric_difference(before).area < 0.01 * before.length
    same = wsiseg.segment(slide, tmp_path / "2", model=MODEL, options=PlanOptions(roi=written))
    assert same.cells().equals(result.cells())
    assert same.analysed_mm2 == result.analysed_mm2


def test_exports_of_a_region_run_shift_by_nothing(slide: ArraySlide, tmp_path: Path) -> None:
    path = roi_file(tmp_path, feature("inner", INNER))
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(roi=path))
    result.export("geojson", tmp_path / "cells.geojson")
    cells = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    assert len(cells) == result.cells().num_rows
    for cell in cells:
        # Relative to the bounds, as the region was.
        assert INNER.contains(shapely.geometry.shape(cell["geometry"]).centroid)


def test_tissue_can_be_given(slide: ArraySlide, tmp_path: Path) -> None:
    left = shapely.box(0, 0, 450, 700)
    path = roi_file(tmp_path, feature("tissue", left))
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(tissue=path))
    assert result.analysed_mm2 == pytest.approx(left.area * MPP**2 / 1e6, rel=0.02)
    written = result.path / "tissue.geojson"
    options = PlanOptions(tissue=written, roi=roi_file(tmp_path, feature("inner", INNER)))
    again = wsiseg.segment(slide, tmp_path / "2", model=MODEL, options=options)
    assert again.analysed_mm2 == pytest.approx(INNER.area * MPP**2 / 1e6, rel=0.01)


def test_another_region_is_another_run(slide: ArraySlide, tmp_path: Path) -> None:
    path = roi_file(tmp_path, feature("inner", INNER))
    wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(roi=path))
    with pytest.raises(UsageError, match="roi"):
        wsiseg.segment(slide, tmp_path, model=MODEL)


def test_regions_without_tissue_give_an_empty_run(slide: ArraySlide, tmp_path: Path) -> None:
    path = roi_file(tmp_path, feature("glass", shapely.box(100, 100, 600, 900)))
    options = PlanOptions(roi=path, roi_origin="slide")
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=options)
    assert result.cells().num_rows == 0
    assert result.no_density_reason == "no tissue in the regions"
    assert [row["n"] for row in wsiseg.region_stats([result]).to_pylist()] == [0] * 2 * (
        len(result.class_names) + 1
    )
    assert "no-tissue" in [warning["code"] for warning in result.warnings]


@pytest.mark.parametrize("origin", ["bounds", "slide"])
def test_files_of_ours_know_their_origin(origin: Any, slide: ArraySlide, tmp_path: Path) -> None:
    path = roi_file(tmp_path, feature("inner", INNER))
    first = wsiseg.segment(slide, tmp_path / "1", model=MODEL, options=PlanOptions(roi=path))
    options = PlanOptions(
        roi=first.path / "regions.geojson",
        tissue=first.path / "tissue.geojson",
        roi_origin=origin,
    )
    again = wsiseg.segment(slide, tmp_path / "2", model=MODEL, options=options)
    assert again.cells().equals(first.cells())


@pytest.mark.parametrize(("height_px", "width_px"), [(263, 1031), (700, 500), (641, 333)])
def test_tissue_given_back_unedited_is_the_same(
    height_px: int, width_px: int, tmp_path: Path
) -> None:
    slide = ArraySlide(paint_tissue(height_px, width_px, 1500, seed=2), mpp=MPP)
    first = wsiseg.segment(slide, tmp_path / "1", model=MODEL)
    options = PlanOptions(tissue=first.path / "tissue.geojson")
    again = wsiseg.segment(slide, tmp_path / "2", model=MODEL, options=options)
    assert again.analysed_mm2 == first.analysed_mm2
    assert again.run["tiles"] == first.run["tiles"]
    assert again.warnings == first.warnings
    assert again.cells().equals(first.cells())
    written = (again.path / "tissue.geojson").read_bytes()
    assert written == (first.path / "tissue.geojson").read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [{"tissue": 3}, {"roi": 3}, {"roi": ()}, {"roi": ["r.geojson"]}, {"roi_origin": "Slide"}],
)
def test_options_of_another_kind_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PlanOptions(**wrong)


def test_options_may_be_text() -> None:
    assert PlanOptions(tissue="none") == PlanOptions(tissue=None)
    assert PlanOptions(tissue="auto") == PlanOptions()
    said = PlanOptions(tissue="t.geojson", roi="r.geojson")
    assert said == PlanOptions(tissue=Path("t.geojson"), roi=Path("r.geojson"))


def test_one_outline_is_not_laid_on_many_slides(tmp_path: Path) -> None:
    path = roi_file(tmp_path, feature("inner", INNER))
    for options in (PlanOptions(roi=path), PlanOptions(tissue=path)):
        with pytest.raises(UsageError, match=r"one outline for 2 slides.*CSV"):
            list(wsiseg.segment_many(["a.svs", "b.svs"], tmp_path / "out", options=options))
    assert not (tmp_path / "out").exists()


def test_overwrite_does_not_delete_what_it_reads(slide: ArraySlide, tmp_path: Path) -> None:
    first = wsiseg.segment(slide, tmp_path, model=MODEL)
    options = PlanOptions(tissue=first.path / "tissue.geojson")
    with pytest.raises(UsageError, match=r"would delete tissue\.geojson.*copy it"):
        wsiseg.segment(slide, tmp_path, model=MODEL, options=options, overwrite=True)
    assert wsiseg.open_result(first.path).cells().equals(first.cells())
    with pytest.raises(UsageError, match=r"tissue: other settings there, .file. now"):
        wsiseg.segment(slide, tmp_path, model=MODEL, options=options)


def test_no_region_is_called_as_all_are(slide: ArraySlide, tmp_path: Path) -> None:
    path = roi_file(tmp_path, feature("(all)", INNER), feature("far", star(9e8, 9e8, 50)))
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(roi=path))
    names = [row["region"] for row in wsiseg.region_stats([result]).to_pylist()]
    assert list(dict.fromkeys(names)) == ["(all) (2)", "far", "(all)"]
