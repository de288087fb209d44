"""What pictures are drawn from: exact outlines, text, legends, scale bars."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
"""(h, w, 3) red, green, blue."""
RGB = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
TEXT: RGB = (20, 20, 24)

_GAP_PX = 8
_SWATCH_PX = 18


@dataclass(frozen=True, slots=True, eq=False)
class LegendEntry:
    """A small picture and what it means."""

    swatch: Picture
    """What to look for."""
    text: str
    """Its meaning."""


def blank(height_px: int, width_px: int, colour: RGB = WHITE) -> Picture:
    """Return a picture of one colour."""
    # Colours fill three bytes at a time, many times more slowly than greys fill memory.
    grey = colour[0] if len(set(colour)) == 1 else colour
    return np.full((height_px, width_px, 3), grey, np.uint8)


def checked_picture(name: str, rgb: Picture) -> Picture:
    """Return the picture; ValueError unless it is (h, w, 3) uint8."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"{name} is {rgb.dtype} of shape {rgb.shape}; uint8 (h, w, 3) is needed")
    return rgb


def fill_ring(
    ring_px: NDArray[np.float64], x_px: int, y_px: int, width_px: int, height_px: int
) -> NDArray[np.bool_]:
    """Return which pixel centres of a box lie inside a ring (even-odd rule).

    A centre exactly on the ring belongs to the part at its right, so rings that share an
    edge share no pixel.

    Parameters
    ----------
    ring_px : ndarray
        (k, 2) float64 x, y; pixel-corner convention; closed or not.
    x_px, y_px, width_px, height_px : int
        The box.

    Returns
    -------
    ndarray
        (height_px, width_px) bool.
    """
    x, y = ring_px.T
    x_next, y_next = np.roll(ring_px, -1, axis=0).T
    centre = np.arange(y_px, y_px + height_px)[:, np.newaxis] + 0.5
    row, edge = np.nonzero((y <= centre) != (y_next <= centre))
    along = (centre[row, 0] - y[edge]) / (y_next[edge] - y[edge])
    crossing = x[edge] + along * (x_next[edge] - x[edge])
    first_col = np.clip(np.ceil(crossing - 0.5) - x_px, 0, width_px).astype(np.int64)
    n_crossed = np.zeros((height_px, width_px + 1), np.int32)
    np.add.at(n_crossed, (row, first_col), 1)
    inside: NDArray[np.bool_] = np.cumsum(n_crossed, axis=1)[:, :width_px] % 2 == 1
    return inside


