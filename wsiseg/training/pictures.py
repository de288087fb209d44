"""What a person looks at during and after a training: curves, and images with what was found.

Functions take arrays and give arrays; `wsiseg.pictures.encode_png` makes files of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsiseg.pictures import Picture
from wsiseg.records import Maps

RGB = tuple[int, int, int]

_INK: RGB = (20, 20, 24)
_FAINT: RGB = (215, 215, 220)
_COLOURS: tuple[RGB, ...] = ((30, 90, 200), (220, 90, 20), (20, 140, 70), (150, 40, 160))
_TRUE_RGB: RGB = (0, 150, 40)
_FOUND_RGB: RGB = (20, 40, 220)
_PANEL_PX = (860, 300)
"""Width and height of one diagram."""
_PLOT_PX = (64, 34, 700, 270)
"""Left, top, right and bottom of its axes."""
_SMOOTHED = 40
"""The line of a loss is a mean over so many parts of the training."""
_SHOWN_PX = 320
_GAP_PX = 8
_TEXT_PX = 15


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """An image that was held back, and what a network made of it."""

    title: str
    """Name and scores."""
    rgb: Picture
    """(h, w, 3)."""
    truth: NDArray[np.int32]
    """(h, w); 0 is background."""
    found: NDArray[np.int32]
    """(h, w); 0 is background."""
    maps: Maps
    """(h, w)."""


def draw_curves(
    log: Mapping[str, Sequence[float]], validation: Mapping[str, Sequence[float]]
) -> Picture:
    """Draw the losses and, below, the scores on images held back, over the steps.

    Parameters
    ----------
    log : mapping
        Columns `step`, `loss` and its parts.
    validation : mapping
        Columns `step` and scores from 0 to 1; no diagram without rows.

    Returns
    -------
    ndarray, (h, w, 3), uint8
    """
    names = ("loss", "nucleus", "hv", "classes")
    losses = {name: _smooth(log[name]) for name in names if any(log.get(name, ()))}
    steps = _smooth(log.get("step", ()))
    last = max([*log.get("step", ()), *validation.get("step", ()), 1.0])
    panels = [_diagram("Loss (mean over some steps)", steps, losses, last, None)]
    if len(validation.get("step", ())):
        scores = {name: validation[name] for name in ("pq", "aji", "dice") if name in validation}
        title = "Scores on images held back (1 is best)"
        panels.append(_diagram(title, validation["step"], scores, last, 1.0))
    return np.concatenate(panels)


def _smooth(values: Sequence[float]) -> list[float]:
    """Return means of at most `_SMOOTHED` parts, in order."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return []
    parts = np.array_split(array, min(_SMOOTHED, len(array)))
    return [float(part.mean()) for part in parts]


def _diagram(
    title: str,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    last: float,
    top: float | None,
) -> Picture:
    """Draw lines over steps 0 to `last`; up to `top`, or to the largest value."""
    sheet = Image.new("RGB", _PANEL_PX, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_PX)
    left, upper, right, lower = _PLOT_PX
    draw.text((left, upper - 8), title, _INK, font, "ls")
    known = [value for line in lines.values() for value in line if math.isfinite(value)]
    if top is None:
        top = max([*known, 1e-9])
    step = _tick(top)
    for k in range(math.floor(top / step) + 1):
        y = lower - (lower - upper) * k * step / top
        draw.line([(left, y), (right, y)], _FAINT)
        draw.text((left - 6, y), f"{k * step:g}", _INK, font, "rm")
    step = _tick(last)
    for k in range(math.floor(last / step) + 1):
        at = left + (right - left) * k * step / last
        draw.text((at, lower + 6), f"{k * step:g}", _INK, font, "ma")
    draw.text((right + 14, lower + 6), "step", _INK, font, "la")
    for (name, line), colour, place in zip(
        lines.items(), _COLOURS, range(len(lines)), strict=False
    ):
        points = [
            (left + (right - left) * a / last, lower - (lower - upper) * min(b, top) / top)
            for a, b in zip(x, line, strict=True)
            if math.isfinite(b)
        ]
        draw.line(points, colour, 2)
        for a, b in points if len(points) <= _SMOOTHED else ():
            draw.ellipse([a - 2, b - 2, a + 2, b + 2], colour)
        y = upper + 24 * place + 8
        draw.line([(right + 14, y), (right + 34, y)], colour, 3)
        draw.text((right + 42, y), name, _INK, font, "lm")
    return np.asarray(sheet)


