"""Label pictures as runs: found, connected, painted, grouped, all in linear time.

A picture is here a *canvas*: an int32 label array with a frame of one
background pixel around it, so that nothing needs a bounds check and everything outside is
one background component, that of run 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

_MIXED = -1


def framed(labels: NDArray[np.generic]) -> NDArray[np.int32]:
    """Return labels (h, w) as a canvas (h + 2, w + 2)."""
    height, width = labels.shape
    canvas = np.zeros((height + 2, width + 2), np.int32)
    canvas[1:-1, 1:-1] = labels
    return canvas


@dataclass(frozen=True, slots=True, eq=False)
class PictureRuns:
    """A whole canvas as maximal horizontal runs of one value, background included."""

    first_in_row: NDArray[np.int64]
    """(canvas rows + 1,): index of each row's first run."""
    runs: NDArray[np.int32]
    """(m, 3): row, first column, column after the last, on the canvas."""
    value: NDArray[np.int32]
    """(m,): label, 0 is background."""

    @property
    def length_px(self) -> NDArray[np.int32]:
        """(m,): pixels of each run."""
        return self.runs[:, 2] - self.runs[:, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Connected components of a picture: 4-connected labels, 8-connected background."""

    of_run: NDArray[np.int32]
    """(m,): component of each run, numbered by first pixel in raster order."""
    first_run: NDArray[np.int32]
    """(n,): the first run of each component."""
    around: NDArray[np.int32]
    """(n,): for background, the one label among all 8-neighbours; 0 none, -1 several."""


def find_runs(canvas: NDArray[np.signedinteger], table: NDArray[np.int32]) -> PictureRuns:
    """Return the runs of `table[canvas]`."""
    return PictureRuns(*_scan(canvas, table))


def renamed(picture: PictureRuns, table: NDArray[np.int32]) -> PictureRuns:
    """Return the runs of a picture whose labels are looked up in a table."""
    return PictureRuns(*_merge(picture.first_in_row, picture.runs, table[picture.value]))


def connect(picture: PictureRuns) -> Parts:
    """Return the connected components of a picture."""
    return Parts(*_connect(picture.first_in_row, picture.runs, picture.value))


@numba.njit(cache=True, nogil=True)
def _scan(
    canvas: NDArray[np.signedinteger], table: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    height, width = canvas.shape
    changes = np.zeros(height, np.int64)
    for row in range(height):
        # Two slices and a loop from 0, so that the compiler vectorises it.
        left, right = canvas[row, :-1], canvas[row, 1:]
        n_changes = 0
        for col in range(width - 1):
            n_changes += left[col] != right[col]
        changes[row] = n_changes
    bound = height + changes.sum()
    first_in_row = np.empty(height + 1, np.int64)
    runs = np.empty((bound, 3), np.int32)
    value = np.empty(bound, np.int32)
    n = 0
    for row in range(height):
        first_in_row[row] = n
        line = canvas[row]
        raw = line[0]
        current = table[raw]
        start = 0
        for col in range(1, width if changes[row] else 1):
            if line[col] != raw:
                raw = line[col]
                if table[raw] != current:
                    runs[n, 0], runs[n, 1], runs[n, 2] = row, start, col
                    value[n] = current
                    n += 1
                    start, current = col, table[raw]
        runs[n, 0], runs[n, 1], runs[n, 2] = row, start, width
        value[n] = current
        n += 1
    first_in_row[height] = n
    return first_in_row, runs[:n], value[:n]


@numba.njit(cache=True, nogil=True)
def _root(parent: NDArray[np.int32], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@numba.njit(cache=True, nogil=True)
def _join(parent: NDArray[np.int32], one: int, other: int) -> None:
    one, other = _root(parent, one), _root(parent, other)
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@numba.njit(cache=True, nogil=True)
def _note(around: NDArray[np.int32], run: int, label: int) -> None:
    """Record that a background run has a neighbour of that label."""
    if around[run] == 0:
        around[run] = label
    elif label != 0 and around[run] != label:
        around[run] = _MIXED


@numba.njit(cache=True, nogil=True)
def _meet(
    parent: NDArray[np.int32],
    around: NDArray[np.int32],
    value: NDArray[np.int32],
    one: int,
    other: int,
) -> None:
    """Let two neighbouring runs join, or note each other."""
    if value[one] == value[other]:
        _join(parent, one, other)
    elif value[one] == 0:
        _note(around, one, value[other])
    elif value[other] == 0:
        _note(around, other, value[one])


@numba.njit(cache=True, nogil=True)
def _meet_at_corner(
    parent: NDArray[np.int32],
    around: NDArray[np.int32],
    value: NDArray[np.int32],
    one: int,
    other: int,
) -> None:
    """Let two runs meet that only touch diagonally: this connects background alone."""
    if value[one] == 0 or value[other] == 0:
        _meet(parent, around, value, one, other)


@numba.njit(cache=True, nogil=True)
def _connect(
    first_in_row: NDArray[np.int64], runs: NDArray[np.int32], value: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    parent = np.arange(len(runs)).astype(np.int32)
    around = np.zeros(len(runs), np.int32)
    for row in range(len(first_in_row) - 1):
        for run in range(first_in_row[row] + 1, first_in_row[row + 1]):
            _meet(parent, around, value, run - 1, run)
        if row == 0:
            continue
        above, below = first_in_row[row - 1], first_in_row[row]
        while above < first_in_row[row] and below < first_in_row[row + 1]:
            _meet(parent, around, value, above, below)
            end_above, end_below = runs[above, 2], runs[below, 2]
            # Both rows end at the same column, so a shared end is a corner or the last.
            if end_above == end_below and above + 1 < first_in_row[row]:
                _meet_at_corner(parent, around, value, above, below + 1)
                _meet_at_corner(parent, around, value, above + 1, below)
            above += end_above <= end_below
            below += end_below <= end_above
    return _number(parent, around)


@numba.njit(cache=True, nogil=True)
def _number(
    parent: NDArray[np.int32], around: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Give each component its number; a parent never comes after its children."""
    of_run = np.empty(len(parent), np.int32)
    first_run = np.empty(len(parent), np.int32)
    n = 0
    for run in range(len(parent)):
        if parent[run] == run:
            of_run[run] = n
            first_run[n] = run
            n += 1
        else:
            of_run[run] = of_run[parent[run]]
            _note(around, first_run[of_run[run]], around[run])
    first_run = first_run[:n].copy()
    return of_run, first_run, around[first_run]


@numba.njit(cache=True, nogil=True)
def paint_runs(
    canvas: NDArray[np.int32], runs: NDArray[np.int32], value: NDArray[np.int32]
) -> None:
    """Write each run's value into a canvas, in the runs' own coordinates."""
    for run in range(len(runs)):
        row = runs[run, 0]
        for col in range(runs[run, 1], runs[run, 2]):
            canvas[row, col] = value[run]


def without_holes(picture: PictureRuns) -> PictureRuns:
    """Fill the holes of a picture.

    A hole is an 8-connected background component that does not reach the frame and all of
    whose 8-neighbours have one label; it gets that label.

    Returns
    -------
    PictureRuns
        Maximal runs again.
    """
    parts = connect(picture)
    fill = np.where(parts.around > 0, parts.around, 0).astype(np.int32)
    fill[parts.of_run[0]] = 0
    value = np.where(picture.value == 0, fill[parts.of_run], picture.value)
    return PictureRuns(*_merge(picture.first_in_row, picture.runs, value))


@numba.njit(cache=True, nogil=True)
def _merge(
    first_in_row: NDArray[np.int64], runs: NDArray[np.int32], value: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Unite neighbouring runs of one value."""
    merged_first = np.empty_like(first_in_row)
    merged = np.empty_like(runs)
    merged_value = np.empty_like(value)
    n = 0
    for row in range(len(first_in_row) - 1):
        merged_first[row] = n
        for run in range(first_in_row[row], first_in_row[row + 1]):
            if n > merged_first[row] and merged_value[n - 1] == value[run]:
                merged[n - 1, 2] = runs[run, 2]
            else:
                merged[n] = runs[run]
                merged_value[n] = value[run]
                n += 1
    merged_first[len(first_in_row) - 1] = n
    return merged_first, merged[:n], merged_value[:n]


@numba.njit(cache=True, nogil=True)
def group_runs(
    runs: NDArray[np.int32], group: NDArray[np.int32], n_groups: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Sort runs by group, keeping their order inside each.

    Returns
    -------
    first_run : ndarray, (n_groups + 1,), int64
    runs : ndarray, (m, 3), int32
    """
    first_run = np.zeros(n_groups + 1, np.int64)
    for run in range(len(runs)):
        first_run[group[run] + 1] += 1
    for i in range(n_groups):
        first_run[i + 1] += first_run[i]
    place = first_run[:-1].copy()
    grouped = np.empty_like(runs)
    for run in range(len(runs)):
        grouped[place[group[run]]] = runs[run]
        place[group[run]] += 1
    return first_run, grouped


@numba.njit(cache=True, nogil=True)
def sum_planes(
    runs: NDArray[np.int32], first_run: NDArray[np.int64], planes: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Sum k planes (k, h, w) over each of n instances; returns (n, k)."""
    n = len(first_run) - 1
    sums = np.zeros((n, planes.shape[0]), np.int64)
    for plane in range(planes.shape[0]):
        for i in range(n):
            total = np.int64(0)
            for run in range(first_run[i], first_run[i + 1]):
                line = planes[plane, runs[run, 0], runs[run, 1] : runs[run, 2]]
                # A run is shorter than 2**24 px, so its sum fits; 32 bits add up faster.
                within = np.uint32(0)
                for col in range(len(line)):
                    within += line[col]
                total += within
            sums[i, plane] = total
    return sums


def run_sums(runs: NDArray[np.int32]) -> tuple[NDArray[np.int64], ...]:
    """Return the number of pixels, sum of rows and sum of columns of each run."""
    row, start, end = runs.T.astype(np.int64)
    length_px = end - start
    return length_px, row * length_px, (start + end - 1) * length_px // 2


def moments(runs: NDArray[np.int32], first_run: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return area, sum of rows and sum of columns of each instance."""
    totals = (np.append(0, np.cumsum(sums)) for sums in run_sums(runs))
    return tuple(np.diff(total[first_run]) for total in totals)
