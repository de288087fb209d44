"""Reading PNG, JPEG and TIFF images: whole into memory, or tile by tile if they have levels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ImageFile, JpegImagePlugin, PngImagePlugin

from wsiseg.errors import SlideNotReadable, UnknownFormat
from wsiseg.geometry import Box
from wsiseg.slides.blocks import BlockSlide, block_edge_px
from wsiseg.slides.fingerprint import fingerprint
from wsiseg.slides.protocol import Level, Slide, SlideInfo, on_white, white_outside
from wsiseg.slides.tiff import (
    LIBRARY_ERRORS,
    TIFF_MAGIC,
    ome_mpp,
    refuse_overlapping_tiles,
    refuse_unsuitable_tiff,
    without_alpha,
)
from wsiseg.slides.tiff_levels import TiffLevels, has_hidden_levels

LARGEST_PX = 2**30
"""Largest image read into memory; beyond it a tiled format is needed."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_BIT_DEPTH_AT = 24


class _Image(NamedTuple):
    rgb: NDArray[np.uint8]
    vendor: str
    mpp_x: float | None = None
    mpp_y: float | None = None


def open_image(path: Path | str) -> Slide:
    """Open a PNG, JPEG or TIFF image.

    It is read into memory, but for TIFF pyramids whose levels are in sub-directories, as in
    OME-TIFF.
    The dots per inch of an image are those of a screen or printer, so they are not taken
    for µm per pixel; the physical size in an OME-TIFF is.

    Raises
    ------
    SlideNotReadable
        If it is none of these, damaged, too large, or not 8-bit RGB.
    """
    path = Path(path).absolute()
    with path.open("rb") as file:
        head = file.read(_PNG_BIT_DEPTH_AT + 1)
    if head.startswith(_PNG_MAGIC):
        image = _read_png(path, head)
    elif head.startswith(_JPEG_MAGIC):
        image = _Image(_read_pillow(path, JpegImagePlugin.JpegImageFile), "jpeg")
    elif head.startswith(TIFF_MAGIC):
        refuse_unsuitable_tiff(path)
        if has_hidden_levels(path):
            return _open_pyramid(path)
        image = _read_tiff(path)
    else:
        raise UnknownFormat(f"{path.name}: is not a PNG, JPEG or TIFF image")
    height_px, width_px, _ = image.rgb.shape
    info = SlideInfo(
        name=path.name,
        reader="image",
        width_px=width_px,
        height_px=height_px,
        levels=(Level(1.0, width_px, height_px),),
        mpp_x=image.mpp_x,
        mpp_y=image.mpp_y,
        objective_power=None,
        vendor=image.vendor,
        bounds=Box(0, 0, width_px, height_px),
        fingerprint=fingerprint(path),
    )
    return _ImageSlide(info, image.rgb, path)


def _open_pyramid(path: Path) -> Slide:
    try:
        source = TiffLevels(path)
    except LIBRARY_ERRORS as error:
        raise _not_decoded(path, error) from error
    levels, (mpp_x, mpp_y) = source.levels, ome_mpp(source.description)
    if mpp_x is None or mpp_y is None:
        mpp_x, mpp_y = source.resolution_mpp
    info = SlideInfo(
        name=path.name,
        reader="image",
        width_px=levels[0].width_px,
        height_px=levels[0].height_px,
        levels=levels,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        objective_power=None,
        vendor="tiff",
        bounds=levels[0].box,
        fingerprint=fingerprint(path),
    )
    blocks = tuple((block_edge_px(x), block_edge_px(y)) for x, y in source.tile_sizes_px)
    return BlockSlide(info, source, blocks, open_image, path)


def _not_decoded(path: Path, error: Exception) -> SlideNotReadable:
    return SlideNotReadable(
        f"{path.name}: the TIFF cannot be decoded ({error}): copy or export it again"
    )


def _read_png(path: Path, head: bytes) -> _Image:
    # Pillow cuts 16-bit RGB down to 8 bits without a word, so the header is asked.
    if head[_PNG_BIT_DEPTH_AT:] == b"\x10":
        raise SlideNotReadable(
            f"{path.name}: has 16 bits per sample; 8-bit RGB is needed: export it as 8-bit RGB"
        )
    return _Image(_read_pillow(path, PngImagePlugin.PngImageFile), "png")


def _read_pillow(path: Path, decoder: type[ImageFile.ImageFile]) -> NDArray[np.uint8]:
    # Not through Image.open: its limit on size is global, lower, and only a warning.
    try:
        with decoder(path) as image:
            _refuse_size(path.name, *image.size)
            _refuse_mode(path.name, image.mode)
            has_alpha = image.mode in {"RGBA", "PA"} or "transparency" in image.info
            return (
                on_white(np.asarray(image.convert("RGBA")))
                if has_alpha
                else np.array(image.convert("RGB"))
            )
    except (EOFError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, SlideNotReadable):
            raise
        raise SlideNotReadable(
            f"{path.name}: the image is truncated or damaged ({error}): copy it again"
        ) from error


def _refuse_size(name: str, width_px: int, height_px: int) -> None:
    if width_px * height_px > LARGEST_PX:
        raise SlideNotReadable(
            f"{name}: has {width_px:,} × {height_px:,} px; at most {LARGEST_PX:,} px are read "
            "into memory: convert it to a tiled pyramidal TIFF, for example with "
            "`vips tiffsave --tile --pyramid --compression jpeg`"
        )


def _refuse_mode(name: str, mode: str) -> None:
    if mode not in {"RGB", "RGBA", "P", "PA"}:
        raise SlideNotReadable(
            f"{name}: its pixels are of the kind {mode}; 8-bit RGB of an H&E slide is needed: "
            "export it as RGB (grey scale and CMYK are not supported)"
        )


def _read_tiff(path: Path) -> _Image:
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            page, image = tiff.pages.first, tiff.series[0]
            refuse_overlapping_tiles(path.name, tiff)
            _refuse_size(path.name, page.imagewidth, page.imagelength)
            _refuse_layout(path.name, image.axes)
            pixels = image.asarray()
            if image.axes == "SYX":
                pixels = np.moveaxis(pixels, 0, -1)
            alpha = page.extrasamples[0] if page.extrasamples else None
            rgb = without_alpha(pixels, alpha)
            return _Image(rgb, "tiff", *ome_mpp(page.description))
    except LIBRARY_ERRORS as error:
        if isinstance(error, SlideNotReadable):
            raise
        raise _not_decoded(path, error) from error


def _refuse_layout(name: str, axes: str) -> None:
    if axes not in {"YXS", "SYX"}:
        raise SlideNotReadable(
            f"{name}: has the axes {axes}; one RGB plane (YXS) is needed: export one plane"
        )


class _ImageSlide:
    """A slide whose pixels are in memory; pickled as the path of its file."""

    def __init__(self, info: SlideInfo, rgb: NDArray[np.uint8], path: Path) -> None:
        self._info = info
        self._rgb: NDArray[np.uint8] | None = rgb
        self._path = path

    @property
    def info(self) -> SlideInfo:
        """What the file says about itself."""
        return self._info

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB; see `Slide.read_level`."""
        rgb = self._rgb
        if rgb is None:
            raise SlideNotReadable(f"{self._info.name} is closed; open it again to read it")
        found = self._info.level(level)
        return white_outside(found, box, lambda inside: rgb[inside.slices_in(found.box)].copy())

    def close(self) -> None:
        """Let go of the pixels."""
        self._rgb = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Path], Slide], tuple[Path]]:
        return open_image, (self._path,)
