"""How far it is from a nucleus to the next one, and how many are near, by their centroids."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

REACH_UM = 100.0
"""The nearest nucleus is looked for up to this distance."""
NEAR_UM = 50.0
"""Nuclei up to this distance are counted."""

_BUCKET_UM = 51.0
"""Side of the squares that are searched: a little more than `NEAR_UM` and half of `REACH_UM`,
so that rounding cannot put a nucleus that is near one square too far."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Of n nuclei."""

    nearest_um: NDArray[np.float64]
    """(n,): distance to the nearest other centroid; NaN beyond `REACH_UM`."""
    n_near: NDArray[np.int64]
    """(n,): other nuclei with a centroid at most `NEAR_UM` away."""


def find_neighbours(
    x_um: NDArray[np.float64], y_um: NDArray[np.float64], start: int, stop: int
) -> Neighbours:
    """Return the neighbours that some nuclei have among all that are given.

    Parameters
    ----------
    x_um, y_um : ndarray, (m,), float64
        Centroids.
    start, stop : int
        Those whose neighbours are wanted: from one position to another.

    Returns
    -------
    Neighbours
        n = stop - start; they depend on the distances alone, not on the nuclei's order.
    """
    if start == stop:
        return Neighbours(np.empty(0), np.empty(0, np.int64))
    col, row = (((c - c.min()) // _BUCKET_UM).astype(np.int64) for c in (x_um, y_um))
    n_cols, n_rows = int(col.max()) + 1, int(row.max()) + 1
    bucket = row * n_cols + col
    members = np.argsort(bucket, kind="stable")
    first = np.zeros(n_rows * n_cols + 1, np.int64)
    np.cumsum(np.bincount(bucket, minlength=n_rows * n_cols), out=first[1:])
    nearest, n_near = _search(x_um, y_um, start, stop, row, col, n_rows, n_cols, members, first)
    return Neighbours(nearest, n_near)


@numba.njit(cache=True, nogil=True)
def _search(
    x_um: NDArray[np.float64],
    y_um: NDArray[np.float64],
    start: int,
    stop: int,
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    n_rows: int,
    n_cols: int,
    members: NDArray[np.int64],
    first: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    nearest = np.full(stop - start, np.nan)
    n_near = np.zeros(stop - start, np.int64)
    for i in range(start, stop):
        best, count = np.inf, 0
        for reach in range(1, 3):
            for r in range(max(0, row[i] - reach), min(n_rows, row[i] + reach + 1)):
                for c in range(max(0, col[i] - reach), min(n_cols, col[i] + reach + 1)):
                    if reach == 2 and abs(r - row[i]) < 2 and abs(c - col[i]) < 2:
                        continue
                    for k in range(first[r * n_cols + c], first[r * n_cols + c + 1]):
                        j = members[k]
                        if j == i:
                            continue
                        dx, dy = x_um[j] - x_um[i], y_um[j] - y_um[i]
                        apart = math.sqrt(dx * dx + dy * dy)
                        best = min(best, apart)
                        count += apart <= NEAR_UM
            if best <= NEAR_UM:
                # Whatever is farther than one square is farther than that.
                break
        if best <= REACH_UM:
            nearest[i - start] = best
        n_near[i - start] = count
    return nearest, n_near
