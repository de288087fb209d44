"""Choosing a few places of a slide that a person should look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CropKind = Literal["random", "densest", "seam"]
"""Why a crop is shown."""
FloatBox = tuple[float, float, float, float]
"""Left, top, width, height."""

CROPS_OF_A_KIND = 3
"""How many crops of each kind are chosen where there is room."""

_CANDIDATES = 256


@dataclass(frozen=True, slots=True)
class CropChoice:
    """A place to show."""

    kind: CropKind
    """Why."""
    box: FloatBox
    """Where, in level-0 pixels."""


def choose_crops(
    x_px: NDArray[np.float64],
    y_px: NDArray[np.float64],
    seams_x_px: Sequence[float] | NDArray[np.float64],
    seams_y_px: Sequence[float] | NDArray[np.float64],
    analysed: Sequence[FloatBox] | NDArray[np.float64],
    seed: int,
    crop_px: float,
) -> list[CropChoice]:
    """Choose random places, the densest ones, and nuclei on seams: up to three of each.

    A random place is uniform over the analysed area, whether it shows nuclei or not.  The
    densest places are the fullest crops of a grid of half a crop's step.  Seam crops are
    centred on a seam, beside a nucleus chosen at random; both sides were analysed.  Crops
    of one kind never overlap, and those of different kinds only where there is no other.

    Parameters
    ----------
    x_px, y_px : ndarray
        (n,) centroids in level-0 pixels.
    seams_x_px, seams_y_px : sequence of float
        Level-0 positions of the upright and of the level edges between tile cores.
    analysed : sequence of (x, y, width, height)
        Tile cores that ran, level-0 pixels.
    seed : int
        Equal seeds give equal choices.
    crop_px : float
        Side of a crop in level-0 pixels.

    Returns
    -------
    list of CropChoice
        Random ones, then densest ones, then those on seams; empty if nothing was analysed.
    """
    boxes = np.asarray(analysed, np.float64).reshape(-1, 4)
    if len(boxes) == 0:
        return []
    candidates: dict[CropKind, list[FloatBox]] = {
        # The rarest first: random crops find room anywhere.
        "seam": list(_on_seams(x_px, y_px, seams_x_px, seams_y_px, boxes, seed, crop_px)),
        "densest": _densest(x_px, y_px, boxes, crop_px),
        "random": _at_random(boxes, seed, crop_px),
    }
    taken: list[FloatBox] = []
    chosen: dict[CropKind, list[FloatBox]] = {}
    for kind, found in candidates.items():
        apart = _disjoint(found, taken, [])
        chosen[kind] = apart + _disjoint(found, apart, apart)
        taken += chosen[kind]
    kinds: tuple[CropKind, ...] = ("random", "densest", "seam")
    return [CropChoice(kind, box) for kind in kinds for box in chosen[kind]]


def _disjoint(
    candidates: Iterable[FloatBox], avoided: list[FloatBox], counted: list[FloatBox]
) -> list[FloatBox]:
    """Return the first candidates that overlap neither the avoided ones nor each other."""
    picked: list[FloatBox] = []
    for box in candidates:
        if len(picked) + len(counted) == CROPS_OF_A_KIND:
            break
        if not any(_overlap(box, other) for other in (*avoided, *picked)):
            picked.append(box)
    return picked


def _overlap(one: FloatBox, other: FloatBox) -> bool:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return across > 0 and down > 0


def _placed(x_px: float, y_px: float, extent: FloatBox, crop_px: float) -> FloatBox:
    """Return the crop with that corner, moved into the extent of all that was analysed."""
    left, top, width, height = extent
    x = max(left, min(float(x_px), left + width - crop_px))
    y = max(top, min(float(y_px), top + height - crop_px))
    return x, y, crop_px, crop_px


def _extent(boxes: NDArray[np.float64]) -> FloatBox:
    """Return the smallest box around all boxes."""
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(axis=0).tolist()
    return left, top, right - left, bottom - top


def _at_random(boxes: NDArray[np.float64], seed: int, crop_px: float) -> list[FloatBox]:
    rng = np.random.default_rng([seed, 0])
    area = boxes[:, 2] * boxes[:, 3]
    share = area / area.sum() if area.sum() > 0 else None
    inside = boxes[rng.choice(len(boxes), _CANDIDATES, p=share)]
    # Within one tile if it is larger than a crop, else centred on it.
    room = inside[:, 2:] - crop_px
    corner = inside[:, :2] + np.where(room > 0, room * rng.random(room.shape), room / 2)
    extent = _extent(boxes)
    return [_placed(x, y, extent, crop_px) for x, y in corner.tolist()]


def _densest(
    x_px: NDArray[np.float64], y_px: NDArray[np.float64], boxes: NDArray[np.float64], crop_px: float
) -> list[FloatBox]:
    """Return crops by falling number of centroids; of equals the first by (row, col)."""
    if len(x_px) == 0:
        return []
    step = crop_px / 2
    row, col = (np.floor(v / step).astype(np.int64) + 1 for v in (y_px, x_px))
    # One more column than there are, so that a neighbour's key never wraps into a row.
    stride = int(col.max()) + 2
    bins, n = np.unique(row * stride + col, return_counts=True)
    corners = np.concatenate([bins - down * stride - right for down in (0, 1) for right in (0, 1)])
    corner, position = np.unique(corners, return_inverse=True)
    n_in_crop = np.bincount(position, np.tile(n, 4))
    best = np.lexsort((corner, -n_in_crop))[:_CANDIDATES]
    rows, cols = np.divmod(corner[best], stride)
    starts = zip(((cols - 1) * step).tolist(), ((rows - 1) * step).tolist(), strict=True)
    extent = _extent(boxes)
    return [_placed(x, y, extent, crop_px) for x, y in starts]


def _on_seams(
    x_px: NDArray[np.float64],
    y_px: NDArray[np.float64],
    seams_x_px: Sequence[float] | NDArray[np.float64],
    seams_y_px: Sequence[float] | NDArray[np.float64],
    boxes: NDArray[np.float64],
    seed: int,
    crop_px: float,
) -> Iterator[FloatBox]:
    """Yield crops centred on a seam, each beside a nucleus within a quarter of a crop."""
    near_x, gap_x = _nearest(x_px, seams_x_px)
    near_y, gap_y = _nearest(y_px, seams_y_px)
    candidates = np.flatnonzero(np.minimum(gap_x, gap_y) <= crop_px / 4)
    rng, extent = np.random.default_rng([seed, 1]), _extent(boxes)
    for i in rng.permutation(candidates)[:_CANDIDATES]:
        upright = gap_x[i] <= gap_y[i]
        x, y = (near_x[i], y_px[i]) if upright else (x_px[i], near_y[i])
        aside = (1.0, 0.0) if upright else (0.0, 1.0)
        if all(_analysed(boxes, x + s * aside[0], y + s * aside[1]) for s in (-1, 1)):
            yield _placed(x - crop_px / 2, y - crop_px / 2, extent, crop_px)


def _nearest(
    values: NDArray[np.float64], seams: Sequence[float] | NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the seam nearest to each value and its distance (infinite without seams)."""
    lines = np.unique(np.concatenate([[-np.inf], np.asarray(seams, np.float64), [np.inf]]))
    after = np.clip(np.searchsorted(lines, values), 1, len(lines) - 1)
    nearer = np.where(values - lines[after - 1] <= lines[after] - values, after - 1, after)
    return lines[nearer], np.abs(values - lines[nearer])


def _analysed(boxes: NDArray[np.float64], x: float, y: float) -> bool:
    left, top, width, height = boxes.T
    inside = (left <= x) & (x < left + width) & (top <= y) & (y < top + height)
    return bool(inside.any())
