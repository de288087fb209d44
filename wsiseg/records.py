"""The values that flow from stage to stage: frozen, shape-checked, without behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

UNKNOWN_CLASS = 255
"""Class index of a nucleus whose class is not known."""


def _check(
    name: str, array: NDArray[np.generic], shape: tuple[int | None, ...], dtype: type
) -> None:
    """Raise ValueError unless the array has that shape (None: any) and dtype."""
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; "
            f"{np.dtype(dtype)} of shape {shape} is needed (None: any)"
        )


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A square of the global grid, in model pixels."""

    row: int
    """Row in the grid."""
    col: int
    """Column in the grid."""
    core: Box
    """What the tile answers for; cores are disjoint and cover the slide."""
    outer: Box
    """Core + margin: what the network and the decoder see; may reach outside the slide."""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What the network says about the outer box of one tile."""

    nucleus: NDArray[np.uint8]
    """(h, w): probability of being inside a nucleus × 255."""
    hv: NDArray[np.int8]
    """(2, h, w): horizontal, vertical distance to the nucleus' centre × 100, -127 to 127."""
    classes: NDArray[np.uint8]
    """(n_classes, h, w): class probability × 255; n_classes may be 0."""

    def __post_init__(self) -> None:
        _check("nucleus", self.nucleus, (None, None), np.uint8)
        height, width = self.nucleus.shape
        _check("hv", self.hv, (2, height, width), np.int8)
        _check("classes", self.classes, (None, height, width), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """n nuclei as ragged pixel masks.

    Instance i has the runs `runs[first_run[i]:first_run[i + 1]]`, ordered by (row, col),
    disjoint and maximal.  Coordinates are model pixels, relative to whatever the producer
    says (a tile's outer box, or the slide).
    """

    first_run: NDArray[np.int64]
    """(n + 1,): index of each instance's first run."""
    runs: NDArray[np.int32]
    """(m, 3): row, first column, column after the last."""
    area_px: NDArray[np.int64]
    """(n,): number of pixels."""
    row_sum: NDArray[np.int64]
    """(n,): sum of the pixels' rows; the centroid's y is row_sum / area_px + 0.5."""
    col_sum: NDArray[np.int64]
    """(n,): sum of the pixels' columns."""
    class_index: NDArray[np.uint8]
    """(n,): 0-based class, `UNKNOWN_CLASS` without one."""
    class_prob: NDArray[np.float32]
    """(n,): probability of that class, its mean over the nucleus until it is calibrated; NaN
    without one."""
    nucleus_prob: NDArray[np.float32]
    """(n,): mean nucleus probability until it is calibrated."""
    cut: NDArray[np.bool_]
    """(n,): touches the edge of its tile's outer box, so part of it may be missing."""
    measured: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """(n, k): what `features.measure_pixels` gave in the tile; k is 0 if nothing was measured."""

    def __post_init__(self) -> None:
        n = len(self.area_px)
        if self.measured.shape[1:] == (0,):
            object.__setattr__(self, "measured", np.empty((n, 0), np.float32))
        _check("first_run", self.first_run, (n + 1,), np.int64)
        _check("runs", self.runs, (None, 3), np.int32)
        for name in ("area_px", "row_sum", "col_sum"):
            _check(name, getattr(self, name), (n,), np.int64)
        _check("class_index", self.class_index, (n,), np.uint8)
        _check("class_prob", self.class_prob, (n,), np.float32)
        _check("nucleus_prob", self.nucleus_prob, (n,), np.float32)
        _check("cut", self.cut, (n,), np.bool_)
        _check("measured", self.measured, (n, None), np.float32)
        if self.first_run[0] != 0 or self.first_run[-1] != len(self.runs):
            raise ValueError(
                f"first_run runs from {self.first_run[0]} to {self.first_run[-1]}; "
                f"0 to {len(self.runs)} is needed"
            )

    def __len__(self) -> int:
        return len(self.area_px)

    @classmethod
    def none(cls) -> Instances:
        """Return no nuclei."""
        return cls(
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

    def taken(self, index: NDArray[np.int64]) -> Instances:
        """Return some of the instances, in the order of `index`."""
        begin, end = self.first_run[index], self.first_run[index + 1]
        first_run, runs = gather_runs(self.runs, begin, end)
        return Instances(
            first_run=first_run,
            runs=runs,
            area_px=self.area_px[index],
            row_sum=self.row_sum[index],
            col_sum=self.col_sum[index],
            class_index=self.class_index[index],
            class_prob=self.class_prob[index],
            nucleus_prob=self.nucleus_prob[index],
            cut=self.cut[index],
            measured=self.measured[index],
        )


_MASKS_AT_ONCE = 4096


def gather_runs(
    runs: NDArray[np.int32], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return (first_run, runs) of the masks that have the runs from `begin` to `end`."""
    first_run = np.zeros(len(begin) + 1, np.int64)
    np.cumsum(end - begin, out=first_run[1:])
    gathered = np.empty((first_run[-1], 3), np.int32)
    # Indices are larger than the runs themselves, so few are made at a time.
    for start in range(0, len(begin), _MASKS_AT_ONCE):
        some = slice(start, min(start + _MASKS_AT_ONCE, len(begin)))
        shift = np.repeat(begin[some] - first_run[:-1][some], (end - begin)[some])
        first, last = first_run[some.start], first_run[some.stop]
        gathered[first:last] = runs[np.arange(first, last) + shift]
    return first_run, gathered


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Final nuclei, in slide-wide model pixels, in the order of their ids."""

    instances: Instances
    """Their masks; disjoint."""
    cell_id: NDArray[np.int64]
    """(n,): 1, 2, … over the slide."""
    tile_row: NDArray[np.int32]
    """(n,): grid row of the tile that delivered it."""
    tile_col: NDArray[np.int32]
    """(n,): grid column of that tile."""

    def __post_init__(self) -> None:
        n = len(self.instances)
        _check("cell_id", self.cell_id, (n,), np.int64)
        _check("tile_row", self.tile_row, (n,), np.int32)
        _check("tile_col", self.tile_col, (n,), np.int32)

    def __len__(self) -> int:
        return len(self.cell_id)


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """n polygons with holes, as ragged closed rings.

    Polygon i has the rings `first_ring[i]` to `first_ring[i + 1]`, the first its outside;
    ring r has the vertices `first_vertex[r]` to `first_vertex[r + 1]`, the first repeated
    as the last.
    """

    first_ring: NDArray[np.int64]
    """(n + 1,)."""
    first_vertex: NDArray[np.int64]
    """(number of rings + 1,)."""
    vertices_half_px: NDArray[np.int32]
    """(k, 2): x, y in half model pixels, so that middles of pixel edges are whole numbers."""

    def __post_init__(self) -> None:
        _check("first_ring", self.first_ring, (None,), np.int64)
        n_rings = int(self.first_ring[-1])
        _check("first_vertex", self.first_vertex, (n_rings + 1,), np.int64)
        _check("vertices_half_px", self.vertices_half_px, (int(self.first_vertex[-1]), 2), np.int32)

    def __len__(self) -> int:
        return len(self.first_ring) - 1
