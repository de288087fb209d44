"""Annotated images that cannot be used are refused with a sentence, before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_files import (
    WRITERS,
    aperio_text,
    truth,
    truths,
    write_consep,
    write_folder,
    write_mat,
    write_png,
)
from PIL import Image

from wsiseg.errors import LabelsNotReadable, MissingScale, ScaleRefused, UsageError
from wsiseg.labels import geojson
from wsiseg.labels.files import open_picture, stated_mpp
from wsiseg.labels.numbering import refuse_mask, whole_labels
from wsiseg.labels.reading import LabelOptions, read_label_sets

OPTIONS = LabelOptions(mpp=0.25, class_of={"1": "One", "2": "Two", "3": "Three"})


def refuse(path: Path, match: str, options: LabelOptions = OPTIONS) -> None:
    """Check that a path is refused as wrong usage, and that nothing is left of the attempt."""
    before = sorted(path.rglob("*")) if path.is_dir() else []
    with pytest.raises(UsageError, match=match):
        read_label_sets([path], options)
    assert before == (sorted(path.rglob("*")) if path.is_dir() else [])


def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", {"a": truth(), "b": truth(1)})
    return tmp_path / "data"


# What is there


def test_nothing_and_what_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no annotated images were given"):
        read_label_sets([])
    refuse(tmp_path / "gone", "gone does not exist")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "empty is empty; one of these is needed: folders: images/ and inst/")
    write_png(tmp_path / "bare" / "x.png", truth().rgb)
    refuse(tmp_path / "bare", "bare holds 1 images and no labels")
    refuse(tmp_path / "bare" / "x.png", r"x\.png is a file of no known format")
    folder(tmp_path / "above")
    refuse(tmp_path / "above", "holds no labels itself, but folders that do: data")


def test_two_formats_in_one_folder_need_a_word(tmp_path: Path) -> None:
    data = folder(tmp_path)
    (data / "images" / "a.xml").write_text("<Annotations/>")
    refuse(data, "say in a TOML file which to read .format = 'folders' or 'monuseg'")
    toml = tmp_path / "sets.toml"
    toml.write_text('[[set]]\npath = "data"\nformat = "folders"\n')
    assert len(read_label_sets([toml], OPTIONS).sets[0].images) == 2
    toml.write_text('[[set]]\npath = "data"\nformat = "zip"\n')
    refuse(toml, "format 'zip' is not known; known are folders, monuseg, consep")


@pytest.mark.parametrize(
    ("gone", "match"),
    [
        ("images/a.png", "a has no image"),
        ("inst/a.png", r"a has no label images in inst/; .*: add what is missing"),
        ("types/a.png", "a has no pictures of classes in types/"),
    ],
)
def test_images_and_labels_without_each_other(tmp_path: Path, gone: str, match: str) -> None:
    data = folder(tmp_path)
    (data / gone).unlink()
    refuse(data, match)


def test_manifests_that_do_not_fit(tmp_path: Path) -> None:
    data = folder(tmp_path)
    manifest = data / "manifest.csv"
    manifest.write_text("name\na\nzz\n")
    refuse(data, "names zz, and images/ has no such image")
    manifest.write_text("name\na\na\n")
    refuse(data, "names a more than once")
    manifest.write_text("image\na\n")
    refuse(data, "no rows with a column name")
    manifest.write_text("name,mpp\na,fine\n")
    refuse(data, "mpp of a is 'fine'; a number is needed")


@pytest.mark.parametrize("of", ["monuseg", "consep", "lizard", "geojson"])
def test_a_missing_image_or_label_is_named(tmp_path: Path, of: str) -> None:
    suffix = {"monuseg": ".xml", "geojson": ".geojson"}.get(of, ".mat")
    WRITERS[of](tmp_path / "one", truths())
    next(p for p in (tmp_path / "one").rglob(f"a*{suffix}")).unlink()
    refuse(tmp_path / "one", r"a(\.png)? has no (annotations|labels|GeoJSON)")
    WRITERS[of](tmp_path / "two", truths())
    for path in (tmp_path / "two").rglob("a.[pt][ni][gf]"):
        path.unlink()
    refuse(tmp_path / "two", r"a(\.png\.geojson)? has no image")


# Label images


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.zeros((96, 96, 3), np.uint8), r"\(96, 96, 3\) \(a colour picture\?\); one number per"),
        (np.full((96, 96), 0.5, np.float32), r"holds fractions \(such as 0\.5\)"),
        (np.full((96, 96), np.nan, np.float32), r"holds fractions \(such as nan\)"),
        (np.full((96, 96), -2, np.int32), "holds -2; labels from 0"),
        (np.ones((96, 80), np.uint8), r"inst/a\.tif has 80 × 96 px and .*images/a\.png 96 × 96 px"),
    ],
)
def test_wrong_label_images(tmp_path: Path, labels: Any, match: str) -> None:
    data = folder(tmp_path)
    (data / "inst" / "a.png").unlink()
    Image.fromarray(labels).save(data / "inst" / "a.tif")
    refuse(data, match)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    data = folder(tmp_path)
    (data / "inst" / "a.png").write_text("hello")
    refuse(data, r"inst/a\.png: is no label image that can be read")
    write_folder(data, {"a": truth()})
    (data / "images" / "a.png").write_text("hello")
    refuse(data, r"images/a\.png: .*no reader can open it")
    write_png(data / "images" / "a.png", truth().rgb[..., 0])
    refuse(data, r"images/a\.png: .*kind L; 8-bit RGB")


def test_what_is_to_be_ignored_must_have_an_image(tmp_path: Path) -> None:
    data = folder(tmp_path)
    write_png(data / "ignored" / "aa.png", np.ones(truth().labels.shape, np.uint8))
    refuse(data, r"ignored: aa has the name of no image")


@pytest.mark.parametrize("part", ["inst", "types"])
def test_jpeg_changes_numbers(tmp_path: Path, part: str) -> None:
    data = folder(tmp_path)
    path = data / part / "a.png"
    with Image.open(path) as picture:
        picture.convert("L").save(path.with_suffix(".jpg"))
    path.unlink()
    refuse(data, rf"{part}/a\.jpg: is a JPEG, which changes the numbers")


def test_a_label_image_too_large_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(tmp_path)
    write_png(data / "inst" / "a.png", np.zeros((400, 400), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    refuse(data, r"inst/a\.png: is no label image that can be read \(Image size")


def test_a_mask_of_all_nuclei_is_no_label_image(tmp_path: Path) -> None:
    one = truth()
    write_folder(tmp_path / "data", {"a": one})
    write_png(tmp_path / "data" / "inst" / "a.png", (one.labels > 0).astype(np.uint8) * 255)
    refuse(tmp_path / "data", r"its only label, 255, is in \d pieces, so it is a mask")
    # One nucleus in a few pieces, or several numbers, are possible.
    refuse_mask(np.array([[1, 0, 1, 0, 1]], np.int32), "here")
    refuse_mask(np.tile(np.array([1, 0, 2, 0], np.int32), 9)[None], "here")


def test_labels_are_whole_numbers_of_any_type() -> None:
    for kind in (np.bool_, np.uint8, np.uint16, np.int64, np.float64):
        labels = whole_labels(np.array([[0, 1], [1, 0]], kind), "here")
        assert labels.dtype == np.int32
        assert labels.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(LabelsNotReadable, match="holds <U1; whole numbers"):
        whole_labels(np.array([["a"]]), "here")
    with pytest.raises(LabelsNotReadable, match=r"holds 4e\+09; labels from 0"):
        whole_labels(np.array([[4_000_000_000]]), "here")


# Classes and scale


def test_an_unknown_class_is_named_with_what_is_known(tmp_path: Path) -> None:
    data = folder(tmp_path)
    refuse(
        data,
        r"types/a\.png: 3 nuclei are of the class '3', which is not known for data \(known: 1 → "
        r"One, 2 → Two\); say what it is in a TOML file.*class_of = ",
        replace(OPTIONS, class_of={"1": "One", "2": "Two"}),
    )
    refuse(
        data,
        "class 'Two', which is not among the classes One, Three; add it",
        replace(OPTIONS, classes=("One", "Three")),
    )


def test_classes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names that differ are needed"):
        LabelOptions(classes=("A", "A"))
    with pytest.raises(UsageError, match="none of them empty or '-'"):
        LabelOptions(classes=("A", "-"))
    with pytest.raises(UsageError, match="no regular expression"):
        LabelOptions(patient="(")
    with pytest.raises(UsageError, match="overlaps is 'later'"):
        LabelOptions(overlaps="later")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"mpp is 200; .*between 0\.02 and 20"):
        LabelOptions(mpp=200)


def test_mpp_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(MissingScale, match=r"data: a: .*how many µm .*--mpp, or as mpp = "):
        read_label_sets([folder(tmp_path)], replace(OPTIONS, mpp=None))
    write_consep(tmp_path / "consep", truths())
    with pytest.raises(MissingScale):
        read_label_sets([tmp_path / "consep"])
    WRITERS["monuseg"](tmp_path / "xml", truths())
    with pytest.raises(ScaleRefused, match=r"0\.5 contradicts the file's 0\.25"):
        read_label_sets([tmp_path / "xml"], LabelOptions(mpp=0.5))


def test_no_option_is_named_that_there_is_not(tmp_path: Path) -> None:
    """`segment` can override a file's scale; what reads labels cannot."""
    WRITERS["monuseg"](tmp_path / "xml", truths())
    with pytest.raises(ScaleRefused) as caught:
        read_label_sets([tmp_path / "xml"], LabelOptions(mpp=0.5))
    assert "--" not in str(caught.value)
    with open_picture(tmp_path / "xml" / "Tissue Images" / "a.tif") as slide:
        info = replace(slide.info, mpp_x=0.25, mpp_y=0.5)
    with pytest.raises(ScaleRefused, match=r"not square.*; correct the file") as caught:
        stated_mpp(info, None)
    assert "--" not in str(caught.value)


