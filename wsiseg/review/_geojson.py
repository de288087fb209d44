"""A review's squares and nuclei as QuPath's annotations, and back.

Nuclei are annotations here, not detections: QuPath's brush, wand and vertex tools change
annotations only.  Squares are locked, so that a brush does not move them.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Box
from wsiseg.regions import Drawn, parse_objects
from wsiseg.review._records import (
    RUN_KEY,
    SQUARE_KEY,
    ReviewSample,
    ReviewSquare,
    check_class_name,
)

_SAME_SQUARE_PX = 1.0
"""Squares without their identity are known by their corners, this near."""
_SQUARE_NAME = re.compile(r"review \d{2,}")
_SHORTENED = "only the parts with an area are kept: its outline crosses itself"


class NoSquare(UsageError):
    """A file holds none of a sample's squares; it may be of another one."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnNucleus:
    """An object of an edited file that is no square."""

    title: str
    """How messages call it."""
    uuid: str | None
    class_name: str | None
    geometry: shapely.Geometry
    """Valid polygon or multipolygon, level-0 px."""


@dataclass(frozen=True, slots=True, eq=False)
class EditedFile:
    """What an edited file holds."""

    squares: frozenset[str]
    """Names of the squares that came back."""
    nuclei: tuple[DrawnNucleus, ...]
    notes: tuple[str, ...]
    """What the reader should know, a sentence each."""


def sample_bytes(
    sample: ReviewSample,
    cells: pa.Table,
    colours: Mapping[str, Sequence[int]],
    bounds: Box,
    *,
    packed: bool,
) -> bytes:
    """Return a sample as GeoJSON for QuPath.

    Parameters
    ----------
    sample : ReviewSample
        The squares.
    cells : pyarrow.Table
        Their nuclei, of `cells_in_squares`.
    colours : mapping
        Red, green, blue of each class.
    bounds : Box
        The slide's bounds: coordinates are relative to their corner, rounded to 0.01 px.
    packed : bool
        Whether the text is packed by gzip.
    """
    origin = np.array([bounds.x_px, bounds.y_px], np.float64)
    features = [_square_feature(sample, square, bounds) for square in sample.squares]
    shown = {
        uuid: name
        for square in sample.squares
        for uuid, name in zip(square.cell_uuids, square.cell_classes, strict=True)
    }
    outlines = shapely.from_wkb(cells["geometry"].to_numpy(zero_copy_only=False))
    for uuid, outline in zip(cells["uuid"].to_pylist(), outlines, strict=True):
        properties: dict[str, Any] = {"objectType": "annotation"}
        name = shown[uuid]
        if name is not None:
            # An object without a colour would abort QuPath's import.
            properties["classification"] = (
                {"name": name, "color": list(colours[name])} if name in colours else name
            )
        coordinates = [_relative(ring, origin) for ring in (outline.exterior, *outline.interiors)]
        features.append(_feature(uuid, coordinates, properties))
    content = {"type": "FeatureCollection", "origin_px": origin.tolist(), "features": features}
    text = json.dumps(content, separators=(",", ":")).encode()
    return gzip.compress(text, mtime=0) if packed else text


def _feature(
    uuid: str, coordinates: list[list[list[float]]], properties: Mapping[str, Any]
) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": coordinates}
    return {"type": "Feature", "id": uuid, "geometry": geometry, "properties": properties}


def _square_feature(sample: ReviewSample, square: ReviewSquare, bounds: Box) -> dict[str, Any]:
    box = _shown_box(sample, square, bounds)
    x0, y0 = box.x_px - bounds.x_px, box.y_px - bounds.y_px
    x1, y1 = x0 + box.width_px, y0 + box.height_px
    ring = [[float(x), float(y)] for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))]
    properties = {
        "objectType": "annotation",
        "name": square.name,
        "isLocked": True,
        "metadata": {SQUARE_KEY: sample.name, RUN_KEY: sample.fingerprint},
    }
    return _feature(sample.square_uuid(square), [ring], properties)


