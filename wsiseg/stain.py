"""How much light the stains take away: optical density, split into haematoxylin and eosin.

The two directions are fixed (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291-299), not
fitted to a slide: numbers of two slides can be compared, and a tile's do not depend on others.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

HEMATOXYLIN = (0.650, 0.704, 0.286)
"""Share of red, green, blue in the density of haematoxylin; its length is 1."""
EOSIN = (0.072, 0.990, 0.105)
"""The same of eosin."""


def stain_matrix() -> NDArray[np.float64]:
    """Return the (3, 3) matrix that takes densities of r, g, b to those of H, E, rest."""
    stains = [np.array(direction) for direction in (HEMATOXYLIN, EOSIN)]
    stains = [direction / np.linalg.norm(direction) for direction in stains]
    # At right angles to both, so that any mixture of the two leaves nothing.
    rest = np.cross(stains[0], stains[1])
    stains.append(rest / np.linalg.norm(rest))
    return np.asarray(np.linalg.inv(np.stack(stains, axis=1)), np.float64)


_UNMIXING = stain_matrix().astype(np.float32)
# Black is as dark as one grey level: its density would be infinite.
_DENSITY = (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return -log10(value / 255) of every channel; 0 for white, 2.41 for black.

    Parameters
    ----------
    rgb : ndarray, (..., 3), uint8
        Pixels; white is 255.

    Returns
    -------
    ndarray, (..., 3), float32
    """
    return _DENSITY[rgb]


def unmix(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Split optical densities into haematoxylin, eosin, and what the two do not explain.

    Parameters
    ----------
    density : ndarray, (h, w, 3), float32
        As `optical_density` gives it.

    Returns
    -------
    ndarray, (h, w, 3), float32
        Densities of haematoxylin and eosin (length along their directions), and the rest at
        right angles to both: positive where more blue is taken away (brown, orange), negative
        where more red and green is.  Noise and other colours make negative ones too.
    """
    if density.size == 0:
        return np.zeros_like(density)
    return np.asarray(cv2.transform(density, _UNMIXING), np.float32)