# Other formats


def test_damaged_xml(tmp_path: Path) -> None:
    write_png(tmp_path / "d" / "a.png", truth().rgb)
    xml = tmp_path / "d" / "a.xml"
    xml.write_text("<Annotations><Annotation>")
    refuse(tmp_path / "d", r"a\.xml: is no XML that can be read")
    xml.write_text("<Other><Annotations/></Other>")
    refuse(tmp_path / "d", r"begins with <Other>")
    xml.write_text(aperio_text([np.array([(1, 1), (5, 1), (5, 5)])]).replace('X="5"', 'X="five"'))
    refuse(tmp_path / "d", "region 1 of annotation 1: a vertex has no number")
    xml.write_text(aperio_text([np.array([(1, 1), (5, 1), (np.nan, 5)])]))
    refuse(tmp_path / "d", "a vertex is not finite")
    xml.write_text(aperio_text([np.array([(901, 1), (905, 1), (905, 5)])]))
    refuse(tmp_path / "d", r"1 of 1 outlines have no pixel in .*a\.png \(96 × 96 px\)")


def test_damaged_matlab_files(tmp_path: Path) -> None:
    write_consep(tmp_path, {"a": truth(), "b": truth()})
    mat = tmp_path / "Labels" / "b.mat"
    one = truth()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"other": 1}, "has no inst_map"),
        ({"inst_map": one.labels[:50]}, r"b\.mat has 96 × 50 px and .*b\.png 96 × 96"),
        ({"inst_map": one.labels, "inst_type": [[1], [2]]}, "inst_type has 2 rows .* 9 nuclei"),
        ({"inst_map": one.labels, "type_map": one.labels[:9]}, "type_map has 96 × 9 px"),
        ({"inst_map": one.labels, "inst_type": one.labels + 0.5}, "holds fractions"),
    ]
    for arrays, match in changes:
        write_mat(mat, **arrays)
        refuse(tmp_path, match)
    mat.write_bytes(b"MATLAB 7.3 MAT-file, " + bytes(103) + b"\x00\x02IM" + bytes(64))
    refuse(tmp_path, r"b\.mat: is of MATLAB 7\.3, which is not read; save it with -v7")
    mat.write_bytes(b"nothing")
    refuse(tmp_path, r"b\.mat: is no MATLAB file that can be read")


