"""Geometries against the pixels of a coarse frame: touched, covered, and exact common areas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsiseg.geometry import Frame

_EPS_PX = 1e-6


class _Rings(NamedTuple):
    xy_px: NDArray[np.float64]
    """(n, 2): vertices, level-0 px."""
    first: NDArray[np.int64]
    """(m + 1,): first vertex of each ring."""
    hole: NDArray[np.bool_]
    """(m,): whether a ring is a hole."""


class _Window(NamedTuple):
    """A block of a frame's pixels."""

    row: int
    col: int
    height: int
    width: int


def touched(
    geometry: BaseGeometry | Sequence[BaseGeometry], frame: Frame, grow_px: float
) -> NDArray[np.bool_]:
    """Return which pixels' squares, grown on every side, touch a geometry.

    Parameters
    ----------
    geometry : polygon, multipolygon, or a sequence of them
        Valid; level-0 px.
    frame : Frame
        Frame of the mask.
    grow_px : float
        Added to every side of a pixel's square, level-0 px; not negative.

    Returns
    -------
    ndarray, (frame.height_px, frame.width_px), bool
        Never False for a square that touches; True where one misses by less than 2e-6 px.
    """
    inside = np.zeros((frame.height_px, frame.width_px), np.bool_)
    reach = grow_px + _EPS_PX
    for one in _parts(geometry):
        window = _window(one, frame, reach)
        if window.height and window.width:
            rings = _rings(one)
            view = inside[_slices(window)]
            view |= _crossed(rings, frame, reach, window)
            view |= _centres_inside(one, rings, frame, window)
    return inside


def covered(geometry: BaseGeometry | Sequence[BaseGeometry], frame: Frame) -> NDArray[np.bool_]:
    """Return which pixels' centres are strictly inside a geometry (`shapely.contains_xy`).

    Parameters
    ----------
    geometry : polygon, multipolygon, or a sequence of them
        Valid; level-0 px.
    frame : Frame
        Frame of the mask.

    Returns
    -------
    ndarray, (frame.height_px, frame.width_px), bool
    """
    inside = np.zeros((frame.height_px, frame.width_px), np.bool_)
    for one in _parts(geometry):
        window = _window(one, frame, 0.0)
        if window.height and window.width:
            inside[_slices(window)] |= _centres_inside(one, _rings(one), frame, window)
    return inside


class Sides(NamedTuple):
    """What is known of a geometry by squares of a grid: enough to place most points."""

    row: int
    """First row of the grid's rows that are stored."""
    col: int
    """First column."""
    code: NDArray[np.uint8]
    """(h, w): `ALL_OUTSIDE`, `ALL_INSIDE`, or `MIXED` where the outline passes."""


ALL_OUTSIDE, ALL_INSIDE, MIXED = 0, 1, 2


def sides(geometry: BaseGeometry, scale: float) -> Sides:
    """Return which squares of `scale` level-0 px, on a grid from (0, 0), are all inside.

    Squares at negative positions are left out.
    """
    _, _, x1, y1 = geometry.bounds
    frame = Frame.of_slide(max(1, int(x1) + 2), max(1, int(y1) + 2), scale)
    window = _window(geometry, frame, _EPS_PX)
    if not (window.height and window.width):
        return Sides(0, 0, np.empty((0, 0), np.uint8))
    rings = _rings(geometry)
    code = _centres_inside(geometry, rings, frame, window).astype(np.uint8)
    code[_crossed(rings, frame, _EPS_PX, window)] = MIXED
    return Sides(window.row, window.col, code)


def area_px2(
    geometry: BaseGeometry, mask: NDArray[np.bool_], frame: Frame, slide_px: tuple[int, int]
) -> float:
    """Return the area common to a geometry, the squares of a mask's pixels, and the slide.

    By Green's theorem it is the integral along the rings of F dy, where F(x, y) is the length
    of row y of the mask left of x; F is linear within a pixel, so the sum is exact but for
    rounding.

    Parameters
    ----------
    geometry : polygon or multipolygon
        Valid; level-0 px.
    mask : ndarray, (frame.height_px, frame.width_px), bool
        For instance tissue.
    frame : Frame
        Frame of the mask.
    slide_px : (int, int)
        Width and height of the slide, level-0 px.

    Returns
    -------
    float
        Level-0 px².

    Raises
    ------
    ValueError
        If the mask is not of the frame's shape.
    """
    if mask.shape != (frame.height_px, frame.width_px):
        raise ValueError(
            f"mask of shape {mask.shape} for a frame of {frame.height_px} × {frame.width_px} px"
        )
    window = _window(geometry, frame, 0.0)
    if not (window.height and window.width):
        return 0.0
    rings = _rings(geometry)
    block = np.ascontiguousarray(mask[_slices(window)])
    left = np.zeros((window.height, window.width + 1), np.int32)
    np.cumsum(block, axis=1, dtype=np.int32, out=left[:, 1:])
    width_px, height_px = (float(side) for side in slide_px)
    sums = _integrals(rings.xy_px, rings.first, frame.scale, width_px, height_px, window, left)
    areas = np.abs(sums)
    return float(areas[~rings.hole].sum() - areas[rings.hole].sum())


