"""Where a finished run looked: tissue within its regions, without tiles that were left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.errors import ResultNotReadable

# Importing shapely takes longer than most answers.
if TYPE_CHECKING:
    import shapely


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
    import shapely

    regions = record.get("regions", ())
    tissue = _own_shapes(path / "tissue.geojson")
    drawn = _own_shapes(path / "regions.geojson") if regions else []
    if tissue is None or drawn is None:
        return None
    shape = shapely.union_all(tissue)
    if regions:
        if len(drawn) != len(regions):
            raise ResultNotReadable(
                f"{path / 'regions.geojson'} is damaged: it has {len(drawn)} regions, run.json "
                f"{len(regions)}; segment the slide again with --overwrite"
            )
        there = [one for one, region in zip(drawn, regions, strict=True) if not region["missing"]]
        shape = shapely.intersection(shape, shapely.union_all(there))
    left_out = [tile["box"] for tile in record.get("tiles", {}).get("unreadable", ())]
    if left_out:
        boxes = [shapely.box(x, y, x + w, y + h) for x, y, w, h in left_out]
        shape = shapely.difference(shape, shapely.union_all(boxes))
    return shapely.MultiPolygon(list(_polygons(shape)))


def tissue_mm2(
    shape: shapely.Geometry, analysed: shapely.MultiPolygon | None, mpp: float
) -> float | None:
    """Return the analysed area within a shape, mm²; None where it is not known."""
    import shapely

    if analysed is None:
        return None
    return float(shapely.area(shapely.intersection(shape, analysed))) * mpp**2 / 1e6


def _own_shapes(path: Path) -> list[shapely.Geometry] | None:
    """Return the areas in one of a run's own GeoJSON files, level-0 px; None if it is missing."""
    import shapely

    try:
        document = json.loads(path.read_bytes())
        origin = [float(side) for side in document["origin_px"]]
        shapes = [shapely.geometry.shape(one["geometry"]) for one in document["features"]]
        moved = [shapely.transform(one, lambda xy_px: xy_px + origin) for one in shapes]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResultNotReadable(
            f"{path} is damaged ({error}); segment the slide again with --overwrite"
        ) from error
    # Rounded to 0.01 px, outlines may touch themselves.
    return [one if shapely.is_valid(one) else shapely.make_valid(one) for one in moved]


def _polygons(shape: shapely.Geometry) -> Iterator[shapely.Polygon]:
    import shapely

    for part in shapely.get_parts(shapely.get_parts(shape)):
        if part.geom_type == "Polygon":
            yield part
