"""Test-time augmentation: the mean of what a network says of a block turned and mirrored.

Works on the bytes of `Maps`, so for every model and backend alike.  The horizontal and vertical
distances are the parts of a vector: a flip changes the sign of one, a turn swaps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsiseg.models import Predictor
from wsiseg.records import Maps

Byte = TypeVar("Byte", np.uint8, np.int8)


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the eight ways to lay a square upon itself: rows and columns swapped, then flips."""

    swapped: bool
    """Rows become columns."""
    rows: bool
    """Rows are in reverse order, after that."""
    cols: bool
    """Columns are in reverse order, after that."""

    def of_blocks(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn (n, h, w, 3) blocks; (n, w, h, 3) if rows and columns are swapped."""
        turned = rgb.transpose(0, 2, 1, 3) if self.swapped else rgb
        return np.ascontiguousarray(turned[:, self._row_step, self._col_step])

    def back(self, maps: Maps) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.uint8]]:
        """Turn the maps of a turned block back: nucleus, distances, classes."""
        # Bytes of distances reach from -127 to 127, so there is a byte for each sign.
        signs = np.array([-1 if self.cols else 1, -1 if self.rows else 1], np.int8)
        hv: NDArray[np.int8] = self._back(maps.hv) * signs[:, np.newaxis, np.newaxis]
        if self.swapped:
            hv = hv[::-1]
        return self._back(maps.nucleus), hv, self._back(maps.classes)

    def _back(self, planes: NDArray[Byte]) -> NDArray[Byte]:
        """Turn planes (…, h, w) back."""
        flipped = planes[..., self._row_step, self._col_step]
        return np.swapaxes(flipped, -1, -2) if self.swapped else flipped

    @property
    def _row_step(self) -> slice:
        return slice(None, None, -1 if self.rows else 1)

    @property
    def _col_step(self) -> slice:
        return slice(None, None, -1 if self.cols else 1)


_SIDES = (False, True)
_FLIPS = tuple(Turn(False, rows, cols) for rows in _SIDES for cols in _SIDES)
TURNS: dict[str, tuple[Turn, ...]] = {
    "none": _FLIPS[:1],
    "flips": _FLIPS,
    "flips+turns": _FLIPS + tuple(Turn(True, rows, cols) for rows in _SIDES for cols in _SIDES),
}
"""By `Numerics.tta`; the first is the block as it is.  Each is a group, so that what a turned
block gives is to the last bit what the block gives, turned."""


@dataclass(frozen=True, slots=True)
class AveragedPredictor:
    """A predictor that asks another about every turn of its blocks."""

    predictor: Predictor
    """What is asked."""
    turns: tuple[Turn, ...]
    """Of the blocks."""

    def __call__(self, rgb: NDArray[np.uint8]) -> Sequence[Maps]:
        """Return the mean maps of (n, h, w, 3) blocks.

        Means of bytes are rounded to the nearest, halves to the even one, so that a change of
        sign and the order of the turns make no difference.
        """
        sums: list[list[NDArray[np.int16]]] = []
        for turn in self.turns:
            found = [turn.back(maps) for maps in self.predictor(turn.of_blocks(rgb))]
            if not sums:
                sums = [[part.astype(np.int16) for part in parts] for parts in found]
            else:
                for of_block, parts in zip(sums, found, strict=True):
                    for total, part in zip(of_block, parts, strict=True):
                        total += part
        return list(self._means(sums))

    def _means(self, sums: list[list[NDArray[np.int16]]]) -> Iterator[Maps]:
        n = np.float32(len(self.turns))
        for nucleus, hv, classes in sums:
            yield Maps(
                np.rint(nucleus / n).astype(np.uint8),
                np.rint(hv / n).astype(np.int8),
                np.rint(classes / n).astype(np.uint8),
            )


def averaged(predictor: Predictor, tta: str) -> Predictor:
    """Return a predictor that averages over the turns named; for `none` the one given.

    Test-time augmentation as in Simonyan and Zisserman 2015 (arXiv:1409.1556, section 3.2),
    on maps.

    Parameters
    ----------
    predictor : Predictor
        Of any model.
    tta : str
        `none`, `flips` (4 calls) or `flips+turns` (8 calls).
    """
    return predictor if tta == "none" else AveragedPredictor(predictor, TURNS[tta])
