"""Tissue against glass, at a few µm per pixel, by fixed constants.

First version: tissue is coloured or dark; glass is neither.  It only chooses which tiles
run and what area counts; it never removes a nucleus.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError


@dataclass(frozen=True, slots=True)
class TissueOptions:
    """Constants of the tissue mask."""

    target_mpp: float = 8.0
    """µm per pixel of the mask, about."""
    chroma: int = 12
    """Largest minus smallest colour channel, from which on a pixel is coloured."""
    dark: int = 175
    """Brightest channel, below which a pixel is dark."""
    black: int = 24
    """Brightest channel, below which it is a scanner's black border."""
    close_um: float = 40.0
    """Gaps up to about this wide are closed."""
    grow_um: float = 16.0
    """Tissue is grown by this much, so that nuclei at its edge are in it."""
    min_mm2: float = 0.002
    """Smaller pieces are dust."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.target_mpp <= 64:
            raise UsageError(f"tissue mask at {self.target_mpp} µm/px; 0.5 to 64 is needed")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def find_tissue(rgb: NDArray[np.uint8], mpp: float, options: TissueOptions) -> NDArray[np.bool_]:
    """Return where tissue is.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        The slide at a few µm per pixel.
    mpp : float
        µm per pixel of `rgb`.
    options : TissueOptions
        Constants.

    Returns
    -------
    ndarray, (h, w), bool
    """
    smooth = cv2.GaussianBlur(_without_black(rgb, options.black), (0, 0), 1.0)
    brightest = smooth.max(axis=2).astype(np.int16)
    chroma = brightest - smooth.min(axis=2)
    mask = ((chroma >= options.chroma) | (brightest < options.dark)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(options.close_um / 2 / mpp))
    mask = _drop_small(np.asarray(mask, np.uint8), options.min_mm2 * 1e6 / mpp**2)
    grown: NDArray[np.bool_] = cv2.dilate(mask, _disc(options.grow_um / mpp)) > 0
    return grown


def _without_black(rgb: NDArray[np.uint8], black: int) -> NDArray[np.uint8]:
    """Return the slide with white for black, and for the mixed pixels next to it.

    Smoothing would turn a black border's edge into a dark line that looks like tissue.
    """
    is_black = (rgb.max(axis=2) < black).astype(np.uint8)
    near_black = cv2.dilate(is_black, np.ones((3, 3), np.uint8)) > 0
    return np.where(near_black[:, :, None], np.uint8(255), rgb)


def _disc(radius_px: float) -> NDArray[np.uint8]:
    size = 2 * round(radius_px) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _drop_small(mask: NDArray[np.uint8], min_px: float) -> NDArray[np.uint8]:
    n, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = statistics[:, cv2.CC_STAT_AREA] >= min(min_px, mask.size / 8)
    keep[0] = False
    kept: NDArray[np.uint8] = keep[labels].astype(np.uint8) if n > 1 else mask
    return kept
