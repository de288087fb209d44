"""Densities, rings, texture and neighbours in the plainest form, one nucleus at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops

from wsiseg.stain import optical_density, stain_matrix, unmix

FOUR = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
PROPERTIES = ("contrast", "homogeneity", "energy", "correlation", "entropy")


def slow_densities(rgb: NDArray[np.uint8], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return (n, 4): haematoxylin mean, sd, eosin mean, sd of labels 1 … n."""
    stains = unmix(optical_density(rgb)).astype(np.float64)
    rows = []
    for label in range(1, labels.max() + 1):
        inside = stains[labels == label]
        rows.append([inside[:, 0].mean(), inside[:, 0].std(), inside[:, 1].mean()])
        rows[-1].append(inside[:, 1].std())
    return np.array(rows).reshape(-1, 4)


def slow_rings(
    rgb: NDArray[np.uint8], labels: NDArray[np.integer], mpp: float, inside_slide: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return (n, 2): haematoxylin and eosin mean, by the distance to the nucleus' pixels."""
    stains = unmix(optical_density(rgb)).astype(np.float64)
    rows = []
    for label in range(1, labels.max() + 1):
        apart_um = ndimage.distance_transform_edt(labels != label) * mpp
        ring = (apart_um > 0.5) & (apart_um <= 2.5) & (labels == 0) & inside_slide
        rows.append(stains[ring][:, :2].mean(axis=0) if ring.any() else [math.nan, math.nan])
    return np.array(rows).reshape(-1, 2)


def grey_levels(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the haematoxylin density as 32 levels of 0.06, every channel in millionths."""
    of_value = -np.log10(np.maximum(np.arange(256), 1) / 255)
    matrix = stain_matrix()
    millionths = sum(np.rint(1e6 * matrix[0, k] * of_value)[rgb[..., k]] for k in range(3))
    return np.clip(np.floor(millionths / 60_000), 0, 31).astype(np.uint8)


def slow_texture(rgb: NDArray[np.uint8], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return (n, 5): scikit-image's properties, with the background as a level of its own."""
    levels = grey_levels(rgb)
    rows = []
    for label in range(1, labels.max() + 1):
        at = ndimage.find_objects((labels == label).astype(np.uint8))[0]
        masked = np.where(labels[at] == label, levels[at] + 1, 0).astype(np.uint8)
        pairs = graycomatrix(masked, [1], FOUR, levels=33, symmetric=True)[1:, 1:]
        there = pairs.sum(axis=(0, 1))[0] > 0
        found = {name: graycoprops(pairs, name)[0] for name in PROPERTIES}
        # Where there is one level only, scikit-image calls the correlation 1.
        spread = there & (graycoprops(pairs, "variance")[0] > 1e-12)
        means = [found[n][spread if n == "correlation" else there] for n in PROPERTIES]
        rows.append([mean.mean() if len(mean) else math.nan for mean in means])
    return np.array(rows).reshape(-1, 5)


def slow_neighbours(
    x_um: NDArray[np.float64], y_um: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the nearest distance (NaN beyond 100 µm) and the number within 50 µm."""
    apart = np.sqrt((x_um[:, None] - x_um) ** 2 + (y_um[:, None] - y_um) ** 2)
    np.fill_diagonal(apart, np.inf)
    nearest = apart.min(axis=1, initial=np.inf)
    return np.where(nearest <= 100, nearest, np.nan), (apart <= 50).sum(axis=1)
