"""Nuclei drawn in QuPath, and reviews of a run, become annotated images."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from label_files import (
    PLAIN,
    class_indices,
    feature,
    pixels,
    read_one,
    square,
    write_drawn,
    write_features,
    write_png,
    write_toml,
)
from numpy.typing import NDArray
from review_runs import reviewable_run
from run_dirs import RUN

from wsiseg import ReviewOptions, make_review, read_review
from wsiseg.errors import LabelsNotReadable, UsageError
from wsiseg.labels.reading import LabelOptions, read_label_sets
from wsiseg.records import UNKNOWN_CLASS

# GeoJSON


def test_regions_become_images_and_everything_outside_is_ignored(tmp_path: Path) -> None:
    triangle = shapely.Polygon([(10, 10), (60, 10), (10, 60)])
    parts = [
        feature(triangle, "Training region", objectType="annotation"),
        feature(square(100, 100, 40), None, objectType="annotation", name="Region 2"),
        feature(square(12, 12), "Tumor"),
        feature(square(120, 120), None),
        feature(square(134, 110), None, objectType="annotation"),
        feature(square(104, 104), "Ignore*", objectType="annotation"),
        feature(square(170, 170), "Tumor"),
        feature(square(0, 0, 190), "Tissue", objectType="annotation"),
    ]
    write_drawn(tmp_path, parts)
    sets = read_label_sets([tmp_path / "a.geojson"], PLAIN)
    first, second = sets.sets[0].images
    assert [first.name, second.name] == ["a_region1", "a_region2"]
    assert first.patient == second.patient == "a"
    assert sets.class_names == ("Tumor",)
    whole = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    assert np.array_equal(first.rgb, whole[10:60, 10:60])
    assert np.array_equal(second.rgb, whole[100:140, 100:140])
    assert np.array_equal(first.instances > 0, pixels((2, 2, 10, 10), size=(50, 50)))
    assert first.ignored is not None
    diagonal = np.add.outer(np.arange(50), np.arange(50))
    on_the_line = diagonal == 49
    assert np.array_equal(first.ignored[~on_the_line], diagonal[~on_the_line] > 49)
    assert class_indices(first) == [0]
    assert np.array_equal(
        second.instances > 0, pixels((20, 20, 28, 28), (34, 10, 40, 18), size=(40, 40))
    )
    assert class_indices(second) == [UNKNOWN_CLASS] * 2
    assert second.ignored is not None
    assert np.array_equal(second.ignored, pixels((4, 4, 12, 12), size=(40, 40)))
    assert any("1 annotations larger than" in note for note in sets.notes)


def test_cells_have_their_nucleus_and_shapes_their_holes(tmp_path: Path) -> None:
    cell = feature(square(10, 10, 20), "Tumor", objectType="cell")
    cell["nucleusGeometry"] = shapely.geometry.mapping(square(15, 15))
    ring = square(50, 50, 20).difference(square(55, 55, 5))
    pair = shapely.MultiPolygon([square(100, 20, 4), square(106, 20, 4)])
    write_drawn(tmp_path, [cell, feature(ring), feature(pair)])
    (image,) = read_one(tmp_path).images
    assert np.array_equal(image.instances == 1, pixels((15, 15, 23, 23), size=(200, 200)))
    hole = pixels((55, 55, 60, 60), size=(200, 200))
    assert np.array_equal(image.instances == 2, pixels((50, 50, 70, 70), size=(200, 200)) & ~hole)
    assert np.array_equal(
        image.instances == 3, pixels((100, 20, 104, 24), (106, 20, 110, 24), size=(200, 200))
    )
    assert image.name == "a"
    assert image.ignored is None


def test_coordinates_are_relative_to_the_origin_the_file_names(tmp_path: Path) -> None:
    write_drawn(tmp_path, [feature(square(10, 10))], origin_px=[30, 50])
    (image,) = read_one(tmp_path).images
    assert np.array_equal(image.instances == 1, pixels((40, 60, 48, 68), size=(200, 200)))


@pytest.mark.parametrize("end", [".geojson", ".png.geojson", ".png.training.geojson.gz"])
def test_a_file_belongs_to_the_image_it_is_called_after(tmp_path: Path, end: str) -> None:
    write_drawn(tmp_path, [feature(square(10, 10))])
    content = (tmp_path / "a.geojson").read_bytes()
    (tmp_path / "a.geojson").unlink()
    path = tmp_path / f"a{end}"
    path.write_bytes(gzip.compress(content) if end.endswith("gz") else content)
    write_png(tmp_path / "b" / "aa.png", np.zeros((9, 9, 3), np.uint8))
    assert read_one(path).images[0].name == "a"


def test_outlines_of_another_image_are_refused(tmp_path: Path) -> None:
    write_drawn(tmp_path, [feature(square(1000 * k, 900)) for k in range(3)])
    with pytest.raises(LabelsNotReadable, match=r"3 of 3 outlines have no pixel in .*200 × 200"):
        read_one(tmp_path)


@pytest.mark.real
def test_a_slide_is_read_in_its_regions_only(shared: Path, tmp_path: Path) -> None:
    slide = shared / "slides" / "CMU-1-Small-Region.svs"
    region = shapely.box(1000, 1200, 1100, 1260)
    parts = [
        feature(region, "Region*", objectType="annotation"),
        feature(square(1010, 1210), "Stroma"),
    ]
    write_features(tmp_path / "s.geojson", parts)
    toml = tmp_path / "sets.toml"
    toml.write_text(f'[[set]]\npath = "s.geojson"\nslide = "{slide}"\nlicence = "CC0-1.0"\n')
    found = read_one(toml, LabelOptions())
    (image,) = found.images
    assert image.rgb.shape == (60, 100, 3)
    assert image.rgb.std() > 5
    assert image.mpp == pytest.approx(0.499)
    assert np.array_equal(image.instances > 0, pixels((10, 10, 18, 18), size=(60, 100)))
    assert found.licence == "CC0-1.0"
    toml.write_text(f'[[set]]\npath = "s.geojson"\nmpp = 0.25\nslide = "{slide}"\n')
    with pytest.raises(UsageError, match=r"contradicts the file's 0\.499"):
        read_one(toml, LabelOptions())


# A review


def boxes_in(
    outlines_px: list[shapely.Geometry], origin: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the pixels of rectangles of whole pixels."""
    mask = np.zeros(size, np.bool_)
    for shape in outlines_px:
        x0, y0, x1, y1 = (round(v) for v in shape.bounds)
        x0, y0 = max(0, x0 - origin[0]), max(0, y0 - origin[1])
        mask[y0 : max(0, y1 - origin[1]), x0 : max(0, x1 - origin[0])] = True
    return mask


