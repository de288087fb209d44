"""The small files beside cells and masks: tiles, tissue, summary, pictures, README."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from wsiseg.crop_files import Box4, write_crops
from wsiseg.geometry import Box, Frame
from wsiseg.outlines import trace_mask
from wsiseg.pictures import (
    Centroids,
    Crop,
    CropChoice,
    Picture,
    choose_crops,
    draw_overlay,
    draw_thumbnail,
    encode_png,
)
from wsiseg.plan import RunPlan, read_overview
from wsiseg.predict import TileReport
from wsiseg.quality import TileQuality, tile_flags
from wsiseg.regions import regions_geojson
from wsiseg.results import Result
from wsiseg.rundir import write_atomically, write_json
from wsiseg.slides import read_frame
from wsiseg.tiles import AreaMask

CROP_PX = 256
"""Side of the overlay's crops, in model pixels."""
_REACH_PX = 64
"""Nuclei are drawn whose centroid is this far outside a crop."""
RESEARCH_USE = "For research use only. Not for use in diagnostic procedures."

UNREADABLE = "unreadable"
"""Flag of a tile that was left out."""
QUALITY_COLUMNS = tuple(field.name for field in fields(TileQuality))

TILES_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("col", pa.int32()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("width", pa.float64()),
        ("height", pa.float64()),
        ("tissue_share", pa.float32()),
        *((name, pa.float32()) for name in QUALITY_COLUMNS),
        ("mean_confidence", pa.float32()),
        ("n_cells", pa.int32()),
        ("n_cut", pa.int32()),
        ("flags", pa.list_(pa.string())),
        ("seconds_read", pa.float32()),
        ("seconds_predict", pa.float32()),
        ("seconds_decode", pa.float32()),
        ("seconds_quality", pa.float32()),
        ("seconds_measure", pa.float32()),
    ]
)
"""One row a tile; the box is its core in level-0 px, `n_cells` what it owned before stitching
and before a region of interest chose among them; quality columns as in `wsiseg.quality`."""


def write_tiles(path: Path, plan: RunPlan, reports: Sequence[TileReport]) -> None:
    """Write `tiles.parquet`."""
    by_place = {(report["row"], report["col"]): report for report in reports}
    rows = []
    for tile, share in plan.tiles:
        report = by_place[tile.row, tile.col]
        x, y, width, height = _level0(tile.core, plan.frame.scale)
        rows.append(
            {"row": tile.row, "col": tile.col, "x": x, "y": y, "width": width, "height": height}
            | {"tissue_share": share, "mean_confidence": report["mean_confidence"]}
            | {"n_cells": report["n_own"], "n_cut": report["n_cut"]}
            | {"flags": flags_of(plan, report), **report.get("quality", {})}
            | {f"seconds_{stage}": spent for stage, spent in report["seconds"].items()}
        )
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, TILES_SCHEMA), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue().to_pybytes())


def flags_of(plan: RunPlan, report: TileReport) -> list[str]:
    """Return what is the matter with a tile: `unreadable`, or as `wsiseg.quality.tile_flags`."""
    if "unreadable" in report:
        return [UNREADABLE]
    quality = TileQuality.from_json(report["quality"])
    appearance = plan.model.card.appearance
    return list(tile_flags(quality, report["mean_confidence"], report["n_own"], appearance))


def area_rings(area: AreaMask) -> list[list[NDArray[np.float64]]]:
    """Return the outlines of a mask in level-0 px: per piece its rings, outside first."""
    outlines = trace_mask(area.inside)
    points = outlines.vertices_half_px * (area.frame.scale / 2)
    rings = np.split(points, outlines.first_vertex[1:-1]) if len(outlines) else []
    starts = outlines.first_ring
    return [rings[starts[i] : starts[i + 1]] for i in range(len(outlines))]


