"""Which measurements a model of classes is made of, and their values for chosen nuclei."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.cell_table import open_table
from wsiseg.classes.examples import RunExamples
from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.results import Result

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "size": ("area_um2", "perimeter_um", "major_axis_um", "minor_axis_um"),
    "shape": ("eccentricity", "solidity", "circularity"),
    "colour": (
        "hematoxylin_od_mean",
        "hematoxylin_od_sd",
        "eosin_od_mean",
        "eosin_od_sd",
    ),
    "neighbours": ("nearest_cell_um", "cells_within_50um"),
    "ring": (),
    "texture": (),
    "probabilities": ("nucleus_prob",),
}
_STARTS = {"ring": "ring_", "texture": "texture_", "probabilities": "prob_"}
FEATURE_GROUPS = tuple(_COLUMNS)
"""Groups of measurements that can be named together."""
ALL_FEATURES = ("all",)
"""Stands for every group, as far as the runs have them."""

_STAINED = ("hematoxylin_", "eosin_", "ring_")
"""What begins so depends on how strongly a slide is stained: it is counted from the median of the
slide's nuclei."""
_SAMPLED_ROWS = 65_536

_FILLS = {"nearest_cell_um": 100.0}
"""What null means where it means something: no other nucleus within 100 µm."""


def chosen_features(results: Sequence[Result], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the measurements meant, in a fixed order, that all runs have.

    Parameters
    ----------
    results : sequence of Result
        Runs with examples.
    wanted : sequence of str
        Groups, columns, or "all"; what is named must be there, "all" takes what there is.

    Raises
    ------
    UsageError
        If a name is no group and no measurement, or a run lacks it.
    """
    known = [_available(result) for result in results]
    common = [name for name in known[0] if all(name in names for names in known[1:])]
    everything = {group: _of_group(group, common) for group in FEATURE_GROUPS}
    if tuple(wanted) == ALL_FEATURES:
        return tuple(name for names in everything.values() for name in names)
    listed = [name for names in everything.values() for name in names]
    chosen: set[str] = set()
    for name in wanted:
        found = everything.get(name, [name] if name in listed else [])
        if not found:
            raise UsageError(_no_such(name, listed, results, known))
        chosen.update(found)
    return tuple(name for name in listed if name in chosen)


def fills_of(features: Sequence[str]) -> dict[int, float]:
    """Return, for some columns, what a missing value counts as."""
    return {i: _FILLS[name] for i, name in enumerate(features) if name in _FILLS}


def slide_medians(result: Result, features: Sequence[str]) -> NDArray[np.float64]:
    """Return (p,): what each feature is counted from; 0 for those that no stain changes.

    Medians are of up to 65,536 nuclei, evenly spread over the table, so that memory stays flat.
    """
    medians = np.zeros(len(features))
    stained = [name for name in features if name.startswith(_STAINED)]
    if not stained or not result.run["n_cells"]:
        return medians
    every, first, parts = -(-int(result.run["n_cells"]) // _SAMPLED_ROWS), 0, []
    for batch in result.batches(stained):
        parts.append(batch_values(batch, stained)[-first % every :: every])
        first += batch.num_rows
    sampled = np.concatenate(parts)
    for name, column in zip(stained, sampled.T, strict=True):
        known = column[~np.isnan(column)]
        medians[features.index(name)] = np.median(known) if len(known) else 0
    return medians


def batch_values(batch: pa.RecordBatch, features: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, p) values of a batch; NaN where null."""
    columns = [
        batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in features
    ]
    return np.column_stack(columns) if columns else np.empty((batch.num_rows, 0))


def example_values(examples: RunExamples, features: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, p) values of a run's examples, in their order; NaN where null.

    What depends on the stain is counted from the slide's median.
    """
    parts = [np.empty((0, len(features)))]
    # The ids are 1 … n in the order of the rows.
    rows = examples.cell_id - 1
    first = 0
    for batch in examples.result.batches(features):
        here = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
        parts.append(batch_values(batch.take(pa.array(here)), features))
        first += batch.num_rows
    return np.concatenate(parts) - slide_medians(examples.result, features)


def without_the_empty(
    values: NDArray[np.float64], features: Sequence[str]
) -> tuple[NDArray[np.float64], tuple[str, ...], tuple[str, ...]]:
    """Return values and features without those that are null everywhere or always alike.

    Returns
    -------
    values, features, dropped
        What is left, and the names of what is not.
    """
    with warnings.catch_warnings():
        # A column of nothing but NaN has neither; it is what is looked for.
        warnings.simplefilter("ignore", RuntimeWarning)
        differs = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)
    kept = tuple(name for name, keep in zip(features, differs, strict=True) if keep)
    dropped = tuple(name for name, keep in zip(features, differs, strict=True) if not keep)
    return values[:, differs], kept, dropped


def refuse_missing(result: Result, features: Sequence[str]) -> None:
    """Raise ResultNotReadable if a run lacks measurements that a model needs."""
    missing = [name for name in features if name not in _available(result)]
    if missing:
        raise ResultNotReadable(
            f"{result.path.name} has no {', '.join(missing)}, which the model needs; segment the "
            "slide again with --overwrite and all measurements, or make the model without them "
            "(--features)"
        )


def _available(result: Result) -> list[str]:
    """Return the columns of numbers that a run has, in the order of its files."""
    with open_table(result.cells_path) as table:
        return [*table.schema_arrow.names, *result.feature_names]


def _of_group(group: str, known: Sequence[str]) -> list[str]:
    fixed = [name for name in _COLUMNS[group] if name in known]
    start = _STARTS.get(group)
    return fixed + [name for name in known if start is not None and name.startswith(start)]


def _no_such(
    name: str, listed: Sequence[str], results: Sequence[Result], known: Sequence[Sequence[str]]
) -> str:
    if name in FEATURE_GROUPS or any(name in names for names in known):
        without = [
            result.path.name
            for result, names in zip(results, known, strict=True)
            if not (_of_group(name, names) if name in FEATURE_GROUPS else name in names)
        ]
        if without:
            return (
                f"features: {', '.join(without)} has no {name}; segment the slide again with "
                "--overwrite and all measurements, or name other features"
            )
    return (
        f"features: {name!r} is no group and no measurement of the runs; groups: "
        f"{', '.join(FEATURE_GROUPS)} (or all); measurements: {', '.join(listed)}"
    )
