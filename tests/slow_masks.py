"""Plain ways between label images, instances and outlines, to check the fast ones by."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage import io, measure

from wsiseg.records import UNKNOWN_CLASS, Instances, Outlines


def instances_of(labels: NDArray[np.integer]) -> Instances:
    """Return label 1, 2, … of an image as instances, found pixel by pixel."""
    first_run, runs, pixels = [0], [], []
    for region in measure.regionprops(labels):
        coords = region.coords[np.lexsort((region.coords[:, 1], region.coords[:, 0]))].tolist()
        for k, (row, col) in enumerate(coords):
            if k and coords[k - 1] == [row, col - 1]:
                runs[-1][2] = col + 1
            else:
                runs.append([row, col, col + 1])
        first_run.append(len(runs))
        pixels.append(np.array(coords))
    n = len(pixels)
    return Instances(
        first_run=np.array(first_run, np.int64),
        runs=np.array(runs, np.int32).reshape(-1, 3),
        area_px=np.array([len(one) for one in pixels], np.int64),
        row_sum=np.array([one[:, 0].sum() for one in pixels], np.int64),
        col_sum=np.array([one[:, 1].sum() for one in pixels], np.int64),
        class_index=np.full(n, UNKNOWN_CLASS, np.uint8),
        class_prob=np.full(n, np.nan, np.float32),
        nucleus_prob=np.ones(n, np.float32),
        cut=np.zeros(n, np.bool_),
    )


def moved(instances: Instances, rows: int, cols: int) -> Instances:
    """Return the instances that many pixels further down and to the right."""
    return Instances(
        first_run=instances.first_run,
        runs=(instances.runs + np.array([rows, cols, cols])).astype(np.int32),
        area_px=instances.area_px,
        row_sum=instances.row_sum + rows * instances.area_px,
        col_sum=instances.col_sum + cols * instances.area_px,
        class_index=instances.class_index,
        class_prob=instances.class_prob,
        nucleus_prob=instances.nucleus_prob,
        cut=instances.cut,
    )


def real_labels(shared, set_name: str, position: int) -> NDArray[np.integer]:
    """Return an annotated image's nuclei, each a 4-connected component, labelled 1, 2, …"""
    path = sorted((shared / "data" / set_name / "inst").glob("*.png"))[position]
    return measure.label(io.imread(path), connectivity=1)


def blobs(seed: int, size_px: int = 96, coarse_px: int = 3) -> NDArray[np.integer]:
    """Return touching, ragged, sometimes perforated random instances."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (size_px // coarse_px, size_px // coarse_px))
    labels = np.kron(coarse, np.ones((coarse_px, coarse_px), int))
    noisy = rng.random(labels.shape) < 0.08
    labels[noisy] = rng.integers(0, 4, noisy.sum())
    return measure.label(labels, connectivity=1, background=0)


def rings_of(outlines: Outlines, i: int) -> list[NDArray[np.int32]]:
    """Return the rings of polygon i, (k, 2) x, y in half pixels."""
    return [
        outlines.vertices_half_px[outlines.first_vertex[r] : outlines.first_vertex[r + 1]]
        for r in range(outlines.first_ring[i], outlines.first_ring[i + 1])
    ]


def polygons_of(outlines: Outlines) -> list[shapely.Polygon]:
    """Return shapely polygons in pixels."""
    parts = [[ring / 2 for ring in rings_of(outlines, i)] for i in range(len(outlines))]
    return [shapely.Polygon(rings[0], rings[1:]) for rings in parts]


def twice_area(ring: NDArray[np.int32]) -> int:
    """Return twice the shoelace area, in quarter pixels: positive if counter-clockwise."""
    x, y = ring.astype(np.int64).T
    return int((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def rasterised(rings: list[NDArray[np.int32]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixel centres lie inside, by the even-odd rule, edge by edge."""
    y, x = np.mgrid[: shape[0], : shape[1]] * 2 + 1
    inside = np.zeros(shape, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring[:-1].tolist(), ring[1:].tolist(), strict=True):
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside
