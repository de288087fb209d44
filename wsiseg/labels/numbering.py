"""Label images: checked, numbered from 1 to n, and one class for each nucleus."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable

_LARGEST = np.iinfo(np.int32).max
_TABLE = 1 << 22
"""Labels up to this are counted in a table, larger ones sorted."""
MOST_PIECES = 5
"""A single label in more pieces is a mask of all nuclei."""


def whole_labels(labels: NDArray[Any], where: str) -> NDArray[np.int32]:
    """Return a label image as int32.

    Parameters
    ----------
    labels : ndarray, (h, w)
        Whole numbers of any type, also as floats (as MATLAB keeps them).
    where : str
        What messages call it.

    Raises
    ------
    LabelsNotReadable
        If it is no label image: of another shape, with fractions, or negative.
    """
    if labels.ndim != 2:
        colour = " (a colour picture?)" if labels.ndim == 3 and labels.shape[2] in (3, 4) else ""
        raise LabelsNotReadable(
            f"{where}: has the shape {labels.shape}{colour}; one number per pixel is needed, 0 for "
            "background and another for each nucleus"
        )
    if labels.dtype.kind not in "buif":
        raise LabelsNotReadable(f"{where}: holds {labels.dtype}; whole numbers are needed")
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (labels == np.rint(labels))).all():
        raise LabelsNotReadable(
            f"{where}: holds fractions (such as {_first_fraction(labels):g}), so it is a map and "
            "not a label image; one whole number for each nucleus is needed"
        )
    low, high = (labels.min(), labels.max()) if labels.size else (0, 0)
    if low < 0 or high > _LARGEST:
        raise LabelsNotReadable(
            f"{where}: holds {low if low < 0 else high:g}; labels from 0 (background) to "
            f"{_LARGEST:,} are needed"
        )
    return labels.astype(np.int32)


def _first_fraction(labels: NDArray[np.floating[Any]]) -> float:
    return float(labels[~(np.isfinite(labels) & (labels == np.rint(labels)))][0])


def refuse_mask(labels: NDArray[np.int32], where: str) -> None:
    """Refuse a picture in which all nuclei have one label.

    Raises
    ------
    LabelsNotReadable
        If its only label is in more than five pieces.
    """
    value = int(labels.max(initial=0))
    if value and not ((labels != 0) & (labels != value)).any():
        n = n_pieces(labels != 0)
        if n > MOST_PIECES:
            raise LabelsNotReadable(
                f"{where}: its only label, {value}, is in {n} pieces, so it is a mask of "
                "all nuclei together; another number for each nucleus is needed"
            )


def n_pieces(mask: NDArray[np.bool_]) -> int:
    """Return the number of 8-connected pieces of a mask."""
    return int(cv2.connectedComponents(mask.astype(np.uint8))[0]) - 1


def renumbered(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return labels as 1 to n in the order of their values, and the n values.

    Parameters
    ----------
    labels : ndarray, (h, w), int32
        Not negative.
    """
    if not labels.size or int(labels.max()) > _TABLE:
        values, positions = np.unique(np.append(labels, 0), return_inverse=True)
        new = positions[:-1].reshape(labels.shape).astype(np.int32)
        return new, values[1:].astype(np.int64)
    there = np.bincount(labels.ravel()) > 0
    there[0] = False
    values = np.flatnonzero(there)
    table = np.zeros(len(there), np.int32)
    table[values] = np.arange(1, len(values) + 1)
    return table[labels], values


def majority(instances: NDArray[np.int32], values: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the most frequent value in each nucleus; of equals the smallest.

    Parameters
    ----------
    instances : ndarray, (h, w), int32
        1 to n.
    values : ndarray, (h, w), int32
        0 has no vote.

    Returns
    -------
    ndarray, (n,), int64
        0 where no pixel of a nucleus has a value.
    """
    votes = (instances > 0) & (values > 0)
    n, n_values = int(instances.max(initial=0)), int(values.max(initial=0))
    if not n_values:
        return np.zeros(n, np.int64)
    known = np.unique(values[votes])
    pairs = (instances[votes].astype(np.int64) - 1) * len(known)
    pairs += np.searchsorted(known, values[votes])
    table = np.bincount(pairs, minlength=n * len(known)).reshape(n, len(known))
    if not len(known):
        return np.zeros(n, np.int64)
    winners: NDArray[np.int64] = np.where(table.any(axis=1), known[table.argmax(axis=1)], 0)
    return winners
