"""Pictures inside a page: the slide, density over it, crops with outlines."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsiseg.cell_table import ALL_CLASSES
from wsiseg.crop_files import StoredCrop, StoredCrops
from wsiseg.reports._classes import css_of
from wsiseg.reports._shapes import Canvas
from wsiseg.results import Result

_GRIDS_UM = (25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10_000)
_MOST_SQUARES = 48
"""Along the slide's longer side."""
_RAMP = np.array([(236, 241, 247), (166, 196, 226), (84, 141, 194), (27, 84, 150), (10, 38, 86)])
"""Light to dark blue: the order of colours is that of their lightness, also printed in grey."""
_REACH_PX = 64
_THUMBNAIL_PX = 120
_OLD_MARGIN_PX, _OLD_TITLE_PX, _OLD_GAP_PX, _OLD_LEAST_PX = 8, 27, 4, 640


@dataclass(frozen=True, slots=True)
class DensityMap:
    """Density of one class over the slide."""

    name: str
    """The class, or `(all)`."""
    css: str
    png: str
    """As a data address; one pixel a square."""
    width: float
    height: float
    """Of the squares together, in units of the canvas; reaches beyond the slide."""
    top_per_mm2: float
    """What the darkest colour stands for: squares as dense as this or denser."""
    most_per_mm2: float
    """The densest square."""


@dataclass(frozen=True, slots=True)
class ShownOutlines:
    """Outlines of one class in a crop."""

    name: str
    css: str
    n: int
    path: str


@dataclass(frozen=True, slots=True)
class ShownCrop:
    """A crop with what was found in it."""

    jpeg: str
    """As a data address."""
    alt: str
    x_px: int
    y_px: int
    side_um: float
    side_px: int
    n: int
    """Nuclei whose centroid is in it."""
    outlines: tuple[ShownOutlines, ...]
    seams_x_px: tuple[float, ...]
    seams_y_px: tuple[float, ...]


def data_address(content: bytes, kind: str) -> str:
    """Return a picture's file as a data: address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def slide_picture(result: Result, crops: StoredCrops | None) -> tuple[bytes, bool] | None:
    """Return the whole slide as a small JPEG, and whether lines are drawn into it already.

    Runs of older versions have only `thumbnail.png`, with tiles and outlines drawn in.  None
    if there is no picture at all.
    """
    if crops is not None:
        return crops.overview, False
    picture = _cut_from_thumbnail(result)
    if picture is None:
        return None
    picture.thumbnail((1024, 1024))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=82)
    return buffer.getvalue(), True


def _cut_from_thumbnail(result: Result) -> Image.Image | None:
    """Return the slide in `thumbnail.png` without title and legend."""
    frame = result.frame
    coarse = frame.coarser(max(1, -(-max(frame.width_px, frame.height_px) // 1600)))
    width_px = max(_OLD_LEAST_PX, coarse.width_px + 2) + 2 * _OLD_MARGIN_PX
    left, top = _OLD_MARGIN_PX + 1, _OLD_MARGIN_PX + _OLD_TITLE_PX + _OLD_GAP_PX + 1
    try:
        with Image.open(result.path / "thumbnail.png", formats=("PNG",)) as image:
            if image.width != width_px or image.height < top + coarse.height_px:
                return None
            return image.crop((left, top, left + coarse.width_px, top + coarse.height_px))
    except (OSError, ValueError, SyntaxError):
        return None


def tiny(jpeg: bytes) -> str:
    """Return a picture shrunk to a few kB, as a data address."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70, optimize=True)
    return data_address(buffer.getvalue(), "jpeg")


def grid_um(result: Result) -> int:
    """Return the side of a density map's squares."""
    frame = result.frame
    longest_um = max(frame.width_px, frame.height_px) * frame.scale * result.mpp
    return next((g for g in _GRIDS_UM if longest_um / g <= _MOST_SQUARES), _GRIDS_UM[-1])


def density_maps(
    result: Result, canvas: Canvas, side_um: int, tissue_px: Sequence[NDArray[np.float64]]
) -> list[DensityMap]:
    """Return a map of all nuclei and one for each class that has any."""
    table = result.density(side_um)
    unit_um = canvas.mm_per_unit * 1000
    side = side_um / unit_um
    shape = (int(np.ceil(canvas.height / side)), int(np.ceil(canvas.width / side)))
    within = _covered(tissue_px, canvas, side, shape)
    maps = []
    for name in (ALL_CLASSES, *result.class_names):
        rows = table.filter(pc.equal(table["class_name"], name))
        at = [np.rint(rows[c].to_numpy() / side_um).astype(np.int64) for c in ("y_um", "x_um")]
        # A centroid may lie exactly on the slide's last edge.
        place = tuple(np.clip(v, 0, n - 1) for v, n in zip(at, shape, strict=True))
        per_mm2 = np.zeros(shape)
        per_mm2[place] = rows["per_mm2"].to_numpy()
        if not per_mm2.any():
            continue
        top = float(np.percentile(per_mm2[per_mm2 > 0], 98))
        png = _coloured(per_mm2 / top, within | (per_mm2 > 0))
        css = css_of(result, name)
        size = (shape[1] * side, shape[0] * side)
        maps.append(DensityMap(name, css, png, *size, top, float(per_mm2.max())))
    return maps


def _covered(
    rings_px: Sequence[NDArray[np.float64]], canvas: Canvas, side: float, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the squares whose middle lies in the tissue (even-odd rule)."""
    middle_y, middle_x = ((np.arange(n) + 0.5) * side for n in shape)
    inside = np.zeros(shape, np.bool_)
    x, y = np.meshgrid(middle_x, middle_y)
    for ring in rings_px:
        if len(ring) >= 4:
            inside ^= shapely.contains_xy(shapely.Polygon(ring * canvas.per_px), x, y)
    return inside


def _coloured(share: NDArray[np.float64], shown: NDArray[np.bool_]) -> str:
    """Return the colours of shares of the darkest one, transparent where nothing is shown."""
    at = np.clip(share, 0, 1) * (len(_RAMP) - 1)
    rgb = [np.interp(at, np.arange(len(_RAMP)), _RAMP[:, k]) for k in range(3)]
    rgba = np.dstack([*rgb, np.where(shown, 255, 0)]).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(buffer, "PNG", optimize=True)
    return data_address(buffer.getvalue(), "png")


def shown_crop(result: Result, crop: StoredCrop) -> ShownCrop:
    """Return a stored crop with the outlines of the nuclei in it."""
    x0, y0, width, height = crop.box
    scale = width / crop.side_px
    reach = _REACH_PX * scale
    around = shapely.box(x0 - reach, y0 - reach, x0 + width + reach, y0 + height + reach)
    cells = result.cells(within=around, columns=["class_name", "x", "y", "geometry"])
    polygons = shapely.from_wkb(cells["geometry"].to_numpy(zero_copy_only=False))
    local = shapely.transform(polygons, lambda points: (points - (x0, y0)) / scale)
    smooth = shapely.simplify(local, 0.3)
    names = np.array(cells["class_name"].to_pylist(), object)
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    inside = (x >= x0) & (x < x0 + width) & (y >= y0) & (y < y0 + height)
    frame = shapely.box(0, 0, crop.side_px, crop.side_px)
    seen = shapely.intersects(smooth, frame) if len(smooth) else np.zeros(0, np.bool_)
    groups = []
    for name in (*result.class_names, None):
        mine = names == name
        if np.any(mine & seen):
            path = "".join(_outline(polygon) for polygon in smooth[mine & seen])
            n = int(np.sum(mine & inside))
            groups.append(ShownOutlines(name or "no class", css_of(result, name), n, path))
    n = int(inside.sum())
    counted = ", ".join(f"{group.n} {group.name}" for group in groups if group.n)
    return ShownCrop(
        jpeg=data_address(crop.jpeg, "jpeg"),
        alt=f"Tissue at full zoom with {n} nuclei" + (f": {counted}" if counted else ""),
        x_px=round(x0),
        y_px=round(y0),
        side_um=width * result.mpp,
        side_px=crop.side_px,
        n=n,
        outlines=tuple(groups),
        seams_x_px=crop.seams_x_px,
        seams_y_px=crop.seams_y_px,
    )


def _outline(polygon: shapely.Polygon) -> str:
    rings = (polygon.exterior, *polygon.interiors)
    texts = (
        " ".join(f"{x:.1f},{y:.1f}" for x, y in np.asarray(ring.coords)[:-1].tolist())
        for ring in rings
    )
    return "".join(f"M{text}z" for text in texts)
