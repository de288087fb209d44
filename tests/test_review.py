"""A review: what is drawn, what comes back, and what is made of it."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image
from review_runs import MPP, ORIGIN, area_file, reviewable_run, reviewable_table
from run_dirs import CLASSES, RUN
from typer.testing import CliRunner

import wsiseg
from wsiseg import ReviewOptions, make_review, read_review
from wsiseg.classes.versions import CLASSES_SCHEMA
from wsiseg.cli import app
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.evaluation.sampling import Estimate, difference_total
from wsiseg.exporters.class_table import write_class_version
from wsiseg.review import Review
from wsiseg.review._squares import draw_sample
from wsiseg.testing.reviewed import Planted, as_qupath_writes, plant_edits

Document = dict[str, Any]


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes; reviews go elsewhere."""
    return reviewable_run(tmp_path_factory.mktemp("run") / "a.svs.wsiseg")


def draw(run: Path, tmp_path: Path, **options: Any) -> tuple[wsiseg.ReviewSample, Document]:
    """Draw a sample into `tmp_path` and return it with its GeoJSON."""
    out = tmp_path / "sample.geojson"
    sample = make_review(run, out, ReviewOptions(**options), to=tmp_path / "review")
    return sample, json.loads(out.read_text(encoding="utf-8"))


def read(run: Path, tmp_path: Path, document: Document, **options: Any) -> Review:
    edited = tmp_path / "edited.geojson"
    edited.write_text(json.dumps(document), encoding="utf-8")
    return read_review(run, edited, to=tmp_path / "review", **options)


def squares_and_nuclei(document: Document) -> tuple[list[Document], list[Document]]:
    features = document["features"]
    return (
        [one for one in features if "name" in one["properties"]],
        [one for one in features if "name" not in one["properties"]],
    )


def class_of(feature: Document) -> str | None:
    found = feature["properties"].get("classification")
    return None if found is None else found["name"]


def outline(x0: float, y0: float, x1: float, y1: float) -> Document:
    return shapely.geometry.mapping(shapely.box(x0, y0, x1, y1))


def drawn(geometry: Document, class_name: str | None = None, **more: Any) -> Document:
    properties: Document = {"objectType": "annotation"} | more
    if class_name is not None:
        properties["classification"] = {"name": class_name, "color": [1, 2, 3]}
    return {"type": "Feature", "id": "", "geometry": geometry, "properties": properties}


def test_a_sample_is_what_qupath_needs(shared_run: Path, tmp_path: Path) -> None:
    sample, document = draw(shared_run, tmp_path, n=12)
    squares, nuclei = squares_and_nuclei(document)
    assert [one["properties"]["name"] for one in squares] == [
        f"review {k:02d}" for k in range(1, 13)
    ]
    assert sum(square.kind == "random" for square in sample.squares) == 9
    assert all(one["properties"]["isLocked"] for one in squares)
    side_px = 100 / MPP
    boxes = [shapely.geometry.shape(one["geometry"]) for one in squares]
    assert {box.area for box in boxes} == {side_px**2}
    assert shapely.area(shapely.union_all(boxes)) == 12 * side_px**2

    # By hand: half-open squares, coordinates relative to the bounds, the run's own identities.
    expected = {}
    for row in pq.read_table(shared_run / "cells.parquet").to_pylist():
        x, y = row["x"] - ORIGIN[0], row["y"] - ORIGIN[1]
        for box in boxes:
            x0, y0, x1, y1 = box.bounds
            if x0 <= x < x1 and y0 <= y < y1:
                expected[row["uuid"]] = row["class_name"], (x, y)
    assert {one["id"]: class_of(one) for one in nuclei} == {
        key: name for key, (name, _) in expected.items()
    }
    for one in nuclei:
        centre = shapely.geometry.shape(one["geometry"]).centroid
        assert (centre.x, centre.y) == pytest.approx(expected[one["id"]][1], abs=1e-6)
        assert one["properties"]["objectType"] == "annotation"
        if class_of(one) is not None:
            colour = one["properties"]["classification"]["color"]
            assert colour == [10 * CLASSES.index(class_of(one)), 20, 30]


def test_the_same_call_draws_the_same_and_another_seed_another(
    shared_run: Path, tmp_path: Path
) -> None:
    first, _ = draw(shared_run, tmp_path, n=8)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    draw(shared_run, tmp_path, n=8)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    other, _ = draw(shared_run, tmp_path / "other", n=8, seed=1)
    assert [square.key for square in other.squares] != [square.key for square in first.squares]
    with pytest.raises(OutputExists, match="holds something else"):
        draw(shared_run, tmp_path, n=9)


def test_chances_go_with_the_analysed_area(tmp_path: Path) -> None:
    # Left half all tissue, right half a band of a quarter of each square's height or so.
    tissue = shapely.union(shapely.box(400, 300, 1600, 1900), shapely.box(1600, 300, 2800, 340))
    run = reviewable_run(tmp_path / "a.svs.wsiseg", reviewable_table([], []), tissue)
    sample, _ = draw(run, tmp_path, n=10, share_uncertain=0)
    # All squares were drawn in proportion to their share, so equal ratios.
    ratios = [s.inclusion_prob / max(s.analysed_share, 0.1) for s in sample.squares]
    assert ratios == pytest.approx([ratios[0]] * 10, rel=1e-3)
    assert sum(s.kind == "random" for s in sample.squares) == 10
    # About 48 whole squares and bands of a few.
    assert ratios[0] == pytest.approx(10 / 50, rel=0.2)


def test_what_was_not_analysed_is_not_drawn(tmp_path: Path) -> None:
    table = reviewable_table([], [])
    tiles = {"unreadable": [{"row": 0, "col": 0, "box": [400, 300, 1200, 1600], "reason": "x"}]}
    region = {"name": "A", "class": None, "kind": "annotation", "missing": False, "uuid": None}
    run = reviewable_run(
        tmp_path / "a.svs.wsiseg", table, tiles=tiles, regions=[region | {"analysed_mm2": 1.0}]
    )
    area_file(run / "regions.geojson", "A", shapely.box(1000, 300, 2000, 1900))
    sample, document = draw(run, tmp_path, n=900, share_uncertain=0)
    squares, _ = squares_and_nuclei(document)
    left = shapely.box(1600, 300, 2000, 1900)
    boxes = [shapely.geometry.shape(one["geometry"]) for one in squares]
    shifted = [shapely.transform(box, lambda xy: xy + np.array(ORIGIN)) for box in boxes]
    assert shapely.intersects(shifted, left).all()
    assert shapely.contains(shapely.union_all(shifted), left.buffer(-10))
    assert {square.inclusion_prob for square in sample.squares} == {1.0}


