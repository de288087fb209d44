"""Slides made of many pictures side by side, with the nuclei they are known to hold.

A mosaic is a grid of cells on white glass; a cell is empty or holds one picture, laid at the
cell's top left.  Pictures as large as a cell touch each other, so tissue goes on across their
borders, and nothing of a mosaic needs more memory than its pictures.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Box

GLASS = (245, 243, 244)
"""Colour of empty glass."""
BLOCK_PX = 1024
"""Pixels are painted in blocks of at most this side, whatever is asked for."""


class Pictures(Protocol):
    """Numbered pictures, made or read when they are asked for."""

    @property
    def names(self) -> Sequence[str]:
        """One for each."""
        ...

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """(height, width) of each, px."""
        ...

    def rgb(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, (h, w, 3)."""
        ...

    def labels(self, index: int) -> NDArray[np.integer] | None:
        """Return its label map, (h, w), 0 is no nucleus; None if nuclei are not known."""
        ...


@dataclass(frozen=True, slots=True)
class MosaicOptions:
    """What slide to make.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    width_px: int
    """Columns."""
    height_px: int
    """Rows."""
    tissue_share: float = 0.15
    """Share of the slide that pictures cover: above 0, to 1.  The nearest whole number of
    pictures, at least one, at most as many as fit."""
    seed: int = 0
    """Equal seeds make equal slides."""

    def __post_init__(self) -> None:
        if self.width_px < 1 or self.height_px < 1:
            raise UsageError(
                f"a slide of {self.width_px} × {self.height_px} px; both sides need 1 px or more"
            )
        if not 0 < self.tissue_share <= 1:
            raise UsageError(
                f"a tissue share of {self.tissue_share}; a number above 0 and up to 1 is needed"
            )
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}; a whole number from 0 on is needed")


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """Which picture lies where."""

    width_px: int
    """Columns of the slide."""
    height_px: int
    """Rows of the slide."""
    x_px: int
    """Left edge of the first cell."""
    y_px: int
    """Top edge of the first cell."""
    cell_width_px: int
    """Columns of a cell."""
    cell_height_px: int
    """Rows of a cell."""
    picture: NDArray[np.int32]
    """(rows, cols): number of the picture in each cell, -1 for glass."""

    def cells_in(self, box: Box) -> Iterator[tuple[int, int]]:
        """Yield (row, col) of the cells with a picture that a box touches, row by row."""
        first_row = max(0, (box.y_px - self.y_px) // self.cell_height_px)
        first_col = max(0, (box.x_px - self.x_px) // self.cell_width_px)
        end_row = max(first_row, -((self.y_px - box.y_end_px) // self.cell_height_px))
        end_col = max(first_col, -((self.x_px - box.x_end_px) // self.cell_width_px))
        found = np.argwhere(self.picture[first_row:end_row, first_col:end_col] >= 0)
        for row, col in found.tolist():
            yield first_row + row, first_col + col

    def place(self, row: int, col: int, size: tuple[int, int]) -> Box:
        """Return the box of a picture of that (height, width) in a cell, in slide pixels."""
        x = self.x_px + col * self.cell_width_px
        y = self.y_px + row * self.cell_height_px
        return Box(x, y, size[1], size[0])


def scatter(pictures: Pictures, options: MosaicOptions) -> Mosaic:
    """Arrange pictures, many times each, as one to three compact pieces of tissue.

    Pictures are whole: none is cut by the slide's edge.

    Raises
    ------
    UsageError
        If there are no pictures, or the slide is smaller than one.
    """
    cell_height, cell_width = _cell_size(pictures)
    rows, cols = options.height_px // cell_height, options.width_px // cell_width
    if rows < 1 or cols < 1:
        raise UsageError(
            f"a slide of {options.width_px} × {options.height_px} px holds no picture of "
            f"{cell_width} × {cell_height} px; make it larger, or give smaller pictures"
        )
    random = np.random.default_rng(options.seed)
    order = np.argsort(_distance(rows, cols, random), axis=None, kind="stable")
    chosen = _shuffled_rounds(len(pictures.names), rows * cols, random)
    area = np.cumsum([math.prod(pictures.sizes[index]) for index in chosen.tolist()])
    target = options.tissue_share * options.width_px * options.height_px
    n = 1 + int(np.abs(area - target).argmin())
    picture = np.full(rows * cols, -1, np.int32)
    picture[order[:n]] = chosen[:n]
    return Mosaic(
        width_px=options.width_px,
        height_px=options.height_px,
        x_px=(options.width_px - cols * cell_width) // 2,
        y_px=(options.height_px - rows * cell_height) // 2,
        cell_width_px=cell_width,
        cell_height_px=cell_height,
        picture=picture.reshape(rows, cols),
    )


def each_once(pictures: Pictures, border_px: int = 300) -> Mosaic:
    """Arrange every picture once, in a near square of cells with glass around it.

    With 300 px of glass, borders of pictures of 1000 px stay 100 px away from multiples of 1024
    over the first 8 of them, so that seams run through tissue as it is.

    Raises
    ------
    UsageError
        If there are no pictures.
    """
    cell_height, cell_width = _cell_size(pictures)
    n = len(pictures.names)
    cols = math.ceil(math.sqrt(n))
    rows = math.ceil(n / cols)
    picture = np.full(rows * cols, -1, np.int32)
    picture[:n] = np.arange(n)
    return Mosaic(
        width_px=cols * cell_width + 2 * border_px,
        height_px=rows * cell_height + 2 * border_px,
        x_px=border_px,
        y_px=border_px,
        cell_width_px=cell_width,
        cell_height_px=cell_height,
        picture=picture.reshape(rows, cols),
    )


def tissue_share(mosaic: Mosaic, pictures: Pictures) -> float:
    """Return the share of a slide that pictures cover."""
    laid = mosaic.picture[mosaic.picture >= 0]
    each = np.array([height * width for height, width in pictures.sizes], np.int64)
    return float(each[laid].sum() / (mosaic.width_px * mosaic.height_px))


def _cell_size(pictures: Pictures) -> tuple[int, int]:
    if not pictures.names:
        raise UsageError("there are no pictures to make a slide of; at least one is needed")
    heights, widths = zip(*pictures.sizes, strict=True)
    return max(heights), max(widths)


def _distance(rows: int, cols: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return how far each cell is from the nearest of one to three centres, unevenly."""
    row, col = np.mgrid[:rows, :cols] + 0.5
    row, col = row / rows, col / cols
    nearest = np.full((rows, cols), np.inf)
    for _ in range(int(random.integers(1, 4))):
        y, x = random.uniform(0.25, 0.75, 2)
        high, wide = random.uniform(0.7, 1.4, 2)
        nearest = np.minimum(nearest, np.hypot((row - y) / high, (col - x) / wide))
    rough = cv2.GaussianBlur(random.normal(size=(rows, cols)), (0, 0), 1.5)
    return np.asarray(nearest + 0.1 * rough, np.float64)


