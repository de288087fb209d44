"""From tile files to the cell table and the masks, while tiles still run.  Streamed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from threading import Event
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg._feature_rows import FeatureRows
from wsiseg._spool import CellSpool, part_of, spool_below
from wsiseg.errors import ResultNotReadable
from wsiseg.exporters import ome_zarr
from wsiseg.exporters.features import FeaturesWriter
from wsiseg.exporters.ome_zarr import MaskSource, MaskWriter
from wsiseg.exporters.parquet import CellsWriter, RegionColumns, cells_batch
from wsiseg.features import feature_columns
from wsiseg.geometry import Box, Frame
from wsiseg.identity import cell_uuids
from wsiseg.measure import centroids_px, measure_instances
from wsiseg.outlines import trace_outlines
from wsiseg.plan import RunPlan
from wsiseg.records import UNKNOWN_CLASS, Cells, Tile
from wsiseg.regions import Memberships, Region, RegionIndex
from wsiseg.rundir import RunDir, read_tile_file
from wsiseg.slides import read_frame
from wsiseg.stitch import StitchCounts, StitchedBand, TileInstances, stitch
from wsiseg.stopwatch import Stopwatch

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

ONLY_CLASS = "Nucleus"
"""Class name of every nucleus if the model knows no classes."""

_NETWORK_DISK_S = 60.0
_CELLS_AT_ONCE = 4096
"""Nuclei that one thread measures at a time; a few MB with their polygons."""


@dataclass(frozen=True, slots=True)
class CellCounts:
    """What stitching gave."""

    n_cells: int
    by_class: dict[str, int]
    """Zeros included."""
    n_cut: int
    """Cells that may lack a part."""
    stitch: StitchCounts


class _Tally:
    """Counts cells as they come."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._by_class = np.zeros(len(names), np.int64)
        self._n_cut = 0
        self._stitch = StitchCounts()
        self.n_cells = 0

    def add(self, cells: Cells, counts: StitchCounts) -> None:
        self._by_class += np.bincount(cells.instances.class_index, minlength=len(self._names))
        self._n_cut += int(cells.instances.cut.sum())
        self._stitch = self._stitch + counts
        self.n_cells += len(cells)

    def counts(self) -> CellCounts:
        per_class = dict(zip(self._names, self._by_class.tolist(), strict=True))
        return CellCounts(self.n_cells, per_class, self._n_cut, self._stitch)


