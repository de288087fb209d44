"""One slide's page: what it shows, gathered from the run alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from wsiseg.answers.detection import MULTIPLE
from wsiseg.answers.stats import region_stats
from wsiseg.crop_files import StoredCrops, read_crops
from wsiseg.errors import ResultNotReadable
from wsiseg.reports._citing import Citation, cite
from wsiseg.reports._classes import ClassRow, class_rows, colour_rules
from wsiseg.reports._distributions import Distribution, NoDistribution, distributions
from wsiseg.reports._made import Made, how_it_was_made
from wsiseg.reports._pictures import (
    DensityMap,
    ShownCrop,
    data_address,
    density_maps,
    grid_um,
    shown_crop,
    slide_picture,
)
from wsiseg.reports._rendering import render
from wsiseg.reports._shapes import Canvas, canvas_of, rings_of_file
from wsiseg.reports._tiles_shown import ShownTiles, shown_tiles
from wsiseg.results import Result
from wsiseg.rundir import unreadable_tiles

_KINDS = {
    "random": ("At random", "Anywhere in the analysed area: what is typical."),
    "densest": ("Densest", "Where most nuclei are: do neighbours come apart?"),
    "uncertain": (
        "Least certain",
        "Where the network gives its nuclei and classes the lowest probabilities: expect errors.",
    ),
    "seam": ("On seams", "Where tiles meet (dashed line): nuclei should cross it unharmed."),
}
_OLD = "This run was made by a version of wsiseg that did not keep"


@dataclass(frozen=True, slots=True)
class SlideMap:
    """The slide with tissue, regions and tiles."""

    canvas: Canvas
    picture: str
    """As a data address; empty if there is none."""
    has_lines: bool
    """Whether tissue and tiles are drawn into the picture."""
    tissue: str | None
    """Path of the outline; None if its file is missing or damaged."""
    regions: str | None
    bar: float
    bar_text: str


@dataclass(frozen=True, slots=True)
class CropGroup:
    """Crops of one kind."""

    title: str
    meaning: str
    crops: tuple[ShownCrop, ...]


@dataclass(frozen=True, slots=True)
class RegionRow:
    """A region of interest and its counts."""

    name: str
    class_name: str
    missing: bool
    analysed_mm2: float
    n: int | None
    per_mm2: float | None
    reason: str
    by_class: tuple[float | None, ...]
    """Density of each class, in the model's order."""


@dataclass(frozen=True, slots=True)
class SlideView:
    """All that a slide's page shows."""

    name: str
    result: Result
    slide_name: str
    """The slide's own, where the run is called otherwise; else empty."""
    finished: str
    """Date; empty if it is not known."""
    unreadable: tuple[str, ...]
    """Tiles that were left out, and why."""
    summary: dict[str, Any]
    classes: tuple[ClassRow, ...]
    all_nuclei: ClassRow
    false_multiple: float
    """A density below so many times the false positives is marked."""
    map: SlideMap
    grid_um: int
    maps: tuple[DensityMap, ...]
    crop_groups: tuple[CropGroup, ...]
    no_crops: str
    """Why there are no crops; empty if there are."""
    distributions: tuple[Distribution, ...]
    missing: tuple[tuple[str, tuple[str, ...]], ...]
    """Why measurements are not shown, and which."""
    tiles: ShownTiles | None
    regions: tuple[RegionRow, ...]
    made: Made
    citation: Citation
    colours: str
    home: str
    """Relative address of the cohort's page; empty without one."""


def slide_page(result: Result, name: str, home: str = "") -> str:
    """Return a slide's page.

    Parameters
    ----------
    result : Result
        The finished run.
    name : str
        What the slide is called among others.
    home : str
        Relative address of the page of all slides; empty without one.
    """
    return render("slide.html", view=slide_view(result, name, home))


