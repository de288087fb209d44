"""Pictures with known nuclei, painted in the colours of H&E."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_GLASS = (245, 245, 245)
_STROMA = (226, 170, 200)
_NUCLEI = ((88, 52, 120), (70, 60, 140), (110, 40, 110))
_HAEMATOXYLIN = ((96, 62, 132), (82, 70, 140), (112, 58, 126))
_NUCLEUS_UM = (1.8, 3.2)
"""Half axes of a nucleus."""


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


def paint_nuclei(
    side_px: int, n_nuclei: int, mpp: float, seed: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Paint a square of uneven stroma with that many nuclei, and label them.

    Nuclei are ellipses with half axes of 1.8 to 3.2 µm, smaller where they are dense; some
    touch or overlap a little, none touches the border.

    Parameters
    ----------
    side_px : int
        Side of the square.
    n_nuclei : int
        Nuclei.
    mpp : float
        µm per pixel.
    seed : sequence of int
        Equal seeds paint equal pictures.

    Returns
    -------
    rgb : ndarray, (side_px, side_px, 3), uint8
    labels : ndarray, (side_px, side_px), int32
        1 … n_nuclei inside nuclei, 0 elsewhere; of two that overlap, the later is on top.
    """
    rng = np.random.default_rng(seed)
    rgb = _paint_stroma(side_px, mpp, rng)
    labels = np.zeros((side_px, side_px), np.int32)
    per_side = max(1, math.ceil(math.sqrt(n_nuclei)))
    spacing = side_px / per_side
    axes = np.minimum(rng.uniform(*_NUCLEUS_UM, (n_nuclei, 2)) / mpp, 0.38 * spacing)
    sites = rng.permutation(per_side**2)[:n_nuclei]
    centres = np.stack([sites % per_side, sites // per_side], axis=1) + 0.5
    centres += rng.uniform(-0.2, 0.2, centres.shape)
    reach = np.ceil(axes.max(axis=1, initial=0, keepdims=True)) + 2
    centres = np.clip(centres * spacing, reach, side_px - 1 - reach)
    for number in range(n_nuclei):
        x, y = np.rint(centres[number]).astype(int).tolist()
        half = tuple(np.maximum(1, np.rint(axes[number])).astype(int).tolist())
        turn = float(rng.uniform(0, 180))
        colour = _HAEMATOXYLIN[int(rng.integers(len(_HAEMATOXYLIN)))]
        cv2.ellipse(rgb, (x, y), half, turn, 0, 360, colour, -1)
        cv2.ellipse(labels, (x, y), half, turn, 0, 360, number + 1, -1)
    rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 0.25 / mpp), np.uint8)
    noise = cv2.GaussianBlur(rng.normal(0, 9, rgb.shape), (0, 0), 0.8)
    return np.asarray(np.clip(np.rint(rgb + noise), 0, 255), np.uint8), labels


def _paint_stroma(side_px: int, mpp: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint pink that varies over some ten µm."""
    coarse = rng.normal(size=(side_px // 16 + 2, side_px // 16 + 2))
    field = cv2.GaussianBlur(coarse, (0, 0), max(0.5, 10 / mpp / 16))
    field = np.asarray(cv2.resize(field, (side_px, side_px), interpolation=cv2.INTER_CUBIC))
    field = np.clip(field / max(float(field.std()), 1e-9), -2, 2)
    return np.asarray(_STROMA + field[:, :, None] * (5.0, 12.0, 8.0), np.uint8)
