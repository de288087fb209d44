"""Outlines filled and overlaps settled pixel by pixel, to check the fast ways by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage import measure

Ring = Sequence[tuple[float, float]]


def slow_fill(rings: Sequence[Ring], width_px: int, height_px: int) -> NDArray[np.bool_]:
    """Return the pixels whose centre the first ring winds around and no other does."""
    mask = np.zeros((height_px, width_px), np.bool_)
    for row in range(height_px):
        for col in range(width_px):
            turns = [_turns(ring, col + 0.5, row + 0.5) for ring in rings]
            mask[row, col] = turns[0] != 0 and not any(turns[1:])
    return mask


def _turns(ring: Ring, x: float, y: float) -> int:
    """Return how often a ring winds around a point: by its edges on the left of it."""
    turns = 0
    for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if y0 <= y < y1 and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
            turns += 1
        if y1 <= y < y0 and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
            turns -= 1
    return turns


def slow_lay_down(masks: Sequence[NDArray[np.bool_]]) -> tuple[NDArray[np.int32], list[int], bool]:
    """Return the labels, which mask became each, and whether one covers more than half of another.

    Overlaps are resolved.
    """
    pixels = [frozenset(zip(*np.nonzero(mask), strict=True)) for mask in masks]
    dropped: set[int] = set()
    is_covered = False
    for i, one in enumerate(pixels):
        for j in range(i + 1, len(pixels)):
            common = len(one & pixels[j])
            if common > min(len(one), len(pixels[j])) / 2:
                is_covered = True
                if common > len(one | pixels[j]) / 2 and i not in dropped and j not in dropped:
                    dropped.add(j)
    owner = np.full(masks[0].shape, -1)
    for at in np.ndindex(owner.shape):
        claims = [(len(p), k) for k, p in enumerate(pixels) if k not in dropped and at in p]
        owner[at] = min(claims)[1] if claims else -1
    for k, one in enumerate(pixels):
        left = owner == k
        if 0 < left.sum() < len(one):
            parts = measure.label(left, connectivity=1)
            areas = np.bincount(parts.ravel())[1:]
            owner[left & (parts != areas.argmax() + 1)] = -1
    kept = [k for k in range(len(masks)) if (owner == k).any()]
    labels = np.zeros(owner.shape, np.int32)
    for number, k in enumerate(kept, start=1):
        labels[owner == k] = number
    return labels, kept, is_covered
