"""From the network's maps to separate nuclei: local, deterministic, in linear time.

Everything is integer arithmetic with fixed constants and fixed rules for ties.  A nucleus
depends on the maps around its own mask component only, never on its position in the tile
or on what else is there.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg._flood import MAX_SOBEL_PX, N_LEVELS, energy_levels, flood
from wsiseg._label_runs import (
    Parts,
    PictureRuns,
    connect,
    find_runs,
    framed,
    group_runs,
    moments,
    paint_runs,
    renamed,
    run_sums,
    sum_planes,
    without_holes,
)
from wsiseg.errors import UsageError
from wsiseg.records import UNKNOWN_CLASS, Instances, Maps

_MAP_UNIT = 255
_HV_UNIT = 100


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Constants of the decoder; stored in the model card.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    nucleus_threshold: float = 0.5
    """A pixel is inside a nucleus if its probability is at least this; above 0, to 1."""
    sobel_px: int = 21
    """Size of the derivative kernel; odd, 3 to 21."""
    marker_energy: float = 0.05
    """Mask pixels with less energy belong to a marker; above 0, to 1."""
    min_marker_px: int = 10
    """Smaller markers are ignored; at least 1."""
    min_area_px: int = 10
    """Smaller nuclei are dropped; at least 1."""

    def __post_init__(self) -> None:
        for name in ("nucleus_threshold", "marker_energy"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise UsageError(f"{name} is {value}; a number above 0 and up to 1 is needed")
        if self.sobel_px not in range(3, MAX_SOBEL_PX + 1, 2):
            raise UsageError(
                f"sobel_px is {self.sobel_px}; an odd whole number from 3 to {MAX_SOBEL_PX} "
                "is needed"
            )
        for name in ("min_marker_px", "min_area_px"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {value}; a whole number of at least 1 is needed")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DecodeOptions:
        """Build options from what `to_json` gave; missing fields get their defaults.

        Raises
        ------
        UsageError
            If a field is not known, or a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(f"decode options {unknown} are not known; known: {sorted(known)}")
        return cls(**values)


def decode_instances(maps: Maps, options: DecodeOptions) -> Instances:
    """Find the nuclei in one tile's maps.

    Energy and markers follow HoVer-Net (Graham et al. 2019,
    doi:10.1016/j.media.2019.101563, section 3.3) with fixed constants instead of the
    tile's minimum and maximum:

    1. mask: nucleus probability of at least `nucleus_threshold`;
    2. energy: the larger of -d/dx of the horizontal and -d/dy of the vertical map (Sobel
       kernels of `sobel_px`), over half of the kernel's absolute sum, clipped to 0 … 1 and
       quantised to 1024 levels; maps are 0 outside the array;
    3. markers: 4-connected components of mask pixels below `marker_energy` with at least
       `min_marker_px` pixels;
    4. flood within the mask from the markers, low energy first, ties by order of arrival;
       a mask component without a marker is one instance;
    5. instances smaller than `min_area_px` are dropped, holes filled (see
       `instances_from_labels`), classes voted.

    Parameters
    ----------
    maps : Maps
        Of one tile, (h, w).
    options : DecodeOptions
        Constants.

    Returns
    -------
    Instances
        Relative to the maps' top left; ordered by centroid row, centroid column, first
        pixel.
    """
    canvas = framed(maps.nucleus >= math.ceil(options.nucleus_threshold * _MAP_UNIT))
    mask = find_runs(canvas, np.arange(2, dtype=np.int32))
    hv = np.ascontiguousarray(maps.hv)
    levels = energy_levels(hv, mask, options.sobel_px, _HV_UNIT)
    n_labels = _part_nuclei(canvas, levels, mask, options)
    picture = _without_small(canvas, n_labels, options.min_area_px)
    return _describe(without_holes(picture), maps.nucleus[np.newaxis], maps.classes)


def _part_nuclei(
    canvas: NDArray[np.int32],
    levels: NDArray[np.int16],
    mask: PictureRuns,
    options: DecodeOptions,
) -> int:
    """Label the mask on the canvas, 1 … n; return n."""
    components = connect(mask)
    paint_runs(canvas, mask.runs, np.where(mask.value > 0, -1 - components.of_run, 0))
    low = np.arange(N_LEVELS + 1) < math.ceil(options.marker_energy * (N_LEVELS - 1))
    seeds, seed_label, seed_component = _find_markers(
        canvas, find_runs(levels, low.astype(np.int32)), options.min_marker_px
    )
    n_components = len(components.first_run)
    lowest = np.full(n_components, np.iinfo(np.int32).max, np.int32)
    highest = np.zeros(n_components, np.int32)
    np.minimum.at(lowest, seed_component, seed_label)
    np.maximum.at(highest, seed_component, seed_label)
    is_bare = (highest == 0) & (mask.value[components.first_run] > 0)
    n_markers = int(seed_label.max(initial=0))
    n_labels = n_markers + int(is_bare.sum())
    highest[is_bare] = np.arange(n_markers + 1, n_labels + 1)
    # A component with one marker, or none, needs no flood: it is that instance.
    is_shared = lowest < highest
    simple = np.flatnonzero((mask.value > 0) & ~is_shared[components.of_run])
    paint_runs(canvas, mask.runs[simple], highest[components.of_run[simple]])
    shared = is_shared[seed_component]
    paint_runs(canvas, seeds[shared], seed_label[shared])
    first_seed, seeds = group_runs(seeds[shared], seed_component[shared], n_components)
    flood(canvas, levels, first_seed, seeds)
    return n_labels


