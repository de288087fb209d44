"""The square of some area that holds the most nuclei."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.analysed import analysed_shape, tissue_mm2
from wsiseg.cell_table import ALL_CLASSES
from wsiseg.errors import UnknownName, UsageError
from wsiseg.mixing import class_index

if TYPE_CHECKING:
    import shapely

    from wsiseg.results import Result

STEPS = 50
"""A square's side over the step by which it is moved."""

_BITS = 24
_FAR = 1 << _BITS
_STRIP = 256
"""Rows of squares looked at at once: memory grows with a slide's width, not its area."""

_SCHEMA = pa.schema(
    [
        ("class_name", pa.string()),
        ("n", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                *("side_um", "x_um", "y_um", "x", "y", "width", "height"),
                *("analysed_mm2", "analysed_share", "per_mm2"),
            )
        ),
    ]
)


def densest_squares(
    result: Result, mm2: float = 1.0, classes: Sequence[str] | None = None
) -> pa.Table:
    """Find, for each class, the square of some area that holds the most nuclei.

    Squares lie on the slide and are moved by 1/50 of their side (20 µm for 1 mm²); a nucleus
    belongs to the square that holds its centroid, with its left and top edge.  Of equal ones the
    first from the top, then from the left, is given.  Glass in a square counts neither as tissue
    nor as zero: `analysed_share` says how much of it was analysed.

    Parameters
    ----------
    result : Result
        A finished run.
    mm2 : float
        Area of the square.
    classes : sequence of str, optional
        Classes to look for; `"(all)"`: every nucleus.  None: each of them, and all.

    Returns
    -------
    pyarrow.Table
        A row for each class: `n`; `x_um`, `y_um` (left, top edge) and `side_um`; the same box in
        level-0 px (`x`, `y`, `width`, `height`); `analysed_mm2` and `analysed_share` within it
        (null if the run has no `tissue.geojson`); `per_mm2`: n over `analysed_mm2`.  Without a
        nucleus of a class its place is null.

    Raises
    ------
    UsageError
        If `mm2` is not a positive number, or too small to step through.
    UnknownName
        If the run has no such class.
    """
    side_um = math.sqrt(mm2) * 1000 if mm2 > 0 and math.isfinite(mm2) else 0.0
    if side_um < STEPS:
        raise UsageError(
            f"mm2 is {mm2}; give the area of the square, at least {(STEPS / 1000) ** 2} mm²"
        )
    names = _names(result, classes)
    analysed = analysed_shape(result.path, result.run)
    square, n_of = _count_steps(result, side_um / STEPS)
    last = _last_steps(result, side_um / STEPS)
    position = {name: i for i, name in enumerate((*result.class_names, ALL_CLASSES))}
    rows = []
    for name in names:
        place = _best(square, n_of[:, position[name]], last)
        rows.append(
            {"class_name": name, "n": 0, "side_um": side_um}
            if place is None
            else {"class_name": name} | _described(result, place, side_um, analysed)
        )
    return pa.Table.from_pylist(rows, _SCHEMA)


def _names(result: Result, classes: Sequence[str] | None) -> list[str]:
    known = [*result.class_names, ALL_CLASSES]
    names = [classes] if isinstance(classes, str) else known if classes is None else list(classes)
    for name in names:
        if name not in known:
            raise UnknownName(f"{result.name} has no class {name!r}; known: {', '.join(known)}")
    return names


def _count_steps(result: Result, step_um: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row, column of each small square that holds nuclei, and how many of each class.

    The last column counts all.
    """
    n_codes = len(result.class_names) + 1
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in result.batches(["x_um", "y_um", "class_name"]):
        row, col = (
            np.floor(batch[name].to_numpy() / step_um).astype(np.int64) for name in ("y_um", "x_um")
        )
        code = class_index(batch["class_name"], result.class_names) + 1
        key, n = np.unique(((row << _BITS) + col) * n_codes + code, return_counts=True)
        keys.append(key)
        counts.append(n)
    key, n = np.concatenate(keys), np.concatenate(counts)
    step, place = np.unique(key // n_codes, return_inverse=True)
    table = np.zeros((len(step), n_codes), np.int64)
    np.add.at(table, (place, key % n_codes), n)
    square = np.stack([step >> _BITS, step & ((1 << _BITS) - 1)], axis=1)
    return square, np.column_stack([table[:, 1:], table.sum(axis=1)])


def _last_steps(result: Result, step_um: float) -> tuple[int, int]:
    """Return row and column of the last step at which a square may begin: on the slide."""
    slide = result.run["slide"]
    sides_um = [slide.get(name, math.inf) * result.mpp for name in ("height_px", "width_px")]
    row, col = (
        _FAR if math.isinf(side) else max(0, math.ceil(side / step_um) - STEPS) for side in sides_um
    )
    return row, col


def _best(
    square: NDArray[np.int64], n: NDArray[np.int64], last: tuple[int, int]
) -> tuple[int, int, int] | None:
    """Return row, column of the first step of the fullest window, and its count."""
    there = n > 0
    if not there.any():
        return None
    square, n = square[there], n[there]
    low = np.clip(square.min(axis=0) - (STEPS - 1), 0, last)
    high = np.clip(square.max(axis=0), 0, last)
    best = (0, 0, 0)
    for top in range(int(low[0]), int(high[0]) + 1, _STRIP):
        bottom = min(top + _STRIP, int(high[0]) + 1)
        # In raster order.
        a, b = np.searchsorted(square[:, 0], [top, bottom + STEPS - 1])
        counts = np.zeros((bottom - top + STEPS, high[1] - low[1] + 1 + STEPS), np.int64)
        row, col = square[a:b, 0] - top + 1, square[a:b, 1] - low[1] + 1
        seen = col < counts.shape[1]
        counts[row[seen], col[seen]] = n[a:b][seen]
        sums = counts.cumsum(axis=0).cumsum(axis=1)
        windows = sums[STEPS:, STEPS:] - sums[:-STEPS, STEPS:]
        windows += sums[:-STEPS, :-STEPS] - sums[STEPS:, :-STEPS]
        at = np.unravel_index(windows.argmax(), windows.shape)
        if windows[at] > best[2]:
            best = (int(at[0] + top), int(at[1] + low[1]), int(windows[at]))
    return best


def _described(
    result: Result,
    place: tuple[int, int, int],
    side_um: float,
    analysed: shapely.MultiPolygon | None,
) -> dict[str, float | int | None]:
    import shapely  # takes longer than most answers

    row, col, n = place
    x_um, y_um = col * side_um / STEPS, row * side_um / STEPS
    x, y, side = (value / result.mpp for value in (x_um, y_um, side_um))
    area_mm2 = tissue_mm2(shapely.box(x, y, x + side, y + side), analysed, result.mpp)
    return {
        "n": n,
        "side_um": side_um,
        "x_um": x_um,
        "y_um": y_um,
        "x": x,
        "y": y,
        "width": side,
        "height": side,
        "analysed_mm2": area_mm2,
        "analysed_share": None if area_mm2 is None else area_mm2 / (side_um / 1000) ** 2,
        "per_mm2": n / area_mm2 if area_mm2 else None,
    }