def write_tissue(path: Path, plan: RunPlan, origin_px: tuple[float, float]) -> None:
    """Write `tissue.geojson`: a locked annotation QuPath shows and gives back."""
    # The mask's last pixels reach beyond the slide.
    size_px = np.array([plan.slide.info.width_px, plan.slide.info.height_px])
    polygons = [
        [(np.minimum(ring, size_px) - np.array(origin_px)).round(2).tolist() for ring in rings]
        for rings in area_rings(plan.area)
    ]
    annotation = {
        "type": "Feature",
        "geometry": {"type": "MultiPolygon", "coordinates": polygons},
        "properties": {
            "objectType": "annotation",
            "name": "wsiseg tissue",
            "isLocked": True,
            "classification": {"name": "Tissue", "color": [90, 170, 90]},
        },
    }
    features = [annotation] if polygons else []
    # Where the coordinates begin, for `read_regions`; QuPath passes over it.
    content = {
        "type": "FeatureCollection",
        "origin_px": list(origin_px),
        "features": features,
    }
    write_atomically(path, json.dumps(content, separators=(",", ":")).encode())


def write_regions(path: Path, plan: RunPlan, origin_px: tuple[float, float]) -> None:
    """Write `regions.geojson`: the regions of interest as they were used."""
    content = regions_geojson(plan.regions, origin_px)
    write_atomically(path, json.dumps(content, separators=(",", ":")).encode())


