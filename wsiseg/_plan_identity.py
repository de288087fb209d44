"""What a run is recognised by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.features import tile_groups
from wsiseg.models import ModelCard, Numerics
from wsiseg.regions import Region, region_fingerprint
from wsiseg.rundir import RESULT_VERSION
from wsiseg.slides import SlideInfo
from wsiseg.tissue import TissueOptions

if TYPE_CHECKING:
    from wsiseg.plan import PlanOptions


def tile_identity(
    info: SlideInfo,
    card: ModelCard,
    numerics: Numerics,
    options: PlanOptions,
    mpp: float,
    scale: float,
) -> dict[str, Any]:
    """Return all that decides what is in a tile.

    Parameters
    ----------
    info, card, numerics, options
        Slide, model, how it is computed, what the user says.
    mpp : float
        The slide's µm per level-0 pixel.
    scale : float
        Level-0 pixels per model pixel.
    """
    return {
        "slide": info.fingerprint,
        "reader": info.reader,
        "model": card.name,
        "model_sha256": card.sha256,
        "mpp": mpp,
        "scale": scale,
        "grid_offset_px": options.grid_offset_px,
        "spare_px": options.stitch.spare_px,
        "measured_in_tiles": list(tile_groups(options.measure)),
        "numerics": numerics.to_json(),
        "result_version": RESULT_VERSION,
    }


def run_identity(
    of_tiles: dict[str, Any],
    tissue_source: dict[str, Any] | str,
    regions: Sequence[Region],
    options: PlanOptions,
) -> dict[str, Any]:
    """Return all that decides what is in the results."""
    return of_tiles | {
        "tissue": tissue_source,
        "measure": list(options.measure),
        "roi": region_fingerprint(regions) if regions else "none",
        "stitch": {"min_area_px": options.stitch.min_area_px},
    }


def tissue_source(
    tissue: TissueOptions | Path | None, regions: Sequence[Region]
) -> dict[str, Any] | str:
    """Return what the tissue comes from: constants, the content of a file, or `none`."""
    if tissue is None:
        return "none"
    if isinstance(tissue, TissueOptions):
        return tissue.to_json()
    return {"file": region_fingerprint(regions)}
