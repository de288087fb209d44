"""How wide edges are, in µm: a measure of blur that neither contrast nor texture changes."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.quality._colour import shrunk

WORKING_MPP = 0.5
"""Edges are measured at about this µm/px: a 20x slide has nothing finer."""
FINE_UM = 0.5
"""Standard deviation of the finer of two Gaussians …"""
COARSE_UM = 1.0
"""… and of the coarser."""
BLOCK_UM = 32.0
"""Each block of this side gives one width; the tile's is their median."""
STEEPEST = 0.02
"""Share of a block's pixels that are taken for its edges."""
LEAST_RISE = 1.0
"""Grey levels per µm at the coarser scale; flatter blocks say nothing."""
WIDEST_UM = 10.0
"""What an edge can hardly be told from a slope at: the largest width reported."""
NARROWEST_UM = 0.1
"""Sharper than any pixel here can show."""


def edge_width_um(rgb: NDArray[np.uint8], mpp: float) -> float | None:
    """Return the standard deviation of the blur at a picture's edges.

    An edge of width w, smoothed by a Gaussian of standard deviation s, rises with a slope
    proportional to 1 / sqrt(w² + s²) in its middle.  The ratio r of the slopes at two s gives
    w² = (s₂² - r² s₁²) / (r² - 1), whatever the edge's height (Zhuo & Sim 2011, Pattern
    Recognition 44:1852-1858, doi:10.1016/j.patcog.2011.03.009).
    Pixels and differences add a blur of their own, 0.3 µm here, which is left in: squares of
    widths add up, so a width of 1 µm becomes 1.05.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Pixels.
    mpp : float
        µm per pixel.

    Returns
    -------
    float or None
        Median over blocks, in µm; None without an edge.
    """
    factor = max(1, round(WORKING_MPP / mpp))
    # Green: both stains take it away.
    green = shrunk(rgb, factor)[..., 1].astype(np.float32)
    mpp *= factor
    slopes = [_squared_slope(green, scale_um / mpp) for scale_um in (FINE_UM, COARSE_UM)]
    side_px = max(8, round(BLOCK_UM / mpp))
    widths = [
        _width_um(slopes[0][block], slopes[1][block], mpp)
        for block in _blocks(green.shape[0], green.shape[1], side_px)
    ]
    known = [width for width in widths if width is not None]
    return float(np.median(known)) if known else None


def _squared_slope(grey: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma_px)
    right = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1)
    return np.asarray(right * right + down * down, np.float32)


def _blocks(height_px: int, width_px: int, side_px: int) -> list[tuple[slice, slice]]:
    """Cover a picture with blocks; what is left at its far edges goes to the last ones."""
    rows = _cuts(height_px, side_px)
    cols = _cuts(width_px, side_px)
    return [(row, col) for row in rows for col in cols]


def _cuts(size_px: int, side_px: int) -> list[slice]:
    n = max(1, size_px // side_px)
    ends = [*(side_px * i for i in range(n)), size_px]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _width_um(fine: NDArray[np.float32], coarse: NDArray[np.float32], mpp: float) -> float | None:
    flat = coarse.ravel()
    n = max(1, round(flat.size * STEEPEST))
    steepest = flat >= np.partition(flat, flat.size - n)[flat.size - n]
    slope = float(flat[steepest].mean())
    # Sobel of size 1 is the difference of two pixels, 2 · mpp apart.
    if slope < (2 * mpp * LEAST_RISE) ** 2:
        return None
    ratio = float(fine.ravel()[steepest].mean()) / slope
    if ratio <= 1.0:
        return WIDEST_UM
    squared = (COARSE_UM**2 - ratio * FINE_UM**2) / (ratio - 1)
    return float(np.sqrt(np.clip(squared, NARROWEST_UM**2, WIDEST_UM**2)))
