"""Into which GeoJSON files nuclei go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from wsiseg.errors import OutputExists, UsageError
from wsiseg.exporters._choice import CellChoice

_LEAST_DIGITS = 3
_SUFFIX = re.compile(r"(\.geojson|\.json)?(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeojsonOptions(CellChoice):
    """What to export; everything, as polygons in one file, unless told otherwise."""

    split: int | None = None
    """Most nuclei in a file; None for one file of all."""
    centroids: bool = False
    """Write each nucleus as the point of its centroid, not as a polygon."""

    def __post_init__(self) -> None:
        CellChoice.__post_init__(self)
        if self.split is not None and self.split < 1:
            raise UsageError(f"split is {self.split}; give the most nuclei of a file, at least 1")


def numbered(batches: Iterable[pa.RecordBatch], split: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows in order, each piece with the number of its file, from 0."""
    n_before = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, split - n_before % split)
            yield n_before // split, piece
            start += piece.num_rows
            n_before += piece.num_rows


def part_paths(destination: Path, n_parts: int) -> list[Path]:
    """Return ``name-001.geojson.gz``, … for ``name.geojson.gz``, with digits enough."""
    stem, suffix = _stem_and_suffix(destination)
    digits = max(_LEAST_DIGITS, len(str(n_parts)))
    return [
        destination.with_name(f"{stem}-{number:0{digits}}{suffix}")
        for number in range(1, n_parts + 1)
    ]


def refuse_existing_parts(destination: Path) -> None:
    """Raise OutputExists if parts of this name are there, from whichever split."""
    stem, suffix = _stem_and_suffix(destination)
    if not destination.parent.is_dir():
        return
    part = re.compile(rf"{re.escape(stem)}-\d{{{_LEAST_DIGITS},}}{re.escape(suffix)}")
    for path in sorted(destination.parent.iterdir()):
        if part.fullmatch(path.name):
            raise OutputExists(
                f"{path} exists already, and files of two splits would mix; delete the older "
                "parts first or choose another name"
            )


def _stem_and_suffix(destination: Path) -> tuple[str, str]:
    found = _SUFFIX.search(destination.name)
    start = found.start() if found else len(destination.name)
    return destination.name[:start], destination.name[start:]
