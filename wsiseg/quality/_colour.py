"""Colours of a tile's tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.stain import unmix

STAINED_OD = 0.08
"""Mean optical density from which on a pixel holds stain; glass has about 0.03."""
CLEAR_OD = 0.15
"""… and from which on its hue can be trusted."""
OFF_HUES = (2.0, 240.0)
"""Hues in between, from orange and brown over green to blue, no mixture of haematoxylin and
eosin has: both take away more green than blue …"""
OFF_CHROMA = 15
"""… if they are coloured at all: largest minus smallest channel."""
BLUEST = 0.02
"""Share of the clearly stained pixels that are bluer than `bluest_hue_deg`."""
LEAST_PX = 64
"""Fewer stained pixels (of about 1 µm) say nothing about a stain."""


@dataclass(frozen=True, slots=True)
class Colours:
    """Means over stained pixels; definitions in `TileQuality`."""

    hematoxylin_od: float
    eosin_od: float
    residual_od: float
    hue_deg: float | None
    saturation: float
    off_colour_share: float | None
    bluest_hue_deg: float | None


def shrunk(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return the picture with `factor` times fewer pixels each way, averaged; at least one."""
    height_px, width_px = (max(1, size // factor) for size in rgb.shape[:2])
    if (height_px, width_px) == rgb.shape[:2]:
        return rgb
    # Without the odd rest every pixel is the mean of whole ones: OpenCV's fast case.
    whole = rgb[: height_px * factor, : width_px * factor]
    small = cv2.resize(whole, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def extremes(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the smallest and largest channel of every pixel; NumPy takes ten times as long."""
    red, green, blue = cv2.split(rgb)
    lowest = cv2.min(cv2.min(red, green), blue)
    highest = cv2.max(cv2.max(red, green), blue)
    return np.asarray(lowest, np.uint8), np.asarray(highest, np.uint8)


def channel_mean(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the three channels."""
    return np.asarray(cv2.transform(density, np.full((1, 3), 1 / 3, np.float32)), np.float32)


def measure_colours(
    rgb: NDArray[np.uint8], density: NDArray[np.float32], stained: NDArray[np.bool_]
) -> Colours | None:
    """Return the colours of the stained pixels, None if there are too few.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Pixels of about 1 µm.
    density : ndarray, (h, w, 3), float32
        Their optical density.
    stained : ndarray, (h, w), bool
        Which to look at.
    """
    if np.count_nonzero(stained) < LEAST_PX:
        return None
    # As pictures one pixel high: OpenCV is quicker than sums over an axis of three.
    pixels, od = rgb[stained][np.newaxis], density[stained][np.newaxis]
    hematoxylin, eosin, rest, _ = cv2.mean(unmix(od))
    hsv = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hue_deg = np.asarray(hsv[..., 0], np.float32)
    lowest, highest = extremes(pixels)
    chroma = highest.astype(np.float32) - lowest
    clear = channel_mean(od) > CLEAR_OD
    return Colours(
        hematoxylin_od=hematoxylin,
        eosin_od=eosin,
        residual_od=rest,
        hue_deg=_mean_hue_deg(hue_deg, chroma),
        saturation=cv2.mean(hsv)[1],
        off_colour_share=_off_colour_share(hue_deg[clear], chroma[clear]),
        bluest_hue_deg=_bluest_hue_deg(hue_deg[clear & (chroma > OFF_CHROMA)]),
    )


def from_yellow(hue_deg: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return hues from 90° on, so that from blue over purple and red to orange they increase."""
    return (hue_deg - 90) % 360 + 90


def _mean_hue_deg(hue_deg: NDArray[np.float32], weight: NDArray[np.float32]) -> float | None:
    x, y = cv2.polarToCart(weight, hue_deg, angleInDegrees=True)
    mean_x, mean_y = cv2.mean(x)[0], cv2.mean(y)[0]
    return math.degrees(math.atan2(mean_y, mean_x)) % 360 if weight.any() else None


def _off_colour_share(hue_deg: NDArray[np.float32], chroma: NDArray[np.float32]) -> float | None:
    if len(hue_deg) < LEAST_PX:
        return None
    off = (chroma > OFF_CHROMA) & (hue_deg > OFF_HUES[0]) & (hue_deg < OFF_HUES[1])
    return float(off.mean())


def _bluest_hue_deg(hue_deg: NDArray[np.float32]) -> float | None:
    if len(hue_deg) < LEAST_PX:
        return None
    return float(np.quantile(from_yellow(hue_deg), BLUEST) % 360)
