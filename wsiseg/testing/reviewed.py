"""Edits of a review that are known to the last one, and what QuPath makes of a file."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

_AWAY_PX = 2.0
"""Planted nuclei keep so far from others."""
_TRIES = 200


@dataclass(slots=True)
class Planted:
    """What was done to the nuclei of a sample, by UUID."""

    deleted: set[str] = field(default_factory=set)
    relabelled: dict[str, str | None] = field(default_factory=dict)
    """New class of each."""
    redrawn: dict[str, shapely.Polygon] = field(default_factory=dict)
    """New outline of each, in the coordinates of the file."""
    added: list[tuple[str | None, shapely.Polygon]] = field(default_factory=list)
    """Class and outline of each."""


def plant_edits(
    document: Mapping[str, Any],
    class_names: Sequence[str],
    rng: np.random.Generator,
    *,
    share: float = 0.1,
    n_added: int = 10,
) -> tuple[dict[str, Any], Planted]:
    """Edit a sample as a person would.

    Parameters
    ----------
    document : mapping
        The GeoJSON of `wsiseg.make_review`.
    class_names : sequence of str
        Classes to relabel to; at least two.
    rng : numpy.random.Generator
        Chooses what is edited.
    share : float
        Share of the nuclei that is deleted; so many are relabelled, and so many redrawn.  Half
        of the redrawn ones are among the relabelled.
    n_added : int
        New nuclei, at most, clear of all others.

    Returns
    -------
    edited, planted
        The edited document, and what was done.
    """
    edited = copy.deepcopy(dict(document))
    features = edited["features"]
    nuclei = [one for one in features if "name" not in one["properties"]]
    squares = [one for one in features if "name" in one["properties"]]
    n = round(share * len(nuclei))
    order = rng.permutation(len(nuclei))
    planted = Planted()
    for k in order[:n]:
        planted.deleted.add(nuclei[k]["id"])
    for k in order[n : 2 * n]:
        planted.relabelled[nuclei[k]["id"]] = _relabel(nuclei[k], class_names, rng)
    for k in order[2 * n - n // 2 : 3 * n - n // 2]:
        planted.redrawn[nuclei[k]["id"]] = _redraw(nuclei[k], rng)
    left = [one for one in nuclei if one["id"] not in planted.deleted]
    drawn = shapely.STRtree([shapely.geometry.shape(one["geometry"]) for one in nuclei])
    boxes = [shapely.geometry.shape(one["geometry"]) for one in squares]
    new = []
    for outline in _free_places(boxes, drawn, n_added, rng):
        name = None if rng.uniform() < 0.2 else str(rng.choice(list(class_names)))
        planted.added.append((name, outline))
        new.append(_feature(outline, name))
    edited["features"] = [*squares, *left, *new]
    return edited, planted


def _relabel(
    feature: dict[str, Any], class_names: Sequence[str], rng: np.random.Generator
) -> str | None:
    """Give a nucleus another class, or none."""
    before = feature["properties"].get("classification")
    others = [name for name in class_names if before is None or name != before["name"]]
    name = str(rng.choice(others))
    if before is not None and rng.uniform() < 0.2:
        del feature["properties"]["classification"]
        return None
    feature["properties"]["classification"] = {"name": name, "color": [1, 2, 3]}
    return name


def _redraw(feature: dict[str, Any], rng: np.random.Generator) -> shapely.Polygon:
    """Make a nucleus larger and move it a little."""
    outline = shapely.geometry.shape(feature["geometry"])
    larger = rng.uniform(1.05, 1.25)
    outline = shapely.affinity.scale(outline, larger, larger)
    outline = shapely.set_precision(
        shapely.affinity.translate(outline, *rng.uniform(-0.5, 0.5, 2)), 0.01
    )
    feature["geometry"] = shapely.geometry.mapping(outline)
    return outline


def _free_places(
    boxes: Sequence[shapely.Polygon],
    drawn: shapely.STRtree,
    n: int,
    rng: np.random.Generator,
) -> list[shapely.Polygon]:
    """Return outlines in squares, clear of others and of each other."""
    found: list[shapely.Polygon] = []
    for _ in range(_TRIES * n):
        if len(found) == n:
            break
        x0, y0, x1, y1 = boxes[int(rng.integers(len(boxes)))].bounds
        centre = shapely.Point(rng.uniform(x0 + 1, x1 - 1), rng.uniform(y0 + 1, y1 - 1))
        outline = shapely.affinity.scale(centre.buffer(6), 1.0, rng.uniform(0.6, 1.0))
        outline = shapely.set_precision(outline, 0.01)
        grown = outline.buffer(_AWAY_PX)
        if not len(drawn.query(grown, "intersects")) and not shapely.intersects(grown, found).any():
            found.append(outline)
    return found


def _feature(outline: shapely.Polygon, class_name: str | None) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if class_name is not None:
        properties["classification"] = {"name": class_name, "color": [1, 2, 3]}
    geometry = shapely.geometry.mapping(outline)
    return {"type": "Feature", "id": "", "geometry": geometry, "properties": properties}


def as_qupath_writes(
    document: Mapping[str, Any], rng: np.random.Generator, *, keep_ids: bool = True
) -> dict[str, Any]:
    """Return a file as QuPath gives it back after it was opened there.

    Coordinates have been single-precision numbers and are rounded to 0.01 px; rings begin
    elsewhere and turn the other way; what QuPath does not know is gone, properties have another
    order and others have come, and so has the order of objects.  Objects drawn by hand have an
    identity of their own.

    Parameters
    ----------
    document : mapping
        A FeatureCollection.
    rng : numpy.random.Generator
        Where order and identities come from.
    keep_ids : bool
        Otherwise all objects have new identities.
    """
    features = [_written(one, rng, keep_ids) for one in document["features"]]
    shuffled = [features[k] for k in rng.permutation(len(features))]
    return {"features": shuffled, "type": "FeatureCollection"}


def _written(feature: Mapping[str, Any], rng: np.random.Generator, keep_id: bool) -> dict[str, Any]:
    is_known = keep_id and feature["id"]
    properties = dict(reversed(list(copy.deepcopy(feature["properties"]).items())))
    properties["measurements"] = {"Perimeter µm": 1.5}
    geometry = feature["geometry"]
    # A geometry of shapely holds tuples.
    rings = [_ring(np.array(ring, np.float64), rng) for ring in geometry["coordinates"]]
    return {
        "properties": properties,
        "geometry": {"coordinates": rings, "type": geometry["type"]},
        "id": feature["id"] if is_known else str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        "type": "Feature",
    }


def _ring(xy_px: NDArray[np.float64], rng: np.random.Generator) -> list[list[float]]:
    corners = np.roll(xy_px[:-1][::-1], int(rng.integers(len(xy_px))), axis=0)
    snapped = corners.astype(np.float32).astype(np.float64).round(2)
    closed: list[list[float]] = np.concatenate((snapped, snapped[:1])).tolist()
    return closed
