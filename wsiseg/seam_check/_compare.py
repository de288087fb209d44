"""Holding the nuclei of two grids of tiles against each other, near seams and elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.plan import RunPlan
from wsiseg.regions import union_of
from wsiseg.seam_check._matching import Masks, Matching, match_masks
from wsiseg.seam_check._report import DifferenceKind, GridCounts, SeamCounts, SeamDifference
from wsiseg.seam_check._squares import in_boxes, ran_there, seam_distance_px

AROUND_PX = 64
"""Nuclei so far outside a square are partners; the middles of two versions of one nucleus are
closer than its own size."""
_ALMOST_EQUAL_IOU = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the nuclei of one grid are."""

    x_px: NDArray[np.float64]
    y_px: NDArray[np.float64]
    counted: NDArray[np.bool_]
    """In a square, and where both grids ran a tile."""
    left_out: NDArray[np.bool_]
    """In a square, but not where both grids ran a tile."""
    seam_px: tuple[NDArray[np.float64], NDArray[np.float64]]
    """To the nearest seam of the grid that is checked, and of the moved one."""
    near: NDArray[np.bool_]


def _places(
    first: RunPlan,
    moved: RunPlan,
    squares: Sequence[Box],
    masks: Masks,
    plan: RunPlan,
    near_px: int,
) -> Places:
    x, y = masks.centroid_px
    inside = in_boxes(squares, x, y)
    if plan.regions:
        # Nuclei beyond a region's edge are not stored, so partners of those near it may lack.
        scale = plan.frame.scale
        within = union_of(plan.regions).buffer(-AROUND_PX * scale)
        inside &= shapely.contains_xy(within, x * scale, y * scale)
    both = np.ones(len(masks), np.bool_)
    for grid in (first, moved):
        both &= ran_there(grid.grid, [tile for tile, _ in grid.tiles], x, y)
    distance = tuple(seam_distance_px(grid.grid, x, y) for grid in (first, moved))
    return Places(
        x_px=x,
        y_px=y,
        counted=inside & both,
        left_out=inside & ~both,
        seam_px=(distance[0], distance[1]),
        near=np.minimum(*distance) < near_px,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One moved grid against the grid that is checked."""

    counts: GridCounts
    n_left_out: int
    differences: list[SeamDifference]


def compare_grids(
    first: RunPlan,
    moved: RunPlan,
    squares: Sequence[Box],
    masks: Masks,
    moved_masks: Masks,
    plan: RunPlan,
    near_px: int,
) -> Comparison:
    here = _places(first, moved, squares, masks, plan, near_px)
    there = _places(first, moved, squares, moved_masks, plan, near_px)
    found = match_masks(masks, moved_masks)
    offset_px = moved.options.grid_offset_px
    return Comparison(
        GridCounts(
            offset_px,
            _counts(found, here.counted & here.near, there.counted & there.near),
            _counts(found, here.counted & ~here.near, there.counted & ~there.near),
        ),
        int(here.left_out.sum() + there.left_out.sum()),
        _differences(found, here, there, offset_px, plan.frame.scale),
    )


def _counts(found: Matching, here: NDArray[np.bool_], there: NDArray[np.bool_]) -> SeamCounts:
    """Count nuclei of a place; a matched pair is where its nucleus of the checked grid is."""
    iou = found.iou[here]
    return SeamCounts(
        n=len(iou),
        matched=int((iou > 0).sum()),
        matched_90=int((iou > _ALMOST_EQUAL_IOU).sum()),
        identical=int((iou == 1).sum()),
        new=int((there & ~found.is_matched).sum()),
        split=int((here & found.holds_two).sum()),
        merged=int((there & found.is_two).sum()),
    )


def _differences(
    found: Matching, here: Places, there: Places, offset_px: int, scale: float
) -> list[SeamDifference]:
    changed = (found.partner >= 0) & (found.iou <= _ALMOST_EQUAL_IOU)
    chosen: tuple[tuple[DifferenceKind, Places, NDArray[np.bool_]], ...] = (
        ("lost", here, here.counted & (found.partner < 0)),
        ("new", there, there.counted & ~found.is_matched),
        ("doubled", here, here.counted & found.holds_two),
        ("doubled", there, there.counted & found.is_two),
        ("changed", here, here.counted & changed),
        ("no tile", here, here.left_out),
        ("no tile", there, there.left_out),
    )
    return [
        SeamDifference(
            kind=kind,
            offset_px=offset_px,
            x=float(places.x_px[i] * scale),
            y=float(places.y_px[i] * scale),
            iou=float(found.iou[i]) if places is here else 0.0,
            seam_px=float(places.seam_px[0][i]),
            moved_seam_px=float(places.seam_px[1][i]),
            near=bool(places.near[i]),
        )
        for kind, places, which in chosen
        for i in np.flatnonzero(which)
    ]
