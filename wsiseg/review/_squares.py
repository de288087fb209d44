"""Which squares of a run are reviewed: a random sample, and the least certain ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import ArrayLike, NDArray

from wsiseg.cell_table import open_table
from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.evaluation.sampling import inclusion_probabilities, systematic_sample
from wsiseg.exporters import wkb
from wsiseg.geometry import Box, Frame
from wsiseg.regions import covered, read_regions
from wsiseg.results import Result
from wsiseg.review._records import (
    ReviewOptions,
    ReviewSample,
    ReviewSquare,
    SquareGrid,
    check_class_name,
)
from wsiseg.rundir import unreadable_tiles

NEEDED_COLUMNS = ("cell_id", "uuid", "class_name", "x", "y", "area_um2", "geometry")
_CERTAINTY = ("class_prob", "nucleus_prob")
_LOOKS_PER_SIDE = 12
"""Tissue is looked at in so many places along a square's side."""
_LEAST_SIZE = 0.1
"""Squares with less tissue are drawn as if they had this share."""
_ENOUGH_CELLS = 5
"""Of fewer nuclei the mean certainty says little."""


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """All squares that could be drawn, in raster order."""

    key: NDArray[np.int64]
    """(m,): number in the grid."""
    share: NDArray[np.float64]
    """(m,): about which share of it was analysed."""
    n_cells: NDArray[np.int64]
    """(m,)."""
    certainty: NDArray[np.float64]
    """(m,): mean over the nuclei of the lower of class and nucleus probability; NaN without."""


@dataclass(frozen=True, slots=True, eq=False)
class CellSums:
    """What one pass over a run's nuclei gives."""

    key: NDArray[np.int64]
    """(m,): squares that hold nuclei, ascending."""
    n: NDArray[np.int64]
    """(m,): nuclei."""
    certainty: NDArray[np.float64]
    """(m,): mean certainty, NaN where it is not known."""
    n_of_class: dict[str, int]
    fingerprint: str


def draw_sample(result: Result, name: str, options: ReviewOptions) -> ReviewSample:
    """Draw the squares of a review.

    Raises
    ------
    UsageError
        If nothing was analysed, a square is less than a pixel, or a class has a name that stands
        for something else.
    ResultNotReadable
        If a file of the run is damaged.
    """
    rng = np.random.default_rng(options.seed)
    grid = _grid(result, options, rng)
    sums = sum_cells(result, grid)
    for class_name in sums.n_of_class:
        check_class_name(class_name, result.path.name)
    population = _population(result, grid, sums)
    chance = inclusion_probabilities(
        np.maximum(population.share, _LEAST_SIZE), options.n - options.n_uncertain
    )
    drawn = systematic_sample(chance, rng)
    unsure = _least_certain(population, drawn, options.n_uncertain)
    drawn_chance = dict(zip(drawn.tolist(), chance[drawn].tolist(), strict=True))
    positions = rng.permutation(np.concatenate((drawn, unsure)))
    squares = _named_squares(result, grid, population, positions.tolist(), drawn_chance)
    return ReviewSample(
        name=name,
        slide=result.name,
        model=result.model_name,
        model_sha256=str(result.run["model"].get("sha256", "")),
        classes_version=result.classes_version,
        fingerprint=sums.fingerprint,
        options=options,
        grid=grid,
        n_population=len(population.key),
        analysed_mm2=result.analysed_mm2,
        n_cells=int(result.run["n_cells"]),
        n_of_class=sums.n_of_class,
        squares=squares,
    )


