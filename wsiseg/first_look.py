"""A first look at a slide: the quality of a few blocks of tissue, before any tile runs."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from wsiseg.errors import TileNotReadable
from wsiseg.geometry import Frame
from wsiseg.quality import TileQuality, measure_tile
from wsiseg.slides import Slide, read_frame
from wsiseg.tiles import AreaMask, TileGrid, plan_tiles

BLOCK_PX = 512
"""Side of a block, in model pixels."""
N_BLOCKS = 12
"""How many are looked at."""
_FULL_SHARE = 0.5
"""Blocks with at least this share of tissue are preferred."""


def sample_quality(
    slide: Slide,
    frame: Frame,
    model_mpp: float,
    area: AreaMask,
) -> list[tuple[TileQuality, float]]:
    """Measure blocks spread evenly over the tissue; without any, over the whole slide.

    A picture that has no tissue may be of another kind, fluorescence for one, and only its
    pixels can tell.

    Parameters
    ----------
    slide : Slide
        The slide.
    frame : Frame
        The model frame.
    model_mpp : float
        µm per pixel of it.
    area : AreaMask
        Tissue, within regions of interest.

    Returns
    -------
    list of (TileQuality, float)
        With the share of each block that is tissue; the same for the same slide.  Blocks that
        cannot be read are left out.
    """
    grid = TileGrid(frame, BLOCK_PX, 0)
    blocks = plan_tiles(grid, area)
    if not area.inside.any():
        blocks = plan_tiles(grid, AreaMask(area.frame, area.factor, np.ones_like(area.inside)))
    full = [block for block in blocks if block[1] >= _FULL_SHARE]
    fullest = sorted(blocks, key=lambda block: -block[1])[:N_BLOCKS]
    candidates = full if len(full) >= N_BLOCKS else fullest
    n = min(N_BLOCKS, len(candidates))
    # The middles of n equal parts of the list.
    at = [(2 * k + 1) * len(candidates) // (2 * n) for k in range(n)]
    found = []
    for block, share in (candidates[k] for k in at):
        # What cannot be read is the run's to report: it knows what may be left out.
        with suppress(TileNotReadable):
            rgb = read_frame(slide, frame, block.core.intersection(frame.box))
            found.append((measure_tile(rgb, model_mpp), share))
    return found
