"""OME-TIFF, odd files, and slides whose scanned area begins somewhere: read right or refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from slide_files import (
    TILE_PX,
    TILED,
    picture,
    refusal,
    shrunk,
    write_dicom,
    write_ome_pyramid,
    write_scn,
)

from wsiseg.errors import SlideNotReadable
from wsiseg.geometry import Box
from wsiseg.slides import open_slide
from wsiseg.slides.protocol import bounds_on

RGB = picture(300, 500)


# ---------------------------------------------------------------- OME-TIFF


@pytest.mark.parametrize(
    ("planar", "compression"),
    [(False, None), (False, "jpeg"), (False, "zlib"), (False, "lzw"), (True, None), (True, "zlib")],
)
def test_all_levels_of_an_ome_pyramid_are_read(
    tmp_path: Path, planar: bool, compression: str | None
) -> None:
    """Against tifffile's own decoding of each level."""
    rgb = picture(301, 517)
    path = write_ome_pyramid(tmp_path / "a.ome.tif", rgb, planar=planar, compression=compression)
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        info = slide.info
        assert info.reader == "image"
        assert (info.mpp_x, info.mpp_y) == (0.25, 0.25)
        assert [level.downsample for level in info.levels] == pytest.approx([1, 2, 4], rel=0.01)
        for index, level in enumerate(tiff.series[0].levels):
            expected = np.moveaxis(level.asarray(), 0, -1) if planar else level.asarray()
            assert np.array_equal(slide.read_level(index, info.levels[index].box), expected)
        if compression != "jpeg":
            assert np.array_equal(slide.read_level(1, info.levels[1].box), shrunk(rgb, 2))


def test_ome_pyramids_do_not_depend_on_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ome_pyramid(tmp_path / "a.ome.tif", RGB)
    with open_slide(path) as slide:
        info = slide.info
    monkeypatch.setitem(__import__("sys").modules, "tiffslide", None)
    with open_slide(path) as slide:
        assert slide.info == info


def test_tiles_that_are_not_stored_are_white(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    tiles = [RGB[:TILE_PX, :TILE_PX], None]
    layout = {"shape": (TILE_PX, 2 * TILE_PX, 3), "dtype": np.uint8}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(iter(tiles), subifds=1, **layout, **TILED)
        tiff.write(RGB[: TILE_PX // 2, :TILE_PX], subfiletype=1, **TILED)
    with open_slide(path) as slide:
        assert len(slide.info.levels) == 2
        pixels = slide.read_level(0, Box(0, 0, 2 * TILE_PX, TILE_PX))
    assert (pixels[:, TILE_PX:] == 255).all()
    assert np.array_equal(pixels[:, :TILE_PX], RGB[:TILE_PX, :TILE_PX])


def write_images(path: Path, pixels: list[NDArray[Any]], **options: Any) -> Path:
    with tifffile.TiffWriter(path, ome=path.name.endswith(".ome.tif")) as tiff:
        for image in pixels:
            tiff.write(image, **options)
    return path


STACK = np.stack([RGB] * 3)
PLANES = np.ascontiguousarray(np.moveaxis(RGB, -1, 0))


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif"])
@pytest.mark.parametrize("layout", [TILED, {"photometric": "rgb"}], ids=["tiles", "strips"])
def test_two_scenes_are_refused(tmp_path: Path, name: str, layout: dict[str, Any]) -> None:
    path = write_images(tmp_path / name, [RGB, RGB[:280]], **layout)
    for reader in (None, "tiffslide", "image"):
        message = refusal(path, reader)
        assert "several images of like size (500 × 300 and 500 × 280 px)" in message
        assert "export the one to analyse" in message


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif"])
def test_a_label_beside_the_slide_is_no_second_scene(tmp_path: Path, name: str) -> None:
    path = write_images(tmp_path / name, [RGB, RGB[:100, :100]], **TILED)
    with open_slide(path) as slide:
        assert (slide.info.width_px, slide.info.height_px) == (500, 300)


@pytest.mark.parametrize(
    ("axes", "pixels", "words"),
    [
        ("ZYXS", STACK, "has 3 focal planes (Z)"),
        ("TYXS", STACK, "has 3 time points (T)"),
        ("CYX", PLANES, "has 3 channels (C)"),
        ("ZCYX", np.stack([PLANES] * 2), "has 2 focal planes (Z) and 3 channels (C)"),
    ],
)
def test_several_planes_of_ome_are_refused(
    tmp_path: Path, axes: str, pixels: NDArray[Any], words: str
) -> None:
    kind = "rgb" if axes.endswith("S") else "minisblack"
    options = {"metadata": {"axes": axes}, "tile": (TILE_PX, TILE_PX), "photometric": kind}
    path = write_images(tmp_path / "a.ome.tif", [pixels], **options)
    for reader in (None, "tiffslide", "image"):
        assert words in refusal(path, reader)
    assert "one RGB plane is needed: export one plane" in refusal(path)


def test_planes_of_another_kind_of_tiff_are_refused(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.tif", [STACK], photometric="rgb")
    assert "several images of like size" in refusal(path)


def test_pixels_in_other_files_are_not_followed(tmp_path: Path) -> None:
    """What OME-XML names is the file's to say, not the user's."""
    other = write_images(tmp_path / "other.ome.tif", [RGB], **TILED)
    path = write_images(tmp_path / "a.ome.tif", [shrunk(RGB, 2)], **TILED)
    with tifffile.TiffFile(path) as tiff:
        text = tiff.pages.first.description
    with tifffile.TiffFile(other) as tiff:
        uuid = tiff.pages.first.description.partition('UUID="')[2].partition('"')[0]
    named = text.replace(
        "/></Pixels>", f'><UUID FileName="other.ome.tif">{uuid}</UUID></TiffData></Pixels>'
    )
    assert named != text
    tifffile.tiffcomment(path, named.encode())
    other.unlink()
    with open_slide(path) as slide:
        assert slide.info.width_px == 250


# ---------------------------------------------------------------- kinds of pixels


@pytest.mark.parametrize("layout", [{}, {"tile": (TILE_PX, TILE_PX)}], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    ("pixels", "kind", "words"),
    [
        (np.dstack([RGB, RGB[..., :1]]), "separated", "4 sample(s) per pixel of kind SEPARATED"),
        (np.dstack([RGB, RGB[..., :2]]), "rgb", "5 sample(s) per pixel of kind RGB"),
        (RGB.astype(np.float32) / 255, "rgb", "32 bits per sample"),
        (RGB.astype(np.int8), "rgb", "signed samples"),
        (RGB[..., 0].copy(), "miniswhite", "1 sample(s) per pixel of kind MINISWHITE"),
    ],
    ids=["cmyk", "five", "float", "signed", "grey"],
)
def test_other_pixels_are_refused(
    tmp_path: Path, pixels: NDArray[Any], kind: str, words: str, layout: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric=kind, **layout)
    for reader in (None, "tiffslide", "image"):
        message = refusal(path, reader)
        assert words in message
        assert "8-bit RGB" in message


def test_planar_tiles_without_levels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES, planarconfig="separate", **TILED)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_level(0, Box(0, 0, 500, 300)), RGB)


# ---------------------------------------------------------------- bounds


def test_the_bounds_of_a_real_format_are_known(tmp_path: Path) -> None:
    path = write_scn(tmp_path / "a.scn", RGB, (1000, 2000), (1700, 2600))
    with open_slide(path) as slide:
        info = slide.info
        assert (info.width_px, info.height_px) == (1700, 2600)
        assert info.bounds == Box(1000, 2000, 500, 300)
        assert (info.mpp_x, info.mpp_y) == pytest.approx((0.25, 0.25))
        around = slide.read_level(0, Box(990, 1990, 30, 30))
        inside = slide.read_level(0, info.bounds)
    assert (around[:10] == 255).all()
    assert (around[:, :10] == 255).all()
    with tifffile.TiffFile(path) as tiff:
        assert np.array_equal(inside, tiff.pages[0].asarray())


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, Box(0, 0, 100, 80)),
        (Box(10, 20, 30, 40), Box(10, 20, 30, 40)),
        (Box(10, 20, 500, 500), Box(10, 20, 90, 60)),
        (Box(-5, -6, 50, 50), Box(0, 0, 45, 44)),
        (Box(10, 20, 0, 40), Box(0, 0, 100, 80)),
        (Box(200, 0, 50, 50), Box(0, 0, 100, 80)),
    ],
)
def test_bounds_lie_on_the_slide(named: Box | None, expected: Box) -> None:
    assert bounds_on(Box(0, 0, 100, 80), named) == expected


