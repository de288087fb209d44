"""Reading slides with the OpenSlide library (https://openslide.org)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from wsiseg.errors import SlideNotReadable, UnknownFormat
from wsiseg.geometry import Box
from wsiseg.slides.blocks import BlockSlide, block_edge_px, tile_not_readable
from wsiseg.slides.dicom import SlideFiles, find_series, is_dicom
from wsiseg.slides.fingerprint import fingerprint
from wsiseg.slides.protocol import Level, Slide, SlideInfo, bounds_on, on_white
from wsiseg.slides.tiff import credible_mpp, ome_mpp, positive_number, refuse_unsuitable_tiff


def open_with_openslide(path: Path | str) -> Slide:
    """Open a slide with OpenSlide.

    Parameters
    ----------
    path
        A file; of a DICOM series any file with pixels of the slide, or the folder.

    Raises
    ------
    SlideNotReadable
        If OpenSlide does not know the format, or the file is damaged or not 8-bit RGB.
    """
    path = Path(path).absolute()
    series = SlideFiles(path, (path,))
    if path.is_dir() or is_dicom(path):
        series = find_series(path)
    elif openslide.OpenSlide.detect_format(path) is None:
        raise UnknownFormat(f"{path.name}: OpenSlide does not know this format")
    else:
        refuse_unsuitable_tiff(path)
    try:
        slide = openslide.OpenSlide(series.start)
    except openslide.OpenSlideError as error:
        said = str(error).replace(f"{series.start.parent}/", "")
        raise SlideNotReadable(
            f"{path.name}: OpenSlide cannot open it ({said}): copy it again, or export it as a "
            "tiled pyramidal TIFF"
        ) from error
    info = _info(path.name, fingerprint(*series.files), slide)
    blocks = tuple(_block_px(slide, level) for level in range(slide.level_count))
    source = _OpenSlideSource(series.start, slide)
    return BlockSlide(info, source, blocks, open_with_openslide, path)


def _info(name: str, content: str, slide: openslide.OpenSlide) -> SlideInfo:
    said = slide.properties
    width_px, height_px = slide.dimensions
    mpp_x, mpp_y = ome_mpp(said.get("tiff.ImageDescription", ""))
    return SlideInfo(
        name=name,
        reader="openslide",
        width_px=width_px,
        height_px=height_px,
        levels=tuple(
            Level(float(downsample), *size)
            for downsample, size in zip(
                slide.level_downsamples, slide.level_dimensions, strict=True
            )
        ),
        mpp_x=mpp_x or credible_mpp(said.get(openslide.PROPERTY_NAME_MPP_X)),
        mpp_y=mpp_y or credible_mpp(said.get(openslide.PROPERTY_NAME_MPP_Y)),
        objective_power=positive_number(said.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        vendor=said.get(openslide.PROPERTY_NAME_VENDOR),
        bounds=_bounds(slide),
        fingerprint=content,
    )


def _bounds(slide: openslide.OpenSlide) -> Box:
    """Return the scanned area; MRXS, SCN and some NDPI files name one."""
    said = slide.properties
    try:
        named = Box(
            int(said[openslide.PROPERTY_NAME_BOUNDS_X]),
            int(said[openslide.PROPERTY_NAME_BOUNDS_Y]),
            int(said[openslide.PROPERTY_NAME_BOUNDS_WIDTH]),
            int(said[openslide.PROPERTY_NAME_BOUNDS_HEIGHT]),
        )
    except (KeyError, ValueError):
        named = None
    return bounds_on(Box(0, 0, *slide.dimensions), named)


def _block_px(slide: openslide.OpenSlide, level: int) -> tuple[int, int]:
    said = slide.properties
    width = positive_number(said.get(f"openslide.level[{level}].tile-width"))
    height = positive_number(said.get(f"openslide.level[{level}].tile-height"))
    return block_edge_px(int(width or 0)), block_edge_px(int(height or 0))


class _OpenSlideSource:
    """Blocks through OpenSlide."""

    def __init__(self, path: Path, slide: openslide.OpenSlide) -> None:
        self._path = path
        self._slide = slide

    def decode(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB on white; the box lies inside the level."""
        try:
            return _read_block(self._slide, level, box)
        except openslide.OpenSlideError:
            # One bad read makes an OpenSlide handle fail for ever, in all threads: so try
            # again with a new one, and keep it only if the damage was not here.  The old one
            # may still be in use elsewhere; it closes when nobody holds it any more.
            try:
                fresh = openslide.OpenSlide(self._path)
                pixels = _read_block(fresh, level, box)
            except openslide.OpenSlideError as error:
                raise tile_not_readable(self._path.name, level, box, error) from error
            self._slide = fresh
            return pixels

    def close(self) -> None:
        """Let go of the file."""
        self._slide.close()


def _read_block(slide: openslide.OpenSlide, level: int, box: Box) -> NDArray[np.uint8]:
    """Read a box of level pixels.

    OpenSlide takes the place in level-0 pixels.  If the downsample is not a whole number,
    that falls between level pixels and OpenSlide interpolates; fixed blocks keep that equal
    for all who read the same pixel.
    """
    downsample = slide.level_downsamples[level]
    place = (round(box.x_px * downsample), round(box.y_px * downsample))
    return on_white(np.asarray(slide.read_region(place, level, (box.width_px, box.height_px))))
