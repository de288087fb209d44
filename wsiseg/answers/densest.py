"""The square of some area that holds the most nuclei."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.answers.analysed import analysed_shape, tissue_mm2
from wsiseg.cell_table import ALL_CLASSES, count_squares
from wsiseg.errors import UnknownName, UsageError

if TYPE_CHECKING:
    import shapely

    from wsiseg.results import Result

STEPS = 50
"""A square's side over the step by which it is moved."""

_FAR = 1 << 24
"""More steps than a slide has."""
_BLOCK = 1024
"""Rows and columns of squares looked at at once: memory grows with neither side of a slide."""

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

    Squares lie on the slide (beyond its right and lower edge by less than a step) and are moved
    by 1/50 of their side (20 µm for 1 mm²); a nucleus
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
        If `mm2` is not a positive number, too small to step through, or larger than the slide.
    UnknownName
        If the run has no such class.
    """
    side_um = math.sqrt(mm2) * 1000 if mm2 > 0 and math.isfinite(mm2) else 0.0
    if side_um < STEPS:
        raise UsageError(
            f"mm2 is {mm2}; give the area of the square, at least {(STEPS / 1000) ** 2:g} mm²"
        )
    names = _names(result, classes)
    _check_fits(result, mm2, side_um)
    analysed = analysed_shape(result.path, result.run)
    square, n = count_squares(result.cell_files, result.class_names, side_um / STEPS)
    n_of = np.column_stack([n[:, 1:], n.sum(axis=1)])
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


def _sides_um(result: Result) -> tuple[float, float]:
    """Return height and width of the slide; infinite where the run does not say."""
    slide = result.run["slide"]
    height_px, width_px = (slide.get(name, math.inf) for name in ("height_px", "width_px"))
    return height_px * result.mpp, width_px * result.mpp


def _check_fits(result: Result, mm2: float, side_um: float) -> None:
    """Raise UsageError if a square is larger than the slide."""
    least_um = min(_sides_um(result))
    if side_um > least_um:
        raise UsageError(
            f"a square of {mm2:g} mm² has sides of {side_um:.0f} µm, but {result.name} is "
            f"{least_um:.0f} µm at its narrowest; give an area of at most "
            f"{math.floor(least_um**2 / 1e4) / 100:g} mm²"
        )


def _last_steps(result: Result, step_um: float) -> tuple[int, int]:
    """Return row and column of the last step at which a square may begin.

    It reaches the slide's edge, or less than a step beyond it: else the nuclei at the very edge
    would be in no square.
    """
    row, col = (
        _FAR if math.isinf(side) else max(0, math.ceil(side / step_um) - STEPS)
        for side in _sides_um(result)
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
    for top in range(int(low[0]), int(high[0]) + 1, _BLOCK):
        bottom = min(top + _BLOCK, int(high[0]) + 1)
        # In raster order.
        a, b = np.searchsorted(square[:, 0], [top, bottom + STEPS - 1])
        for left in range(int(low[1]), int(high[1]) + 1, _BLOCK):
            right = min(left + _BLOCK, int(high[1]) + 1)
            mine = (square[a:b, 1] >= left) & (square[a:b, 1] < right + STEPS - 1)
            if n[a:b][mine].sum() < best[2]:
                continue
            windows = _windows(
                square[a:b][mine] - (top, left), n[a:b][mine], (bottom - top, right - left)
            )
            at = np.unravel_index(windows.argmax(), windows.shape)
            found = (int(at[0] + top), int(at[1] + left), int(windows[at]))
            # Of equal ones the first in raster order, also where blocks lie side by side.
            best = min(best, found, key=lambda one: (-one[2], one[0], one[1]))
    return best


def _windows(
    square: NDArray[np.int64], n: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the sums of all windows that begin within a block."""
    counts = np.zeros((shape[0] + STEPS, shape[1] + STEPS), np.int64)
    counts[square[:, 0] + 1, square[:, 1] + 1] = n
    sums = counts.cumsum(axis=0).cumsum(axis=1)
    windows: NDArray[np.int64] = sums[STEPS:, STEPS:] - sums[:-STEPS, STEPS:]
    windows += sums[:-STEPS, :-STEPS] - sums[STEPS:, :-STEPS]
    return windows


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
