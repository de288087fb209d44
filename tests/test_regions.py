"""Regions: every way QuPath writes them, where they lie, and which points and pixels they hold."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from slow_regions import slow_area_px2, slow_covered, slow_locate, slow_touched

from wsiseg.errors import UsageError
from wsiseg.geometry import Box, Frame
from wsiseg.regions import (
    Region,
    RegionFile,
    RegionIndex,
    RegionKind,
    RoiOrigin,
    area_px2,
    covered,
    parse_regions,
    read_regions,
    region_fingerprint,
    regions_geojson,
    touched,
    union_of,
)

SLIDE_PX = (4000, 5000)
WHOLE = Box(0, 0, *SLIDE_PX)
BOUNDS = Box(1000, 2000, 2500, 2000)
RECTANGLE = "[[[100, 100], [300, 100], [300, 200], [100, 200], [100, 100]]]"


def parse(
    text: str | bytes | dict[str, Any] | list[Any],
    bounds: Box = WHOLE,
    origin: RoiOrigin = "auto",
) -> RegionFile:
    if isinstance(text, dict | list):
        text = json.dumps(text)
    content = text.encode() if isinstance(text, str) else text
    return parse_regions(content, "rois.geojson", "a.svs", SLIDE_PX, bounds, origin)


def feature(geometry: str = RECTANGLE, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    shape = {"type": kind, "coordinates": json.loads(geometry)}
    return {"type": "Feature", "geometry": shape, "properties": properties}


def rectangle(x0: float, y0: float, x1: float, y1: float) -> str:
    return json.dumps([[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]])


def region(geometry: shapely.Geometry, name: str = "R", missing: bool = False) -> Region:
    parts = [p for p in shapely.get_parts(geometry) if p.geom_type == "Polygon"]
    kind: RegionKind = "tma-core" if missing else "annotation"
    return Region(name, None, None, kind, missing, None, shapely.MultiPolygon(parts))


# --- What QuPath writes


ANNOTATION = """{"type": "Feature", "id": "6f1c8f6e-0f0a-4c2b-9d59-0a4d5d2e8a11",
 "geometry": {"type": "Polygon", "coordinates": [
   [[100, 100], [300, 100], [300, 200], [100, 200], [100, 100]],
   [[150, 120.5], [150, 180.25], [200, 180.25], [200, 120.5], [150, 120.5]]]},
 "properties": {"objectType": "annotation", "name": "Front", "color": [1, 2, 3],
   "classification": {"name": "Tumor", "color": [200, 0, 10]}, "isLocked": true,
   "measurements": {"Area": "NaN"}, "metadata": {"a": "b"}, "metadata": {"a": "b"}}}"""
CORE = """{"type": "Feature", "id": "PathTMA",
 "geometry": {"type": "Polygon", "isEllipse": true, "coordinates":
   [[[900, 100], [1000, 200], [900, 300], [800, 200], [900, 100]]]},
 "properties": {"objectType": "tmaCore", "name": "A-1", "isMissing": %s}}"""


@pytest.mark.parametrize(
    "text",
    [
        f'{{"type": "FeatureCollection", "features": [{ANNOTATION}]}}',
        f"[{ANNOTATION}]",
        ANNOTATION,
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_annotation_with_a_hole_is_read_whole(text: str, encoding: str) -> None:
    (found,) = parse(text.encode(encoding)).regions
    assert (found.name, found.class_name, found.class_rgb) == ("Front", "Tumor", (200, 0, 10))
    assert (found.kind, found.missing) == ("annotation", False)
    assert found.uuid == "6f1c8f6e-0f0a-4c2b-9d59-0a4d5d2e8a11"
    assert found.geometry.area == 200 * 100 - 50 * 59.75
    assert found.geometry.bounds == (100, 100, 300, 200)


def test_a_bare_geometry_is_a_region() -> None:
    found = parse(f'{{"type": "Polygon", "coordinates": {RECTANGLE}}}')
    assert [one.name for one in found.regions] == ["Region 1"]
    assert found.warnings == ()


def test_cores_are_read_and_missing_ones_kept() -> None:
    found = parse(f"[{CORE % 'false'}, {CORE % 'true'}]").regions
    assert [one.kind for one in found] == ["tma-core"] * 2
    assert [one.missing for one in found] == [False, True]
    assert [one.name for one in found] == ["A-1", "A-1 (2)"]
    assert found[0].uuid is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"object_type": "tma_core"}, "tma-core"),
        ({"type": "TMACoreObject"}, "tma-core"),
        ({"type": "Something else"}, "annotation"),
        ({"objectType": "unknown"}, "annotation"),
    ],
)
def test_other_ways_to_say_the_type(kind: dict[str, str], expected: str) -> None:
    assert parse(feature(**kind)).regions[0].kind == expected


def test_version_02_wrote_the_type_as_id() -> None:
    old = feature(isMissing=True) | {"id": "TMACoreObject"}
    assert parse(old).regions[0].missing
    assert not parse(feature(isMissing=True)).regions[0].missing


@pytest.mark.parametrize(
    ("classification", "name", "rgb"),
    [
        ("Tumor", "Tumor", None),
        ({"name": "Tumor", "color": [1, 2, 3, 128]}, "Tumor", (1, 2, 3)),
        ({"names": ["Tumor", "Positive"], "color": [9, 8, 7]}, "Tumor: Positive", (9, 8, 7)),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0)),
        (
            {"parentClass": {"name": "Tumor", "colorRGB": -1}, "name": "Negative"},
            "Tumor: Negative",
            None,
        ),
        ({"name": "Tumor"}, "Tumor", None),
        ({"name": "Tumor", "color": [1, 2, 999]}, "Tumor", None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_every_form_of_a_class(
    classification: Any, name: str | None, rgb: tuple[int, int, int] | None
) -> None:
    (found,) = parse(feature(classification=classification)).regions
    assert (found.class_name, found.class_rgb) == (name, rgb)
    assert found.name == (name or "Region 1")


def test_multipolygons_collections_heights_and_planes() -> None:
    parts = f"[{RECTANGLE}, {rectangle(500, 500, 510, 510)}]"
    assert parse(feature(parts, "MultiPolygon")).regions[0].geometry.area == 20100
    collection = {
        "type": "GeometryCollection",
        "geometries": [
            {"type": "Point", "coordinates": [1, 1]},
            {"type": "MultiPolygon", "coordinates": json.loads(parts)},
        ],
    }
    found = parse(collection)
    assert found.regions[0].geometry.area == 20100
    assert "points and lines" in found.warnings[0]
    high = feature("[[[0, 0, 5], [9, 0], [9, 9, 1, 2], [0, 0, 5]]]")
    high["geometry"]["plane"] = {"c": -1, "z": 3, "t": 0}
    found = parse(high)
    assert found.regions[0].geometry.area == 40.5
    assert not found.regions[0].geometry.has_z
    assert "plane" in found.warnings[0]


def test_children_are_regions_too() -> None:
    inner = feature(name="inner")
    outer = feature(rectangle(0, 0, 900, 900), name="outer", childObjects=[inner])
    root = {"type": "Feature", "geometry": {}, "properties": {"objectType": "root"}}
    root["properties"] |= {"childObjects": [outer]}  # type: ignore[operator]
    found = parse(root)
    assert [one.name for one in found.regions] == ["outer", "inner"]
    assert found.warnings == ()


def test_what_has_no_area_is_left_out_and_said() -> None:
    nothing = [
        feature("[1, 2]", "Point", name="dot"),
        feature("[[1, 2], [3, 4]]", "LineString"),
        feature(rectangle(5, 5, 5, 80), name="flat"),
        feature("[]", "Polygon"),
        {"type": "Feature", "geometry": None, "properties": None},
        feature(objectType="detection"),
        feature(objectType="cell"),
    ]
    found = parse([*nothing, feature(name="real")])
    assert [one.name for one in found.regions] == ["real"]
    said = "; ".join(found.warnings)
    for words in (
        "lines (they have no area) were skipped: 2",
        "tiles (no regions) were skipped: 2",
    ):
        assert words in said
    assert "encloses no area were skipped: 1" in said
    assert "without a geometry were skipped: 2" in said
    with pytest.raises(UsageError, match=r"holds no area .*skipped: 2.*export"):
        parse(nothing)


def test_names_are_unique_printable_and_given_ones_stay() -> None:
    names = ["A", "A", "A (2)", None, "A", " x\ny\x1b[31m ", "\ud800", 7]
    found = parse([feature(name=name) for name in names]).regions
    assert [one.name for one in found] == [
        *("A", "A (3)", "A (2)", "Region 4", "A (4)", "x y [31m", "Region 7", "7")
    ]


@pytest.mark.parametrize("suffix", ["rois.geojson", "rois.geojson.gz", "rois.zip", "rois.json"])
def test_files_may_be_packed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / suffix
    if suffix.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/rois.geojson", "rubbish")
            archive.writestr("rois.geojson", ANNOTATION)
    else:
        text = ANNOTATION.encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert [r.name for r in read_regions(path, "a", SLIDE_PX, WHOLE).regions] == ["Front"]


# --- Refused


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    damaged = gzip.compress(ANNOTATION.encode() * 50)
    two = tmp_path / "two.zip"
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("a.geojson", ANNOTATION)
        archive.writestr("b.geojson", ANNOTATION)
    (tmp_path / "cut.gz").write_bytes(damaged[:-20])
    (tmp_path / "wrong.gz").write_bytes(damaged[:20] + bytes(50) + damaged[70:])
    (tmp_path / "cut.zip").write_bytes(two.read_bytes()[:60])
    for name in ("missing.geojson", "", "cut.gz", "wrong.gz", "two.zip", "cut.zip"):
        with pytest.raises(UsageError, match=r"cannot be read.*needed: export") as refused:
            read_regions(tmp_path / name, "a", SLIDE_PX, WHOLE)
        assert "\n" not in str(refused.value)


def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.regions._MOST_MIB", 1)
    path = tmp_path / "bomb.geojson.gz"
    path.write_bytes(gzip.compress(b" " * (1 << 20) + ANNOTATION.encode()))
    with pytest.raises(UsageError, match="more than 1 MiB"):
        read_regions(path, "a", SLIDE_PX, WHOLE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"name,x\n", "is no JSON .line 1"),
        (b"\xff\xfe\xfa", "is no JSON text"),
        (b"1" * 5000, "is no JSON text"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 900 + b"]" * 900, "(nested too deeply|holds no area)"),
        (b'{"type": "Topology"}', "no GeoJSON .*'Topology'"),
        (b'{"type": "FeatureCollection", "features": 3}', "no GeoJSON"),
        (b"[3]", "no GeoJSON .it has 3 where"),
        (b"null", "no GeoJSON"),
        (b'{"type": "FeatureCollection", "features": []}', "holds no area .it has no objects"),
    ],
)
def test_what_is_no_geojson(content: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        parse(content)
    assert "\n" not in str(refused.value)
    assert "export" in str(refused.value)


@pytest.mark.parametrize(
    ("coordinates", "words"),
    [
        ("[[[0, 0], [9, 0], [9, NaN], [0, 0]]]", "not finite or beyond"),
        ("[[[0, 0], [9, 0], [9, 1e400], [0, 0]]]", "not finite or beyond"),
        ("[[[0, 0], [9, 0], [9, -1e12], [0, 0]]]", "not finite or beyond"),
        (f"[[[0, 0], [9, 0], [9, {10**400}], [0, 0]]]", "no pair of numbers"),
        ('[[[0, 0], [9, "a"], [9, 9], [0, 0]]]', "no pair of numbers"),
        ("[[[0, 0], [9], [9, 9], [0, 0]]]", "no pair of numbers"),
        ("[[[0, 0], {}, [9, 9], [0, 0]]]", "no pair of numbers"),
        ("[[0, 0], [9, 0], [9, 9], [0, 0]]", "list of coordinates belongs|no pair"),
        (f"[{RECTANGLE}]", "no pair of numbers"),
        ("[[[0, 0], [9, 0], [0, 0]]]", "fewer than three corners"),
        ("[[[0, 0]]]", "fewer than three corners"),
        ("[[]]", "no pair of numbers"),
        ("3", "list of coordinates belongs"),
    ],
)
def test_damaged_outlines_name_the_annotation(coordinates: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        parse([feature(), feature(coordinates, name="bad one")])
    assert 'annotation "bad one"' in str(refused.value)
    assert "draw it again" in str(refused.value)
    with pytest.raises(UsageError, match="annotation 2 of the file"):
        parse([feature(), feature(coordinates)])


def test_an_unknown_geometry_is_refused() -> None:
    with pytest.raises(UsageError, match="an object of type 'Circle'"):
        parse(feature("[1, 2]", "Circle"))


def test_an_open_outline_is_closed_and_said() -> None:
    found = parse(feature("[[[0, 0], [9, 0], [9, 9]]]", name="open"))
    assert found.regions[0].geometry.area == 40.5
    assert 'annotation "open" had an open outline' in found.warnings[0]


def test_more_regions_than_indices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiseg.regions._place.MOST_REGIONS", 2)
    assert len(parse([feature()] * 2).regions) == 2
    with pytest.raises(UsageError, match="3 regions; at most 2"):
        parse([feature()] * 3)


def test_outlines_that_touch_themselves_are_repaired() -> None:
    # A notch that closes in a point, and a slip of the pen at a corner.
    notch = "[[[0,0],[100,0],[100,100],[50,0],[0,100],[0,0]]]"
    slip = "[[[0,0],[100,0],[100,100],[-1,100],[0,99],[0,101],[0,0]]]"
    for coordinates, area in ((notch, 5000), (slip, 10000)):
        found = parse(feature(coordinates, name="loop"))
        assert shapely.is_valid(found.regions[0].geometry)
        assert found.regions[0].geometry.area == pytest.approx(area, rel=0.01)
        assert 'annotation "loop" touched or crossed itself' in found.warnings[0]


@pytest.mark.parametrize(
    ("coordinates", "kind"),
    [
        ("[[[0,0],[100,100],[100,0],[0,100],[0,0]]]", "Polygon"),
        (f"[{rectangle(0, 0, 100, 100)}, {rectangle(50, 0, 150, 100)}]", "MultiPolygon"),
        ("[[[0,0],[9,0],[9,9],[0,9],[0,0]],[[50,50],[52,50],[52,52],[50,50]]]", "Polygon"),
    ],
)
def test_outlines_of_doubtful_area_are_refused(coordinates: str, kind: str) -> None:
    with pytest.raises(UsageError, match='annotation "eight" crosses itself'):
        parse([feature(coordinates, kind, name="eight")])


def test_parts_that_share_an_edge_become_one() -> None:
    parts = f"[{rectangle(0, 0, 100, 100)}, {rectangle(100, 0, 200, 100)}]"
    (found,) = parse(feature(parts, "MultiPolygon")).regions
    assert len(found.geometry.geoms) == 1
    assert found.geometry.area == 20000


# --- Origin and clipping


def test_coordinates_are_relative_to_the_bounds() -> None:
    found = parse(feature(), BOUNDS)
    assert (found.origin, found.warnings) == ("bounds", ())
    assert found.regions[0].geometry.bounds == (1100, 2100, 1300, 2200)
    assert parse(feature(), BOUNDS, "slide").regions[0].geometry.bounds == (100, 100, 300, 200)
    assert parse(feature(), BOUNDS, "slide").origin == "slide"
    assert parse(feature(), WHOLE).regions[0].geometry.bounds == (100, 100, 300, 200)


def test_auto_takes_the_slide_only_where_the_bounds_cannot_be_meant() -> None:
    far = feature(rectangle(2600, 3000, 3400, 3900))
    found = parse(far, BOUNDS)
    assert found.origin == "slide"
    assert found.regions[0].geometry.bounds == (2600, 3000, 3400, 3900)
    assert "--roi-origin bounds" in found.warnings[0]
    # Neither reading fits: QuPath's stays.
    beyond = feature(rectangle(-50, -50, 2600, 2100))
    assert parse(beyond, BOUNDS).origin == "bounds"
    # One per cent outside is a slip of the mouse, two are not.
    for width, origin in ((2525, "bounds"), (2552, "slide")):
        assert parse(feature(rectangle(0, 0, width, 2000)), BOUNDS).origin == origin
    # Missing cores often lie off the slide; they do not count.
    core = feature(rectangle(3000, 100, 3100, 200), objectType="tmaCore", isMissing=True)
    assert parse([feature(), core], BOUNDS).origin == "bounds"


def test_regions_outside_the_slide_are_refused() -> None:
    far = feature(rectangle(4100, 5100, 4200, 5200))
    with pytest.raises(UsageError, match=r"a\.svs, which has 4000 × 5000 px.*\(4100, 5100\)") as no:
        parse(far)
    assert "--roi-origin" in str(no.value)
    with pytest.raises(UsageError, match=r"\(5100, 7100\) to \(5200, 7200\).*origin slide"):
        parse(far, BOUNDS, "bounds")
    with pytest.raises(UsageError, match="lie outside"):
        parse(feature(rectangle(-9, 0, 0, 9)))


def test_one_region_outside_keeps_its_row() -> None:
    far = feature(rectangle(4100, 5100, 4200, 5200), name="far")
    found = parse([far, feature()])
    assert [one.name for one in found.regions] == ["far", "Region 2"]
    assert 'hold nothing: "far"' in found.warnings[0]
    mask = np.ones((50, 40), np.bool_)
    frame = Frame.of_slide(*SLIDE_PX, 100.0)
    assert area_px2(found.regions[0].geometry, mask, frame, SLIDE_PX) == 0


def test_regions_are_clipped_to_the_slide() -> None:
    found = parse(feature(rectangle(-100.5, 4900, 200, 5300.25), name="edge"))
    assert found.regions[0].geometry.bounds == (0, 4900, 200, 5000)
    assert found.regions[0].geometry.area == 20000
    assert 'clipped to it: "edge"' in found.warnings[0]
    # QuPath rounds; less than a pixel is not worth a word.
    rounded = parse(feature(rectangle(0, -0.004, 200, 200)))
    assert rounded.warnings == ()
    assert rounded.regions[0].geometry.bounds == (0, 0, 200, 200)


def test_warnings_hold_no_path(tmp_path: Path) -> None:
    path = tmp_path / "rois.geojson"
    path.write_text(json.dumps([feature(), feature("[1, 2]", "Point")]))
    (said,) = read_regions(path, "a", SLIDE_PX, WHOLE).warnings
    assert said.startswith("rois.geojson: ")


# --- Back to GeoJSON


def same(a: tuple[Region, ...], b: tuple[Region, ...]) -> bool:
    """Return whether all fields are equal, coordinates to the last bit."""

    def plain(one: Region) -> tuple[Any, ...]:
        shape = one.geometry
        return (one.name, one.class_name, one.class_rgb, one.kind, one.missing, one.uuid), shape.wkb

    return [plain(one) for one in a] == [plain(one) for one in b]


@pytest.mark.parametrize("origin", ["auto", "bounds"])
def test_written_regions_come_back_as_they_were(origin: RoiOrigin) -> None:
    parts = f"[{RECTANGLE}, {rectangle(500.01, 500.1, 510.33, 510.7)}]"
    texts = [
        json.loads(ANNOTATION),
        json.loads(CORE % "true"),
        json.loads(CORE % "false"),
        feature(parts, "MultiPolygon", classification="Stroma"),
        feature("[[[1000.1, 99.9], [4000.7, 201.3], [1000.123456789, 500.05], [1000.1, 99.9]]]"),
        feature(rectangle(9000, 9000, 9001, 9001), name="outside"),
    ]
    first = parse(texts, BOUNDS, "bounds").regions
    written = json.loads(json.dumps(regions_geojson(first, (BOUNDS.x_px, BOUNDS.y_px))))
    again = parse(written, BOUNDS, origin)
    assert same(again.regions, first)
    assert again.origin == "bounds"
    assert region_fingerprint(again.regions) == region_fingerprint(first)
    assert written["features"][3]["geometry"]["coordinates"][1][0][2] == [510.33, 510.7]


def test_what_we_write_opens_in_qupath() -> None:
    """By the rules of QuPath's reader: types, class with colour or as text, identity."""
    regions = parse([json.loads(ANNOTATION), json.loads(CORE % "true"), feature()]).regions
    features = regions_geojson(regions, (0, 0))["features"]
    for one in features:
        assert one["type"] == "Feature"
        assert one["properties"]["objectType"] == "annotation"
        assert one["properties"]["isLocked"] is True
        assert isinstance(one["properties"]["name"], str)
        assert shapely.is_valid(shapely.geometry.shape(one["geometry"]))
    classification = features[0]["properties"]["classification"]
    assert classification == {"name": "Tumor", "color": [200, 0, 10]}
    assert all(isinstance(v, str) for v in features[1]["properties"]["metadata"].values())
    assert "id" not in features[2]


