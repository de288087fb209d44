"""Which regions hold which points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.regions._raster import ALL_INSIDE, MIXED, Sides, sides
from wsiseg.regions._types import Region

_BLOCK_POINTS = 16_384
_GRID_BYTES = 1 << 25
_MOST_SQUARES = 256
"""Squares of a region's grid along its longer side; fewer where there are many regions."""


class Memberships(NamedTuple):
    """The regions of n points."""

    first: NDArray[np.int64]
    """(n + 1,): point i has the members from first[i] up to first[i + 1]."""
    member: NDArray[np.int32]
    """(m,): indices of regions, for each point in the order of the file."""
    innermost: NDArray[np.int32]
    """(n,): the region of smallest area that holds the point (the first of equals); -1: none."""


class RegionIndex:
    """Finds the regions of points.

    A point is in a region if it is strictly inside its geometry, by the rule of
    `shapely.contains_xy`.  Cores that are marked as missing hold no point.

    Parameters
    ----------
    regions : sequence of Region
        In the order of the file; they may overlap.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        empty = shapely.MultiPolygon()
        self._geometries = np.array(
            [empty if region.missing else region.geometry for region in regions], np.object_
        )
        shapely.prepare(self._geometries)
        self._tree = shapely.STRtree(self._geometries)
        self._grids = _Grids.of(self._geometries)
        order = np.argsort(shapely.area(self._geometries), kind="stable")
        self._by_rank = order.astype(np.int32)
        self._rank = np.empty(len(order), np.int64)
        self._rank[order] = np.arange(len(order))

    def locate(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Memberships:
        """Return the regions of points.

        Parameters
        ----------
        x, y : ndarray, (n,)
            Level-0 px.

        Raises
        ------
        ValueError
            If `x` and `y` are not of one length.
        """
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"x of shape {x.shape}, y of {y.shape}; one length is needed")
        n = len(x)
        counts = np.zeros(n, np.int64)
        innermost = np.full(n, -1, np.int32)
        members = [np.empty(0, np.int32)]
        for start in range(0, n, _BLOCK_POINTS):
            block = slice(start, start + _BLOCK_POINTS)
            point, region = self._pairs(x[block], y[block])
            members.append(region.astype(np.int32))
            here = np.bincount(point, minlength=len(counts[block]))
            counts[block] = here
            held = np.flatnonzero(here)
            if len(held):
                starts = np.cumsum(here)[held] - here[held]
                best = np.minimum.reduceat(self._rank[region], starts)
                innermost[start + held] = self._by_rank[best]
        first = np.zeros(n + 1, np.int64)
        np.cumsum(counts, out=first[1:])
        return Memberships(first, np.concatenate(members), innermost)

    def _pairs(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (point, region) for each point in each region that holds it, sorted."""
        point, region = self._tree.query(shapely.points(x, y))
        code = self._grids.look_up(region, x[point], y[point])
        inside = code == ALL_INSIDE
        ask = np.flatnonzero(code == MIXED)
        there = point[ask]
        inside[ask] = shapely.contains_xy(self._geometries[region[ask]], x[there], y[there])
        point, region = point[inside], region[inside]
        order = np.lexsort((region, point))
        return point[order], region[order]


class _Grids(NamedTuple):
    """The squares of all regions: most points are placed without looking at an outline."""

    scale: NDArray[np.float64]
    """(r,): level-0 px per square."""
    place: NDArray[np.int64]
    """(r, 5): first code, first row and column, rows, columns."""
    code: NDArray[np.uint8]
    """Codes of all squares, see `Sides`."""

    @classmethod
    def of(cls, geometries: NDArray[np.object_]) -> _Grids:
        """Return the grids of some geometries, in 32 MiB at most or so."""
        most = int(min(_MOST_SQUARES, (_GRID_BYTES / max(1, len(geometries))) ** 0.5))
        bounds = shapely.bounds(geometries).reshape(-1, 4)
        longer = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
        scale = np.where(longer > 0, longer / most, 1.0)
        found = [
            Sides(0, 0, np.empty((0, 0), np.uint8))
            if geometry.is_empty
            else sides(geometry, float(step))
            for geometry, step in zip(geometries, scale, strict=True)
        ]
        sizes = np.array([one.code.size for one in found], np.int64)
        place = np.zeros((len(found), 5), np.int64)
        place[:, 0] = np.cumsum(sizes) - sizes
        place[:, 1:] = np.array(
            [(one.row, one.col, *one.code.shape) for one in found], np.int64
        ).reshape(-1, 4)
        codes = [np.empty(0, np.uint8), *(one.code.ravel() for one in found)]
        return cls(scale, place, np.concatenate(codes))

    def look_up(
        self, region: NDArray[np.int64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Return the code of each point's square in its region's grid; `MIXED` outside of it."""
        return _look_up(region, x, y, self.scale, self.place, self.code)


@numba.njit(cache=True, nogil=True)
def _look_up(
    region: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    scale: NDArray[np.float64],
    place: NDArray[np.int64],
    code: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    found = np.full(len(region), MIXED, np.uint8)
    for k in range(len(region)):
        at = place[region[k]]
        step = scale[region[k]]
        row = np.int64(np.floor(y[k] / step)) - at[1]
        col = np.int64(np.floor(x[k] / step)) - at[2]
        if 0 <= row < at[3] and 0 <= col < at[4]:
            found[k] = code[at[0] + row * at[4] + col]
    return found