def _tick(most: float) -> float:
    """Return 1, 2 or 5 times a power of ten, so that some five ticks fit."""
    decade = 10.0 ** math.floor(math.log10(most / 5))
    return next(decade * k for k in (1, 2, 5, 10) if decade * k * 5.5 >= most)


def draw_validation(shown: Sequence[Judged]) -> Picture:
    """Draw images held back, a row each: true outlines, found ones, and what the network says.

    Of images larger than 320 px the middle is shown.  Columns: the image; true nuclei (green);
    found nuclei (blue) over it; the nucleus map (white: surely a nucleus); the horizontal and the
    vertical distance map (blue at one side of each nucleus, red at the other).

    Parameters
    ----------
    shown : sequence of Judged
        At least one, in the order of rows.

    Returns
    -------
    ndarray, (h, w, 3), uint8
    """
    heads = ("image", "true nuclei", "found nuclei", "nucleus map", "horizontal", "vertical")
    parts = [np.concatenate([_cell(_caption(head, _SHOWN_PX)) for head in heads], axis=1)]
    for each in shown:
        row = np.concatenate([_cell(picture) for picture in _row(each)], axis=1)
        parts += [_caption(each.title, row.shape[1]), row]
    return np.concatenate(parts)


def _row(judged: Judged) -> list[Picture]:
    height, width = judged.truth.shape
    top, left = max(0, (height - _SHOWN_PX) // 2), max(0, (width - _SHOWN_PX) // 2)
    window = (slice(top, top + _SHOWN_PX), slice(left, left + _SHOWN_PX))
    rgb = judged.rgb[window]
    return [
        rgb,
        _outlined(rgb, judged.truth[window], _TRUE_RGB),
        _outlined(rgb, judged.found[window], _FOUND_RGB),
        np.repeat(judged.maps.nucleus[window][..., np.newaxis], 3, axis=2),
        *(_two_sided(plane[window]) for plane in judged.maps.hv),
    ]


def _outlined(rgb: Picture, labels: NDArray[np.int32], colour: RGB) -> Picture:
    """Return the picture with the pixels of each label that touch another value in a colour."""
    padded = np.pad(labels, 1, mode="edge")
    inside = np.ones(labels.shape, np.bool_)
    for rows, cols in ((0, 1), (2, 1), (1, 0), (1, 2)):
        height, width = labels.shape
        inside &= padded[rows : rows + height, cols : cols + width] == labels
    picture = rgb.copy()
    picture[(labels > 0) & ~inside] = colour
    return picture


def _two_sided(plane: NDArray[np.int8]) -> Picture:
    """Return blue for negative, white for 0, red for positive values."""
    share = np.clip(plane.astype(np.float32) / 100, -1, 1)[..., np.newaxis]
    low, high = np.array([[20, 70, 200]]), np.array([[200, 40, 30]])
    end = np.where(share < 0, low, high)
    return np.asarray(np.rint(255 + np.abs(share) * (end - 255)), np.uint8)


def _cell(picture: Picture) -> Picture:
    """Return the picture with white to its right and below, as wide as a column."""
    right = _SHOWN_PX + _GAP_PX - picture.shape[1]
    return np.pad(picture, ((0, _GAP_PX), (0, right), (0, 0)), constant_values=255)


def _caption(text: str, width_px: int) -> Picture:
    sheet = Image.new("RGB", (width_px, _TEXT_PX + 8), "white")
    plain = text.encode("ascii", "replace").decode()
    ImageDraw.Draw(sheet).text((2, 3), plain, _INK, ImageFont.load_default(_TEXT_PX))
    return np.asarray(sheet)