def test_auto_believes_the_origin_we_wrote() -> None:
    """A region right of the bounds would else be read relative to the slide."""
    first = parse(feature(rectangle(3600, 2000, 3900, 3000)), BOUNDS, "slide").regions
    written = regions_geojson(first, (1000, 2000))
    assert parse(written, BOUNDS).regions[0].geometry.bounds == (3600, 2000, 3900, 3000)
    del written["origin_px"]
    assert parse(written, BOUNDS).origin == "slide"
    assert parse(regions_geojson(first, (0, 0)), BOUNDS).origin == "slide"


def test_the_fingerprint_tells_regions_apart() -> None:
    plain = feature(name="a", classification="T")
    other = [
        feature(rectangle(100, 100, 300, 200.01), name="a", classification="T"),
        feature(name="b", classification="T"),
        feature(name="a"),
        feature(name="a", classification="T", objectType="tmaCore"),
        feature(name="a", classification="T", objectType="tmaCore", isMissing=True),
    ]
    texts: list[Any] = [plain, *other, [plain, other[1]], [other[1], plain]]
    prints = {region_fingerprint(parse(text).regions) for text in texts}
    assert len(prints) == len(texts)
    coloured = feature(name="a", classification={"name": "T", "color": [1, 2, 3]})
    assert region_fingerprint(parse(coloured).regions) in prints


