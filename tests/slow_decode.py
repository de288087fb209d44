"""The decoder's plain twin: the same definition, written to be obvious, and maps to try.

Also the published post-processing in floating point, as a second opinion.
"""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from wsiseg.decode import DecodeOptions
from wsiseg.records import Instances, Maps
from wsiseg.training.targets import distance_targets

EIGHT = np.ones((3, 3))


def slow_levels(hv, sobel_px):
    """Quantised energy everywhere; float64 holds all of these whole numbers exactly."""
    derive, smooth = (
        kernel.ravel() for kernel in cv2.getDerivKernels(1, 0, sobel_px, ktype=cv2.CV_64F)
    )
    slopes = []
    for axis, plane in ((1, hv[0]), (0, hv[1])):
        slope = ndimage.correlate1d(plane.astype(float), derive, axis=axis, mode="constant")
        slopes.append(ndimage.correlate1d(slope, smooth, axis=1 - axis, mode="constant"))
    half = int(np.abs(np.outer(derive, smooth)).sum()) // 2
    fall = np.maximum(0, -np.minimum(*slopes)).astype(np.int64)
    return np.minimum(1023, 1023 * fall // (100 * half))


def slow_flood(mask, levels, markers):
    """Grow markers over the mask, lowest level first, then first come first served."""
    labels = markers.copy()
    queue = [
        (0, order, place) for order, place in enumerate(map(tuple, np.argwhere(markers).tolist()))
    ]
    n_queued = len(queue)
    while queue:
        level, _, (row, col) = heapq.heappop(queue)
        for other in ((row - 1, col), (row, col - 1), (row, col + 1), (row + 1, col)):
            inside = 0 <= other[0] < mask.shape[0] and 0 <= other[1] < mask.shape[1]
            if inside and mask[other] and labels[other] == 0:
                labels[other] = labels[row, col]
                heapq.heappush(queue, (max(level, levels[other]), n_queued, other))
                n_queued += 1
    return labels


def slow_fill_holes(labels):
    filled = labels.copy()
    background, n = ndimage.label(labels == 0, EIGHT)
    for i in range(1, n + 1):
        hole = np.pad(background == i, 1)
        ring = ndimage.binary_dilation(hole, EIGHT) & ~hole
        if ring[0].any() or ring[-1].any() or ring[:, 0].any() or ring[:, -1].any():
            continue
        around = np.unique(np.pad(labels, 1)[ring])
        if len(around) == 1:
            filled[background == i] = around[0]
    return filled


def slow_decode(maps: Maps, options: DecodeOptions) -> list[dict]:
    """Instances as dictionaries, in order."""
    mask = maps.nucleus >= math.ceil(options.nucleus_threshold * 255)
    levels = slow_levels(maps.hv, options.sobel_px)
    low = mask & (levels < math.ceil(options.marker_energy * 1023))
    markers = large_parts(low, options.min_marker_px)
    components, n_components = ndimage.label(mask)
    for i in range(1, n_components + 1):
        if not markers[components == i].any():
            markers[components == i] = markers.max() + 1
    labels = slow_flood(mask, levels, markers)
    for label in range(1, labels.max(initial=0) + 1):
        if np.count_nonzero(labels == label) < options.min_area_px:
            labels[labels == label] = 0
    return slow_describe(slow_fill_holes(labels), maps.nucleus, maps.classes)


def large_parts(mask, min_px):
    labels, n = ndimage.label(mask)
    for label in range(1, n + 1):
        if np.count_nonzero(labels == label) < min_px:
            labels[labels == label] = 0
    return labels


def slow_describe(labels, nucleus, classes) -> list[dict]:
    """What is known about each label, by centroid row, centroid column, first pixel."""
    found = []
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        rows, cols = np.nonzero(inside)
        sums = [int(plane[inside].astype(int).sum()) for plane in classes]
        best = sums.index(max(sums)) if sums else None
        found.append(
            {
                "order": (
                    Fraction(int(rows.sum()), len(rows)),
                    Fraction(int(cols.sum()), len(rows)),
                    (int(rows[0]), int(cols[0])),
                ),
                "pixels": list(zip(rows.tolist(), cols.tolist(), strict=True)),
                "area_px": len(rows),
                "row_sum": int(rows.sum()),
                "col_sum": int(cols.sum()),
                "class_index": 255 if best is None else best,
                "class_prob": math.nan if best is None else sums[best] / (255 * len(rows)),
                "nucleus_prob": int(nucleus[inside].astype(int).sum()) / (255 * len(rows)),
                "cut": bool(
                    rows.min() == 0
                    or cols.min() == 0
                    or rows.max() == labels.shape[0] - 1
                    or cols.max() == labels.shape[1] - 1
                ),
            }
        )
    return sorted(found, key=lambda instance: instance["order"])


def as_dicts(instances: Instances) -> list[dict]:
    described = []
    for i in range(len(instances)):
        runs = instances.runs[instances.first_run[i] : instances.first_run[i + 1]].tolist()
        pixels = [(row, col) for row, start, end in runs for col in range(start, end)]
        assert pixels == sorted(set(pixels))
        assert all(a[0] != b[0] or a[2] < b[1] for a, b in pairwise(runs))
        described.append(
            {
                "pixels": pixels,
                "area_px": int(instances.area_px[i]),
                "row_sum": int(instances.row_sum[i]),
                "col_sum": int(instances.col_sum[i]),
                "class_index": int(instances.class_index[i]),
                "class_prob": float(instances.class_prob[i]),
                "nucleus_prob": float(instances.nucleus_prob[i]),
                "cut": bool(instances.cut[i]),
            }
        )
    return described


def assert_same(instances: Instances, slow: list[dict]) -> None:
    fast = as_dicts(instances)
    assert len(fast) == len(slow)
    for one, other in zip(fast, slow, strict=True):
        for name, value in one.items():
            if name.endswith("_prob"):
                want = pytest.approx(other[name], abs=1e-6, nan_ok=True)
                assert value == want, name
            else:
                assert value == other[name], name


def published_decode(maps: Maps, options: DecodeOptions) -> np.ndarray:
    """HoVer-Net's post-processing in float32 with fixed constants; a label image."""
    mask = maps.nucleus / 255 >= options.nucleus_threshold
    mask = ndimage.label(mask)[0]
    mask = remove_small_objects(mask, max_size=options.min_area_px - 1) > 0
    h, v = (plane.astype(np.float32) / 100 for plane in maps.hv)
    size = options.sobel_px
    half = np.abs(np.outer(*cv2.getDerivKernels(1, 0, size, ktype=cv2.CV_64F))).sum() / 2
    falls = [
        -cv2.Sobel(h, cv2.CV_32F, 1, 0, ksize=size, borderType=cv2.BORDER_CONSTANT),
        -cv2.Sobel(v, cv2.CV_32F, 0, 1, ksize=size, borderType=cv2.BORDER_CONSTANT),
    ]
    energy = np.clip(np.maximum(*falls) / half, 0, 1)
    markers = ndimage.label(mask & (energy < options.marker_energy))[0]
    markers = remove_small_objects(markers, max_size=options.min_marker_px - 1)
    bare, _ = ndimage.label(mask)
    bare[np.isin(bare, bare[markers > 0])] = 0
    markers = np.where(bare > 0, bare + markers.max(), markers)
    return watershed(energy, markers, mask=mask)


def smooth_noise(rng, shape, sigma_px):
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma_px)
    return noise / max(noise.std(), 1e-9)


