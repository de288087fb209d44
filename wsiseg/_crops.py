"""Choosing a few places of a slide that a person should look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

CropKind = Literal["random", "densest", "uncertain", "seam"]
"""Why a crop is shown."""
FloatBox = tuple[float, float, float, float]
"""Left, top, width, height."""

CROPS_OF_A_KIND = 3
"""How many crops of each kind are chosen where there is room."""

LEAST_JUDGED = 6
"""Crops with fewer nuclei are no candidates for the least certain: one odd nucleus would do."""

_CANDIDATES = 256
_CERTAINTY_STEPS = 65_536
"""Certainties are summed as whole numbers, so that no order of pieces changes a sum."""


@dataclass(frozen=True, slots=True)
class CropChoice:
    """A place to show."""

    kind: CropKind
    """Why."""
    box: FloatBox
    """Where, in level-0 pixels."""


class Centroids(NamedTuple):
    """Where some of the nuclei are."""

    cell_id: NDArray[np.integer]
    """(n,): whole numbers, each once."""
    x_px: NDArray[np.float64]
    """(n,): level-0 pixels."""
    y_px: NDArray[np.float64]
    """(n,): level-0 pixels."""
    certainty: NDArray[np.floating] | None = None
    """(n,): 0 to 1, how sure the network is of each; NaN where it did not say, None if of none."""


def choose_crops(
    centroids: Iterable[Centroids],
    seams_x_px: Sequence[float] | NDArray[np.float64],
    seams_y_px: Sequence[float] | NDArray[np.float64],
    analysed: Sequence[FloatBox] | NDArray[np.float64],
    seed: int,
    crop_px: float,
) -> list[CropChoice]:
    """Choose random places, the densest, the least certain, and seams: up to three of each.

    A random place is uniform over the analysed area, whether it shows nuclei or not.  The
    densest places are the fullest crops of a grid of half a crop's step; the least certain are
    those of the lowest mean certainty, of at least `LEAST_JUDGED` nuclei.  Seam crops are
    centred on a seam, beside a nucleus chosen by a hash of its id; both sides were analysed.  Crops
    of one kind never overlap, and those of different kinds only where there is no other.

    Of the nuclei only counts in squares and a few candidates are held, so memory does not grow
    with their number; how they are divided into pieces makes no difference.

    Parameters
    ----------
    centroids : iterable of Centroids
        All nuclei, in pieces.
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
        Random, densest, least certain ones, then those on seams; empty if nothing was analysed.
    """
    boxes = np.asarray(analysed, np.float64).reshape(-1, 4)
    if len(boxes) == 0:
        return []
    squares = _Squares(_extent(boxes), crop_px / 2)
    beside = _Beside(seams_x_px, seams_y_px, crop_px / 4, seed)
    for piece in centroids:
        squares.add(piece)
        beside.add(piece)
    candidates: dict[CropKind, list[FloatBox]] = {
        # The rarest first: random crops find room anywhere.
        "seam": list(_on_seams(beside, boxes, crop_px)),
        "uncertain": _least_certain(squares, boxes, crop_px),
        "densest": _densest(squares, boxes, crop_px),
        "random": _at_random(boxes, seed, crop_px),
    }
    taken: list[FloatBox] = []
    chosen: dict[CropKind, list[FloatBox]] = {}
    for kind, found in candidates.items():
        apart = _disjoint(found, taken, [])
        chosen[kind] = apart + _disjoint(found, apart, apart)
        taken += chosen[kind]
    kinds: tuple[CropKind, ...] = ("random", "densest", "uncertain", "seam")
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


class _Squares:
    """How many centroids lie in each square of a grid that starts at (0, 0), and how certain."""

    def __init__(self, extent: FloatBox, step_px: float) -> None:
        left, top, width, height = extent
        self.step_px = step_px
        # Nuclei may lie a little outside; what is farther off counts at the edge.
        self.first_row, self.first_col = (math.floor(v / step_px) - 2 for v in (top, left))
        last_row, last_col = (math.floor(v / step_px) + 2 for v in (top + height, left + width))
        self.n = np.zeros((last_row - self.first_row, last_col - self.first_col), np.int64)
        self.n_judged = np.zeros_like(self.n)
        self.certainty = np.zeros_like(self.n)

    def add(self, piece: Centroids) -> None:
        """Count some centroids."""
        row, col = (
            np.clip(np.floor(values / self.step_px).astype(np.int64) - first, 0, size - 1)
            for values, first, size in zip(
                (piece.y_px, piece.x_px),
                (self.first_row, self.first_col),
                self.n.shape,
                strict=True,
            )
        )
        place = row * self.n.shape[1] + col
        self.n += self._sums(place)
        if piece.certainty is not None:
            known = np.isfinite(piece.certainty)
            steps = np.rint(piece.certainty[known] * _CERTAINTY_STEPS)
            self.n_judged += self._sums(place[known])
            self.certainty += self._sums(place[known], steps)

    def _sums(
        self, place: NDArray[np.int64], weights: NDArray[np.floating] | None = None
    ) -> NDArray[np.int64]:
        found = np.bincount(place, weights, self.n.size)
        return np.asarray(found, np.int64).reshape(self.n.shape)

    def of_crops(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sums of a value over each crop: two by two squares."""
        v = np.pad(values, 1)
        return np.asarray(v[:-1, :-1] + v[:-1, 1:] + v[1:, :-1] + v[1:, 1:])

    def placed(
        self, row: NDArray[np.intp], col: NDArray[np.intp], extent: FloatBox, crop_px: float
    ) -> list[FloatBox]:
        """Return crops by their places in `of_crops`."""
        x = ((col - 1 + self.first_col) * self.step_px).tolist()
        y = ((row - 1 + self.first_row) * self.step_px).tolist()
        return [_placed(*at, extent, crop_px) for at in zip(x, y, strict=True)]


def _densest(squares: _Squares, boxes: NDArray[np.float64], crop_px: float) -> list[FloatBox]:
    """Return crops by falling number of centroids; of equals the first by (row, col)."""
    n_in_crop = squares.of_crops(squares.n)
    row, col = np.nonzero(n_in_crop)
    best = np.lexsort((col, row, -n_in_crop[row, col]))[:_CANDIDATES]
    return squares.placed(row[best], col[best], _extent(boxes), crop_px)


def _least_certain(squares: _Squares, boxes: NDArray[np.float64], crop_px: float) -> list[FloatBox]:
    """Return crops by rising mean certainty; of equals the first by (row, col)."""
    n_in_crop = squares.of_crops(squares.n_judged)
    row, col = np.nonzero(n_in_crop >= LEAST_JUDGED)
    mean = squares.of_crops(squares.certainty)[row, col] / n_in_crop[row, col]
    best = np.lexsort((col, row, mean))[:_CANDIDATES]
    return squares.placed(row[best], col[best], _extent(boxes), crop_px)


class _Beside:
    """Some nuclei near seams, those whose ids have the smallest hashes."""

    def __init__(
        self,
        seams_x_px: Sequence[float] | NDArray[np.float64],
        seams_y_px: Sequence[float] | NDArray[np.float64],
        reach_px: float,
        seed: int,
    ) -> None:
        self._seams_px = seams_x_px, seams_y_px
        self._reach_px = reach_px
        self._seed = seed
        self._hash = np.empty(0, np.uint64)
        self._places = np.empty((0, 3), np.float64)

    def add(self, piece: Centroids) -> None:
        """Look at some nuclei."""
        x, y = piece.x_px, piece.y_px
        near_x, gap_x = _nearest(x, self._seams_px[0])
        near_y, gap_y = _nearest(y, self._seams_px[1])
        near = np.flatnonzero(np.minimum(gap_x, gap_y) <= self._reach_px)
        upright = (gap_x <= gap_y)[near]
        centre_x = np.where(upright, near_x[near], x[near])
        centre_y = np.where(upright, y[near], near_y[near])
        hashes = np.concatenate([self._hash, _hashed(piece.cell_id[near], self._seed)])
        places = np.vstack([self._places, np.column_stack([centre_x, centre_y, upright])])
        first = np.argsort(hashes)[:_CANDIDATES]
        self._hash, self._places = hashes[first], places[first]

    def places(self) -> Iterator[tuple[float, float, bool]]:
        """Yield (x, y, whether the seam is upright) on the seam, by rising hash."""
        for x, y, upright in self._places.tolist():
            yield x, y, bool(upright)


def _hashed(cell_id: NDArray[np.integer], seed: int) -> NDArray[np.uint64]:
    """Return a permutation of the 64-bit words (SplitMix64), so that ids never tie."""
    mixed = cell_id.astype(np.uint64) + np.uint64(seed % 2**32 << 32)
    mixed *= np.uint64(0x9E37_79B9_7F4A_7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def _on_seams(beside: _Beside, boxes: NDArray[np.float64], crop_px: float) -> Iterator[FloatBox]:
    """Yield crops centred on a seam, each beside a nucleus within a quarter of a crop."""
    extent = _extent(boxes)
    for x, y, upright in beside.places():
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
