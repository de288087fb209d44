"""Which nuclei of two runs over the same pixels are the same, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.records import gather_runs

MATCH_IOU = 0.5
"""Above it no nucleus can have two partners, since those of one run are disjoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """n disjoint nuclei as pixel runs, in slide-wide model pixels."""

    first_run: NDArray[np.int64]
    """(n + 1,): index of each nucleus's first run."""
    runs: NDArray[np.int32]
    """(m, 3): row, first column, column after the last; at least one a nucleus."""

    def __len__(self) -> int:
        return len(self.first_run) - 1

    @property
    def owner(self) -> NDArray[np.int64]:
        """(m,): the nucleus each run belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.first_run))

    @property
    def area_px(self) -> NDArray[np.int64]:
        """(n,): number of pixels."""
        length = (self.runs[:, 2] - self.runs[:, 1]).astype(np.int64)
        return self._summed(length)

    @property
    def centroid_px(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) each: x and y of the centroids; pixel-corner convention."""
        row, start, end = self.runs.T.astype(np.int64)
        area = self.area_px
        # Twice the sum of the columns of a run, so that it stays whole.
        twice = self._summed((end - start) * (start + end - 1))
        return twice / (2 * area) + 0.5, self._summed((end - start) * row) / area + 0.5

    def taken(self, index: NDArray[np.int64]) -> Masks:
        """Return some of the nuclei, in the order of `index`."""
        return Masks(*gather_runs(self.runs, self.first_run[index], self.first_run[index + 1]))

    def _summed(self, of_run: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.concatenate([[0], np.cumsum(of_run)])
        summed: NDArray[np.int64] = total[self.first_run[1:]] - total[self.first_run[:-1]]
        return summed


def joined_masks(parts: list[Masks]) -> Masks:
    """Return the nuclei of all parts in order."""
    counts = [np.diff(part.first_run) for part in parts]
    first_run = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))])
    runs = np.concatenate([np.empty((0, 3), np.int32), *(part.runs for part in parts)])
    return Masks(first_run.astype(np.int64), runs)


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Nuclei of a first run held against those of a second one."""

    iou: NDArray[np.float64]
    """(n_first,): intersection over union with the partner; 0 without one."""
    partner: NDArray[np.int64]
    """(n_first,): the nucleus of the second run with an IoU above `MATCH_IOU`; -1 without."""
    is_matched: NDArray[np.bool_]
    """(n_second,): is the partner of one."""
    holds_two: NDArray[np.bool_]
    """(n_first,): shares, with two or more of the second run, more than half of the smaller."""
    is_two: NDArray[np.bool_]
    """(n_second,): the same the other way round."""


def match_masks(first: Masks, second: Masks) -> Matching:
    """Match nuclei by intersection over union, exactly and without an image in memory.

    Parameters
    ----------
    first, second : Masks
        Each disjoint in itself, in the same frame.

    Returns
    -------
    Matching
        One-to-one, because an IoU above one half leaves no room for another partner.
    """
    one, other, shared_px = shared_pixels(first, second)
    area, other_area = first.area_px[one], second.area_px[other]
    iou = shared_px / (area + other_area - shared_px)
    good = iou > MATCH_IOU
    found = Matching(
        iou=np.zeros(len(first)),
        partner=np.full(len(first), -1, np.int64),
        is_matched=np.zeros(len(second), np.bool_),
        holds_two=_holds_two(one, 2 * shared_px > np.minimum(area, other_area), len(first)),
        is_two=_holds_two(other, 2 * shared_px > np.minimum(area, other_area), len(second)),
    )
    found.iou[one[good]] = iou[good]
    found.partner[one[good]] = other[good]
    found.is_matched[other[good]] = True
    return found


def shared_pixels(
    first: Masks, second: Masks
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs (i of the first, j of the second) that share pixels, and how many.

    Parameters
    ----------
    first, second : Masks
        Each disjoint in itself, in the same frame.

    Returns
    -------
    i, j, shared_px : ndarray
        (n_pairs,) int64, ordered by i, then j.
    """
    if not (len(first) and len(second)):
        return (np.empty(0, np.int64),) * 3
    lowest = min(int(masks.runs[:, :2].min()) for masks in (first, second))
    width = 1 + max(int(masks.runs[:, 2].max()) for masks in (first, second)) - lowest
    start, end, owner = _in_raster_order(first, lowest, width)
    other_start, other_end, other_owner = _in_raster_order(second, lowest, width)
    # Disjoint runs in raster order have both their starts and their ends in order.
    begin = np.searchsorted(other_end, start, "right")
    n_met = np.maximum(np.searchsorted(other_start, end, "left") - begin, 0)
    mine = np.repeat(np.arange(len(start)), n_met)
    before = np.cumsum(n_met) - n_met
    theirs = np.arange(len(mine)) - np.repeat(before - begin, n_met)
    common = np.minimum(end[mine], other_end[theirs]) - np.maximum(start[mine], other_start[theirs])
    key = owner[mine] * len(second) + other_owner[theirs]
    pair, at = np.unique(key, return_inverse=True)
    shared_px = np.zeros(len(pair), np.int64)
    np.add.at(shared_px, at, common)
    return pair // len(second), pair % len(second), shared_px


def _in_raster_order(
    masks: Masks, lowest: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return start, end and owner of each run on one line of all rows end to end."""
    row, start, end = masks.runs.T.astype(np.int64) - lowest
    order = np.argsort(row * width + start)
    line = row[order] * width
    return line + start[order], line + end[order], masks.owner[order]


def _holds_two(index: NDArray[np.int64], inside: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    holds: NDArray[np.bool_] = np.bincount(index[inside], minlength=n) > 1
    return holds
