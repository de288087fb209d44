"""Everything that is settled before the first tile runs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg._plan_identity import run_identity, tile_identity, tissue_source
from wsiseg.decode import DecodeOptions
from wsiseg.errors import UsageError
from wsiseg.features import MEASURE_GROUPS, chosen_groups
from wsiseg.first_look import sample_quality
from wsiseg.geometry import Box, Frame
from wsiseg.machine import cores
from wsiseg.models import MapsModel, ModelCard, Numerics
from wsiseg.models.licence import accepted_licences
from wsiseg.quality import slide_warnings
from wsiseg.records import Tile
from wsiseg.regions import (
    Region,
    RegionFile,
    RoiOrigin,
    area_px2,
    covered,
    read_regions,
    touched,
    union_of,
)
from wsiseg.rundir import canonical_hash
from wsiseg.scale import ScaleOptions, SlideScale, resolve_scale, upsampling_warning
from wsiseg.slides import Slide, SlideInfo, frame_at, read_frame
from wsiseg.slides.damaged import WhiteWhereDamaged
from wsiseg.slides.stamp import FileStamp
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
    tissue: TissueOptions | Path | str | None = TissueOptions()
    """Constants of the tissue mask (`"auto"`: these); a GeoJSON file that holds the tissue;
    None or `"none"`: the whole slide counts."""
    roi: Path | str | Sequence[Region] | None = None
    """Only nuclei with a centroid in these regions count: a GeoJSON file of QuPath's, or the
    regions themselves."""
    roi_origin: RoiOrigin = "auto"
    """What coordinates in the file of `roi` are relative to, if it does not say so itself."""
    stitch: StitchOptions = StitchOptions()
    """Constants of stitching."""
    grid_offset_px: int = 0
    """Moves the tile grid; only seam checks use it."""
    skip_bad_tiles: bool = False
    """Leave out tiles that cannot be read, or that end a worker process; the results list them,
    and `analysed_mm2` is without them."""
    measure: Sequence[str] = MEASURE_GROUPS
    """Groups of columns of `features.parquet`: `neighbours`, `ring`, `texture`, `probabilities`;
    `"all"` or `"none"` (then there is no such file)."""
    require_licence: str | None = None
    """Refuse models whose licence does not permit `"commercial"` use, is not `"permissive"`, or
    is none of these SPDX identifiers (separated by commas); None: any licence will do."""

    def __post_init__(self) -> None:
        if self.require_licence is not None:
            accepted_licences(self.require_licence)
        # What is typed at the command line, or read from a list, is text.
        object.__setattr__(self, "measure", chosen_groups(self.measure))
        if isinstance(self.tissue, str):
            object.__setattr__(self, "tissue", tissue_choice(self.tissue))
        if isinstance(self.roi, str):
            object.__setattr__(self, "roi", Path(self.roi))
        elif isinstance(self.roi, Sequence):
            object.__setattr__(self, "roi", tuple(self.roi))
        if not isinstance(self.tissue, TissueOptions | Path | None):
            raise UsageError(
                f"tissue is {self.tissue!r}; TissueOptions, a GeoJSON file, or None for all of "
                "the slide is needed"
            )
        if not isinstance(self.roi, Path | tuple | None):
            raise UsageError(
                f"roi is {self.roi!r}; a GeoJSON file, regions, or None for all of the slide is "
                "needed"
            )
        if isinstance(self.roi, tuple) and not all(isinstance(one, Region) for one in self.roi):
            raise UsageError(f"roi is {self.roi!r}; one GeoJSON file, or Region objects, is needed")
        if self.roi == ():
            raise UsageError("roi has no region; give at least one, or None for all of the slide")
        if self.roi_origin not in get_args(RoiOrigin):
            known = ", ".join(get_args(RoiOrigin))
            raise UsageError(f"roi_origin is {self.roi_origin!r}; one of {known} is needed")

    @property
    def tissue_source(self) -> TissueOptions | Path | None:
        """What the tissue comes from, when texts are understood."""
        return tissue_choice(self.tissue) if isinstance(self.tissue, str) else self.tissue


def tissue_choice(text: str) -> TissueOptions | Path | None:
    """Return what `auto`, `none` or the name of a GeoJSON file means for `PlanOptions`."""
    return TissueOptions() if text == "auto" else None if text == "none" else Path(text)


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
    """Tissue."""
    counted: AreaMask
    """Tissue within the regions; all tissue if there are none."""
    tissue_source: dict[str, Any] | str
    """Constants or fingerprint of what the tissue came from; `none` if everything counts."""
    regions: tuple[Region, ...]
    """Regions of interest, in the order of their file; without any the whole slide is one."""
    analysed_mm2: float
    """Tissue within the regions that are not missing, clipped to the slide."""
    region_mm2: tuple[float, ...]
    """The same for each region; they may overlap."""
    tiles: tuple[tuple[Tile, float], ...]
    """Tiles to run with the share of their core that counts."""
    warnings: tuple[RunWarning, ...]
    """What the user should know."""
    first_look: tuple[RunWarning, ...]
    """What a few blocks of tissue tell; what all tiles tell replaces it."""
    seconds: float
    """What planning took."""
    stamp: FileStamp | None = None
    """Of the slide's file, if it is one."""

    @property
    def frame(self) -> Frame:
        """The model frame."""
        return self.grid.frame

    @property
    def looked_at(self) -> Slide:
        """The slide as masks and pictures show it."""
        return WhiteWhereDamaged(self.slide) if self.options.skip_bad_tiles else self.slide

    @property
    def model_mpp(self) -> float:
        """µm per model pixel, as used: within 5 % of the model's."""
        return self.frame.scale * self.scale.mpp

    @property
    def decode(self) -> DecodeOptions:
        """The model's decode constants."""
        return DecodeOptions.from_json(self.model.card.decode)

    @property
    def tile_identity(self) -> dict[str, Any]:
        """All that decides what is in a tile."""
        return tile_identity(
            self.slide.info,
            self.model.card,
            self.numerics,
            self.options,
            self.scale.mpp,
            self.frame.scale,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what is in the results."""
        return run_identity(self.tile_identity, self.tissue_source, self.regions, self.options)

    @property
    def run_key(self) -> str:
        """Hash of the tile identity; stands in every tile file."""
        return canonical_hash(self.tile_identity)


def plan_run(
    slide: Slide,
    model: MapsModel,
    numerics: Numerics,
    options: PlanOptions,
    stamp: FileStamp | None = None,
) -> RunPlan:
    """Settle scale, area and tiles of a run.

    Tissue is found on the whole slide, with or without a region of interest, so that a
    region's run has the tiles of the whole slide's run.

    Raises
    ------
    MissingScale, ScaleRefused
        As `resolve_scale` and `upsampling_warning` say.
    UsageError
        If the regions cannot be used.
    """
    start = time.perf_counter()
    info, card = slide.info, model.card
    scale = resolve_scale(info.name, info.mpp_x, info.mpp_y, info.objective_power, options.scale)
    warning = upsampling_warning(info.name, scale.mpp, card.mpp, options.scale)
    warnings = [] if warning is None else [{"code": "up-sampled", "message": warning}]
    source = options.tissue_source
    tissue = _read_tissue(info, source)
    roi = _read_roi(info, options)
    for file in (tissue, roi):
        warnings += [{"code": "regions", "message": said} for said in file.warnings]
    frame = frame_at(info, scale.mpp, card.mpp)
    grid = TileGrid(frame, card.core_px, card.margin_px, options.grid_offset_px)
    seen = WhiteWhereDamaged(slide) if options.skip_bad_tiles else slide
    area = find_area(seen, frame, frame.scale * scale.mpp, source, tissue.regions)
    near, counted = None, area
    if roi.regions:
        # A nucleus inside may lose pixels to one outside, up to a tile's margin away.
        together = union_of(roi.regions)
        near = touched(together, area.frame, card.margin_px * frame.scale)
        counted = replace(area, inside=area.inside & covered(together, area.frame))
        analysed_mm2 = _tissue_in_mm2(area, together, info, scale.mpp)
    else:
        analysed_mm2 = area_mm2(area, frame, frame.scale * scale.mpp)
    looked_at = sample_quality(slide, frame, frame.scale * scale.mpp, counted)
    return RunPlan(
        slide=slide,
        model=model,
        numerics=numerics,
        options=options,
        scale=scale,
        grid=grid,
        area=area,
        counted=counted,
        tissue_source=tissue_source(source, tissue.regions),
        regions=roi.regions,
        analysed_mm2=analysed_mm2,
        region_mm2=tuple(
            _tissue_in_mm2(area, union_of([region]), info, scale.mpp) for region in roi.regions
        ),
        tiles=tuple(plan_tiles(grid, area, near)),
        warnings=tuple(warnings),
        first_look=tuple(slide_warnings(looked_at, card.appearance)),
        seconds=time.perf_counter() - start,
        stamp=stamp,
    )


def identity_unseen(
    info: SlideInfo, card: ModelCard, numerics: Numerics, options: PlanOptions
) -> dict[str, Any]:
    """Return the identity that the plan of a run would have, without a look at any pixel.

    Raises
    ------
    MissingScale, ScaleRefused, UsageError
        As `plan_run`.
    """
    scale = resolve_scale(info.name, info.mpp_x, info.mpp_y, info.objective_power, options.scale)
    upsampling_warning(info.name, scale.mpp, card.mpp, options.scale)
    source = options.tissue_source
    frame = frame_at(info, scale.mpp, card.mpp)
    return run_identity(
        tile_identity(info, card, numerics, options, scale.mpp, frame.scale),
        tissue_source(source, _read_tissue(info, source).regions),
        _read_roi(info, options).regions,
        options,
    )


_NO_REGIONS = RegionFile((), "slide", ())


def _read_tissue(info: SlideInfo, source: TissueOptions | Path | None) -> RegionFile:
    if not isinstance(source, Path):
        return _NO_REGIONS
    # `roi_origin` speaks of the regions, which may come from elsewhere than the tissue.
    return read_regions(source, info.name, (info.width_px, info.height_px), info.bounds)


def _read_roi(info: SlideInfo, options: PlanOptions) -> RegionFile:
    if options.roi is None:
        return _NO_REGIONS
    if not isinstance(options.roi, str | Path):
        return RegionFile(tuple(options.roi), "slide", ())
    size_px = (info.width_px, info.height_px)
    return read_regions(Path(options.roi), info.name, size_px, info.bounds, options.roi_origin)


def _tissue_in_mm2(
    area: AreaMask, shape: shapely.MultiPolygon, info: SlideInfo, slide_mpp: float
) -> float:
    """Return the exact area of tissue within a shape, clipped to the slide."""
    inside_px2 = area_px2(shape, area.inside, area.frame, (info.width_px, info.height_px))
    return inside_px2 * slide_mpp**2 / 1e6


_MASK_PX = 16
"""A mask has at least as many pixels each way, if the slide has."""


def find_area(
    slide: Slide,
    frame: Frame,
    model_mpp: float,
    tissue: TissueOptions | Path | None,
    given: Sequence[Region] = (),
) -> AreaMask:
    """Return the slide's tissue: found, given as regions, or all of the slide for None."""
    target = (tissue if isinstance(tissue, TissueOptions) else TissueOptions()).target_mpp
    # At the far edges a mask pixel is mixed with the white outside; in a tiny image that
    # would be most of them.
    finest = min(frame.width_px, frame.height_px) // _MASK_PX
    factor = max(1, min(round(target / model_mpp), finest))
    coarse = frame.coarser(factor)
    if tissue is None:
        inside = np.ones((coarse.height_px, coarse.width_px), np.bool_)
    elif isinstance(tissue, TissueOptions):
        inside = find_tissue(read_overview(slide, coarse), model_mpp * factor, tissue)
        if isinstance(slide, WhiteWhereDamaged):
            # What could not be looked at may be tissue: its tiles are tried, and listed.
            inside |= _damaged_in(slide, coarse)
    else:
        inside = covered(union_of(given), coarse)
        # The middles of the last pixels may lie beyond the slide, where no outline reaches.
        if coarse.width_px > 1 and (coarse.width_px - 0.5) * coarse.scale >= slide.info.width_px:
            inside[:, -1] = inside[:, -2]
        if coarse.height_px > 1 and (coarse.height_px - 0.5) * coarse.scale >= slide.info.height_px:
            inside[-1] = inside[-2]
    return AreaMask(coarse, factor, inside)


def _damaged_in(slide: WhiteWhereDamaged, frame: Frame) -> NDArray[np.bool_]:
    """Return where in a frame the slide was found to be damaged."""
    damaged = np.zeros((frame.height_px, frame.width_px), np.bool_)
    for level, box in slide.damaged:
        shrink = slide.info.levels[level].downsample / frame.scale
        top, left = int(box.y_px * shrink), int(box.x_px * shrink)
        bottom, right = math.ceil(box.y_end_px * shrink), math.ceil(box.x_end_px * shrink)
        damaged[max(0, top) : bottom, max(0, left) : right] = True
    return damaged


_OVERVIEW_PX = 64
"""Side of the blocks in which an overview is read."""


def read_overview(slide: Slide, frame: Frame) -> NDArray[np.uint8]:
    """Return the whole of a coarse frame, read block by block so that memory stays flat.

    Of a slide without coarse levels that is every pixel there is, so all cores read.
    """
    rgb = np.empty((frame.height_px, frame.width_px, 3), np.uint8)

    def read(block: Box) -> None:
        rgb[block.slices] = read_frame(slide, frame, block)

    with ThreadPoolExecutor(cores(), "wsiseg-overview") as readers:
        for _ in readers.map(read, frame.box.squares(_OVERVIEW_PX)):
            pass
    return rgb


def area_mm2(area: AreaMask, frame: Frame, model_mpp: float) -> float:
    """Return the area of a mask; pixels at the slide's edge count with their inner part."""
    rows = np.full(area.frame.height_px, area.factor, np.float64)
    cols = np.full(area.frame.width_px, area.factor, np.float64)
    rows[-1] -= area.factor * area.frame.height_px - frame.height_px
    cols[-1] -= area.factor * area.frame.width_px - frame.width_px
    model_px = math.fsum((area.inside @ cols) * rows)
    return model_px * model_mpp**2 / 1e6