def assemble_cells(
    plan: RunPlan,
    folder: RunDir,
    tiles: Iterable[Tile],
    watch: Stopwatch,
    threads: int,
    stopped: Event | None = None,
) -> CellCounts:
    """Stitch tiles as they come; write `cells.parquet`, `features.parquet`, `masks.zarr`.

    In memory are the nuclei of about one row of tiles and what the threads have at hand; what
    is settled but not painted yet is spooled to disk.

    Parameters
    ----------
    plan : RunPlan
        What is run.
    folder : RunDir
        Where the tile files are, and the results go.
    tiles : iterable of Tile
        The plan's tiles in order, each when its file is there.
    watch : Stopwatch
        Told how long reading tile files, stitching, spooling, measuring, writing and painting
        took.
    threads : int
        How many threads measure; half as many paint.
    stopped : Event, optional
        When set, nothing further is begun, and `Stopped` is raised.

    Raises
    ------
    ResultNotReadable
        If a tile file is missing or damaged.
    OutputNotWritable
        If the operating system refuses to write.
    """
    names = class_names(plan)
    tally = _Tally(names)
    tiles_across = max(1, ome_zarr.SHARD_PX // plan.grid.core_px)
    painters = max(1, threads // 2)
    with (
        spool_below(folder.path, tiles_across) as spool,
        MaskWriter(
            folder.path / "masks.zarr",
            _mask_source(plan, spool),
            painters,
            partial(watch.add, "masks_busy"),
            stopped,
        ) as masks,
        CellsWriter(folder.path / "cells.parquet", plan.frame, plan.scale.mpp, names) as table,
        ExitStack() as more,
        ThreadPoolExecutor(threads, "wsiseg-measure") as pool,
    ):
        found = _read_tiles(folder, plan.run_key, tiles, watch)
        bands = watch.timed("stitch_busy", stitch(found, plan.options.stitch))
        features = _feature_rows(plan, folder, more)
        parts = _settled_parts(plan, bands, spool, masks, features, tally, watch)
        for rows in in_order(pool, partial(_rows, plan, names, watch), parts, 2 * threads):
            with watch.stage("table_busy"):
                table.write_batch(rows)
        if features is not None:
            with watch.stage("features_busy"):
                features.end()
    return tally.counts()


def in_order(
    pool: ThreadPoolExecutor, task: Callable[[Item], Outcome], items: Iterable[Item], most: int
) -> Iterator[Outcome]:
    """Yield the outcome of a task for each item, in order; at most so many are under way."""
    waiting: deque[Future[Outcome]] = deque()
    for item in items:
        waiting.append(pool.submit(task, item))
        while len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _feature_rows(plan: RunPlan, folder: RunDir, block: ExitStack) -> FeatureRows | None:
    """Return what writes `features.parquet` until the block ends, None if nothing goes there."""
    columns = feature_columns(plan.options.measure, plan.model.card.class_names)
    if not columns:
        return None
    writer = block.enter_context(FeaturesWriter(folder.path / "features.parquet", columns))
    return FeatureRows(writer, plan.options.measure, (plan.frame.scale, plan.scale.mpp))


_Part = tuple[Cells, RegionColumns | None]
"""Some cells on their way to the table, and in which regions they are."""


def _settled_parts(
    plan: RunPlan,
    bands: Iterable[StitchedBand],
    spool: CellSpool,
    masks: MaskWriter,
    features: FeatureRows | None,
    tally: _Tally,
    watch: Stopwatch,
) -> Iterator[_Part]:
    """Count and spool the cells of each band, have painted what can be, and hand them on."""
    index = RegionIndex(plan.regions) if plan.regions else None
    for band, complete_above_px in zip(bands, _settled_rows(plan), strict=True):
        cells = _with_some_class(band.cells)
        cells, regions = _within_regions(cells, plan, index, tally.n_cells)
        tally.add(cells, band.counts)
        # A row of tiles may have many nuclei: none is kept twice, or beside the next row's.
        del band
        with watch.stage("spool_busy"):
            spool.add(cells)
        masks.cells_complete_above(complete_above_px)
        if features is not None:
            with watch.stage("features_busy"):
                features.add(cells, complete_above_px)
        for start in range(0, len(cells), _CELLS_AT_ONCE):
            stop = min(start + _CELLS_AT_ONCE, len(cells))
            yield part_of(cells, start, stop), _rows_of(regions, start, stop)
        del cells, regions


def _settled_rows(plan: RunPlan) -> list[int]:
    """Return for each row of tiles the first model row that cells of later ones may reach."""
    rows = sorted({tile.row for tile, _ in plan.tiles})
    tops = [plan.grid.tile(row, 0).outer.y_px for row in rows[1:]]
    return [*tops, plan.frame.height_px] if rows else []


def _rows_of(regions: RegionColumns | None, start: int, stop: int) -> RegionColumns | None:
    if regions is None:
        return None
    return RegionColumns(*(column.slice(start, stop - start) for column in regions))


def _rows(plan: RunPlan, names: tuple[str, ...], watch: Stopwatch, part: _Part) -> pa.RecordBatch:
    """Measure some cells; return their rows of the table."""
    cells, regions = part
    instances = cells.instances
    with watch.stage("measure_busy"):
        return cells_batch(
            cells,
            trace_outlines(instances),
            measure_instances(instances, plan.model_mpp),
            cell_uuids(instances, plan.slide.info.fingerprint, plan.model.card.sha256),
            names,
            plan.frame,
            plan.scale.mpp,
            regions,
        )


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


def _mask_source(plan: RunPlan, spool: CellSpool) -> MaskSource:
    slide = plan.looked_at

    def read_rgb(frame: Frame, box: Box) -> NDArray[np.uint8]:
        return read_frame(slide, frame, box)

    return MaskSource(
        plan.frame,
        plan.model_mpp,
        spool.near,
        read_rgb,
        class_names(plan),
        class_colours(plan),
    )


def _read_tiles(
    folder: RunDir, run_key: str, tiles: Iterable[Tile], watch: Stopwatch
) -> Iterator[TileInstances]:
    # Waiting for a tile is no work, and counts for no stage.
    for tile in watch.timed("waiting", tiles):
        _await_listing(folder, tile)
        with watch.stage("tile_files_busy"):
            found = read_tile_file(folder.tile_file(tile), run_key, tile)
        if found is None:
            raise ResultNotReadable(
                f"{folder.path.name}: the file of tile ({tile.row}, {tile.col}) is missing or "
                "damaged; call the same command again to compute it"
            )
        yield found


def _await_listing(folder: RunDir, tile: Tile) -> None:
    """Wait for a tile's file to be seen here, if another machine has written it.

    A network disk may say for half a minute that there is no file of a name it was asked for
    before; listing the folder makes it look again.
    """
    path = folder.tile_file(tile)
    deadline = time.monotonic() + _NETWORK_DISK_S
    while not path.exists() and folder.work.is_dir() and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if path in folder.work.iterdir():
                return
        time.sleep(0.5)


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


def stitch_counts_json(counts: CellCounts) -> dict[str, int]:
    """Return the stitch counts as they stand in `run.json`."""
    return {**asdict(counts.stitch), "cells_cut": counts.n_cut}
