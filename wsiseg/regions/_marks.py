"""What was marked with a class in QuPath: points, areas, and detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.regions._json import (
    Notes,
    _classification,
    _features,
    _GeometryReader,
    _object,
    _object_type,
    _uuid,
    one_line,
)

MarkKind: TypeAlias = Literal["points", "area", "detection"]

_PASSED_OVER = frozenset(("tile", "root", "PathTileObject", "PathRootObject"))
_DETECTIONS = frozenset(("detection", "cell", "PathDetectionObject", "PathCellObject"))
_POINTS = ("Point", "MultiPoint")


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """An object with a class."""

    title: str
    """How messages call it."""
    kind: MarkKind
    class_name: str
    class_rgb: tuple[int, int, int] | None
    uuid: str | None
    """The object's id; of a detection made by us that of the cell."""
    geometry: shapely.Geometry
    """A multipoint, or a valid polygon or multipolygon, in the file's own coordinates."""


def marks_of(document: Any, label: str, notes: Notes) -> list[Mark]:
    """Return the objects that have a class, in the order of the file; the rest is counted.

    Raises
    ------
    UsageError
        If the document is no GeoJSON, or a geometry is damaged.
    """
    try:
        found = enumerate(_features(document, label), start=1)
        marks = [_mark(feature, position, label, notes) for position, feature in found]
    except RecursionError as error:
        raise UsageError(f"{label} is nested too deeply for GeoJSON; export it again") from error
    return [mark for mark in marks if mark is not None]


def _mark(feature: dict[str, Any], position: int, label: str, notes: Notes) -> Mark | None:
    properties = _object(feature.get("properties"))
    kind = _object_type(feature, properties)
    if kind in _PASSED_OVER:
        return None
    class_name, class_rgb = _classification(properties.get("classification"))
    if class_name is None:
        notes.skipped["objects without a class"] += 1
        return None
    if class_name.endswith("*"):
        notes.skipped["objects of a class that QuPath ignores (its name ends in *)"] += 1
        return None
    name = one_line(properties.get("name"))
    what = "detection" if kind in _DETECTIONS else "annotation"
    title = f'{what} "{name}"' if name else f"{what} {position} of the file"
    geometry = feature.get("geometry")
    reader = _GeometryReader(label, title, notes)
    if _object(geometry).get("type") in _POINTS:
        shape: shapely.Geometry = shapely.MultiPoint(_points(_object(geometry), reader))
        mark_kind: MarkKind = "points"
    else:
        shape = _area(reader.polygons(geometry))
        mark_kind = "detection" if kind in _DETECTIONS else "area"
    if shape.is_empty:
        return None
    return Mark(title, mark_kind, class_name, class_rgb, _uuid(feature.get("id")), shape)


def _points(geometry: dict[str, Any], reader: _GeometryReader) -> NDArray[np.float64]:
    """Return (n, 2) positions."""
    given: Any = geometry.get("coordinates")
    points: Any = [given] if geometry["type"] == "Point" else given
    try:
        xy_px = np.array([point[:2] for point in points or ()], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise _no_position(reader) from error
    if not np.isfinite(xy_px).all():
        raise _no_position(reader)
    return xy_px


def _no_position(reader: _GeometryReader) -> UsageError:
    return UsageError(
        f"{reader.label}: {reader.title} has a point that is no pair of numbers; set it again, or "
        "leave it out of the file"
    )


def _area(polygons: list[list[NDArray[np.float64]]]) -> shapely.Geometry:
    """Return all polygons as one valid geometry; empty without area."""
    pieces = [shapely.Polygon(rings[0], rings[1:]) for rings in polygons]
    whole = shapely.MultiPolygon(pieces)
    if not shapely.is_valid(whole):
        whole = shapely.make_valid(whole, method="structure", keep_collapsed=False)
    return whole if shapely.area(whole) > 0 else shapely.MultiPolygon()