def test_lizard_without_a_class(tmp_path: Path) -> None:
    WRITERS["lizard"](tmp_path, truths())
    one = truth(2)
    mat = next(tmp_path.rglob("a.mat"))
    write_mat(mat, **{"inst_map": one.labels, "id": [[1, 2]], "class": [[1, 2]]})
    refuse(tmp_path, "has the label 3, and id does not; 7 nuclei")
    write_mat(mat, **{"inst_map": one.labels, "id": [[1, 2]], "class": [[1]]})
    refuse(tmp_path, "id has 2 rows and class 1")


def _swap(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(data: Path) -> None:
        path = next(data.rglob(name))
        np.save(path, change(np.load(path)))

    return apply


def _in_one_channel(masks: Any) -> Any:
    """Return the masks of a publisher who tells what is nucleus, and not which."""
    found = np.zeros_like(masks)
    found[..., 0] = masks[..., 5] == 0
    return found


@pytest.mark.parametrize(
    ("of", "change", "match"),
    [
        ("pannuke", _swap("masks.npy", lambda a: a[..., :5]), r"\(2, 96, 96, 5\).*6\) and"),
        ("pannuke", _swap("masks.npy", lambda a: a[:1]), r"the shape \(1, 96"),
        ("pannuke", _swap("masks.npy", lambda a: a[:, :90]), "has 96 × 90 px and images.npy 96"),
        ("pannuke", _swap("masks.npy", lambda a: a / 2), "image 0, channel 0: holds fractions"),
        (
            "pannuke",
            _swap("images.npy", lambda a: a / 255),
            r"image 0: has values from 0 to 0\.\d+; RGB",
        ),
        ("pannuke", _swap("types.npy", lambda a: a[:1]), r"shape \(1,\); \(2,\) is needed"),
        ("pannuke", _swap("types.npy", lambda a: a.astype(object)), "no .npy array of text"),
        ("pannuke", _swap("masks.npy", _in_one_channel), r"masks\.npy: all labels in it are 1"),
        ("conic", _swap("labels.npy", lambda a: (a > 0) * 1), "image 0: its only label, 1, is in"),
        ("conic", _swap("labels.npy", lambda a: a[..., 0]), r"shape \(2, 96, 96\) of uint16; an"),
        ("conic", _swap("images.npy", lambda a: a.astype(object)), "no .npy array that can be"),
        ("conic", lambda data: (data / "patch_info.csv").write_text("x\na-1\n"), "names 1 patches"),
    ],
)
def test_damaged_arrays(
    tmp_path: Path, of: str, change: Callable[[Path], object], match: str
) -> None:
    WRITERS[of](tmp_path / "data", truths())
    change(tmp_path / "data")
    refuse(tmp_path / "data", match)


def test_several_folds_at_once(tmp_path: Path) -> None:
    for fold in ("fold1", "fold2"):
        WRITERS["pannuke"](tmp_path / "data" / fold, truths())
    refuse(tmp_path / "data", r"holds 2 files images\.npy; .*name one fold at a time")


def test_geojson_that_says_nothing(tmp_path: Path) -> None:
    WRITERS["geojson"](tmp_path, truths())
    path = tmp_path / "a.png.geojson"
    for text, match in {
        "": "is empty",
        "{": "is no JSON",
        '{"a": 1}': "no GeoJSON",
        '{"type": "FeatureCollection", "features": []}': "holds no nucleus and no region",
    }.items():
        path.write_text(text)
        refuse(tmp_path, match)
    path.rename(tmp_path / "a.geojson")
    WRITERS["geojson"](tmp_path, truths())
    refuse(tmp_path, r"a\.png fits several files")


def test_a_slide_without_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["geojson"](tmp_path, {"a": truth()})
    assert geojson.LARGEST_WHOLE_PX == 2**25
    monkeypatch.setattr(geojson, "LARGEST_WHOLE_PX", 96 * 96 - 1)
    refuse(tmp_path, r"has no region, and .*96 × 96 px.*class Training region")


# TOML


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[set]", "no TOML file that can be read"),
        ("", "names no set"),
        ('set = "data"', "names no set"),
        ("colour = 1", "'colour' is not known; known are classes, set"),
        ("[[set]]", "set 1 has no path"),
        ('[[set]]\npath = "nowhere"', "nowhere does not exist; paths are relative to the TOML"),
        ('[[set]]\npath = "data"\nmp = 1', "set 1: 'mp' is not known; known are path, name, for"),
        ('[[set]]\npath = "data"\nmpp = "x"', "mpp is 'x'; a number is needed"),
        ('[[set]]\npath = "data"\nmpp = true', "mpp is True; a number is needed"),
        ('[[set]]\npath = "data"\nmpp = 0', "mpp is 0; µm per pixel between"),
        ('[[set]]\npath = "data"\nweight = 0', "weight is 0; a number above 0"),
        ('[[set]]\npath = "data"\noverlaps = "x"', 'overlaps is \'x\'; "refuse" or "resolve"'),
        ('[[set]]\npath = "data"\npatient = "("', "no regular expression"),
        ('[[set]]\npath = "data"\nclass_of = { "1" = 2 }', "a table of texts is needed"),
        ('classes = "A"\n[[set]]\npath = "data"', "classes is 'A'; a list of names"),
        ('classes = ["A"]\n[[set]]\npath = "data"', "has nuclei of the class 'One'"),
        ('[[set]]\npath = "data"\n[[set]]\npath = "data"', "two sets are called data"),
        (
            '[[set]]\npath = "data"\n[[set]]\npath = "data"\nname = "x"',
            r"is given twice \(data and x\)",
        ),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path: Path, text: str, match: str) -> None:
    folder(tmp_path)
    toml = tmp_path / "sets.toml"
    toml.write_text(text)
    refuse(toml, match)


def test_two_lists_of_classes_contradict(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "sets.toml").write_text('classes = ["One"]\n[[set]]\npath = "data"')
    refuse(tmp_path / "sets.toml", "all sets share one list", replace(OPTIONS, classes=("A",)))
