"""From what was drawn to regions on a slide: repair, names, origin, clipping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsiseg.cell_table import ALL_REGIONS
from wsiseg.errors import UsageError
from wsiseg.geometry import Box
from wsiseg.regions._json import Drawn, Notes, named
from wsiseg.regions._types import Region

UsedOrigin = Literal["bounds", "slide"]

MOST_REGIONS = 65_535
"""A cell's regions are stored as 16-bit indices."""

_OUTSIDE_SHARE = 0.01
_REPAIR_SHARE = 0.01
_CLIP_NOTE_PX2 = 1.0


def build_regions(drawn: Iterable[Drawn], label: str, notes: Notes) -> list[Region]:
    """Return valid regions with unique names, in the file's own coordinates.

    Raises
    ------
    UsageError
        If repairing an outline would change its area by more than 1 %, or there are too many.
    """
    shapes = [(one, _multipolygon(one, label, notes)) for one in drawn]
    flat = sum(shape.is_empty for _, shape in shapes)
    if flat:
        notes.skipped["annotations whose outline encloses no area"] += flat
    solid = [(one, shape) for one, shape in shapes if not shape.is_empty]
    if len(solid) > MOST_REGIONS:
        raise UsageError(
            f"{label} has {len(solid)} regions; at most {MOST_REGIONS} can be told apart: merge "
            "them, or give several files in several runs"
        )
    names = unique_names(
        [one.name or one.class_name or f"Region {i}" for i, (one, _) in enumerate(solid, 1)]
    )
    uuids = Counter(one.uuid for one, _ in solid)
    return [
        Region(
            name,
            one.class_name,
            one.class_rgb,
            one.kind,
            one.missing,
            one.uuid if uuids[one.uuid] == 1 else None,
            shape,
        )
        for name, (one, shape) in zip(names, solid, strict=True)
    ]


def unique_names(names: Sequence[str]) -> list[str]:
    """Return names with " (2)", " (3)" … added to repeated ones; no given name is taken twice.

    `ALL_REGIONS` counts as taken: statistics use it for all regions together.
    """
    taken = set(names)
    seen = {ALL_REGIONS}
    repeats: Counter[str] = Counter()
    unique = []
    for name in names:
        if name in seen:
            n = max(2, repeats[name] + 1)
            while f"{name} ({n})" in taken:
                n += 1
            repeats[name] = n
            taken.add(new := f"{name} ({n})")
            unique.append(new)
        else:
            seen.add(name)
            unique.append(name)
    return unique


def _multipolygon(one: Drawn, label: str, notes: Notes) -> shapely.MultiPolygon:
    """Return the drawn polygons as one valid geometry; it is empty if they have no area."""
    raw = shapely.MultiPolygon([shapely.Polygon(rings[0], rings[1:]) for rings in one.polygons])
    if shapely.is_valid(raw):
        return raw
    # The method keeps what a shell encloses and takes holes away, where the default would turn
    # an overlap of two parts into a hole.
    fixed = polygons_only(shapely.make_valid(raw, method="structure", keep_collapsed=False))
    if abs(fixed.area - raw.area) > _REPAIR_SHARE * raw.area:
        raise UsageError(
            f"{label}: {one.title} crosses itself ({shapely.is_valid_reason(raw)}): its area "
            f"could be {raw.area:.0f} or {fixed.area:.0f} px²; a simple outline is needed: draw "
            "it again, or leave it out of the file"
        )
    if not fixed.is_empty:
        notes.add("touched or crossed itself: repaired", one.title)
    return fixed


