"""Nuclei within regions that were drawn after a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from wsiseg.answers.analysed import analysed_shape, tissue_mm2
from wsiseg.answers.detection import false_positives, false_positives_of_all, stands_out
from wsiseg.cell_table import ALL_CLASSES, class_codes
from wsiseg.errors import ResultNotReadable
from wsiseg.geometry import Box
from wsiseg.regions import Region, RegionFile, RoiOrigin, read_regions, union_of

if TYPE_CHECKING:
    from wsiseg.results import Result

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("slide", "model", "region", "region_class")),
        ("class_name", pa.string()),
        ("n", pa.int64()),
        *((name, pa.float64()) for name in ("region_mm2", "analysed_mm2", "per_mm2", "share")),
        ("median_area_um2", pa.float64()),
        ("false_positives_per_mm2", pa.float64()),
        ("above_false_positives", pa.bool_()),
        ("no_density_reason", pa.string()),
    ]
)


def stats_within(result: Result, regions: str | Path, roi_origin: RoiOrigin = "auto") -> pa.Table:
    """Count the nuclei of every class in each region of a GeoJSON file, as QuPath writes it.

    A nucleus is in a region if its centroid is strictly inside; one in two regions counts in
    both.  A TMA core marked as missing holds none, and its counts are null.

    Parameters
    ----------
    result : Result
        A finished run; its slide is not needed.
    regions : path
        GeoJSON, as for `wsiseg.read_regions`.
    roi_origin : {"auto", "bounds", "slide"}
        What its coordinates are relative to; QuPath's are relative to the slide's bounds.

    Returns
    -------
    pyarrow.Table
        For each region, in the file's order, a row for each class, and one for `"(all)"`: `n`,
        `region_mm2`, `analysed_mm2` (of it, what the run analysed; null if the run has no
        `tissue.geojson`), `per_mm2` (over what was analysed), `share`, `median_area_um2`,
        false positives as `cohort_stats` has them, and `no_density_reason`.

    Raises
    ------
    UsageError
        If the file cannot be used.
    ResultNotReadable
        If the run is damaged.
    """
    drawn = _regions_on(Path(regions), result.run, roi_origin).regions
    names = result.class_names
    found = _members(result, drawn)
    analysed = analysed_shape(result.path, result.run)
    model = result.run["model"]
    is_of_model = result.classes_version is None
    rates = false_positives(model) if is_of_model else false_positives_of_all(model)
    rows = []
    for region, (code, area_um2) in zip(drawn, found, strict=True):
        area_mm2 = tissue_mm2(region.geometry, analysed, result.mpp)
        for i, name in enumerate((*names, ALL_CLASSES)):
            mine = area_um2 if name == ALL_CLASSES else area_um2[code == i + 1]
            per_mm2 = len(mine) / area_mm2 if area_mm2 and not region.missing else None
            rows.append(
                {
                    "slide": result.name,
                    "model": result.model_name,
                    "region": region.name,
                    "region_class": region.class_name,
                    "class_name": name,
                    "n": None if region.missing else len(mine),
                    "region_mm2": region.geometry.area * result.mpp**2 / 1e6,
                    "analysed_mm2": area_mm2,
                    "per_mm2": per_mm2,
                    "share": len(mine) / len(area_um2) if len(area_um2) else None,
                    "median_area_um2": float(np.nanmedian(mine)) if len(mine) else None,
                    "false_positives_per_mm2": rates.get(name),
                    "above_false_positives": stands_out(per_mm2, rates.get(name)),
                    "no_density_reason": _no_density_reason(region, area_mm2),
                }
            )
    return pa.Table.from_pylist(rows, _SCHEMA)


def region_shape(
    result: Result, regions: str | Path, roi_origin: RoiOrigin = "auto"
) -> shapely.MultiPolygon:
    """Return the area drawn in a GeoJSON file, for `Result.cells`: all its regions together.

    Parameters
    ----------
    result, regions, roi_origin
        As for `stats_within`.

    Raises
    ------
    UsageError
        If the file cannot be used.

    Examples
    --------
    >>> result.cells(within=region_shape(result, "tumour.geojson"))  # doctest: +SKIP
    """
    return union_of(_regions_on(Path(regions), result.run, roi_origin).regions)


def region_warnings(
    result: Result, regions: str | Path, roi_origin: RoiOrigin = "auto"
) -> tuple[str, ...]:
    """Return what to mind about the regions of a GeoJSON file on a slide, a sentence each.

    Such as regions beyond the slide's edge, or another origin than QuPath's.

    Parameters
    ----------
    result, regions, roi_origin
        As for `stats_within`.

    Raises
    ------
    UsageError
        If the file cannot be used.
    """
    return _regions_on(Path(regions), result.run, roi_origin).warnings


def _no_density_reason(region: Region, area_mm2: float | None) -> str | None:
    if region.missing:
        return "the core is marked as missing"
    if area_mm2 is None:
        return "the run has no tissue.geojson"
    return None if area_mm2 > 0 else "nothing in the region was analysed"


def _regions_on(path: Path, record: Mapping[str, Any], origin: RoiOrigin) -> RegionFile:
    """Return regions drawn on the slide of a finished run; the slide is not needed.

    Raises
    ------
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


def _members(
    result: Result, regions: tuple[Region, ...]
) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Return class codes and areas of the nuclei in each region."""
    for region in regions:
        shapely.prepare(region.geometry)
    codes: list[list[NDArray[np.uint8]]] = [[np.empty(0, np.uint8)] for _ in regions]
    areas: list[list[NDArray[np.float32]]] = [[np.empty(0, np.float32)] for _ in regions]
    for batch in result.batches(["x", "y", "class_name", "area_um2"]):
        x, y = (batch[name].to_numpy() for name in ("x", "y"))
        code = class_codes(result.cell_files, batch["class_name"], result.class_names)
        area_um2 = batch["area_um2"].to_numpy(zero_copy_only=False).astype(np.float32)
        for k, region in enumerate(regions):
            if not region.missing:
                inside = shapely.contains_xy(region.geometry, x, y)
                codes[k].append(code[inside])
                areas[k].append(area_um2[inside])
    return [(np.concatenate(c), np.concatenate(a)) for c, a in zip(codes, areas, strict=True)]
