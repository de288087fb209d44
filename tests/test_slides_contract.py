"""The contract of `wsiseg.testing.slides`, kept by every reader of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from slide_files import picture, write_dicom, write_ome_pyramid, write_scn

from wsiseg.geometry import Box
from wsiseg.slides import Slide, open_slide
from wsiseg.testing.slides import ArraySlide, SlideContract


def write_pyramid(path: Path, rgb: NDArray[np.uint8], steps: tuple[int, ...] = (4,)) -> None:
    """A tiled JPEG pyramid; sizes are rounded down, so downsamples are not whole numbers."""
    tiles = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg"}
    height, width, _ = rgb.shape
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(rgb, resolution=(40000, 40000), resolutionunit="CENTIMETER", **tiles)
        for step in steps:
            size = (width // step, height // step)
            level = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
            tiff.write(level, subfiletype=1, **tiles)


class FileContract(SlideContract):
    """The contract on one file, written once."""

    path: Path
    reader: str

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _file(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.path = cls.write(tmp_path_factory.mktemp("slide"))

    @staticmethod
    def write(folder: Path) -> Path:
        raise NotImplementedError

    def open_slide(self) -> Slide:
        slide = open_slide(self.path, self.reader)
        assert slide.info.reader == self.reader
        return slide


def write_small_pyramid(folder: Path) -> Path:
    write_pyramid(folder / "pyramid.tiff", picture(907, 1203), (2, 4))
    return folder / "pyramid.tiff"


class TestOpenSlide(FileContract):
    reader = "openslide"
    write = staticmethod(write_small_pyramid)


class TestTiffSlide(FileContract):
    reader = "tiffslide"
    write = staticmethod(write_small_pyramid)


class TestPng(FileContract):
    reader = "image"

    @staticmethod
    def write(folder: Path) -> Path:
        Image.fromarray(picture(211, 307)).save(folder / "a.png")
        return folder / "a.png"


class TestJpeg(FileContract):
    reader = "image"

    @staticmethod
    def write(folder: Path) -> Path:
        Image.fromarray(picture(211, 307)).save(folder / "a.jpg")
        return folder / "a.jpg"


class TestPlainTiff(FileContract):
    reader = "image"

    @staticmethod
    def write(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", picture(211, 307), photometric="rgb")
        return folder / "a.tif"


class TestOmePyramid(FileContract):
    reader = "image"

    @staticmethod
    def write(folder: Path) -> Path:
        return write_ome_pyramid(folder / "a.ome.tif", picture(607, 803), compression="jpeg")


class TestPlanarOmePyramid(FileContract):
    reader = "image"

    @staticmethod
    def write(folder: Path) -> Path:
        return write_ome_pyramid(folder / "a.ome.tif", picture(307, 403), planar=True)


class TestDicomFile(FileContract):
    reader = "openslide"

    @staticmethod
    def write(folder: Path) -> Path:
        return write_dicom(folder, picture(307, 403))[0]


class TestDicomFolder(FileContract):
    reader = "openslide"

    @staticmethod
    def write(folder: Path) -> Path:
        write_dicom(folder, picture(307, 403))
        return folder


class TestLeica(FileContract):
    """A scanned area that does not begin at the slide's corner."""

    reader = "openslide"

    @staticmethod
    def write(folder: Path) -> Path:
        return write_scn(folder / "a.scn", picture(307, 403), (150, 101), (701, 600), (1, 2))


class TestArraySlide(SlideContract):
    def open_slide(self) -> Slide:
        return ArraySlide(picture(211, 307), mpp=0.25, downsamples=(1, 2, 4.0027))


@pytest.mark.real
class TestRealJpeg(SlideContract):
    @pytest.fixture(autouse=True)
    def _slides(self, shared: Path) -> None:
        self.path = shared / "slides" / "CMU-1-Small-Region.svs"

    def open_slide(self) -> Slide:
        return open_slide(self.path)


@pytest.mark.real
class TestRealJpeg2000(TestRealJpeg):
    @pytest.fixture(autouse=True)
    def _slides(self, shared: Path) -> None:
        self.path = shared / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"


