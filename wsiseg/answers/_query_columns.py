"""What the columns of a query's tables mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a query may name."""

    table: str
    name: str
    kind: str
    """DuckDB's type."""
    meaning: str
    """What it holds, with its unit."""


_EVERYWHERE: Mapping[str, str] = {
    "slide": "path of the run below the folder that was given, without .wsiseg",
    "model": "name of the model that made the run",
    "cell_id": "1 … n within a slide; with slide it joins cells and features",
}
_BY_TABLE: Mapping[str, Mapping[str, str]] = {
    "slides": {
        "file_name": "file name of the slide",
        "model_sha256": "what fixes the model's behaviour, weights included",
        "mpp": "µm per level-0 px",
        "width_px": "of level 0",
        "height_px": "of level 0",
        "analysed_mm2": "tissue within regions, without unreadable tiles; for densities",
        "no_density_reason": "why analysed_mm2 is 0; null where it is not",
        "n_cells": "all nuclei of the run",
        "n_tiles": "tiles that were run",
        "n_unreadable_tiles": "tiles that were left out because they could not be read",
        "warnings": "codes of the run's warnings",
        "class_names": "classes of the model (or of --classes-from), in its order",
        "wsiseg_version": "version that made the run",
        "result_version": "of the algorithms; equal ones give equal results",
        "finished_utc": "when the run was done",
    },
    "cells": {
        "uuid": "the same in QuPath and in every export",
        "class_name": "null: the class is not known",
        "class_prob": "probability of that class, calibrated if the model is",
        "nucleus_prob": "probability of being a real nucleus, calibrated if the model is",
        "x": "centroid, level-0 px from the slide's left edge",
        "y": "centroid, level-0 px from the slide's top edge",
        "x_um": "centroid, µm from the slide's left edge",
        "y_um": "centroid, µm from the slide's top edge",
        "area_um2": "area of its pixels",
        "perimeter_um": "by Crofton's formula",
        "major_axis_um": "of the ellipse with the same second moments",
        "minor_axis_um": "of the ellipse with the same second moments",
        "eccentricity": "of that ellipse: 0 circle, towards 1 a line",
        "solidity": "area over the area of the convex hull",
        "circularity": "4π area / perimeter²",
        "orientation_rad": "of the major axis; docs/measurements.md says from where",
        "hematoxylin_od_mean": "optical density of haematoxylin; null in older runs",
        "hematoxylin_od_sd": "its standard deviation over the nucleus",
        "eosin_od_mean": "optical density of eosin; null in older runs",
        "eosin_od_sd": "its standard deviation over the nucleus",
        "region": "the smallest region of interest that holds the centroid",
        "region_class": "that region's class",
        "region_ids": "all regions that hold it, as regions.region_id",
        "cut": "larger than a tile's margin: part of it may be missing",
        "geometry": "polygon, WKB, level-0 px",
        "bbox": "its bounds, level-0 px",
    },
    "features": {
        "nearest_cell_um": "distance of centroids to the nearest nucleus; null: none near",
        "cells_within_50um": "other nuclei with their centroid within 50 µm",
        "ring_hematoxylin_od_mean": "haematoxylin in a ring around the nucleus",
        "ring_eosin_od_mean": "eosin in a ring around the nucleus",
    },
    "tiles": {
        "row": "of the tile grid",
        "col": "of the tile grid",
        "x": "left edge of the core, level-0 px",
        "y": "top edge of the core, level-0 px",
        "width": "of the core, level-0 px",
        "height": "of the core, level-0 px",
        "tissue_share": "share of the core that is tissue",
        "mean_confidence": "mean nucleus probability of its nuclei, never calibrated",
        "n_cells": "nuclei it owned before stitching and before regions chose among them",
        "n_cut": "of them, cut by its outer edge",
        "flags": "what is the matter with it",
    },
    "regions": {
        "region": "its name",
        "region_class": "its class in QuPath",
        "region_id": "position in the run's list; what cells.region_ids counts in",
        "kind": "annotation or tma-core",
        "missing": "a TMA core that is not there: its zero cells say nothing",
        "analysed_mm2": "tissue in the region that was analysed",
    },
}


def meaning_of(table: str, column: str) -> str:
    """Return what a column holds; empty where only its name says it."""
    own = _BY_TABLE[table].get(column)
    if own is not None:
        return own
    if column.startswith("prob_"):
        return f"probability of {column.removeprefix('prob_')}, calibrated if the model is"
    if column.startswith("texture_"):
        return f"Haralick's {column.removeprefix('texture_')} of the haematoxylin density"
    if column.startswith("seconds_"):
        return f"seconds to {column.removeprefix('seconds_')} the tile"
    if table == "tiles" and column not in _EVERYWHERE:
        return "quality of the tile; see docs/architecture.md"
    return _EVERYWHERE.get(column, "")


def is_feature(name: str) -> bool:
    """Return whether a name is one of the measurements that some runs have in `features`."""
    return name in _BY_TABLE["features"] or name.startswith(("prob_", "texture_", "ring_"))
