"""What a review's sample is, and its record `sample.json`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from wsiseg.cell_table import ALL_CLASSES
from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.geometry import Box
from wsiseg.identity import PROJECT_NAMESPACE

SAMPLE_FORMAT = "wsiseg-review"
NEWEST_SAMPLE_FORMAT = 1
SQUARE_KEY = "wsiseg review"
"""Metadata of a square in QuPath: the review's name."""
RUN_KEY = "wsiseg run"
"""Metadata of a square in QuPath: the fingerprint of the run."""

NO_CLASS = "(none)"
"""Nuclei without a class."""
NOT_FOUND = "(added)"
"""Row of the confusion matrix: nuclei the run does not have."""
NO_NUCLEUS = "(deleted)"
"""Column of the confusion matrix: what the reviewer holds for no nucleus."""
_TAKEN = (NO_CLASS, NOT_FOUND, NO_NUCLEUS, ALL_CLASSES)

SquareKind: TypeAlias = Literal["random", "uncertain"]

_KEY_BITS = 32
_LEAST_SIDE_UM, _MOST_SIDE_UM = 25.0, 2000.0
_MOST_SQUARES = 999


@dataclass(frozen=True, slots=True)
class ReviewOptions:
    """Which squares are drawn."""

    n: int = 20
    """Squares in all, at most."""
    side_um: float = 100.0
    """Their side; rounded to whole level-0 pixels."""
    seed: int = 0
    """Equal seeds draw equal squares."""
    share_uncertain: float = 0.25
    """Share of the squares that are not drawn by chance, but are the least certain ones."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= _MOST_SQUARES:
            raise UsageError(f"{self.n} squares; from 1 to {_MOST_SQUARES} are needed")
        if not _LEAST_SIDE_UM <= self.side_um <= _MOST_SIDE_UM:
            raise UsageError(
                f"squares of {self.side_um} µm; {_LEAST_SIDE_UM:g} to {_MOST_SIDE_UM:g} µm are "
                "needed"
            )
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}; a whole number from 0 is needed")
        if not 0 <= self.share_uncertain <= 1:
            raise UsageError(
                f"share_uncertain is {self.share_uncertain}; a share from 0 to 1 is needed"
            )

    @property
    def n_uncertain(self) -> int:
        """Least certain squares."""
        return round(self.n * self.share_uncertain)


@dataclass(frozen=True, slots=True)
class SquareGrid:
    """Squares that cover the plane; each owns its left and top edges."""

    side_px: int
    """Level-0 pixels."""
    x_px: int
    """Where column 1 begins, from 0 to below the side."""
    y_px: int
    """Where row 1 begins."""

    def key(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return one number for the square of each point; points are on the slide."""
        col, row = (
            np.floor((v - start) / self.side_px).astype(np.int64) + 1
            for v, start in ((x, self.x_px), (y, self.y_px))
        )
        return (row << _KEY_BITS) + col

    def around(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of some squares and of those that touch them."""
        steps = np.array([(row << _KEY_BITS) + col for row in (-1, 0, 1) for col in (-1, 0, 1)])
        return np.unique(np.asarray(keys, np.int64)[:, None] + steps)

    def box(self, key: int) -> Box:
        """Return the square of a number, level-0 px."""
        row, col = key >> _KEY_BITS, key & ((1 << _KEY_BITS) - 1)
        side = self.side_px
        return Box(self.x_px + (col - 1) * side, self.y_px + (row - 1) * side, side, side)


@dataclass(frozen=True, slots=True)
class ReviewSquare:
    """One square of a sample."""

    name: str
    """In QuPath."""
    kind: SquareKind
    key: int
    """Its number in the grid."""
    inclusion_prob: float | None
    """Chance with which a random square was drawn; None of the least certain ones."""
    analysed_share: float
    """Share of its area that was analysed, about."""
    cell_uuids: tuple[str, ...]
    """Nuclei with the centroid in it, in the order of the run."""
    cell_classes: tuple[str | None, ...]
    """Their classes as they were shown."""


@dataclass(frozen=True, slots=True, eq=False)
class ReviewSample:
    """The squares of a review; `sample.json` holds it."""

    name: str
    """Of the review."""
    slide: str
    model: str
    model_sha256: str
    classes_version: str | None
    """Version of the classes that was shown; None: the model's own."""
    fingerprint: str
    """Of the run: its model and the UUIDs of all its nuclei."""
    options: ReviewOptions
    grid: SquareGrid
    n_population: int
    """Squares that could be drawn: with tissue that was analysed, or a nucleus."""
    analysed_mm2: float
    """Of the whole run."""
    n_cells: int
    """Of the whole run."""
    n_of_class: Mapping[str, int]
    """Nuclei of the whole run by class."""
    squares: tuple[ReviewSquare, ...]
    """In the order of their names, which says nothing of their kind."""

    def square_uuid(self, square: ReviewSquare) -> str:
        """Return the identity of a square in QuPath."""
        drawn = json.dumps(asdict(self.options), sort_keys=True)
        text = f"review/{self.fingerprint}/{self.name}/{drawn}/{square.name}"
        return str(uuid.uuid5(PROJECT_NAMESPACE, text))

    def to_json(self) -> dict[str, Any]:
        """Return what `sample.json` holds."""
        plain = asdict(self)
        plain["squares"] = [asdict(square) for square in self.squares]
        for square, values in zip(self.squares, plain["squares"], strict=True):
            box = self.grid.box(square.key)
            values["box_px"] = [box.x_px, box.y_px, box.width_px, box.height_px]
        return {
            "format": SAMPLE_FORMAT,
            "format_version": NEWEST_SAMPLE_FORMAT,
            "design": (
                "random squares: fixed size, chance in proportion to the analysed area (a tenth "
                "of a square at least), randomized systematic; uncertain squares: lowest mean "
                "probability of the rest, no random sample"
            ),
            **plain,
        }


def check_class_name(class_name: str | None, where: str) -> None:
    """Raise UsageError if a class is called what stands for something else in the results."""
    if class_name in _TAKEN:
        raise UsageError(
            f"{where} has the class {class_name!r}, and {', '.join(_TAKEN)} stand for other things "
            "in the results; give the class another name"
        )


def read_sample(path: Path) -> ReviewSample:
    """Return the sample that a `sample.json` holds.

    Raises
    ------
    ResultNotReadable
        If it is missing, damaged or newer.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != SAMPLE_FORMAT:
            raise ValueError(f'"format" is {values["format"]!r}')
        version = int(values["format_version"])
        if version <= NEWEST_SAMPLE_FORMAT:
            return _sample(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResultNotReadable(
            f"{path} is no readable record of a review ({type(error).__name__}: {error}); make "
            "the review again"
        ) from error
    raise ResultNotReadable(
        f"{path} was written by a newer wsiseg (format {version}); this one reads up to "
        f"{NEWEST_SAMPLE_FORMAT}; update wsiseg"
    )


def _sample(values: Mapping[str, Any]) -> ReviewSample:
    squares = tuple(
        ReviewSquare(
            name=str(each["name"]),
            kind=cast(SquareKind, each["kind"]),
            key=int(each["key"]),
            inclusion_prob=None
            if each["inclusion_prob"] is None
            else float(each["inclusion_prob"]),
            analysed_share=float(each["analysed_share"]),
            cell_uuids=tuple(each["cell_uuids"]),
            cell_classes=tuple(each["cell_classes"]),
        )
        for each in values["squares"]
    )
    return ReviewSample(
        name=str(values["name"]),
        slide=str(values["slide"]),
        model=str(values["model"]),
        model_sha256=str(values["model_sha256"]),
        classes_version=values["classes_version"],
        fingerprint=str(values["fingerprint"]),
        options=ReviewOptions(**values["options"]),
        grid=SquareGrid(**values["grid"]),
        n_population=int(values["n_population"]),
        analysed_mm2=float(values["analysed_mm2"]),
        n_cells=int(values["n_cells"]),
        n_of_class=dict(values["n_of_class"]),
        squares=squares,
    )
