"""How far the outlines of matched nuclei lie apart, on label images.

The outline is made of the elements of marching squares, one in every square of four pixel centres
that holds pixels of the nucleus and others: a length of 1 px where the line runs straight, √½ px
where it cuts a corner, √2 px where it cuts two.  An element lies at the middle of its square, and
the distance of two is that of these points, so distances have the pixel's grid.  Outlines, lengths
and the measures made of them are those of Nikolov et al. 2021 (doi:10.2196/26151) and their
published code; outside of an image is background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    all_within_px: float
    """Sum of `within_px`, rounded once: equal outlines have exactly their `total_length_px`."""


@dataclass(frozen=True, slots=True, eq=False)
class OutlineElements:
    """The outlines of labels 1 … n, label after label."""

    first: NDArray[np.int64]
    """(n + 1,): where each label's elements begin."""
    place: NDArray[np.int64]
    """(m, 2): row and column of the corner of pixels at which an element lies."""
    length_px: NDArray[np.float64]
    """(m,)."""


def outline_elements(labels: NDArray[np.int32]) -> OutlineElements:
    """Return the outline of each label from 1 to the highest, all of which are there."""
    return OutlineElements(*_elements(labels, label_boxes(labels)))


def outline_distances(
    first: OutlineElements, second: OutlineElements, pairs: NDArray[np.int64], tolerance_px: float
) -> OutlineDistances:
    """Measure how far the outlines of pairs of nuclei lie apart.

    Parameters
    ----------
    first, second : OutlineElements
        Of two label images of the same size.
    pairs : ndarray, (n, 2)
        A label of the first and one of the second image.
    tolerance_px : float
        For `within_px`.
    """
    forth = _Directed.of(first, second, pairs[:, 0] - 1, pairs[:, 1] - 1)
    back = _Directed.of(second, first, pairs[:, 1] - 1, pairs[:, 0] - 1)
    length_px = forth.total(1.0) + back.total(1.0)
    away = forth.total(forth.distance) + back.total(back.distance)
    # Of distances that are square roots of whole numbers none is so near above a tolerance.
    near = [each.distance <= tolerance_px + _ROUNDING for each in (forth, back)]
    return OutlineDistances(
        hd95_px=np.maximum(forth.percentile(), back.percentile()),
        distance_px=away / length_px,
        within_px=forth.total(near[0]) + back.total(near[1]),
        length_px=length_px,
        all_within_px=math.fsum(
            np.concatenate([forth.length[near[0]], back.length[near[1]]]).tolist()
        ),
    )


def total_length_px(outlines: Sequence[OutlineElements]) -> float:
    """Return the length of all outlines, rounded once, so that their order is of no matter."""
    return math.fsum(np.concatenate([each.length_px for each in outlines]).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _Directed:
    """From one outline's elements to the other outline, pair after pair."""

    pair: NDArray[np.int64]
    """(m,): whose element it is."""
    distance: NDArray[np.float64]
    length: NDArray[np.float64]
    n: int
    """Pairs."""

    @staticmethod
    def of(
        here: OutlineElements,
        there: OutlineElements,
        from_: NDArray[np.int64],
        to: NDArray[np.int64],
    ) -> _Directed:
        """Measure from each element of some labels to the nearest of their partners."""
        count = here.first[from_ + 1] - here.first[from_]
        distance = _nearest(here.place, here.first, there.place, there.first, from_, to)
        pair = np.repeat(np.arange(len(from_)), count)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        return _Directed(
            pair, distance, here.length_px[here.first[from_][pair] + within], len(from_)
        )

    def total(self, value: NDArray[np.float64] | NDArray[np.bool_] | float) -> NDArray[np.float64]:
        """Sum length times a value over each pair's elements."""
        weights = self.length * value
        return np.bincount(self.pair, weights=weights, minlength=self.n).astype(np.float64)

    def percentile(self) -> NDArray[np.float64]:
        """Return each pair's smallest distance that is not exceeded on 95 % of the length."""
        order = np.lexsort((self.distance, self.pair))
        total = self.total(1.0)
        before = np.cumsum(total) - total
        so_far = np.cumsum(self.length[order]) - before[self.pair]
        enough = np.flatnonzero(so_far >= _SHARE * total[self.pair] - _ROUNDING)
        _, first = np.unique(self.pair[enough], return_index=True)
        return self.distance[order[enough[first]]]


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
    labels: NDArray[np.int32], boxes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the fields of `OutlineElements`."""
    height, width = labels.shape
    most = 0
    for box in boxes:
        most += (box[2] - box[0] + 2) * (box[3] - box[1] + 2)
    first = np.zeros(len(boxes) + 1, np.int64)
    place = np.empty((most, 2), np.int64)
    length = np.empty(most, np.float64)
    n = 0
    for k in range(len(boxes)):
        label, box = k + 1, boxes[k]
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
        first[k + 1] = n
    return first, place[:n].copy(), length[:n].copy()


@numba.njit(cache=True, nogil=True)
def _nearest(
    place: NDArray[np.int64],
    first: NDArray[np.int64],
    other: NDArray[np.int64],
    other_first: NDArray[np.int64],
    from_: NDArray[np.int64],
    to: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the distance from each element of `from_` to the nearest of its partner in `to`."""
    total = 0
    for k in from_:
        total += first[k + 1] - first[k]
    distance = np.empty(total, np.float64)
    n = 0
    for p in range(len(from_)):
        for i in range(first[from_[p]], first[from_[p] + 1]):
            best = np.int64(2**62)
            for j in range(other_first[to[p]], other_first[to[p] + 1]):
                down = place[i, 0] - other[j, 0]
                right = place[i, 1] - other[j, 1]
                best = min(best, down * down + right * right)
            distance[n] = np.sqrt(best)
            n += 1
    return distance
