"""Cells with everything the exporters are given, made plainly from label images."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from slow_masks import instances_of

from wsiseg.identity import cell_uuids
from wsiseg.measure import Measurements, measure_instances
from wsiseg.outlines import trace_outlines
from wsiseg.records import UNKNOWN_CLASS, Cells, Instances, Outlines

CLASS_NAMES = ("Epithelial", "Inflammatory", "Spindle", "Miscellaneous")
CLASS_COLOURS = {
    "Epithelial": (255, 0, 0),
    "Inflammatory": (0, 255, 0),
    "Spindle": (0, 0, 255),
    "Miscellaneous": (255, 255, 0),
}

Parts = tuple[Cells, Outlines, Measurements, NDArray[np.uint8]]


def cells_of(labels: NDArray[np.integer], seed: int, first_id: int = 1) -> Cells:
    """Return the cells of a label image, with classes (some unknown) and flags drawn."""
    rng = np.random.default_rng(seed)
    instances = instances_of(labels)
    n = len(instances)
    index = rng.choice(np.array([0, 1, 2, 3, UNKNOWN_CLASS], np.uint8), n)
    prob = rng.random(n).astype(np.float32)
    drawn = dataclasses.replace(
        instances,
        class_index=index,
        class_prob=np.where(index == UNKNOWN_CLASS, np.float32(np.nan), prob),
        nucleus_prob=rng.random(n).astype(np.float32),
        cut=rng.random(n) < 0.1,
    )
    return with_ids(drawn, first_id)


def with_ids(instances: Instances, first_id: int) -> Cells:
    n = len(instances)
    ids = np.arange(first_id, first_id + n, dtype=np.int64)
    return Cells(instances, ids, np.zeros(n, np.int32), np.zeros(n, np.int32))


def chosen(cells: Cells, which: list[int]) -> Cells:
    """Return some of the cells, one at a time."""
    old = cells.instances
    runs = [old.runs[old.first_run[i] : old.first_run[i + 1]] for i in which]
    plain = {
        field.name: getattr(old, field.name)[which]
        for field in dataclasses.fields(Instances)
        if field.name not in ("first_run", "runs")
    }
    instances = Instances(
        first_run=np.cumsum([0, *map(len, runs)], dtype=np.int64),
        runs=np.concatenate([np.empty((0, 3), np.int32), *runs]),
        **plain,
    )
    return Cells(instances, cells.cell_id[which], cells.tile_row[which], cells.tile_col[which])


def parts_of(cells: Cells, model_mpp: float) -> Parts:
    """Return what `CellsWriter.write` takes."""
    instances = cells.instances
    return (
        cells,
        trace_outlines(instances),
        measure_instances(instances, model_mpp),
        cell_uuids(instances, "slide", "model"),
    )