def test_the_least_certain_squares_are_drawn_apart(tmp_path: Path) -> None:
    # One patch of 3 x 3 nuclei of low certainty far from all others.
    sure = [(500.0 + 30 * i, 400.0 + 30 * k) for i in range(20) for k in range(20)]
    unsure = [(2500.0 + 12 * i, 1700.0 + 12 * k) for i in range(3) for k in range(3)]
    probs = [0.9] * len(sure) + [0.3] * len(unsure)
    names = ["Epithelial"] * len(probs)
    run = reviewable_run(tmp_path / "a.svs.wsiseg", reviewable_table(sure + unsure, names, probs))
    sample, _ = draw(run, tmp_path, n=4, share_uncertain=0.25, side_um=200, seed=3)
    (least,) = [square for square in sample.squares if square.kind == "uncertain"]
    assert least.inclusion_prob is None
    patch = {row["uuid"] for row in pq.read_table(run / "cells.parquet").to_pylist()[len(sure) :]}
    drawn_by_chance = {u for s in sample.squares if s.kind == "random" for u in s.cell_uuids}
    assert set(least.cell_uuids) & patch
    assert not drawn_by_chance & set(least.cell_uuids)


def check_planted(review: Review, planted: Planted) -> None:
    rows = review.changes.to_pylist()
    assert {r["uuid"] for r in rows if r["change"] == "deleted"} == planted.deleted
    relabelled = {r["uuid"]: r["corrected_class_name"] for r in rows if "relab" in r["change"]}
    assert relabelled == planted.relabelled
    assert {r["uuid"] for r in rows if "redrawn" in r["change"]} == planted.redrawn.keys()
    added = [r for r in rows if r["change"] == "added"]
    assert sorted((r["corrected_class_name"] or "") for r in added) == sorted(
        (name or "") for name, _ in planted.added
    )
    # The new outlines, in level-0 px.
    there = {r["uuid"]: shapely.from_wkb(r["geometry"]) for r in review.cells.to_pylist()}
    for key, polygon in planted.redrawn.items():
        moved = shapely.transform(polygon, lambda xy: xy + np.array(ORIGIN))
        assert shapely.hausdorff_distance(moved, there[key]) < 0.02


def _gzipped(path: Path, text: str) -> Path:
    target = path / "edited.geojson.gz"
    target.write_bytes(gzip.compress(text.encode()))
    return target


def _zipped(path: Path, text: str) -> Path:
    target = path / "edited.zip"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("edited.geojson", text)
    return target


def _plain(path: Path, text: str) -> Path:
    target = path / "edited.geojson"
    target.write_text(text, encoding="utf-8")
    return target


@pytest.mark.parametrize("keep_ids", [True, False], ids=["ids kept", "ids lost"])
@pytest.mark.parametrize("write", [_plain, _gzipped, _zipped])
def test_planted_edits_come_back_exactly(
    shared_run: Path, tmp_path: Path, write: Callable[[Path, str], Path], keep_ids: bool
) -> None:
    sample, document = draw(shared_run, tmp_path, n=15)
    rng = np.random.default_rng(4)
    edited, planted = plant_edits(document, CLASSES, rng, n_added=12)
    assert len(planted.added) == 12
    assert min(map(len, (planted.deleted, planted.relabelled, planted.redrawn))) > 20
    assert planted.relabelled.keys() & planted.redrawn.keys()
    path = write(tmp_path, json.dumps(as_qupath_writes(edited, rng, keep_ids=keep_ids)))
    review = read_review(shared_run, path, to=tmp_path / "review")
    check_planted(review, planted)
    assert review.reviewed == {square.name for square in sample.squares}
    assert any("lost their identity" in note for note in review.notes) is not keep_ids
    edits = review.edits["all"]
    assert edits["original"] == sum(len(square.cell_uuids) for square in sample.squares)
    assert edits["corrected"] == edits["original"] - len(planted.deleted) + 12


def test_a_copy_without_edits_says_so(shared_run: Path, tmp_path: Path) -> None:
    _, document = draw(shared_run, tmp_path, n=6)
    review = read(shared_run, tmp_path, as_qupath_writes(document, np.random.default_rng(0)))
    assert review.is_untouched
    assert any("no edit was found" in note for note in review.notes)
    random = review.agreement["random"]
    assert (random.pq.value, random.hd95_um.value) == (pytest.approx(1.0), 0.0)
    # Unchanged outlines are the run's own, to the last bit.
    original = {r["uuid"]: r for r in pq.read_table(shared_run / "cells.parquet").to_pylist()}
    for row in review.cells.to_pylist():
        assert row["geometry"] == original[row["uuid"]]["geometry"]
        assert row["x"] == original[row["uuid"]]["x"]


Small = tuple[Path, wsiseg.ReviewSample, Document]


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """A run of which a review sees everything; four nuclei in one square, others elsewhere."""
    # One square at least holds all four, wherever the grid begins.
    near = [(1000.0, 800.0), (1030.0, 800.0), (1000.0, 830.0), (1030.0, 830.0)]
    names = ["Epithelial", "Epithelial", "Inflammatory", None]
    far = [(2000.0, 1500.0), (2030.0, 1530.0)]
    table = reviewable_table(near + far, [*names, "Spindle", "Spindle"])
    run = reviewable_run(tmp_path / "a.svs.wsiseg", table)
    sample, document = draw(run, tmp_path, n=900, share_uncertain=0, side_um=400, seed=2)
    return run, sample, document


