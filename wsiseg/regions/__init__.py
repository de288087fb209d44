"""Regions of interest: QuPath's annotations and TMA cores, to and from GeoJSON.

Rules
-----
* A nucleus is in a region if its centroid is strictly inside (`shapely.contains_xy`).
* Regions may overlap: a nucleus is in all that hold it; `innermost` is the smallest of them.
* A TMA core marked as missing holds no nuclei and none of its area is analysed on its account;
  another region that covers the same place does hold its nuclei.
* The name of a region is that in QuPath, else its class, else "Region" and its number among
  the regions; repeated names get " (2)", " (3)".
* Coordinates in QuPath are relative to the slide's bounds (`RoiOrigin`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Box
from wsiseg.regions._index import Memberships, RegionIndex
from wsiseg.regions._json import (
    CORE_KEY,
    CORE_MISSING,
    CORE_PRESENT,
    EXPORT_HINT,
    Drawn,
    Notes,
    OutlineOf,
    all_objects,
    drawn_objects,
    load_json,
)
from wsiseg.regions._marks import Mark, MarkKind, marks_of
from wsiseg.regions._place import (
    UsedOrigin,
    build_regions,
    choose_origin,
    file_origin,
    place_regions,
    refuse_outside,
    union_of,
)
from wsiseg.regions._raster import area_px2, covered, touched
from wsiseg.regions._types import Region, RegionKind

__all__ = [
    "Drawn",
    "Mark",
    "MarkKind",
    "Memberships",
    "OutlineOf",
    "Region",
    "RegionFile",
    "RegionIndex",
    "RegionKind",
    "RoiOrigin",
    "area_px2",
    "covered",
    "parse_objects",
    "parse_regions",
    "read_marks",
    "read_packed",
    "read_regions",
    "region_fingerprint",
    "regions_geojson",
    "touched",
    "union_of",
]

RoiOrigin: TypeAlias = Literal["auto", "bounds", "slide"]
"""What coordinates in a file are relative to: the corner of the slide's bounds, as in QuPath,
or the slide's (0, 0).  `auto` is `bounds`, unless more than 1 % of the regions' area would then
lie outside the bounds while all but 1 % of it lies on the slide when read relative to that."""

_MOST_MIB = 256


@dataclass(frozen=True, slots=True, eq=False)
class RegionFile:
    """The regions of one file, placed on a slide."""

    regions: tuple[Region, ...]
    """In the order of the file, parents before their children."""
    origin: UsedOrigin
    """What the file's coordinates were taken to be relative to."""
    warnings: tuple[str, ...]
    """What the user should know, a sentence each."""


def read_regions(
    path: Path,
    slide_name: str,
    slide_px: tuple[int, int],
    bounds: Box,
    origin: RoiOrigin = "auto",
) -> RegionFile:
    """Read regions of interest, or an edited tissue outline, from a GeoJSON file.

    Annotations and TMA cores with an area become regions; points, lines, detections and cells
    are left out.  Files may be compressed by gzip, or one in a zip archive.

    Parameters
    ----------
    path : Path
        ``.geojson``, ``.json``, ``.geojson.gz`` or ``.zip``; its content counts, not its name.
    slide_name : str
        For messages.
    slide_px : (int, int)
        Width and height of the slide, level-0 px.
    bounds : Box
        The slide's bounds, level-0 px; all of the slide where it has none.
    origin : {"auto", "bounds", "slide"}
        What the file's coordinates are relative to.

    Returns
    -------
    RegionFile
        At least one region.

    Raises
    ------
    UsageError
        If the file cannot be read, is no GeoJSON, holds no area, a damaged outline or one that
        crosses itself, or if all regions lie outside the slide.
    """
    label = str(path)
    return parse_regions(read_packed(path, label), label, slide_name, slide_px, bounds, origin)


