"""Outlines on a slide or a large image: each annotated region becomes an image of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable, SlideNotReadable
from wsiseg.geometry import Box
from wsiseg.labels.found import FoundImage
from wsiseg.labels.options import OverlapRule
from wsiseg.labels.outlined import fill_rings, lay_down, patch_of
from wsiseg.slides.protocol import Slide

LARGEST_AREA_PX = 1 << 26
"""Of one region's box: 8192²."""

Rings = list[NDArray[np.float64]]
"""Of a polygon: the outside first, then holes; each (n, 2), (x, y) in level-0 px."""


@dataclass(frozen=True, slots=True, eq=False)
class OutlinedNucleus:
    """A nucleus on a slide."""

    title: str
    """How messages call it."""
    class_key: str | None
    polygons: list[Rings]


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedSlide:
    """What was drawn on an open slide."""

    slide: Slide
    mpp: float
    where: str
    """What messages call the file with the outlines."""
    nuclei: Sequence[OutlinedNucleus]
    ignored: Sequence[list[Rings]]
    """Where nothing is known."""
    overlaps: OverlapRule
    reach_px: NDArray[np.float64]
    """(n, 4): lowest x and y, highest x and y of each nucleus; see `reach_of`."""


def polygons_of(geometry: shapely.Geometry) -> list[Rings]:
    """Return the rings of a polygon or multipolygon."""
    return [
        [np.asarray(ring.coords)[:, :2] for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(geometry)
        if part.geom_type == "Polygon"
    ]


def reach_of(nuclei: Sequence[OutlinedNucleus]) -> NDArray[np.float64]:
    """Return the lowest x and y and the highest x and y of each nucleus, (n, 4)."""
    corners = [np.concatenate([rings[0] for rings in one.polygons]) for one in nuclei]
    return np.array([(*xy.min(axis=0), *xy.max(axis=0)) for xy in corners]).reshape(-1, 4)


def box_of(polygons: Sequence[Rings], bounds: Box) -> Box:
    """Return the whole pixels around polygons, clipped to the slide."""
    corners = np.concatenate([rings[0] for rings in polygons])
    x, y = np.floor(corners.min(axis=0)).astype(int).tolist()
    x_end, y_end = np.ceil(corners.max(axis=0)).astype(int).tolist()
    return Box(x, y, x_end - x, y_end - y).intersection(bounds)


def image_of_area(drawn: AnnotatedSlide, name: str, area: list[Rings] | None) -> FoundImage:
    """Return a region of a slide with the nuclei that have a pixel in it.

    Parameters
    ----------
    drawn : AnnotatedSlide
        The slide and what was drawn on it.
    name : str
        Of the image.
    area : list of rings, or None
        The region; everything in its box that is outside it is ignored.  None: all of the slide.

    Raises
    ------
    LabelsNotReadable
        If the region is too large or cannot be read, or nuclei cover each other and that is
        refused.
    """
    info = drawn.slide.info
    whole = info.levels[0].box
    box = whole if area is None else box_of(area, whole)
    if not 0 < box.area_px <= LARGEST_AREA_PX:
        raise LabelsNotReadable(
            f"{drawn.where}: {name} has {box.width_px:,} × {box.height_px:,} px on {info.name}; "
            f"from one to {LARGEST_AREA_PX:,} px are needed: draw it smaller, or in several parts"
        )
    try:
        rgb = np.ascontiguousarray(drawn.slide.read_level(0, box))
    except SlideNotReadable as error:
        raise LabelsNotReadable(f"{info.name}: {error}") from error
    inside = np.ones(rgb.shape[:2], np.bool_) if area is None else _mask(area, box)
    patches, keys = [], []
    low, high = drawn.reach_px[:, :2], drawn.reach_px[:, 2:]
    is_near = (low < (box.x_end_px, box.y_end_px)) & (high > (box.x_px, box.y_px))
    for one in (drawn.nuclei[k] for k in np.flatnonzero(is_near.all(axis=1)).tolist()):
        patch = patch_of(_moved(one.polygons, box), one.title, box.width_px, box.height_px)
        if patch is not None and (patch.mask & inside[patch.box.slices]).any():
            patches.append(patch)
            keys.append(one.class_key)
    laid = lay_down(patches, box.width_px, box.height_px, drawn.where, drawn.overlaps)
    ignored = ~inside
    for polygons in drawn.ignored:
        ignored |= _mask(polygons, box)
    return FoundImage(
        name,
        rgb,
        laid.instances,
        tuple(keys[k] for k in laid.kept),
        drawn.where,
        drawn.mpp,
        ignored if ignored.any() else None,
        counts=Counter(laid.counts),
    )


def _moved(polygons: Sequence[Rings], box: Box) -> list[Rings]:
    corner = np.array((box.x_px, box.y_px), np.float64)
    return [[ring - corner for ring in rings] for rings in polygons]


def _mask(polygons: Sequence[Rings], box: Box) -> NDArray[np.bool_]:
    """Return which pixels of a box are inside polygons."""
    mask = np.zeros((box.height_px, box.width_px), np.bool_)
    for rings in _moved(polygons, box):
        part, filled = fill_rings(rings, box.width_px, box.height_px)
        mask[part.slices] |= filled
    return mask
