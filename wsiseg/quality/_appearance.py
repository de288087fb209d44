"""What a set of images looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsiseg.quality._records import TileQuality

APPEARANCE_FIELDS = ("hue_deg", "hematoxylin_od", "eosin_od", "saturation", "residual_od")
"""Fields of `TileQuality` that tell one laboratory's stain and scanner from another's."""
TAILS = (0.5, 99.5)
"""Percentiles between which images are usual …"""
WIDENED = 0.25
"""… and the share of their distance that is added at both ends: the set is a sample."""


def appearance_of(qualities: Sequence[TileQuality]) -> dict[str, tuple[float, float]]:
    """Return the range of stain and colour in a set of tiles.

    Parameters
    ----------
    qualities : sequence of TileQuality
        Of tiles as large as those to be compared; at least one with tissue.

    Returns
    -------
    dict
        Lowest and highest value of each of `APPEARANCE_FIELDS`.
    """
    found = {}
    for name in APPEARANCE_FIELDS:
        values = [quality.to_json()[name] for quality in qualities]
        known = [value for value in values if value is not None]
        if not known:
            raise ValueError(
                f"none of {len(values)} tiles has a {name}; tiles with tissue are needed"
            )
        low, high = (float(end) for end in np.percentile(known, TAILS))
        more = WIDENED * (high - low)
        found[name] = (low - more, high + more)
    return found
