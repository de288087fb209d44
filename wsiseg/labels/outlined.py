"""From outlines, and from masks that overlap, to one label per pixel.

A pixel belongs to an outline if its centre does: pixel (i, j) covers [j, j+1) × [i, i+1), its
centre is (j + 0.5, i + 0.5).  A centre on the line belongs to the right or lower side.  What an
outline winds around counts as inside, also where it crosses itself.

Nuclei that overlap
-------------------
* Pixels of two nuclei go to the smaller one (fewer pixels; of equals the first of the file), as
  that has more to lose; of a nucleus that lost pixels the largest 4-connected part stays.
* If one covers more than half of the other, that is refused, or where the user says so resolved:
  where their intersection over union is above one half the one further back in the file is
  dropped (the same nucleus twice), else the rule above holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable
from wsiseg.geometry import Box
from wsiseg.labels.options import OverlapRule

_COVERED_SHARE = 0.5
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """The pixels of one nucleus."""

    box: Box
    """In the image, not larger than needed."""
    mask: NDArray[np.bool_]
    """(box height, box width)."""
    title: str
    """How messages call it."""


@dataclass(frozen=True, slots=True, eq=False)
class LaidDown:
    """Nuclei with one label per pixel."""

    instances: NDArray[np.int32]
    """(h, w): 1 to n."""
    kept: NDArray[np.int64]
    """(n,): which patch became each."""
    counts: Counter[str]
    """What was settled by rule, and how often."""


def fill_rings(
    rings: Sequence[NDArray[np.float64]], width_px: int, height_px: int
) -> tuple[Box, NDArray[np.bool_]]:
    """Return the pixels of one polygon in an image.

    Parameters
    ----------
    rings : sequence of ndarray, (n, 2), float64
        (x, y); the outside first, then holes; closed or not.
    width_px, height_px : int
        Size of the image; what is outside is cut off.

    Returns
    -------
    box : Box
        Around the outside ring, clipped to the image; its area may be 0.
    mask : ndarray, (box height, box width), bool
    """
    low = np.floor(rings[0].min(axis=0)).clip(0, (width_px, height_px)).astype(int)
    high = np.ceil(rings[0].max(axis=0)).clip(low, (width_px, height_px)).astype(int)
    box = Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
    mask = _wound(rings[0], box)
    for hole in rings[1:]:
        mask &= ~_wound(hole, box)
    return box, mask


def _wound(ring: NDArray[np.float64], box: Box) -> NDArray[np.bool_]:
    """Return which pixel centres of a box a ring winds around."""
    x0, y0 = ring[:, 0], ring[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    centre = np.arange(box.height_px)[:, None] + (box.y_px + 0.5)
    down = (y0 <= centre) & (centre < y1)
    up = (y1 <= centre) & (centre < y0)
    row, edge = np.nonzero(down | up)
    share = (centre[row, 0] - y0[edge]) / (y1[edge] - y0[edge])
    crossing = x0[edge] + share * (x1[edge] - x0[edge])
    # From the first centre not left of a crossing on, the ring is wound around once more or less.
    first = np.ceil(crossing - 0.5 - box.x_px).clip(0, box.width_px).astype(np.int64)
    turns = np.zeros((box.height_px, box.width_px + 1), np.int32)
    np.add.at(turns, (row, first), np.where(down[row, edge], 1, -1))
    wound: NDArray[np.bool_] = turns.cumsum(axis=1)[:, :-1] != 0
    return wound


def patch_of(
    polygons: Sequence[Sequence[NDArray[np.float64]]], title: str, width_px: int, height_px: int
) -> Patch | None:
    """Return the pixels of a nucleus of one or several polygons; None if it has none."""
    filled = [fill_rings(rings, width_px, height_px) for rings in polygons]
    filled = [(box, mask) for box, mask in filled if mask.any()]
    if not filled:
        return None
    if len(filled) == 1:
        return Patch(*_trimmed(*filled[0]), title)
    x, y = min(box.x_px for box, _ in filled), min(box.y_px for box, _ in filled)
    x_end, y_end = max(box.x_end_px for box, _ in filled), max(box.y_end_px for box, _ in filled)
    whole = Box(x, y, x_end - x, y_end - y)
    together = np.zeros((whole.height_px, whole.width_px), np.bool_)
    for box, mask in filled:
        together[box.slices_in(whole)] |= mask
    return Patch(*_trimmed(whole, together), title)


def _trimmed(box: Box, mask: NDArray[np.bool_]) -> tuple[Box, NDArray[np.bool_]]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inner = Box(
        box.x_px + int(cols[0]),
        box.y_px + int(rows[0]),
        int(cols[-1] - cols[0]) + 1,
        int(rows[-1] - rows[0]) + 1,
    )
    return inner, mask[inner.slices_in(box)]


def patches_of_labels(labels: NDArray[np.int32], titles: Sequence[str]) -> list[Patch]:
    """Return the nuclei of a label image of 1 to n."""
    # Scipy takes long to import.
    from scipy.ndimage import find_objects

    found = []
    for k, (rows, cols) in enumerate(find_objects(labels), start=1):
        box = Box(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        found.append(Patch(box, labels[rows, cols] == k, titles[k - 1]))
    return found


def lay_down(
    patches: Sequence[Patch], width_px: int, height_px: int, where: str, overlaps: OverlapRule
) -> LaidDown:
    """Give each pixel to one nucleus; the module's text has the rules.

    Parameters
    ----------
    patches : sequence of Patch
        In the order of the file, each with at least one pixel, inside the image.
    width_px, height_px : int
        Size of the image.
    where : str
        What messages call the file.
    overlaps : {"refuse", "resolve"}
        What to do if one covers more than half of another.

    Raises
    ------
    LabelsNotReadable
        If one covers more than half of another, and that is to be refused.
    """
    area_px = np.array([np.count_nonzero(patch.mask) for patch in patches], np.int64)
    first, second, common_px = _common(patches)
    counts: Counter[str] = Counter()
    smaller_px = np.minimum(area_px[first], area_px[second])
    heavy = np.flatnonzero(common_px > _COVERED_SHARE * smaller_px)
    dropped: set[int] = set()
    if len(heavy) and overlaps == "refuse":
        raise _covered(patches, first[heavy], second[heavy], common_px[heavy], area_px, where)
    pairs = list(zip(first.tolist(), second.tolist(), common_px.tolist(), strict=True))
    for i, j, n in (pairs[k] for k in heavy):
        union_px = int(area_px[i] + area_px[j]) - n
        if n > _COVERED_SHARE * union_px and not {i, j} & dropped:
            dropped.add(j)
            counts["nuclei drawn twice: the later outline was dropped"] += 1
    canvas = np.zeros((height_px, width_px), np.int32)
    order = np.lexsort((-np.arange(len(patches)), -area_px))
    for k in (k for k in order.tolist() if k not in dropped):
        canvas[patches[k].box.slices][patches[k].mask] = k + 1
    losers = {*first.tolist(), *second.tolist()} - dropped
    for k in sorted(losers):
        _keep_largest_part(canvas, patches[k], k + 1)
    n_left = np.bincount(canvas.ravel(), minlength=len(patches) + 1)[1:]
    shared = sum(not {i, j} & dropped for i, j, _ in pairs)
    if shared:
        counts["pairs of nuclei that overlap: common pixels went to the smaller one"] += shared
    gone = sum(not n_left[k] for k in losers)
    if gone:
        counts["nuclei wholly covered by others: dropped"] += gone
    kept = np.flatnonzero(n_left)
    table = np.zeros(len(patches) + 1, np.int32)
    table[kept + 1] = np.arange(1, len(kept) + 1)
    return LaidDown(table[canvas], kept, counts)


def _common(
    patches: Sequence[Patch],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of patches with common pixels (the earlier first), and how many."""
    corners = np.array(
        [(p.box.x_px, p.box.y_px, p.box.x_end_px, p.box.y_end_px) for p in patches], np.float64
    ).reshape(-1, 4)
    boxes = shapely.box(*corners.T)
    found = []
    if len(patches):
        near = shapely.STRtree(boxes).query(boxes)
        for i, j in sorted(zip(*near.tolist(), strict=True)):
            if i < j and (common_px := _common_px(patches[i], patches[j])):
                found.append((i, j, common_px))
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _common_px(one: Patch, other: Patch) -> int:
    box = one.box.intersection(other.box)
    if not box.area_px:
        return 0
    both = one.mask[box.slices_in(one.box)] & other.mask[box.slices_in(other.box)]
    return int(np.count_nonzero(both))