def _named_squares(
    result: Result,
    grid: SquareGrid,
    population: Population,
    positions: Sequence[int],
    chance: Mapping[int, float],
) -> tuple[ReviewSquare, ...]:
    """Return squares in the given order; those without a chance are the least certain ones."""
    keys = population.key[np.array(positions, np.int64)]
    cells = cells_in_squares(result, grid, keys)
    key_of_cell = cells["key"].to_numpy()
    digits = max(2, len(str(len(positions))))
    squares = []
    for k, (position, key) in enumerate(zip(positions, keys.tolist(), strict=True), start=1):
        rows = cells.filter(pa.array(key_of_cell == key))
        squares.append(
            ReviewSquare(
                name=f"review {k:0{digits}d}",
                kind="random" if position in chance else "uncertain",
                key=key,
                inclusion_prob=chance.get(position),
                analysed_share=round(float(population.share[position]), 4),
                cell_uuids=tuple(rows["uuid"].to_pylist()),
                cell_classes=tuple(rows["class_name"].to_pylist()),
            )
        )
    return tuple(squares)


def _grid(result: Result, options: ReviewOptions, rng: np.random.Generator) -> SquareGrid:
    side_px = round(options.side_um / result.mpp)
    if side_px < _LOOKS_PER_SIDE:
        raise UsageError(
            f"squares of {options.side_um:g} µm are {side_px} px wide at {result.mpp:g} µm/px; "
            f"at least {_LOOKS_PER_SIDE} px are needed: give a larger --side-um"
        )
    x_px, y_px = (int(v) for v in rng.integers(side_px, size=2))
    return SquareGrid(side_px, x_px, y_px)


def sum_cells(result: Result, grid: SquareGrid) -> CellSums:
    """Count nuclei and their certainty by square in one pass, and take the run's fingerprint.

    Raises
    ------
    ResultNotReadable
        If the table lacks a column or is damaged.
    """
    with open_table(result.cells_path) as table:
        there = table.schema_arrow.names
    missing = [name for name in NEEDED_COLUMNS if name not in there]
    if missing:
        raise ResultNotReadable(
            f"{result.path.name}/cells.parquet has no column {missing[0]!r}, which a review "
            "needs; segment the slide again with --overwrite"
        )
    known = [name for name in _CERTAINTY if name in there]
    digest = hashlib.sha256(str(result.run["model"].get("sha256")).encode())
    classes: Counter[str] = Counter(dict.fromkeys(result.class_names, 0))
    parts = [np.empty((0, 4))]
    for batch in result.batches(["uuid", "x", "y", "class_name", *known]):
        first_byte, text = wkb.binary_buffers(batch["uuid"])
        # Of a batch the buffer may hold more than its own rows.
        digest.update(text[first_byte[0] : first_byte[-1]].tobytes())
        named = batch["class_name"].cast(pa.string()).drop_null().value_counts()
        classes.update({each["values"]: each["counts"] for each in named.to_pylist()})
        key, place = np.unique(
            grid.key(batch["x"].to_numpy(), batch["y"].to_numpy()), return_inverse=True
        )
        sure = _certainty(batch, known)
        has = np.isfinite(sure)
        columns = (
            key.view(np.float64),  # the bits of a whole number, unchanged
            np.bincount(place, minlength=len(key)),
            np.bincount(place, has, len(key)),
            np.bincount(place, np.where(has, sure, 0.0), len(key)),
        )
        parts.append(np.column_stack(columns))
    all_parts = np.concatenate(parts)
    key, place = np.unique(all_parts[:, 0].copy().view(np.int64), return_inverse=True)
    n, n_sure, total = (np.bincount(place, all_parts[:, k], len(key)) for k in (1, 2, 3))
    with np.errstate(invalid="ignore"):
        certainty = total / n_sure
    return CellSums(key, n.astype(np.int64), certainty, dict(classes), digest.hexdigest())