def _parts(geometry: BaseGeometry | Sequence[BaseGeometry]) -> Sequence[BaseGeometry]:
    return [geometry] if isinstance(geometry, BaseGeometry) else geometry


def _rings(geometry: BaseGeometry) -> _Rings:
    polygons = shapely.get_parts(geometry)
    rings, polygon_of = shapely.get_rings(polygons, return_index=True)
    xy_px, ring_of = shapely.get_coordinates(rings, return_index=True)
    first = np.searchsorted(ring_of, np.arange(len(rings) + 1)).astype(np.int64)
    hole = np.zeros(len(rings), np.bool_)
    hole[1:] = polygon_of[1:] == polygon_of[:-1]
    return _Rings(np.ascontiguousarray(xy_px), first, hole)


def _window(geometry: BaseGeometry, frame: Frame, grow_px: float) -> _Window:
    """Return the pixels whose grown squares reach the geometry's bounding box."""
    if geometry.is_empty:
        return _Window(0, 0, 0, 0)
    x0, y0, x1, y1 = geometry.bounds
    low = np.floor((np.array([y0, x0]) - grow_px) / frame.scale) - 1
    end = np.floor((np.array([y1, x1]) + grow_px) / frame.scale) + 2
    size = np.array([frame.height_px, frame.width_px])
    row, col = np.clip(low, 0, size).astype(int).tolist()
    row_end, col_end = np.clip(end, 0, size).astype(int).tolist()
    return _Window(row, col, max(0, row_end - row), max(0, col_end - col))


def _slices(window: _Window) -> tuple[slice, slice]:
    rows = slice(window.row, window.row + window.height)
    return rows, slice(window.col, window.col + window.width)


def _crossed(rings: _Rings, frame: Frame, reach_px: float, window: _Window) -> NDArray[np.bool_]:
    """Return which squares, grown, an edge passes through or touches."""
    steps = np.zeros((window.height, window.width + 1), np.int32)
    _step_edges(rings.xy_px, rings.first, frame.scale, reach_px, window, steps)
    crossed: NDArray[np.bool_] = np.cumsum(steps, axis=1, dtype=np.int32)[:, :-1] > 0
    return crossed


def _centres_inside(
    geometry: BaseGeometry, rings: _Rings, frame: Frame, window: _Window
) -> NDArray[np.bool_]:
    """Return which pixel centres are strictly inside.

    Crossings are counted along each row; where a centre is so near to the outline that
    rounding could matter, the exact predicate decides.
    """
    flips = np.zeros((window.height, window.width + 1), np.uint8)
    doubt = np.zeros((window.height, window.width), np.bool_)
    _flip_edges(rings.xy_px, rings.first, frame.scale, window, flips, doubt)
    inside = np.bitwise_xor.accumulate(flips, axis=1)[:, :-1].astype(np.bool_)
    rows, cols = np.nonzero(doubt)
    if len(rows):
        shapely.prepare(geometry)
        x_px = (cols + window.col + 0.5) * frame.scale
        y_px = (rows + window.row + 0.5) * frame.scale
        inside[rows, cols] = shapely.contains_xy(geometry, x_px, y_px)
    return inside


@numba.njit(cache=True, nogil=True)
def _clamp(value: float, low: int, high: int) -> int:
    """Return a whole value within limits; far-away values would not fit an integer."""
    return int(min(max(value, float(low)), float(high)))


@numba.njit(cache=True, nogil=True)
def _step_edges(
    xy: NDArray[np.float64],
    first: NDArray[np.int64],
    scale: float,
    reach: float,
    window: _Window,
    steps: NDArray[np.int32],
) -> None:
    """Add 1 where a run of pixels whose grown squares an edge crosses starts, -1 after it."""
    for ring in range(len(first) - 1):
        for k in range(first[ring], first[ring + 1] - 1):
            xa, ya, xb, yb = xy[k, 0], xy[k, 1], xy[k + 1, 0], xy[k + 1, 1]
            if ya > yb:
                xa, ya, xb, yb = xb, yb, xa, ya
            bottom = window.row + window.height
            row0 = _clamp(np.ceil((ya - reach) / scale) - 1, window.row, bottom)
            row1 = _clamp(np.floor((yb + reach) / scale) + 1, window.row, bottom)
            for row in range(row0, row1):
                u, v = xa, xb
                if yb > ya:
                    # The part of the edge in this row's band; a band has a top and a bottom.
                    slope = (xb - xa) / (yb - ya)
                    top = min(max(row * scale - reach, ya), yb)
                    low = max(min((row + 1) * scale + reach, yb), ya)
                    u = xa + (top - ya) * slope
                    v = xa + (low - ya) * slope
                right = window.col + window.width
                col0 = _clamp(np.ceil((min(u, v) - reach) / scale) - 1, window.col, right)
                col1 = _clamp(np.floor((max(u, v) + reach) / scale) + 1, window.col, right)
                if col0 < col1:
                    steps[row - window.row, col0 - window.col] += 1
                    steps[row - window.row, col1 - window.col] -= 1


