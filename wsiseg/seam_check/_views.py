"""Pictures of the nuclei that a moved grid changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.pictures import SeamView, draw_seam_sheet, encode_png
from wsiseg.plan import RunPlan
from wsiseg.seam_check._matching import Masks
from wsiseg.seam_check._report import SeamDifference, SeamReport
from wsiseg.seam_check._squares import seam_lines
from wsiseg.slides import read_frame

_MOST_DRAWN = 24
_SIDE_PX = 96


def drawn_differences(
    report: SeamReport, grids: Sequence[RunPlan], found: Sequence[Masks]
) -> bytes:
    """Return a PNG of the places that differ most.

    Parameters
    ----------
    report : SeamReport
        Its differences are drawn in order, each place once.
    grids : sequence of RunPlan
        The grid that is checked, then the moved ones.
    found : sequence of Masks
        The nuclei of each.
    """
    by_offset = {
        plan.options.grid_offset_px: (plan, masks)
        for plan, masks in zip(grids[1:], found[1:], strict=True)
    }
    views = [
        _view(one, (grids[0], found[0]), by_offset[one.offset_px])
        for one in _apart(report.differences, grids[0].frame.scale)
    ]
    total, near = report.total, report.near
    notes = [
        f"model {report.model}, core {report.core_px} px, margin {report.margin_px} px",
        f"{total.n:,} nuclei, {near.n:,} of them near seams; lost {total.lost}, new {total.new}, "
        f"doubled {total.doubled}, IoU of 0.9 or less {total.matched - total.matched_90}",
    ]
    sheet = draw_seam_sheet(views, grids[0].model_mpp, report.slide, notes)
    return encode_png(sheet)


def _apart(differences: Sequence[SeamDifference], scale: float) -> Iterator[SeamDifference]:
    """Yield the first differences whose pictures do not show one another."""
    drawn: list[SeamDifference] = []
    for one in differences:
        near = _SIDE_PX / 2 * scale
        seen = any(
            max(abs(one.x - other.x), abs(one.y - other.y)) < near
            and one.offset_px == other.offset_px
            for other in drawn
        )
        if not seen and len(drawn) < _MOST_DRAWN:
            drawn.append(one)
            yield one


def _view(
    one: SeamDifference, checked: tuple[RunPlan, Masks], moved: tuple[RunPlan, Masks]
) -> SeamView:
    frame = checked[0].frame
    left, top = (round(value / frame.scale) - _SIDE_PX // 2 for value in (one.x, one.y))
    box = Box(left, top, _SIDE_PX, _SIDE_PX)
    iou = f", IoU {one.iou:.2f}" if one.kind == "changed" else ""
    grids = [plan.grid for plan, _ in (checked, moved)]
    lines = [
        (seam_lines(grid, frame.width_px), seam_lines(grid, frame.height_px)) for grid in grids
    ]
    return SeamView(
        rgb=read_frame(checked[0].slide, frame, box),
        labels=(labels_in(checked[1], box), labels_in(moved[1], box)),
        seams_x_px=(_from(lines[0][0], left), _from(lines[1][0], left)),
        seams_y_px=(_from(lines[0][1], top), _from(lines[1][1], top)),
        caption=f"{one.kind}{iou}: x {one.x:.0f}, y {one.y:.0f}; moved by {one.offset_px} px",
    )


def _from(lines: range, start_px: int) -> list[int]:
    return [line - start_px for line in lines]


def labels_in(masks: Masks, box: Box) -> NDArray[np.int32]:
    """Return the label image of a box: 1, 2, … in the order of the nuclei, 0 elsewhere."""
    labels = np.zeros((box.height_px, box.width_px), np.int32)
    row, start, end = masks.runs.T
    met = (row >= box.y_px) & (row < box.y_end_px) & (end > box.x_px) & (start < box.x_end_px)
    for run, owner in zip(masks.runs[met].tolist(), masks.owner[met].tolist(), strict=True):
        y_px, x_px, x_end_px = run[0] - box.y_px, run[1] - box.x_px, run[2] - box.x_px
        labels[y_px, max(x_px, 0) : x_end_px] = owner + 1
    return labels
