"""What the network is asked to predict, from a label image."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def distance_targets(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return horizontal and vertical distances to each nucleus' centre.

    Each is scaled by the nucleus' extent on that side of the centre, so that it runs from
    -1 to 1 (Graham et al. 2019, doi:10.1016/j.media.2019.101563, section 3.2).

    Parameters
    ----------
    instances : ndarray, (h, w), int32
        0 is background.

    Returns
    -------
    ndarray, (2, h, w), float32
        Horizontal, vertical; 0 in the background.
    """
    height, width = instances.shape
    n = instances.max() + 1
    count = np.zeros(n, np.int64)
    centre = np.zeros((2, n), np.float64)
    for row in range(height):
        for col in range(width):
            i = instances[row, col]
            count[i] += 1
            centre[0, i] += col
            centre[1, i] += row
    for i in range(n):
        if count[i] > 0:
            centre[:, i] /= count[i]
    low = np.full((2, n), 1e-6)
    high = np.full((2, n), 1e-6)
    for row in range(height):
        for col in range(width):
            i = instances[row, col]
            for axis, value in enumerate((col, row)):
                offset = value - centre[axis, i]
                low[axis, i] = max(low[axis, i], -offset)
                high[axis, i] = max(high[axis, i], offset)
    distances = np.zeros((2, height, width), np.float32)
    for row in range(height):
        for col in range(width):
            i = instances[row, col]
            if i > 0:
                for axis, value in enumerate((col, row)):
                    offset = value - centre[axis, i]
                    extent = low[axis, i] if offset < 0 else high[axis, i]
                    distances[axis, row, col] = offset / extent
    return distances
