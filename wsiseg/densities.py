"""Haematoxylin and eosin in nuclei and around them, from a tile's pixels.

Densities are whole millionths, looked up by the red, green and blue of a pixel, and summed as
whole numbers: where a nucleus lies, and in which tile, changes no bit of its numbers.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.records import Instances
from wsiseg.stain import stain_matrix

STEPS_PER_OD = 1_000_000
"""Densities are looked up in whole steps of this size."""
RING_UM = (0.5, 2.5)
"""A ring begins farther from its nucleus than the first and ends at the second."""


def density_steps() -> NDArray[np.int32]:
    """Return the density of each stain that each value of each channel stands for.

    Returns
    -------
    ndarray, (2, 3, 256), int32
        Millionths of optical density: haematoxylin, eosin; red, green, blue; 0 to 255.  The sum
        over a pixel's channels is the pixel's density, that of `stain.unmix` within 2 millionths.
    """
    # Black counts as one grey level, as in `stain.optical_density`.
    density = -np.log10(np.maximum(np.arange(256), 1) / 255)
    steps = stain_matrix()[:2, :, np.newaxis] * density * STEPS_PER_OD
    return np.rint(steps).astype(np.int32)


def densities_in(
    rgb: NDArray[np.uint8], instances: Instances, origin_px: tuple[int, int]
) -> NDArray[np.float64]:
    """Return mean and standard deviation of the stains' densities over each nucleus.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Pixels of a tile.
    instances : Instances
        n nuclei inside it.
    origin_px : tuple of int
        Row and column, in the instances' frame, of the tile's first pixel.

    Returns
    -------
    ndarray, (n, 4), float64
        Haematoxylin mean, sd (of all pixels: divided by their number), eosin mean, sd.
    """
    sums = _sums_in(
        np.ascontiguousarray(rgb), instances.first_run, instances.runs, *origin_px, density_steps()
    )
    return sums / STEPS_PER_OD


def densities_around(
    rgb: NDArray[np.uint8],
    taken: NDArray[np.bool_],
    instances: Instances,
    origin_px: tuple[int, int],
    mpp: float,
) -> NDArray[np.float64]:
    """Return the mean densities of the stains in a ring around each nucleus.

    The ring holds the pixels whose centre is farther than 0.5 µm from every centre of a pixel of
    the nucleus, and at most 2.5 µm from one, without those that are taken.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Pixels of a tile.
    taken : ndarray, (h, w), bool
        Pixels that belong to a nucleus, or lie outside the slide.
    instances : Instances
        n nuclei inside the tile.
    origin_px : tuple of int
        Row and column, in the instances' frame, of the tile's first pixel.
    mpp : float
        µm per pixel.

    Returns
    -------
    ndarray, (n, 2), float64
        Haematoxylin, eosin; NaN where nothing is left of the ring.
    """
    inner, outer = (half_widths_px(reach_um / mpp) for reach_um in RING_UM)
    means = _means_around(
        np.ascontiguousarray(rgb),
        taken,
        instances.first_run,
        instances.runs,
        *origin_px,
        density_steps(),
        inner,
        outer,
    )
    return means / STEPS_PER_OD


def half_widths_px(radius_px: float) -> NDArray[np.int64]:
    """Return how far a disc reaches to each side, 0, 1, … rows from its middle."""
    rows = np.arange(math.floor(radius_px) + 1)
    widths: NDArray[np.int64] = np.floor(np.sqrt(radius_px**2 - rows**2)).astype(np.int64)
    return widths


@numba.njit(cache=True, nogil=True)
def _sums_in(
    rgb: NDArray[np.uint8],
    first_run: NDArray[np.int64],
    runs: NDArray[np.int32],
    top: int,
    left: int,
    steps: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Return mean and sd of both stains, in steps."""
    n = len(first_run) - 1
    found = np.empty((n, 4), np.float64)
    for i in range(n):
        row, col = runs[first_run[i], 0] - top, runs[first_run[i], 1] - left
        for stain in range(2):
            red, green, blue = steps[stain, 0], steps[stain, 1], steps[stain, 2]
            first = rgb[row, col]
            # Seen from the first pixel, sums stay small and those of a plain nucleus are 0.
            base = red[first[0]] + green[first[1]] + blue[first[2]]
            total, squares, area = np.int64(0), np.int64(0), 0
            for run in range(first_run[i], first_run[i + 1]):
                line = rgb[runs[run, 0] - top, runs[run, 1] - left : runs[run, 2] - left]
                for k in range(len(line)):
                    value = np.int64(red[line[k, 0]] + green[line[k, 1]] + blue[line[k, 2]] - base)
                    total += value
                    squares += value * value
                area += len(line)
            mean = total / area
            found[i, 2 * stain] = base + mean
            found[i, 2 * stain + 1] = math.sqrt(max(0.0, squares / area - mean * mean))
    return found


@numba.njit(cache=True, nogil=True)
def _widen(
    count: NDArray[np.int32],
    runs: NDArray[np.int32],
    top: int,
    left: int,
    half_widths: NDArray[np.int64],
) -> None:
    """Note where the discs around the pixels of runs begin (+1) and end (-1) in each row."""
    height, width = count.shape[0], count.shape[1] - 1
    for run in range(len(runs)):
        for k in range(1 - len(half_widths), len(half_widths)):
            row = runs[run, 0] - top + k
            if 0 <= row < height:
                reach = half_widths[abs(k)]
                count[row, max(0, runs[run, 1] - left - reach)] += 1
                count[row, min(width, runs[run, 2] - left + reach)] -= 1


@numba.njit(cache=True, nogil=True)
def _means_around(
    rgb: NDArray[np.uint8],
    taken: NDArray[np.bool_],
    first_run: NDArray[np.int64],
    runs: NDArray[np.int32],
    top: int,
    left: int,
    steps: NDArray[np.int32],
    inner: NDArray[np.int64],
    outer: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the means of both stains over the rings, in steps."""
    n = len(first_run) - 1
    found = np.full((n, 2), np.nan, np.float64)
    reach = len(outer) - 1
    for i in range(n):
        mine = runs[first_run[i] : first_run[i + 1]]
        row0 = max(0, mine[0, 0] - top - reach)
        row1 = min(rgb.shape[0], mine[-1, 0] + 1 - top + reach)
        col0 = max(0, mine[:, 1].min() - left - reach)
        col1 = min(rgb.shape[1], mine[:, 2].max() - left + reach)
        near = np.zeros((row1 - row0, col1 - col0 + 1), np.int32)
        within = np.zeros((row1 - row0, col1 - col0 + 1), np.int32)
        _widen(near, mine, top + row0, left + col0, inner)
        _widen(within, mine, top + row0, left + col0, outer)
        haematoxylin, eosin, area = np.int64(0), np.int64(0), 0
        for row in range(row1 - row0):
            n_near, n_within = 0, 0
            for col in range(col1 - col0):
                n_near += near[row, col]
                n_within += within[row, col]
                if n_within > 0 and n_near == 0 and not taken[row0 + row, col0 + col]:
                    pixel = rgb[row0 + row, col0 + col]
                    for channel in range(3):
                        haematoxylin += steps[0, channel, pixel[channel]]
                        eosin += steps[1, channel, pixel[channel]]
                    area += 1
        if area:
            found[i, 0], found[i, 1] = haematoxylin / area, eosin / area
    return found
