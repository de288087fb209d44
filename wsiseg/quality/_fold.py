"""Folds: bands where tissue lies double."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.quality._colour import channel_mean

GAP_UM = 6.0
"""Radius up to which dense spots, such as nuclei, count as no more than what is between them."""
WIDEST_UM = 120.0
"""A fold is narrower: then most of what lies within this distance is single."""
DENSER = 1.3
"""Times the surroundings' density, in red, green and blue alike: of dense glands or blood, one
stain only is dense.  Two layers give 2, less where one of them has gaps."""
MOST_SPREAD = 1.12
"""Largest over smallest of a piece's three ratios: a second layer keeps the hue.  Planted folds
have 1.01 to 1.18, mostly below 1.1; dense glands and blood 1.10 to 1.8."""
LEAST_OD = 0.1
"""Mean density between nuclei that a fold has at least."""
LEAST_UM2 = 1500.0
"""Smaller pieces are no folds."""
LEAST_TISSUE = 0.2
"""Share of the tile that must hold stain for a comparison."""
_STEPS_PER_OD = 100
_GLASS_OD = 0.02


def find_folds(
    density: NDArray[np.float32], stained: NDArray[np.bool_], mpp: float
) -> NDArray[np.bool_]:
    """Return where tissue is much denser than around it, with the same hue, between nuclei too.

    Parameters
    ----------
    density : ndarray, (h, w, 3), float32
        Optical density.
    stained : ndarray, (h, w), bool
        Tissue without ink and black.
    mpp : float
        µm per pixel; about 2 is fine enough.

    Returns
    -------
    ndarray, (h, w), bool
    """
    nowhere = np.zeros(stained.shape, np.bool_)
    if stained.mean() < LEAST_TISSUE:
        return nowhere
    radius_px = max(1, round(GAP_UM / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1,) * 2)
    between = cv2.morphologyEx(cv2.GaussianBlur(density, (0, 0), 1.0), cv2.MORPH_OPEN, disc)
    # Glass has no say: beside it all tissue would be dense.
    usual = np.median(between[stained], axis=0).astype(np.float32)
    filled = np.where(stained[..., None], between, usual)
    # OpenCV's median of a large window needs bytes.
    coded = np.clip(np.rint(filled * _STEPS_PER_OD), 0, 255).astype(np.uint8)
    around = cv2.medianBlur(coded, 2 * round(WIDEST_UM / mpp) + 1)
    glass = _GLASS_OD * _STEPS_PER_OD
    ratio = (coded + np.float32(glass)) / (around + np.float32(glass))
    denser = (ratio > DENSER).all(axis=2) & stained & (channel_mean(filled) > LEAST_OD)
    return _pieces_of_one_hue(denser, ratio, LEAST_UM2 / mpp**2)


def _pieces_of_one_hue(
    denser: NDArray[np.bool_], ratio: NDArray[np.float32], least_px: float
) -> NDArray[np.bool_]:
    n, labels, boxes, _ = cv2.connectedComponentsWithStats(denser.astype(np.uint8))
    folded = np.zeros(n, np.bool_)
    for piece in range(1, n):
        if boxes[piece, cv2.CC_STAT_AREA] >= least_px:
            means = ratio[labels == piece].mean(axis=0)
            folded[piece] = means.max() <= MOST_SPREAD * means.min()
    return np.asarray(folded[labels], np.bool_)