@pytest.mark.parametrize(
    ("suffix", "exact"), [("png", True), ("jpg", False), ("tif", True), ("ppm", None)]
)
def test_images_hold_the_pixels_written(tmp_path: Path, suffix: str, exact: bool | None) -> None:
    rgb = picture(60, 80)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path)
    if exact is None:
        with pytest.raises(OSError, match="not a PNG, JPEG or TIFF"):
            open_slide(path, "image")
        return
    with open_slide(path) as slide:
        pixels = slide.read_level(0, Box(0, 0, 80, 60))
    decoded = rgb if exact else np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(pixels, decoded)


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_pyramids_hold_the_pixels_written(tmp_path: Path, reader: str) -> None:
    """Against tifffile's own decoding, in place and colour."""
    path = write_small_pyramid(tmp_path)
    with open_slide(path, reader) as slide, tifffile.TiffFile(path) as tiff:
        info = slide.info
        assert len(info.levels) == 3
        assert (info.mpp_x, info.mpp_y) == (0.25, 0.25)
        assert np.array_equal(slide.read_level(0, info.levels[0].box), tiff.pages[0].asarray())


@pytest.mark.real
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_openslide_and_tiffslide_read_equal_pixels(shared: Path, name: str) -> None:
    """Equal to the last bit, JPEG and JPEG 2000, wherever OpenSlide need not interpolate.

    It interpolates where a block of a level with a fractional downsample begins between two
    level pixels; the block at the origin never does.
    """
    path = shared / "slides" / name
    with open_slide(path, "openslide") as one, open_slide(path, "tiffslide") as other:
        assert one.info.levels == other.info.levels
        assert one.info.fingerprint == other.info.fingerprint
        assert (one.info.mpp_x, one.info.mpp_y) == (other.info.mpp_x, other.info.mpp_y)
        assert one.info.objective_power == other.info.objective_power
        for index, level in enumerate(one.info.levels):
            size = min(level.width_px, level.height_px, 960 if level.downsample == 1 else 480)
            exact = Box(0, 0, size, size)
            assert np.array_equal(one.read_level(index, exact), other.read_level(index, exact))
            corner = Box(level.width_px - 300, level.height_px - 300, 300, 300)
            pixels = one.read_level(index, corner).astype(int)
            apart = np.abs(pixels - other.read_level(index, corner))
            assert apart.max() <= (0 if level.downsample == 1 else 60)


class WrongSlide(ArraySlide):
    """A slide with one fault, to see that the contract notices it."""

    def __init__(self, fault: str) -> None:
        super().__init__(picture(211, 307), downsamples=(1, 2))
        self.fault = fault

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        if self.fault == "wraps levels":
            level %= 2
        pixels = super().read_level(level, box)
        if not pixels.size:
            return pixels
        if self.fault == "black outside" and box.x_px < 0:
            pixels[:, : -box.x_px] = 0
        if self.fault == "place depends on the box" and box.x_px % 2:
            return np.roll(pixels, 1, axis=1)
        if self.fault == "too short":
            return pixels[:-1]
        return pixels

    def close(self) -> None:
        if self.fault != "stays open":
            super().close()

    def __reduce__(self) -> object:
        if self.fault == "pickles as another":
            return ArraySlide, (picture(211, 308),)
        return WrongSlide, (self.fault,)


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("wraps levels", "test_missing_levels_are_refused"),
        ("black outside", "test_outside_is_white"),
        ("place depends on the box", "test_overlapping_boxes_of_a_level_agree"),
        ("place depends on the box", "test_every_scale_is_one_virtual_image"),
        ("too short", "test_levels_have_the_shape_they_announce"),
        ("pickles as another", "test_pickling_gives_the_same_slide"),
        ("stays open", "test_a_closed_slide_is_not_read"),
    ],
)
def test_the_contract_notices(fault: str, test: str) -> None:
    class Wrong(SlideContract):
        def open_slide(self) -> Slide:
            return WrongSlide(fault)

    with pytest.raises(AssertionError):
        getattr(Wrong(), test)()
