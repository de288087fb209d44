"""Painting nuclei from their runs into label images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.records import UNKNOWN_CLASS, Cells

UNKNOWN_VALUE = 255
"""Value of a nucleus without a class; class index i has the value i + 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Paint:
    """n nuclei ready for painting."""

    first_run: NDArray[np.int64]
    """(n + 1,): as in `wsiseg.records.Instances`."""
    runs: NDArray[np.int32]
    """(m, 3): row, first column, column after the last, in the frame painted."""
    cell_id: NDArray[np.uint32]
    """(n,)."""
    class_value: NDArray[np.uint8]
    """(n,)."""
    x_start_px: int
    """First column with a pixel."""
    x_end_px: int
    """Column after the last."""


def paint_of(cells: Cells, n_classes: int) -> Paint:
    """Return the paint of at least one cell.

    Raises
    ------
    ValueError
        If a class index has no name.
    """
    instances = cells.instances
    index = instances.class_index
    known = index[index != UNKNOWN_CLASS]
    if known.size and known.max() >= n_classes:
        raise ValueError(
            f"a cell has class index {known.max()}, but there are only {n_classes} class names; "
            "give a name for each class of the model"
        )
    runs = np.ascontiguousarray(instances.runs)
    # 255 + 1 would wrap round to the background.
    value = np.where(index == UNKNOWN_CLASS, UNKNOWN_VALUE, index.astype(np.int64) + 1)
    return Paint(
        np.ascontiguousarray(instances.first_run),
        runs,
        cells.cell_id.astype(np.uint32),
        value.astype(np.uint8),
        int(runs[:, 1].min()),
        int(runs[:, 2].max()),
    )


def paint_box(
    pieces: Iterable[Paint], box: Box
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]] | None:
    """Return the ids and the class values of a box's pixels, each (height, width), 0 between.

    None without any piece; of the pieces one at a time is asked for.
    """
    ids = classes = None
    for piece in pieces:
        if ids is None or classes is None:
            ids = np.zeros((box.height_px, box.width_px), np.uint32)
            classes = np.zeros(ids.shape, np.uint8)
        _paint(
            ids,
            classes,
            piece.first_run,
            piece.runs,
            piece.cell_id,
            piece.class_value,
            box.y_px,
            box.x_px,
        )
    return None if ids is None or classes is None else (ids, classes)


@numba.njit(cache=True, nogil=True)
def _paint(
    ids: NDArray[np.uint32],
    classes: NDArray[np.uint8],
    first_run: NDArray[np.int64],
    runs: NDArray[np.int32],
    cell_id: NDArray[np.uint32],
    class_value: NDArray[np.uint8],
    top: int,
    left: int,
) -> None:
    height, width = ids.shape
    for i in range(len(cell_id)):
        for r in range(first_run[i], first_run[i + 1]):
            row = runs[r, 0] - top
            if row < 0 or row >= height:
                continue
            for col in range(max(0, runs[r, 1] - left), min(width, runs[r, 2] - left)):
                ids[row, col] = cell_id[i]
                classes[row, col] = class_value[i]
