"""Tiled TIFF pyramids read tile by tile with tifffile, whatever layout their levels have.

OpenSlide takes levels from the chain of directories only; OME-TIFF, and `vips --subifd`, keep
them in sub-directories (TIFF tag 330), so that it sees the finest level alone.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.slides.blocks import tile_not_readable
from wsiseg.slides.protocol import WHITE, Level
from wsiseg.slides.tiff import LIBRARY_ERRORS, credible_mpp, without_alpha

_SIZE_TOLERANCE_PX = 2
"""A level's size is rounded, up or down, once or at every level in turn."""


_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""By the value of ResolutionUnit (TIFF 6.0, section 8): inch, centimetre."""


def _tag(page: Any, name: str) -> Any:
    """Return a tag's value, None without it."""
    tag = page.tags.get(name)
    return None if tag is None else tag.value


def has_hidden_levels(path: Path) -> bool:
    """Return whether a file is a tiled TIFF with levels in sub-directories."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return bool(tiff.pages.first.is_tiled and tiff.pages.first.subifds)
    except LIBRARY_ERRORS:
        return False


class TiffLevels:
    """Blocks of the levels of one TIFF image; may be used by several threads."""

    def __init__(self, path: Path) -> None:
        """Open a file that `has_hidden_levels`.

        Raises
        ------
        Exception
            One of `LIBRARY_ERRORS`, if tifffile does not understand it.
        """
        self._path = path
        self._lock = threading.Lock()
        self._tiff = tifffile.TiffFile(path, _multifile=False)
        try:
            self._pages = tuple(_levels(self._tiff))
        except LIBRARY_ERRORS:
            self._tiff.close()
            raise
        extra = self._pages[0].extrasamples
        self._alpha = extra[0] if extra else None

    @property
    def description(self) -> str:
        """The first image's description; OME-XML, if it is OME-TIFF."""
        return str(self._pages[0].description)

    @property
    def resolution_mpp(self) -> tuple[float | None, float | None]:
        """µm per pixel in x and y as the tags of the finest level give it, as OpenSlide reads it.

        Only where a unit of length is named; the dots per inch of a screen are no scale.
        """
        um = _UM_PER_UNIT.get(_tag(self._pages[0], "ResolutionUnit"))
        if um is None:
            return None, None
        found = []
        for name in ("XResolution", "YResolution"):
            value = _tag(self._pages[0], name)
            usable = isinstance(value, tuple) and value[0] > 0 and value[1] > 0
            found.append(credible_mpp(um * value[1] / value[0]) if usable else None)
        return found[0], found[1]

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels, finest first."""
        first = self._pages[0]
        return tuple(
            Level(_downsample(first, page), page.imagewidth, page.imagelength)
            for page in self._pages
        )

    @property
    def tile_sizes_px(self) -> list[tuple[int, int]]:
        """Width and height of each level's tiles."""
        return [(page.tilewidth, page.tilelength) for page in self._pages]

    def decode(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB on white; the box lies inside the level."""
        page = self._pages[level]
        samples = np.full((box.height_px, box.width_px, page.samplesperpixel), WHITE, np.uint8)
        try:
            for row in range(box.y_px // page.tilelength, -(-box.y_end_px // page.tilelength)):
                for col in range(box.x_px // page.tilewidth, -(-box.x_end_px // page.tilewidth)):
                    self._put_tile(page, row, col, box, samples)
        except LIBRARY_ERRORS as error:
            raise tile_not_readable(self._path.name, level, box, error) from error
        return without_alpha(samples, self._alpha)

    def _put_tile(
        self, page: Any, row: int, col: int, box: Box, samples: NDArray[np.uint8]
    ) -> None:
        """Write one tile, of all its planes, to where it lies in the box."""
        rows, cols = (
            -(-page.imagelength // page.tilelength),
            -(-page.imagewidth // page.tilewidth),
        )
        is_planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        for plane in range(page.samplesperpixel if is_planar else 1):
            tile = self._tile(page, (plane * rows + row) * cols + col)
            if tile is None:
                continue
            height, width, _ = tile.shape
            place = Box(col * page.tilewidth, row * page.tilelength, width, height)
            part = place.intersection(box)
            target = samples[part.slices_in(box)]
            if is_planar:
                target[..., plane] = tile[part.slices_in(place)][..., 0]
            else:
                target[:] = tile[part.slices_in(place)]

    def _tile(self, page: Any, index: int) -> NDArray[np.uint8] | None:
        """Return the (h, w, samples) of a tile; None if the file has no pixels there."""
        length = page.databytecounts[index]
        if not length:
            return None
        with self._lock:
            file = self._tiff.filehandle
            file.seek(page.dataoffsets[index])
            data = file.read(length)
        segment, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
        return None if segment is None else np.asarray(segment[0])

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._tiff.close()


def _levels(tiff: Any) -> list[Any]:
    """Return the pages of the first image's levels, finest first."""
    first = tiff.pages.first
    others = [level.keyframe for level in tiff.series[0].levels]
    kept = [page for page in others if page is not first and _is_level(first, page)]
    return [first, *sorted(kept, key=lambda page: -page.imagewidth)]


def _is_level(first: Any, page: Any) -> bool:
    """Return whether a page shows all of the first one, smaller, in tiles of equal kind."""
    downsample = _downsample(first, page)
    widths_fit = abs(page.imagewidth - first.imagewidth / downsample) < _SIZE_TOLERANCE_PX
    heights_fit = abs(page.imagelength - first.imagelength / downsample) < _SIZE_TOLERANCE_PX
    is_alike = page.is_tiled and page.samplesperpixel == first.samplesperpixel
    return bool(is_alike and page.bitspersample == 8 and widths_fit and heights_fit)


def _downsample(first: Any, page: Any) -> float:
    """Return the mean of both directions; sizes are rounded, so they differ a little."""
    if page is first:
        return 1.0
    across, down = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
    return float(across + down) / 2
