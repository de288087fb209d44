"""Outlines of pixel masks: from instances, or from a plain mask, to closed rings.

An outline runs through the middles of pixel edges (marching squares at 1/2 on the grid of
pixel centres; Lorensen & Cline, doi:10.1145/37401.37422).  It separates exactly the pixel
centres inside from those outside, so rasterising it at pixel centres gives the mask back.
Where two pixels of a mask meet only at a corner, the outline passes between them: the mask is
4-connected, what is around it 8-connected.  Every pixel edge has its own vertex, visited
once, so no ring touches itself or another.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.records import Instances, Outlines

_INSIDE = 1
_SEEN = 2

# Sides of a pixel in walking order: with the pixel on the right hand, its top is walked to the
# right, its right side down, its bottom to the left, its left side up.
_TOP = 0
_BOTTOM = 2
_DX = (1, 0, -1, 0)
_DY = (0, 1, 0, -1)


def trace_outlines(instances: Instances) -> Outlines:
    """Return the outline of each instance.

    In pixel-corner coordinates pixel (row i, column j) has its centre at (j + 0.5, i + 0.5);
    a vertex lies in the middle of the edge between a pixel inside and its 4-neighbour outside,
    for instance at (j + 1, i + 0.5).  Only corners are kept, no vertex on a straight line.

    The outside ring comes first and starts above the instance's first pixel in raster order.
    Holes follow in raster order of their first pixel, and start above it.  Outside rings are
    counter-clockwise and holes clockwise in the sense of RFC 7946, section 3.1.6, for the
    numbers as they stand: the shoelace sum of an outside ring is positive, that of a hole
    negative.  That is what parsers check; on a screen, where y points down, the outside ring
    runs clockwise.

    The area of an outline without holes is the number of its pixels less one half (each hole
    adds one half): one pixel gives a diamond of area 1/2.

    Parameters
    ----------
    instances : Instances
        n masks, each one 4-connected component with at least one pixel.

    Returns
    -------
    Outlines
        n polygons in half model pixels, in the instances' frame and order.

    Raises
    ------
    ValueError
        If an instance has no pixels, or more than one 4-connected component.
    """
    return _outlines(instances.first_run, instances.runs)


def trace_mask(mask: NDArray[np.bool_]) -> Outlines:
    """Return the outline of each 4-connected component of a mask.

    Parameters
    ----------
    mask : NDArray[np.bool_]
        (h, w): True inside, for instance where there is tissue.

    Returns
    -------
    Outlines
        One polygon with its holes a component, in half pixels of the mask, in raster order
        of the components' first pixels; built as by `trace_outlines`.

    Raises
    ------
    ValueError
        If the mask is not a two-dimensional boolean array.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(
            f"the mask is {mask.dtype} of shape {mask.shape}; a two-dimensional boolean array "
            "is needed (compare a label image with 0 first)"
        )
    runs = _runs_of_mask(mask)
    component = _components(runs)
    order = np.argsort(component, kind="stable")
    _, sizes = np.unique(component, return_counts=True)
    first_run = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=first_run[1:])
    return _outlines(first_run, runs[order])


def _outlines(first_run: NDArray[np.int64], runs: NDArray[np.int32]) -> Outlines:
    """Trace ragged runs, one polygon a group."""
    empty = np.flatnonzero(np.diff(first_run) < 1)
    if len(empty):
        raise ValueError(
            f"instance {empty[0]} has no pixels, so it has no outline; "
            "drop empty instances before tracing"
        )
    first_ring, first_vertex, vertices, broken = _trace(
        np.ascontiguousarray(first_run), np.ascontiguousarray(runs)
    )
    if broken >= 0:
        raise ValueError(
            f"instance {broken} is in several pieces; one 4-connected component is needed: "
            "split it, or keep its largest piece"
        )
    return Outlines(first_ring, first_vertex, vertices)


def _runs_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the mask's maximal runs (row, first column, column after the last) in raster order."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    step = np.diff(padded, axis=1)
    rows, starts = np.nonzero(step == 1)
    _, ends = np.nonzero(step == -1)
    return np.stack([rows, starts, ends], axis=1).astype(np.int32)


@numba.njit(cache=True, nogil=True)
def _root(parent: NDArray[np.int64], run: int) -> int:
    """Return the first run of the component, halving the path on the way."""
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@numba.njit(cache=True, nogil=True)
def _components(runs: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for each run (in raster order) the first run of its 4-connected component."""
    parent = np.arange(len(runs))
    above = 0
    for run in range(len(runs)):
        row, start, end = runs[run, 0], runs[run, 1], runs[run, 2]
        while runs[above, 0] < row - 1 or (runs[above, 0] == row - 1 and runs[above, 2] <= start):
            above += 1
        other = above
        while runs[other, 0] == row - 1 and runs[other, 1] < end:
            a, b = _root(parent, run), _root(parent, other)
            parent[max(a, b)] = min(a, b)
            other += 1
    for run in range(len(runs)):
        parent[run] = _root(parent, run)
    return parent


@numba.njit(cache=True, nogil=True)
def _walk(
    bitmap: NDArray[np.uint8],
    stride: int,
    pos: int,
    side: int,
    vertices: NDArray[np.int32],
    n_vertices: int,
    x: int,
    y: int,
) -> tuple[int, int, int]:
    """Follow one ring, from that side of the pixel at `pos` until it is back.

    `x`, `y` is the middle of the side in half px.  Marks the pixels whose bottom it passed
    as seen.  Returns the number of vertices after it, its quarter turns to the right less
    those to the left (4: an outside; -4: a hole), and how many bottoms it passed.
    """
    steps = (1, stride, -1, -stride)
    first_pos, first_side, first_vertex = pos, side, n_vertices
    heading = -1
    turns = n_bottoms = 0
    while heading < 0 or pos != first_pos or side != first_side:
        if side == _BOTTOM:
            bitmap[pos] |= _SEEN
            n_bottoms += 1
        ahead = pos + steps[side]
        across = ahead + steps[(side + 3) & 3]
        turn = 1  # round the pixel's own corner, also where another pixel meets it there
        if bitmap[ahead] != 0 and bitmap[across] == 0:
            turn, pos = 0, ahead
        elif bitmap[ahead] != 0:
            turn, pos = -1, across
        if (2 * side + turn) & 7 != heading:
            heading = (2 * side + turn) & 7
            vertices[n_vertices, 0] = x
            vertices[n_vertices, 1] = y
            n_vertices += 1
        next_side = (side + turn) & 3
        x += _DX[side] + _DX[next_side]
        y += _DY[side] + _DY[next_side]
        side = next_side
        turns += turn
    vertices[n_vertices] = vertices[first_vertex]
    return n_vertices + 1, turns, n_bottoms


@numba.njit(cache=True, nogil=True)
def _columns(runs: NDArray[np.int32]) -> tuple[int, int]:
    """Return a group's first column and the one after its last."""
    first, end = int(runs[0, 1]), int(runs[0, 2])
    for run in range(1, len(runs)):
        first = min(first, int(runs[run, 1]))
        end = max(end, int(runs[run, 2]))
    return first, end


@numba.njit(cache=True, nogil=True)
def _largest_bitmap(first_run: NDArray[np.int64], runs: NDArray[np.int32]) -> tuple[int, int]:
    """Return pixels of the largest bounding box with a border of 1, and most runs of a group."""
    most_px = 0
    most_runs = 0
    for i in range(len(first_run) - 1):
        mine = runs[first_run[i] : first_run[i + 1]]
        first, end = _columns(mine)
        height = int(mine[-1, 0]) - int(mine[0, 0]) + 3
        most_px = max(most_px, (end - first + 2) * height)
        most_runs = max(most_runs, len(mine))
    return most_px, most_runs


@numba.njit(cache=True, nogil=True)
def _paint(
    bitmap: NDArray[np.uint8], stride: int, origin: int, runs: NDArray[np.int32], value: int
) -> None:
    """Set a group's pixels; pixel (i, j) is at i · stride + j - origin."""
    for run in range(len(runs)):
        base = int(runs[run, 0]) * stride - origin
        # From 0 within a slice the compiler writes many at once.
        line = bitmap[base + runs[run, 1] : base + runs[run, 2]]
        for k in range(len(line)):
            line[k] = value


@numba.njit(cache=True, nogil=True)
def _count_bottoms(runs: NDArray[np.int32]) -> int:
    """Return how many pixels of a group have none of its own below them."""
    n = 0
    above = 0
    for run in range(len(runs)):
        row, start, end = runs[run, 0], runs[run, 1], runs[run, 2]
        n += end - start
        while runs[above, 0] < row - 1 or (runs[above, 0] == row - 1 and runs[above, 2] <= start):
            above += 1
        other = above
        while runs[other, 0] == row - 1 and runs[other, 1] < end:
            n -= min(runs[other, 2], end) - max(runs[other, 1], start)
            other += 1
    return n


@numba.njit(cache=True, nogil=True)
def _trace_group(
    bitmap: NDArray[np.uint8],
    stride: int,
    origin: int,
    runs: NDArray[np.int32],
    vertices: NDArray[np.int32],
    ring_ends: NDArray[np.int64],
    n_vertices: int,
) -> int:
    """Trace a painted group's rings, outside first; return their number, or -1 if in pieces."""
    n_rings = 0
    unseen = _count_bottoms(runs)
    for run in range(len(runs)):
        row = int(runs[run, 0])
        for col in range(int(runs[run, 1]), int(runs[run, 2])):
            pos = row * stride + col - origin
            # The outside starts above the first pixel.  No hole starts below that pixel: it would
            # meet the outside at the pixel's lower left corner, and be no hole.
            if n_rings == 0:
                side, y = _TOP, 2 * row
            elif bitmap[pos] == _INSIDE and bitmap[pos + stride] == 0:
                side, y = _BOTTOM, 2 * row + 2
            else:
                continue
            n_vertices, turns, n_bottoms = _walk(
                bitmap, stride, pos, side, vertices, n_vertices, 2 * col + 1, y
            )
            if n_rings > 0 and turns > 0:
                return -1
            ring_ends[n_rings] = n_vertices
            n_rings += 1
            unseen -= n_bottoms
            if unseen == 0:  # as a rule after the outside: then there is no hole to look for
                return n_rings
    return n_rings


@numba.njit(cache=True, nogil=True)
def _trace(
    first_run: NDArray[np.int64], runs: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], int]:
    """Return the arrays of `Outlines`, and the first group in several pieces (-1: none)."""
    n = len(first_run) - 1
    most_px, most_runs = _largest_bitmap(first_run, runs)
    bitmap = np.zeros(most_px, np.uint8)
    first_ring = np.zeros(n + 1, np.int64)
    # A ring has the left end of a run, or several.
    first_vertex = np.zeros(len(runs) + 1, np.int64)
    vertices = np.empty((4 * len(runs) + 11 * most_runs, 2), np.int32)
    n_rings = 0
    for i in range(n):
        mine = runs[first_run[i] : first_run[i + 1]]
        n_vertices = int(first_vertex[n_rings])
        # For each of its runs a group has at most 2 corners at ends, 4 on tops, 4 on bottoms,
        # and 1 that closes a ring.
        if n_vertices + 11 * len(mine) > len(vertices):
            larger = np.empty((2 * len(vertices), 2), np.int32)
            larger[: len(vertices)] = vertices
            vertices = larger
        first, end = _columns(mine)
        stride = end - first + 2
        origin = (int(mine[0, 0]) - 1) * stride + first - 1
        _paint(bitmap, stride, origin, mine, _INSIDE)
        ends = first_vertex[n_rings + 1 :]
        more = _trace_group(bitmap, stride, origin, mine, vertices, ends, n_vertices)
        _paint(bitmap, stride, origin, mine, 0)
        if more < 0:
            return first_ring, first_vertex, vertices, i
        n_rings += more
        first_ring[i + 1] = n_rings
    n_vertices = int(first_vertex[n_rings])
    return first_ring, first_vertex[: n_rings + 1].copy(), vertices[:n_vertices].copy(), -1
