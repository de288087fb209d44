"""Everything that is settled before the first tile runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.decode import DecodeOptions
from wsiseg.geometry import Box, Frame
from wsiseg.models import MapsModel, Numerics
from wsiseg.records import Tile
from wsiseg.rundir import RESULT_VERSION, canonical_hash
from wsiseg.scale import ScaleOptions, SlideScale, resolve_scale, upsampling_warning
from wsiseg.slides import Slide, frame_at, read_frame
from wsiseg.stitch import StitchOptions
from wsiseg.tiles import AreaMask, TileGrid, plan_tiles
from wsiseg.tissue import TissueOptions, find_tissue

RunWarning = dict[str, str]
"""`code` and `message`, as in `run.json`."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user says about a run, beyond slide and model."""

    scale: ScaleOptions = ScaleOptions()
    """µm per pixel."""
    tissue: TissueOptions | None = TissueOptions()
    """Constants of the tissue mask; None: the whole slide counts."""
    stitch: StitchOptions = StitchOptions()
    """Constants of stitching."""
    grid_offset_px: int = 0
    """Moves the tile grid; only seam checks use it."""


@dataclass(frozen=True, slots=True, eq=False)
class RunPlan:
    """A slide, a model, and every tile to run."""

    slide: Slide
    model: MapsModel
    numerics: Numerics
    options: PlanOptions
    scale: SlideScale
    """The slide's µm per pixel."""
    grid: TileGrid
    """All tiles."""
    area: AreaMask
    """What counts."""
    tiles: tuple[tuple[Tile, float], ...]
    """Tiles to run with the share of their core that counts."""
    warnings: tuple[RunWarning, ...]
    """What the user should know."""

    @property
    def frame(self) -> Frame:
        """The model frame."""
        return self.grid.frame

    @property
    def model_mpp(self) -> float:
        """µm per model pixel, as used: within 5 % of the model's."""
        return self.frame.scale * self.scale.mpp

    @property
    def decode(self) -> DecodeOptions:
        """The model's decode constants."""
        return DecodeOptions.from_json(self.model.card.decode)

    @property
    def analysed_mm2(self) -> float:
        """Area that counts, clipped to the slide."""
        return area_mm2(self.area, self.frame, self.model_mpp)

    @property
    def tile_identity(self) -> dict[str, Any]:
        """All that decides what is in a tile."""
        info = self.slide.info
        return {
            "slide": info.fingerprint,
            "reader": info.reader,
            "model": self.model.card.name,
            "model_sha256": self.model.card.sha256,
            "mpp": self.scale.mpp,
            "scale": self.frame.scale,
            "grid_offset_px": self.options.grid_offset_px,
            "spare_px": self.options.stitch.spare_px,
            "numerics": self.numerics.to_json(),
            "result_version": RESULT_VERSION,
        }

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what is in the results."""
        tissue = self.options.tissue
        return self.tile_identity | {
            "tissue": "none" if tissue is None else tissue.to_json(),
            "stitch": {"min_area_px": self.options.stitch.min_area_px},
        }

    @property
    def run_key(self) -> str:
        """Hash of the tile identity; stands in every tile file."""
        return canonical_hash(self.tile_identity)


def plan_run(slide: Slide, model: MapsModel, numerics: Numerics, options: PlanOptions) -> RunPlan:
    """Settle scale, area and tiles of a run.

    Raises
    ------
    MissingScale, ScaleRefused
        As `resolve_scale` and `upsampling_warning` say.
    """
    info, card = slide.info, model.card
    scale = resolve_scale(info.name, info.mpp_x, info.mpp_y, info.objective_power, options.scale)
    warning = upsampling_warning(info.name, scale.mpp, card.mpp, options.scale)
    frame = frame_at(info, scale.mpp, card.mpp)
    grid = TileGrid(frame, card.core_px, card.margin_px, options.grid_offset_px)
    area = find_area(slide, frame, frame.scale * scale.mpp, options.tissue)
    warnings = () if warning is None else ({"code": "up-sampled", "message": warning},)
    tiles = tuple(plan_tiles(grid, area))
    return RunPlan(slide, model, numerics, options, scale, grid, area, tiles, warnings)


_MASK_PX = 16
"""A mask has at least as many pixels each way, if the slide has."""


def find_area(
    slide: Slide, frame: Frame, model_mpp: float, options: TissueOptions | None
) -> AreaMask:
    """Return the slide's tissue, or all of it if `options` is None."""
    target = TissueOptions().target_mpp if options is None else options.target_mpp
    # At the far edges a mask pixel is mixed with the white outside; in a tiny image that
    # would be most of them.
    finest = min(frame.width_px, frame.height_px) // _MASK_PX
    factor = max(1, min(round(target / model_mpp), finest))
    coarse = frame.coarser(factor)
    if options is None:
        inside = np.ones((coarse.height_px, coarse.width_px), np.bool_)
    else:
        inside = find_tissue(read_overview(slide, coarse), model_mpp * factor, options)
    return AreaMask(coarse, factor, inside)


def read_overview(slide: Slide, frame: Frame) -> NDArray[np.uint8]:
    """Return the whole of a coarse frame, read block by block so that memory stays flat."""
    rgb = np.empty((frame.height_px, frame.width_px, 3), np.uint8)
    side_px = 64
    for top in range(0, frame.height_px, side_px):
        for left in range(0, frame.width_px, side_px):
            block = Box(left, top, side_px, side_px).intersection(frame.box)
            rgb[block.slices_in(frame.box)] = read_frame(slide, frame, block)
    return rgb


def area_mm2(area: AreaMask, frame: Frame, model_mpp: float) -> float:
    """Return the area of a mask; pixels at the slide's edge count with their inner part."""
    rows = np.full(area.frame.height_px, area.factor, np.float64)
    cols = np.full(area.frame.width_px, area.factor, np.float64)
    rows[-1] -= area.factor * area.frame.height_px - frame.height_px
    cols[-1] -= area.factor * area.frame.width_px - frame.width_px
    model_px = math.fsum((area.inside @ cols) * rows)
    return model_px * model_mpp**2 / 1e6
