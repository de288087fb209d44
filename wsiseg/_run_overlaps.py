"""Arithmetic on the runs of many masks: overlaps, differences, parts, never a dense image.

Runs are rows of an (m, 3) int32 array: row, first column, column after the last.  The runs
of one mask are ordered by (row, col), disjoint and maximal, as in `records.Instances`.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.records import Instances

BUCKET_PX = 64
"""Side of the squares in which boxes look for each other: a few nuclei wide."""


@numba.njit(cache=True, nogil=True)
def count_px(runs: NDArray[np.int32]) -> int:
    """Return the number of pixels of a mask."""
    n = 0
    for i in range(len(runs)):
        n += runs[i, 2] - runs[i, 1]
    return n


@numba.njit(cache=True, nogil=True)
def shared_px(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Return how many pixels two masks have in common."""
    i = j = shared = 0
    while i < len(a) and j < len(b):
        if a[i, 0] != b[j, 0]:
            if a[i, 0] < b[j, 0]:
                i += 1
            else:
                j += 1
            continue
        common = min(a[i, 2], b[j, 2]) - max(a[i, 1], b[j, 1])
        if common > 0:
            shared += common
        if a[i, 2] < b[j, 2]:
            i += 1
        else:
            j += 1
    return shared


@numba.njit(cache=True, nogil=True)
def subtract_runs(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the runs of the pixels of `a` that are not in `b`."""
    # Each run of b splits at most one run of a, so the sum of both lengths is enough.
    out = np.empty((len(a) + len(b), 3), np.int32)
    n = j = 0
    for i in range(len(a)):
        row, start, stop = a[i, 0], a[i, 1], a[i, 2]
        while j < len(b) and (b[j, 0] < row or (b[j, 0] == row and b[j, 2] <= start)):
            j += 1
        k = j
        while k < len(b) and b[k, 0] == row and b[k, 1] < stop:
            if b[k, 1] > start:
                out[n, 0], out[n, 1], out[n, 2] = row, start, b[k, 1]
                n += 1
            start = b[k, 2]
            k += 1
        if start < stop:
            out[n, 0], out[n, 1], out[n, 2] = row, start, stop
            n += 1
    return out[:n]


@numba.njit(cache=True, nogil=True)
def _root(parent: NDArray[np.int64], i: int) -> int:
    """Return the smallest member of i's set, shortening the path to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def _join(parent: NDArray[np.int64], i: int, j: int) -> None:
    """Unite two sets; the smaller root stays the root."""
    a, b = _root(parent, i), _root(parent, j)
    parent[max(a, b)] = min(a, b)


@numba.njit(cache=True, nogil=True)
def largest_part(runs: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the runs of the largest 4-connected part; of equals the first in raster order."""
    n = len(runs)
    parent = np.arange(n)
    above = 0
    for i in range(n):
        row, start, stop = runs[i, 0], runs[i, 1], runs[i, 2]
        while runs[above, 0] < row - 1 or (runs[above, 0] == row - 1 and runs[above, 2] <= start):
            above += 1
        k = above
        while k < i and runs[k, 0] == row - 1 and runs[k, 1] < stop:
            _join(parent, k, i)
            k += 1
    area = np.zeros(n, np.int64)
    for i in range(n):
        area[_root(parent, i)] += runs[i, 2] - runs[i, 1]
    best = 0
    for i in range(n):
        if area[i] > area[best]:
            best = i
    out = np.empty_like(runs)
    m = 0
    for i in range(n):
        if _root(parent, i) == best:
            out[m] = runs[i]
            m += 1
    return out[:m]


@numba.njit(cache=True, nogil=True)
def components(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smallest member of each one's connected component, (n,).

    Parameters
    ----------
    n
        Number of members.
    pairs
        (m, ≥ 2): members that belong together in the first two columns.
    """
    parent = np.arange(n)
    for k in range(len(pairs)):
        _join(parent, pairs[k, 0], pairs[k, 1])
    for i in range(n):
        parent[i] = _root(parent, i)
    return parent


@numba.njit(cache=True, nogil=True)
def _bucket_members(
    bucket_box: NDArray[np.int32], n_across: int, n_buckets: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort boxes, in whole buckets with both ends, into the buckets they touch.

    Returns (first, member): those of bucket b are `first[b]` to `first[b + 1]`, in order.
    """
    # Counting into slot b + 2 lets slot b + 1 be the place to fill, and b the start after it.
    first = np.zeros(n_buckets + 2, np.int64)
    for i in range(len(bucket_box)):
        for y in range(bucket_box[i, 0], bucket_box[i, 2] + 1):
            for x in range(bucket_box[i, 1], bucket_box[i, 3] + 1):
                first[y * n_across + x + 2] += 1
    for b in range(1, len(first)):
        first[b] += first[b - 1]
    member = np.empty(first[-1], np.int64)
    for i in range(len(bucket_box)):
        for y in range(bucket_box[i, 0], bucket_box[i, 2] + 1):
            for x in range(bucket_box[i, 1], bucket_box[i, 3] + 1):
                b = y * n_across + x
                member[first[b + 1]] = i
                first[b + 1] += 1
    return first, member


@numba.njit(cache=True, nogil=True)
def overlapping_pairs(
    box: NDArray[np.int32],
    tile: NDArray[np.int64],
    first_run: NDArray[np.int64],
    runs: NDArray[np.int32],
    n_known: int,
) -> NDArray[np.int64]:
    """Return the masks of different tiles that share pixels.

    Parameters
    ----------
    box
        (n, 4): first row, first column, row after the last, column after the last.
    tile
        (n,): a number of the tile each mask comes from.
    first_run, runs
        As in `records.Instances`.
    n_known
        Pairs among the first `n_known` masks are left out.

    Returns
    -------
    pairs
        (m, 3): smaller index, larger index, number of common pixels.
    """
    found = np.empty((1024, 3), np.int64)
    n_found = 0
    if len(box) <= n_known:
        return found[:0]
    origin = np.array([box[:, 0].min(), box[:, 1].min()] * 2, np.int32)
    last = np.array([0, 0, 1, 1], np.int32)
    bucket_box = (box - last - origin) // BUCKET_PX
    n_across = bucket_box[:, 3].max() + 1
    n_buckets = (bucket_box[:, 2].max() + 1) * n_across
    first, member = _bucket_members(bucket_box, n_across, n_buckets)
    for b in range(n_buckets):
        for p in range(first[b], first[b + 1]):
            i = member[p]
            for q in range(p + 1, first[b + 1]):
                j = member[q]
                if j < n_known or tile[i] == tile[j]:
                    continue
                y, x = max(box[i, 0], box[j, 0]), max(box[i, 1], box[j, 1])
                if y >= min(box[i, 2], box[j, 2]) or x >= min(box[i, 3], box[j, 3]):
                    continue
                # Two boxes may meet in many buckets; that of their first common pixel counts.
                at = (y - origin[0]) // BUCKET_PX * n_across + (x - origin[1]) // BUCKET_PX
                if at != b:
                    continue
                shared = shared_px(
                    runs[first_run[i] : first_run[i + 1]], runs[first_run[j] : first_run[j + 1]]
                )
                if shared == 0:
                    continue
                if n_found == len(found):
                    found = np.concatenate((found, np.empty_like(found)))
                found[n_found, 0], found[n_found, 1], found[n_found, 2] = i, j, shared
                n_found += 1
    return found[:n_found]


@numba.njit(cache=True, nogil=True)
def gathered_runs(
    runs: NDArray[np.int32],
    extra: NDArray[np.int32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return (first_run, runs) of masks, as `records.gather_runs` does, without large indices.

    Each mask has the runs from `begin` to `end`, counted through `runs` and then `extra`.
    """
    first_run = np.zeros(len(begin) + 1, np.int64)
    for i in range(len(begin)):
        first_run[i + 1] = first_run[i] + end[i] - begin[i]
    out = np.empty((first_run[-1], 3), np.int32)
    base = len(runs)
    for i in range(len(begin)):
        source = extra if begin[i] >= base else runs
        shift = begin[i] - base if begin[i] >= base else begin[i]
        to = first_run[i]
        for k in range(end[i] - begin[i]):
            out[to + k, 0] = source[shift + k, 0]
            out[to + k, 1] = source[shift + k, 1]
            out[to + k, 2] = source[shift + k, 2]
    return first_run, out


_NO_INSTANCES = Instances(
    first_run=np.zeros(1, np.int64),
    runs=np.empty((0, 3), np.int32),
    area_px=np.empty(0, np.int64),
    row_sum=np.empty(0, np.int64),
    col_sum=np.empty(0, np.int64),
    class_index=np.empty(0, np.uint8),
    class_prob=np.empty(0, np.float32),
    nucleus_prob=np.empty(0, np.float32),
    cut=np.empty(0, np.bool_),
)


def _measured(parts: list[Instances]) -> NDArray[np.float32]:
    """Return what was measured of all parts; empty ones may not know how much that is."""
    known = [part.measured for part in parts if len(part)]
    return np.concatenate(known) if known else parts[0].measured


def concatenated(parts: list[Instances]) -> Instances:
    """Return the instances of all parts in turn; of no parts, no instances."""
    parts = parts or [_NO_INSTANCES]
    first_run = np.zeros(sum(map(len, parts)) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(part.first_run) for part in parts]), out=first_run[1:])
    return Instances(
        first_run=first_run,
        runs=np.concatenate([part.runs for part in parts]),
        area_px=np.concatenate([part.area_px for part in parts]),
        row_sum=np.concatenate([part.row_sum for part in parts]),
        col_sum=np.concatenate([part.col_sum for part in parts]),
        class_index=np.concatenate([part.class_index for part in parts]),
        class_prob=np.concatenate([part.class_prob for part in parts]),
        nucleus_prob=np.concatenate([part.nucleus_prob for part in parts]),
        cut=np.concatenate([part.cut for part in parts]),
        measured=_measured(parts),
    )
