"""Annotated images of every format come out alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from label_files import (
    N_NUCLEI,
    WRITERS,
    Truth,
    aperio_text,
    feature,
    pannuke_masks,
    truth,
    truths,
    write_features,
    write_folder,
    write_mat,
    write_png,
)
from numpy.typing import NDArray
from review_runs import reviewable_run
from run_dirs import RUN

from wsiseg import ReviewOptions, make_review, read_review
from wsiseg.errors import LabelsNotReadable, UsageError
from wsiseg.labels.numbering import majority, renumbered
from wsiseg.labels.reading import LabelOptions, read_label_sets
from wsiseg.labels.recognition import FORMATS
from wsiseg.labels.records import LabelledImage, LabelSet, refuse_shared_patients
from wsiseg.records import UNKNOWN_CLASS

PLAIN = LabelOptions(mpp=0.25)
NAMED = replace(PLAIN, class_of={"1": "Spindle", "2": "Epithelial", "3": ""})

NAMES: Mapping[str, tuple[str, ...]] = {
    "consep": ("Miscellaneous", "Inflammatory", "Epithelial"),
    "lizard": ("Inflammatory", "Epithelial", "Inflammatory"),
    "conic": ("Inflammatory", "Epithelial", "Inflammatory"),
    "pannuke": ("Epithelial", "Inflammatory", "Spindle"),
    "geojson": ("Inflammatory", "Epithelial", "Spindle"),
    "folders": ("Spindle", "Epithelial", ""),
    "monuseg": ("", "", ""),
}
"""What the classes 1, 2 and 3 of the truth become."""


def read_one(path: Path, options: LabelOptions = PLAIN) -> LabelSet:
    (found,) = read_label_sets([path], options).sets
    return found


def class_indices(image: LabelledImage) -> list[int]:
    """Return the one class of each nucleus, 1 to n."""
    n = int(image.instances.max())
    found = [np.unique(image.classes[image.instances == k]) for k in range(1, n + 1)]
    assert all(len(values) == 1 for values in found)
    assert (image.classes[image.instances == 0] == UNKNOWN_CLASS).all()
    return [int(values[0]) for values in found]


def assert_is_truth(image: LabelledImage, one: Truth, names: tuple[str, ...], of: str) -> None:
    assert np.array_equal(image.rgb, one.rgb)
    assert image.rgb.dtype == np.uint8
    assert image.instances.dtype == np.int32
    pairs = np.unique(np.stack([image.instances, one.labels]).reshape(2, -1), axis=1)
    # One to one, numbered from 1 without a gap.
    assert len(pairs.T) == N_NUCLEI + 1
    assert pairs[0].tolist() == list(range(N_NUCLEI + 1))
    ours = class_indices(image)
    for found, there in pairs.T[1:]:
        name = NAMES[of][one.classes[there - 1] - 1]
        expected = names.index(name) if name else UNKNOWN_CLASS
        assert ours[found - 1] == expected


@pytest.mark.parametrize("of", WRITERS)
def test_every_format_gives_the_same_image(of: str, tmp_path: Path) -> None:
    written = truths()
    WRITERS[of](tmp_path / "data", written)
    options = {"folders": NAMED, "pannuke": LabelOptions(), "monuseg": LabelOptions()}
    sets = read_label_sets([tmp_path / "data"], options.get(of, PLAIN))
    (found,) = sets.sets
    assert found.name == "data"
    by_name = {"b": 0, "a": 1} if of in ("pannuke", "conic") else {"a": 0, "b": 1}
    for name, position in by_name.items():
        assert_is_truth(found.images[position], written[name], sets.class_names, of)
    # Of published sets all classes are annotated, whether or not a nucleus has them.
    known = next(one.class_of for one in FORMATS if one.name == of)
    wanted = {*NAMES[of], *(known.values() if of != "monuseg" else ())} - {""}
    ours = ("Epithelial", "Inflammatory", "Spindle", "Miscellaneous")
    assert sets.class_names == tuple(n for n in ours if n in wanted) == found.class_names
    assert {image.ignored is None for image in found.images} == {True}


def test_every_format_is_tried_and_tells_itself_from_the_others(tmp_path: Path) -> None:
    assert {one.name for one in FORMATS} == {*WRITERS, "review"}
    for name, write in WRITERS.items():
        write(tmp_path / name, truths())
        assert [one.name for one in FORMATS if one.is_there(tmp_path / name)] == [name]


def test_published_scales_and_names_are_known(tmp_path: Path) -> None:
    for name in ("lizard", "pannuke", "conic", "monuseg"):
        WRITERS[name](tmp_path / name, truths())
    sets = read_label_sets([tmp_path / name for name in ("lizard", "pannuke", "conic", "monuseg")])
    lizard, pannuke, conic, monuseg = sets.sets
    assert [one.images[0].mpp for one in sets.sets] == [0.5, 0.25, 0.5, 0.25]
    assert pannuke.organs == {"pannuke_00000": "Breast", "pannuke_00001": "Bile-duct"}
    assert any("PanNuke does not tell patients" in note for note in sets.notes)
    assert [one.patient for one in conic.images] == ["consep_1", "crag_19"]
    assert [one.name for one in conic.images] == ["consep_1-0000", "crag_19-0003"]
    assert monuseg.class_names == ()
    assert lizard.class_names == ("Epithelial", "Inflammatory", "Spindle")


# Folders


def test_a_manifest_chooses_orders_and_tells(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": truth(), "TCGA-AA-1111-01": truth(), "c": truth()})
    text = "name,organ,patient,mpp\nTCGA-AA-1111-01,lung,,\na,,P7,0.5\n"
    (tmp_path / "manifest.csv").write_text(text)
    found = read_one(tmp_path, NAMED)
    assert [one.name for one in found.images] == ["TCGA-AA-1111-01", "a"]
    assert [one.patient for one in found.images] == ["TCGA-AA-1111", "P7"]
    assert [one.mpp for one in found.images] == [0.25, 0.5]
    assert found.organs == {"TCGA-AA-1111-01": "lung"}


def test_patients_are_found_by_an_expression(tmp_path: Path) -> None:
    write_folder(tmp_path, {"x_12_a": truth(), "x_12_b": truth(), "y_3_a": truth()})
    found = read_one(tmp_path, replace(NAMED, patient=r"_(\d+)_"))
    assert [one.patient for one in found.images] == ["12", "12", "3"]
    with pytest.raises(UsageError, match=r"'z\\\\d' finds nothing in 'x_12_a'"):
        read_one(tmp_path, replace(NAMED, patient=r"z\d"))


def test_ignored_pixels_come_from_pictures_and_from_classes(tmp_path: Path) -> None:
    one = truth()
    write_folder(tmp_path, {"a": one})
    corner = np.zeros(one.labels.shape, np.uint8)
    corner[:5, :4] = 255
    write_png(tmp_path / "ignored" / "a.png", corner)
    sets = read_label_sets([tmp_path], replace(NAMED, class_of={"1": "-", "2": "", "3": "New"}))
    (image,) = sets.sets[0].images
    assert sets.class_names == ("New",)
    assert image.ignored is not None
    assert np.array_equal(image.ignored, (one.class_map == 1) | (corner > 0))
    assert np.array_equal(image.instances > 0, one.class_map > 1)
    assert image.instances.max() == 6
    assert set(class_indices(image)) == {0, UNKNOWN_CLASS}
    assert any("3 nuclei of classes to ignore" in note for note in sets.notes)


def test_a_nucleus_has_the_class_of_most_of_its_pixels(tmp_path: Path) -> None:
    labels = np.zeros((4, 8), np.uint8)
    labels[:, :4], labels[:, 4:7] = 9, 4
    types = np.array([[0, 0, 0, 2, 3, 3, 1, 1]] * 4, np.uint8)
    types[0, 6] = 3
    write_png(tmp_path / "images" / "a.png", np.zeros((4, 8, 3), np.uint8))
    write_png(tmp_path / "inst" / "a.png", labels)
    write_png(tmp_path / "types" / "a.png", types)
    options = replace(PLAIN, class_of={"1": "One", "2": "Two", "3": "Three"})
    sets = read_label_sets([tmp_path], options)
    (image,) = sets.sets[0].images
    assert sets.class_names == ("One", "Two", "Three")
    # Labels keep their order: 4 becomes 1, and 9 becomes 2.
    assert class_indices(image) == [2, 1]


def test_votes_are_counted_as_by_hand() -> None:
    rng = np.random.default_rng(3)
    instances, _ = renumbered(rng.integers(0, 6, (20, 20)).astype(np.int32))
    values = rng.integers(0, 4, (20, 20)).astype(np.int32)
    slow = []
    for k in range(1, instances.max() + 1):
        votes = [v for v in values[instances == k].tolist() if v]
        slow.append(min(set(votes), key=lambda v: (-votes.count(v), v)))
    assert majority(instances, values).tolist() == slow
    tie = majority(np.ones((1, 5), np.int32), np.array([[7, 5, 5, 7, 0]], np.int32))
    assert tie.tolist() == [5]
    assert majority(np.ones((1, 2), np.int32), np.zeros((1, 2), np.int32)).tolist() == [0]


@pytest.mark.parametrize("step", [1, 10_000_000])
def test_numbers_come_out_in_order_without_gaps(step: int) -> None:
    labels = np.array([[0, 7, 3], [3, 0, 12]], np.int32) * step
    numbered, values = renumbered(labels)
    assert numbered.tolist() == [[0, 2, 1], [1, 0, 3]]
    assert values.tolist() == [3 * step, 7 * step, 12 * step]


# ImageScope


def test_regions_that_are_no_nuclei_are_left_out(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.full((20, 20, 3), 200, np.uint8))
    square = np.array([(2, 2), (8, 2), (8, 8), (2, 8)], np.float64)
    extra = (
        '<Region Id="7" Type="0"><Vertices><Vertex X="1" Y="1"/></Vertices></Region>'
        '<Region Id="8" Type="0" NegativeROA="1"><Vertices><Vertex X="1" Y="1"/><Vertex X="9" '
        'Y="1"/><Vertex X="5" Y="9"/></Vertices></Region>'
    )
    (tmp_path / "a.xml").write_text(aperio_text([square, square + 0.1], "0.252", extra))
    sets = read_label_sets([tmp_path], LabelOptions(overlaps="resolve"))
    (image,) = sets.sets[0].images
    assert image.mpp == 0.252
    assert np.array_equal(np.argwhere(image.instances == 1), np.argwhere(np.ones((6, 6))) + 2)
    said = " ".join(sets.notes)
    assert "1 negative regions" in said
    assert "1 regions without an area" in said
    assert "1 nuclei drawn twice" in said
    with pytest.raises(LabelsNotReadable, match=r"region . of annotation 1 covers 100% of region"):
        read_label_sets([tmp_path])


def test_an_attribute_names_the_class_as_in_monusac(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.full((20, 20, 3), 200, np.uint8))
    square = np.array([(2, 2), (8, 2), (8, 8), (2, 8)], np.float64)
    text = aperio_text([square]).replace('Name="Description"', 'Name="Lymphocyte"')
    (tmp_path / "a.xml").write_text(text)
    sets = read_label_sets([tmp_path])
    assert class_indices(sets.sets[0].images[0]) == [sets.class_names.index("Inflammatory")]
    (tmp_path / "a.xml").write_text(text.replace("Lymphocyte", "Blob"))
    with pytest.raises(UsageError, match=r"'Blob', which is not known .*Epithelial.*class_of"):
        read_label_sets([tmp_path])


# MATLAB


def test_classes_by_pixel_and_with_gaps_in_the_labels(tmp_path: Path) -> None:
    one = truth()
    sparse = one.labels * 2.0
    types = np.zeros((2 * N_NUCLEI, 1))
    types[1::2, 0] = one.classes
    variants: dict[str, dict[str, Any]] = {
        "gaps": {"inst_map": sparse, "inst_type": types},
        "pixels": {"inst_map": sparse, "type_map": one.class_map},
        "none": {"inst_map": sparse},
    }
    found = []
    for name, arrays in variants.items():
        write_png(tmp_path / name / "Images" / "a.png", one.rgb)
        write_mat(tmp_path / name / "Labels" / "a.mat", **arrays)
        sets = read_label_sets([tmp_path / name], PLAIN)
        found.append([sets.class_names, *class_indices(sets.sets[0].images[0])])
    assert found[0] == found[1]
    assert found[0][1:4] == [3, 1, 0]
    assert found[2] == [(), *[UNKNOWN_CLASS] * N_NUCLEI]


def test_the_users_mapping_takes_values_and_names(tmp_path: Path) -> None:
    WRITERS["lizard"](tmp_path, truths())
    options = LabelOptions(class_of={"neutrophil": "Granulocyte", "3": "-"})
    sets = read_label_sets([tmp_path], options)
    assert sets.class_names == ("Epithelial", "Inflammatory", "Spindle", "Granulocyte")
    assert set(class_indices(sets.sets[0].images[0])) == {0, 3}
    # What is said of all sets may be meant for others, what is said of this one not.
    read_label_sets([tmp_path], LabelOptions(class_of={"Neutrophile": "x"}))
    text = f'[[set]]\npath = "{tmp_path}"\nclass_of = {{ Neutrophile = "x" }}\n'
    toml = write_toml(tmp_path / "sets.toml", text)
    with pytest.raises(UsageError, match=r"'Neutrophile'.*has 1 \(Neutrophil\), 2 \(Epith"):
        read_label_sets([toml])


# PanNuke


def test_channels_that_overlap_are_settled_by_the_rule(tmp_path: Path) -> None:
    one = truth()
    masks = pannuke_masks(one)
    small = np.zeros(one.labels.shape, np.bool_)
    rows, cols = np.nonzero(one.labels == 1)
    small[rows[0] : rows[0] + 2, cols[0]] = True
    masks[small, 3] = 77
    np.save(tmp_path / "images.npy", one.rgb[None])
    np.save(tmp_path / "masks.npy", masks[None])
    with pytest.raises(LabelsNotReadable, match=r"Neoplastic nucleus 1 covers 100% of Dead nuc"):
        read_label_sets([tmp_path])
    sets = read_label_sets([tmp_path], LabelOptions(overlaps="resolve"))
    (image,) = sets.sets[0].images
    assert image.instances.max() == N_NUCLEI + 1
    dead = image.classes == sets.class_names.index("Miscellaneous")
    assert np.array_equal(dead, small)
    assert any("1 pairs of nuclei that overlap" in note for note in sets.notes)


# GeoJSON


def square(x: float, y: float, side: float = 8) -> shapely.Polygon:
    return shapely.box(x, y, x + side, y + side)


def write_drawn(folder: Path, features: list[Any], size: int = 200, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    write_png(folder / "a.png", rng.integers(0, 255, (size, size, 3), np.uint8))
    write_features(folder / "a.geojson", features, **more)
    return folder / "a.png"


def pixels(*boxes: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


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


# Several sets


def write_toml(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_sets_of_a_toml_file_share_one_list_of_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "ours", {"a": truth()})
    WRITERS["lizard"](tmp_path / "lizard", truths())
    WRITERS["monuseg"](tmp_path / "plain", truths())
    toml = write_toml(
        tmp_path / "sets.toml",
        """
        classes = ["Inflammatory", "Spindle", "Epithelial", "Rare"]
        [[set]]
        path = "ours"
        mpp = 0.3
        weight = 2
        organ = "colon"
        class_of = { "1" = "Rare", "2" = "", "3" = "Epithelial" }
        [[set]]
        path = "lizard"
        licence = "CC-BY-NC-4.0"
        name = "second"
        class_of = { Neutrophil = "-" }
        """,
    )
    sets = read_label_sets([toml, tmp_path / "plain"])
    ours, lizard, plain = sets.sets
    assert sets.class_names == ("Inflammatory", "Spindle", "Epithelial", "Rare")
    assert class_indices(ours.images[0])[:3] == [3, UNKNOWN_CLASS, 2]
    assert (ours.weight, ours.class_names) == (2, ("Epithelial", "Rare"))
    assert ours.organs == {"a": "colon"}
    assert ours.images[0].mpp == 0.3
    assert (lizard.name, lizard.licence) == ("second", "CC-BY-NC-4.0")
    assert set(class_indices(lizard.images[0])) == {0, 2}
    assert plain.class_names == ()


def test_without_a_list_ours_come_first(tmp_path: Path) -> None:
    two = [feature(square(20, 20), "Mitosis"), feature(square(40, 20), "Adipose")]
    write_drawn(tmp_path / "a", two)
    WRITERS["lizard"](tmp_path / "lizard", truths())
    sets = read_label_sets([tmp_path / "a", tmp_path / "lizard"], LabelOptions(mpp=0.5))
    assert sets.class_names == ("Epithelial", "Inflammatory", "Spindle", "Mitosis", "Adipose")


def test_patients_on_both_sides_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", {"TCGA-AA-1111-01": truth(), "x": truth()})
    write_folder(tmp_path / "two", {"TCGA-AA-1111-02": truth(), "y": truth()})
    one, two = read_label_sets([tmp_path / "one", tmp_path / "two"], NAMED).sets
    with pytest.raises(UsageError, match=r"1 patients .*TCGA-AA-1111 \(in one and two\)"):
        refuse_shared_patients([one], [two])
    refuse_shared_patients([replace(one, images=one.images[1:])], [two])


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


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "class_of", "n_nuclei", "n_images"),
    [
        ("nucls_sample", {"1": "", "2": "Epithelial"}, 640, 15),
        ("dsb2018_brightfield", {}, 4550, 107),
    ],
)
def test_real_folders_are_read(
    shared: Path, folder: str, class_of: dict[str, str], n_nuclei: int, n_images: int
) -> None:
    found = read_one(shared / "data" / folder, replace(PLAIN, class_of=class_of))
    assert sum(int(image.instances.max()) for image in found.images) == n_nuclei
    assert len(found.images) == n_images
