"""From tile files to cells, masks and everything else in a run directory.  Streamed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from wsiseg.errors import ResultNotReadable
from wsiseg.exporters.ome_zarr import write_masks
from wsiseg.exporters.parquet import CellsWriter, RegionColumns
from wsiseg.geometry import Box, Frame
from wsiseg.identity import cell_uuids
from wsiseg.measure import centroids_px, measure_instances
from wsiseg.outlines import trace_outlines
from wsiseg.plan import RunPlan
from wsiseg.records import UNKNOWN_CLASS, Cells, Instances, Tile
from wsiseg.regions import Memberships, Region, RegionIndex
from wsiseg.rundir import RunDir, read_tile_file, write_atomically
from wsiseg.slides import read_frame
from wsiseg.stitch import StitchCounts, TileInstances, stitch

ONLY_CLASS = "Nucleus"
"""Class name of every nucleus if the model knows no classes."""


@dataclass(frozen=True, slots=True)
class Band:
    """Cells of one tile row on disk, until masks are painted."""

    path: Path
    y_start_px: int
    """First model row with a pixel of its cells."""
    y_end_px: int
    """Row after the last."""


@dataclass(frozen=True, slots=True)
class CellCounts:
    """What stitching gave."""

    n_cells: int
    by_class: dict[str, int]
    """Zeros included."""
    n_cut: int
    """Cells that may lack a part."""
    stitch: StitchCounts


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timed(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
        """Yield items; the time each takes to come counts for a stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


def assemble_cells(
    plan: RunPlan, folder: RunDir, watch: Stopwatch
) -> tuple[list[Band], CellCounts]:
    """Stitch all tiles, write `cells.parquet`, and spool the masks.

    Raises
    ------
    ResultNotReadable
        If a tile file is missing or damaged.
    """
    names = class_names(plan)
    by_class = np.zeros(len(names), np.int64)
    counts = StitchCounts()
    bands: list[Band] = []
    n_cells = n_cut = 0
    index = RegionIndex(plan.regions) if plan.regions else None
    tiles = _read_tiles(folder, plan.run_key, [tile for tile, _ in plan.tiles])
    with CellsWriter(folder.path / "cells.parquet", plan.frame, plan.scale.mpp, names) as writer:
        for stitched in watch.timed("stitch", stitch(tiles, plan.options.stitch)):
            cells = _with_some_class(stitched.cells)
            counts = counts + stitched.counts
            with watch.stage("measure"):
                cells, regions = _within_regions(cells, plan, index, n_cells)
                _write_cells(writer, cells, plan, regions)
            with watch.stage("spool"):
                bands += _spool(folder, len(bands), cells)
            by_class += np.bincount(cells.instances.class_index, minlength=len(names))
            n_cells += len(cells)
            n_cut += int(cells.instances.cut.sum())
    per_class = dict(zip(names, by_class.tolist(), strict=True))
    return bands, CellCounts(n_cells, per_class, n_cut, counts)


def _with_some_class(cells: Cells) -> Cells:
    """Give the nuclei of a model without classes the one class all of them have."""
    index = cells.instances.class_index
    if not (index == UNKNOWN_CLASS).any():
        return cells
    return replace(cells, instances=replace(cells.instances, class_index=np.zeros_like(index)))


def class_names(plan: RunPlan) -> tuple[str, ...]:
    """Return the model's class names; a model without classes has one, `Nucleus`."""
    return plan.model.card.class_names or (ONLY_CLASS,)


def class_colours(plan: RunPlan) -> dict[str, tuple[int, int, int]]:
    """Return a colour for every class name of the run."""
    return {c.name: c.rgb for c in plan.model.card.classes} or {ONLY_CLASS: (255, 230, 0)}


