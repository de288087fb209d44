"""How far the outlines of matched nuclei lie apart, on label images.

The outline is made of the elements of marching squares, one in every square of four pixel centres
that holds pixels of the nucleus and others: a length of 1 px where the line runs straight, √½ px
where it cuts a corner, √2 px where it cuts two.  An element lies at the middle of its square, and
the distance of two is that of these points, so distances have the pixel's grid.  Outlines, lengths
and the measures made of them are those of Nikolov et al. 2021 (doi:10.2196/26151) and their
published code; outside of an image is background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

_SHARE = 0.95
_ROUNDING = 1e-9
_CORNER = float(np.sqrt(0.5))
_CUTS = np.array([0, _CORNER, 1.0, _CORNER, 0])
"""Length by the number of pixels inside; 2 at opposite corners have twice the corner's."""


@dataclass(frozen=True, slots=True, eq=False)
class OutlineDistances:
    """Outlines of pairs of nuclei, in pixels."""

    hd95_px: NDArray[np.float64]
    """(n,): the distance that 95 % of an outline's length does not exceed, of the two directions
    the larger."""
    distance_px: NDArray[np.float64]
    """(n,): mean distance over the length of both outlines together."""
    within_px: NDArray[np.float64]
    """(n,): length of both outlines that is no further than the tolerance from the other."""
    length_px: NDArray[np.float64]
    """(n,): length of both outlines."""


def outline_distances(
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    pairs: NDArray[np.int64],
    tolerance_px: float,
) -> OutlineDistances:
    """Measure how far the outlines of pairs of nuclei lie apart.

    Parameters
    ----------
    first, second : ndarray, (h, w)
        Label images of the same size with labels from 1.
    pairs : ndarray, (n, 2)
        A label of the first and one of the second image; both are there.
    tolerance_px : float
        For `within_px`.
    """
    # Of distances that are square roots of whole numbers none is so near above a tolerance.
    measured = _measure(
        first, second, pairs, label_boxes(first), label_boxes(second), tolerance_px + _ROUNDING
    )
    return OutlineDistances(*measured.T)


def outline_lengths_px(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the length of the outline of each label from 1 to the highest."""
    boxes = label_boxes(labels)
    return _lengths(labels, boxes)


def label_boxes(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return first row, first column, last row, last column (n, 4) of each label from 1."""
    n = int(labels.max(initial=0))
    return _boxes(labels, n)


@numba.njit(cache=True, nogil=True)
def _boxes(labels: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    height, width = labels.shape
    boxes = np.zeros((n, 4), np.int64)
    boxes[:, 0], boxes[:, 1] = height, width
    boxes[:, 2:] = -1
    for row in range(height):
        for col in range(width):
            k = labels[row, col] - 1
            if k >= 0:
                boxes[k, 0] = min(boxes[k, 0], row)
                boxes[k, 1] = min(boxes[k, 1], col)
                boxes[k, 2] = max(boxes[k, 2], row)
                boxes[k, 3] = max(boxes[k, 3], col)
    return boxes


@numba.njit(cache=True, nogil=True)
def _elements(
    labels: NDArray[np.int32], label: int, box: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where a label's outline is, as pixel corners (n, 2), and how long there."""
    height, width = labels.shape
    most = (box[2] - box[0] + 2) * (box[3] - box[1] + 2)
    place = np.empty((max(most, 0), 2), np.int64)
    length = np.empty(max(most, 0), np.float64)
    n = 0
    for row in range(box[0], box[2] + 2):
        for col in range(box[1], box[3] + 2):
            a = row > 0 and col > 0 and labels[row - 1, col - 1] == label
            b = row > 0 and col < width and labels[row - 1, col] == label
            c = row < height and col > 0 and labels[row, col - 1] == label
            d = row < height and col < width and labels[row, col] == label
            inside = int(a) + int(b) + int(c) + int(d)
            if 0 < inside < 4:
                place[n, 0], place[n, 1] = row, col
                length[n] = 2 * _CORNER if inside == 2 and a == d else _CUTS[inside]
                n += 1
    return place[:n], length[:n]


@numba.njit(cache=True, nogil=True)
def _nearest(place: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance from each place to the nearest of the others."""
    distance = np.empty(len(place), np.float64)
    for i in range(len(place)):
        best = np.int64(2**62)
        for j in range(len(other)):
            down = place[i, 0] - other[j, 0]
            right = place[i, 1] - other[j, 1]
            best = min(best, down * down + right * right)
        distance[i] = np.sqrt(best)
    return distance


@numba.njit(cache=True, nogil=True)
def _percentile(distance: NDArray[np.float64], length: NDArray[np.float64]) -> float:
    """Return the smallest distance that is not exceeded on 95 % of the length."""
    order = np.argsort(distance)
    wanted = _SHARE * length.sum() - _ROUNDING
    so_far = 0.0
    for k in order:
        so_far += length[k]
        if so_far >= wanted:
            return float(distance[k])
    return float(distance[order[-1]])


@numba.njit(cache=True, nogil=True)
def _measure(
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    pairs: NDArray[np.int64],
    first_box: NDArray[np.int64],
    second_box: NDArray[np.int64],
    tolerance_px: float,
) -> NDArray[np.float64]:
    """Return the four measures of `OutlineDistances`, one pair a row."""
    measured = np.zeros((len(pairs), 4), np.float64)
    for k in range(len(pairs)):
        i, j = pairs[k]
        here, here_px = _elements(first, i, first_box[i - 1])
        there, there_px = _elements(second, j, second_box[j - 1])
        forth, back = _nearest(here, there), _nearest(there, here)
        length = here_px.sum() + there_px.sum()
        measured[k, 0] = max(_percentile(forth, here_px), _percentile(back, there_px))
        measured[k, 1] = ((forth * here_px).sum() + (back * there_px).sum()) / length
        measured[k, 2] = here_px[forth <= tolerance_px].sum() + there_px[back <= tolerance_px].sum()
        measured[k, 3] = length
    return measured


@numba.njit(cache=True, nogil=True)
def _lengths(labels: NDArray[np.int32], boxes: NDArray[np.int64]) -> NDArray[np.float64]:
    lengths = np.zeros(len(boxes), np.float64)
    for k in range(len(boxes)):
        lengths[k] = _elements(labels, k + 1, boxes[k])[1].sum()
    return lengths