def test_agreement_is_that_computed_by_hand(small: Small, tmp_path: Path) -> None:
    run, sample, document = small
    squares, (a, b, _, d, e, f) = squares_and_nuclei(document)
    # a is moved 2 px to the right, b relabelled, c deleted; d, e, f stay, and one is added.
    a["geometry"] = outline(897, 745, 907, 755)
    b["properties"]["classification"] = {"name": "Spindle", "color": [0, 0, 0]}
    new = drawn(outline(950, 750, 960, 760), "Mitosis")
    review = read(run, tmp_path, {**document, "features": [*squares, a, b, d, e, f, new]})
    assert [r["change"] for r in review.changes.to_pylist()] == [
        "redrawn",
        "relabelled",
        "deleted",
        "added",
    ]
    found = review.agreement["random"]
    iou_a = 80 / 120
    assert (found.n_original, found.n_corrected, found.n_matched) == (6, 6, 5)
    assert found.dq.value == pytest.approx(5 / (5 + 0.5 + 0.5))
    assert found.sq.value == pytest.approx((4 + iou_a) / 5)
    assert found.pq.value == pytest.approx((4 + iou_a) / 6)
    assert (found.precision.value, found.recall.value) == pytest.approx((5 / 6, 5 / 6))
    assert found.same_class.value == pytest.approx(4 / 5)
    # Three fifths of a side lie 2 px away, so the 95th percentile does; 0.5 µm/px.
    assert found.redrawn_hd95_um.value == pytest.approx(1.0)
    assert found.hd95_um.value == pytest.approx(1.0 / 5)
    assert found.labels == (*CLASSES, "Mitosis", "(none)")
    epithelial, inflammatory, spindle, mitosis, none = found.classes
    assert (epithelial.precision.value, epithelial.recall.value) == (0.5, 1.0)
    assert (inflammatory.precision.value, inflammatory.recall.value) == (0.0, None)
    assert spindle.precision.value == 1.0
    assert spindle.recall.value == pytest.approx(2 / 3)
    assert spindle.f1.value == pytest.approx(4 / 5)
    assert (mitosis.precision.value, mitosis.recall.value) == (None, 0.0)
    assert (none.precision.value, none.recall.value) == (1.0, 1.0)
    assert found.confusion == (
        (1, 0, 1, 0, 0, 0),
        (0, 0, 0, 0, 0, 1),
        (0, 0, 2, 0, 0, 0),
        (0, 0, 0, 0, 0, 0),
        (0, 0, 0, 0, 1, 0),
        (0, 0, 0, 1, 0, 0),
    )
    assert "classes the run does not have: Mitosis" in review.notes
    # Everything was reviewed, so all of it is known for certain.
    for one in (found.pq, found.same_class, found.hd95_um, epithelial.precision):
        assert one == Estimate(one.value, one.value, one.value)
    part = {**document, "features": [*squares[1:], a, b, d, e, f, new]}
    unsure = read(run, tmp_path, part, overwrite=True).agreement["random"].pq
    assert unsure.value is not None
    assert unsure.low is None
    counts = {one.class_name: one for one in review.counts}
    wanted = {"Epithelial": (2, 1), "Inflammatory": (1, 0), "Spindle": (2, 3), "Mitosis": (0, 1)}
    for name, (before, after) in (wanted | {"(all)": (6, 6)}).items():
        assert counts[name].n == before
        assert counts[name].corrected_n == Estimate(after, after, after)
        assert counts[name].corrected_per_mm2.value == pytest.approx(after / sample.analysed_mm2)
    assert list(counts) == [*CLASSES, "Mitosis", "(all)"]