def parse_regions(
    content: bytes,
    label: str,
    slide_name: str,
    slide_px: tuple[int, int],
    bounds: Box,
    origin: RoiOrigin = "auto",
) -> RegionFile:
    """Return the regions in GeoJSON text; see `read_regions`.

    Parameters
    ----------
    content : bytes
        JSON in UTF-8, UTF-16 or UTF-32.
    label : str
        What messages call it.
    slide_name, slide_px, bounds, origin
        As for `read_regions`.

    Raises
    ------
    UsageError
        As `read_regions` says.
    """
    document = load_json(content, label)
    notes = Notes()
    regions = build_regions(drawn_objects(document, label, notes), label, notes)
    warnings = notes.warnings()
    if not regions:
        raise UsageError(
            f"{label} holds no area ({'; '.join(warnings) or 'it has no objects'}); at least one "
            f"annotation with an outline is needed: draw one and export it {EXPORT_HINT}"
        )
    stated_px = file_origin(document)
    if stated_px is not None:
        # A file of ours knows; what the option says is meant for others.
        used: UsedOrigin = "slide" if stated_px == (0, 0) else "bounds"
    elif origin == "auto":
        used, said = choose_origin(regions, slide_px, bounds)
        warnings += [] if said is None else [said]
    else:
        used = origin
    corner_px = (bounds.x_px, bounds.y_px) if used == "bounds" else (0, 0)
    shift_px = corner_px if stated_px is None else stated_px
    placed, clipped = place_regions(regions, shift_px, slide_px)
    refuse_outside(placed, label, slide_name, slide_px, used)
    # Warnings are stored with results, which hold no paths.
    name = Path(label).name
    return RegionFile(tuple(placed), used, tuple(f"{name}: {said}" for said in warnings + clipped))


def read_marks(
    path: Path, corner_px: tuple[float, float]
) -> tuple[list[Mark], tuple[float, float], tuple[str, ...]]:
    """Read what was marked with a class: points, areas and detections.

    Parameters
    ----------
    path : Path
        As for `read_regions`.
    corner_px : (float, float)
        Level-0 (x, y) of the slide's bounds: what QuPath's coordinates are relative to.

    Returns
    -------
    marks, origin_px, warnings
        The marks, in the file's own coordinates; the level-0 (x, y) of those coordinates' (0, 0);
        what was passed over, a line each.

    Raises
    ------
    UsageError
        If the file cannot be read, is no GeoJSON, or a geometry is damaged.
    """
    label = str(path)
    document = load_json(read_packed(path, label), label)
    notes = Notes()
    marks = marks_of(document, label, notes)
    return marks, file_origin(document) or corner_px, tuple(notes.warnings())


def parse_objects(
    content: bytes, label: str, bounds: Box, outline: OutlineOf = "object"
) -> tuple[list[Drawn], tuple[float, float], tuple[str, ...]]:
    """Return all objects with an area in GeoJSON text: annotations, detections and cells.

    Parameters
    ----------
    content, label
        As for `parse_regions`.
    bounds : Box
        The slide's bounds, level-0 px: what QuPath's coordinates are relative to.
    outline : {"object", "nucleus"}
        Which outline of a cell is wanted; one without a nucleus has its own.

    Returns
    -------
    drawn, origin_px, warnings
        The objects, parents before their children, in the file's own coordinates, valid or not;
        the level-0 (x, y) of those coordinates' (0, 0); and what was passed over, a line each.

    Raises
    ------
    UsageError
        If it is no GeoJSON, or a geometry is damaged.
    """
    document = load_json(content, label)
    notes = Notes()
    drawn = all_objects(document, label, notes, outline)
    origin_px = file_origin(document) or (float(bounds.x_px), float(bounds.y_px))
    return drawn, origin_px, tuple(notes.warnings())