def ring_edge(ring_px: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels inside a ring that touch its outside: a line one pixel thin.

    Being inside, the lines of nuclei that touch lie side by side, and neither hides the
    other.

    Parameters
    ----------
    ring_px : ndarray
        (k, 2) float64 x, y in the picture's pixels; pixel-corner convention.

    Returns
    -------
    rows, cols : ndarray
        int64 pixel positions; may lie outside the picture.
    """
    if len(ring_px) < 3:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    x_px, y_px = (int(v) - 1 for v in np.floor(ring_px.min(axis=0)))
    x_end_px, y_end_px = (int(v) + 1 for v in np.ceil(ring_px.max(axis=0)))
    inside = fill_ring(ring_px, x_px, y_px, x_end_px - x_px, y_end_px - y_px)
    deep = inside.copy()
    deep[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    rows, cols = np.nonzero(inside & ~deep)
    return rows + y_px, cols + x_px


def paint(picture: Picture, rows: NDArray[np.int64], cols: NDArray[np.int64], colour: RGB) -> None:
    """Give those pixels a colour; positions outside the picture are left out."""
    height_px, width_px = picture.shape[:2]
    seen = (rows >= 0) & (rows < height_px) & (cols >= 0) & (cols < width_px)
    picture[rows[seen], cols[seen]] = colour


def printable(text: str) -> str:
    """Return the text in the characters that the built-in font has (ASCII)."""
    plain = unicodedata.normalize("NFKD", text.replace("µ", "u").replace("μ", "u"))
    kept = (c for c in plain if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in kept)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def text_strip(text: str, size_px: int, width_px: int, colour: RGB = TEXT) -> Picture:
    """Return one line of text on white, cut with "..." where it is too long."""
    line, font = printable(text), _font(size_px)
    image = Image.new("RGB", (width_px, size_px + size_px // 2), WHITE)
    draw = ImageDraw.Draw(image)
    shown = line
    while shown and draw.textlength(shown, font) > width_px:
        line = line[:-1]
        shown = f"{line}..." if line else ""
    draw.text((0, image.height // 2), shown, fill=colour, font=font, anchor="lm")
    return np.asarray(image)


def text_width_px(text: str, size_px: int) -> int:
    """Return how wide a line of text is."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    return int(np.ceil(draw.textlength(printable(text), _font(size_px))))


def legend_strip(entries: Sequence[LegendEntry], size_px: int, width_px: int) -> Picture:
    """Return a legend on white: entries from left to right, in as many lines as needed."""
    lines: list[list[Picture]] = [[]]
    used_px = 0
    for entry in entries:
        drawn = _drawn_entry(entry, size_px, width_px)
        if lines[-1] and used_px + drawn.shape[1] > width_px:
            lines.append([])
            used_px = 0
        lines[-1].append(drawn)
        used_px += drawn.shape[1] + 2 * _GAP_PX
    return stack([beside(line, 2 * _GAP_PX) for line in lines if line], 2, width_px)


def _drawn_entry(entry: LegendEntry, size_px: int, width_px: int) -> Picture:
    free_px = max(1, width_px - entry.swatch.shape[1] - _GAP_PX)
    label = text_strip(entry.text, size_px, min(free_px, text_width_px(entry.text, size_px) + 1))
    height_px = max(entry.swatch.shape[0], label.shape[0])
    return beside([centred(entry.swatch, height_px), centred(label, height_px)], _GAP_PX)


def line_swatch(colour: RGB) -> Picture:
    """Return a swatch with a level line."""
    swatch = blank(_SWATCH_PX, _SWATCH_PX * 3 // 2)
    swatch[_SWATCH_PX // 2 - 1 : _SWATCH_PX // 2 + 1] = colour
    return swatch


def box_swatch(border: RGB, filling: RGB) -> Picture:
    """Return a swatch with a filled rectangle."""
    swatch = blank(_SWATCH_PX, _SWATCH_PX * 3 // 2, border)
    swatch[1:-1, 1:-1] = filling
    return swatch


def scale_bar(per_px: float, unit: str, longest_px: int) -> LegendEntry:
    """Return the longest bar of 1, 2 or 5 times a power of ten that fits.

    Parameters
    ----------
    per_px : float
        Length of a pixel in the unit.
    unit : str
        Its name, such as "mm".
    longest_px : int
        Room for the bar.
    """
    most = max(1, longest_px) * per_px
    # A power of ten that is too large by rounding must not leave nothing that fits.
    decade = 10.0 ** (np.floor(np.log10(most)) - 1)
    length = decade * max(step for step in (1, 2, 5, 10, 20, 50) if step * decade <= most)
    swatch = blank(_SWATCH_PX, max(1, round(length / per_px)))
    swatch[_SWATCH_PX // 2 - 2 : _SWATCH_PX // 2 + 2] = BLACK
    swatch[4:-4, :2] = BLACK
    swatch[4:-4, -2:] = BLACK
    return LegendEntry(swatch, f"{length:g} {unit}")


def centred(picture: Picture, height_px: int) -> Picture:
    """Return the picture in the middle of a higher one."""
    above = (height_px - picture.shape[0]) // 2
    return np.pad(
        picture,
        ((above, height_px - picture.shape[0] - above), (0, 0), (0, 0)),
        constant_values=255,
    )


def beside(pictures: Sequence[Picture], gap_px: int) -> Picture:
    """Return pictures from left to right, aligned at their tops."""
    height_px = max(picture.shape[0] for picture in pictures)
    width_px = sum(picture.shape[1] for picture in pictures) + gap_px * (len(pictures) - 1)
    sheet = blank(height_px, width_px)
    x_px = 0
    for picture in pictures:
        sheet[: picture.shape[0], x_px : x_px + picture.shape[1]] = picture
        x_px += picture.shape[1] + gap_px
    return sheet


def stack(pictures: Sequence[Picture], gap_px: int, least_width_px: int = 1) -> Picture:
    """Return pictures from top to bottom, aligned at their left."""
    width_px = max([least_width_px, *(picture.shape[1] for picture in pictures)])
    height_px = sum(picture.shape[0] for picture in pictures) + gap_px * max(0, len(pictures) - 1)
    sheet = blank(height_px, width_px)
    y_px = 0
    for picture in pictures:
        sheet[y_px : y_px + picture.shape[0], : picture.shape[1]] = picture
        y_px += picture.shape[0] + gap_px
    return sheet


def bordered(picture: Picture, border_px: int, colour: RGB) -> Picture:
    """Return the picture with a frame around it."""
    height_px, width_px = picture.shape[:2]
    sheet = blank(height_px + 2 * border_px, width_px + 2 * border_px, colour)
    sheet[border_px : border_px + height_px, border_px : border_px + width_px] = picture
    return sheet
