"""Regions against points and pixels, in the plainest form: one shapely call per pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsiseg.geometry import Frame
from wsiseg.regions import Region


def square(frame: Frame, row: int, col: int, grow_px: float = 0.0) -> shapely.Polygon:
    """Return a pixel's square, grown on every side."""
    s = frame.scale
    return shapely.box(
        col * s - grow_px, row * s - grow_px, (col + 1) * s + grow_px, (row + 1) * s + grow_px
    )


def slow_touched(geometry: BaseGeometry, frame: Frame, grow_px: float) -> NDArray[np.bool_]:
    mask = np.zeros((frame.height_px, frame.width_px), np.bool_)
    for row, col in np.ndindex(mask.shape):
        mask[row, col] = shapely.intersects(square(frame, row, col, grow_px), geometry)
    return mask


def slow_covered(geometry: BaseGeometry, frame: Frame) -> NDArray[np.bool_]:
    mask = np.zeros((frame.height_px, frame.width_px), np.bool_)
    for row, col in np.ndindex(mask.shape):
        x_px, y_px = (col + 0.5) * frame.scale, (row + 0.5) * frame.scale
        mask[row, col] = shapely.contains_xy(geometry, x_px, y_px)
    return mask


def slow_area_px2(
    geometry: BaseGeometry, mask: NDArray[np.bool_], frame: Frame, slide_px: tuple[int, int]
) -> float:
    on_slide = shapely.intersection(geometry, shapely.box(0, 0, *slide_px))
    places = np.argwhere(mask).tolist()
    areas = [on_slide.intersection(square(frame, row, col)).area for row, col in places]
    return float(sum(areas))


def slow_locate(
    regions: Sequence[Region], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[list[list[int]], list[int]]:
    """Return the members and the innermost region of each point."""
    members, innermost = [], []
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        held = [
            i
            for i, region in enumerate(regions)
            if not region.missing and shapely.contains_xy(region.geometry, px, py)
        ]
        members.append(held)
        innermost.append(min(held, key=lambda i: (regions[i].geometry.area, i), default=-1))
    return members, innermost