# --- Points and pixels, against slow twins

LATTICE = st.integers(-2, 26).map(lambda n: n * 1.0)
ANYWHERE = st.floats(-20, 230, allow_nan=False)


@st.composite
def geometries(draw: st.DrawFn) -> shapely.MultiPolygon:
    """Return polygons with holes and several parts; half of them on pixel edges and centres."""
    if draw(st.booleans()):
        half = draw(st.sampled_from([4.0, 8.0]))
        number = LATTICE.map(lambda n: n * half)
    else:
        number = ANYWHERE
    shape: shapely.Geometry = shapely.MultiPolygon()
    for i in range(draw(st.integers(1, 5))):
        points = draw(st.lists(st.tuples(number, number), min_size=3, max_size=5, unique=True))
        piece = shapely.MultiPoint(points).convex_hull
        if piece.geom_type != "Polygon" or piece.area < 1:
            continue
        shape = shape.difference(piece) if i % 3 == 2 else shape.symmetric_difference(piece)
    found = region(shape).geometry
    assume(shapely.is_valid(found))
    return found


@given(geometries(), st.sampled_from([8.0, 7.3, 16.0]), st.sampled_from([0.0, 3.0, 8.0, 20.0]))
@settings(max_examples=60, deadline=None)
def test_touched_pixels_are_those_of_the_slow_twin(
    geometry: shapely.MultiPolygon, scale: float, grow_px: float
) -> None:
    frame = Frame.of_slide(200, 150, scale)
    found = touched(geometry, frame, grow_px)
    assert found.shape == (frame.height_px, frame.width_px)
    assert not (slow_touched(geometry, frame, grow_px) & ~found).any()
    assert not (found & ~slow_touched(geometry, frame, grow_px + 1e-5)).any()


