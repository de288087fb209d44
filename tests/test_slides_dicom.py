"""DICOM: which files make a slide, what it is recognised by, and what is refused."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import generate_frames
from slide_files import TILE_PX, picture, refusal, write_dicom

from wsiseg.geometry import Box
from wsiseg.slides import open_slide
from wsiseg.slides.dicom import find_series

RGB = picture(300, 500)


def print_of(path: Path) -> str:
    with open_slide(path) as slide:
        return slide.info.fingerprint


def test_a_series_is_opened_by_a_file_or_its_folder(tmp_path: Path) -> None:
    paths = write_dicom(tmp_path / "case 7", RGB, steps=(1, 2, 4))
    for path in (paths[0], paths[2], tmp_path / "case 7"):
        with open_slide(path) as slide:
            info = slide.info
        assert info.name == path.name
        assert (info.reader, info.vendor) == ("openslide", "dicom")
        assert [(level.width_px, level.height_px) for level in info.levels] == [
            (500, 300),
            (250, 150),
            (125, 75),
        ]
        assert (info.mpp_x, info.mpp_y, info.objective_power) == (0.25, 0.25, 40.0)
        assert info.bounds == Box(0, 0, 500, 300)
    assert "is a folder; the reader 'image' needs one file" in refusal(tmp_path / "case 7", "image")


def test_a_folder_named_by_dots_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dicom(tmp_path / "case", RGB)
    (tmp_path / "case" / "inside").mkdir()
    for here, path in (("case", "."), ("case", ""), ("case/inside", "..")):
        monkeypatch.chdir(tmp_path / here)
        with open_slide(path) as slide:
            assert slide.info.name == "case"


def test_dicom_pixels_are_those_of_its_frames(tmp_path: Path) -> None:
    """Against Pillow's decoding of every frame, put in its place."""
    path = write_dicom(tmp_path, RGB)[0]
    wide = np.zeros((3 * TILE_PX, 4 * TILE_PX, 3), np.uint8)
    for number, frame in enumerate(generate_frames(dcmread(path).PixelData, number_of_frames=12)):
        row, col = divmod(number, 4)
        tile = wide[row * TILE_PX :, col * TILE_PX :][:TILE_PX, :TILE_PX]
        tile[:] = np.asarray(Image.open(io.BytesIO(frame)))
    with open_slide(path) as slide:
        pixels = slide.read_level(0, Box(0, 0, 500, 300))
    assert np.array_equal(pixels, wide[:300, :500])


def test_the_fingerprint_of_a_series_is_that_of_all_its_files(tmp_path: Path) -> None:
    one = write_dicom(tmp_path / "one", RGB)
    same = write_dicom(tmp_path / "deep" / "two", RGB, names=("z", "a.img"))
    whole = print_of(one[0])
    for path in (tmp_path / "one", one[1], *same, tmp_path / "deep" / "two"):
        assert print_of(path) == whole
    write_dicom(tmp_path / "one", RGB, series="another", names=("x.dcm", "y.dcm"))
    assert print_of(one[0]) == whole
    assert print_of(tmp_path / "one" / "x.dcm") != whole
    one[1].unlink()
    assert print_of(one[0]) != whole


def test_another_level_of_a_series_counts(tmp_path: Path) -> None:
    paths = write_dicom(tmp_path, RGB)
    before = print_of(paths[0])
    changed = dcmread(paths[1])
    changed.InstanceNumber = 17
    dcmwrite(paths[1], changed)
    assert print_of(paths[0]) != before


def test_several_series_in_a_folder_need_a_choice(tmp_path: Path) -> None:
    write_dicom(tmp_path, RGB, names=("a.dcm", "b.dcm"))
    other = write_dicom(tmp_path, RGB[:200], series="other", names=("c.dcm", "d.dcm"))
    message = refusal(tmp_path)
    assert "a folder of 2 DICOM series" in message
    assert "give one file" in message
    assert "b.dcm, d.dcm" in message
    with open_slide(other[1]) as slide:
        assert [level.height_px for level in slide.info.levels] == [200, 100]


