"""Annotated images of every format come out alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_files import (
    N_NUCLEI,
    PLAIN,
    WRITERS,
    Truth,
    aperio_text,
    class_indices,
    feature,
    pannuke_masks,
    read_one,
    square,
    truth,
    truths,
    write_drawn,
    write_folder,
    write_mat,
    write_png,
    write_toml,
)

from wsiseg.errors import LabelsNotReadable, UsageError
from wsiseg.labels.numbering import majority, renumbered
from wsiseg.labels.reading import LabelOptions, read_label_sets
from wsiseg.labels.recognition import FORMATS
from wsiseg.labels.records import LabelledImage, patient_of, refuse_shared_patients
from wsiseg.records import UNKNOWN_CLASS

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
    (found,), notes = (sets := read_label_sets([tmp_path], NAMED)).sets, sets.notes
    assert [one.name for one in found.images] == ["TCGA-AA-1111-01", "a"]
    assert [note for note in notes if "manifest.csv leaves out c" in note]
    assert [one.patient for one in found.images] == ["TCGA-AA-1111", "P7"]
    assert [one.mpp for one in found.images] == [0.25, 0.5]
    assert found.organs == {"TCGA-AA-1111-01": "lung"}


def test_patients_are_found_by_an_expression(tmp_path: Path) -> None:
    write_folder(tmp_path, {"x_12_a": truth(), "x_12_b": truth(), "y_3_a": truth()})
    found = read_one(tmp_path, replace(NAMED, patient=r"_(\d+)_"))
    assert [one.patient for one in found.images] == ["12", "12", "3"]
    with pytest.raises(UsageError, match=r"'z\\\\d' finds nothing in 'x_12_a'"):
        read_one(tmp_path, replace(NAMED, patient=r"z\d"))


def test_an_expression_finds_the_patients_of_patches_too(tmp_path: Path) -> None:
    WRITERS["conic"](tmp_path / "conic", truths())
    found = read_one(tmp_path / "conic", LabelOptions(patient="^[a-z]+"))
    assert [one.patient for one in found.images] == ["consep", "crag"]


def test_a_patient_of_tcga_is_one_in_any_case() -> None:
    names = ("TCGA-18-5592-01Z", "tcga-18-5592-01A", "Tcga-18-5592")
    assert {patient_of(name) for name in names} == {"TCGA-18-5592"}
    assert patient_of("tcga") == "tcga"


def test_another_scale_than_published_is_told(tmp_path: Path) -> None:
    WRITERS["conic"](tmp_path / "conic", truths())
    assert not any("published" in note for note in read_label_sets([tmp_path / "conic"]).notes)
    notes = read_label_sets([tmp_path / "conic"], PLAIN).notes
    assert any("0.25 µm/px as was said, though published at 0.5" in note for note in notes)


def test_a_training_in_the_folder_is_no_part_of_the_set(tmp_path: Path) -> None:
    WRITERS["geojson"](tmp_path / "data", truths())
    write_png(tmp_path / "data" / "run" / "curves.png", truth().rgb)
    with pytest.raises(LabelsNotReadable, match=r"curves\.png"):
        read_one(tmp_path / "data", PLAIN)
    (tmp_path / "data" / "run" / "training.json").write_text("{}")
    assert len(read_one(tmp_path / "data", PLAIN).images) == 2


def test_a_description_may_begin_with_a_mark_of_windows(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"a": truth()})
    path = write_toml(tmp_path / "sets.toml", '\ufeff[[set]]\npath = "data"\n')
    assert len(read_one(path, NAMED).images) == 1


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


# Sizes that cannot be


def test_a_background_that_is_not_0_and_a_wrong_scale_are_told(tmp_path: Path) -> None:
    one = truth()
    write_folder(tmp_path, {"a": one})
    assert read_label_sets([tmp_path], NAMED).notes == ()
    (said,) = read_label_sets([tmp_path], replace(NAMED, mpp=0.02)).notes
    assert "half of the nuclei are smaller than 0." in said
    labels = np.where(one.labels == 0, 99, one.labels).astype(np.uint8)
    write_png(tmp_path / "inst" / "a.png", labels)
    *_, said = read_label_sets([tmp_path], replace(NAMED, mpp=0.6)).notes
    assert "1 labels are larger than 2,000 µm²; is the background 0" in said
    write_png(tmp_path / "inst" / "a.png", labels * 0)
    (said,) = read_label_sets([tmp_path], NAMED).notes
    assert "no image has a nucleus" in said


def test_masks_beside_images_are_no_images(tmp_path: Path) -> None:
    WRITERS["monuseg"](tmp_path, truths())
    for name, one in truths().items():
        write_png(tmp_path / "Binary masks" / f"{name}.png", one.rgb)
    assert len(read_one(tmp_path).images) == 2


# Several sets


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


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "class_of", "n_nuclei", "n_images"),
    [
        ("nucls_sample", {"1": "", "2": "Epithelial"}, 640, 15),
        ("dsb2018_brightfield", {}, 4550, 107),
        ("monuseg_train", {}, 17_020, 30),
        ("consep_train", dict(zip("1234", "MIES", strict=True)), 15_555, 27),
    ],
)
def test_real_folders_are_read(
    shared: Path, folder: str, class_of: dict[str, str], n_nuclei: int, n_images: int
) -> None:
    sets = read_label_sets([shared / "data" / folder], replace(PLAIN, class_of=class_of))
    (found,) = sets.sets
    # As their description says, and nothing to settle by rule.
    assert sets.notes == ()
    assert sum(int(image.instances.max()) for image in found.images) == n_nuclei
    assert len(found.images) == n_images
