"""Final cells on disk, in pieces, until their pixels are painted."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from wsiseg.errors import OutputNotWritable
from wsiseg.geometry import Box
from wsiseg.records import Cells, Instances
from wsiseg.rundir import temporary

_BAND_PX = 4096
"""Pieces are looked for in bands of so many rows: those near a shard, not all there are."""
_IDENTITY = ("cell_id", "tile_row", "tile_col")
# To paint a nucleus nothing need be known that was measured of it.
_KEPT = tuple(field.name for field in fields(Instances) if field.name != "measured")


@dataclass(frozen=True, slots=True)
class _Piece:
    """Cells of a few neighbouring tiles, in a file."""

    path: Path
    box: Box
    """Smallest box around their pixels."""


class CellSpool:
    """Keeps cells in files and finds those near a box again.

    Any thread may read while another one adds.

    Parameters
    ----------
    folder
        Where the files go; exists, and is nobody else's.
    tiles_across
        Columns of tiles whose cells share a file.
    """

    def __init__(self, folder: Path, tiles_across: int) -> None:
        self._folder = folder
        self._tiles_across = tiles_across
        self._n_pieces = 0
        self._in_band: dict[int, list[_Piece]] = defaultdict(list)
        """Pieces by the bands of rows in which they have pixels."""

    def add(self, cells: Cells) -> None:
        """Keep the cells of one row of tiles, in the order of their ids."""
        group = cells.tile_col // self._tiles_across
        bounds = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
        for start, stop in pairwise(bounds.tolist()):
            self._keep(part_of(cells, start, stop))

    def _keep(self, cells: Cells) -> None:
        instances = cells.instances
        tensors = {name: getattr(instances, name) for name in _KEPT}
        tensors |= {name: getattr(cells, name) for name in _IDENTITY}
        path = self._folder / f"cells_{self._n_pieces:06d}.safetensors"
        content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
        try:
            # Neither synced nor renamed: a later call never reads what this one keeps.
            path.write_bytes(content)
        except OSError as error:
            raise OutputNotWritable(_not_written(error)) from error
        self._n_pieces += 1
        piece = _Piece(path, _box_around(instances.runs))
        bands = range(piece.box.y_px // _BAND_PX, (piece.box.y_end_px - 1) // _BAND_PX + 1)
        for band in bands:
            self._in_band[band].append(piece)

    def near(self, box: Box) -> Iterator[Cells]:
        """Yield at least all cells with pixels in a box, a piece at a time."""
        bands = range(box.y_px // _BAND_PX, (box.y_end_px - 1) // _BAND_PX + 1)
        # A piece may lie in two bands; a dict keeps the order in which they came.
        pieces = {piece: None for band in bands for piece in list(self._in_band.get(band, ()))}
        for piece in pieces:
            if piece.box.intersection(box).area_px:
                yield _load(piece.path)


@contextmanager
def spool_below(folder: Path, tiles_across: int) -> Iterator[CellSpool]:
    """Give a spool in a new temporary folder, which is gone at the end.

    Raises
    ------
    OutputNotWritable
        If the operating system refuses to write.
    """
    with temporary(folder / "spool") as place:
        try:
            try:
                place.mkdir()
            except OSError as error:
                raise OutputNotWritable(_not_written(error)) from error
            yield CellSpool(place, tiles_across)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _not_written(error: OSError) -> str:
    return (
        f"cells cannot be kept on disk for painting ({error.strerror}); free some space or choose "
        "another output folder, then call the same command again"
    )


def part_of(cells: Cells, start: int, stop: int) -> Cells:
    """Return the cells from one position to another; nothing but `first_run` is copied."""
    instances = cells.instances
    first_run = instances.first_run[start : stop + 1]
    plain = {
        field.name: getattr(instances, field.name)[start:stop]
        for field in fields(Instances)
        if field.name not in ("first_run", "runs")
    }
    return Cells(
        Instances(
            first_run=first_run - first_run[0],
            runs=instances.runs[first_run[0] : first_run[-1]],
            **plain,
        ),
        cells.cell_id[start:stop],
        cells.tile_row[start:stop],
        cells.tile_col[start:stop],
    )


def _box_around(runs: NDArray[np.int32]) -> Box:
    """Return the smallest box around runs, of which there is one at least."""
    top, left, _ = runs.min(axis=0).tolist()
    bottom, _, right = runs.max(axis=0).tolist()
    return Box(left, top, right - left, bottom + 1 - top)


def _load(path: Path) -> Cells:
    tensors = load_file(path)
    instances = Instances(**{name: tensors[name] for name in _KEPT})
    return Cells(instances, *(tensors[name] for name in _IDENTITY))
