"""The cell table: GeoParquet 1.1, one row a nucleus, written as the nuclei come.

Specification: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsiseg.exporters._cells_batch import (
    BBOX_FIELDS,
    CELLS_SCHEMA,
    CellRows,
    RegionColumns,
    batch_of_rows,
    cells_batch,
    check_lengths,
)
from wsiseg.exporters._finish import finished_file
from wsiseg.exporters._row_groups import ROW_GROUP_ROWS, RowGroups
from wsiseg.geometry import Frame
from wsiseg.measure import Measurements
from wsiseg.records import Cells, Outlines

__all__ = [
    "CELLS_SCHEMA",
    "ROW_GROUP_ROWS",
    "CellsWriter",
    "RegionColumns",
    "cells_batch",
    "geo_metadata",
]


class CellsWriter:
    """Writes `cells.parquet` piece by piece; the file appears when the block ends well.

    Use as a context manager.  After an exception nothing is left.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    frame
        The model frame the cells are in.
    slide_mpp
        µm per level-0 pixel.
    class_names
        Name of each class index.

    Raises
    ------
    OutputNotWritable
        If the operating system refuses to write.
    """

    def __init__(
        self, path: Path, frame: Frame, slide_mpp: float, class_names: tuple[str, ...]
    ) -> None:
        self._path = path
        self._frame = frame
        self._slide_mpp = slide_mpp
        self._class_names = class_names
        self._bounds_px: NDArray[np.float64] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(finished_file(self._path))
            self._writer = pq.ParquetWriter(
                partial,
                CELLS_SCHEMA,
                compression="zstd",
                use_dictionary=["class_name", "region", "region_class"],
            )
            self._groups = RowGroups(self._writer, CELLS_SCHEMA)
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(
        self,
        cells: Cells,
        outlines: Outlines,
        measurements: Measurements,
        uuids: NDArray[np.uint8],
        regions: RegionColumns | None = None,
    ) -> None:
        """Add nuclei, in the order of their ids: `cells_batch` and `write_batch` in pieces.

        Raises
        ------
        ValueError
            If the parts are not of one length, or a class index has no name.
        OutputNotWritable
            If the operating system refuses to write.
        """
        rows = CellRows(cells, outlines, measurements, uuids, regions)
        check_lengths(rows)
        for start in range(0, len(cells), ROW_GROUP_ROWS):
            stop = min(len(cells), start + ROW_GROUP_ROWS)
            self.write_batch(
                batch_of_rows(
                    rows, start, stop, self._class_names, self._frame.scale, self._slide_mpp
                )
            )

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Add the rows of `cells_batch`, in the order of their ids.

        Row groups do not depend on how the rows are divided into batches.

        Raises
        ------
        ValueError
            If the batch has other columns than `CELLS_SCHEMA`.
        OutputNotWritable
            If the operating system refuses to write.
        """
        if batch.schema != CELLS_SCHEMA:
            raise ValueError(
                f"a batch has the columns {batch.schema.names}; make it with cells_batch"
            )
        if batch.num_rows == 0:
            return
        self._grow_bounds(batch)
        self._groups.add(batch)

    def _grow_bounds(self, batch: pa.RecordBatch) -> None:
        corners = [corner.to_numpy() for corner in batch.column("bbox").flatten()]
        bounds_px = np.array([c.min() for c in corners[:2]] + [c.max() for c in corners[2:]])
        if self._bounds_px is not None:
            low, high = self._bounds_px[:2], self._bounds_px[2:]
            bounds_px = np.hstack((np.minimum(low, bounds_px[:2]), np.maximum(high, bounds_px[2:])))
        self._bounds_px = bounds_px

    def _close(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._groups.end()
            self._writer.add_key_value_metadata({"geo": json.dumps(geo_metadata(self._bounds_px))})
        self._writer.close()


def geo_metadata(bounds_px: NDArray[np.float64] | None) -> dict[str, object]:
    """Return the file's GeoParquet metadata; without any cell there are no bounds."""
    geometry: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        # Without this readers take pixels for longitude and latitude.
        "crs": None,
        "covering": {"bbox": {name: ["bbox", name] for name in BBOX_FIELDS}},
    }
    if bounds_px is not None:
        geometry["bbox"] = bounds_px.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
