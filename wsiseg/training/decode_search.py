"""Constants of the decoder, chosen on maps of images that were held back: no retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.decode import DecodeOptions, decode_instances, paint_instances
from wsiseg.evaluation.metrics import panoptic_quality
from wsiseg.records import Maps

_THRESHOLDS = tuple(round(0.3 + 0.05 * k, 2) for k in range(9))
_SOBEL_PX = (5, 7, 9, 11, 15, 21)
_ENERGIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
_MARKER_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Of the median nucleus."""
_AREA_PERCENTILES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the annotated nuclei: as many true ones are lost, if the network finds them as they are."""
_MOST_ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class JudgedMaps:
    """What a network says of an image, and what is true."""

    maps: Maps
    """Of the image, (h, w)."""
    truth: NDArray[np.int32]
    """(h, w); 0 is background."""
    ignored: NDArray[np.bool_] | None = None
    """(h, w); True where nothing is known."""


@dataclass(frozen=True, slots=True)
class FoundConstants:
    """Constants of the decoder and how good they are."""

    decode: DecodeOptions
    """The best that were tried."""
    mean_pq: float
    """Mean over images of panoptic quality with them."""
    mean_pq_before: float
    """The same with the constants the search began with."""
    n_tried: int
    """Sets of constants that were tried."""


def constants_to_try(area_px: NDArray[np.integer]) -> dict[str, tuple[Any, ...]]:
    """Return values of each constant, those in pixels from the areas of annotated nuclei.

    Parameters
    ----------
    area_px : ndarray, (n,)
        Areas of annotated nuclei in model pixels; at least one.
    """
    median = float(np.median(area_px))
    markers = {max(1, round(share * median)) for share in _MARKER_SHARES}
    areas = {max(1, int(np.percentile(area_px, share))) for share in _AREA_PERCENTILES}
    return {
        "min_area_px": tuple(sorted(areas | {1})),
        "nucleus_threshold": _THRESHOLDS,
        "marker_energy": _ENERGIES,
        "sobel_px": _SOBEL_PX,
        "min_marker_px": tuple(sorted(markers)),
    }


def search_constants(
    judged: Sequence[JudgedMaps],
    values: Mapping[str, Sequence[Any]],
    begin: DecodeOptions,
    go_on: Callable[[], None] = lambda: None,
) -> FoundConstants:
    """Change one constant at a time, as long as that raises the mean panoptic quality.

    Parameters
    ----------
    judged : sequence of JudgedMaps
        Images held back; those with neither true nor found nuclei do not count.
    values : mapping of str to sequence
        For each constant the values to try.
    begin : DecodeOptions
        Where to begin.
    go_on : callable
        Called before each set of constants is tried; may raise to stop.

    Returns
    -------
    FoundConstants
        Of equals the first tried, so that nothing changes without a gain.
    """
    known: dict[DecodeOptions, float] = {}

    def quality(options: DecodeOptions) -> float:
        if options not in known:
            go_on()
            known[options] = mean_quality(judged, options)
        return known[options]

    best = begin
    for _ in range(_MOST_ROUNDS):
        before = best
        for name, tried in values.items():
            for value in tried:
                other = replace(best, **{name: value})
                if quality(other) > quality(best):
                    best = other
        if best == before:
            break
    return FoundConstants(best, quality(best), quality(begin), len(known))


def mean_quality(judged: Sequence[JudgedMaps], options: DecodeOptions) -> float:
    """Return the mean panoptic quality over images that have nuclei, true or found; else 0."""
    found = [
        panoptic_quality(
            without_ignored(each.truth, each.ignored),
            without_ignored(decode_labels(each.maps, options), each.ignored),
        ).pq
        for each in judged
    ]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else 0.0


def decode_labels(maps: Maps, options: DecodeOptions) -> NDArray[np.int32]:
    """Return the nuclei of maps as a label image."""
    height, width = maps.nucleus.shape
    return paint_instances(decode_instances(maps, options), (height, width))


def without_ignored(
    labels: NDArray[np.int32], ignored: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    """Return a label image without what lies for more than half where nothing is known."""
    if ignored is None or not ignored.any():
        return labels
    area = np.bincount(labels.ravel(), minlength=labels.max() + 1)
    unseen = np.bincount(labels[ignored], minlength=len(area))
    kept = np.where(2 * unseen > area, 0, np.arange(len(area)))
    return kept[labels].astype(np.int32)
