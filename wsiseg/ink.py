"""Pen marks and marking dye, by the hue of what they absorb.

Whatever haematoxylin and eosin stain absorbs green most.  Blue and green ink absorbs more red
than green, black ink absorbs all three alike, red ink absorbs blue nearly as well as green and
hardly any red.  Ratios of differences of optical densities change neither with the thickness of
the ink, nor with the brightness of the lamp, nor where a pixel mixes ink and glass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""
Channel = NDArray[np.float32]

WHITE: Colour = (250.0, 250.0, 250.0)
"""Colour of glass where nobody knows it better."""

_DARKEST = 16
"""Darker grey levels count as this one: their optical density is mostly noise."""


@dataclass(frozen=True, slots=True)
class _InkOptions:
    """Constants of the ink mask; densities are natural logarithms, per colour channel.

    Chosen between what stained tissue reached in 175 annotated H&E pictures at 2 to 8 µm per
    pixel and the colours of marker pens.
    """

    smooth_um: float = 2.5
    """Width of the smoothing; ratios of single pixels are noisy."""
    blue_ratio: float = 0.95
    """Blue ink: red - blue above this much times green - blue; haematoxylin stays below 0.75 in
    the pictures and has 0.88 in Ruifrok and Johnston's vectors …"""
    blue_od: float = 0.15
    """… and red - blue above this; paler is a haze."""
    green_red_od: float = 0.12
    green_blue_od: float = 0.04
    """Green ink: red and blue are denser than green by these; in tissue, brown ones included,
    green is denser than red."""
    black_share: float = 0.2
    """Black ink: largest minus smallest density below this share of the largest …"""
    black_od: float = 1.0
    """… and the smallest above this; paler grey is dust, glass or shadow."""
    border_level: int = 8
    """Brightest channel, below which a pixel is a scanner's black border and no ink."""
    red_ratio: float = 0.6
    """Red ink: blue - red above this much times green - red; eosin stays below 0.6 …"""
    red_ratio_high: float = 1.06
    """… and below this much: blood, melanin and DAB are browner …"""
    red_around_ratio: float = 0.7
    """… and above this in the surroundings: blood reaches 0.9, but a pool of it only 0.68."""
    red_around_um: float = 64.0
    """Width of these surroundings."""
    red_hue_high: float = 1.5
    """The same for pale pixels beside ink, whose ratios are noisy; melanin is above 1.6."""
    red_od: float = 0.1
    """Green - red of the palest red ink."""


_OPTIONS = _InkOptions()
_STRIP_PX = 1 << 18
"""Pixels worked on at a time: what fits a processor's cache is three times as fast."""


def optical_density(rgb: NDArray[np.uint8], glass: Colour = WHITE) -> Channel:
    """Return ln(glass / level) of every channel; (h, w, 3), negative where brighter than glass."""
    levels = np.maximum(np.arange(256), _DARKEST)
    table = -np.log(levels[:, None] / np.maximum(np.asarray(glass), _DARKEST))
    return np.asarray(cv2.LUT(rgb, table.astype(np.float32)[None]), np.float32)


def split_density(
    rgb: NDArray[np.uint8], glass: Colour = WHITE
) -> tuple[Channel, Channel, Channel]:
    """Return the optical density of red, green and blue, each (h, w)."""
    red, green, blue = (np.asarray(c, np.float32) for c in cv2.split(optical_density(rgb, glass)))
    return red, green, blue


def find_ink(rgb: NDArray[np.uint8], mpp: float, glass: Colour = WHITE) -> NDArray[np.bool_]:
    """Return where a pen or a marking dye covers the slide.

    Conservative: blood, melanin, DAB, folds and dense lymphoid tissue are not ink, at the cost of
    pale black ink over tissue and of reds that eosin has too.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        A slide, or a part of one, at about 2 to 8 µm per pixel.
    mpp : float
        µm per pixel of `rgb`.
    glass : tuple of float
        Colour of the empty slide, if known; it matters where the glass is tinted.

    Returns
    -------
    ndarray, (h, w), bool
    """
    height, width = rgb.shape[:2]
    rows = max(64, _STRIP_PX // width)
    reach = math.ceil(_OPTIONS.red_around_um / mpp) + math.ceil(4 * _smoothing_px(mpp)) + 2
    ink = np.empty((height, width), np.bool_)
    for top in range(0, height, rows):
        above = min(top, reach)
        strip = rgb[top - above : top + rows + reach]
        ink[top : top + rows] = _find_ink(strip, mpp, glass)[above : above + rows]
    return ink


def has_ink_hue(red: Channel, green: Channel, blue: Channel, min_od: float) -> NDArray[np.bool_]:
    """Return where densities have the hue of coloured ink, however pale: trust it near ink only."""
    over_blue, over_red = red - blue, green - red
    blueish = (over_blue > min_od) & (over_blue > _OPTIONS.blue_ratio * (green - blue))
    reddish = (over_red > min_od) & (-over_blue > _OPTIONS.red_ratio * over_red)
    reddish &= -over_blue < _OPTIONS.red_hue_high * over_red
    return np.asarray(blueish | reddish | (over_red < -min_od), np.bool_)


def _smoothing_px(mpp: float) -> float:
    return max(0.5, _OPTIONS.smooth_um / mpp)


def _find_ink(rgb: NDArray[np.uint8], mpp: float, glass: Colour) -> NDArray[np.bool_]:
    options = _OPTIONS
    smooth = np.asarray(cv2.GaussianBlur(rgb, (0, 0), _smoothing_px(mpp)), np.uint8)
    red, green, blue = split_density(smooth, glass)
    red_over_blue = red - blue
    ink = red_over_blue > options.blue_od
    ink &= red_over_blue > options.blue_ratio * (green - blue)
    ink |= (red - green > options.green_red_od) & (blue - green > options.green_blue_od)
    ink |= _is_black(red, green, blue, options) & ~_is_border(smooth, options)
    ink |= _is_red(-red_over_blue, green - red, mpp, options)
    cleaned: NDArray[np.bool_] = cv2.medianBlur(ink.astype(np.uint8), 3) > 0
    return cleaned


def _is_border(smooth: NDArray[np.uint8], options: _InkOptions) -> NDArray[np.bool_]:
    red, green, blue = cv2.split(smooth)
    return np.asarray(cv2.max(cv2.max(red, green), blue) < options.border_level, np.bool_)


def _is_black(
    red: Channel, green: Channel, blue: Channel, options: _InkOptions
) -> NDArray[np.bool_]:
    lowest = cv2.min(cv2.min(red, green), blue)
    highest = cv2.max(cv2.max(red, green), blue)
    return np.asarray(
        (lowest > options.black_od) & (highest - lowest < options.black_share * highest), np.bool_
    )


def _is_red(
    blue_over_red: Channel, green_over_red: Channel, mpp: float, options: _InkOptions
) -> NDArray[np.bool_]:
    candidate = np.asarray(
        (green_over_red > options.red_od)
        & (blue_over_red > options.red_ratio * green_over_red)
        & (blue_over_red < options.red_ratio_high * green_over_red),
        np.bool_,
    )
    if not candidate.any():
        return candidate
    side_px = 2 * math.ceil(options.red_around_um / mpp / 2) + 1
    around = cv2.blur(blue_over_red, (side_px, side_px))
    green_around = cv2.blur(green_over_red, (side_px, side_px))
    candidate &= around > options.red_around_ratio * green_around
    candidate &= around < options.red_ratio_high * green_around
    return candidate
