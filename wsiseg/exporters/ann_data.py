"""AnnData for scanpy and squidpy: measurements as X, places in `obsm["spatial"]`.

Virshup et al. 2024, doi:10.21105/joss.04371.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.exporters import ExportableResult
from wsiseg.exporters._choice import CellChoice, chosen_batches
from wsiseg.exporters._columns import MEASURED_COLUMNS, listed, schema_of
from wsiseg.exporters._facts import run_facts
from wsiseg.exporters._finish import finished_file, refuse_existing
from wsiseg.exporters.formats import needed

UNITS = {"um": ("x_um", "y_um"), "px": ("x", "y")}
"""Unit of `obsm["spatial"]` and the columns it is made of."""
_REGIONS = ("region", "region_class", "region_ids")
"""Columns of regions; old runs lack some."""
OBS_COLUMNS = ("cell_id", "class_name", "class_prob", "nucleus_prob", "cut")
"""Columns of the cell table that describe a nucleus, beside regions and UUID, its name there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnndataOptions(CellChoice):
    """What to export, and in which unit places are."""

    unit: str = "um"
    """Unit of `obsm["spatial"]`: um from the slide's corner, or px of its finest level."""

    def __post_init__(self) -> None:
        CellChoice.__post_init__(self)
        if self.unit not in UNITS:
            raise UsageError(f"unit is {self.unit!r}; give one of {', '.join(UNITS)}")


_EVERYTHING = AnndataOptions()


def export_anndata(
    result: ExportableResult, destination: Path, options: AnndataOptions = _EVERYTHING
) -> None:
    """Write a run's nuclei as an h5ad file, without their polygons.

    All nuclei are held in memory, without polygons: about 500 bytes each.  A measurement that
    is not defined is NaN.

    Raises
    ------
    UnknownName
        If the model has no such class or the run no such region.
    MissingDependency
        If anndata is not installed.
    OutputExists
        If something is at `destination` already.
    OutputNotWritable
        If the operating system refuses to write.
    """
    refuse_existing(destination)
    table = annotated_table(result, options, options.unit)
    with finished_file(destination) as partial:
        table.write_h5ad(partial, compression="gzip")


def annotated_table(result: ExportableResult, choice: CellChoice, unit: str) -> Any:
    """Return nuclei as an `anndata.AnnData`; see `export_anndata`."""
    anndata = needed("anndata")
    pandas = needed("anndata", "pandas")
    measured = (*MEASURED_COLUMNS, *result.feature_names)
    known = result.column_names
    described = (*OBS_COLUMNS, *(name for name in _REGIONS if name in known))
    columns = ["uuid", *described, *UNITS[unit], *measured]
    batches = list(chosen_batches(result, choice, columns))
    rows = pa.Table.from_batches(batches, batches[0].schema if batches else schema_of(columns))
    x, y = (rows[name].to_numpy() for name in UNITS[unit])
    return anndata.AnnData(
        X=_matrix(rows, measured),
        obs=_obs(pandas, rows.select(described), rows["uuid"], result.class_names),
        var=pandas.DataFrame(index=pandas.Index(measured, dtype=object)),
        obsm={"spatial": np.column_stack([x, y])},
        uns=_facts(result, unit),
    )


def _matrix(rows: pa.Table, names: Sequence[str]) -> NDArray[np.float32]:
    matrix = np.empty((rows.num_rows, len(names)), np.float32)
    for k, name in enumerate(names):
        matrix[:, k] = rows[name].to_numpy()
    return matrix


def _obs(pandas: Any, rows: pa.Table, uuids: pa.ChunkedArray, class_names: Sequence[str]) -> Any:
    if "region_ids" in rows.column_names:
        at = rows.column_names.index("region_ids")
        rows = rows.set_column(at, "region_ids", listed(rows["region_ids"]))
    obs = rows.to_pandas()
    # With all classes of the model, also those without nuclei, in its order.
    kinds: dict[str, Sequence[str] | None] = {"class_name": class_names}
    for name in ("class_name", *(name for name in _REGIONS if name in obs)):
        obs[name] = pandas.Categorical(obs[name].astype(object), categories=kinds.get(name))
    obs.index = pandas.Index(uuids.to_pylist(), dtype=object, name="uuid")
    return obs


def _facts(result: ExportableResult, unit: str) -> dict[str, Any]:
    """Return how the run was made, and the colours of its classes as scanpy looks for them."""
    slide = result.run["slide"]
    facts: dict[str, Any] = {
        **run_facts(result),
        "slide_width_px": int(slide["width_px"]),
        "slide_height_px": int(slide["height_px"]),
        "mpp": result.mpp,
        "analysed_mm2": result.analysed_mm2,
        "spatial_unit": unit,
    }
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in result.class_colours.values()]
    return {"wsiseg": facts} | ({"class_name_colors": np.array(colours)} if colours else {})
