"""Which nuclei go into an export, the same for every format that has nuclei."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wsiseg.errors import UnknownName, UsageError
from wsiseg.exporters import ExportableResult

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CellChoice:
    """Which nuclei to export; all unless told otherwise."""

    classes: tuple[str, ...] | None = None
    """Names of the classes wanted; None for all nuclei, also those without a class."""
    regions: tuple[str, ...] | None = None
    """Names of regions of interest; a nucleus is taken if any of them holds its centroid.
    None for all nuclei."""
    bbox: tuple[float, float, float, float] | None = None
    """xmin, ymin, xmax, ymax in level-0 pixels: nuclei whose centroid is inside, or on the
    lower edges.  None for everywhere."""

    def __post_init__(self) -> None:
        _check_names(self, "classes", "regions")
        if self.bbox is None:
            return
        needed = f"bbox is {self.bbox!r}; give xmin, ymin, xmax, ymax in pixels of the slide"
        try:
            corners = tuple(float(value) for value in self.bbox)
        except (TypeError, ValueError) as error:
            raise UsageError(needed) from error
        if len(corners) != 4 or not all(map(math.isfinite, corners)):
            raise UsageError(needed)
        if corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise UsageError(f"bbox {self.bbox} holds nothing; xmin, ymin come before xmax, ymax")
        object.__setattr__(self, "bbox", corners)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChoice(CellChoice):
    """Which nuclei to export, and what of them."""

    columns: tuple[str, ...] | None = None
    """Names of the columns wanted, in that order; None for all."""

    def __post_init__(self) -> None:
        CellChoice.__post_init__(self)
        _check_names(self, "columns")
        for name, n in Counter(self.columns or ()).items():
            if n > 1:
                raise UsageError(f"columns names {name!r} {n} times; name each column once")


def _check_names(options: CellChoice, *fields: str) -> None:
    """Take one name for a tuple of one, and refuse an empty one."""
    for field in fields:
        names = getattr(options, field)
        if isinstance(names, str):
            object.__setattr__(options, field, (names,))
        elif names is not None and not names:
            raise UsageError(f"{field} names nothing; name at least one, or leave it out")


def chosen_batches(
    result: ExportableResult, choice: CellChoice, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows wanted, in the order of the table; names are checked at once.

    Parameters
    ----------
    result
        A finished run.
    choice
        Which nuclei.
    columns
        What of them; None for all columns.

    Raises
    ------
    UnknownName
        If the model has no such class or the run no such region; while rows are read, if the
        table has no such column.
    """
    if choice.classes is not None:
        _refuse_unknown("class", choice.classes, list(result.class_colours))
    names = [str(region["name"]) for region in result.regions]
    if choice.regions is not None:
        _refuse_unknown("region", choice.regions, names)
    indices = [i for i, name in enumerate(names) if name in (choice.regions or ())]
    wanted = None if columns is None else list(dict.fromkeys(columns))
    return _rows(result, choice, indices, wanted)


def _rows(
    result: ExportableResult, choice: CellChoice, indices: list[int], columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    to_read = None if columns is None else _to_read(result, choice, columns)
    for batch in result.batches() if to_read is None else result.batches(to_read):
        chosen = _chosen_rows(batch, choice, indices)
        yield chosen if columns is None else chosen.select(columns)


def _to_read(result: ExportableResult, choice: CellChoice, columns: list[str]) -> list[str]:
    """Return the columns wanted and those that decide."""
    decisive: list[str] = []
    if choice.classes is not None:
        decisive.append("class_name")
    if choice.bbox is not None:
        decisive += ["x", "y"]
    if choice.regions is not None:
        # Old runs lack one of them.
        decisive += [name for name in ("region", "region_ids") if name in result.column_names]
    return list(dict.fromkeys([*columns, *decisive]))


def _refuse_unknown(kind: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            # As the command line takes them.
            shown = [f'"{each}"' if "," in each else each for each in known[:_MOST_NAMED]]
            listed = ", ".join(shown)
            more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
            raise UnknownName(f"the run has no {kind} {name!r}; known: {listed or 'none'}{more}")


def _chosen_rows(
    batch: pa.RecordBatch, options: CellChoice, region_indices: list[int]
) -> pa.RecordBatch:
    wanted = np.ones(batch.num_rows, np.bool_)
    if options.classes is not None:
        wanted &= _is_one_of(batch.column("class_name"), options.classes)
    if options.regions is not None and "region_ids" in batch.schema.names:
        wanted &= _holds_any(batch.column("region_ids"), region_indices)
    elif options.regions is not None:
        wanted &= _is_one_of(batch.column("region"), options.regions)
    if options.bbox is not None:
        low_x, low_y, high_x, high_y = options.bbox
        x, y = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("x", "y"))
        wanted &= (x >= low_x) & (x < high_x) & (y >= low_y) & (y < high_y)
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
