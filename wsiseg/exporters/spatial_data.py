"""SpatialData: polygons, the annotated table, and if wanted the masks.

Marconato et al. 2024, doi:10.1038/s41592-024-02212-x.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.exporters import ExportableResult
from wsiseg.exporters._choice import CellChoice, chosen_batches
from wsiseg.exporters._facts import run_facts
from wsiseg.exporters._finish import finished_directory, refuse_existing
from wsiseg.exporters.ann_data import annotated_table
from wsiseg.exporters.formats import needed

SHAPES, TABLE, LABELS = "nuclei", "nuclei_table", "nuclei_labels"
"""Names of the elements."""
MICRONS, PIXELS = "um", "px"
"""Coordinate systems: µm from the slide's corner, and pixels of its finest level."""
_LABELS_PATH = "masks.zarr/labels/nuclei/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialdataOptions(CellChoice):
    """What to export."""

    labels: bool = False
    """Write the run's label image too; it needs all nuclei."""

    def __post_init__(self) -> None:
        CellChoice.__post_init__(self)
        if self.labels and (self.classes, self.regions, self.bbox) != (None, None, None):
            raise UsageError("labels hold all nuclei: leave out classes, regions and bbox")


_EVERYTHING = SpatialdataOptions()


def export_spatialdata(
    result: ExportableResult, destination: Path, options: SpatialdataOptions = _EVERYTHING
) -> None:
    """Write a run's nuclei as a SpatialData Zarr store.

    All nuclei are held in memory as shapes: about 2.5 kB each.  The table annotates the
    shapes by `cell_id`; they lie in µm (`um`) and in pixels (`px`) of the slide.  Without nuclei
    there is a table without rows only: SpatialData has no shapes without a shape.

    Raises
    ------
    UnknownName
        If the model has no such class or the run no such region.
    MissingDependency
        If spatialdata is not installed.
    OutputExists
        If something is at `destination` already.
    ResultNotReadable
        If labels are wanted and the run has none.
    OutputNotWritable
        If the operating system refuses to write.
    """
    spatialdata = needed("spatialdata")
    refuse_existing(destination)
    table = _table(result, options)
    elements: dict[str, Any] = {"tables": {TABLE: table}}
    if table.n_obs:
        elements["shapes"] = {SHAPES: _shapes(result, options)}
    if options.labels:
        elements["labels"] = {LABELS: _labels(result)}
    data = spatialdata.SpatialData(**elements, attrs={"wsiseg": run_facts(result)})
    with finished_directory(destination) as partial:
        # It makes its folder itself.
        with warnings.catch_warnings():
            # What its packages tell each other about their next versions.
            warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)
            data.write(partial / "store")
        _lift(partial / "store", partial)


def _lift(inner: Path, outer: Path) -> None:
    for path in list(inner.iterdir()):
        path.rename(outer / path.name)
    inner.rmdir()


def _shapes(result: ExportableResult, options: SpatialdataOptions) -> Any:
    models = needed("spatialdata", "spatialdata.models")
    geopandas = needed("spatialdata", "geopandas")
    columns = ["cell_id", "geometry"]
    batches = list(chosen_batches(result, options, columns))
    schema = pa.schema([("cell_id", pa.uint32()), ("geometry", pa.binary())])
    rows = pa.Table.from_batches([batch.cast(schema) for batch in batches], schema)
    frame = geopandas.GeoDataFrame(
        geometry=geopandas.GeoSeries.from_wkb(rows["geometry"].to_pylist()),
    )
    frame.index = rows["cell_id"].to_numpy()
    return models.ShapesModel.parse(frame, transformations=_places(result.mpp))


def _places(mpp: float, x_px: float = 1.0, y_px: float = 1.0) -> dict[str, Any]:
    """Return the transformations of an element whose unit is so many level-0 pixels."""
    kinds = needed("spatialdata", "spatialdata.transformations")
    axes = ("x", "y")
    return {
        MICRONS: kinds.Scale([x_px * mpp, y_px * mpp], axes=axes),
        PIXELS: kinds.Scale([x_px, y_px], axes=axes),
    }


def _table(result: ExportableResult, options: SpatialdataOptions) -> Any:
    models = needed("spatialdata", "spatialdata.models")
    pandas = needed("spatialdata", "pandas")
    table = annotated_table(result, options, MICRONS)
    # The name of the element each row describes; `region` of the cell table is another thing.
    table.obs = table.obs.rename(columns={"region": "region_of_interest"})
    table.obs["cell_id"] = table.obs["cell_id"].astype("int64")
    if table.n_obs == 0:
        return models.TableModel.parse(table)
    table.obs["element"] = pandas.Categorical([SHAPES] * table.n_obs, categories=[SHAPES])
    return models.TableModel.parse(
        table, region=SHAPES, region_key="element", instance_key="cell_id"
    )


def _labels(result: ExportableResult) -> Any:
    """Return the label image as it is on disk, read when it is written."""
    models = needed("spatialdata", "spatialdata.models")
    array = needed("spatialdata", "dask.array")
    path = result.path / _LABELS_PATH
    if not (path / "zarr.json").is_file():
        raise ResultNotReadable(f"{result.name} has no {_LABELS_PATH}; segment the slide again")
    image = array.from_zarr(str(path))
    scale = float(result.run["frame"]["scale"])
    return models.Labels2DModel.parse(
        image, dims=("y", "x"), transformations=_places(result.mpp, scale, scale)
    )