def read_packed(path: Path, label: str) -> bytes:
    """Return the text of a file, unpacked; what it begins with says how it is packed.

    Raises
    ------
    UsageError
        If it cannot be read, or is not one GeoJSON file.
    """
    try:
        with path.open("rb") as file:
            start = file.peek(4)[:4]
            if start == b"PK\x03\x04":
                content = _read_zip(file, label)
            elif start[:2] == b"\x1f\x8b":
                with gzip.open(file) as unpacked:
                    content = _read_limited(cast(IO[bytes], unpacked), label)
            else:
                content = _read_limited(file, label)
    except (EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _unreadable(label, f"the archive is damaged or locked: {error}") from error
    except OSError as error:
        raise _unreadable(label, error.strerror or str(error)) from error
    return content


def _read_zip(file: IO[bytes], label: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        inside = [
            entry
            for entry in archive.infolist()
            if entry.filename.lower().endswith((".geojson", ".json"))
            and not entry.filename.startswith("__MACOSX/")
        ]
        if len(inside) != 1:
            raise _unreadable(label, f"the archive holds {len(inside)} GeoJSON files, not one")
        with archive.open(inside[0]) as unpacked:
            return _read_limited(unpacked, label)


def _read_limited(file: IO[bytes], label: str) -> bytes:
    content = file.read((_MOST_MIB << 20) + 1)
    if len(content) > _MOST_MIB << 20:
        raise _unreadable(label, f"it holds more than {_MOST_MIB} MiB of text")
    return content


def _unreadable(label: str, why: str) -> UsageError:
    return UsageError(
        f"{label} cannot be read ({why}); one GeoJSON file with the slide's annotations is "
        f"needed: export them without detections {EXPORT_HINT}"
    )


def regions_geojson(regions: Sequence[Region], origin_px: tuple[float, float]) -> dict[str, Any]:
    """Return a FeatureCollection that QuPath opens, and `read_regions` gives the same back.

    Every region becomes a locked annotation.  So does a TMA core, because QuPath would turn its
    outline into an ellipse and, without a grid, into no part of a microarray; its metadata say
    whether it is present or missing.  Coordinates are exact; QuPath rounds them to 0.01 px.

    Parameters
    ----------
    regions : sequence of Region
        In level-0 px.
    origin_px : (float, float)
        (x, y) in level-0 px that becomes (0, 0): the corner of the slide's bounds.

    Returns
    -------
    dict
        Ready for `json.dumps`.  Its `origin_px`, which QuPath ignores, tells `read_regions`
        what the coordinates are relative to.
    """
    return {
        "type": "FeatureCollection",
        "origin_px": [float(value) for value in origin_px],
        "features": [_feature(region, np.array(origin_px, np.float64)) for region in regions],
    }


def _feature(region: Region, origin_px: NDArray[np.float64]) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation", "name": region.name}
    if region.class_name is not None and region.class_rgb is not None:
        colour = list(region.class_rgb)
        properties["classification"] = {"name": region.class_name, "color": colour}
    elif region.class_name is not None:
        # An object without a colour would abort QuPath's import.
        properties["classification"] = region.class_name
    properties["isLocked"] = True
    if region.kind == "tma-core":
        properties["metadata"] = {CORE_KEY: CORE_MISSING if region.missing else CORE_PRESENT}
    identity = {} if region.uuid is None else {"id": region.uuid}
    polygons = [
        [_relative(ring.coords, origin_px) for ring in (part.exterior, *part.interiors)]
        for part in region.geometry.geoms
    ]
    geometry = (
        {"type": "Polygon", "coordinates": polygons[0]}
        if len(polygons) == 1
        else {"type": "MultiPolygon", "coordinates": polygons}
    )
    return {"type": "Feature", **identity, "geometry": geometry, "properties": properties}


def _relative(coords: Any, origin_px: NDArray[np.float64]) -> list[list[float]]:
    """Return positions that, added to the origin, give the same numbers again."""
    xy_px = np.asarray(coords, np.float64)[:, :2]
    exact = xy_px - origin_px
    # 12.34 instead of 12.340000000000032, wherever that comes back as it was.
    short = np.round(exact, 2) + 0.0
    relative: list[list[float]] = np.where(short + origin_px == xy_px, short, exact).tolist()
    return relative


def region_fingerprint(regions: Sequence[Region]) -> str:
    """Return a SHA-256 of what decides a run's regions.

    Geometry (to the last bit), names, classes, kinds and missing marks count, in their order;
    colours and UUIDs do not.
    """
    digest = hashlib.sha256()
    for region in regions:
        words = [region.name, region.class_name, region.kind, region.missing]
        shape = shapely.to_wkb(region.geometry, output_dimension=2, byte_order=1)
        digest.update(json.dumps([*words, len(shape)]).encode() + shape)
    return digest.hexdigest()
