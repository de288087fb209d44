"""Marks of QuPath and the nuclei they mean; against one that looks at every pair."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from marked_runs import BOUNDS_PX, box, feature, marked_run, points, write_marks

from wsiseg.classes.examples import REACH_UM, RunExamples, find_examples
from wsiseg.classes.versions import RESERVED_CLASS_NAMES
from wsiseg.errors import UsageError
from wsiseg.results import Result, open_result


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return open_result(marked_run(tmp_path_factory.mktemp("out") / "a.svs.wsiseg")[0])


def at(result: Result, cell: int, dx: float = 0, dy: float = 0) -> tuple[float, float]:
    table = result.cells(columns=["x", "y"])
    x, y = (table[name][cell - 1].as_py() for name in ("x", "y"))
    return x - BOUNDS_PX[0] + dx, y - BOUNDS_PX[1] + dy


def found(result: Result, tmp_path: Path, *features: dict[str, Any]) -> RunExamples:
    return find_examples(result, write_marks(tmp_path / "m.geojson", features))


def as_dict(examples: RunExamples) -> dict[int, str]:
    return dict(zip(examples.cell_id.tolist(), examples.class_names, strict=True))


def slow_examples(result: Result, features: list[dict[str, Any]]) -> dict[int, str]:
    """Every mark against every nucleus, by the rules as they are written."""
    cells = result.cells().to_pylist()
    outlines = {c["cell_id"]: shapely.from_wkb(c["geometry"]) for c in cells}
    marked = {}
    for one in features:
        shape = shapely.transform(
            shapely.geometry.shape(one["geometry"]), lambda xy: xy + np.array(BOUNDS_PX)
        )
        name = one["properties"]["classification"]["name"]
        if shape.geom_type == "MultiPoint":
            for point in shape.geoms:
                distance = {k: (o.distance(point), o.area, k) for k, o in outlines.items()}
                best = min(distance.values())
                if best[0] <= REACH_UM / result.mpp:
                    marked[best[2]] = name
            continue
        inside = [c["cell_id"] for c in cells if shapely.contains_xy(shape, c["x"], c["y"])]
        is_detection = one["properties"]["objectType"] == "detection"
        if is_detection or not inside:
            shared = {k: o.intersection(shape).area for k, o in outlines.items()}
            best_id = max(shared, key=lambda k: (shared[k], -k))
            least = min(outlines[best_id].area, shape.area) / 2 if is_detection else 0
            inside = [best_id] if shared[best_id] > 0 and shared[best_id] >= least else []
        marked |= dict.fromkeys(inside, name)
    return marked


@pytest.mark.parametrize("seed", range(4))
def test_marks_are_found_as_by_the_slow_twin(result: Result, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = []
    # One class: random marks may meet, and two classes on one nucleus are an error.
    for _ in range(30):
        features.append(feature(points(rng.uniform(50, 950, (15, 2))), "A"))
        x, y, side = rng.uniform(50, 900), rng.uniform(50, 900), rng.choice([4, 12, 70])
        kind = str(rng.choice(["annotation", "detection"]))
        features.append(feature(box(x, y, x + side, y + side), "A", kind))
    slow = slow_examples(result, features)
    assert as_dict(found(result, tmp_path, *features)) == slow
    assert len(slow) > 20


def test_a_click_marks_the_nucleus_it_lies_in_or_the_nearest(
    result: Result, tmp_path: Path
) -> None:
    near, far = 5 + REACH_UM / result.mpp - 0.1, 5 + REACH_UM / result.mpp + 0.1
    marks = [at(result, 1), at(result, 2, 4, 0), at(result, 3, near, 0), at(result, 4, far, 0)]
    examples = found(result, tmp_path, feature(points(marks), "A"))
    assert as_dict(examples) == {1: "A", 2: "A", 3: "A"}
    assert (examples.n_marks, examples.n_missed) == (4, 1)
    assert examples.colours == {"A": (200, 1, 7)}
    assert len(set(examples.group.tolist())) == 3


def test_an_area_marks_the_nuclei_with_their_centroid_inside(
    result: Result, tmp_path: Path
) -> None:
    (x0, y0), (x1, y1) = at(result, 1), at(result, 23)
    # Cells 1, 2, 3, 21, 22, 23 … in a grid of 20; edges on centroids are outside.
    examples = found(result, tmp_path, feature(box(x0, y0 - 9, x1 + 9, y1 + 9), "A"))
    assert sorted(as_dict(examples)) == [2, 3, 22, 23]
    assert len(set(examples.group.tolist())) == 1
    # A piece of a nucleus without its centroid.
    small = feature(box(*at(result, 5, 2, 0), *at(result, 5, 4, 1)), "B")
    assert as_dict(found(result, tmp_path, small)) == {5: "B"}


def test_detections_are_known_by_their_id(result: Result, tmp_path: Path) -> None:
    ids = result.cells(columns=["uuid"])["uuid"].to_pylist()
    # Its outline lies elsewhere: the id decides.
    far = feature(box(0, 0, 5, 5), "A", "detection", ids[6])
    redrawn = feature(box(*at(result, 9, -4, -4), *at(result, 9, 4, 4)), "A", "detection", "x-1")
    touching = feature(box(*at(result, 11, 4, -9), *at(result, 11, 20, 9)), "A", "detection")
    examples = found(result, tmp_path, far, redrawn, touching)
    assert sorted(as_dict(examples)) == [7, 9]
    assert examples.n_missed == 1


def test_marked_twice_alike_counts_once(result: Result, tmp_path: Path) -> None:
    twice = [feature(points([at(result, 1), at(result, 1, 1, 1)]), "A")]
    twice.append(feature(box(*at(result, 1, -9, -9), *at(result, 1, 9, 9)), "A"))
    assert as_dict(found(result, tmp_path, *twice)) == {1: "A"}


def test_contradictions_are_named(result: Result, tmp_path: Path) -> None:
    one = feature(points([at(result, 1), at(result, 2)]), "A", name="mine")
    other = feature(box(*at(result, 1, -9, -9), *at(result, 1, 9, 9)), "B")
    said = (
        r"two classes: cell 1 is 'A' \(annotation \"mine\"\) and 'B' \(annotation 2 of the file\)"
    )
    with pytest.raises(UsageError, match=said):
        found(result, tmp_path, one, other)
    many = [feature(points([at(result, k) for k in range(1, 8)]), name) for name in "AB"]
    with pytest.raises(UsageError, match=r"cell 1 .*cell 2 .*cell 3 .* and 4 more; remove one"):
        found(result, tmp_path, *many)


def test_what_has_no_class_is_counted(result: Result, tmp_path: Path) -> None:
    features = [
        feature(points([at(result, 1)]), "A"),
        feature(points([at(result, 2)]), None),
        feature(points([at(result, 3)]), "Ignore*"),
        feature({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}, "A"),
        feature(None, "A"),
    ]
    examples = found(result, tmp_path, *features)
    assert as_dict(examples) == {1: "A"}
    said = " | ".join(examples.notes)
    for part in ("objects without a class", "QuPath ignores", "points and lines", "without a geom"):
        assert part in said
    with pytest.raises(UsageError, match=r"has no object with a class .*without a class.*mark nuc"):
        found(result, tmp_path, features[1])


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        ({"type": "Point", "coordinates": ["a", 1]}, "has a point that is no pair of numbers"),
        ({"type": "MultiPoint", "coordinates": [[1]]}, "has a point that is no pair of numbers"),
        ({"type": "Point", "coordinates": [float("nan"), 1]}, "a point that is no pair"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "fewer than three corners"),
    ],
)
def test_damaged_marks_are_named(
    result: Result, tmp_path: Path, geometry: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        found(result, tmp_path, feature(geometry, "A"))


def test_files_come_packed_nested_or_of_another_origin(result: Result, tmp_path: Path) -> None:
    parent = feature(points([at(result, 1)]), "A")
    parent["properties"]["childObjects"] = [feature(points([at(result, 2)]), "B")]
    packed = tmp_path / "m.geojson.gz"
    packed.write_bytes(gzip.compress(json.dumps(parent).encode()))
    assert as_dict(find_examples(result, packed)) == {1: "A", 2: "B"}
    x, y = at(result, 3)
    absolute = feature(points([(x + BOUNDS_PX[0], y + BOUNDS_PX[1])]), "A")
    path = tmp_path / "own.geojson"
    collection = {"type": "FeatureCollection", "origin_px": [0, 0], "features": [absolute]}
    path.write_text(json.dumps(collection))
    assert as_dict(find_examples(result, path)) == {3: "A"}


def test_the_whole_of_the_runs_own_detections_teaches_nothing(
    result: Result, tmp_path: Path
) -> None:
    cells = result.cells(columns=["uuid", "class_name"]).to_pylist()
    own = [
        feature(box(0, 0, 5, 5), cell["class_name"], "detection", cell["uuid"]) for cell in cells
    ]
    with pytest.raises(UsageError, match=r"400 of the 400 nuclei of a\.svs as detections"):
        found(result, tmp_path, *own)
    changed = [feature(box(0, 0, 5, 5), "New", "detection", cell["uuid"]) for cell in cells]
    assert len(found(result, tmp_path, *changed).cell_id) == 400
    assert len(found(result, tmp_path, *own[:100]).cell_id) == 100


def test_the_smaller_of_two_nested_nuclei_is_meant(tmp_path: Path) -> None:
    folder, _ = marked_run(tmp_path / "a.wsiseg", 4)
    result = open_result(folder)
    table = pq.read_table(result.cells_path)
    around = shapely.to_wkb(shapely.Point(200, 200).buffer(30))
    shapes = [around, *table["geometry"].to_pylist()[1:]]
    shapes[1] = shapely.to_wkb(shapely.Point(200, 200).buffer(3))
    position = table.schema.get_field_index("geometry")
    table = table.set_column(position, "geometry", pa.array(shapes, pa.binary()))
    bounds = np.array([shapely.from_wkb(s).bounds for s in shapes])
    corners = [pa.array(bounds[:, k]) for k in range(4)]
    boxes = pa.StructArray.from_arrays(corners, ["xmin", "ymin", "xmax", "ymax"])
    table = table.set_column(table.schema.get_field_index("bbox"), "bbox", boxes)
    pq.write_table(table, result.cells_path)
    marks = feature(points([(100, 150)]), "A"), feature(points([(110, 150)]), "B")
    assert as_dict(found(result, tmp_path, *marks)) == {2: "A", 1: "B"}


@pytest.mark.parametrize("name", [*RESERVED_CLASS_NAMES, "nucleus"])
def test_names_that_mean_something_else_are_refused(
    result: Result, tmp_path: Path, name: str
) -> None:
    marks = feature(points([at(result, 1)]), "A"), feature(points([at(result, 2)]), name)
    with pytest.raises(
        UsageError, match=r"\(annotation 2 of the file\) .*; give the class another"
    ):
        found(result, tmp_path, *marks)


def test_a_class_without_a_name_is_none(result: Result, tmp_path: Path) -> None:
    marks = [feature(points([at(result, k)]), name) for k, name in enumerate(["A", "", "  "], 1)]
    examples = found(result, tmp_path, *marks)
    assert as_dict(examples) == {1: "A"}
    assert examples.notes == ("objects without a class were skipped: 2",)


def test_marks_that_all_miss_say_how_far(result: Result, tmp_path: Path) -> None:
    table = result.cells(columns=["x", "y"])
    xy = np.column_stack([table["x"], table["y"]])
    x, y = xy.min(axis=0)
    marks = [(x - 100 - 60 - 10 * k - BOUNDS_PX[0], y - BOUNDS_PX[1]) for k in range(3)]
    away_px = np.hypot(*(xy - (x - 160, y)).T).min()
    said = f"none of its 3 marks hits a nucleus of .*; the nearest is {away_px * result.mpp:.0f} µm"
    with pytest.raises(UsageError, match=f"{said} .*bounds: 100, 50 px"):
        found(result, tmp_path, feature(points(marks), "A"))
    some = found(result, tmp_path, feature(points([*marks, at(result, 1)]), "A"))
    assert some.n_missed == 3
    expected = [np.hypot(*(xy - np.add(mark, BOUNDS_PX)).T).min() * result.mpp for mark in marks]
    np.testing.assert_allclose(some.missed_um, expected, rtol=1e-5)
