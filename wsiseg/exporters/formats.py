"""The formats that come with wsiseg: how their files are called and what they need."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

from wsiseg.errors import MissingDependency


class Format(NamedTuple):
    """One format."""

    suffix: str
    """End of the names of its files."""
    extra: str | None
    """The extra of wsiseg it needs; None: none."""
    package: str | None
    """The package of that extra; None: none."""
    what: str
    """What it is, for which program."""


FORMATS: dict[str, Format] = {
    "anndata": Format(".h5ad", "anndata", "anndata", "table for scanpy and squidpy"),
    "coco": Format(".coco.json", None, None, "instances for training: COCO, Detectron2, FiftyOne"),
    "csv": Format(".csv.gz", None, None, "table for R, pandas, spreadsheets"),
    "dicom-ann": Format(".ann.dcm", "dicom", "highdicom", "polygons for DICOM archives, viewers"),
    "fhir": Format(".fhir.json", "fhir", "fhir.resources", "counts as Observations"),
    "geojson": Format(".geojson.gz", None, None, "polygons for QuPath"),
    "geoparquet": Format(".parquet", None, None, "a part of the cell table for geopandas, DuckDB"),
    "ome-zarr": Format(".ome.zarr", None, None, "masks for napari and other viewers"),
    "spatialdata": Format(
        ".spatialdata.zarr", "spatialdata", "spatialdata", "polygons and table for SpatialData"
    ),
}


def suffix_of(name: str) -> str:
    """Return the end of the names of a format's files; a plug-in's is its own name."""
    return FORMATS[name].suffix if name in FORMATS else f".{name}"


def check_installed(name: str) -> None:
    """Look whether the package of a format is there, without importing it.

    Raises
    ------
    MissingDependency
        If it is not installed; the message names the extra.
    """
    if not is_installed(name):
        raise _missing(name)


def is_installed(name: str) -> bool:
    """Return whether a format's package is there, without importing it."""
    package = FORMATS[name].package if name in FORMATS else None
    try:
        return package is None or importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package within a package
        return False


def needed(name: str, module: str | None = None) -> Any:
    """Return the package a format needs, or a module of it or of what comes with it.

    Raises
    ------
    MissingDependency
        If it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module or str(FORMATS[name].package))
    except ImportError as error:
        raise _missing(name) from error


def _missing(name: str) -> MissingDependency:
    package, extra = FORMATS[name].package, FORMATS[name].extra
    return MissingDependency(f"the format {name} needs {package}: pip install 'wsiseg[{extra}]'")
