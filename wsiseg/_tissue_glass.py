"""The colour of empty glass, from the whole slide's overview."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.ink import WHITE, Colour

_SAMPLE_PX = 500_000
PALEST = 254
"""Pixels with all channels from here on are what a scanner fills in where it did not look."""
_DARKEST = 170
"""Glass is brighter; it is grey where the lamp is weak."""
_MAX_CAST = 16
"""Largest minus smallest channel of tinted glass."""
_BINS = 2 * _MAX_CAST + 1
_PEAK = 2
"""Half the width of a peak, in grey levels: noise and illumination blur it."""
_MIN_SHARE = 0.005
"""Glass covers at least this share of a slide; less is left to `WHITE`."""
_PALE_CAST = 28
_MIN_PURITY = 0.4
"""This share of all pale pixels, a little stained or not, has the glass's tint: the palest part
of tissue is but a part of it."""

_SECOND_SHARE = 0.05
"""A second tint is looked at from this share of the pale pixels and of the slide's edge on."""
_SECOND_CAST = 16
"""Largest difference of two glasses, summed over two channels; more is tissue."""


def glass_colour(smooth: NDArray[np.uint8]) -> Colour:
    """Return the colour of the glass of a slightly smoothed overview.

    The most frequent tint among the pale pixels, if so many of them share it as only glass
    does; `WHITE` for an image full of tissue.  Scanners fill in white where they did not look:
    of two frequent tints that both reach the slide's edge, glass is the less neutral one.

    Parameters
    ----------
    smooth : ndarray, (h, w, 3), uint8
        The slide at a few µm per pixel.
    """
    sample = _sample(smooth)
    frame = np.ones(sample.shape[:2], np.bool_)
    frame[1:-1, 1:-1] = False
    pixels = sample.reshape(-1, 3).astype(np.int16)
    brightest, darkest = pixels.max(axis=1), pixels.min(axis=1)
    bright = (brightest >= _DARKEST) & (darkest < PALEST)
    is_pale = bright & (brightest - darkest <= _MAX_CAST)
    n_bright = int((bright & (brightest - darkest <= _PALE_CAST)).sum())
    pale, at_edge = pixels[is_pale], frame.reshape(-1)
    if len(pale) < max(16, _MIN_SHARE * len(pixels)):
        return WHITE
    tint = pale[:, [0, 2]] - pale[:, [1]]
    peaks = _peaks(tint)
    members = [np.abs(tint - peak).max(axis=1) <= _PEAK for peak in peaks]
    if members[0].sum() < max(_MIN_PURITY * n_bright, _MIN_SHARE * len(pixels)):
        return WHITE
    both_reach_edge = all(
        int(at_edge[is_pale][member].sum()) >= _SECOND_SHARE * at_edge.sum() for member in members
    )
    is_glass_too = members[1].sum() >= _SECOND_SHARE * len(pale) and both_reach_edge
    less_neutral = 0 < int((peaks[1] - peaks[0]).sum()) <= _SECOND_CAST
    chosen = members[1] if is_glass_too and less_neutral else members[0]
    red, green, blue = pale[chosen].mean(axis=0).tolist()
    return red, green, blue


def _sample(smooth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    stride = max(1, math.ceil(math.sqrt(smooth.shape[0] * smooth.shape[1] / _SAMPLE_PX)))
    return smooth[::stride, ::stride]


def _peaks(tint: NDArray[np.int16]) -> list[NDArray[np.intp]]:
    """Return the two most frequent tints, (red - green, blue - green)."""
    index = (tint[:, 0].astype(np.intp) + _MAX_CAST) * _BINS + tint[:, 1] + _MAX_CAST
    counts = np.bincount(index, minlength=_BINS * _BINS).reshape(_BINS, _BINS)
    found = []
    for _ in range(2):
        near = cv2.GaussianBlur(counts.astype(np.float64), (0, 0), _PEAK / 2)
        row, col = np.unravel_index(int(np.asarray(near).argmax()), near.shape)
        found.append(np.array([row - _MAX_CAST, col - _MAX_CAST], np.intp))
        top, left = max(0, row - _PEAK), max(0, col - _PEAK)
        counts[top : row + _PEAK + 1, left : col + _PEAK + 1] = 0
    return found