def test_a_review_that_came_back_is_training_data(tmp_path: Path) -> None:
    run = reviewable_run(tmp_path / "a.svs.wsiseg")
    drawn = tmp_path / "drawn.geojson"
    sample = make_review(run, drawn, ReviewOptions(n=4))
    document = json.loads(drawn.read_text())
    # One square was not looked at; in another a nucleus was deleted.
    left_out, *kept = sample.squares
    gone = {sample.square_uuid(left_out), kept[0].cell_uuids[0]}
    document["features"] = [one for one in document["features"] if one["id"] not in gone]
    (tmp_path / "edited.geojson").write_text(json.dumps(document))
    review = read_review(run, tmp_path / "edited.geojson")
    # Readers look at the content, not at the name.
    blank = np.full((RUN["slide"]["height_px"], RUN["slide"]["width_px"], 3), 230, np.uint8)
    write_png(tmp_path / "a.png", blank)
    (tmp_path / "a.png").rename(tmp_path / "a.svs")
    toml = write_toml(
        tmp_path / "sets.toml", f'[[set]]\npath = "{run.name}"\nslide = "a.svs"\nmpp = 0.5\n'
    )
    sets = read_label_sets([toml])
    images = sets.sets[0].images
    assert [one.name for one in images] == [f"a_review_{k.name.replace(' ', '')}" for k in kept]
    assert {one.patient for one in images} == {"a"}
    corrected = shapely.from_wkb(review.cells["geometry"].to_pylist())
    cells = pq.read_table(run / "cells.parquet")
    seen = {uuid for square in kept for uuid in square.cell_uuids}
    unseen = [
        shapely.from_wkb(row["geometry"]) for row in cells.to_pylist() if row["uuid"] not in seen
    ]
    n_ignored = 0
    for image, place in zip(images, kept, strict=True):
        box = sample.grid.box(place.key)
        origin, size = (box.x_px, box.y_px), (box.height_px, box.width_px)
        assert np.array_equal(image.instances > 0, boxes_in(list(corrected), origin, size))
        ignored = boxes_in(unseen, origin, size)
        n_ignored += int(ignored.sum())
        found = np.zeros(size, np.bool_) if image.ignored is None else image.ignored
        assert np.array_equal(found, ignored)
        for row in (r for r in review.cells.to_pylist() if r["square"] == place.name):
            index = image.classes[int(row["y"]) - box.y_px, int(row["x"]) - box.x_px]
            known = row["class_name"] is not None
            assert index == (sets.class_names.index(row["class_name"]) if known else UNKNOWN_CLASS)
    assert n_ignored > 0
    toml.write_text(f'[[set]]\npath = "{run.name}"\nmpp = 0.5\n')
    with pytest.raises(UsageError, match="a review holds no pixels; name the slide"):
        read_label_sets([toml])
    write_png(tmp_path / "b.png", blank[:9, :9])
    (tmp_path / "b.png").rename(tmp_path / "b.svs")
    toml.write_text(f'[[set]]\npath = "{run.name}"\nslide = "b.svs"\nmpp = 0.5\n')
    with pytest.raises(UsageError, match=r"is a review of a\.svs, and b\.svs was given"):
        read_label_sets([toml])