@given(geometries(), st.sampled_from([8.0, 7.3, 4.0]))
@settings(max_examples=60, deadline=None)
def test_covered_pixels_are_those_of_the_slow_twin(
    geometry: shapely.MultiPolygon, scale: float
) -> None:
    frame = Frame.of_slide(200, 150, scale)
    assert (covered(geometry, frame) == slow_covered(geometry, frame)).all()


@pytest.mark.parametrize(
    "notched",
    [
        "[[[4,4],[44,4],[44,44],[28,44],[20,20],[12,44],[4,44],[4,4]]]",
        "[[[4,4],[12,4],[20,20],[28,4],[44,4],[44,44],[4,44],[4,4]]]",
    ],
)
def test_centres_on_an_outline_are_not_inside(notched: str) -> None:
    """The tip of the notch, seen from below or from above, lies on a centre too."""
    frame = Frame.of_slide(80, 80, 8.0)
    (found,) = parse(feature(notched)).regions
    mask = covered(found.geometry, frame)
    assert (mask == slow_covered(found.geometry, frame)).all()
    assert mask.any()
    assert not mask[0].any()
    assert not mask[2, 2]


@given(geometries(), st.sampled_from([8.0, 7.3]), st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_areas_are_those_of_the_slow_twin(
    geometry: shapely.MultiPolygon, scale: float, seed: int, share: float
) -> None:
    slide_px = (187, 131)
    frame = Frame.of_slide(*slide_px, scale)
    shape = (frame.height_px, frame.width_px)
    mask = np.random.default_rng(seed).random(shape) < share
    expected = slow_area_px2(geometry, mask, frame, slide_px)
    # On slivers thinner than rounding GEOS contradicts itself: pieces of more than the whole.
    whole = shapely.intersection(geometry, shapely.box(0, 0, *slide_px)).area
    pieces = slow_area_px2(geometry, np.ones(shape, np.bool_), frame, slide_px)
    assume(pieces == pytest.approx(whole, rel=1e-9, abs=1e-7))
    assert area_px2(geometry, mask, frame, slide_px) == pytest.approx(expected, rel=1e-9, abs=1e-7)


def test_the_area_over_everything_is_the_polygons_own() -> None:
    frame = Frame.of_slide(187, 131, 7.3)
    geometry = region(shapely.Point(90, 60).buffer(50) - shapely.Point(80, 60).buffer(11)).geometry
    full = np.ones((frame.height_px, frame.width_px), np.bool_)
    assert area_px2(geometry, full, frame, (187, 131)) == pytest.approx(geometry.area, rel=1e-12)
    whole = region(shapely.box(-1e6, -1e6, 1e6, 1e6)).geometry
    assert area_px2(whole, full, frame, (187, 131)) == pytest.approx(187 * 131, rel=1e-9)
    assert area_px2(shapely.MultiPolygon(), full, frame, (187, 131)) == 0
    with pytest.raises(ValueError, match="for a frame of"):
        area_px2(geometry, full[1:], frame, (187, 131))


def test_several_geometries_are_taken_together() -> None:
    frame = Frame.of_slide(200, 150, 8.0)
    a, b = shapely.box(10, 10, 50, 50), shapely.box(40, 40, 90, 90)
    assert (covered([a, b], frame) == covered(a, frame) | covered(b, frame)).all()
    assert (touched([a, b], frame, 2.0) == touched(a, frame, 2.0) | touched(b, frame, 2.0)).all()
    assert not covered([], frame).any()
    regions = [region(a), region(b), region(shapely.box(0, 0, 200, 200), missing=True)]
    assert union_of(regions).area == 1600 + 2500 - 100
    assert union_of(regions[2:]).is_empty


@given(
    st.lists(st.tuples(geometries(), st.booleans()), max_size=5),
    st.lists(st.tuples(ANYWHERE, ANYWHERE), max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_members_are_those_of_the_slow_twin(
    shapes: list[tuple[shapely.MultiPolygon, bool]], points: list[tuple[float, float]]
) -> None:
    regions = [region(shape, missing=missing) for shape, missing in shapes]
    # Corners and middles of edges are the difficult points.
    hard = [np.empty((0, 2))] + [shapely.get_coordinates(shape) for shape, _ in shapes]
    xy = np.concatenate([np.array(points).reshape(-1, 2), *hard])
    xy = np.concatenate([xy, (xy[1:] + xy[:-1]) / 2, np.floor(xy)])
    x, y = xy[:, 0].copy(), xy[:, 1].copy()
    found = RegionIndex(regions).locate(x, y)
    members, innermost = slow_locate(regions, x, y)
    assert found.first.tolist() == [0, *np.cumsum([len(m) for m in members]).tolist()]
    assert found.member.tolist() == [i for held in members for i in held]
    assert found.innermost.tolist() == innermost
    assert (found.first.dtype, found.member.dtype) == (np.dtype(np.int64), np.dtype(np.int32))


def test_members_over_several_blocks_and_ragged_outlines() -> None:
    rng = np.random.default_rng(3)
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    shapes = []
    for x0, y0 in rng.uniform(500, 3500, (12, 2)):
        radius = 600 * rng.uniform(0.5, 1, len(angle))
        ring = np.stack([x0 + radius * np.cos(angle), y0 + radius * np.sin(angle)], axis=1)
        shapes.append(region(shapely.Polygon(ring)))
    x, y = rng.uniform(-200, 4200, (2, 40_000))
    found = RegionIndex(shapes).locate(x, y)
    held = np.stack([shapely.contains_xy(one.geometry, x, y) for one in shapes])
    counts: NDArray[np.int64] = held.sum(axis=0)
    assert (np.diff(found.first) == counts).all()
    assert (found.member == np.nonzero(held.T)[1]).all()
    assert counts.max() > 2


def test_the_innermost_is_the_smallest_and_then_the_first() -> None:
    big, small = shapely.box(0, 0, 90, 90), shapely.box(10, 10, 50, 50)
    regions = [region(big), region(small), region(small), region(big, missing=True)]
    found = RegionIndex(regions).locate(
        np.array([20.0, 80.0, 95.0, 10.0, np.nan]), np.full(5, 20.0)
    )
    assert found.innermost.tolist() == [1, 0, -1, 0, -1]
    assert found.member.tolist() == [0, 1, 2, 0, 0]
    none = RegionIndex([]).locate(np.array([1.0]), np.array([1.0]))
    assert (none.first.tolist(), none.innermost.tolist()) == ([0, 0], [-1])
    with pytest.raises(ValueError, match="one length"):
        RegionIndex(regions).locate(np.zeros(2), np.zeros(3))