def read_slide(plan: RunPlan) -> tuple[Picture, Frame]:
    """Return the whole slide, at most 1,600 pixels long, and what the picture covers."""
    longest = max(plan.frame.width_px, plan.frame.height_px)
    frame = plan.frame.coarser(max(1, -(-longest // 1600)))
    return read_overview(plan.looked_at, frame), frame


def write_thumbnail(
    path: Path, plan: RunPlan, reports: Sequence[TileReport], slide: tuple[Picture, Frame]
) -> None:
    """Draw tissue, regions, tiles and what is the matter with them over the slide."""
    rgb, frame = slide
    rings = [ring for piece in area_rings(plan.area) for ring in piece]
    tiles = [_level0(tile.core, plan.frame.scale) for tile, _ in plan.tiles]
    name = plan.slide.info.name
    cores = {(tile.row, tile.col): tile.core.intersection(plan.frame.box) for tile, _ in plan.tiles}
    flagged = [
        (_level0(cores[report["row"], report["col"]], plan.frame.scale), flag)
        for report in reports
        for flag in flags_of(plan, report)
        if flag != UNREADABLE
    ]
    left_out = [
        _level0(cores[report["row"], report["col"]], plan.frame.scale)
        for report in reports
        if "unreadable" in report
    ]
    picture = draw_thumbnail(
        rgb,
        frame,
        rings,
        tiles,
        left_out,
        plan.scale.mpp,
        name,
        roi_rings_px=[ring for region in plan.regions for ring in _rings(region.geometry)],
        flagged=flagged,
    )
    write_atomically(path, encode_png(picture))


def _rings(geometry: shapely.MultiPolygon) -> list[NDArray[np.float64]]:
    return [
        np.asarray(ring.coords, np.float64)
        for part in geometry.geoms
        for ring in (part.exterior, *part.interiors)
    ]


def write_pictures(
    folder: Path, plan: RunPlan, result: Result, slide: Picture, seed: int = 0
) -> None:
    """Draw crops at full zoom (random, densest, least certain, on seams), and keep them plain.

    `overlay.png` shows them with outlines; `crops/` keeps them, and the whole slide small, for
    reports.
    """
    scale = plan.frame.scale
    inside = plan.frame.box
    cores = [_level0(tile.core.intersection(inside), scale) for tile, _ in plan.tiles]
    seams_x, seams_y = _seams(plan)
    choices = choose_crops(_centroids(result), seams_x, seams_y, cores, seed, CROP_PX * scale)
    crops = [_cut_crop(plan, result, choice) for choice in choices]
    picture = draw_overlay(
        [crop for crop, _ in crops],
        result.class_names,
        result.class_colours,
        plan.model_mpp,
        result.name,
        result.run["counts"],
    )
    write_atomically(folder / "overlay.png", encode_png(picture))
    write_crops(folder, slide, crops)


def _centroids(result: Result) -> Iterator[Centroids]:
    """Yield all nuclei; how certain one is: the mean of what is known of its two probabilities."""
    for batch in result.batches(["cell_id", "x", "y", "nucleus_prob", "class_prob"]):
        known = [
            batch[name].to_numpy(zero_copy_only=False).astype(np.float64)
            for name in ("nucleus_prob", "class_prob")
        ]
        given = np.sum(np.isfinite(known), axis=0)
        certainty = np.nansum(known, axis=0) / np.where(given > 0, given, np.nan)
        cell_id, x, y = (batch[name].to_numpy() for name in ("cell_id", "x", "y"))
        yield Centroids(cell_id, x, y, certainty)


def _seams(plan: RunPlan) -> tuple[list[float], list[float]]:
    """Return where, in level-0 px, two tiles that ran meet."""
    places = {(tile.row, tile.col) for tile, _ in plan.tiles}
    scale = plan.frame.scale
    x = {t.core.x_px * scale for t, _ in plan.tiles if (t.row, t.col - 1) in places}
    y = {t.core.y_px * scale for t, _ in plan.tiles if (t.row - 1, t.col) in places}
    return sorted(x), sorted(y)


def _cut_crop(plan: RunPlan, result: Result, choice: CropChoice) -> tuple[Crop, Box4]:
    """Return a crop, and its box in level-0 px."""
    scale = plan.frame.scale
    left, top = round(choice.box[0] / scale), round(choice.box[1] / scale)
    rgb = read_frame(plan.looked_at, plan.frame, Box(left, top, CROP_PX, CROP_PX))
    x0, y0, side = left * scale, top * scale, CROP_PX * scale
    reach = _REACH_PX * scale
    around = shapely.box(x0 - reach, y0 - reach, x0 + side + reach, y0 + side + reach)
    cells = result.cells(within=around, columns=["class_name", "geometry"]).to_pylist()
    names = list(result.class_names)
    outlines, classes = [], []
    for cell in cells:
        polygon = shapely.from_wkb(cell["geometry"])
        for ring in (polygon.exterior, *polygon.interiors):
            outlines.append(np.asarray(ring.coords) / scale - (left, top))
            classes.append(names.index(cell["class_name"]))
    seams_x, seams_y = _seams(plan)
    crop = Crop(
        rgb=rgb,
        kind=choice.kind,
        outlines=outlines,
        class_indices=classes,
        seams_x_px=[x / scale - left for x in seams_x if x0 < x < x0 + side],
        seams_y_px=[y / scale - top for y in seams_y if y0 < y < y0 + side],
    )
    return crop, (x0, y0, side, side)


def write_summary(path: Path, result: Result) -> None:
    """Write `summary.json`: counts, densities and sizes per class."""
    write_json(path, {"slide": result.name, "use": RESEARCH_USE, **result.summary()})


def write_readme(path: Path, run: dict[str, Any]) -> None:
    """Write `README.txt`: what each file is, for a person."""
    frame, slide, model = run["frame"], run["slide"], run["model"]
    warnings = "".join(f"  ! {warning['message']}\n" for warning in run["warnings"]) or "  none\n"
    regions = "  regions.geojson   the regions of interest\n" if run["regions"] else ""
    more = "  features.parquet  more of each nucleus: docs/measurements.md says what\n"
    features = more if (path.parent / "features.parquet").is_file() else ""
    text = f"""{slide["name"]}: {run["n_cells"]} nuclei in {run["analysed_mm2"]:.3f} mm2
{RESEARCH_USE}

Made by wsiseg {run["wsiseg_version"]} with model {model["name"]} (sha256 {model["sha256"][:12]}),
{model["card"]["licence_note"]}
Scale: {slide["mpp"]:.4g} um per slide pixel ({slide["mpp_source"]}); model pixels are
{frame["scale"]:.6g} slide pixels.

Warnings
{warnings}
Files
  overlay.png       look at this first: crops at full zoom with outlines
  thumbnail.png     the slide with tissue and tiles
  crops             the same crops without outlines, for "wsiseg report"
  cells.parquet     one row a nucleus (GeoParquet, slide pixels, pixel-corner convention)
{features}  cells.geojson.gz  the same for QuPath: drag it onto the open slide
  masks.zarr        OME-Zarr 0.5: label images labels/nuclei (cell_id) and labels/classes
  tiles.parquet     one row a tile
  tissue.geojson    the tissue; edit it in QuPath and give it back with --tissue
{regions}  summary.json      counts, densities, sizes
  run.json          everything about how it was made
  log.txt           what happened when
"""
    write_atomically(path, text.encode())


def _level0(box: Box, scale: float) -> tuple[float, float, float, float]:
    return box.x_px * scale, box.y_px * scale, box.width_px * scale, box.height_px * scale
