"""Scores of one set of outlines against another, exactly, without drawing them on pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.evaluation.metrics import MATCH_IOU

_POINTS_AT_LEAST = 16
"""Points on the outline of the smallest thing."""


@dataclass(frozen=True, slots=True, eq=False)
class PolygonMatches:
    """One-to-one pairs of outlines, by position, in the order of the reference."""

    reference_index: NDArray[np.int64]
    """(n,)."""
    predicted_index: NDArray[np.int64]
    """(n,)."""
    iou: NDArray[np.float64]
    """(n,): intersection over union."""


def match_polygons(
    reference: NDArray[np.object_], predicted: NDArray[np.object_], min_iou: float = MATCH_IOU
) -> PolygonMatches:
    """Match outlines whose intersection over union is above a threshold.

    Outlines drawn by hand may overlap each other, so that one may have two partners above the
    threshold: the pair with the larger IoU comes first, of equals the one that comes first in
    the reference, then in the prediction.

    Parameters
    ----------
    reference, predicted : ndarray of shapely polygons or multipolygons
        Valid; any length.
    min_iou : float
        IoU must be larger than this; from 0 to below 1.

    Returns
    -------
    PolygonMatches
        One-to-one.

    Raises
    ------
    ValueError
        If `min_iou` is not from 0 to below 1.
    """
    if not 0 <= min_iou < 1:
        raise ValueError(f"min_iou is {min_iou}; from 0 to below 1 is needed")
    if not (len(reference) and len(predicted)):
        none = np.empty(0, np.int64)
        return PolygonMatches(none, none, np.empty(0))
    near = shapely.STRtree(predicted).query(reference, predicate="intersects")
    first, second = near[0].astype(np.int64), near[1].astype(np.int64)
    iou = polygon_iou(reference[first], predicted[second])
    order = np.lexsort((second, first, -iou))
    kept, taken_first, taken_second = [], set[int](), set[int]()
    for k in order[iou[order] > min_iou]:
        i, j = int(first[k]), int(second[k])
        if i not in taken_first and j not in taken_second:
            taken_first.add(i)
            taken_second.add(j)
            kept.append(int(k))
    pairs = np.array(sorted(kept, key=lambda k: int(first[k])), np.int64)
    return PolygonMatches(first[pairs], second[pairs], iou[pairs])


def polygon_iou(first: NDArray[np.object_], second: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return the intersection over union of each pair of outlines; 1 exactly where they are equal.

    Parameters
    ----------
    first, second : ndarray of shapely polygons or multipolygons, (n,)
        Valid, with an area.
    """
    equal = shapely.equals_exact(first, second, 0.0)
    iou = np.ones(len(first))
    a, b = first[~equal], second[~equal]
    shared = shapely.area(shapely.intersection(a, b))
    iou[~equal] = shared / (shapely.area(a) + shapely.area(b) - shared)
    return iou


def boundary_distances(
    first: NDArray[np.object_],
    second: NDArray[np.object_],
    spacing: float,
    percentile: float = 95,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure how far the outlines of each pair lie apart.

    Points are laid along each outline (holes too) at equal steps, and each point's exact distance
    to the other outline is taken.  The Hausdorff percentile is the larger of the two directions'
    percentiles (HD95; Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z), the mean distance
    that of the points of both directions together, as if weighted by length.

    Parameters
    ----------
    first, second : ndarray of shapely polygons or multipolygons, (n,)
        Valid, not empty.
    spacing : float
        Largest step between points, in the unit of the coordinates.
    percentile : float
        100 for the Hausdorff distance itself, as far as points at that step can tell.

    Returns
    -------
    hausdorff, mean : ndarray, (n,)
        In the unit of the coordinates; exactly 0 for equal outlines.

    Raises
    ------
    ValueError
        If `spacing` is not positive or `percentile` not from 0 to 100.
    """
    if not (spacing > 0 and 0 <= percentile <= 100):
        raise ValueError(
            f"spacing {spacing}, percentile {percentile}; a spacing above 0 and a percentile "
            "from 0 to 100 are needed"
        )
    hausdorff, mean = np.zeros(len(first)), np.zeros(len(first))
    for k in np.flatnonzero(~shapely.equals_exact(first, second, 0.0)):
        lines = shapely.boundary(first[k]), shapely.boundary(second[k])
        there = shapely.distance(_points_along(lines[0], spacing), lines[1])
        back = shapely.distance(_points_along(lines[1], spacing), lines[0])
        hausdorff[k] = max(np.percentile(there, percentile), np.percentile(back, percentile))
        mean[k] = np.concatenate((there, back)).mean()
    return hausdorff, mean


def _points_along(line: shapely.Geometry, spacing: float) -> NDArray[np.object_]:
    """Return points in the middles of equal steps along each part of a line."""
    points = []
    for part in shapely.get_parts(line):
        n = max(_POINTS_AT_LEAST, math.ceil(part.length / spacing))
        at = (np.arange(n) + 0.5) / n
        points.append(shapely.line_interpolate_point(part, at, normalized=True))
    return np.concatenate(points)
