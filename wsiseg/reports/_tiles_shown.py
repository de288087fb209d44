"""What tiles tell: flags and how many have them, where they are, how values spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.quality import FLAGS, QualityOptions
from wsiseg.reports._shapes import Canvas

_MOST_DRAWN = 4000
"""More tiles than this are too fine to be seen, and make a page large."""
_FRAME = 4.0
"""Distance of the frames of a tile's flags, in units of the canvas."""
_UNREADABLE = "unreadable"
_USUAL = QualityOptions()
"""Where flags begin unless a run was told otherwise."""
_MEANINGS = {
    "blurred": f"out of focus: edges are wider than {1 / _USUAL.least_focus_per_um:.2f} µm",
    "ink": "pen or marking dye",
    "fold": "tissue lies double",
    "dark": "hardly any light comes through",
    "not-h-and-e": "colours that do not fit H&E",
    "low-confidence": "the network is unsure of its nuclei",
    "unlike-training": "stain or colour unlike the images the model learned from",
    _UNREADABLE: "could not be read and was left out",
}
_VALUES = (
    (
        "focus",
        "Focus",
        f"1 / width of edges in µm; below {_USUAL.least_focus_per_um:g} is blurred",
    ),
    (
        "mean_confidence",
        "Mean probability",
        f"of a tile's nuclei; below {_USUAL.least_confidence:g} is unsure",
    ),
    ("hematoxylin_od", "Haematoxylin density", "mean OD of stained pixels"),
)
_BINS = 24


@dataclass(frozen=True, slots=True)
class FlagRow:
    """A flag and the tiles that have it."""

    code: str
    css: str
    meaning: str
    n: int
    share: float | None
    path: str
    """Frames of those tiles on the slide's canvas."""


@dataclass(frozen=True, slots=True)
class TileValues:
    """How a value of tiles is distributed."""

    title: str
    unit: str
    low: float
    high: float
    bars: tuple[float, ...]
    n: int
    median: float
    median_at: float


@dataclass(frozen=True, slots=True)
class ShownTiles:
    """What a page says of tiles."""

    n: int
    n_flagged: int
    flags: tuple[FlagRow, ...]
    """All flags there are, also those no tile has."""
    values: tuple[TileValues, ...]
    path: str
    """Frames of all tiles; empty if they are too many."""


def shown_tiles(run: Path, canvas: Canvas) -> ShownTiles | None:
    """Return what `tiles.parquet` says; None if it is missing or damaged."""
    try:
        table = pq.read_table(run / "tiles.parquet")
        boxes = np.column_stack([table[c].to_numpy() for c in ("x", "y", "width", "height")])
        flags = [frozenset(found or ()) for found in table["flags"].to_pylist()]
        values = tuple(_values(table))
    except (OSError, KeyError, pa.ArrowException):
        return None
    codes = [*FLAGS, _UNREADABLE]
    codes += sorted(set().union(*flags) - set(codes))
    frames = _frames(codes, flags, boxes.tolist(), _FRAME / canvas.per_px)
    rows = tuple(_flag_row(code, frames[code], len(flags), canvas) for code in codes)
    path = canvas.boxes(boxes.tolist()) if len(boxes) <= _MOST_DRAWN else ""
    return ShownTiles(len(flags), sum(map(bool, flags)), rows, values, path)


def _frames(
    codes: Sequence[str],
    flags: Sequence[frozenset[str]],
    boxes: Sequence[Sequence[float]],
    line_px: float,
) -> dict[str, list[tuple[float, ...]]]:
    """Return the frames of each flag; a tile's further flags stand inside the first."""
    frames: dict[str, list[tuple[float, ...]]] = {code: [] for code in codes}
    for (x, y, width, height), found in zip(boxes, flags, strict=True):
        for place, code in enumerate(code for code in codes if code in found):
            inset = min((place + 0.5) * line_px, 0.45 * width, 0.45 * height)
            frames[code].append((x + inset, y + inset, width - 2 * inset, height - 2 * inset))
    return frames


def _flag_row(
    code: str, frames: Sequence[Sequence[float]], n_tiles: int, canvas: Canvas
) -> FlagRow:
    return FlagRow(
        code=code,
        # Codes of later versions are untrusted as names of CSS classes.
        css=f"f-{code}" if code in _MEANINGS else "f-other",
        meaning=_MEANINGS.get(code, "a flag of another version of wsiseg"),
        n=len(frames),
        share=len(frames) / n_tiles if n_tiles else None,
        path=canvas.boxes(frames[:_MOST_DRAWN]),
    )


def _values(table: Any) -> Iterator[TileValues]:
    for column, title, unit in _VALUES:
        if column not in table.column_names:
            continue
        values = table[column].to_numpy().astype(np.float64)
        values = values[np.isfinite(values)]
        if len(values) == 0:
            continue
        low, high = float(values.min()), float(values.max())
        if not high > low:
            low, high = low - 0.5, high + 0.5
        counts, _ = np.histogram(values, _BINS, (low, high))
        median = float(np.median(values))
        bars = tuple((counts / counts.max()).tolist())
        at = (median - low) / (high - low)
        yield TileValues(title, unit, low, high, bars, len(values), median, at)