def random_maps(seed: int, shape: tuple[int, int], n_classes: int = 3, grain_px: float = 2) -> Maps:
    """Maps without meaning: blobs of all sizes, contacts, holes, strays."""
    rng = np.random.default_rng(seed)
    nucleus = 140 + 60 * smooth_noise(rng, shape, grain_px)
    hv = np.stack([80 * smooth_noise(rng, shape, grain_px) for _ in range(2)])
    classes = rng.integers(0, 256, (n_classes, *shape))
    return Maps(
        nucleus.clip(0, 255).astype(np.uint8),
        hv.clip(-127, 127).astype(np.int8),
        classes.astype(np.uint8),
    )


def _distances(labels: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(np.ascontiguousarray(labels, np.int32))[None]
    return distance_targets(batch, int(labels.max(initial=0)))[0].numpy().astype(float)


def maps_from_labels(labels: np.ndarray, seed: int, noise: float = 0.08) -> Maps:
    """What a good network might say about an image with these nuclei."""
    rng = np.random.default_rng(seed)
    nucleus = ndimage.gaussian_filter((labels > 0).astype(float), 1.0)
    hv = ndimage.gaussian_filter(_distances(labels), (0, 1, 1))
    nucleus = nucleus + noise * smooth_noise(rng, labels.shape, 4)
    hv = hv + noise * np.stack([smooth_noise(rng, labels.shape, 4) for _ in range(2)])
    classes = np.stack([(labels % 4 == k) * 200 + k for k in range(4)])
    return Maps(
        (255 * nucleus).round().clip(0, 255).astype(np.uint8),
        (100 * hv).round().clip(-127, 127).astype(np.int8),
        classes.astype(np.uint8),
    )


def read_labels(shared: Path, data_set: str, name: str) -> np.ndarray:
    path = shared / "data" / data_set / "inst" / f"{name}.png"
    return np.asarray(Image.open(path)).astype(np.int32)
