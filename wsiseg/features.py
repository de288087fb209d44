"""What is measured of a nucleus beyond its size and shape, in groups a run may leave out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.calibration import Calibration
from wsiseg.decode import plane_means
from wsiseg.densities import densities_around, densities_in
from wsiseg.errors import UsageError
from wsiseg.records import Instances
from wsiseg.texture import texture_of

MEASURE_GROUPS = ("neighbours", "ring", "texture", "probabilities")
"""Groups of columns of `features.parquet`, in the order in which they stand there."""
TILE_GROUPS = ("ring", "texture", "probabilities")
"""Those that are measured in the tile, from its pixels and maps."""

_MAP_UNIT = 255
"""What a probability of 1 is in a map."""

STAIN_COLUMNS = (
    "hematoxylin_od_mean",
    "hematoxylin_od_sd",
    "eosin_od_mean",
    "eosin_od_sd",
)
"""Measured of every nucleus; they stand in `cells.parquet`."""
NEIGHBOUR_COLUMNS = ("nearest_cell_um", "cells_within_50um")
_COLUMNS = {
    "neighbours": NEIGHBOUR_COLUMNS,
    "ring": ("ring_hematoxylin_od_mean", "ring_eosin_od_mean"),
    "texture": (
        "texture_contrast",
        "texture_homogeneity",
        "texture_energy",
        "texture_correlation",
        "texture_entropy",
    ),
}


def chosen_groups(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return groups in their own order, each once.

    Parameters
    ----------
    given : str or sequence of str
        Names of groups; as text they are separated by commas, or it is `all` or `none`.

    Raises
    ------
    UsageError
        If a name is not known.
    """
    if given == "all":
        return MEASURE_GROUPS
    if given in ("none", ""):
        return ()
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    for name in names:
        if name not in MEASURE_GROUPS:
            known = ", ".join(MEASURE_GROUPS)
            raise UsageError(f"measure: {name!r} is no group; known: {known} (or all, or none)")
    return tuple(group for group in MEASURE_GROUPS if group in names)


def feature_columns(groups: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of `features.parquet` after `cell_id`.

    Parameters
    ----------
    groups : sequence of str
        Groups, as `chosen_groups` gives them.
    class_names : sequence of str
        The model's classes.
    """
    columns = _COLUMNS | {"probabilities": tuple(f"prob_{name}" for name in class_names)}
    return tuple(name for group in groups for name in columns[group])


def tile_groups(groups: Sequence[str]) -> tuple[str, ...]:
    """Return those of some groups that decide what is in a tile's file."""
    return tuple(group for group in groups if group in TILE_GROUPS)


def measure_pixels(
    rgb: NDArray[np.uint8],
    taken: NDArray[np.bool_],
    classes: NDArray[np.uint8],
    instances: Instances,
    origin_px: tuple[int, int],
    mpp: float,
    groups: Sequence[str],
    calibration: Calibration | None = None,
) -> NDArray[np.float32]:
    """Return what is measured of nuclei in their tile.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Pixels of the tile.
    taken : ndarray, (h, w), bool
        Pixels that belong to any nucleus of the tile, or lie outside the slide.
    classes : ndarray, (n_classes, h, w), uint8
        Class probabilities × 255.
    instances : Instances
        n nuclei inside the tile.
    origin_px : tuple of int
        Row and column, in the instances' frame, of the tile's first pixel.
    mpp : float
        µm per pixel.
    groups : sequence of str
        Groups of `TILE_GROUPS` that are wanted, in that order.
    calibration : Calibration, optional
        Of the probabilities.

    Returns
    -------
    ndarray, (n, 4 + k), float32
        `STAIN_COLUMNS`, then the columns of the groups; NaN where undefined.
    """
    parts = [densities_in(rgb, instances, origin_px)]
    for group in groups:
        if group == "ring":
            parts.append(densities_around(rgb, taken, instances, origin_px, mpp))
        elif group == "texture":
            parts.append(texture_of(rgb, instances, origin_px))
        else:
            means = class_means(instances, classes, origin_px)
            parts.append(means if calibration is None else calibration.classes(means))
    return np.concatenate(parts, axis=1).astype(np.float32)


def class_means(
    instances: Instances, classes: NDArray[np.uint8], origin_px: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the mean probability of each of k classes over each of n nuclei, (n, k).

    Parameters
    ----------
    instances, classes, origin_px
        As `measure_pixels` takes them.
    """
    return plane_means(instances, classes, origin_px) / _MAP_UNIT