# ---------------------------------------------------------------- no slide at all


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "link.svs").symlink_to(tmp_path / "gone.svs")
    (tmp_path / "loop.svs").symlink_to(tmp_path / "loop.svs")
    os.mkfifo(tmp_path / "pipe.svs")
    said = {
        "gone.svs": "gone.svs does not exist; check the path",
        "link.svs": "link.svs is a link to a file that does not exist; check where it points",
        "pipe.svs": "pipe.svs is no regular file; one slide file is needed",
    }
    for reader in (None, "openslide", "image"):
        for name, message in said.items():
            assert refusal(tmp_path / name, reader) == message
        assert "cannot be read" in refusal(tmp_path / "loop.svs", reader)
        assert "cannot be read" in refusal(tmp_path / ("x" * 300), reader)
        assert "cannot be read" in refusal(tmp_path / "nul\0.svs", reader)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_files_one_may_not_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"secret")
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root too, who may read everything."""
    path = tmp_path / "a.svs"
    path.write_bytes(b"secret")

    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path) == (
        "a.svs cannot be read (Permission denied); check the path, and that you may read it"
    )


def test_names_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb.svs"
    assert "a b.svs does not exist" in refusal(path)
    path.write_text("no slide")
    assert "a b.svs: no reader can open it" in refusal(path)
    tifffile.imwrite(path, RGB.astype(np.uint16), photometric="rgb")
    assert "a b.svs: has 16 bits" in refusal(path)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "ome.tif", "scn", "dcm"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    """Bytes changed at random, and cut off: never another exception, never two lines."""
    write: dict[str, Callable[[Path], Any]] = {
        "tif": lambda path: tifffile.imwrite(path, RGB, compression="zlib", **TILED),
        "ome.tif": lambda path: write_ome_pyramid(path, RGB, compression="jpeg"),
        "scn": lambda path: write_scn(path, RGB, (10, 20), (600, 400)),
        "dcm": lambda path: write_dicom(path.parent, RGB, (1,), names=(path.name,)),
    }
    path = tmp_path / f"a.{kind}"
    write.get(kind, lambda path: Image.fromarray(RGB).save(path))(path)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(40):
        content = bytearray(whole)
        # Headers are at either end.
        n = random.integers(1, 4)
        for place in random.choice([0, len(content) - 400], n) + random.integers(0, 400, n):
            content[place] = random.integers(256)
        path.write_bytes(content)
        said = ""
        try:
            with open_slide(path) as slide:
                last = len(slide.info.levels) - 1
                assert slide.read_level(last, Box(0, 0, 60, 60)).shape == (60, 60, 3)
        except SlideNotReadable as error:
            said = str(error)
        assert "\n" not in said
        assert str(tmp_path) not in said