def _find_markers(
    canvas: NDArray[np.int32], low: PictureRuns, min_marker_px: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the markers' runs, each with its label (1, 2, …) and its mask component."""
    parts = connect(low)
    area_px = _part_areas(low, parts)
    is_marker = (area_px >= min_marker_px) & (low.value[parts.first_run] > 0)
    label = np.cumsum(is_marker, dtype=np.int32)
    chosen = np.flatnonzero(is_marker[parts.of_run])
    runs = low.runs[chosen]
    return runs, label[parts.of_run[chosen]], -1 - canvas[runs[:, 0], runs[:, 1]]


def _part_areas(picture: PictureRuns, parts: Parts) -> NDArray[np.int64]:
    """Return the pixels of each component."""
    areas = np.bincount(parts.of_run, picture.length_px, len(parts.first_run))
    return areas.astype(np.int64)


def _without_small(canvas: NDArray[np.int32], n_labels: int, min_area_px: int) -> PictureRuns:
    """Return the runs of a canvas with labels 0 … n without the small ones."""
    table = np.arange(n_labels + 1, dtype=np.int32)
    picture = find_runs(canvas, table)
    area_px = np.bincount(picture.value, picture.length_px, n_labels + 1)
    return renamed(picture, np.where(area_px < min_area_px, 0, table).astype(np.int32))


def instances_from_labels(
    labels: NDArray[np.int32],
    nucleus: NDArray[np.uint8] | None = None,
    classes: NDArray[np.uint8] | None = None,
) -> Instances:
    """Turn a label image into instances.

    A label in several 4-connected parts keeps its largest (the first of equals in raster
    order).  Holes are filled: an 8-connected background component that does not reach the
    array's edge and all of whose 8-neighbours are of one instance becomes part of it; a hole
    with another nucleus inside, or one that leaks through a diagonal, stays open.

    Parameters
    ----------
    labels : ndarray, (h, w), int32
        0 is background; labels need not be consecutive.
    nucleus : ndarray, (h, w), uint8, optional
        Nucleus probability × 255, for `nucleus_prob`; NaN without it.
    classes : ndarray, (n_classes, h, w), uint8, optional
        Class probabilities × 255.  The class of an instance is the one with the largest
        sum over its pixels, the first of equals; unknown without it.

    Returns
    -------
    Instances
        Relative to the array's top left; ordered by centroid row, centroid column, first
        pixel.

    Raises
    ------
    ValueError
        If a label is negative, or the arrays differ in size.
    """
    height, width = labels.shape
    nucleus_plane = np.empty((0, height, width), np.uint8) if nucleus is None else nucleus[None]
    planes = np.empty((0, height, width), np.uint8) if classes is None else classes
    for name, array in (("nucleus", nucleus_plane), ("classes", planes)):
        if array.shape[1:] != (height, width) or array.dtype != np.uint8:
            raise ValueError(
                f"{name} is {array.dtype} of {array.shape[1:]}; uint8 of the labels' size "
                f"{(height, width)} is needed"
            )
    if labels.min(initial=0) < 0:
        raise ValueError(f"label {labels.min()} is negative; 0 is background, nuclei are > 0")
    return _describe(without_holes(_largest_parts(labels)), nucleus_plane, planes)


def _largest_parts(labels: NDArray[np.int32]) -> PictureRuns:
    """Return the runs of a label image, labels numbered anew, one component for each."""
    present = np.unique(np.append(labels, 0))
    canvas = framed(np.searchsorted(present, labels))
    table = np.arange(len(present), dtype=np.int32)
    picture = find_runs(canvas, table)
    parts = connect(picture)
    label = picture.value[parts.first_run]
    # The last write wins, so the largest part of each label, the first of equals, goes last.
    order = np.lexsort((-np.arange(len(label)), _part_areas(picture, parts)))
    best = np.empty(len(present), np.int64)
    best[label[order]] = order
    is_best = (best[label] == np.arange(len(label))) | (label == 0)
    stray = np.flatnonzero(~is_best[parts.of_run])
    paint_runs(canvas, picture.runs[stray], np.zeros(len(stray), np.int32))
    return find_runs(canvas, table)


def _describe(
    picture: PictureRuns, nucleus: NDArray[np.uint8], classes: NDArray[np.uint8]
) -> Instances:
    """Return the instances of a picture, one for each label in it.

    Parameters
    ----------
    picture : PictureRuns
        Of the canvas.
    nucleus, classes : ndarray, (k, h, w), uint8
        Probabilities × 255; k may be 0.
    """
    chosen = np.flatnonzero(picture.value)
    runs = picture.runs[chosen] - 1
    present, label = _numbered(picture.value[chosen])
    place = _reading_order(runs, label, present)
    first_run, runs = group_runs(runs, place[label], present)
    area_px, row_sum, col_sum = moments(runs, first_run)
    class_sums = sum_planes(runs, first_run, np.ascontiguousarray(classes))
    class_index, class_prob = _vote(class_sums, area_px)
    nucleus_sums = sum_planes(runs, first_run, np.ascontiguousarray(nucleus))
    return Instances(
        first_run=first_run,
        runs=runs,
        area_px=area_px,
        row_sum=row_sum,
        col_sum=col_sum,
        class_index=class_index,
        class_prob=class_prob,
        nucleus_prob=_vote(nucleus_sums, area_px)[1],
        cut=_at_edge(runs, first_run, classes.shape[1:]),
    )


def _numbered(label: NDArray[np.int32]) -> tuple[int, NDArray[np.int32]]:
    """Return how many labels occur, and the labels numbered 0 … n - 1 in their order."""
    occurs = np.bincount(label) > 0
    number = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return int(occurs.sum()), number[label]


def _reading_order(
    runs: NDArray[np.int32], label: NDArray[np.int32], n_labels: int
) -> NDArray[np.int32]:
    """Return each label's place by centroid row, centroid column, first pixel.

    Whole and broken part of a centroid are compared one after the other: two different
    fractions of areas up to 2**26 px are more than 2**-53 apart, so float64 tells them
    apart, and equal ones are rounded alike.  So the order is exact wherever the tile is.
    """
    # Sums stay far below 2**53, so adding them up as float64 is exact.
    area, row_sum, col_sum = (
        np.bincount(label, sums, n_labels).astype(np.int64) for sums in run_sums(runs)
    )
    first = np.empty(n_labels, np.int64)
    first[label[::-1]] = np.arange(len(label))[::-1]
    row, row_rest = np.divmod(row_sum, area)
    col, col_rest = np.divmod(col_sum, area)
    order = np.lexsort((first, col_rest / area, col, row_rest / area, row))
    place = np.empty(n_labels, np.int32)
    place[order] = np.arange(n_labels)
    return place


def _vote(
    sums: NDArray[np.int64], area_px: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the index of each row's largest sum, and its mean probability."""
    n, n_planes = sums.shape
    if n_planes == 0:
        return np.full(n, UNKNOWN_CLASS, np.uint8), np.full(n, np.nan, np.float32)
    index = sums.argmax(axis=1)
    prob = sums[np.arange(n), index] / (_MAP_UNIT * area_px)
    return index.astype(np.uint8), prob.astype(np.float32)


def _at_edge(
    runs: NDArray[np.int32], first_run: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return which instances touch the edge of an array of that shape."""
    row, start, end = runs.T
    touches = (row == 0) | (row == shape[0] - 1) | (start == 0) | (end == shape[1])
    n_touching = np.append(0, np.cumsum(touches))
    return np.diff(n_touching[first_run]) > 0


def plane_means(
    instances: Instances, planes: NDArray[np.uint8], origin_px: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the mean of each of k planes over each of n instances, (n, k).

    Parameters
    ----------
    instances : Instances
        All inside the planes.
    planes : ndarray, (k, h, w), uint8
        Their values.
    origin_px : tuple of int
        Row and column, in the instances' frame, of the planes' first pixel.
    """
    row, col = origin_px
    runs = instances.runs - np.array([row, col, col], np.int32)
    sums = sum_planes(runs, instances.first_run, np.ascontiguousarray(planes))
    return np.asarray(sums / instances.area_px[:, np.newaxis], np.float64)


def paint_instances(instances: Instances, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return instances as a label image.

    Parameters
    ----------
    instances : Instances
        All inside an array of that shape; where two overlap, the later one is seen.
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    ndarray, (rows, cols), int32
        0 is background, label = position among the instances + 1.

    Raises
    ------
    ValueError
        If an instance reaches outside the shape.
    """
    runs = instances.runs
    if len(runs):
        low = int(runs[:, :2].min())
        rows, cols = int(runs[:, 0].max()) + 1, int(runs[:, 2].max())
        if low < 0 or rows > shape[0] or cols > shape[1]:
            raise ValueError(
                f"instances reach from {low} to row {rows}, column {cols}; painting on "
                f"{shape} needs all of them inside: crop or shift them first"
            )
    image = np.zeros(shape, np.int32)
    label = np.arange(1, len(instances) + 1, dtype=np.int32)
    paint_runs(image, runs, np.repeat(label, np.diff(instances.first_run)))
    return image