def paint_all(plan: RunPlan, folder: RunDir, bands: Sequence[Band], threads: int) -> None:
    """Write `masks.zarr` from the spooled cells."""

    def read_cells(y_start_px: int, y_end_px: int) -> Iterable[Cells]:
        return (
            _load_band(band.path)
            for band in bands
            if band.y_start_px < y_end_px and band.y_end_px > y_start_px
        )

    def read_rgb(frame: Frame, box: Box) -> NDArray[np.uint8]:
        return read_frame(plan.slide, frame, box)

    write_masks(
        folder.path / "masks.zarr",
        plan.frame,
        plan.model_mpp,
        read_cells,
        read_rgb,
        class_names(plan),
        class_colours(plan),
        threads=threads,
    )


def _read_tiles(folder: RunDir, run_key: str, tiles: Sequence[Tile]) -> Iterator[TileInstances]:
    for tile in tiles:
        found = read_tile_file(folder.tile_file(tile), run_key, tile)
        if found is None:
            raise ResultNotReadable(
                f"{folder.path.name}: the file of tile ({tile.row}, {tile.col}) is missing or "
                "damaged; call the same command again to compute it"
            )
        yield found


def _within_regions(
    cells: Cells, plan: RunPlan, index: RegionIndex | None, n_before: int
) -> tuple[Cells, RegionColumns | None]:
    """Keep the nuclei with a centroid in a region, numbered on, and say in which they are.

    The centroids are those of the table, to the last bit, so that filtering the whole slide's
    table gives the same nuclei.
    """
    if index is None:
        return cells, None
    x_px, y_px = centroids_px(cells.instances)
    found = index.locate(x_px * plan.frame.scale, y_px * plan.frame.scale)
    kept = np.flatnonzero(found.innermost >= 0)
    inside = Cells(
        cells.instances.taken(kept),
        n_before + 1 + np.arange(len(kept), dtype=np.int64),
        cells.tile_row[kept],
        cells.tile_col[kept],
    )
    return inside, region_columns(found, kept, plan.regions)


def region_columns(
    found: Memberships, kept: NDArray[np.int64], regions: Sequence[Region]
) -> RegionColumns:
    """Return the region columns of the nuclei at the positions `kept`, all in some region."""
    names = pa.array([region.name for region in regions], pa.string())
    classes = pa.array([region.class_name for region in regions], pa.string())
    innermost = pa.array(found.innermost[kept])
    n_members = np.diff(found.first)
    offsets = np.concatenate([[0], np.cumsum(n_members[kept])]).astype(np.int32)
    # Nuclei outside have no members, so what is left is that of the kept ones, in order.
    ids = pa.ListArray.from_arrays(offsets, pa.array(found.member.astype(np.uint16)))
    return RegionColumns(names.take(innermost), classes.take(innermost), ids)


def _write_cells(
    writer: CellsWriter, cells: Cells, plan: RunPlan, regions: RegionColumns | None
) -> None:
    instances = cells.instances
    writer.write(
        cells,
        trace_outlines(instances),
        measure_instances(instances, plan.model_mpp),
        cell_uuids(instances, plan.slide.info.fingerprint, plan.model.card.sha256),
        regions,
    )


def _spool(folder: RunDir, number: int, cells: Cells) -> list[Band]:
    if not len(cells):
        return []
    instances = cells.instances
    tensors = {field.name: getattr(instances, field.name) for field in fields(Instances)}
    tensors |= {"cell_id": cells.cell_id, "tile_row": cells.tile_row, "tile_col": cells.tile_col}
    path = folder.work / f"band_{number:05d}.safetensors"
    write_atomically(path, save({n: np.ascontiguousarray(t) for n, t in tensors.items()}))
    rows = instances.runs[:, 0]
    return [Band(path, int(rows.min()), int(rows.max()) + 1)]


def _load_band(path: Path) -> Cells:
    tensors = load_file(path)
    names = [field.name for field in fields(Instances)]
    instances = Instances(**{name: tensors[name] for name in names})
    return Cells(instances, tensors["cell_id"], tensors["tile_row"], tensors["tile_col"])


def stitch_counts_json(counts: CellCounts) -> dict[str, int]:
    """Return the stitch counts as they stand in `run.json`."""
    return {**asdict(counts.stitch), "cells_cut": counts.n_cut}
