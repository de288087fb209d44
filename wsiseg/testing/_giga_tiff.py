"""Streams a mosaic into a tiled pyramid, one encoded tile after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.testing.mosaics import GLASS, Canvas

TILE_PX = 256
STEPS = (1, 4, 16, 64)
"""Level-0 pixels per pixel of a level, as Aperio's scanners write them."""
JPEG_QUALITY = 90
_SMALLEST_PX = 400
"""Levels whose longer side is shorter are left away."""
_THUMBNAIL_PX = 1024
_SUBSAMPLING = (2, 2)
_REPORT_S = 2.0
Report = Callable[[str], None]


def write_pyramid(path: Path, canvas: Canvas, mpp: float, report: Report) -> None:
    """Write a canvas as a slide like Aperio's: levels, a thumbnail, µm per pixel, objective.

    The file appears under its name when it is whole.  Every level is the mean of level 0, as it
    was before compression; sizes are rounded down.
    """
    mosaic = canvas.mosaic
    longer = max(mosaic.width_px, mosaic.height_px)
    shorter = min(mosaic.width_px, mosaic.height_px)
    steps = [s for s in STEPS if s == 1 or (longer // s >= _SMALLEST_PX and shorter >= s)]
    part = path.with_name(f"{path.name}.part")
    try:
        with tifffile.TiffWriter(part, bigtiff=True) as tiff:
            for number, step in enumerate(steps):
                size = (mosaic.width_px // step, mosaic.height_px // step)
                tiff.write(
                    _encoded_tiles(canvas, step, size, report),
                    shape=(size[1], size[0], 3),
                    dtype=np.uint8,
                    tile=(TILE_PX, TILE_PX),
                    description=_description(canvas, size, mpp),
                    **_LAYOUT,
                )
                report(f"level 1:{step}  {size[0]:,} × {size[1]:,} px written")
                if number == 0:
                    # Readers of this format take the second directory as the thumbnail.
                    _write_thumbnail(tiff, canvas, steps[-1], mpp)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# With "rgb" tifffile marks JPEG as YCbCr; with "ycbcr" it would store RGB under that name.
_LAYOUT: dict[str, Any] = {
    "photometric": "rgb",
    "compression": "jpeg",
    "compressionargs": {"level": JPEG_QUALITY},
    "subsampling": _SUBSAMPLING,
    "metadata": None,
    "software": "wsiseg.testing.gigapixel",
    "maxworkers": 1,
}


def _description(canvas: Canvas, size: tuple[int, int], mpp: float) -> str:
    """Return the text from which readers know the format, µm per pixel and objective.

    It has to begin with "Aperio" and a space.
    """
    width, height = canvas.mosaic.width_px, canvas.mosaic.height_px
    shrunk = "" if size == (width, height) else f" -> {size[0]}x{size[1]}"
    return (
        "Aperio look-alike, made by wsiseg.testing.gigapixel\r\n"
        f"{width}x{height} [0,0 {width}x{height}] ({TILE_PX}x{TILE_PX}){shrunk} "
        f"JPEG/RGB Q={JPEG_QUALITY}|AppMag = {10 / mpp:.6g}|MPP = {mpp:.6g}"
    )


def _encoded_tiles(
    canvas: Canvas, step: int, size: tuple[int, int], report: Report
) -> Iterator[bytes]:
    """Yield the tiles of a level row by row; empty glass is encoded once."""
    glass = _encode(np.full((TILE_PX, TILE_PX, 3), GLASS, np.uint8))
    told = time.monotonic()
    for y in range(0, size[1], TILE_PX):
        for x in range(0, size[0], TILE_PX):
            box = Box(x, y, TILE_PX, TILE_PX)
            full = Box(*(step * v for v in (x, y, TILE_PX, TILE_PX)))
            yield _encode(canvas.read_shrunk(box, step)) if canvas.has_tissue(full) else glass
        if time.monotonic() - told > _REPORT_S:
            told = time.monotonic()
            report(f"level 1:{step}  {100 * min(1.0, (y + TILE_PX) / size[1]):3.0f} %")


def _encode(rgb: NDArray[np.uint8]) -> bytes:
    """Compress one tile; its colours become YCbCr, with colour at half the resolution."""
    return bytes(
        imagecodecs.jpeg8_encode(
            rgb, level=JPEG_QUALITY, colorspace="rgb", outcolorspace="ycbcr", subsampling="420"
        )
    )


def _write_thumbnail(tiff: tifffile.TiffWriter, canvas: Canvas, step: int, mpp: float) -> None:
    """Write a small picture of the slide in strips."""
    width, height = canvas.mosaic.width_px // step, canvas.mosaic.height_px // step
    rgb = canvas.read_shrunk(Box(0, 0, width, height), step)
    shrink = min(1.0, _THUMBNAIL_PX / max(width, height))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    tiff.write(small, rowsperstrip=16, description=_description(canvas, size, mpp), **_LAYOUT)
