"""Nuclei as rows of the cell table: its schema, and the batches that are written to it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.exporters import wkb
from wsiseg.features import STAIN_COLUMNS
from wsiseg.geometry import Frame
from wsiseg.measure import Measurements
from wsiseg.records import UNKNOWN_CLASS, Cells, Outlines

BBOX_FIELDS = ("xmin", "ymin", "xmax", "ymax")
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

CELLS_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("cell_id", pa.uint32(), nullable=False),
        pa.field("uuid", pa.string(), nullable=False),
        # A plain string: parquet packs it as a dictionary anyway, and every reader takes it.
        pa.field("class_name", pa.string()),
        pa.field("class_prob", pa.float32()),
        pa.field("nucleus_prob", pa.float32()),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("x", "y", "x_um", "y_um")),
        *(pa.field(name, pa.float32()) for name in (*_MEASURED, *STAIN_COLUMNS)),
        pa.field("region", pa.string()),
        pa.field("region_class", pa.string()),
        pa.field("region_ids", pa.list_(pa.uint16())),
        pa.field("cut", pa.bool_(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field(
            "bbox",
            pa.struct([pa.field(name, pa.float64(), nullable=False) for name in BBOX_FIELDS]),
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


class CellRows(NamedTuple):
    """What is known of n nuclei; see `cells_batch`."""

    cells: Cells
    outlines: Outlines
    measurements: Measurements
    uuids: NDArray[np.uint8]
    regions: RegionColumns | None


def cells_batch(
    cells: Cells,
    outlines: Outlines,
    measurements: Measurements,
    uuids: NDArray[np.uint8],
    class_names: tuple[str, ...],
    frame: Frame,
    slide_mpp: float,
    regions: RegionColumns | None = None,
) -> pa.RecordBatch:
    """Return nuclei as rows of the cell table.

    Pure: threads may make batches of different nuclei at once, for `CellsWriter.write_batch`
    to take them in order.

    Parameters
    ----------
    cells
        n nuclei; a few ten thousand at most, since their polygons must fit into 2 GiB.  What was
        measured in their tiles gives the stain columns; null if nothing was.
    outlines
        Their n outlines, in half model pixels of the slide.
    measurements
        Their measurements; centroids in model pixels.
    uuids
        (n, 36) uint8: UUIDs in ASCII, of `wsiseg.identity.cell_uuids`.
    class_names
        Name of each class index.
    frame
        The model frame the cells are in.
    slide_mpp
        µm per level-0 pixel.
    regions
        Regions each is in; all null if not given.

    Returns
    -------
    pyarrow.RecordBatch
        n rows of `CELLS_SCHEMA`.

    Raises
    ------
    ValueError
        If the parts are not of one length, a class index has no name, or the polygons need more
        than 2 GiB.
    """
    rows = CellRows(cells, outlines, measurements, uuids, regions)
    check_lengths(rows)
    return batch_of_rows(rows, 0, len(cells), class_names, frame.scale, slide_mpp)


def batch_of_rows(
    given: CellRows,
    start: int,
    stop: int,
    class_names: tuple[str, ...],
    scale: float,
    slide_mpp: float,
) -> pa.RecordBatch:
    """Return the nuclei from `start` to `stop` as rows of the cell table."""
    polygons = wkb.scaled(given.outlines, scale, start, stop)
    rows = slice(start, stop)
    columns = {
        **_identity_columns(given.cells, given.uuids, class_names, rows),
        **_measured_columns(given.measurements, scale, slide_mpp, rows),
        **_stain_columns(given.cells.instances.measured[rows]),
        **_region_columns(given.regions, rows),
        "geometry": wkb.encode(polygons),
        "bbox": _bbox_column(wkb.bounds(polygons)),
    }
    arrays = [
        pa.nulls(stop - start, field.type)
        if columns.get(field.name) is None
        else columns[field.name]
        for field in CELLS_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=CELLS_SCHEMA)


def check_lengths(given: CellRows) -> None:
    """Raise ValueError unless all parts are of one length."""
    n, uuids, regions = len(given.cells), given.uuids, given.regions
    lengths = {
        "outlines": len(given.outlines),
        "measurements": len(given.measurements),
        "uuids": len(uuids),
        "regions": n if regions is None else len(regions.names),
    }
    if set(lengths.values()) != {n} or uuids.shape[1:] != (36,):
        raise ValueError(
            f"{n} cells came with parts of lengths {lengths} and UUIDs of shape "
            f"{uuids.shape}; all lengths must be {n}, UUIDs (n, 36)"
        )


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


def _stain_columns(measured: NDArray[np.float32]) -> dict[str, pa.Array]:
    if measured.shape[1] == 0:
        return {}
    return {
        name: pa.array(np.ascontiguousarray(measured[:, k]), from_pandas=True)
        for k, name in enumerate(STAIN_COLUMNS)
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
