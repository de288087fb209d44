"""Stain densities of images, to make one look as if another laboratory had stained it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Optical density of haematoxylin, eosin and a residual
# (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291).
_DIRECTIONS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STAINS = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
"""(3 stains, 3 channels): density of red, green and blue of one unit of a stain."""
UNMIX = np.linalg.inv(STAINS)
"""(3 channels, 3 stains): the inverse."""
_LEAST_DENSITY = 0.15
"""Sum over the channels below which a pixel is glass."""
_EVERY = 7
"""A sample of the pixels is enough for a mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Stains:
    """How densely images are stained."""

    mean: NDArray[np.float64]
    """(n_images, 3): of each stain over the tissue."""
    spread: NDArray[np.float64]
    """(n_images, 3): standard deviation."""


def stain_statistics(images: Sequence[NDArray[np.uint8]]) -> Stains:
    """Measure stain densities of images, (h, w, 3) each; of glass where there is no tissue."""
    measured = [_statistics(rgb.reshape(-1, 3)[::_EVERY]) for rgb in images]
    return Stains(
        np.array([mean for mean, _ in measured]), np.array([spread for _, spread in measured])
    )


def _statistics(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    density = -np.log((rgb.astype(np.float64) + 1) / 256)
    tissue = density[density.sum(1) > _LEAST_DENSITY]
    stains = (tissue if len(tissue) else density) @ UNMIX
    # A spread of nothing could not be stretched to another's.
    return stains.mean(0), np.maximum(stains.std(0), 1e-2)
