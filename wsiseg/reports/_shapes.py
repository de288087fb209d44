"""Outlines of tissue, regions and tiles as paths of an SVG picture of the slide."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.results import Result

LONGEST = 1000.0
"""Length of the slide's longer side in the units of its SVG pictures."""
_SMOOTH = 0.8
"""Outlines may deviate by this much, in the same units."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """The slide as the area of an SVG picture."""

    width: float
    height: float
    per_px: float
    """Units a level-0 pixel."""
    mm_per_unit: float

    def path(self, rings_px: Iterable[NDArray[np.float64]]) -> str:
        """Return closed rings, level-0 pixels, as the `d` of a path."""
        return "".join(_ring(ring * self.per_px) for ring in rings_px)

    def boxes(self, boxes_px: Iterable[Sequence[float]]) -> str:
        """Return boxes (x, y, width, height), level-0 pixels, as the `d` of a path."""
        parts = []
        for box in boxes_px:
            x, y, width, height = (value * self.per_px for value in box)
            width, height = min(width, self.width - x), min(height, self.height - y)
            parts.append(f"M{x:.1f},{y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z")
        return "".join(parts)

    @property
    def scale_bar(self) -> tuple[float, str]:
        """Length and text of a bar of about a fifth of the width."""
        room_mm = max(self.width, self.height / 2) * self.mm_per_unit / 5
        decade = 10.0 ** np.floor(np.log10(room_mm))
        length_mm = float(max(s * decade for s in (1, 2, 5) if s * decade <= room_mm * 1.0001))
        text = f"{length_mm:g} mm" if length_mm >= 0.1 else f"{length_mm * 1000:g} µm"
        return length_mm / self.mm_per_unit, text


def canvas_of(result: Result) -> Canvas:
    """Return the area of a slide's pictures."""
    frame = result.frame
    width_px, height_px = frame.width_px * frame.scale, frame.height_px * frame.scale
    per_px = LONGEST / max(width_px, height_px)
    return Canvas(width_px * per_px, height_px * per_px, per_px, result.mpp / 1000 / per_px)


def rings_of_file(path: Path, per_px: float) -> list[NDArray[np.float64]] | None:
    """Return the rings of a GeoJSON file of a run, level-0 pixels, simplified for a small picture.

    None if the file is missing or damaged: then a page says that it has no outline.
    """
    try:
        content = json.loads(path.read_bytes())
        origin = np.array([float(v) for v in content.get("origin_px", (0, 0))])
        rings = [
            ring + origin
            for feature in content["features"]
            for ring in _rings(shapely.geometry.shape(feature["geometry"]), _SMOOTH / per_px)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    except shapely.errors.ShapelyError:
        return None
    return rings


def _rings(shape: Any, tolerance_px: float) -> list[NDArray[np.float64]]:
    simple = shapely.simplify(shape, tolerance_px)
    polygons = [part for part in shapely.get_parts(simple) if part.geom_type == "Polygon"]
    return [
        np.asarray(ring.coords, np.float64)[:, :2]
        for polygon in polygons
        for ring in (polygon.exterior, *polygon.interiors)
    ]


def _ring(points: NDArray[np.float64]) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points[:-1].tolist())
    return f"M{text}z" if text else ""