def _shuffled_rounds(n: int, length: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Return `length` numbers below n: every one once in each of several shuffled rounds."""
    rounds = [random.permutation(n) for _ in range(-(-length // n))]
    return np.concatenate(rounds)[:length].astype(np.int32)


class Canvas:
    """The pixels of a mosaic, painted when they are asked for."""

    def __init__(self, mosaic: Mosaic, pictures: Pictures, cache_px: int = 64_000_000) -> None:
        """Prepare to paint; as many pictures stay in memory as have `cache_px` pixels."""
        self.mosaic = mosaic
        self._sizes = pictures.sizes
        n_kept = max(4, cache_px // math.prod(_cell_size(pictures)))
        self._rgb = functools.lru_cache(maxsize=n_kept)(pictures.rgb)

    def has_tissue(self, box: Box) -> bool:
        """Whether a picture's cell reaches into a box, in slide pixels."""
        return next(self.mosaic.cells_in(box), None) is not None

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB of a box in slide pixels."""
        rgb = _glass(box)
        for row, col in self.mosaic.cells_in(box):
            index = int(self.mosaic.picture[row, col])
            place = self.mosaic.place(row, col, self._sizes[index])
            part = place.intersection(box)
            if part.area_px:
                rgb[part.slices_in(box)] = self._rgb(index)[part.slices_in(place)]
        return rgb

    def read_shrunk(self, box: Box, step: int) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB of a box of a level, each pixel the mean of step × step.

        `box` is in the level's pixels; `step` divides `BLOCK_PX`.
        """
        side = BLOCK_PX // step
        rgb = _glass(box)
        for y in range(box.y_px, box.y_end_px, side):
            for x in range(box.x_px, box.x_end_px, side):
                part = Box(x, y, side, side).intersection(box)
                full = Box(*(step * v for v in (x, y, part.width_px, part.height_px)))
                if self.has_tissue(full):
                    rgb[part.slices_in(box)] = shrink(self.read(full), step)
        return rgb


def _glass(box: Box) -> NDArray[np.uint8]:
    rgb = np.empty((box.height_px, 3 * box.width_px), np.uint8)
    # Whole rows are several times faster to fill than pixels.
    rgb[:] = np.tile(np.array(GLASS, np.uint8), box.width_px)
    return rgb.reshape(box.height_px, box.width_px, 3)


def shrink(rgb: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the means of step × step pixels, rounded; sides are multiples of `step`."""
    if step == 1:
        return rgb
    size = (rgb.shape[1] // step, rgb.shape[0] // step)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
