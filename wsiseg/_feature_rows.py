"""From bands of cells to the rows of `features.parquet`: held back until neighbours are known."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.exporters.features import FeaturesWriter
from wsiseg.features import STAIN_COLUMNS
from wsiseg.measure import centroids_px
from wsiseg.neighbours import REACH_UM, find_neighbours
from wsiseg.records import Cells


@dataclass(frozen=True, slots=True, eq=False)
class _Band:
    """What is kept of the cells of one row of tiles."""

    cell_id: NDArray[np.int64]
    measured: NDArray[np.float32]
    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]

    @property
    def top_um(self) -> float:
        return float(self.y_um.min(initial=math.inf))

    @property
    def bottom_um(self) -> float:
        return float(self.y_um.max(initial=-math.inf))


class FeatureRows:
    """Takes cells band by band and writes their rows in order.

    A row is written when no later cell can be near it.  In memory are the bands that wait, and
    the centroids that those may have for neighbours: about two rows of tiles.

    Parameters
    ----------
    writer
        Of the file; its block is entered.
    groups
        What is measured, as `features.chosen_groups` gives it.
    px_um
        Level-0 pixels per model pixel, and µm per level-0 pixel.
    """

    def __init__(
        self,
        writer: FeaturesWriter,
        groups: Sequence[str],
        px_um: tuple[float, float],
    ) -> None:
        self._writer = writer
        self._has_neighbours = "neighbours" in groups
        self._scale, self._slide_mpp = px_um
        self._waiting: deque[_Band] = deque()
        self._x_um, self._y_um = np.empty(0), np.empty(0)
        """Centroids of those that wait, and before them of others that may be near."""

    def add(self, cells: Cells, complete_above_px: float) -> None:
        """Add a band; no later cell has a pixel above that row."""
        x_px, y_px = centroids_px(cells.instances)
        # To the last bit those of the cell table.
        x_um, y_um = (c * self._scale * self._slide_mpp for c in (x_px, y_px))
        measured = cells.instances.measured[:, len(STAIN_COLUMNS) :]
        band = _Band(cells.cell_id, measured, x_um, y_um)
        if not self._has_neighbours:
            self._write(band, measured)
            return
        self._waiting.append(band)
        self._x_um, self._y_um = np.append(self._x_um, x_um), np.append(self._y_um, y_um)
        self._write_complete(complete_above_px * self._scale * self._slide_mpp)

    def end(self) -> None:
        """Write the rows that waited for cells that did not come."""
        self._write_complete(math.inf)

    def _write_complete(self, complete_above_um: float) -> None:
        while self._waiting and self._waiting[0].bottom_um + REACH_UM <= complete_above_um:
            band = self._waiting.popleft()
            n_after = sum(len(other.cell_id) for other in self._waiting)
            stop = len(self._x_um) - n_after
            found = find_neighbours(self._x_um, self._y_um, stop - len(band.cell_id), stop)
            numbers = np.stack([found.nearest_um, found.n_near], axis=1).astype(np.float32)
            self._write(band, np.concatenate([numbers, band.measured], axis=1))
        self._forget(complete_above_um)

    def _forget(self, complete_above_um: float) -> None:
        """Drop the centroids of written bands that are near nothing that waits or comes."""
        tops = [band.top_um for band in self._waiting]
        n_waiting = sum(len(band.cell_id) for band in self._waiting)
        needed = self._y_um >= min([complete_above_um, *tops]) - REACH_UM
        needed[len(needed) - n_waiting :] = True
        self._x_um, self._y_um = self._x_um[needed], self._y_um[needed]

    def _write(self, band: _Band, values: NDArray[np.float32]) -> None:
        if len(band.cell_id):
            self._writer.write(band.cell_id, values)
