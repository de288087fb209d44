"""From GeoJSON, as QuPath and others write it, to polygons with names.

What QuPath reads and writes is in its `QuPathTypeAdapters.java`, `ROITypeAdapters.java` and
`GsonTools.java`.  A file may hold a FeatureCollection, a Feature, a geometry, or a list of
these.  Objects may have children in `properties.childObjects`.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.regions._types import RegionKind

CORE_KEY = "wsiseg TMA core"
"""Metadata that marks an annotation as a core; `CORE_PRESENT` or `CORE_MISSING`."""
CORE_PRESENT = "present"
CORE_MISSING = "missing"

EXPORT_HINT = "in QuPath by File > Export objects as GeoJSON"

_GEOMETRIES = {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon"} | {
    *("MultiPolygon", "GeometryCollection"),
}
_CORES = {"tmaCore", "tma_core", "TMACoreObject"}
_NO_DRAWINGS = frozenset(("tile", "root", "PathTileObject", "PathRootObject"))
_NO_REGIONS = _NO_DRAWINGS | {
    *("detection", "cell", "PathDetectionObject", "PathCellObject"),
}
_LEGACY_TYPES = _CORES | {kind for kind in _NO_REGIONS if kind.startswith("Path")}

OutlineOf: TypeAlias = Literal["object", "nucleus"]
"""Of a QuPath cell: its own outline, or that of its nucleus where it has one."""

_LARGEST_PX = 1e9
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An object with an area, in the file's own coordinates."""

    title: str
    """How messages call it."""
    name: str | None
    """QuPath's name."""
    class_name: str | None
    """See `Region`; so the next four."""
    class_rgb: tuple[int, int, int] | None
    kind: RegionKind
    missing: bool
    uuid: str | None
    polygons: list[list[NDArray[np.float64]]]
    """Per polygon its rings, outside first, each (n, 2) and closed."""
    is_detection: bool = False
    """Whether it is a detection or a cell."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """QuPath's metadata of the object."""


@dataclass(slots=True)
class Notes:
    """What was found on the way and the user should know."""

    skipped: Counter[str] = field(default_factory=Counter)
    """Number of things left out, by what they are."""
    titles: dict[str, list[str]] = field(default_factory=dict)
    """Titles of the objects something was noted about, by the sentence."""

    def add(self, sentence: str, title: str) -> None:
        """Note something about one object."""
        titles = self.titles.setdefault(sentence, [])
        if title not in titles:
            titles.append(title)

    def warnings(self) -> list[str]:
        """Return one line each."""
        lines = [f"{what} were skipped: {n}" for what, n in self.skipped.items()]
        return lines + [f"{named(titles)} {text}" for text, titles in self.titles.items()]