def _shown_box(sample: ReviewSample, square: ReviewSquare, bounds: Box) -> Box:
    """Return a square, clipped to what QuPath shows of the slide."""
    box = sample.grid.box(square.key)
    clipped = box.intersection(bounds)
    return clipped if clipped.area_px else box


def _relative(ring: shapely.LinearRing, origin: NDArray[np.float64]) -> list[list[float]]:
    xy: list[list[float]] = (np.round(np.asarray(ring.coords) - origin, 2) + 0.0).tolist()
    return xy


def packs(path: Path) -> bool:
    """Return whether a file of that name is packed."""
    return path.name.endswith(".gz")


def parse_edited(content: bytes, label: str, sample: ReviewSample, bounds: Box) -> EditedFile:
    """Return the squares and nuclei of an edited file.

    Parameters
    ----------
    content : bytes
        GeoJSON text.
    label : str
        What messages call the file.
    sample : ReviewSample
        Of the review it is of.
    bounds : Box
        The slide's bounds.

    Raises
    ------
    NoSquare
        If the file holds none of the sample's squares.
    UsageError
        If it is no GeoJSON, all squares are shifted alike, or it holds an outline without area,
        or a class with a name that stands for something else.
    """
    drawn, origin_px, warnings = parse_objects(content, label, bounds)
    notes = list(warnings)
    squares, others = _squares(drawn, origin_px, sample, bounds, notes)
    if not squares:
        raise NoSquare(_why_no_square(label, drawn, sample))
    _refuse_shifted(label, squares)
    nuclei = _nuclei(others, sample, notes)
    made = [_nucleus(one, label, origin_px, notes) for one in nuclei]
    return EditedFile(frozenset(squares), tuple(made), tuple(notes))


_Shift: TypeAlias = NDArray[np.float64]
"""(2, 2): how far a square's lowest and highest corner are from where they were, px."""


def _squares(
    drawn: Sequence[Drawn],
    origin_px: tuple[float, float],
    sample: ReviewSample,
    bounds: Box,
    notes: list[str],
) -> tuple[dict[str, _Shift], list[Drawn]]:
    """Return the squares that came back by name, and what may be nuclei."""
    by_uuid = {sample.square_uuid(square): square.name for square in sample.squares}
    boxes = {square.name: _shown_box(sample, square, bounds) for square in sample.squares}
    found: dict[str, _Shift] = {}
    renamed, foreign, others = 0, [], []
    for one in drawn:
        name = by_uuid.get(one.uuid or "")
        if name is None and one.name in boxes and _says_ours(one, sample):
            name = one.name if _is_at(_shift(one, origin_px, boxes[one.name])) else None
            renamed += name is not None
        if name is not None:
            shift = _shift(one, origin_px, boxes[name])
            found[name] = min(found.get(name, shift), shift, key=lambda s: np.abs(s).max())
        elif SQUARE_KEY in one.metadata or _SQUARE_NAME.fullmatch(one.name or ""):
            foreign.append(str(one.metadata.get(SQUARE_KEY, "unknown")))
        else:
            others.append(one)
    if renamed:
        notes.append(f"{renamed} squares had lost their identity and were known by name and place")
    if foreign:
        reviews = ", ".join(sorted(set(foreign)))
        notes.append(
            f"{len(foreign)} squares of another review, or out of place, were ignored ({reviews})"
        )
    moved = sorted(name for name, shift in found.items() if not _is_at(shift))
    if moved:
        notes.append(
            f"{', '.join(moved)} came back with another outline; the one drawn first is used"
        )
    return found, others


