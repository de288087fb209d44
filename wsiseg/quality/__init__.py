"""Is a tile fit to be measured, and does a slide look like H&E: by pixels alone, no weights.

Nothing here removes a nucleus: tiles are flagged, slides warned about.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.ink import find_ink
from wsiseg.quality._appearance import appearance_of
from wsiseg.quality._colour import STAINED_OD, channel_mean, extremes, measure_colours, shrunk
from wsiseg.quality._flags import FLAGS, tile_flags, unlike_fields
from wsiseg.quality._focus import edge_width_um
from wsiseg.quality._fold import find_folds
from wsiseg.quality._records import Appearance, QualityOptions, TileQuality
from wsiseg.quality._slide import slide_warnings
from wsiseg.stain import optical_density

__all__ = [
    "FLAGS",
    "Appearance",
    "QualityOptions",
    "TileQuality",
    "appearance_of",
    "measure_tile",
    "slide_warnings",
    "tile_flags",
    "unlike_fields",
]

GRAIN_UM = 1.0
"""Colours are measured in pixels of about this size: fine enough for nuclei."""
INK_MPP = 2.0
"""Ink is looked for at about this µm/px."""
BLACK = 30
"""Brightest channel, below which nothing can be seen …"""
DIM = 75
"""… or, if the pixel has hardly a colour, below this …"""
COLOURLESS = 30
"""… that is, largest minus smallest channel below this."""
INK_HALO_UM = 12.0
"""Dye runs: colours are not measured so near ink."""
MOSTLY_CLEAN = 0.2
"""With less of its stain away from ink, a tile's colours are measured under the ink as well."""
FOLD_MPP = 2.0
"""Folds are looked for at about this µm/px."""
OPAQUE_UM2 = 100.0
"""Smaller dark spots are nuclei or pigment."""


def measure_tile(rgb: NDArray[np.uint8], mpp: float) -> TileQuality:
    """Measure a tile's pixels.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        A tile's core; rows and columns at its edges that are all white (255) lie outside the
        slide and do not count.
    mpp : float
        µm per pixel of `rgb`.

    Returns
    -------
    TileQuality
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"a tile is {rgb.dtype} of shape {rgb.shape}; uint8 (h, w, 3) is needed")
    rgb = _inside(rgb)
    if rgb.size == 0:
        return _nothing()
    factor = max(1, round(GRAIN_UM / mpp))
    grain, grain_um = shrunk(rgb, factor), mpp * factor
    dark = _find_dark(grain, grain_um)
    ink = _find_ink(grain, grain_um)
    density = optical_density(grain)
    stained = (channel_mean(density) > STAINED_OD) & ~dark
    clean = stained & ~_grown(ink, INK_HALO_UM / grain_um)
    # Where "ink" is nearly everywhere it is more likely another stain, which its colours tell.
    covered = np.count_nonzero(clean) < MOSTLY_CLEAN * np.count_nonzero(stained)
    colours = measure_colours(grain, density, stained if covered else clean)
    folds = _find_folds(grain, clean, grain_um)
    width_um = edge_width_um(rgb, mpp)
    return TileQuality(
        focus=None if width_um is None else 1 / width_um,
        hematoxylin_od=None if colours is None else colours.hematoxylin_od,
        eosin_od=None if colours is None else colours.eosin_od,
        residual_od=None if colours is None else colours.residual_od,
        hue_deg=None if colours is None else colours.hue_deg,
        saturation=None if colours is None else colours.saturation,
        off_colour_share=None if colours is None else colours.off_colour_share,
        bluest_hue_deg=None if colours is None else colours.bluest_hue_deg,
        ink_share=float(ink.mean()),
        fold_share=float(folds.mean()),
        dark_share=float(dark.mean()),
        stained_share=float((stained if covered else stained & ~ink).mean()),
    )


def _inside(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the tile without all-white rows and columns at its edges.

    White outside the slide ends in an edge sharper than any in it.
    """
    for _ in range(4):
        # Four quarter turns: each cuts what is then the top.
        n_white = 0
        while n_white < rgb.shape[0] and rgb[n_white].min(initial=255) == 255:
            n_white += 1
        rgb = np.rot90(rgb[n_white:])
    return np.ascontiguousarray(rgb)


def _nothing() -> TileQuality:
    return TileQuality(None, None, None, None, None, None, None, None, 0.0, 0.0, 0.0, 0.0)


def _find_dark(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    lowest, brightest = extremes(rgb)
    chroma = brightest - lowest
    dark = (brightest < BLACK) | ((brightest < DIM) & (chroma < COLOURLESS))
    n, labels, boxes, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8))
    large = boxes[:, cv2.CC_STAT_AREA] * mpp**2 >= OPAQUE_UM2
    large[0] = False
    return np.asarray(large[labels], np.bool_) if n > 1 else np.zeros(dark.shape, np.bool_)


def _find_ink(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    factor = max(1, round(INK_MPP / mpp))
    # A scanner's black border is not a pen's.
    small = shrunk(rgb, factor)
    ink = find_ink(small, mpp * factor) & (extremes(small)[1] >= BLACK)
    size = rgb.shape[1::-1]
    grown = cv2.resize(ink.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(grown > 0, np.bool_)


def _find_folds(rgb: NDArray[np.uint8], where: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    factor = max(1, round(FOLD_MPP / mpp))
    small = shrunk(rgb, factor)
    tissue = cv2.resize(where.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return find_folds(optical_density(small), tissue > 0, mpp * factor)


def _grown(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    side_px = 2 * round(radius_px) + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side_px,) * 2)) > 0, np.bool_)
