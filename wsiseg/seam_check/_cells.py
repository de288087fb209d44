"""The nuclei of a grid of tiles in some places: run for it, or read from a finished run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import ResultNotReadable
from wsiseg.geometry import Box
from wsiseg.pipeline import Progress, tile_job
from wsiseg.plan import RunPlan
from wsiseg.regions import Region, area_px2, touched, union_of
from wsiseg.results import Result
from wsiseg.rundir import RunDir, read_tile_file
from wsiseg.runners import TileRunner
from wsiseg.seam_check._matching import Masks, joined_masks
from wsiseg.seam_check._squares import in_boxes
from wsiseg.stitch import TileInstances, stitch
from wsiseg.tiles import TileGrid, plan_tiles


def plan_of_squares(
    plan: RunPlan, squares: Sequence[Box], around_px: int, offset_px: int
) -> RunPlan:
    """Return the plan of a region's run whose regions are squares, on a moved grid.

    Parameters
    ----------
    plan : RunPlan
        Of the slide, with or without regions of interest of its own.
    squares : sequence of Box
        Model pixels.
    around_px : int
        Nuclei with a centroid this far outside a square are also those of the whole run.
    offset_px : int
        Offset of the grid.
    """
    scale, info = plan.frame.scale, plan.slide.info
    card = plan.model.card
    regions = [
        Region(f"square {i}", None, None, "annotation", False, None, _level0([box], scale))
        for i, box in enumerate(squares, 1)
    ]
    grid = TileGrid(plan.frame, card.core_px, card.margin_px, offset_px)
    wide = union_of([replace(one, geometry=_grown(one, around_px * scale)) for one in regions])
    # As for any region's run: tiles a margin away may decide about a nucleus inside.
    near = touched(wide, plan.area.frame, card.margin_px * scale)
    if plan.regions:
        near &= touched(union_of(plan.regions), plan.area.frame, card.margin_px * scale)
    inside_px2 = area_px2(
        union_of(regions), plan.counted.inside, plan.area.frame, (info.width_px, info.height_px)
    )
    return replace(
        plan,
        options=replace(plan.options, grid_offset_px=offset_px, measure=()),
        grid=grid,
        regions=tuple(regions),
        analysed_mm2=inside_px2 * plan.scale.mpp**2 / 1e6,
        tiles=tuple(plan_tiles(grid, plan.area, near)),
    )


def _level0(boxes: Sequence[Box], scale: float) -> shapely.MultiPolygon:
    """Return boxes of the model frame as a geometry of the slide."""
    corners = [(b.x_px, b.y_px, b.x_end_px, b.y_end_px) for b in boxes]
    return shapely.MultiPolygon(
        [shapely.box(*(value * scale for value in corner)) for corner in corners]
    )


def _grown(region: Region, by_px: float) -> shapely.MultiPolygon:
    x, y, x_end, y_end = region.geometry.bounds
    return shapely.MultiPolygon([shapely.box(x - by_px, y - by_px, x_end + by_px, y_end + by_px)])


def run_tiles_of(plan: RunPlan, run_tiles: TileRunner, tell: Progress, stage: str) -> Masks:
    """Run a plan's tiles into a temporary folder and return the stitched nuclei.

    They are those of the whole slide's run only where the plan's regions are; others are
    returned, too.
    """
    with tempfile.TemporaryDirectory(prefix="wsiseg-seamcheck-") as temporary:
        folder = RunDir(Path(temporary))
        folder.work.mkdir()
        tiles = [tile for tile, _ in plan.tiles]
        tell(stage, 0, len(tiles))
        for n_done, _ in enumerate(run_tiles(tile_job(plan, folder), tiles), 1):
            tell(stage, n_done, len(tiles))
        bands = stitch(_delivered(plan, folder), plan.options.stitch)
        found = [band.cells.instances for band in bands]
    return joined_masks([Masks(one.first_run, one.runs) for one in found])


def _delivered(plan: RunPlan, folder: RunDir) -> Iterator[TileInstances]:
    for tile, _ in plan.tiles:
        found = read_tile_file(folder.tile_file(tile), plan.run_key, tile)
        if found is None:
            raise ResultNotReadable(
                f"the file of tile ({tile.row}, {tile.col}) has gone from the temporary folder; "
                "leave that alone while a check runs, and call it again"
            )
        yield found


def within_squares(masks: Masks, squares: Sequence[Box], around_px: int) -> Masks:
    """Return the nuclei with a centroid in, or this far around, a square."""
    inside = in_boxes([box.grown(around_px) for box in squares], *masks.centroid_px)
    return masks.taken(np.flatnonzero(inside))


def stored_masks(result: Result, squares: Sequence[Box], around_px: int) -> Masks:
    """Return the nuclei of a finished run that lie in, or this far around, squares."""
    scale = result.frame.scale
    # A pixel more, for what is rounded; what is wanted is decided from the masks themselves.
    wide = [box.grown(around_px + 1) for box in squares]
    within = shapely.unary_union(_level0(wide, scale))
    table = result.cells(within=within, columns=["geometry"])
    polygons = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    return within_squares(masks_of_polygons(polygons, scale), squares, around_px)


def masks_of_polygons(polygons: NDArray[np.object_], scale: float) -> Masks:
    """Return the pixels whose centres are inside polygons, each run by run.

    Parameters
    ----------
    polygons : ndarray of shapely.Polygon
        (n,), level-0 pixels; vertices in the middles of model pixels' edges, as runs have them.
    scale : float
        Level-0 pixels per model pixel.

    Returns
    -------
    Masks
        In the given order, in model pixels: exactly those the polygons were drawn around.
    """
    rings, owner = shapely.get_rings(polygons, return_index=True)
    xy_px, ring = shapely.get_coordinates(rings, return_index=True)
    # Half pixels are whole numbers: what level-0 pixels have rounded comes back exactly.
    xy_half = np.rint(xy_px * (2 / scale)).astype(np.int64)
    edge = np.flatnonzero(ring[1:] == ring[:-1])
    (x, y), (x_next, y_next) = xy_half[edge].T, xy_half[edge + 1].T
    # An edge crosses the middle of row i, at 2 i + 1 half pixels, if that is in [low, high).
    first_row, row_end = np.minimum(y, y_next) // 2, np.maximum(y, y_next) // 2
    n_rows = row_end - first_row
    at = np.repeat(np.arange(len(edge)), n_rows)
    row = first_row[at] + np.arange(len(at)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    along = (2 * row + 1 - y[at]) / (y_next[at] - y[at])
    crossing_half = x[at] + along * (x_next[at] - x[at])
    col = np.ceil((crossing_half - 1) / 2).astype(np.int64)
    of = owner[ring[edge]][at]
    order = np.lexsort((col, row, of))
    start, end = order[0::2], order[1::2]
    filled = col[start] < col[end]
    start, end = start[filled], end[filled]
    n_runs = np.bincount(of[start], minlength=len(polygons))
    first_run = np.concatenate([[0], np.cumsum(n_runs)]).astype(np.int64)
    return Masks(first_run, np.column_stack([row[start], col[start], col[end]]).astype(np.int32))
