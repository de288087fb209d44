"""Which reader opens what, what it says about the file, and what is refused, and why."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from slide_files import refusal

from wsiseg.errors import MissingDependency, SlideNotReadable, UnknownName
from wsiseg.geometry import Box
from wsiseg.slides import image as image_reader
from wsiseg.slides import open_slide
from wsiseg.slides.fingerprint import fingerprint
from wsiseg.slides.tiff import credible_mpp, ome_mpp
from wsiseg.slides.truncation import truncation

TILED = {"tile": (64, 64), "photometric": "rgb"}


def noise(height: int = 150, width: int = 200) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


# ---------------------------------------------------------------- which reader


def test_openslide_comes_first(tmp_path: Path) -> None:
    with open_slide(tiff(tmp_path / "a.tif", noise(), **TILED)) as slide:
        assert slide.info.reader == "openslide"
        assert slide.info.vendor == "generic-tiff"


def test_what_openslide_does_not_know_goes_to_tiffslide(tmp_path: Path) -> None:
    """A pyramid of strips: OpenSlide wants tiles."""
    path = tmp_path / "strips.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(), subifds=1, photometric="rgb", metadata={"axes": "YXS"})
        writer.write(noise(75, 100), subfiletype=1, photometric="rgb")
    with open_slide(path) as slide:
        assert slide.info.reader == "tiffslide"
        assert [level.width_px for level in slide.info.levels] == [200, 100]
        assert np.array_equal(slide.read_level(1, Box(0, 0, 100, 75)), noise(75, 100))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "dat"])
def test_images_are_known_by_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    kind = "PNG" if suffix == "dat" else None
    Image.fromarray(noise()).save(path, kind)
    with open_slide(str(path)) as slide:
        assert slide.info.reader == "image"
        assert slide.info.name == path.name


def test_without_tiffslide_the_others_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tiffslide", None)
    path = tiff(tmp_path / "a.tif", noise(), photometric="rgb")
    with open_slide(path) as slide:
        assert slide.info.reader == "image"
    with pytest.raises(MissingDependency, match=r"pip install 'wsiseg\[tiffslide\]'"):
        open_slide(path, "tiffslide")


def test_an_unknown_reader_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"'bioformats'.*openslide"):
        open_slide(tiff(tmp_path / "a.tif", noise()), "bioformats")


# ---------------------------------------------------------------- what is known


@pytest.mark.real
def test_the_real_slides_say_what_they_are(shared: Path) -> None:
    with open_slide(shared / "slides" / "CMU-1-Small-Region.svs") as slide:
        info = slide.info
    assert (info.name, info.reader, info.vendor) == (
        "CMU-1-Small-Region.svs",
        "openslide",
        "aperio",
    )
    assert (info.width_px, info.height_px) == (2220, 2967)
    assert (info.mpp_x, info.mpp_y, info.objective_power) == (0.499, 0.499, 20.0)
    assert info.bounds == Box(0, 0, 2220, 2967)
    with open_slide(shared / "slides" / "TCGA-CR-7395-01A-01-TS1.svs") as slide:
        info = slide.info
    assert (info.mpp_x, info.mpp_y, info.objective_power) == (None, None, None)
    assert [level.width_px for level in info.levels] == [4443, 2221]


def test_dots_per_inch_are_no_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path, dpi=(300, 300))
    tiled = tiff(tmp_path / "a.tif", noise(), resolution=(300, 300), resolutionunit="INCH", **TILED)
    for file, reader in ((path, None), (tiled, "openslide"), (tiled, "tiffslide")):
        with open_slide(file, reader) as slide:
            assert (slide.info.mpp_x, slide.info.mpp_y) == (None, None)


@pytest.mark.parametrize("reader", ["openslide", "tiffslide", "image"])
def test_the_physical_size_of_ome_is_believed(tmp_path: Path, reader: str) -> None:
    size = {
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.26,
        "PhysicalSizeYUnit": "µm",
    }
    path = tiff(tmp_path / "a.ome.tif", noise(), metadata=size, **TILED)
    with open_slide(path, reader) as slide:
        assert (slide.info.mpp_x, slide.info.mpp_y) == (0.25, 0.26)


def test_ome_says_nothing_in_units_that_are_no_length() -> None:
    assert ome_mpp('<Pixels PhysicalSizeX="1" PhysicalSizeXUnit="pixel">') == (None, None)
    assert ome_mpp('<Pixels PhysicalSizeX="0.5" PhysicalSizeY="0">') == (0.5, None)
    assert ome_mpp("no XML at all") == (None, None)


@pytest.mark.parametrize("value", [None, "", "abc", "0", -0.5, "nan", "inf", 352.8])
def test_impossible_scales_count_as_missing(value: object) -> None:
    assert credible_mpp(value) is None


def test_possible_scales_are_taken() -> None:
    assert credible_mpp("0.2502") == 0.2502


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[..., 3] = np.arange(64) * 4
    alpha = rgba[..., 3].astype(float) / 255
    expected = 255 - alpha[..., None] * (255 - rgba[..., :3].astype(float))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    straight = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tiff(tmp_path / "straight.tif", rgba, tile=(32, 32), **straight)
    premultiplied = rgba.copy()
    premultiplied[..., :3] = np.round(rgba[..., :3] * alpha[..., None])
    multiplied = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    tiff(tmp_path / "multiplied.tif", premultiplied, tile=(32, 32), **multiplied)
    for name, reader in (
        ("a.png", "image"),
        ("straight.tif", "image"),
        ("straight.tif", "tiffslide"),
        ("straight.tif", "openslide"),
        ("multiplied.tif", "image"),
        ("multiplied.tif", "tiffslide"),
        ("multiplied.tif", "openslide"),
    ):
        with open_slide(tmp_path / name, reader) as slide:
            pixels = slide.read_level(0, Box(0, 0, 64, 64))
        assert np.abs(pixels - expected).max() <= 2, (name, reader)


def test_palette_images_have_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(noise()).quantize(16)
    picture.save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        pixels = slide.read_level(0, Box(0, 0, 200, 150))
    assert np.array_equal(pixels, np.asarray(picture.convert("RGB")))


def test_planar_tiffs_have_their_samples_side_by_side(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(noise().transpose(2, 0, 1))
    path = tiff(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with open_slide(path, "image") as slide:
        assert np.array_equal(slide.read_level(0, Box(0, 0, 200, 150)), noise())


# ---------------------------------------------------------------- fingerprints


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    one = tiff(tmp_path / "one.tif", noise(), **TILED)
    folder = tmp_path / "folder"
    folder.mkdir()
    same = folder / "other.tif"
    same.write_bytes(one.read_bytes())
    assert fingerprint(one) == fingerprint(same)
    content = bytearray(one.read_bytes())
    content[len(content) // 2] ^= 1
    same.write_bytes(content)
    assert fingerprint(one) != fingerprint(same)


def test_the_fingerprint_of_a_large_file_sees_both_ends_and_the_size(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    seen = set()
    for at, size in ((None, 40), (0, 40), (40 * 2**20 - 1, 40), (None, 41)):
        with path.open("wb") as file:
            file.truncate(size * 2**20)
            if at is not None:
                file.seek(at)
                file.write(b"\1")
        seen.add(fingerprint(path))
    assert len(seen) == 4


def test_companion_files_count(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, name in zip(folders, ("one", "two"), strict=True):
        (folder / name).mkdir(parents=True)
        (folder / f"{name}.mrxs").write_bytes(b"same")
        (folder / name / "Data0000.dat").write_bytes(b"12345")
    one, two = (
        folder / f"{name}.mrxs" for folder, name in zip(folders, ("one", "two"), strict=True)
    )
    assert fingerprint(one) == fingerprint(two)
    (folders[1] / "two" / "Data0000.dat").write_bytes(b"123456")
    assert fingerprint(one) != fingerprint(two)


def test_companions_named_in_a_vms_file_count(tmp_path: Path) -> None:
    path = tmp_path / "a.vms"
    path.write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\nMapFile=../../etc/passwd\n")
    before = fingerprint(path)
    (tmp_path / "a.jpg").write_bytes(b"pixels")
    assert fingerprint(path) != before


# ---------------------------------------------------------------- refusals


def test_missing_empty_and_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    for reader in (None, "openslide", "image"):
        assert "does not exist" in refusal(tmp_path / "no.svs", reader)
        assert "is empty (0 bytes)" in refusal(tmp_path / "empty.svs", reader)
        assert "is a folder" in refusal(tmp_path, reader)


def test_when_nobody_knows_the_format_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "notes.svs"
    path.write_text("these are no pixels")
    message = refusal(path)
    assert message.startswith("notes.svs: no reader can open it (openslide, tiffslide, image were")
    assert "export it as a tiled pyramidal TIFF" in message
    assert "OpenSlide does not know this format" in refusal(path, "openslide")
    assert "tiffslide reads TIFF files only" in refusal(path, "tiffslide")
    assert "is not a PNG, JPEG or TIFF image" in refusal(path, "image")


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
def test_16_bits_are_refused(tmp_path: Path, layout: dict[str, Any]) -> None:
    wide = noise().astype(np.uint16) * 257
    path = tiff(tmp_path / "a.tif", wide, photometric="rgb", **layout)
    for reader in (None, "tiffslide", "image"):
        assert "16 bits per sample; 8-bit RGB is needed" in refusal(path, reader)


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
def test_grey_is_refused(tmp_path: Path, layout: dict[str, Any]) -> None:
    grey = np.ascontiguousarray(noise()[..., 0])
    path = tiff(tmp_path / "a.tif", grey, **layout)
    for reader in (None, "tiffslide", "image"):
        assert "1 sample(s) per pixel of kind MINISBLACK" in refusal(path, reader)


def test_the_reason_is_that_of_a_reader_who_knows_the_format(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", noise().astype(np.uint16), photometric="rgb", tile=(64, 64))
    assert refusal(path).startswith("a.tif: has 16 bits per sample")


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_png_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (80, 80)).save(tmp_path / "a.png")
    assert "8-bit RGB" in refusal(tmp_path / "a.png")


def test_16_bit_rgb_png_is_refused(tmp_path: Path) -> None:
    """Pillow would cut it down to 8 bits without a word."""
    import cv2

    assert cv2.imwrite(str(tmp_path / "a.png"), noise().astype(np.uint16) * 257)
    assert "16 bits per sample; 8-bit RGB is needed" in refusal(tmp_path / "a.png")


def test_cmyk_jpeg_is_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (80, 80)).save(tmp_path / "a.jpg")
    assert "of the kind CMYK" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise()).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "truncated or damaged" in refusal(path)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated_tiffs_are_refused(tmp_path: Path, share: float) -> None:
    for layout in ({}, {"tile": (64, 64)}):
        path = tiff(tmp_path / "a.tif", noise(), photometric="rgb", **layout)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        for reader in (None, "tiffslide", "image"):
            assert "is truncated: its pixels end at byte" in refusal(path, reader)


@pytest.mark.real
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_truncated_slides_are_refused(
    shared: Path, tmp_path: Path, name: str, share: float
) -> None:
    whole = (shared / "slides" / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refusal(path)
    assert "truncated" in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize("n_bytes", [1, 4, 7, 9, 15])
def test_a_header_alone_is_truncated(tmp_path: Path, n_bytes: int) -> None:
    path = tiff(tmp_path / "a.tif", noise(), photometric="rgb")
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert ("truncated" in refusal(path)) == (n_bytes >= 4)


def test_images_too_large_for_memory_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "LARGEST_PX", 150 * 200 - 1)
    Image.fromarray(noise()).save(tmp_path / "a.png")
    tiff(tmp_path / "a.tif", noise(), photometric="rgb")
    for name in ("a.png", "a.tif"):
        assert "convert it to a tiled pyramidal TIFF" in refusal(tmp_path / name)
    monkeypatch.undo()
    with open_slide(tmp_path / "a.png") as slide:
        assert slide.info.width_px == 200


@pytest.mark.parametrize("reader", ["tiffslide", "image"])
def test_ventana_without_openslide_is_refused(tmp_path: Path, reader: str) -> None:
    """Its tiles overlap; only OpenSlide knows."""
    packet = b"<iScan/>"
    path = tmp_path / "a.bif"
    options = {"software": "ScanOutputManager", "extratags": [(700, 7, 8, packet, True)]}
    tifffile.imwrite(path, noise(), **options, **TILED)
    assert "the overlapping tiles of Ventana BIF" in refusal(path, reader)


def test_every_byte_cut_off_a_pyramid_is_noticed(tmp_path: Path) -> None:
    """Classic and BigTIFF, both byte orders, directories before and behind the pixels."""
    for big in (False, True):
        for order in ("<", ">"):
            path = tmp_path / "a.tif"
            with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
                writer.write(noise(), subifds=1, **TILED)
                writer.write(noise(75, 100), subfiletype=1, **TILED)
                writer.write(noise(70, 90), **TILED)
            whole = path.read_bytes()
            assert truncation(path) is None
            for n_bytes in (5, 8, 17, 300, len(whole) // 2, len(whole) - 200, len(whole) - 1):
                path.write_bytes(whole[:n_bytes])
                assert "is truncated" in str(truncation(path)), (big, order, n_bytes)


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))
    with path.open("wb") as file:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file, "PNG")
    with pytest.raises(SlideNotReadable, match="not UTF-8; rename") as caught:
        open_slide(path)
    assert str(caught.value).encode()


def test_hidden_levels_do_not_hide_the_scale(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    path = tmp_path / "vips.tif"
    tiled: Any = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(rgb, subifds=1, resolution=(40000, 40000), resolutionunit="CENTIMETER", **tiled)
        tiff.write(rgb[::2, ::2], subfiletype=1, **tiled)
    with open_slide(path) as slide:
        assert len(slide.info.levels) == 2
        assert slide.info.mpp_x == slide.info.mpp_y == pytest.approx(0.25)