def _refuse_shifted(label: str, squares: Mapping[str, _Shift]) -> None:
    """Raise UsageError if all squares came back at one distance from where they were."""
    shifts = np.array(list(squares.values()))
    step = shifts[0, 0]
    if np.abs(step).max() > _SAME_SQUARE_PX and _is_at(shifts - step):
        raise UsageError(
            f"{label}: all squares lie {step[0]:g} px in x and {step[1]:g} px in y from where "
            "they were drawn, so nothing can be compared; export from the image the sample was "
            "opened in, without a shift of coordinates"
        )


def _says_ours(one: Drawn, sample: ReviewSample) -> bool:
    """Return whether a square without its identity says nothing against being of the sample."""
    said = one.metadata
    is_ours: bool = (
        said.get(SQUARE_KEY, sample.name) == sample.name
        and said.get(RUN_KEY, sample.fingerprint) == sample.fingerprint
    )
    return is_ours


def _shift(one: Drawn, origin_px: tuple[float, float], box: Box) -> _Shift:
    corners = np.concatenate([ring for rings in one.polygons for ring in rings]) + origin_px
    wanted = np.array([[box.x_px, box.y_px], [box.x_end_px, box.y_end_px]])
    shift: _Shift = np.array([corners.min(axis=0), corners.max(axis=0)]) - wanted
    return shift


def _is_at(shift: _Shift) -> bool:
    return bool((np.abs(shift) <= _SAME_SQUARE_PX).all())


def _why_no_square(label: str, drawn: Sequence[Drawn], sample: ReviewSample) -> str:
    stated = {str(one.metadata[RUN_KEY])[:12] for one in drawn if RUN_KEY in one.metadata}
    names = {square.name for square in sample.squares}
    if stated and stated != {sample.fingerprint[:12]}:
        return (
            f"{label} is a review of another run ({', '.join(sorted(stated))}…; this one is "
            f"{sample.fingerprint[:12]}…); give the run the sample was made from"
        )
    if stated or any(one.name in names for one in drawn):
        return (
            f"{label} holds squares of another sample than {sample.name!r} of {sample.slide}; "
            "give the run and the --name the sample was made with"
        )
    return (
        f"{label} holds no square of the review {sample.name!r} of {sample.slide} among its "
        f"{len(drawn)} objects; export all objects, the locked squares too"
    )


def _nuclei(others: Sequence[Drawn], sample: ReviewSample, notes: list[str]) -> list[Drawn]:
    """Return what may be nuclei: the annotations, or where none is of the sample, all."""
    known = {uuid for square in sample.squares for uuid in square.cell_uuids}
    annotations = [one for one in others if not one.is_detection]
    n_detections = len(others) - len(annotations)
    # Detections of the whole run may lie in the same image, with the same identities.
    as_sampled = not known or any(one.uuid in known for one in annotations)
    if n_detections and as_sampled:
        notes.append(
            f"{n_detections} detections are not part of the review, whose nuclei are "
            "annotations; they were ignored"
        )
        return annotations
    return list(others)


def _nucleus(
    one: Drawn, label: str, origin_px: tuple[float, float], notes: list[str]
) -> DrawnNucleus:
    pieces = [
        shapely.Polygon(rings[0] + origin_px, [ring + origin_px for ring in rings[1:]])
        for rings in one.polygons
    ]
    outline = pieces[0] if len(pieces) == 1 else shapely.MultiPolygon(pieces)
    title = one.title if one.name or one.uuid is None else f"{one.title} (id {one.uuid})"
    check_class_name(one.class_name, f"{label}: {title}")
    if not shapely.is_valid(outline):
        solid = [p for p in shapely.get_parts(shapely.make_valid(outline)) if p.area > 0]
        solid = [part for p in solid for part in shapely.get_parts(p)]
        outline = shapely.union_all(solid)
        notes.append(f"{title} was repaired ({_SHORTENED})")
    if not outline.area > 0:
        raise UsageError(
            f"{label}: {title} encloses no area; draw it again, or delete it, and export again"
        )
    return DrawnNucleus(title, one.uuid, one.class_name, outline)