def test_what_was_drawn_anew_is_found_by_its_outline(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, (a, *others) = squares_and_nuclei(document)
    # Most of a's outline, under another identity; and one that covers too little of b.
    anew = drawn(outline(896, 745, 906, 755), "Epithelial")
    apart = drawn(outline(932, 745, 942, 755), "Epithelial")
    features = [*squares, anew, apart, *others[1:]]
    review = read(run, tmp_path, {**document, "features": features})
    rows = {row["change"]: row for row in review.changes.to_pylist()}
    assert rows.keys() == {"redrawn", "deleted", "added"}
    assert rows["redrawn"]["uuid"] == a["id"]
    assert rows["redrawn"]["found_by"] == "geometry"
    assert rows["redrawn"]["iou"] == pytest.approx(90 / 110)
    assert rows["deleted"]["uuid"] == others[0]["id"]


def test_roundings_are_no_edits_and_small_moves_are(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, nuclei = squares_and_nuclei(document)
    for shift, changed in ((0.03, False), (0.2, True)):
        moved = copy.deepcopy(nuclei)
        moved[0]["geometry"]["coordinates"][0][1][0] += shift
        features = [*squares, *moved]
        review = read(run, tmp_path, {**document, "features": features}, overwrite=True)
        assert review.is_untouched is not changed


def test_what_is_no_nucleus_of_the_squares_is_passed_over(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, nuclei = squares_and_nuclei(document)
    more = [
        drawn(outline(-90, -40, -80, -30)),
        drawn(outline(300, 250, 2700, 1850), name="my region"),
        drawn({"type": "Point", "coordinates": [905, 755]}),
        drawn({"type": "LineString", "coordinates": [[905, 755], [925, 755]]}),
        drawn({}),
        drawn(outline(950, 790, 960, 800), objectType="detection", id="x"),
        {**copy.deepcopy(nuclei[0]), "properties": {"objectType": "detection"}},
    ]
    left = nuclei[1:]
    review = read(run, tmp_path, {**document, "features": [*squares, *left, *more]})
    # The detection of the run that has the deleted nucleus's identity does not revive it.
    (row,) = review.changes.to_pylist()
    assert (row["change"], row["uuid"]) == ("deleted", nuclei[0]["id"])
    for said in ("outside the squares", "too large", "points and lines", "2 detections are not"):
        assert any(said in note for note in review.notes), said


def test_a_nucleus_of_the_run_beyond_the_edge_is_not_new(tmp_path: Path) -> None:
    # Rows are shifted, so that some nuclei lie across the edge of whatever square is drawn.
    places = [(1000.0 + 11 * i + k % 11, 800.0 + 11 * k) for i in range(54) for k in range(54)]
    table = reviewable_table(places, [None] * len(places))
    run = reviewable_run(tmp_path / "a.svs.wsiseg", table, shapely.box(1000, 800, 1600, 1400))
    for seed in range(100):
        (tmp_path / str(seed)).mkdir()
        sample, document = draw(run, tmp_path / str(seed), n=1, share_uncertain=0, seed=seed)
        box = sample.grid.box(sample.squares[0].key)
        if 1010 < box.x_px < 1500 and 790 < box.y_px < 1200:
            break
    # Left of the square; drawn again so that the centre comes to lie inside.
    rows = pq.read_table(run / "cells.parquet").to_pylist()
    (beyond, *_) = [
        row
        for row in rows
        if 0 < box.x_px - row["x"] < 2 and box.y_px + 20 < row["y"] < box.y_end_px - 20
    ]
    assert beyond["uuid"] not in sample.squares[0].cell_uuids
    x, y = beyond["x"] - ORIGIN[0] + 2, beyond["y"] - ORIGIN[1]
    again = drawn(outline(x - 5, y - 5, x + 5, y + 5))
    features = [*document["features"], again]
    review = read(run, tmp_path / str(seed), {**document, "features": features})
    assert review.is_untouched
    assert any("1 objects are nuclei of the run" in note for note in review.notes)


def test_a_version_of_the_classes_is_reviewed_as_it_was_shown(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    with pytest.raises(UnknownName, match="mine"):
        make_review(run, tmp_path / "s.geojson", classes="mine")
    names = ["Tumour", "Other"] * (pq.read_table(run / "cells.parquet").num_rows // 2)
    batch = pa.record_batch(
        {
            "cell_id": pa.array(range(1, len(names) + 1), pa.uint32()),
            "class_name": pa.array(names, pa.string()),
            "class_prob": pa.array(np.full(len(names), 0.5), pa.float32()),
        },
        schema=CLASSES_SCHEMA,
    )
    classes = [
        {"name": "Tumour", "index": 1, "rgb": [200, 0, 0]},
        {"name": "Other", "index": 2, "rgb": [0, 0, 200]},
    ]
    write_class_version(run, "mine", [batch], classes, {"how": "by hand"})
    sample = make_review(run, tmp_path / "s.geojson", ReviewOptions(n=6), classes="mine")
    assert sample.classes_version == "mine"
    assert sample.n_of_class == {"Tumour": len(names) // 2, "Other": len(names) // 2}
    _, nuclei = squares_and_nuclei(json.loads((tmp_path / "s.geojson").read_text()))
    assert {class_of(one) for one in nuclei} == {"Tumour", "Other"}
    assert nuclei[0]["properties"]["classification"]["color"] in ([200, 0, 0], [0, 0, 200])
    # Whatever version the reader has open.
    review = read_review(run, tmp_path / "s.geojson")
    assert review.is_untouched
    assert [count.class_name for count in review.counts] == ["Tumour", "Other", "(all)"]


def test_detections_count_where_there_is_nothing_else(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, nuclei = squares_and_nuclei(document)
    for one in nuclei:
        one["properties"]["objectType"] = "detection"
    review = read(run, tmp_path, {**document, "features": [*squares, *nuclei[1:]]})
    assert [row["change"] for row in review.changes.to_pylist()] == ["deleted"]


def test_outlines_of_every_kind(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, (a, b, c, *others) = squares_and_nuclei(document)
    # A bow tie, two pieces, and a nucleus without its class.
    bow = [[895, 745], [905, 755], [905, 745], [895, 755], [895, 745]]
    a["geometry"] = {"type": "Polygon", "coordinates": [bow]}
    pieces = [outline(925, 745, 929, 755), outline(931, 745, 935, 755)]
    b["geometry"] = {"type": "MultiPolygon", "coordinates": [p["coordinates"] for p in pieces]}
    del c["properties"]["classification"]
    review = read(run, tmp_path, {**document, "features": [*squares, a, b, c, *others]})
    changes = {row["uuid"]: row for row in review.changes.to_pylist()}
    assert [row["change"] for row in changes.values()] == ["redrawn", "redrawn", "relabelled"]
    assert changes[c["id"]]["corrected_class_name"] is None
    assert changes[b["id"]]["corrected_area_um2"] == pytest.approx(80 * MPP**2)
    assert changes[a["id"]]["corrected_area_um2"] == pytest.approx(50 * MPP**2)
    assert any(a["id"] in note and "repaired" in note for note in review.notes)
    # Half a bow tie matches nothing above 0.5: it counts as lost and found anew.
    assert review.agreement["random"].n_matched == 5


def test_an_outline_without_an_area_is_refused(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, (a, *others) = squares_and_nuclei(document)
    line = [[0, 0], [5, 5], [2, 2], [0, 0]]
    a["geometry"] = {"type": "Polygon", "coordinates": [line]}
    with pytest.raises(UsageError, match=f"{a['id']}.*encloses no area"):
        read(run, tmp_path, {**document, "features": [*squares, a, *others]})
    assert not (tmp_path / "review" / "agreement.json").exists()
    # Nor does a look for the review among several hide why.
    for name in "ab":
        make_review(run, tmp_path / f"{name}.geojson", ReviewOptions(n=900), name=name)
    document = json.loads((tmp_path / "b.geojson").read_text())
    squares, (a, *others) = squares_and_nuclei(document)
    a["geometry"] = {"type": "Polygon", "coordinates": [line]}
    edited = {**document, "features": [*squares, a, *others]}
    with pytest.raises(UsageError, match="encloses no area"):
        read_review(run, _plain(tmp_path, json.dumps(edited)))


def test_one_of_two_copies_is_taken(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, nuclei = squares_and_nuclei(document)
    changed = copy.deepcopy(nuclei[0])
    changed["properties"]["classification"] = {"name": "Spindle", "color": [0, 0, 0]}
    for order in ([*nuclei, changed], [changed, *nuclei]):
        features = {**document, "features": [*squares, *order]}
        review = read(run, tmp_path, features, overwrite=True)
        assert [row["change"] for row in review.changes.to_pylist()] == ["relabelled"]
        assert any("1 objects were there twice" in note for note in review.notes)


def test_a_duplicate_is_no_new_nucleus(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, nuclei = squares_and_nuclei(document)
    redrawn = {**nuclei[1], "geometry": outline(927, 745, 937, 755)}
    twice = drawn(outline(960, 790, 970, 800), "Spindle")
    again = [
        {**nuclei[0], "id": "9a1f0f5e-0000-4000-8000-000000000001"},
        {**redrawn, "id": "9a1f0f5e-0000-4000-8000-000000000002"},
        {**nuclei[1], "id": "9a1f0f5e-0000-4000-8000-000000000003"},
        copy.deepcopy(twice),
    ]
    features = [*squares, *again, nuclei[0], redrawn, *nuclei[2:], twice]
    review = read(run, tmp_path, {**document, "features": features})
    changes = {row["uuid"] or "new": row for row in review.changes.to_pylist()}
    assert {key: row["change"] for key, row in changes.items()} == {
        nuclei[1]["id"]: "redrawn",
        "new": "added",
    }
    assert any("4 objects were there twice" in note for note in review.notes)
    assert review.counts[-1].corrected_n.value == 7
    # A class that was set on the copy alone is what the reader said.
    for name in ("Inflammatory", None):
        copied = drawn(nuclei[0]["geometry"], name)
        edited = {**document, "features": [*squares, copied, *nuclei]}
        review = read(run, tmp_path, edited, overwrite=True)
        found = [row["corrected_class_name"] for row in review.changes.to_pylist()]
        assert found == ([name] if name else [])


def test_a_nucleus_drawn_over_one_that_is_there_is_told(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    for shift, told in ((1, True), (6, False)):
        over = drawn(outline(895 + shift, 745, 905 + shift, 755), "Epithelial")
        edited = {**document, "features": [*document["features"], over]}
        review = read(run, tmp_path, edited, overwrite=True)
        assert [row["change"] for row in review.changes.to_pylist()] == ["added"]
        assert any("1 added nuclei cover one" in note for note in review.notes) is told


def test_what_was_moved_off_its_place_is_another_nucleus(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, (a, b, *others) = squares_and_nuclei(document)
    # One within its square or to the next one, one off all squares.
    near = {**a, "geometry": outline(1095, 745, 1105, 755)}
    far = {**b, "geometry": outline(-90, -40, -80, -30)}
    review = read(run, tmp_path, {**document, "features": [*squares, near, far, *others]})
    rows = review.changes.to_pylist()
    assert sorted((row["change"], row["uuid"]) for row in rows if row["uuid"]) == sorted(
        ("deleted", one["id"]) for one in (a, b)
    )
    (added,) = [row for row in rows if row["change"] == "added"]
    assert (added["uuid"], added["x_um"]) == (None, (1100 + ORIGIN[0]) * MPP)
    assert review.edits["all"]["redrawn"] == 0
    for said in ("2 nuclei do not touch", "1 objects have their centre outside"):
        assert any(said in note for note in review.notes), said


@pytest.mark.parametrize("name", ["(all)", "(none)", "(added)", "(deleted)"])
def test_classes_that_stand_for_something_else_are_refused(
    small: Small, tmp_path: Path, name: str
) -> None:
    run, _, document = small
    _, (nucleus, *_) = squares_and_nuclei(document)
    nucleus["properties"]["classification"] = {"name": name, "color": [0, 0, 0]}
    with pytest.raises(UsageError, match=re.escape(f"has the class '{name}'")):
        read(run, tmp_path, document)
    table = reviewable_table([(1000.0, 800.0)], [name])
    named = reviewable_run(tmp_path / "named.svs.wsiseg", table)
    with pytest.raises(UsageError, match=re.escape(f"has the class '{name}'")):
        make_review(named, tmp_path / "n.geojson")


def test_squares_of_another_review_are_no_nuclei(tmp_path: Path) -> None:
    # Tissue up to the slide's edge, so that squares are cut off there.
    x, y, width, height = RUN["slide"]["bounds"]
    everywhere = shapely.box(x, y, x + width, y + height)
    table = reviewable_table([(1000.0, 800.0)], [None])
    run = reviewable_run(tmp_path / "a.svs.wsiseg", table, everywhere)
    for name, seed in (("one", 0), ("two", 1)):
        options = ReviewOptions(900, share_uncertain=0, seed=seed)
        make_review(run, tmp_path / f"{name}.geojson", options, name=name)
    one, two = (json.loads((tmp_path / f"{n}.geojson").read_text()) for n in ("one", "two"))
    areas = [shapely.geometry.shape(s["geometry"]).area for s in squares_and_nuclei(two)[0]]
    assert min(areas) < max(areas) / 2, "no square is as small as a nucleus may be"
    both = {**one, "features": [*one["features"], *two["features"]]}
    path = _plain(tmp_path, json.dumps(as_qupath_writes(both, np.random.default_rng(0))))
    with pytest.raises(UsageError, match=r"squares of 2 reviews \(one, two\).*--name"):
        read_review(run, path)
    for name, other in (("one", "two"), ("two", "one")):
        review = read_review(run, path, name=name)
        assert review.is_untouched
        assert any(f"were ignored ({other})" in note for note in review.notes)
    # Also without what the sample said of them.
    for square in squares_and_nuclei(two)[0]:
        square["id"] = ""
        del square["properties"]["metadata"]
    both = {**one, "features": [*one["features"], *two["features"]]}
    review = read_review(run, _plain(tmp_path, json.dumps(both)), name="one", overwrite=True)
    assert review.is_untouched


def test_other_coordinates_are_refused_and_one_moved_square_is_told(
    small: Small, tmp_path: Path
) -> None:
    run, _, document = small
    squares, nuclei = squares_and_nuclei(document)

    def shifted(features: list[Document]) -> list[Document]:
        moved = copy.deepcopy(features)
        for one in moved:
            ring = one["geometry"]["coordinates"][0]
            one["geometry"]["coordinates"] = [[[x + 30, y - 20] for x, y in ring]]
        return moved

    everything = {**document, "features": shifted([*squares, *nuclei])}
    with pytest.raises(UsageError, match="all squares lie 30 px in x and -20 px in y"):
        read(run, tmp_path, everything)
    some = {**document, "features": [*shifted(squares[:1]), *squares[1:], *nuclei]}
    review = read(run, tmp_path, some)
    assert review.is_untouched
    assert any("review 01 came back with another outline" in note for note in review.notes)


def test_a_square_that_is_not_there_was_not_reviewed(shared_run: Path, tmp_path: Path) -> None:
    sample, document = draw(shared_run, tmp_path, n=8, share_uncertain=0)
    squares, nuclei = squares_and_nuclei(document)
    gone = {sample.squares[0].name, sample.squares[1].name}
    lost = {u for square in sample.squares[:2] for u in square.cell_uuids}
    kept = [one for one in squares if one["properties"]["name"] not in gone]
    # Nuclei of one are gone too, those of the other are still there.
    left = [one for one in nuclei if one["id"] not in sample.squares[0].cell_uuids]
    # In every other square one nucleus of two is deleted.
    deleted = {u for square in sample.squares[2:] for u in square.cell_uuids[::2]}
    left = [one for one in left if one["id"] not in deleted]
    review = read(shared_run, tmp_path, {**document, "features": [*kept, *left]})
    assert review.reviewed == {square.name for square in sample.squares} - gone
    assert {row["uuid"] for row in review.changes.to_pylist()} == deleted
    assert not lost & set(review.cells["uuid"].to_pylist())
    assert any("did not come back: review 01, review 02" in note for note in review.notes)
    # The density falls by about half all the same: squares that are missing carry no zeros.
    total = review.counts[-1]
    assert total.corrected_n.value == pytest.approx(total.n / 2, rel=0.1)
    assert total.corrected_n.low < total.n / 2 < total.corrected_n.high


def test_uncertain_squares_do_not_touch_the_estimates(shared_run: Path, tmp_path: Path) -> None:
    sample, document = draw(shared_run, tmp_path, n=8)
    squares, nuclei = squares_and_nuclei(document)
    unsure = {u for s in sample.squares if s.kind == "uncertain" for u in s.cell_uuids}
    assert len(unsure) >= 10
    left = [one for one in nuclei if one["id"] not in unsure]
    review = read(shared_run, tmp_path, {**document, "features": [*squares, *left]})
    assert review.edits["uncertain"]["deleted"] == len(unsure)
    assert review.edits["random"]["deleted"] == 0
    assert review.agreement["uncertain"].pq.value == 0.0
    assert review.agreement["random"].pq.value == pytest.approx(1.0)
    assert [one.corrected_n.value for one in review.counts] == [one.n for one in review.counts]


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_original_and_corrected_stay_side_by_side(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    original = _hashes(run)
    make_review(run, tmp_path / "s.geojson.gz", ReviewOptions(n=5), name="first")
    make_review(run, tmp_path / "t.geojson.gz", ReviewOptions(n=5, seed=1), name="second")
    document = json.loads(gzip.decompress((tmp_path / "t.geojson.gz").read_bytes()))
    rng = np.random.default_rng(0)
    edited, planted = plant_edits(document, CLASSES, rng)
    path = _plain(tmp_path, json.dumps(as_qupath_writes(edited, rng)))
    # The right one of two reviews is found.
    review = read_review(run, path)
    check_planted(review, planted)
    assert review.path == run / "reviews" / "second"
    assert {p.name for p in review.path.iterdir()} == {
        *("sample.json", "edited.geojson.gz", "corrected_cells.parquet"),
        *("changes.parquet", "changes.csv", "agreement.json"),
    }
    assert gzip.decompress((review.path / "edited.geojson.gz").read_bytes()) == path.read_bytes()
    assert pq.read_table(review.path / "corrected_cells.parquet").equals(review.cells)
    once = _hashes(run)
    assert original.items() <= once.items()
    read_review(run, path, name="second")
    assert _hashes(run) == once
    for file in (run / "reviews").rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes()

    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(OutputExists, match=r"edited\.geojson\.gz exists"):
        read_review(run, path)
    assert _hashes(run) == once
    assert read_review(run, path, overwrite=True).is_untouched
    # Another sample of that name takes what was read of the first one away.
    make_review(run, tmp_path / "t.geojson.gz", ReviewOptions(n=6), name="second", overwrite=True)
    assert [p.name for p in review.path.iterdir()] == ["sample.json"]


def test_the_file_of_another_run_is_refused(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    places, names = [(1000.0, 800.0), (1100.0, 900.0)], ["Spindle", None]
    other = reviewable_run(tmp_path / "b.svs.wsiseg", reviewable_table(places, names))
    out = tmp_path / "s.geojson"
    with pytest.raises(ResultNotReadable, match="has no review"):
        read_review(run, _plain(tmp_path, '{"type": "FeatureCollection", "features": []}'))
    make_review(run, out, ReviewOptions(n=5))
    make_review(other, tmp_path / "o.geojson", ReviewOptions(n=5))
    with pytest.raises(UsageError, match="is a review of another run"):
        read_review(other, out)
    make_review(run, tmp_path / "p.geojson", ReviewOptions(n=5, seed=9), name="p")
    with pytest.raises(ResultNotReadable, match="no review 'q'; known: p, review"):
        read_review(run, out, name="q")
    with pytest.raises(UsageError, match="squares of another sample than 'review'"):
        read_review(run, tmp_path / "p.geojson", name="review")
    nuclei = json.loads(out.read_text())["features"][5:]
    without = json.dumps({"type": "FeatureCollection", "features": nuclei})
    with pytest.raises(UsageError, match="holds no square of the review"):
        read_review(run, _plain(tmp_path, without))
    with pytest.raises(UsageError, match="no JSON"):
        read_review(run, _plain(tmp_path, "a,b"))
    # The run was segmented again since.
    changed = pq.read_table(other / "cells.parquet")
    pq.write_table(changed.replace_schema_metadata(None), run / "cells.parquet")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"n_cells": changed.num_rows}))
    with pytest.raises(ResultNotReadable, match="is not the run the review"):
        read_review(run, out)


def test_a_folder_or_glob_of_one_run_names_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = reviewable_run(out / "deep" / "a.svs.wsiseg")
    made = make_review(out, tmp_path / "s.geojson", ReviewOptions(n=5))
    assert (run / "reviews" / "review" / "sample.json").is_file()
    review = read_review(str(out / "*" / "a*.wsiseg"), tmp_path / "s.geojson")
    assert review.sample.fingerprint == made.fingerprint
    for name in "bcde":
        reviewable_run(out / f"{name}.svs.wsiseg", reviewable_table([], []))
    several = "leads to 5 runs .*b.svs.wsiseg, c.svs.wsiseg, d.svs.wsiseg and 2 more.*name one"
    with pytest.raises(UsageError, match=several):
        make_review(out, tmp_path / "t.geojson")
    with pytest.raises(UsageError, match="leads to 5 runs"):
        read_review(out, tmp_path / "s.geojson")
    with pytest.raises(ResultNotReadable, match="no run"):
        make_review(tmp_path / "nothing", tmp_path / "t.geojson")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no readable record"),
        ('{"format": "x"}', "no readable record"),
        ('{"format": "wsiseg-review", "format_version": 1}', "no readable record"),
        ('{"format": "wsiseg-review", "format_version": 2}', "newer wsiseg"),
    ],
)
def test_a_damaged_record_is_refused(
    shared_run: Path, tmp_path: Path, content: str, said: str
) -> None:
    draw(shared_run, tmp_path, n=5)
    (tmp_path / "review" / "sample.json").write_text(content, encoding="utf-8")
    with pytest.raises(ResultNotReadable, match=said):
        read_review(shared_run, tmp_path / "sample.geojson", to=tmp_path / "review")


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"n": 1000}, {"side_um": 5}, {"seed": -1}, {"share_uncertain": 1.5}],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needed"):
        ReviewOptions(**wrong)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 65])
def test_names_that_lead_elsewhere_are_refused(shared_run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        make_review(shared_run, tmp_path / "s.geojson", name=name)
    with pytest.raises(UsageError, match="cannot be the name"):
        read_review(shared_run, _plain(tmp_path, "{}"), name=name)
    assert not (shared_run / "reviews").exists()


def test_runs_without_what_is_needed_are_refused(tmp_path: Path) -> None:
    empty = reviewable_run(
        tmp_path / "a.svs.wsiseg", analysed_mm2=0.0, no_density_reason="no tissue"
    )
    with pytest.raises(UsageError, match="no tissue"):
        make_review(empty, tmp_path / "s.geojson")
    run = reviewable_run(tmp_path / "b.svs.wsiseg")
    (run / "tissue.geojson").unlink()
    with pytest.raises(ResultNotReadable, match=r"no tissue\.geojson"):
        make_review(run, tmp_path / "s.geojson")
    table = reviewable_table([(1000.0, 800.0)], [None]).drop_columns(["uuid"])
    older = reviewable_run(tmp_path / "c.svs.wsiseg", table)
    with pytest.raises(ResultNotReadable, match="no column 'uuid'"):
        make_review(older, tmp_path / "s.geojson")
    assert not (tmp_path / "s.geojson").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_run_names_the_way_out(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    run.chmod(0o555)
    with pytest.raises(OutputNotWritable, match="--to"):
        make_review(run, tmp_path / "s.geojson")


def test_a_folder_that_cannot_be_made_names_the_way_out(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    (run / "reviews").write_text("in the way")
    with pytest.raises(OutputNotWritable, match="--to"):
        make_review(run, tmp_path / "s.geojson")
    assert not (tmp_path / "s.geojson").exists()
    make_review(run, tmp_path / "s.geojson", to=tmp_path / "elsewhere")
    assert read_review(run, tmp_path / "s.geojson", to=tmp_path / "elsewhere").is_untouched


def test_nothing_is_left_of_a_review_that_could_not_be_made(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    with pytest.raises(OutputNotWritable, match=r"s\.geojson"):
        make_review(run, tmp_path / "no such folder" / "s.geojson")
    assert not (run / "reviews").exists()
    make_review(run, tmp_path / "s.geojson", name="kept")
    with pytest.raises(OutputNotWritable):
        make_review(run, tmp_path / "no such folder" / "s.geojson", name="other")
    assert [path.name for path in (run / "reviews").iterdir()] == ["kept"]


def test_no_other_file_is_replaced_unasked(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    before = (run / "run.json").read_bytes()
    with pytest.raises(OutputExists, match=r"run\.json exists"):
        read(run, tmp_path, document, picture=run / "run.json")
    assert not (tmp_path / "review" / "agreement.json").exists()
    review = read(run, tmp_path, document, picture=tmp_path / "p.png")
    with pytest.raises(OutputExists, match=r"run\.json exists"):
        review.write_json(run / "run.json")
    assert (run / "run.json").read_bytes() == before
    review.write_json(tmp_path / "a.json")
    # The same again is no harm, and another one is replaced on demand.
    read(run, tmp_path, document, picture=tmp_path / "p.png").write_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{}")
    review.write_json(tmp_path / "a.json", overwrite=True)
    assert json.loads((tmp_path / "a.json").read_text()) == review.to_json()


def test_a_run_without_nuclei_can_be_reviewed(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg", reviewable_table([], []))
    sample, document = draw(run, tmp_path, n=20)
    assert {square.kind for square in sample.squares} == {"random"}
    assert len(sample.squares) == 15
    box = sample.grid.box(sample.squares[0].key)
    x, y = box.x_px - ORIGIN[0] + 50, box.y_px - ORIGIN[1] + 50
    missed = drawn(outline(x, y, x + 10, y + 10), "Epithelial")
    review = read(run, tmp_path, {**document, "features": [*document["features"], missed]})
    found = review.agreement["random"]
    assert (found.pq.value, found.recall.value, found.precision.value) == (0.0, 0.0, None)
    total = review.counts[-1]
    assert total.n == 0
    assert total.corrected_n.value == pytest.approx(1 / sample.squares[0].inclusion_prob)
    assert total.corrected_n.low == 0.0
    assert review.agreement["uncertain"].pq.value is None


def test_most_intervals_hold_the_truth(shared_run: Path) -> None:
    # Errors that come in patches; many reviews of the same truth.
    table = pq.read_table(shared_run / "cells.parquet", columns=["x", "y"])
    x, y = (table[name].to_numpy() for name in ("x", "y"))
    rng = np.random.default_rng(1)
    wrong = rng.uniform(size=len(x)) < 0.2 * (1 + np.sin(x / 250)) / 2
    result = wsiseg.open_result(shared_run)
    held, values = 0, []
    n_reviews = 60
    for seed in range(n_reviews):
        sample = draw_sample(result, "r", ReviewOptions(n=12, seed=seed))
        square = sample.grid.key(x, y)
        random = [s for s in sample.squares if s.kind == "random"]
        change = np.array([-float((wrong & (square == s.key)).sum()) for s in random])
        chance = np.array([s.inclusion_prob for s in random])
        estimate = difference_total(len(x), change, chance)
        held += estimate.low <= len(x) - wrong.sum() <= estimate.high
        values.append(estimate.value)
    # 95 % of 60 are 57; 51 or fewer would come by chance once in 200 times.
    assert held >= 52
    error = np.std(values) / np.sqrt(n_reviews)
    assert abs(np.mean(values) - (len(x) - wrong.sum())) < 3 * error


def test_errors_in_few_squares_are_warned_of(shared_run: Path, tmp_path: Path) -> None:
    sample, document = draw(shared_run, tmp_path, n=10, share_uncertain=0.2)
    chosen = [s for s in sample.squares if s.kind == "random"][:5]
    unsure = [s for s in sample.squares if s.kind == "uncertain"]
    for k in (0, 4, 5):
        gone = {square.cell_uuids[0] for square in (*chosen[:k], *unsure)}
        left = [one for one in document["features"] if one["id"] not in gone]
        review = read(shared_run, tmp_path, {**document, "features": left}, overwrite=True)
        told = any(f"errors were found in {k} of 8 random squares" in n for n in review.notes)
        assert told is (k < 5)


@pytest.mark.parametrize(("n", "share", "n_random"), [(4, 1.0, 0), (1, 0.0, 1)])
def test_too_few_random_squares_give_no_interval(
    shared_run: Path, tmp_path: Path, n: int, share: float, n_random: int
) -> None:
    _, document = draw(shared_run, tmp_path, n=n, share_uncertain=share)
    review = read(shared_run, tmp_path, document)
    assert review.agreement["random"].n_squares == n_random
    for count in review.counts:
        assert count.corrected_n.value == (count.n if n_random else None)
        assert count.corrected_per_mm2.low is None
    assert any(f"{n_random} random squares were reviewed" in note for note in review.notes)
    uncertain = review.agreement["uncertain"].pq
    assert (uncertain.value, uncertain.low) == ((1.0, None) if share else (None, None))


COLOURS = {
    "deleted": (220, 0, 0),
    "added": (0, 140, 0),
    "relabelled": (225, 120, 0),
    "redrawn": (20, 40, 200),
}


def in_picture(path: Path, colour: tuple[int, int, int]) -> int:
    """Return how many pixels have a colour, below the legend."""
    with Image.open(path) as image:
        below = np.asarray(image.convert("RGB"))[80:]
    return int((below == np.array(colour)).all(axis=2).sum())


def test_a_picture_shows_each_change(small: Small, tmp_path: Path) -> None:
    run, _, document = small
    squares, (a, b, _, *others) = squares_and_nuclei(document)
    boxes = [shapely.geometry.shape(one["geometry"]) for one in squares]
    squares = [
        s for s, box in zip(squares, boxes, strict=True) if box.contains(shapely.Point(900, 750))
    ]
    picture = tmp_path / "p.png"
    for what, features in (
        ("deleted", [a, b, *others]),
        ("added", [drawn(outline(950, 750, 960, 760))]),
        ("relabelled", [{**a, "properties": {"objectType": "annotation"}}]),
        ("redrawn", [{**a, "geometry": outline(897, 745, 907, 755)}]),
    ):
        edited = {**document, "features": [*squares, *features]}
        review = read(run, tmp_path, edited, picture=picture, overwrite=True)
        assert what in set(review.changes["change"].to_pylist())
        assert in_picture(picture, COLOURS[what]) > 20
        untouched = COLOURS.keys() - set(review.changes["change"].to_pylist())
        assert [name for name in untouched if in_picture(picture, COLOURS[name])] == []


def test_a_picture_has_the_slide_behind_it(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    _, document = draw(run, tmp_path, n=1, share_uncertain=0)
    slide = tmp_path / "a.png"
    Image.new("RGB", (4000, 3000), (240, 200, 220)).save(slide, compress_level=1)
    options: dict[str, Any] = {"picture": tmp_path / "p.png", "slide": slide}
    with pytest.raises(UsageError, match="is not the slide of"):
        read(run, tmp_path, document, **options)
    assert not (tmp_path / "p.png").exists()
    record = json.loads((run / "run.json").read_text())
    with wsiseg.open_slide(slide) as opened:
        record["slide"] |= {"fingerprint": opened.info.fingerprint, "reader": "image"}
    (run / "run.json").write_text(json.dumps(record))
    read(run, tmp_path, document, **options)
    assert in_picture(tmp_path / "p.png", (240, 200, 220)) > 100_000


def test_the_commands(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    out = tmp_path / "s.geojson"
    call = ["review", "make", str(run), "-n", "8", "--seed", "3", "-o", str(out)]
    made = CliRunner().invoke(app, call)
    assert made.exit_code == 0, made.output
    assert "8 squares" in made.output
    assert "wsiseg review read" in made.output
    document = json.loads(out.read_text())
    rng = np.random.default_rng(0)
    edited, _ = plant_edits(document, CLASSES, rng)
    path = _plain(tmp_path, json.dumps(as_qupath_writes(edited, rng)))
    done = CliRunner().invoke(app, ["review", "read", str(run), str(path)])
    assert done.exit_code == 0, done.output
    for said in ("random", "PQ", "Epithelial: recall", "(deleted)", "corrected per mm²", "(all)"):
        assert said in done.output
    printed = CliRunner().invoke(app, ["review", "read", str(run), str(path), "--json", "-"])
    values = json.loads(printed.output)
    assert values == json.loads((run / "reviews" / "review" / "agreement.json").read_text())
    assert values["squares"]["random"] == {"drawn": 6, "reviewed": 6}
    assert values["agreement"]["random"]["pq"]["value"] < 1
    wrong = CliRunner().invoke(app, ["review", "make", str(run), "-n", "0", "-o", str(out)])
    assert wrong.exit_code == 2
    assert "0 squares" in wrong.output
