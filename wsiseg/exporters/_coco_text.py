"""COCO annotations as ASCII, written from ragged arrays without an object per nucleus."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.exporters._decimal_text import SLACK_BYTES, put_coordinate, put_decimal, put_value
from wsiseg.exporters.wkb import Polygons, copy_bytes

_FIXED_TEXTS = (
    b',\n{"id":',
    b',"image_id":1,"iscrowd":0,"category_id":',
    b',"score":',
    b',"area":',
    b',"bbox":[',
    b'],"segmentation":[[',
    b"]]}",
)
_ID, _CATEGORY, _SCORE, _AREA, _BBOX, _SEGMENTATION, _TAIL = range(len(_FIXED_TEXTS))
_TEXT = np.frombuffer(b"".join(_FIXED_TEXTS), np.uint8)
_FIRST = np.cumsum([0, *map(len, _FIXED_TEXTS)])
_NUMBER_BYTES = 22
_COMMA = ord(",")
_SCORE_DECIMALS = 4
_NO_SCORE = np.iinfo(np.int64).min


def annotations_text(
    cell_id: NDArray[np.int64],
    category_id: NDArray[np.int64],
    score: NDArray[np.int64],
    polygons: Polygons,
    xy_centi_px: NDArray[np.int64],
) -> memoryview:
    """Return the annotations as ASCII, each behind a comma and a line break.

    Parameters
    ----------
    cell_id, category_id
        (n,) int64.
    score
        (n,) int64: probability in 1/10,000; the least int64 where there is none.
    polygons
        n polygons.
    xy_centi_px
        Their vertices in 0.01 px.
    """
    n, rings = len(polygons), len(polygons.first_vertex)
    # Between the outline and each hole one vertex is written again.
    numbers = 2 * (len(xy_centi_px) + rings) + 8 * n
    most = n * len(_TEXT) + numbers * (_NUMBER_BYTES + 1) + SLACK_BYTES
    out = np.empty(most, np.uint8)
    n_bytes = _write(
        out, cell_id, category_id, score, polygons.first_ring, polygons.first_vertex, xy_centi_px
    )
    return out.data[:n_bytes]


@numba.njit(cache=True, nogil=True)
def _put_text(out: NDArray[np.uint8], at: int, text: int) -> int:
    n_bytes = int(_FIRST[text + 1] - _FIRST[text])
    copy_bytes(out, at, _TEXT, int(_FIRST[text]), n_bytes)
    return at + n_bytes


@numba.njit(cache=True, nogil=True)
def _twice_area(xy: NDArray[np.int64], start: int, stop: int) -> int:
    """Return twice the signed area of a closed ring, in 0.0001 px²."""
    total = 0
    for v in range(start, stop - 1):
        # From the first vertex, so that large coordinates cannot overflow.
        ax, ay = xy[v, 0] - xy[start, 0], xy[v, 1] - xy[start, 1]
        bx, by = xy[v + 1, 0] - xy[start, 0], xy[v + 1, 1] - xy[start, 1]
        total += ax * by - bx * ay
    return total


@numba.njit(cache=True, nogil=True)
def _put_vertex(out: NDArray[np.uint8], at: int, xy: NDArray[np.int64], v: int) -> int:
    at = put_coordinate(out, at, xy[v, 0])
    out[at] = _COMMA
    at = put_coordinate(out, at + 1, xy[v, 1])
    out[at] = _COMMA
    return at + 1


@numba.njit(cache=True, nogil=True)
def _put_outline(
    out: NDArray[np.uint8],
    at: int,
    first_vertex: NDArray[np.int64],
    xy: NDArray[np.int64],
    ring: int,
    last: int,
) -> int:
    """Write rings as one: from the outline's first vertex to each hole and back."""
    start, stop = first_vertex[ring], first_vertex[ring + 1]
    sign = _twice_area(xy, start, stop) > 0
    # Without a hole the ring closes by itself.
    for v in range(start, stop - 1 if last == ring + 1 else stop):
        at = _put_vertex(out, at, xy, v)
    for hole in range(ring + 1, last):
        first, end = first_vertex[hole], first_vertex[hole + 1]
        forward = (_twice_area(xy, first, end) > 0) != sign
        for k in range(end - first):
            at = _put_vertex(out, at, xy, first + k if forward else end - 1 - k)
        if hole < last - 1:
            at = _put_vertex(out, at, xy, start)
    return at - 1


@numba.njit(cache=True, nogil=True)
def _put_box(out: NDArray[np.uint8], at: int, xy: NDArray[np.int64], start: int, stop: int) -> int:
    low_x = high_x = xy[start, 0]
    low_y = high_y = xy[start, 1]
    for v in range(start, stop):
        low_x, high_x = min(low_x, xy[v, 0]), max(high_x, xy[v, 0])
        low_y, high_y = min(low_y, xy[v, 1]), max(high_y, xy[v, 1])
    at = put_coordinate(out, at, low_x)
    out[at] = _COMMA
    at = put_coordinate(out, at + 1, low_y)
    out[at] = _COMMA
    at = put_coordinate(out, at + 1, high_x - low_x)
    out[at] = _COMMA
    return put_coordinate(out, at + 1, high_y - low_y)


@numba.njit(cache=True, nogil=True)
def _write(
    out: NDArray[np.uint8],
    cell_id: NDArray[np.int64],
    category_id: NDArray[np.int64],
    score: NDArray[np.int64],
    first_ring: NDArray[np.int64],
    first_vertex: NDArray[np.int64],
    xy: NDArray[np.int64],
) -> int:
    at = 0
    for i in range(len(cell_id)):
        ring, last = first_ring[i], first_ring[i + 1]
        at = put_decimal(out, _put_text(out, at, _ID), cell_id[i], 0)
        at = put_decimal(out, _put_text(out, at, _CATEGORY), category_id[i], 0)
        if score[i] != _NO_SCORE:
            at = put_value(out, _put_text(out, at, _SCORE), score[i], _SCORE_DECIMALS)
        twice = abs(_twice_area(xy, first_vertex[ring], first_vertex[ring + 1]))
        for hole in range(ring + 1, last):
            twice -= abs(_twice_area(xy, first_vertex[hole], first_vertex[hole + 1]))
        at = put_value(out, _put_text(out, at, _AREA), twice // 2, 4)
        at = _put_text(out, at, _BBOX)
        at = _put_box(out, at, xy, first_vertex[ring], first_vertex[ring + 1])
        at = _put_text(out, at, _SEGMENTATION)
        at = _put_outline(out, at, first_vertex, xy, ring, last)
        at = _put_text(out, at, _TAIL)
    return at
