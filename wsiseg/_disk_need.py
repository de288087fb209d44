"""How large the files of a run will be, from a few of its tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from wsiseg.crop_files import encode_jpeg
from wsiseg.exporters.ome_zarr import COARSEST_LABEL_PX, RGB_MPP
from wsiseg.geometry import Box, Frame
from wsiseg.pictures import ZOOM, encode_png
from wsiseg.plan import RunPlan
from wsiseg.records import Tile
from wsiseg.side_files import CROP_PX
from wsiseg.slides import read_frame

# Fitted to finished runs of a skin biopsy at 0.5 µm/px (2,557 nuclei of 37 vertices) and a
# frozen section at 1 µm/px (2,431 of 23).
_TABLE_BYTES = (14.0, 8.2)
"""Per nucleus what its stains take, and per vertex of its outline."""
_FEATURE_BYTES = 3.7
"""Per nucleus and column of `features.parquet`: measured numbers can hardly be compressed."""
_EXPORT_BYTES = {
    "anndata": (115.0, 3.7, 0.0),
    "coco": (150.0, 0.0, 15.5),
    "csv": (130.0, 5.0, 0.0),
    "dicom-ann": (12.0, 0.0, 8.0),
    "geojson": (110.0, 0.0, 5.4),
    "spatialdata": (130.0, 3.7, 4.0),
}
"""Of the formats that grow: per nucleus, per feature of it, and per vertex of its outline."""
_LABEL_BYTES_PER_NUCLEUS = 325.0
_FIXED_BYTES = 30_000
"""Everything small: `run.json`, `tiles.parquet`, `tissue.geojson`, metadata."""
_THUMBNAIL_PX = 1600
_THUMBNAIL_DRAWN = 1.1
"""Lines and legend make the thumbnail larger than the bare picture."""
_RGB_SAMPLES = 24
_MOST_CROPS = 12
"""In the overlay: three of each of four kinds."""
_OVERVIEW_SHARE = 0.25
"""Bytes of the JPEG of the whole slide in `crops/`, as a share of the thumbnail's."""


@dataclass(frozen=True, slots=True)
class Frames:
    """The coarse frames a run reads the whole slide in."""

    thumbnail: Frame
    rgb: Frame
    """Finest level of the OME-Zarr picture."""


def coarse_frames(plan: RunPlan) -> Frames:
    """Return the frames of the thumbnail and of the OME-Zarr picture."""
    frame = plan.frame
    longest = max(frame.width_px, frame.height_px)
    most = max(0, math.ceil(math.log2(max(1.0, longest / COARSEST_LABEL_PX))))
    halvings = min(max(round(math.log2(RGB_MPP / plan.model_mpp)), 0), most)
    return Frames(frame.coarser(max(1, -(-longest // _THUMBNAIL_PX))), frame.coarser(2**halvings))


def nuclei_bytes(
    n_nuclei: float, n_vertices: float, n_features: int, formats: Sequence[str]
) -> float:
    """Return the bytes that grow with the nuclei: tables, labels, exports."""
    size = n_nuclei * _TABLE_BYTES[0] + n_vertices * _TABLE_BYTES[1]
    size += n_nuclei * (n_features * _FEATURE_BYTES + _LABEL_BYTES_PER_NUCLEUS)
    for name in formats:
        each, feature, vertex = _EXPORT_BYTES.get(name, (0.0, 0.0, 0.0))
        size += n_nuclei * (each + n_features * feature) + n_vertices * vertex
    return size


def picture_bytes(plan: RunPlan, tiles: Sequence[Tile]) -> float:
    """Return the bytes of the pictures, by compressing parts of them.

    Parameters
    ----------
    plan : RunPlan
        The run.
    tiles : sequence of Tile
        Some of its tiles, for the crops of the overlay.
    """
    frames = coarse_frames(plan)
    # Coarser levels add a quarter, a sixteenth, … of the finest.
    picture = 4 / 3 * _zstd_bytes(plan, frames.rgb)
    slide = _png_bytes(plan, frames.thumbnail)
    thumbnail = (_THUMBNAIL_DRAWN + _OVERVIEW_SHARE) * slide
    return _FIXED_BYTES + picture + thumbnail + _crop_bytes(plan, tiles)


def _crop_bytes(plan: RunPlan, tiles: Sequence[Tile]) -> float:
    """Return the size of the crops: plain, and in the overlay each beside one with outlines."""
    if not tiles:
        return 0.0
    sizes = []
    for tile in tiles:
        inside = tile.core.intersection(plan.frame.box)
        x = inside.x_px + (inside.width_px - CROP_PX) // 2
        y = inside.y_px + (inside.height_px - CROP_PX) // 2
        rgb = read_frame(plan.slide, plan.frame, Box(x, y, CROP_PX, CROP_PX))
        drawn = len(encode_png(np.repeat(np.repeat(rgb, ZOOM, axis=0), ZOOM, axis=1)))
        sizes.append(2 * drawn + len(encode_jpeg(rgb)))
    # Crops of a kind do not overlap: a small slide has no room for all.
    room = sum(tile.core.intersection(plan.frame.box).area_px for tile, _ in plan.tiles)
    n_crops = min(_MOST_CROPS, math.ceil(room / CROP_PX**2))
    return n_crops * float(np.mean(sizes))


def _zstd_bytes(plan: RunPlan, frame: Frame) -> float:
    """Return the size of a frame's pixels compressed as zarr does."""
    codec = pa.Codec("zstd", 1)
    parts = _parts(frame, 256)
    sizes = [
        len(codec.compress(np.ascontiguousarray(rgb.transpose(2, 0, 1)), asbytes=True))
        for rgb in (read_frame(plan.slide, frame, part) for part in parts)
    ]
    return sum(sizes) * frame.box.area_px / sum(part.area_px for part in parts)


def _png_bytes(plan: RunPlan, frame: Frame) -> float:
    parts = _parts(frame, 256)
    sizes = [len(encode_png(read_frame(plan.slide, frame, part))) for part in parts]
    return sum(sizes) * frame.box.area_px / sum(part.area_px for part in parts)


def _parts(frame: Frame, side_px: int) -> list[Box]:
    """Return squares spread evenly over a frame, all of it if it is small."""
    columns, rows = -(-frame.width_px // side_px), -(-frame.height_px // side_px)
    n_all = columns * rows
    n = min(n_all, _RGB_SAMPLES)
    # The middles of n equal parts of all squares.
    chosen = [(2 * k + 1) * n_all // (2 * n) for k in range(n)]
    return [
        Box(i % columns * side_px, i // columns * side_px, side_px, side_px).intersection(frame.box)
        for i in chosen
    ]
