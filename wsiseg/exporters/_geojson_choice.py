"""Which nuclei go into GeoJSON files, and into which of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wsiseg.errors import OutputExists, UnknownName, UsageError
from wsiseg.exporters import ExportableResult

_LEAST_DIGITS = 3
_SUFFIX = re.compile(r"(\.geojson|\.json)?(\.gz)?$", re.IGNORECASE)
_MOST_NAMED = 20


class RegionedResult(ExportableResult, Protocol):
    """A finished run that may have had regions of interest."""

    @property
    def regions(self) -> Sequence[Mapping[str, Any]]:
        """The regions, each with its `name`; `region_ids` of the cell table count in it."""
        ...


@dataclass(frozen=True, slots=True)
class GeojsonOptions:
    """What to export; everything, as polygons in one file, unless told otherwise."""

    split: int | None = None
    """Most nuclei in a file; None for one file of all."""
    classes: tuple[str, ...] | None = None
    """Names of the classes wanted; None for all nuclei, also those without a class."""
    regions: tuple[str, ...] | None = None
    """Names of regions of interest; a nucleus is taken if any of them holds its centroid.
    None for all nuclei."""
    centroids: bool = False
    """Write each nucleus as the point of its centroid, not as a polygon."""

    def __post_init__(self) -> None:
        for option in ("classes", "regions"):
            if isinstance(getattr(self, option), str):
                object.__setattr__(self, option, (getattr(self, option),))
        if self.split is not None and self.split < 1:
            raise UsageError(f"split is {self.split}; give the most nuclei of a file, at least 1")
        for option, names in (("classes", self.classes), ("regions", self.regions)):
            if names is not None and not names:
                raise UsageError(f"{option} names nothing; name at least one, or leave it out")


def chosen_batches(result: RegionedResult, options: GeojsonOptions) -> Iterator[pa.RecordBatch]:
    """Yield the rows wanted, in the order of the table; names are checked at once.

    Raises
    ------
    UnknownName
        If the model has no such class or the run no such region.
    """
    if options.classes is not None:
        _refuse_unknown("class", options.classes, list(result.class_colours))
    names = [str(region["name"]) for region in result.regions]
    if options.regions is not None:
        _refuse_unknown("region", options.regions, names)
    indices = [i for i, name in enumerate(names) if name in (options.regions or ())]
    return (_chosen_rows(batch, options, indices) for batch in result.batches())


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


def _refuse_unknown(kind: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            listed = ", ".join(known[:_MOST_NAMED])
            more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
            raise UnknownName(f"the run has no {kind} {name!r}; known: {listed or 'none'}{more}")


def _chosen_rows(
    batch: pa.RecordBatch, options: GeojsonOptions, region_indices: list[int]
) -> pa.RecordBatch:
    wanted = np.ones(batch.num_rows, np.bool_)
    if options.classes is not None:
        wanted &= _is_one_of(batch.column("class_name"), options.classes)
    if options.regions is not None and "region_ids" in batch.schema.names:
        wanted &= _holds_any(batch.column("region_ids"), region_indices)
    elif options.regions is not None:
        wanted &= _is_one_of(batch.column("region"), options.regions)
    return batch if wanted.all() else batch.filter(pa.array(wanted))


def _is_one_of(column: pa.Array, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return where a column has one of the names; a null has none."""
    found = pc.is_in(column.cast(pa.string()), value_set=pa.array(names, pa.string()))
    result: NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
    return result


def _holds_any(lists: pa.ListArray, values: list[int]) -> NDArray[np.bool_]:
    """Return where a list has one of the values."""
    row = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    value = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    held = np.zeros(len(lists), np.bool_)
    held[row[np.isin(value, values)]] = True
    return held