def named(titles: list[str]) -> str:
    """Return the first few titles and how many more there are."""
    more = len(titles) - _MOST_NAMED
    return ", ".join(titles[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def load_json(content: bytes, label: str) -> Any:
    """Return the document.

    Raises
    ------
    UsageError
        If it is empty, no JSON, or nested too deeply.
    """
    if not content.strip():
        raise UsageError(
            f"{label} is empty; regions as GeoJSON are needed: export them {EXPORT_HINT}"
        )
    try:
        return json.loads(content)
    except RecursionError as error:
        raise _too_deep(label) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise UsageError(
            f"{label} is no JSON ({where}); GeoJSON is needed: export regions {EXPORT_HINT}"
        ) from error
    # Not UTF, or a number with more digits than Python converts.
    except ValueError as error:
        raise UsageError(
            f"{label} is no JSON text ({type(error).__name__}); GeoJSON is needed: export regions "
            f"{EXPORT_HINT}"
        ) from error


def drawn_objects(
    document: Any,
    label: str,
    notes: Notes,
    left_out: AbstractSet[str] = _NO_REGIONS,
    outline: OutlineOf = "object",
) -> list[Drawn]:
    """Return the annotations and cores that have polygons, in the order of the file.

    Objects of QuPath's types in `left_out` are counted and passed over.

    Raises
    ------
    UsageError
        If the document is no GeoJSON, or a geometry is damaged.
    """
    try:
        found = enumerate(_features(document, label), start=1)
        drawn = [
            _drawn(feature, position, label, notes, left_out, outline)
            for position, feature in found
        ]
    except RecursionError as error:
        raise _too_deep(label) from error
    return [one for one in drawn if one is not None]


def all_objects(
    document: Any, label: str, notes: Notes, outline: OutlineOf = "object"
) -> list[Drawn]:
    """Return the detections and cells too, of cells the outline asked for; see `drawn_objects`."""
    return drawn_objects(document, label, notes, _NO_DRAWINGS, outline)


def _too_deep(label: str) -> UsageError:
    return UsageError(
        f"{label} is nested too deeply for GeoJSON; export the regions again {EXPORT_HINT}"
    )


def _features(element: Any, label: str) -> Iterator[dict[str, Any]]:
    """Yield every Feature, parents before their children; a geometry becomes a Feature."""
    if isinstance(element, list):
        for one in element:
            yield from _features(one, label)
        return
    kind = element.get("type") if isinstance(element, dict) else None
    if kind == "FeatureCollection" and isinstance(element.get("features"), list):
        yield from _features(element["features"], label)
    elif kind == "Feature":
        yield element
        properties = _object(element.get("properties"))
        children = properties.get("childObjects", properties.get("children"))
        if isinstance(children, list):
            yield from _features(children, label)
    elif isinstance(kind, str) and kind in _GEOMETRIES:
        yield {"type": "Feature", "geometry": element}
    else:
        raise UsageError(
            f"{label} is JSON, but no GeoJSON (it has {_short(element)} where a "
            f"FeatureCollection, Feature or geometry belongs); export the regions {EXPORT_HINT}"
        )


def _drawn(
    feature: dict[str, Any],
    position: int,
    label: str,
    notes: Notes,
    left_out: AbstractSet[str],
    outline: OutlineOf,
) -> Drawn | None:
    """Return an object, or None if it is left out or has no area."""
    properties = _object(feature.get("properties"))
    kind = _object_type(feature, properties)
    if kind in left_out:
        if "root" not in kind.lower():
            notes.skipped["detections, cells and tiles (no regions)"] += 1
        return None
    metadata = _object(properties.get("metadata"))
    core_mark = metadata.get(CORE_KEY)
    is_core = kind in _CORES or core_mark in (CORE_PRESENT, CORE_MISSING)
    name = one_line(properties.get("name"))
    what = "TMA core" if is_core else "detection" if kind in _NO_REGIONS else "annotation"
    title = f'{what} "{name}"' if name else f"{what} {position} of the file"
    reader = _GeometryReader(label, title, notes)
    nucleus = feature.get("nucleusGeometry") if outline == "nucleus" else None
    geometry = nucleus or feature.get("geometry")
    polygons = reader.polygons(geometry)
    if not polygons:
        return None
    if _other_plane(geometry):
        notes.add("on another z or t plane: used on the slide's only plane", title)
    class_name, class_rgb = _classification(properties.get("classification"))
    missing = core_mark == CORE_MISSING or str(properties.get("isMissing")).lower() == "true"
    return Drawn(
        title,
        name,
        class_name,
        class_rgb,
        "tma-core" if is_core else "annotation",
        is_core and missing,
        _uuid(feature.get("id")),
        polygons,
        kind in _NO_REGIONS,
        metadata,
    )


def _object_type(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return QuPath's type; versions before 0.3 wrote it as the id."""
    for key in ("objectType", "object_type", "type"):
        if isinstance(properties.get(key), str):
            return str(properties[key])
    legacy = feature.get("id")
    return legacy if isinstance(legacy, str) and legacy in _LEGACY_TYPES else "annotation"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def one_line(value: Any) -> str | None:
    """Return text fit for a table and a terminal: printable, without runs of spaces."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    printable = "".join(c if c.isprintable() else " " for c in str(value))
    return " ".join(printable.split()) or None


def _classification(value: Any) -> tuple[str | None, tuple[int, int, int] | None]:
    """Return name and colour of any of the forms QuPath has written."""
    if not isinstance(value, dict):
        return one_line(value), None
    names = value.get("names")
    parts = names if isinstance(names, list) else [value.get("name")]
    # Before 0.4 a derived class held its parent.
    parent, _ = _classification(value.get("parentClass"))
    lines = [line for line in (parent, *map(one_line, parts)) if line]
    return ": ".join(lines) or None, _rgb(value.get("color", value.get("colorRGB")))


def _rgb(value: Any) -> tuple[int, int, int] | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255
    if not isinstance(value, list) or len(value) not in (3, 4):
        return None
    if not all(isinstance(channel, int) and 0 <= channel <= 255 for channel in value):
        return None
    return value[0], value[1], value[2]


def _uuid(value: Any) -> str | None:
    try:
        return str(uuid.UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _other_plane(geometry: Any) -> bool:
    plane = _object(_object(geometry).get("plane"))
    return any(plane.get(axis) not in (None, 0) for axis in ("z", "t"))


@dataclass(frozen=True, slots=True)
class _GeometryReader:
    """Reads one object's polygons."""

    label: str
    title: str
    notes: Notes

    def polygons(self, geometry: Any) -> list[list[NDArray[np.float64]]]:
        """Return the polygons of any geometry; what has no area is counted and left out."""
        # QuPath writes {} for an object without ROI.
        if geometry is None or geometry == {}:
            self.notes.skipped["objects without a geometry"] += 1
            return []
        kind = _object(geometry).get("type")
        if not isinstance(kind, str) or kind not in _GEOMETRIES:
            raise self._damaged(f"its geometry is {_short(geometry)}")
        if kind == "GeometryCollection":
            parts = self._list(geometry.get("geometries"))
            return [polygon for part in parts for polygon in self.polygons(part)]
        if kind in ("Polygon", "MultiPolygon"):
            coordinates = self._list(geometry.get("coordinates"))
            found = coordinates if kind == "MultiPolygon" else [coordinates] * bool(coordinates)
            if not found:
                self.notes.skipped["objects without a geometry"] += 1
            return [[self._ring(ring) for ring in self._list(one)] for one in found if one]
        self.notes.skipped["points and lines (they have no area)"] += 1
        return []

    def _list(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self._damaged(f"it has {_short(value)} where a list of coordinates belongs")
        return value

    def _ring(self, value: Any) -> NDArray[np.float64]:
        """Return a closed ring, x and y only."""
        points = self._list(value)
        try:
            # Positions may have heights, not all of them the same number.
            xy_px = np.array([point[:2] for point in points], np.float64)
        except (TypeError, ValueError, OverflowError, KeyError) as error:
            raise self._damaged(f"a coordinate is no pair of numbers ({_short(points)})") from error
        if xy_px.ndim != 2 or xy_px.shape[1] != 2:
            raise self._damaged(f"a coordinate is no pair of numbers ({_short(points)})")
        # The comparison is false for NaN too.
        if not (np.abs(xy_px) < _LARGEST_PX).all():
            raise self._damaged("a coordinate is not finite or beyond any slide")
        if (xy_px[0] != xy_px[-1]).any():
            self.notes.add("had an open outline: closed", self.title)
            xy_px = np.concatenate([xy_px, xy_px[:1]])
        if len(xy_px) < 4:
            raise self._damaged("an outline has fewer than three corners")
        return xy_px + 0.0

    def _damaged(self, what: str) -> UsageError:
        return UsageError(
            f"{self.label}: {self.title} cannot be used: {what}; draw it again, or leave it out "
            "of the file"
        )


def _short(value: Any) -> str:
    """Return a few characters that show what came."""
    if isinstance(value, dict):
        kind = value.get("type")
        return f"an object of type {str(kind)[:40]!r}" if "type" in value else "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{value!r}"[:40] if isinstance(value, str) else str(value)[:40]
