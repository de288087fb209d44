"""Cells with everything the exporters are given, made plainly from label images."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from slow_masks import instances_of

from wsiseg.geometry import Frame
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


def painted(cells: Cells, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Paint pixel by pixel."""
    ids = np.zeros((frame.height_px, frame.width_px), np.uint32)
    classes = np.zeros(ids.shape, np.uint8)
    instances = cells.instances
    for i in range(len(cells)):
        index = int(instances.class_index[i])
        value = 255 if index == UNKNOWN_CLASS else index + 1
        for row, start, stop in instances.runs[instances.first_run[i] : instances.first_run[i + 1]]:
            for col in range(start, stop):
                if 0 <= row < frame.height_px and 0 <= col < frame.width_px:
                    ids[row, col], classes[row, col] = cells.cell_id[i], value
    return ids, classes


def slow_half(rgb: np.ndarray) -> np.ndarray:
    """Return the means of 2 × 2 pixels, white beyond the edge, pixel by pixel."""
    height, width, _ = rgb.shape
    out = np.empty((-(-height // 2), -(-width // 2), 3), np.uint8)
    for row, col, channel in np.ndindex(*out.shape):
        four = [
            int(rgb[r, c, channel]) if r < height and c < width else 255
            for r in (2 * row, 2 * row + 1)
            for c in (2 * col, 2 * col + 1)
        ]
        out[row, col, channel] = (sum(four) + 2) // 4
    return out
