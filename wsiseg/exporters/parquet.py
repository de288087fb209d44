"""The cell table: GeoParquet 1.1, one row a nucleus, written as the nuclei come.

Specification: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsiseg.exporters import wkb
from wsiseg.exporters._finish import finished_file
from wsiseg.geometry import Frame
from wsiseg.measure import Measurements
from wsiseg.records import UNKNOWN_CLASS, Cells, Outlines

ROW_GROUP_ROWS = 65_536
"""Most rows in a row group; also what is held in memory before it is written."""

_BBOX_FIELDS = ("xmin", "ymin", "xmax", "ymax")
_MEASURED = (
    "area_um2",
    "perimeter_um",
    "major_axis_um",
    "minor_axis_um",
    "eccentricity",
    "solidity",
    "circularity",
    "orientation_rad",
)
_STAIN = (
    "hematoxylin_od_mean",
    "hematoxylin_od_sd",
    "eosin_od_mean",
    "eosin_od_sd",
)

CELLS_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("cell_id", pa.uint32(), nullable=False),
        pa.field("uuid", pa.string(), nullable=False),
        # A plain string: parquet packs it as a dictionary anyway, and every reader takes it.
        pa.field("class_name", pa.string()),
        pa.field("class_prob", pa.float32()),
        pa.field("nucleus_prob", pa.float32()),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("x", "y", "x_um", "y_um")),
        *(pa.field(name, pa.float32()) for name in (*_MEASURED, *_STAIN)),
        pa.field("region", pa.string()),
        pa.field("region_class", pa.string()),
        pa.field("region_ids", pa.list_(pa.uint16())),
        pa.field("cut", pa.bool_(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field(
            "bbox",
            pa.struct([pa.field(name, pa.float64(), nullable=False) for name in _BBOX_FIELDS]),
            nullable=False,
        ),
    ]
)
"""Columns of `cells.parquet`.

x, y, geometry and bbox are level-0 pixels, x_um and y_um µm from the slide's corner; unknown
classes, and measurements that are not defined, are null.  `region` and `region_class` name the
smallest region of interest that holds the centroid, `region_ids` lists all that do, as positions
in the run's list of regions; all three are null where no region was asked for.
"""


class RegionColumns(NamedTuple):
    """In which regions of interest nuclei lie."""

    names: pa.StringArray
    """(n,): name of the smallest."""
    classes: pa.StringArray
    """(n,): its class, null without one."""
    ids: pa.ListArray
    """(n,): positions of all, uint16."""


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
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
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
        """Add nuclei, in the order of their ids.

        Parameters
        ----------
        cells
            n nuclei.
        outlines
            Their n outlines, in half model pixels of the slide.
        measurements
            Their measurements; centroids in model pixels.
        uuids
            (n, 36) uint8: UUIDs in ASCII, of `wsiseg.identity.cell_uuids`.
        regions
            Regions each is in; all null if not given.

        Raises
        ------
        ValueError
            If the parts are not of one length, or a class index has no name.
        OutputNotWritable
            If the operating system refuses to write.
        """
        n = len(cells)
        lengths = {
            "outlines": len(outlines),
            "measurements": len(measurements),
            "uuids": len(uuids),
            "regions": n if regions is None else len(regions.names),
        }
        if set(lengths.values()) != {n} or uuids.shape[1:] != (36,):
            raise ValueError(
                f"{n} cells came with parts of lengths {lengths} and UUIDs of shape "
                f"{uuids.shape}; all lengths must be {n}, UUIDs (n, 36)"
            )
        for start in range(0, n, ROW_GROUP_ROWS):
            stop = min(n, start + ROW_GROUP_ROWS)
            polygons = wkb.scaled(outlines, self._frame.scale, start, stop)
            bounds_px = wkb.bounds(polygons)
            rows = slice(start, stop)
            columns = {
                **_identity_columns(cells, uuids, self._class_names, rows),
                **_measured_columns(measurements, self._frame.scale, self._slide_mpp, rows),
                **_region_columns(regions, rows),
                "geometry": wkb.encode(polygons),
                "bbox": _bbox_column(bounds_px),
            }
            self._add(columns, stop - start)
            self._grow_bounds(bounds_px)

    def _add(self, columns: dict[str, pa.Array | None], n: int) -> None:
        arrays = [
            pa.nulls(n, field.type) if columns.get(field.name) is None else columns[field.name]
            for field in CELLS_SCHEMA
        ]
        self._pending.append(pa.RecordBatch.from_arrays(arrays, schema=CELLS_SCHEMA))
        self._pending_rows += n
        if self._pending_rows >= ROW_GROUP_ROWS:
            table = pa.Table.from_batches(self._pending, CELLS_SCHEMA)
            self._writer.write_table(table[:ROW_GROUP_ROWS], row_group_size=ROW_GROUP_ROWS)
            self._pending = table[ROW_GROUP_ROWS:].to_batches()
            self._pending_rows -= ROW_GROUP_ROWS

    def _grow_bounds(self, bounds_px: NDArray[np.float64]) -> None:
        if self._bounds_px is not None:
            bounds_px = np.vstack((self._bounds_px[None], bounds_px))
        self._bounds_px = np.hstack((bounds_px[:, :2].min(axis=0), bounds_px[:, 2:].max(axis=0)))

    def _close(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if self._pending_rows:
                table = pa.Table.from_batches(self._pending, CELLS_SCHEMA)
                self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            self._writer.add_key_value_metadata({"geo": json.dumps(_geo(self._bounds_px))})
        self._writer.close()


def _geo(bounds_px: NDArray[np.float64] | None) -> dict[str, object]:
    """Return the file's GeoParquet metadata; without any cell there are no bounds."""
    geometry: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        # Without this readers take pixels for longitude and latitude.
        "crs": None,
        "covering": {"bbox": {name: ["bbox", name] for name in _BBOX_FIELDS}},
    }
    if bounds_px is not None:
        geometry["bbox"] = bounds_px.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}