@numba.njit(cache=True, nogil=True)
def _doubt_span(
    x0: float, x1: float, row: int, scale: float, window: _Window, doubt: NDArray[np.bool_]
) -> None:
    """Mark the pixels of a row whose centres lie within [x0, x1], or nearly."""
    right = window.col + window.width
    col0 = _clamp(np.ceil((x0 - _EPS_PX) / scale - 0.5), window.col, right)
    col1 = _clamp(np.floor((x1 + _EPS_PX) / scale - 0.5) + 1, window.col, right)
    for col in range(col0, col1):
        doubt[row - window.row, col - window.col] = True


@numba.njit(cache=True, nogil=True)
def _flip_edges(
    xy: NDArray[np.float64],
    first: NDArray[np.int64],
    scale: float,
    window: _Window,
    flips: NDArray[np.uint8],
    doubt: NDArray[np.bool_],
) -> None:
    """Flip the parity of every row from the first centre right of each edge on."""
    bottom, right = window.row + window.height, window.col + window.width
    for ring in range(len(first) - 1):
        for k in range(first[ring], first[ring + 1] - 1):
            xa, ya, xb, yb = xy[k, 0], xy[k, 1], xy[k + 1, 0], xy[k + 1, 1]
            if ya > yb:
                xa, ya, xb, yb = xb, yb, xa, ya
            row0 = _clamp(np.floor(ya / scale - 0.5), window.row, bottom)
            row1 = _clamp(np.ceil(yb / scale - 0.5) + 1, window.row, bottom)
            for row in range(row0, row1):
                y = (row + 0.5) * scale
                # Of a vertex on the row, only the edge below it counts.
                if ya <= y and y < yb:
                    x = xa + (y - ya) * ((xb - xa) / (yb - ya))
                    col = _clamp(np.floor(x / scale - 0.5) + 1, window.col, right)
                    flips[row - window.row, col - window.col] ^= 1
                    _doubt_span(x, x, row, scale, window, doubt)
                if yb == y:
                    # The outline meets the row here without crossing it, or runs along it.
                    start = min(xa, xb) if ya == yb else xb
                    end = max(xa, xb) if ya == yb else xb
                    _doubt_span(start, end, row, scale, window, doubt)


@numba.njit(cache=True, nogil=True)
def _row_integral(
    xa: float,
    xb: float,
    scale: float,
    width_px: float,
    col0: int,
    left: NDArray[np.int32],
) -> float:
    """Return the mean of F along a straight line from xa to xb within one row.

    `left[j]` is how many pixels of the row are set between `col0` and `col0 + j`.
    """
    n = len(left) - 1
    low, high = min(xa, xb), max(xa, xb)
    start = col0 * scale
    end = min((col0 + n) * scale, width_px)
    total = 0.0
    if high > end:
        part = high - max(low, end)
        total += part * _length_left(end, scale, col0, left)
    if low == high:
        return _length_left(min(max(low, start), end), scale, col0, left)
    u, stop = max(low, start), min(high, end)
    while u < stop:
        edge = (np.floor(u / scale) + 1.0) * scale
        # A position just below an edge may round to it.
        if edge <= u:
            edge += scale
        v = min(edge, stop)
        total += (v - u) * _length_left((u + v) / 2, scale, col0, left)
        u = v
    return total / (high - low)


@numba.njit(cache=True, nogil=True)
def _length_left(x: float, scale: float, col0: int, left: NDArray[np.int32]) -> float:
    n = len(left) - 1
    col = min(max(int(np.floor(x / scale)) - col0, 0), n - 1)
    within = x - (col0 + col) * scale
    length: float = left[col] * scale + (left[col + 1] - left[col]) * within
    return length


@numba.njit(cache=True, nogil=True)
def _integrals(
    xy: NDArray[np.float64],
    first: NDArray[np.int64],
    scale: float,
    width_px: float,
    height_px: float,
    window: _Window,
    left: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Return each ring's integral of F dy within the window and the slide."""
    sums = np.zeros(len(first) - 1)
    top = window.row * scale
    bottom = min((window.row + window.height) * scale, height_px)
    for ring in range(len(first) - 1):
        for k in range(first[ring], first[ring + 1] - 1):
            xa, ya, xb, yb = xy[k, 0], xy[k, 1], xy[k + 1, 0], xy[k + 1, 1]
            sign = 1.0
            if ya > yb:
                xa, ya, xb, yb, sign = xb, yb, xa, ya, -1.0
            low, high = max(ya, top), min(yb, bottom)
            if low >= high:
                continue
            slope = (xb - xa) / (yb - ya)
            row0 = _clamp(np.floor(low / scale), window.row, window.row + window.height - 1)
            row1 = _clamp(np.floor(high / scale), window.row, window.row + window.height - 1)
            for row in range(row0, row1 + 1):
                y0 = low if row == row0 else row * scale
                y1 = high if row == row1 else (row + 1) * scale
                u, v = xa + (y0 - ya) * slope, xa + (y1 - ya) * slope
                mean = _row_integral(u, v, scale, width_px, window.col, left[row - window.row])
                sums[ring] += sign * mean * (y1 - y0)
    return sums
