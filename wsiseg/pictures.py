"""Pictures that a person looks at first: the slide's thumbnail and a contact sheet of crops.

Drawing functions take arrays and give arrays; only `encode_png` knows a file format.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsiseg._crops import Centroids, CropChoice, CropKind, FloatBox, choose_crops
from wsiseg._drawing import (
    BLACK,
    RGB,
    TEXT,
    WHITE,
    LegendEntry,
    Picture,
    beside,
    blank,
    bordered,
    box_swatch,
    checked_picture,
    legend_strip,
    line_swatch,
    paint,
    ring_edge,
    scale_bar,
    stack,
    text_strip,
)
from wsiseg._seam_sheet import SeamView, draw_seam_sheet
from wsiseg.geometry import Frame
from wsiseg.records import UNKNOWN_CLASS

__all__ = [
    "Centroids",
    "Crop",
    "CropChoice",
    "CropKind",
    "Picture",
    "SeamView",
    "choose_crops",
    "draw_crop",
    "draw_overlay",
    "draw_seam_sheet",
    "draw_thumbnail",
    "encode_png",
]

ZOOM = 2
"""Picture pixels per model pixel in the contact sheet."""
RESEARCH_USE_ONLY = "Research use only. Not for diagnosis."

_UNKNOWN_RGB: RGB = (0, 0, 0)
_TISSUE_RGB: RGB = (0, 130, 60)
_ROI_RGB: RGB = (0, 70, 220)
_TILE_RGB: RGB = (60, 60, 90)
_VEIL_RGB: RGB = (190, 190, 190)
_OPACITY = 0.4
_UNREADABLE_RGB: RGB = (220, 0, 0)
_BORDER_RGB: RGB = (150, 150, 150)
_NOTE_RGB: RGB = (170, 0, 0)
_FLAG_RGB: dict[str, RGB] = {
    "blurred": (230, 120, 0),
    "ink": (0, 160, 200),
    "fold": (150, 0, 190),
    "dark": (20, 20, 20),
    "not-h-and-e": (0, 150, 0),
    "low-confidence": (200, 170, 0),
    "unlike-training": (220, 60, 140),
}
"""Colour of each flag of `wsiseg.quality`; others are drawn in grey."""
_OTHER_FLAG_RGB: RGB = (110, 110, 110)
_FLAG_LINE_PX = 2
_FLAG_SWATCH_PX = 14
_DASH_PX = 8
_MARGIN_PX = 16
_LEAST_WIDTH_PX = 640
_SHIFT_BITS = 4
_HEADINGS: dict[CropKind, str] = {
    "random": "Random: anywhere in the analysed area",
    "densest": "Densest: where most nuclei are",
    "uncertain": "Least certain: where the network doubts most",
    "seam": "Seams: where tiles meet (dashed line)",
}


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A piece of the slide at model resolution and the nuclei in it."""

    rgb: Picture
    """(h, w, 3)."""
    kind: CropKind
    """Why it is shown."""
    outlines: Sequence[NDArray[np.float64]]
    """Rings, each (k, 2) float64 x, y in model pixels from the crop's corner; may reach out."""
    class_indices: Sequence[int]
    """For each ring its 0-based class, `UNKNOWN_CLASS` without one."""
    seams_x_px: Sequence[float] = ()
    """Upright seams, in model pixels from the crop's left edge."""
    seams_y_px: Sequence[float] = ()
    """Level seams, in model pixels from its top edge."""
    box: FloatBox | None = None
    """Where it is, level-0 pixels, for its caption."""

    def __post_init__(self) -> None:
        checked_picture("the crop", self.rgb)
        if len(self.outlines) != len(self.class_indices):
            raise ValueError(
                f"{len(self.outlines)} outlines have {len(self.class_indices)} classes; "
                "as many are needed"
            )