def _keep_largest_part(canvas: NDArray[np.int32], patch: Patch, label: int) -> None:
    """Take all but the largest 4-connected part of a nucleus off the canvas.

    A nucleus that lost nothing keeps its parts: they are the annotator's.
    """
    window = canvas[patch.box.slices]
    left = window == label
    if left.sum() == patch.mask.sum():
        return
    n, parts, statistics, _ = cv2.connectedComponentsWithStats(
        left.astype(np.uint8), connectivity=4
    )
    if n > 2:
        # Parts are numbered in raster order; argmax takes the first of equals.
        largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
        window[left & (parts != largest)] = 0


def _covered(
    patches: Sequence[Patch],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    common_px: NDArray[np.int64],
    area_px: NDArray[np.int64],
    where: str,
) -> LabelsNotReadable:
    said = []
    for i, j, n in zip(first[:_MOST_NAMED], second, common_px, strict=False):
        small, large = (i, j) if area_px[i] <= area_px[j] else (j, i)
        said.append(
            f"{patches[large].title} covers {n / area_px[small]:.0%} of {patches[small].title}"
        )
    more = f" and {len(first) - _MOST_NAMED} more" if len(first) > _MOST_NAMED else ""
    return LabelsNotReadable(
        f"{where}: {'; '.join(said)}{more}; a pixel can belong to one nucleus only: correct the "
        'file, or have such pairs settled by rule (overlaps = "resolve")'
    )
