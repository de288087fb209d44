"""Where a finished run looked: tissue within its regions, without tiles that were left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import shapely

from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.geometry import Box
from wsiseg.regions import RegionFile, RoiOrigin, read_regions, union_of


def analysed_shape(path: Path, record: Mapping[str, Any]) -> shapely.MultiPolygon | None:
    """Return the area that a run's densities refer to, level-0 px.

    Its outline is that of `tissue.geojson`, so its area differs from `analysed_mm2` by the
    rounding to 0.01 px.

    Parameters
    ----------
    path : Path
        The run.
    record : mapping
        Its `run.json`.

    Returns
    -------
    shapely.MultiPolygon or None
        Empty where nothing was analysed; None if the run has no such file.

    Raises
    ------
    ResultNotReadable
        If a file is damaged.
    """
    tissue = _outline(path / "tissue.geojson", record)
    if tissue is None:
        return None
    shape = tissue
    if record.get("regions"):
        regions = _outline(path / "regions.geojson", record)
        if regions is None:
            return None
        shape = shapely.intersection(shape, regions)
    left_out = [tile["box"] for tile in record.get("tiles", {}).get("unreadable", ())]
    if left_out:
        boxes = [shapely.box(x, y, x + w, y + h) for x, y, w, h in left_out]
        shape = shapely.difference(shape, shapely.union_all(boxes))
    return _polygons(shape)


def regions_on(path: Path, record: Mapping[str, Any], origin: RoiOrigin = "auto") -> RegionFile:
    """Read regions drawn in QuPath on the slide of a finished run; the slide is not needed.

    Parameters
    ----------
    path : Path
        GeoJSON, as for `wsiseg.read_regions`.
    record : mapping
        `run.json` of the run.
    origin : {"auto", "bounds", "slide"}
        What the file's coordinates are relative to.

    Raises
    ------
    UsageError
        As `wsiseg.read_regions` says.
    ResultNotReadable
        If the run does not say how large its slide is.
    """
    slide = record["slide"]
    try:
        size_px = (int(slide["width_px"]), int(slide["height_px"]))
    except (KeyError, TypeError) as error:
        raise ResultNotReadable(
            f"the run of {slide['name']} does not say how large the slide is; segment it again "
            "with --overwrite"
        ) from error
    bounds = Box(*(round(side) for side in slide["bounds"]))
    return read_regions(path, str(slide["name"]), size_px, bounds, origin)


def tissue_mm2(
    shape: shapely.Geometry, analysed: shapely.MultiPolygon | None, mpp: float
) -> float | None:
    """Return the analysed area within a shape, mm²; None where it is not known."""
    if analysed is None:
        return None
    return float(shapely.area(shapely.intersection(shape, analysed))) * mpp**2 / 1e6


def _outline(path: Path, record: Mapping[str, Any]) -> shapely.MultiPolygon | None:
    """Return all areas of one of a run's own files; those of missing cores are none."""
    try:
        if not json.loads(path.read_bytes()).get("features"):
            return shapely.MultiPolygon()
        return union_of(regions_on(path, record).regions)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, UsageError) as error:
        raise ResultNotReadable(f"{path} is damaged ({error}); segment the slide again") from error


def _polygons(shape: shapely.Geometry) -> shapely.MultiPolygon:
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    return shapely.MultiPolygon(parts)
