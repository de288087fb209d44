"""A picture of the squares of a review: as they are, and with what was changed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsiseg.errors import UsageError
from wsiseg.geometry import Box, Frame
from wsiseg.results import Result
from wsiseg.review._changes import ReviewedCell
from wsiseg.review._records import ReviewSample, ReviewSquare
from wsiseg.slides import open_slide, read_frame

RGB: TypeAlias = tuple[int, int, int]

_SQUARE_PX = 360
"""Side of a square in the picture."""
_MARGIN_PX = 30
"""Of its surroundings on each side."""
_PANEL_PX = _SQUARE_PX + 2 * _MARGIN_PX
_GAP_PX = 8
_HEAD_PX, _CAPTION_PX = 92, 22
_PER_ROW = 2
_MOST_SQUARES = 24

_UNTOUCHED: RGB = (190, 190, 190)
_DELETED: RGB = (220, 0, 0)
_ADDED: RGB = (0, 140, 0)
_RELABELLED: RGB = (225, 120, 0)
_BEFORE, _AFTER = (0, 190, 230), (20, 40, 200)
_LEGEND: tuple[tuple[RGB, str], ...] = (
    (_UNTOUCHED, "unchanged"),
    (_DELETED, "deleted"),
    (_ADDED, "added"),
    (_RELABELLED, "relabelled"),
    (_BEFORE, "redrawn: before"),
    (_AFTER, "redrawn: after"),
)


class _Line(NamedTuple):
    outline: shapely.Geometry
    colour: RGB
    width_px: int


@dataclass(frozen=True, slots=True)
class _View:
    """Where a square is in the picture's own frame of the slide."""

    square: ReviewSquare
    frame: Frame
    box: Box

    def local(self, xy_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return level-0 positions in the panel's pixels."""
        corner = np.array([self.box.x_px, self.box.y_px], np.float64)
        local: NDArray[np.float64] = xy_px / self.frame.scale - corner
        return local


def review_sheet(
    result: Result,
    sample: ReviewSample,
    cells: Sequence[ReviewedCell],
    reviewed: frozenset[str],
    slide: Path | None,
) -> bytes:
    """Return a PNG of the reviewed squares, those with the most changes first.

    Parameters
    ----------
    result : Result
        The run.
    sample : ReviewSample
        The squares.
    cells : sequence of ReviewedCell
        Their nuclei.
    reviewed : frozenset of str
        Names of the squares that came back.
    slide : Path, optional
        The run's slide; outlines are on white without it.

    Raises
    ------
    UsageError
        If it is another slide.
    SlideNotReadable
        If it cannot be read.
    """
    changed = {square.name: 0 for square in sample.squares if square.name in reviewed}
    for cell in cells:
        changed[cell.square] += cell.change != "unchanged"
    shown = sorted(changed, key=lambda name: (-changed[name], name))[:_MOST_SQUARES]
    by_name = {square.name: square for square in sample.squares}
    views = [_view(result, sample, by_name[name]) for name in shown]
    panels = []
    for view, rgb in zip(views, _backgrounds(result, views, slide), strict=True):
        mine = [cell for cell in cells if cell.square == view.square.name]
        words = f"{view.square.name} ({view.square.kind}): {changed[view.square.name]} changed"
        panels.append(_panel(view, rgb, mine, f"{words} of {len(mine)}"))
    title = f"{sample.slide}: review {sample.name!r}, {len(shown)} of {len(changed)} squares"
    return _png(_sheet(panels, title))


def _view(result: Result, sample: ReviewSample, square: ReviewSquare) -> _View:
    slide = result.run["slide"]
    scale = sample.grid.side_px / _SQUARE_PX
    frame = Frame.of_slide(int(slide["width_px"]), int(slide["height_px"]), scale)
    box = sample.grid.box(square.key)
    x_px, y_px = (round(v / scale) - _MARGIN_PX for v in (box.x_px, box.y_px))
    return _View(square, frame, Box(x_px, y_px, _PANEL_PX, _PANEL_PX))


def _backgrounds(
    result: Result, views: Sequence[_View], slide: Path | None
) -> Iterable[NDArray[np.uint8]]:
    if slide is None:
        return [np.full((_PANEL_PX, _PANEL_PX, 3), 255, np.uint8) for _ in views]
    reader = result.run["slide"].get("reader")
    with open_slide(slide, reader) as opened:
        wanted = result.run["slide"].get("fingerprint")
        if opened.info.fingerprint != wanted:
            raise UsageError(
                f"{opened.info.name} is not the slide of {result.path.name}: their fingerprints "
                "differ; give the file that was segmented"
            )
        return [read_frame(opened, view.frame, view.box) for view in views]


def _panel(
    view: _View, rgb: NDArray[np.uint8], cells: Sequence[ReviewedCell], caption: str
) -> Image.Image:
    """Draw a square twice: as it is, and with outlines."""
    plain = Image.fromarray(rgb)
    lined = plain.copy()
    draw = ImageDraw.Draw(lined)
    lines = [line for cell in cells for line in _lines(cell)]
    # What was changed lies on top.
    for line in sorted(lines, key=lambda line: line.width_px):
        for ring in shapely.get_parts(shapely.boundary(line.outline)):
            xy = view.local(shapely.get_coordinates(ring))
            draw.line([(x, y) for x, y in xy.tolist()], line.colour, line.width_px, "curve")
    for image in (plain, lined):
        ImageDraw.Draw(image).rectangle(
            (_MARGIN_PX, _MARGIN_PX, _MARGIN_PX + _SQUARE_PX, _MARGIN_PX + _SQUARE_PX),
            outline=(0, 0, 0),
        )
    panel = Image.new("RGB", (2 * _PANEL_PX + _GAP_PX, _PANEL_PX + _CAPTION_PX), "white")
    panel.paste(plain, (0, 0))
    panel.paste(lined, (_PANEL_PX + _GAP_PX, 0))
    ImageDraw.Draw(panel).text((0, _PANEL_PX + 2), caption, fill="black", font=_font(14))
    return panel


def _lines(cell: ReviewedCell) -> list[_Line]:
    """Return the outlines to draw of one nucleus."""
    before = None if cell.original is None else cell.original.geometry
    if before is None:
        return [_Line(cell.geometry, _ADDED, 3)]
    if cell.geometry is None:
        return [_Line(before, _DELETED, 3)]
    lines = [_Line(before, _BEFORE, 2), _Line(cell.geometry, _AFTER, 2)] * cell.is_redrawn
    if cell.is_relabelled:
        lines.append(_Line(cell.geometry, _RELABELLED, 4 if cell.is_redrawn else 3))
    return lines or [_Line(before, _UNTOUCHED, 1)]


def _sheet(panels: Sequence[Image.Image], title: str) -> Image.Image:
    width_px, height_px = 2 * _PANEL_PX + _GAP_PX, _PANEL_PX + _CAPTION_PX
    n_rows = -(-len(panels) // _PER_ROW)
    sheet = Image.new(
        "RGB",
        (
            _PER_ROW * width_px + (_PER_ROW + 1) * 2 * _GAP_PX,
            _HEAD_PX + n_rows * (height_px + 2 * _GAP_PX) + 2 * _GAP_PX,
        ),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    left = 2 * _GAP_PX
    draw.text((left, 8), title, fill="black", font=_font(22))
    x_px: float = left
    for colour, what in _LEGEND:
        draw.rectangle((x_px, 44, x_px + 22, 58), outline=colour, width=3)
        draw.text((x_px + 28, 42), what, fill="black", font=_font(15))
        x_px += 28 + draw.textlength(what, _font(15)) + 20
    note = "Research use only. Not for diagnosis."
    draw.text((left, 66), note, fill=(170, 0, 0), font=_font(14))
    for k, panel in enumerate(panels):
        row, col = divmod(k, _PER_ROW)
        at = left + col * (width_px + left), _HEAD_PX + row * (height_px + left)
        sheet.paste(panel, at)
    return sheet


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()
