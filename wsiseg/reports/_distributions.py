"""How measurements are distributed: a histogram of all nuclei, and a summary of each class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wsiseg.errors import UnknownName
from wsiseg.reports._classes import css_of
from wsiseg.results import Result

_BINS = 36
_OF = ("a nucleus", "its class")
"""What probabilities are of; the others have units."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the cell table, and what a person calls it."""

    column: str
    title: str
    unit: str
    low: float | None = None
    high: float | None = None
    """Ends of its axis; None: chosen from the values."""

    @property
    def name(self) -> str:
        """What it is called where there is no unit to tell it from others."""
        return f"{self.title} of {self.unit}" if self.unit in _OF else self.title


MEASURES = (
    Measure("area_um2", "Nuclear area", "µm²", low=0.0),
    Measure("circularity", "Circularity", "1 is a circle", low=0.0, high=1.0),
    Measure("hematoxylin_od_mean", "Haematoxylin density", "OD"),
    Measure("eosin_od_mean", "Eosin density", "OD"),
    Measure("nearest_cell_um", "Nearest nucleus", "µm", low=0.0),
    Measure("nucleus_prob", "Probability", "a nucleus", 0.0, 1.0),
    Measure("class_prob", "Probability", "its class", 0.0, 1.0),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of one class, and where they are on the axis (0 to 1)."""

    name: str
    css: str
    n: int
    percentiles: tuple[float, float, float, float, float]
    """5, 25, 50, 75, 95."""
    at: tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A measurement of all nuclei."""

    title: str
    unit: str
    low: float
    high: float
    """Ends of the axis."""
    bars: tuple[float, ...]
    """Share of the highest bar; equal steps from low to high."""
    n: int
    """Nuclei with a value."""
    n_without: int
    n_beyond: int
    """Values beyond the axis, counted in the outermost bars."""
    median: float
    median_at: float
    spreads: tuple[Spread, ...]


@dataclass(frozen=True, slots=True)
class NoDistribution:
    """A measurement that cannot be shown, and why."""

    title: str
    reason: str


def distributions(result: Result) -> Iterator[Distribution | NoDistribution]:
    """Yield what can be said of each of `MEASURES`; one column at a time is held."""
    for measure in MEASURES:
        if result.run["n_cells"] == 0:
            yield NoDistribution(measure.name, "no nuclei were found")
            continue
        found = _values(result, measure.column)
        if found is None:
            why = "the version of wsiseg that made this run did not measure it"
            yield NoDistribution(measure.name, why)
        elif not np.isfinite(found[0]).any():
            why = (
                "the model has no classes"
                if measure.column == "class_prob" and not result.class_names
                else "the run left the column empty (an older version, or its options)"
            )
            yield NoDistribution(measure.name, why)
        else:
            yield _distribution(result, measure, *found)


def _values(result: Result, column: str) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
    """Return a column and the index of each nucleus's class (-1 without); None without it."""
    names = pa.array(result.class_names, pa.string())
    values, codes = [np.empty(0, np.float32)], [np.empty(0, np.int32)]
    try:
        for batch in result.batches([column, "class_name"]):
            values.append(batch[column].to_numpy(zero_copy_only=False).astype(np.float32))
            index = pc.index_in(batch["class_name"].cast(pa.string()), value_set=names)
            codes.append(pc.fill_null(index, -1).to_numpy(zero_copy_only=False))
    except UnknownName:
        return None
    return np.concatenate(values), np.concatenate(codes)


def _distribution(
    result: Result, measure: Measure, values: NDArray[np.float32], codes: NDArray[np.int32]
) -> Distribution:
    known = np.isfinite(values)
    of_known, codes = values[known], codes[known]
    low, high = _axis(measure, of_known)
    # In single precision values on an edge would fall beside it.
    within = np.clip(of_known.astype(np.float64), low, high)
    counts, _ = np.histogram(within, _BINS, (low, high))
    median = float(np.median(of_known))
    spreads = []
    for code, name in enumerate(result.class_names):
        mine = of_known[codes == code]
        if len(mine):
            five = tuple(float(v) for v in np.percentile(mine, (5, 25, 50, 75, 95)))
            at = tuple(_at(value, low, high) for value in five)
            spreads.append(Spread(name, css_of(result, name), len(mine), five, at))  # type: ignore[arg-type]
    return Distribution(
        title=measure.title,
        unit=measure.unit,
        low=low,
        high=high,
        bars=tuple((counts / counts.max()).tolist()),
        n=len(of_known),
        n_without=int(np.sum(~known)),
        n_beyond=int(np.sum((of_known < low) | (of_known > high))),
        median=median,
        median_at=_at(median, low, high),
        spreads=tuple(spreads),
    )


def _axis(measure: Measure, values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the ends of an axis that shows all but one value in a hundred."""
    first, last = (float(v) for v in np.percentile(values, (0.5, 99)))
    low = first if measure.low is None else measure.low
    high = last if measure.high is None else measure.high
    if not high > low:
        return low - 0.5, low + 0.5
    step = 10.0 ** np.floor(np.log10(high - low)) / 2
    if measure.low is None:
        low = float(np.floor(low / step) * step)
    if measure.high is None:
        high = float(np.ceil(high / step) * step)
    return low, high


def _at(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
