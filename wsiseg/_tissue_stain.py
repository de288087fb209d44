"""What an overview's pixels absorb, more than the glass does."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.ink import Channel, Colour, has_ink_hue, split_density

_STRIP_PX = 1 << 17
"""Pixels worked on at a time: what fits a processor's cache is twice as fast."""
_INK_HUE_OD = 0.02
"""Difference of densities from which on a hue means something."""


@dataclass(frozen=True, slots=True, eq=False)
class Stain:
    """Differences of optical densities of every pixel, natural logarithms, (h, w)."""

    highest: Channel
    """Density of the darkest channel."""
    chroma: Channel
    """Largest minus smallest density."""
    purple: Channel
    """Green above the mean of red and blue: haematoxylin and eosin."""
    blueish: Channel
    """The mean of red and green above blue: haematoxylin and mucus."""
    purple_sharp: Channel
    """`purple` of the picture that is not smoothed."""
    ink_hue: NDArray[np.bool_]
    """Has the hue of coloured ink, however pale."""


def measure_stain(rgb: NDArray[np.uint8], smooth: NDArray[np.uint8], glass: Colour) -> Stain:
    """Measure an overview, (h, w, 3), and the same slightly smoothed, on glass of a colour."""
    shape = rgb.shape[:2]
    highest, chroma, purple, blueish, sharp = (np.empty(shape, np.float32) for _ in range(5))
    hue = np.empty(shape, np.bool_)
    rows = max(1, _STRIP_PX // shape[1])
    for top in range(0, shape[0], rows):
        strip = slice(top, top + rows)
        red, green, blue = split_density(smooth[strip], glass)
        highest[strip] = cv2.max(cv2.max(red, green), blue)
        chroma[strip] = highest[strip] - cv2.min(cv2.min(red, green), blue)
        purple[strip] = green - (red + blue) / 2
        blueish[strip] = (red + green) / 2 - blue
        hue[strip] = has_ink_hue(red, green, blue, _INK_HUE_OD)
        red, green, blue = split_density(rgb[strip], glass)
        sharp[strip] = green - (red + blue) / 2
    return Stain(highest, chroma, purple, blueish, sharp, hue)