def draw_thumbnail(
    rgb: Picture,
    frame: Frame,
    tissue_rings_px: Sequence[NDArray[np.float64]],
    tiles: Sequence[FloatBox],
    unreadable: Sequence[FloatBox],
    slide_mpp: float,
    slide_name: str = "",
    roi_rings_px: Sequence[NDArray[np.float64]] = (),
    flagged: Sequence[tuple[FloatBox, str]] = (),
) -> Picture:
    """Draw what was looked at: tissue, region of interest, tiles.

    Parameters
    ----------
    rgb : ndarray
        (h, w, 3) uint8: the whole slide.
    frame : Frame
        What `rgb` covers.
    tissue_rings_px, roi_rings_px : sequence of ndarray
        (k, 2) float64 rings, level-0 pixels.
    tiles : sequence of (x, y, width, height)
        Tile cores that ran, level-0 pixels.
    unreadable : sequence of (x, y, width, height)
        Boxes that could not be read, level-0 pixels.
    slide_mpp : float
        µm per level-0 pixel, for the scale bar.
    slide_name : str
        Title; without it there is none.
    flagged : sequence of ((x, y, width, height), str)
        Tiles, level-0 pixels, and what is odd about them; one entry for each of a tile's flags.
        They are framed from the outside in, and counted in the legend.

    Returns
    -------
    ndarray
        (h + legend, at least w, 3) uint8.
    """
    picture = checked_picture("the thumbnail", rgb).copy()
    _draw_tiles(picture, frame.scale, tiles)
    _draw_flags(picture, frame.scale, flagged)
    for box in unreadable:
        _hatch(picture, frame.scale, box)
    _draw_rings(picture, frame.scale, tissue_rings_px, _TISSUE_RGB)
    _draw_rings(picture, frame.scale, roi_rings_px, _ROI_RGB)
    width_px = max(_LEAST_WIDTH_PX, picture.shape[1] + 2)
    entries = [
        scale_bar(slide_mpp * frame.scale / 1000, "mm", min(200, width_px // 4)),
        LegendEntry(line_swatch(_TISSUE_RGB), "tissue"),
        LegendEntry(box_swatch(_TILE_RGB, WHITE), f"tiles that ran: {len(tiles):,}"),
        LegendEntry(box_swatch(_VEIL_RGB, _VEIL_RGB), "not run"),
    ]
    if roi_rings_px:
        entries.append(LegendEntry(line_swatch(_ROI_RGB), "region of interest"))
    if unreadable:
        swatch = box_swatch(_UNREADABLE_RGB, WHITE)
        entries.append(LegendEntry(_hatched(swatch), f"not readable: {len(unreadable):,}"))
    entries += _flag_entries(flagged)
    title = [text_strip(slide_name, 18, width_px)] if slide_name else []
    parts = [
        *title,
        bordered(picture, 1, _BORDER_RGB),
        legend_strip(entries, 15, width_px),
        text_strip(RESEARCH_USE_ONLY, 14, width_px, _NOTE_RGB),
    ]
    return bordered(stack(parts, 4), _MARGIN_PX // 2, WHITE)


def draw_crop(
    crop: Crop, class_names: Sequence[str], class_colours: Mapping[str, RGB]
) -> tuple[Picture, Picture]:
    """Draw one crop, enlarged twice: as it is, and with outlines and seams.

    A model position (x, y) is the corner (2 x, 2 y) of the enlarged pixels.  The line of an
    outline is one pixel thin and lies just inside the nucleus.

    Returns
    -------
    plain, outlined : ndarray
        (2 h, 2 w, 3) uint8 each.
    """
    plain = np.repeat(np.repeat(crop.rgb, ZOOM, axis=0), ZOOM, axis=1)
    outlined = plain.copy()
    for seam in crop.seams_x_px:
        _dash(outlined.transpose(1, 0, 2), seam)
    for seam in crop.seams_y_px:
        _dash(outlined, seam)
    for ring, index in zip(crop.outlines, crop.class_indices, strict=True):
        colour = _UNKNOWN_RGB if index == UNKNOWN_CLASS else class_colours[class_names[index]]
        paint(outlined, *ring_edge(np.asarray(ring, np.float64) * ZOOM), colour)
    return plain, outlined


def draw_overlay(
    crops: Sequence[Crop],
    class_names: Sequence[str],
    class_colours: Mapping[str, RGB],
    mpp: float,
    slide_name: str,
    counts: Mapping[str, int],
) -> Picture:
    """Draw a contact sheet: a row of crops for each kind, each plain and with outlines.

    Parameters
    ----------
    crops : sequence of Crop
        What to show; those of one kind stand in one row, in the given order.
    class_names : sequence of str
        Name of each class index.
    class_colours : mapping
        Colour of each class name.
    mpp : float
        µm per model pixel.
    slide_name : str
        Title.
    counts : mapping
        Number of nuclei on the whole slide by class name; other keys are shown in black.

    Returns
    -------
    ndarray
        (h, w, 3) uint8.
    """
    rows = []
    for kind, heading in _HEADINGS.items():
        pairs = [
            _captioned(crop, class_names, class_colours) for crop in crops if crop.kind == kind
        ]
        if pairs:
            row = beside(pairs, _MARGIN_PX)
            rows.append(stack([text_strip(heading, 18, row.shape[1]), row], 2))
    width_px = max([_LEAST_WIDTH_PX, *(row.shape[1] for row in rows)])
    if not rows:
        rows = [text_strip("Nothing was analysed, so there is nothing to show.", 16, width_px)]
    entries = [scale_bar(mpp / ZOOM, "um", 160)]
    for name, n in counts.items():
        swatch = box_swatch(TEXT, class_colours.get(name, _UNKNOWN_RGB))
        entries.append(LegendEntry(swatch, f"{name}: {n:,}"))
    title = [
        text_strip(slide_name, 24, width_px),
        legend_strip(entries, 16, width_px),
        text_strip(RESEARCH_USE_ONLY, 15, width_px, _NOTE_RGB),
    ]
    return bordered(stack([stack(title, 4), *rows], _MARGIN_PX), _MARGIN_PX, WHITE)


def encode_png(picture: Picture) -> bytes:
    """Return the picture as the content of a PNG file."""
    buffer = io.BytesIO()
    # Half the time of the default level, for 1 % more bytes.
    Image.fromarray(checked_picture("the picture", picture)).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _captioned(crop: Crop, class_names: Sequence[str], class_colours: Mapping[str, RGB]) -> Picture:
    drawn = draw_crop(crop, class_names, class_colours)
    pair = beside([bordered(picture, 1, _BORDER_RGB) for picture in drawn], _MARGIN_PX // 4)
    if crop.box is None:
        return pair
    caption = f"x {crop.box[0]:.0f}, y {crop.box[1]:.0f} (level-0 px)"
    return stack([pair, text_strip(caption, 13, pair.shape[1])], 2)


def _dash(picture: Picture, seam_px: float) -> None:
    """Draw a level dashed line whose upper edge is at that model position."""
    row = round(seam_px * ZOOM)
    if 0 <= row < picture.shape[0]:
        dark = np.arange(picture.shape[1]) // _DASH_PX % 2 == 0
        picture[row, dark] = BLACK


def _draw_tiles(picture: Picture, scale: float, tiles: Sequence[FloatBox]) -> None:
    """Veil what no tile covers and blend the tiles' edges in, a shared edge once."""
    idle = np.ones(picture.shape[:2], np.bool_)
    edges = np.zeros(picture.shape[:2], np.bool_)
    for box in tiles:
        rows, cols = _slices(picture, scale, box)
        idle[rows, cols] = False
        edges[rows, [cols.start, cols.stop - 1]] = True
        edges[[rows.start, rows.stop - 1], cols] = True
    _blend(picture, idle, _VEIL_RGB)
    _blend(picture, edges, _TILE_RGB)


def _flag_codes(flagged: Sequence[tuple[FloatBox, str]]) -> list[str]:
    """Return the codes that occur, in a fixed order."""
    found = {code for _, code in flagged}
    return [code for code in _FLAG_RGB if code in found] + sorted(found - set(_FLAG_RGB))


def _draw_flags(picture: Picture, scale: float, flagged: Sequence[tuple[FloatBox, str]]) -> None:
    """Frame flagged tiles; each further flag of a tile stands inside the one before."""
    order = {code: place for place, code in enumerate(_flag_codes(flagged))}
    n_drawn: Counter[FloatBox] = Counter()
    for box, code in sorted(flagged, key=lambda entry: order[entry[1]]):
        rows, cols = _slices(picture, scale, box)
        # One pixel stays free: there the tile's own edge is.
        inset_px = 1 + n_drawn[box] * _FLAG_LINE_PX
        n_drawn[box] += 1
        inside = picture[rows, cols][inset_px:-inset_px, inset_px:-inset_px]
        colour = _FLAG_RGB.get(code, _OTHER_FLAG_RGB)
        for side in (inside, inside[::-1], inside.swapaxes(0, 1), inside.swapaxes(0, 1)[::-1]):
            side[:_FLAG_LINE_PX] = colour


def _flag_entries(flagged: Sequence[tuple[FloatBox, str]]) -> list[LegendEntry]:
    n_tiles = Counter(code for _, code in flagged)
    return [
        LegendEntry(
            bordered(
                blank(_FLAG_SWATCH_PX, _FLAG_SWATCH_PX),
                _FLAG_LINE_PX,
                _FLAG_RGB.get(code, _OTHER_FLAG_RGB),
            ),
            f"{code}: {n_tiles[code]:,}",
        )
        for code in _flag_codes(flagged)
    ]


def _blend(picture: Picture, where: NDArray[np.bool_], colour: RGB) -> None:
    mixed = picture[where] * (1 - _OPACITY) + np.array(colour) * _OPACITY
    picture[where] = np.rint(mixed).astype(np.uint8)


def _slices(picture: Picture, scale: float, box: FloatBox) -> tuple[slice, slice]:
    """Return the (row, col) pixels from a box's first edge to its last, at least one each."""
    found = []
    for start, size, n_px in zip(box[1::-1], box[:1:-1], picture.shape, strict=False):
        first = min(max(int(np.floor(start / scale)), 0), n_px - 1)
        last = min(max(int(np.floor((start + size) / scale)), first), n_px - 1)
        found.append(slice(first, last + 1))
    return found[0], found[1]


def _hatch(picture: Picture, scale: float, box: FloatBox) -> None:
    rows, cols = _slices(picture, scale, box)
    picture[rows, cols] = _hatched(picture[rows, cols])


def _hatched(picture: Picture) -> Picture:
    """Return the picture with red diagonals and a red border."""
    height_px, width_px = picture.shape[:2]
    hatched = picture.copy()
    row, col = np.ogrid[:height_px, :width_px]
    hatched[(row + col) % 6 < 2] = _UNREADABLE_RGB
    hatched[[0, -1]] = _UNREADABLE_RGB
    hatched[:, [0, -1]] = _UNREADABLE_RGB
    return hatched


def _draw_rings(
    picture: Picture, scale: float, rings_px: Sequence[NDArray[np.float64]], colour: RGB
) -> None:
    # OpenCV's (0, 0) is the middle of the first pixel, ours its corner.
    reach = 4.0 * max(picture.shape)  # a missing core may lie anywhere
    points = [
        np.rint(
            (np.clip(np.asarray(ring, np.float64) / scale, -reach, reach) - 0.5)
            * (1 << _SHIFT_BITS)
        ).astype(np.int32)
        for ring in rings_px
    ]
    cv2.polylines(picture, points, True, colour, 2, cv2.LINE_AA, _SHIFT_BITS)
