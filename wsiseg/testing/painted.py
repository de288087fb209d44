"""Pictures with known nuclei, painted in the colours of H&E."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_GLASS = (245, 245, 245)
_STROMA = (226, 170, 200)
_NUCLEI = ((88, 52, 120), (70, 60, 140), (110, 40, 110))


def paint_tissue(
    height_px: int, width_px: int, nuclei_per_mpx: float, seed: int, border_px: int = 0
) -> NDArray[np.uint8]:
    """Paint tissue with elliptic nuclei, some of them touching.

    Parameters
    ----------
    height_px, width_px : int
        Size of the picture.
    nuclei_per_mpx : float
        Nuclei per million pixels.
    seed : int
        Equal seeds paint equal pictures.
    border_px : int
        Width of the glass around the tissue.

    Returns
    -------
    ndarray, (height_px, width_px, 3), uint8
    """
    rng = np.random.default_rng(seed)
    inner = np.full(
        (max(0, height_px - 2 * border_px), max(0, width_px - 2 * border_px), 3), _STROMA, np.uint8
    )
    for _ in range(round(nuclei_per_mpx * inner.shape[0] * inner.shape[1] / 1e6)):
        x, y = rng.integers(0, (inner.shape[1], inner.shape[0])).tolist()
        long, short = rng.integers(4, 12, 2).tolist()
        colour = _NUCLEI[int(rng.integers(len(_NUCLEI)))]
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(inner, (x, y), (long, short), turn, 0, 360, colour, -1)
    rgb = np.full((height_px, width_px, 3), _GLASS, np.uint8)
    rgb[border_px : border_px + inner.shape[0], border_px : border_px + inner.shape[1]] = inner
    noise = rng.normal(0, 3, rgb.shape)
    return np.asarray(np.clip(rgb + noise, 0, 255), np.uint8)
