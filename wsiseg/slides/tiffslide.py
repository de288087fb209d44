"""Reading tiled TIFF slides with tiffslide (https://github.com/Bayer-Group/tiffslide)."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import MissingDependency, SlideNotReadable, UnknownFormat
from wsiseg.geometry import Box
from wsiseg.slides.blocks import BlockSlide, block_edge_px, tile_not_readable
from wsiseg.slides.fingerprint import fingerprint
from wsiseg.slides.protocol import Level, Slide, SlideInfo, bounds_on
from wsiseg.slides.tiff import (
    LIBRARY_ERRORS,
    credible_mpp,
    is_tiff,
    ome_mpp,
    positive_number,
    refuse_overlapping_tiles,
    refuse_unsuitable_tiff,
    without_alpha,
)


def open_with_tiffslide(path: Path | str) -> Slide:
    """Open a tiled or pyramidal TIFF slide with tiffslide.

    Raises
    ------
    MissingDependency
        If tiffslide is not installed.
    SlideNotReadable
        If it is no tiled TIFF, or damaged, or not 8-bit RGB.
    """
    path = Path(path).absolute()
    library = _library()
    if not is_tiff(path):
        raise UnknownFormat(f"{path.name}: tiffslide reads TIFF files only")
    refuse_unsuitable_tiff(path)
    try:
        slide = library.TiffSlide(path)
    except LIBRARY_ERRORS as error:
        raise SlideNotReadable(f"{path.name}: tiffslide cannot open it: {error}") from error
    try:
        _refuse_layout(path.name, slide)
        info = _info(path, slide)
        source = _TiffSlideSource(path.name, slide)
    except LIBRARY_ERRORS as error:
        slide.close()
        if isinstance(error, SlideNotReadable):
            raise
        raise SlideNotReadable(f"{path.name}: tiffslide cannot read it: {error}") from error
    blocks = tuple(_block_px(slide.properties, level) for level in range(len(info.levels)))
    return BlockSlide(info, source, blocks, open_with_tiffslide, path)


def _library() -> ModuleType:
    try:
        return importlib.import_module("tiffslide")
    except ImportError as error:
        raise MissingDependency(
            "tiffslide is not installed; pip install 'wsiseg[tiffslide]'"
        ) from error


def _refuse_layout(name: str, slide: Any) -> None:
    tiff = slide.ts_tifffile
    refuse_overlapping_tiles(name, tiff)
    if not tiff.pages.first.is_tiled and len(slide.level_dimensions) == 1:
        raise UnknownFormat(f"{name}: is neither tiled nor a pyramid; read it as an image")
    axes = slide.properties.get("tiffslide.series-axes")
    if axes != "YXS":
        raise SlideNotReadable(
            f"{name}: has the axes {axes}; one RGB plane (YXS) is needed: export one plane"
        )


def _info(path: Path, slide: Any) -> SlideInfo:
    said = slide.properties
    width_px, height_px = slide.dimensions
    mpp_x, mpp_y = ome_mpp(str(said.get("tiff.ImageDescription") or ""))
    return SlideInfo(
        name=path.name,
        reader="tiffslide",
        width_px=width_px,
        height_px=height_px,
        levels=tuple(
            Level(float(downsample), *size)
            for downsample, size in zip(
                slide.level_downsamples, slide.level_dimensions, strict=True
            )
        ),
        mpp_x=mpp_x or credible_mpp(said.get("tiffslide.mpp-x")),
        mpp_y=mpp_y or credible_mpp(said.get("tiffslide.mpp-y")),
        objective_power=positive_number(said.get("tiffslide.objective-power")),
        vendor=said.get("tiffslide.vendor") or "generic-tiff",
        bounds=_bounds(slide),
        fingerprint=fingerprint(path),
    )


def _bounds(slide: Any) -> Box:
    said = slide.properties
    values = [said.get(f"tiffslide.bounds-{side}") for side in ("x", "y", "width", "height")]
    try:
        named = Box(*map(int, values))
    except (TypeError, ValueError):
        named = None
    return bounds_on(Box(0, 0, *slide.dimensions), named)


def _block_px(said: Any, level: int) -> tuple[int, int]:
    width = said.get(f"tiffslide.level[{level}].tile-width")
    height = said.get(f"tiffslide.level[{level}].tile-height")
    return block_edge_px(width), block_edge_px(height)


class _TiffSlideSource:
    """Blocks through tiffslide."""

    def __init__(self, name: str, slide: Any) -> None:
        self._name = name
        self._slide = slide
        extra = slide.ts_tifffile.pages.first.extrasamples
        self._alpha = extra[0] if extra else None

    def decode(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB on white; the box lies inside the level."""
        downsample = self._slide.level_downsamples[level]
        place = (_level_0_px(box.x_px, downsample), _level_0_px(box.y_px, downsample))
        size = (box.width_px, box.height_px)
        try:
            pixels = self._slide.read_region(place, level, size, as_array=True)
        except LIBRARY_ERRORS as error:
            raise tile_not_readable(self._name, level, box, error) from error
        return without_alpha(pixels, self._alpha)

    def close(self) -> None:
        """Let go of the file."""
        self._slide.close()


def _level_0_px(level_px: int, downsample: float) -> int:
    """Return the level-0 place that tiffslide, which rounds down, turns into a level pixel."""
    place = math.ceil(level_px * downsample)
    return place if int(place / downsample) >= level_px else place + 1