def _identity_columns(
    cells: Cells,
    uuids: NDArray[np.uint8],
    class_names: tuple[str, ...],
    rows: slice,
) -> dict[str, pa.Array]:
    instances = cells.instances
    return {
        "cell_id": pa.array(cells.cell_id[rows]).cast(pa.uint32()),
        "uuid": _uuid_column(uuids[rows]),
        "class_name": _class_column(instances.class_index[rows], class_names),
        "class_prob": pa.array(instances.class_prob[rows], from_pandas=True),
        "nucleus_prob": pa.array(instances.nucleus_prob[rows], from_pandas=True),
        "cut": pa.array(instances.cut[rows]),
    }


def _uuid_column(uuids: NDArray[np.uint8]) -> pa.Array:
    n, length = uuids.shape
    offsets = np.arange(n + 1, dtype=np.int32) * length
    data = np.ascontiguousarray(uuids)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(data))


def _class_column(class_index: NDArray[np.uint8], class_names: tuple[str, ...]) -> pa.Array:
    """Return the names of the classes; null where the class is unknown."""
    unknown = class_index == UNKNOWN_CLASS
    known = class_index[~unknown]
    if known.size and known.max() >= len(class_names):
        raise ValueError(
            f"a cell has class index {known.max()}, but there are only {len(class_names)} class "
            f"names {class_names}; give a name for each class of the model"
        )
    return pa.array(class_names, pa.string()).take(
        pa.array(class_index.astype(np.int32), mask=unknown)
    )


def _region_columns(regions: RegionColumns | None, rows: slice) -> dict[str, pa.Array]:
    if regions is None:
        return {}
    return {
        "region": regions.names[rows],
        "region_class": regions.classes[rows],
        "region_ids": regions.ids[rows],
    }


def _measured_columns(
    measurements: Measurements, scale: float, slide_mpp: float, rows: slice
) -> dict[str, pa.Array]:
    """Return positions in level-0 pixels and µm, and the measurements; NaN becomes null."""
    x = measurements.x_px[rows] * scale
    y = measurements.y_px[rows] * scale
    columns = {"x": x, "y": y, "x_um": x * slide_mpp, "y_um": y * slide_mpp}
    for name in _MEASURED:
        columns[name] = getattr(measurements, name)[rows].astype(np.float32)
    return {name: pa.array(values, from_pandas=True) for name, values in columns.items()}


def _bbox_column(bounds_px: NDArray[np.float64]) -> pa.Array:
    fields = [CELLS_SCHEMA.field("bbox").type.field(k) for k in range(4)]
    corners = [pa.array(np.ascontiguousarray(bounds_px[:, k])) for k in range(4)]
    return pa.StructArray.from_arrays(corners, fields=fields)
