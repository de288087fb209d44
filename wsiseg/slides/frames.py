"""Frames of a slide, and reading any box of one as a crop of one virtual image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Box, Frame
from wsiseg.slides.protocol import Level, Slide, SlideInfo
from wsiseg.slides.resampling import taps, weigh

LEVEL_TOLERANCE = 0.05
"""A level this near to the wanted µm per pixel is used as it is."""
_SAME_SCALE = 1e-9
"""Relative difference below which a scale is a level's: 0.0001 px over 100,000."""
_SOURCE_PX = 2048
"""About how many source pixels a side are held at once while resampling."""


def frame_at(info: SlideInfo, slide_mpp: float, target_mpp: float) -> Frame:
    """Return the frame in which a slide is seen at some resolution.

    A level within 5 % of the target is used as it is, so its pixels need no resampling;
    the frame then has the level's µm per pixel instead of the target.

    Parameters
    ----------
    info
        About the slide.
    slide_mpp
        µm per level-0 pixel.
    target_mpp
        µm per pixel wanted.

    Raises
    ------
    UsageError
        If one of them is not a positive number.
    """
    for what, mpp in (("the slide", slide_mpp), ("the target", target_mpp)):
        if not (mpp > 0 and math.isfinite(mpp)):
            raise UsageError(
                f"{info.name}: {mpp} µm per pixel was given for {what}; a positive number is needed"
            )
    wanted = target_mpp / slide_mpp
    nearest = min(info.levels, key=lambda level: abs(level.downsample / wanted - 1))
    fits = abs(nearest.downsample / wanted - 1) <= LEVEL_TOLERANCE
    scale = nearest.downsample if fits else wanted
    return Frame.of_slide(info.width_px, info.height_px, scale)


def read_frame(slide: Slide, frame: Frame, box: Box) -> NDArray[np.uint8]:
    """Return pixels of a frame.

    All boxes are crops of one virtual image: where two overlap, they are equal.  If the
    slide has a level of the frame's scale, that image is the level; otherwise it is
    resampled (see `wsiseg.slides.resampling`) from the coarsest level that is finer.

    Parameters
    ----------
    slide
        An open slide.
    frame
        A frame of this slide.
    box
        In pixels of the frame; may reach, or lie, outside the slide.

    Returns
    -------
    NDArray[np.uint8]
        (height, width, 3) RGB, white outside the slide.

    Raises
    ------
    TileNotReadable
        If the file is damaged there.
    """
    index = _source_level(slide.info.levels, frame.scale)
    ratio = frame.scale / slide.info.levels[index].downsample
    if math.isclose(ratio, 1.0, rel_tol=_SAME_SCALE):
        return slide.read_level(index, box)
    pixels = np.empty((box.height_px, box.width_px, 3), np.uint8)
    # In parts, so that memory follows the box and not the source behind it.
    step = max(1, int(_SOURCE_PX / max(1.0, ratio)))
    for y in range(box.y_px, box.y_end_px, step):
        for x in range(box.x_px, box.x_end_px, step):
            part = Box(x, y, step, step).intersection(box)
            pixels[part.slices_in(box)] = _resampled(slide, index, ratio, part)
    return pixels


def _source_level(levels: tuple[Level, ...], scale: float) -> int:
    """Return the coarsest level not coarser than the scale, or 0."""
    limit = scale * (1 + _SAME_SCALE)
    return max((i for i, level in enumerate(levels) if level.downsample <= limit), default=0)


def _resampled(slide: Slide, level: int, ratio: float, box: Box) -> NDArray[np.uint8]:
    first_col, col_weights = taps(box.x_px, box.width_px, ratio)
    first_row, row_weights = taps(box.y_px, box.height_px, ratio)
    x, y = int(first_col[0]), int(first_row[0])
    source = Box(
        x,
        y,
        int(first_col[-1]) - x + col_weights.shape[1],
        int(first_row[-1]) - y + row_weights.shape[1],
    )
    pixels = np.ascontiguousarray(slide.read_level(level, source))
    return weigh(pixels, first_col - x, col_weights, first_row - y, row_weights)
