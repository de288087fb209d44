"""A contact sheet of the nuclei that a moved tile grid changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsiseg._drawing import (
    BLACK,
    RGB,
    WHITE,
    LegendEntry,
    Picture,
    beside,
    bordered,
    box_swatch,
    checked_picture,
    legend_strip,
    scale_bar,
    stack,
    text_strip,
)

Pixel = TypeVar("Pixel", bound=np.generic)

_ZOOM = 3
"""Picture pixels per model pixel."""
_GRID_RGB: RGB = (0, 205, 255)
_MOVED_RGB: RGB = (225, 60, 0)
_NOTE_RGB: RGB = (170, 0, 0)
_BORDER_RGB: RGB = (150, 150, 150)
_DASH_PX = 6
_GAP_PX = 6
_PER_ROW = 2
_LEAST_WIDTH_PX = 640


@dataclass(frozen=True, slots=True, eq=False)
class SeamView:
    """A place where two grids of tiles give other nuclei."""

    rgb: Picture
    """(h, w, 3): the slide at model resolution."""
    labels: tuple[NDArray[np.int32], NDArray[np.int32]]
    """(h, w) each: nuclei by the grid that is checked and by the moved one; 0 is background."""
    seams_x_px: tuple[Sequence[int], Sequence[int]]
    """Upright seams of either grid, model pixels from the left edge."""
    seams_y_px: tuple[Sequence[int], Sequence[int]]
    """Level seams."""
    caption: str
    """What is shown."""

    def __post_init__(self) -> None:
        checked_picture("the view", self.rgb)
        for labels in self.labels:
            if labels.shape != self.rgb.shape[:2]:
                raise ValueError(
                    f"labels of shape {labels.shape} for a view of {self.rgb.shape[:2]} px"
                )


def draw_seam_sheet(
    views: Sequence[SeamView], mpp: float, title: str, notes: Sequence[str]
) -> Picture:
    """Draw each place three times: plain, with the nuclei of one grid, and of the other.

    Parameters
    ----------
    views : sequence of SeamView
        What to show, in the given order.
    mpp : float
        µm per model pixel.
    title : str
        Name of the slide.
    notes : sequence of str
        Lines below it.

    Returns
    -------
    ndarray
        (h, w, 3) uint8.
    """
    drawn = [_captioned(view) for view in views]
    rows = [beside(drawn[i : i + _PER_ROW], 3 * _GAP_PX) for i in range(0, len(drawn), _PER_ROW)]
    width_px = max([_LEAST_WIDTH_PX, *(row.shape[1] for row in rows)])
    if not rows:
        rows = [text_strip("No nucleus differs.", 16, width_px)]
    legend = [
        scale_bar(mpp / _ZOOM, "um", 160),
        LegendEntry(box_swatch(_GRID_RGB, WHITE), "grid that is checked"),
        LegendEntry(box_swatch(_MOVED_RGB, WHITE), "moved grid"),
        LegendEntry(box_swatch(WHITE, WHITE), "dashed: where its tiles meet"),
    ]
    head = [
        text_strip(title, 22, width_px),
        *(text_strip(note, 15, width_px) for note in notes),
        legend_strip(legend, 15, width_px),
        text_strip("Research use only. Not for diagnosis.", 14, width_px, _NOTE_RGB),
    ]
    return bordered(stack([stack(head, 4), *rows], 2 * _GAP_PX), 2 * _GAP_PX, WHITE)


def _captioned(view: SeamView) -> Picture:
    plain = _enlarged(view.rgb)
    panels = [plain]
    for which, colour in enumerate((_GRID_RGB, _MOVED_RGB)):
        panel = plain.copy()
        _dash(panel.transpose(1, 0, 2), view.seams_x_px[which])
        _dash(panel, view.seams_y_px[which])
        panel[label_edges(_enlarged(view.labels[which]))] = colour
        panels.append(panel)
    row = beside([bordered(panel, 1, _BORDER_RGB) for panel in panels], _GAP_PX)
    return stack([row, text_strip(view.caption, 13, row.shape[1])], 2)


def _enlarged(pixels: NDArray[Pixel]) -> NDArray[Pixel]:
    return np.repeat(np.repeat(pixels, _ZOOM, axis=0), _ZOOM, axis=1)


def _dash(picture: Picture, seams_px: Sequence[int]) -> None:
    """Draw level dashed lines, each on the upper edge of that model row."""
    dark = np.arange(picture.shape[1]) // _DASH_PX % 2 == 0
    for seam in seams_px:
        row = seam * _ZOOM
        if 0 <= row < picture.shape[0]:
            picture[row, dark] = BLACK


def label_edges(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return the pixels of nuclei with a neighbour, above, below or beside, that is not its own.

    Beyond the picture a nucleus goes on, so there is no line.
    """
    edge = np.zeros(labels.shape, np.bool_)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    edge &= labels != 0
    return edge