def _certainty(batch: pa.RecordBatch, names: list[str]) -> NDArray[np.float64]:
    """Return the lowest of the probabilities that are known, NaN where none is."""
    columns = [batch[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names]
    lowest: NDArray[np.float64] = np.full(batch.num_rows, np.nan)
    for column in columns:
        lowest = np.fmin(lowest, column)
    return lowest


def _population(result: Result, grid: SquareGrid, sums: CellSums) -> Population:
    tissue_key, share = _analysed_shares(result, grid)
    key = np.union1d(tissue_key, sums.key)
    population = Population(
        key, np.zeros(len(key)), np.zeros(len(key), np.int64), np.full(len(key), np.nan)
    )
    population.share[np.searchsorted(key, tissue_key)] = share
    population.n_cells[np.searchsorted(key, sums.key)] = sums.n
    population.certainty[np.searchsorted(key, sums.key)] = sums.certainty
    return population


def _analysed_shares(
    result: Result, grid: SquareGrid
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the squares with analysed tissue, and about which share of each that is."""
    if not result.analysed_mm2:
        raise UsageError(
            f"nothing can be reviewed in {result.path.name}: {result.no_density_reason}"
        )
    slide = result.run["slide"]
    size_px = int(slide["width_px"]), int(slide["height_px"])
    frame = Frame.of_slide(*size_px, grid.side_px / _LOOKS_PER_SIDE)
    inside = covered(_outlines(result, "tissue.geojson", size_px), frame)
    if result.regions:
        inside &= covered(_outlines(result, "regions.geojson", size_px), frame)
    rows, cols = np.nonzero(inside)
    x, y = ((line + 0.5) * np.float64(frame.scale) for line in (cols, rows))
    lost = np.zeros(len(x), np.bool_)
    for tile in unreadable_tiles(result.run):
        x0, y0, width, height = tile["box"]
        lost |= (x >= x0) & (x < x0 + width) & (y >= y0) & (y < y0 + height)
    key, n = np.unique(grid.key(x[~lost], y[~lost]), return_counts=True)
    return key, np.minimum(1.0, n / _LOOKS_PER_SIDE**2)


def _outlines(result: Result, name: str, size_px: tuple[int, int]) -> list[shapely.Geometry]:
    """Return the areas in one of the run's own GeoJSON files."""
    path = result.path / name
    if not path.is_file():
        raise ResultNotReadable(
            f"{result.path.name} has no {name}, which says what was analysed; segment the slide "
            "again with --overwrite"
        )
    file = read_regions(path, result.name, size_px, slide_bounds(result))
    return [region.geometry for region in file.regions if not region.missing]


def slide_bounds(result: Result) -> Box:
    """Return the slide's bounds, level-0 px."""
    x, y, width, height = (int(v) for v in result.run["slide"]["bounds"])
    return Box(x, y, width, height)


def _least_certain(population: Population, drawn: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the positions of the least certain squares that were not drawn."""
    open_ = np.isfinite(population.certainty)
    open_[drawn] = False
    enough = open_ & (population.n_cells >= _ENOUGH_CELLS)
    # Few squares may have enough nuclei; the rest come after them.
    order = np.lexsort((population.certainty, ~enough))
    return order[open_[order]][:n].astype(np.int64)


def cells_in_squares(result: Result, grid: SquareGrid, keys: ArrayLike) -> pa.Table:
    """Return the nuclei with centroids in some squares, in the order of the run.

    Returns
    -------
    pyarrow.Table
        The columns a review needs, and `key`: the number of the square.
    """
    parts = []
    for batch in result.batches(NEEDED_COLUMNS):
        key = grid.key(batch["x"].to_numpy(), batch["y"].to_numpy())
        wanted = np.isin(key, keys)
        if wanted.any():
            part = pa.Table.from_batches([batch]).filter(pa.array(wanted))
            parts.append(part.append_column("key", pa.array(key[wanted])))
    if not parts:
        fields = {"cell_id": pa.uint32(), "x": pa.float64(), "y": pa.float64()}
        fields |= {"area_um2": pa.float32(), "geometry": pa.binary(), "key": pa.int64()}
        names = (*NEEDED_COLUMNS, "key")
        return pa.schema([(name, fields.get(name, pa.string())) for name in names]).empty_table()
    return pa.concat_tables([part.replace_schema_metadata() for part in parts])
