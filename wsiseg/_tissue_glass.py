"""The colour of empty glass, from the whole slide's overview."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.ink import WHITE

Colour = tuple[float, float, float]

_SAMPLE_PX = 500_000
_PALEST = 254
"""Pixels with all channels from here on are what a scanner fills in where it did not look."""
_DARKEST = 170
"""Glass is brighter; it is grey where the lamp is weak."""
_MAX_CAST = 24
"""Largest minus smallest channel of tinted glass."""
_BINS = 2 * _MAX_CAST + 1
_PEAK = 2
"""Half the width of a peak, in grey levels: noise and illumination blur it."""
_MIN_SHARE = 0.005
"""Glass covers at least this share of a slide; less is left to `WHITE`."""
_MIN_PURITY = 0.4
"""This share of all pale pixels has the glass's tint: the palest tissue has no tint of its own."""


def glass_colour(smooth: NDArray[np.uint8]) -> Colour:
    """Return the colour of the glass of a slightly smoothed overview.

    The most frequent tint among the pale pixels, if so many of them share it as only glass
    does; `WHITE` for an image full of tissue.

    Parameters
    ----------
    smooth : ndarray, (h, w, 3), uint8
        The slide at a few µm per pixel.
    """
    stride = max(1, math.ceil(math.sqrt(smooth.shape[0] * smooth.shape[1] / _SAMPLE_PX)))
    pixels = smooth[::stride, ::stride].reshape(-1, 3).astype(np.int16)
    brightest, darkest = pixels.max(axis=1), pixels.min(axis=1)
    pale = pixels[
        (brightest >= _DARKEST) & (brightest - darkest <= _MAX_CAST) & (darkest < _PALEST)
    ]
    if len(pale) < max(16, _MIN_SHARE * len(pixels)):
        return WHITE
    tint = pale[:, [0, 2]] - pale[:, [1]]
    counts = np.bincount(
        (tint[:, 0] + _MAX_CAST) * _BINS + tint[:, 1] + _MAX_CAST, minlength=_BINS * _BINS
    ).reshape(_BINS, _BINS)
    side = 2 * _PEAK + 1
    near = cv2.boxFilter(
        counts.astype(np.float64), -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    row, col = np.unravel_index(int(near.argmax()), near.shape)
    if near[row, col] < max(_MIN_PURITY * len(pale), _MIN_SHARE * len(pixels)):
        return WHITE
    distance = np.abs(tint - (row - _MAX_CAST, col - _MAX_CAST)).max(axis=1)
    red, green, blue = pale[distance <= _PEAK].mean(axis=0).tolist()
    return red, green, blue