def test_what_else_lies_in_the_folder_does_not_matter(tmp_path: Path) -> None:
    write_dicom(tmp_path, RGB)
    whole = print_of(tmp_path)
    (tmp_path / "notes.txt").write_text("scanned on Monday")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert print_of(tmp_path) == whole


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_beside_a_dicom_file_is_not_waited_for(tmp_path: Path) -> None:
    path = write_dicom(tmp_path, RGB)[0]
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: is a named pipe" in refusal(path)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.99])
def test_a_dicom_file_cut_off_is_refused(tmp_path: Path, number: int, share: float) -> None:
    paths = write_dicom(tmp_path, RGB)
    whole = paths[number].read_bytes()
    n_bytes = int(len(whole) * share)
    paths[number].write_bytes(whole[:n_bytes])
    for path in (paths[0], tmp_path):
        message = refusal(path)
        assert f"level-{number}.dcm: is truncated: the file ends at byte {n_bytes:,}" in message


def test_every_byte_of_a_dicom_file_is_needed(tmp_path: Path) -> None:
    path = write_dicom(tmp_path, RGB[:TILE_PX, :TILE_PX], steps=(1,))[0]
    assert find_series(path).files == (path,)
    whole = path.read_bytes()
    for n_bytes in [*range(132, 1200, 17), *range(len(whole) - 30, len(whole))]:
        path.write_bytes(whole[:n_bytes])
        assert refusal(path), n_bytes


def change(path: Path, **elements: Any) -> Path:
    dataset = dcmread(path)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dcmwrite(path, dataset)
    return path


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"BitsAllocated": 16}, "16 bits per sample; 8-bit RGB is needed"),
        (
            {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
            "1 sample(s) per pixel of kind MONOCHROME2; 8-bit RGB",
        ),
        ({"TotalPixelMatrixFocalPlanes": 3}, "3 focal planes; one RGB plane is needed"),
        ({"NumberOfOpticalPaths": 4}, "4 optical paths; one RGB plane is needed"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "no whole-slide image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]}, "a label or an overview only"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsuitable_dicom_is_refused(tmp_path: Path, elements: dict[str, Any], words: str) -> None:
    path = write_dicom(tmp_path, RGB, steps=(1,))[0]
    assert words in refusal(change(path, **elements))


def test_headers_with_nested_sequences_are_stepped_over(tmp_path: Path) -> None:
    """Defined and undefined lengths, before and behind the element that names the series."""
    path = write_dicom(tmp_path, RGB, steps=(1,))[0]
    for undefined in (False, True):
        dataset = dcmread(path)
        inner, outer = Dataset(), Dataset()
        inner.CodeMeaning = "x" * 60
        outer.ReferencedSeriesSequence = [inner]
        outer.SeriesInstanceUID = "1.2.3"
        dataset.ReferencedStudySequence = [outer, outer]
        dataset.AcquisitionContextSequence = [outer]
        for data in (dataset, outer):
            for element in data:
                if element.VR == "SQ":
                    element.is_undefined_length = undefined
        dcmwrite(path, dataset)
        with open_slide(path) as slide:
            assert slide.info.width_px == 500


def test_uncompressed_dicom_is_read_in_both_encodings(tmp_path: Path) -> None:
    """Implicit value representations say no types, so nothing may depend on them."""
    rgb = RGB[:TILE_PX, :TILE_PX]
    path = write_dicom(tmp_path, rgb, steps=(1,))[0]
    for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"):
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PhotometricInterpretation = "RGB"
        dataset.PixelData = rgb.tobytes()
        dataset["PixelData"].VR = "OB" if syntax.endswith("2.1") else "OW"
        dataset["PixelData"].is_undefined_length = False
        target = tmp_path / syntax / "a.dcm"
        target.parent.mkdir()
        dcmwrite(target, dataset, implicit_vr=syntax.endswith("1.2"), little_endian=True)
        series = find_series(target)
        assert series.files == (target,)
        if syntax.endswith("2.1"):
            with open_slide(target) as slide:
                assert np.array_equal(slide.read_level(0, Box(0, 0, TILE_PX, TILE_PX)), rgb)
        target.write_bytes(target.read_bytes()[:-1])
        assert "is truncated" in refusal(target)


def test_dicom_without_spacing_has_no_scale(tmp_path: Path) -> None:
    path = write_dicom(tmp_path, RGB, mpp=None)[0]
    with open_slide(path) as slide:
        assert (slide.info.mpp_x, slide.info.mpp_y) == (None, None)


def test_a_folder_without_a_slide_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.svs").mkdir()
    (tmp_path / "a.svs" / "b.png").write_bytes(b"")
    for path in (tmp_path, tmp_path / "a.svs"):
        assert "is a folder without a DICOM whole-slide image" in refusal(path)


def test_a_moved_series_is_still_the_same_slide(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", RGB)
    before = print_of(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert print_of(tmp_path / "b") == before