def slide_view(result: Result, name: str, home: str = "") -> SlideView:
    """Gather what a slide's page shows."""
    summary = result.summary()
    canvas = canvas_of(result)
    stored, no_crops = _stored_crops(result)
    tissue_px = rings_of_file(result.path / "tissue.geojson", canvas.per_px)
    spread = list(distributions(result))
    side_um = grid_um(result)
    *classes, all_nuclei = class_rows(result, summary)
    return SlideView(
        name=name,
        result=result,
        slide_name="" if PurePath(result.name).name == PurePath(name).name else result.name,
        finished=str(result.run.get("finished_utc") or "")[:10],
        unreadable=tuple(
            f"row {tile['row']}, column {tile['col']}: {tile['reason']}"
            for tile in unreadable_tiles(result.run)
        ),
        summary=summary,
        classes=tuple(classes),
        all_nuclei=all_nuclei,
        false_multiple=MULTIPLE,
        map=_slide_map(result, canvas, stored, tissue_px),
        grid_um=side_um,
        maps=tuple(density_maps(result, canvas, side_um, tissue_px or [])),
        crop_groups=_crop_groups(result, stored),
        no_crops=no_crops,
        distributions=tuple(one for one in spread if isinstance(one, Distribution)),
        missing=_missing(spread),
        tiles=shown_tiles(result.path, canvas),
        regions=tuple(_region_rows(result)),
        made=how_it_was_made(result),
        citation=cite(result),
        colours=colour_rules(result),
        home=home,
    )


def _missing(
    spread: Sequence[Distribution | NoDistribution],
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the titles of what cannot be shown, by the reason."""
    titles: dict[str, list[str]] = {}
    for one in spread:
        if isinstance(one, NoDistribution):
            titles.setdefault(one.reason, []).append(one.title)
    return tuple((reason, tuple(found)) for reason, found in titles.items())


def _stored_crops(result: Result) -> tuple[StoredCrops | None, str]:
    """Return the stored crops, or why there are none."""
    try:
        stored = read_crops(result.path)
    except ResultNotReadable as error:
        return None, f"The stored crops cannot be shown: {error}."
    if stored is None:
        return None, f"{_OLD} crops. Its overlay.png shows some; a new run keeps them."
    if not stored.crops:
        return stored, "Nothing was analysed, so there is nothing to show."
    return stored, ""


def _slide_map(
    result: Result, canvas: Canvas, stored: StoredCrops | None, tissue_px: Any
) -> SlideMap:
    found = slide_picture(result, stored)
    regions_px = rings_of_file(result.path / "regions.geojson", canvas.per_px)
    has_regions = bool(result.regions) and regions_px is not None
    bar, bar_text = canvas.scale_bar
    return SlideMap(
        canvas=canvas,
        picture=data_address(found[0], "jpeg") if found else "",
        has_lines=bool(found and found[1]),
        tissue=None if tissue_px is None else canvas.path(tissue_px),
        regions=canvas.path(regions_px or []) if has_regions else None,
        bar=bar,
        bar_text=bar_text,
    )


def _crop_groups(result: Result, stored: StoredCrops | None) -> tuple[CropGroup, ...]:
    crops = stored.crops if stored else ()
    groups = []
    for kind, (title, meaning) in _KINDS.items():
        shown = tuple(shown_crop(result, crop) for crop in crops if crop.kind == kind)
        if shown:
            groups.append(CropGroup(title, meaning, shown))
    return tuple(groups)


def _region_rows(result: Result) -> list[RegionRow]:
    """Return the regions in the order of their file."""
    if not result.regions:
        return []
    table = region_stats([result]).to_pylist()
    n_classes = len(result.class_names)
    rows = []
    for i, region in enumerate(result.regions):
        *by_class, total = table[i * (n_classes + 1) : (i + 1) * (n_classes + 1)]
        rows.append(
            RegionRow(
                name=str(region["name"]),
                class_name=str(region["class"] or ""),
                missing=bool(region["missing"]),
                analysed_mm2=total["analysed_mm2"],
                n=total["n"],
                per_mm2=total["per_mm2"],
                reason=total["no_density_reason"] or "",
                by_class=tuple(row["per_mm2"] for row in by_class),
            )
        )
    return rows