def polygons_only(geometry: BaseGeometry) -> shapely.MultiPolygon:
    """Return the polygons of any geometry."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def file_origin(document: Any) -> tuple[float, float] | None:
    """Return the origin a file of our own names; None in any other."""
    origin = document.get("origin_px") if isinstance(document, dict) else None
    if isinstance(origin, list) and len(origin) == 2:
        x, y = origin
        if isinstance(x, int | float) and isinstance(y, int | float):
            return float(x), float(y)
    return None


def choose_origin(
    regions: Sequence[Region],
    slide_px: tuple[int, int],
    bounds: Box,
) -> tuple[UsedOrigin, str | None]:
    """Return what the coordinates are relative to, and a warning if that is no matter of course.

    QuPath's are relative to the slide's bounds, unless that puts more than 1 % of the area
    outside the bounds while all but 1 % of it lies on the slide when read relative to that.
    """
    corner = (bounds.x_px, bounds.y_px)
    if corner == (0, 0):
        return "bounds", None
    geometries = _there(regions)
    total = shapely.area(geometries).sum()
    outside_bounds = total - _common(geometries, _box(bounds, corner)).sum()
    outside_slide = total - _common(geometries, shapely.box(0, 0, *slide_px)).sum()
    if outside_bounds > _OUTSIDE_SHARE * total and outside_slide <= _OUTSIDE_SHARE * total:
        return "slide", (
            f"read relative to the slide's bounds, as QuPath writes them, "
            f"{outside_bounds / total:.0%} of the regions' area would lie outside the bounds "
            f"(which start at {corner}): they were read relative to the slide; if that is "
            "wrong, use --roi-origin bounds"
        )
    return "bounds", None


def place_regions(
    regions: Sequence[Region],
    shift_px: tuple[float, float],
    slide_px: tuple[int, int],
) -> tuple[list[Region], list[str]]:
    """Return the regions in level-0 px, clipped to the slide, and what was clipped.

    A region that lies wholly outside while another does not is kept as it is, and so is every
    missing core: they hold nothing, but have their row in the statistics.
    """
    shift = np.array(shift_px, np.float64)
    placed, clipped, outside = [], [], []
    for region in regions:
        geometry = _shifted(region.geometry, shift)
        if not region.missing and _reaches_out(geometry, slide_px):
            inside = _clipped(geometry, slide_px)
            if inside.is_empty:
                outside.append(f'"{region.name}"')
            else:
                if geometry.area - inside.area > _CLIP_NOTE_PX2:
                    clipped.append(f'"{region.name}"')
                geometry = inside
        placed.append(replace(region, geometry=geometry))
    said = []
    if clipped:
        said.append(f"regions reach beyond the slide and were clipped to it: {named(clipped)}")
    if outside:
        said.append(f"regions lie wholly outside the slide and hold nothing: {named(outside)}")
    return placed, said


def _reaches_out(geometry: shapely.MultiPolygon, slide_px: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = geometry.bounds
    return bool(x0 < 0 or y0 < 0 or x1 > slide_px[0] or y1 > slide_px[1])


def _clipped(geometry: shapely.MultiPolygon, slide_px: tuple[int, int]) -> shapely.MultiPolygon:
    """Return what lies on the slide."""
    inside = polygons_only(shapely.intersection(geometry, shapely.box(0, 0, *slide_px)))
    # Computed corners miss the edge by a rounding error; read again, they would be clipped again.
    return _valid(shapely.transform(inside, lambda xy_px: np.clip(xy_px, (0, 0), slide_px)))


def refuse_outside(
    regions: Sequence[Region],
    label: str,
    slide: str,
    slide_px: tuple[int, int],
    used: UsedOrigin,
) -> None:
    """Raise a UsageError if nothing of the placed regions lies on the slide."""
    there = _there(regions)
    if not len(there) or _common(there, shapely.box(0, 0, *slide_px)).any():
        return
    x0, y0, x1, y1 = (f"{side:.0f}" for side in shapely.total_bounds(there))
    other = "slide" if used == "bounds" else "bounds"
    raise UsageError(
        f"{label}: all regions lie outside {slide}, which has {slide_px[0]} × {slide_px[1]} px: "
        f"read relative to the {'bounds' if used == 'bounds' else 'whole slide'}, they reach "
        f"from ({x0}, {y0}) to ({x1}, {y1}); give the regions of this slide, in its full-size "
        f"pixels, or try --roi-origin {other}"
    )


def union_of(regions: Sequence[Region]) -> shapely.MultiPolygon:
    """Return the area of all regions that are not missing; overlaps count once."""
    parts = [part for region in regions if not region.missing for part in region.geometry.geoms]
    if not parts:
        return shapely.MultiPolygon()
    # Groups that do not meet are only listed together: uniting all at once is very slow.
    return polygons_only(shapely.disjoint_subset_union_all(parts))


def _there(regions: Sequence[Region]) -> NDArray[np.object_]:
    return np.array([one.geometry for one in regions if not one.missing], np.object_)


def _common(geometries: NDArray[np.object_], area: shapely.Polygon) -> NDArray[np.float64]:
    common: NDArray[np.float64] = shapely.area(shapely.intersection(geometries, area))
    return common


def _box(bounds: Box, corner: tuple[int, int]) -> shapely.Polygon:
    """Return the bounds relative to a corner."""
    x, y = bounds.x_px - corner[0], bounds.y_px - corner[1]
    return shapely.box(x, y, x + bounds.width_px, y + bounds.height_px)


def _shifted(geometry: shapely.MultiPolygon, shift: NDArray[np.float64]) -> shapely.MultiPolygon:
    return _valid(shapely.transform(geometry, lambda xy_px: xy_px + shift))


def _valid(moved: shapely.MultiPolygon) -> shapely.MultiPolygon:
    """Return the geometry as it is but where rounding, very rarely, made it touch itself."""
    if shapely.is_valid(moved):
        return moved
    return polygons_only(shapely.make_valid(moved, method="structure", keep_collapsed=False))
