"""The page of many slides: what failed first, then every slide in a table, zeros included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from wsiseg.crop_files import read_crops
from wsiseg.errors import ResultNotReadable
from wsiseg.reports._pictures import slide_picture, tiny
from wsiseg.reports._rendering import render
from wsiseg.results import Result


@dataclass(frozen=True, slots=True)
class Problem:
    """A slide without a result, and why."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide's numbers, small enough to hold for thousands."""

    name: str
    href: str
    """Relative address of its page."""
    thumbnail: str
    """As a data address; empty if there is none."""
    model: str
    sha256: str
    fingerprint: str
    """Of the slide's file; empty if the run does not say."""
    n_cells: int
    analysed_mm2: float
    no_density_reason: str
    per_mm2: float | None
    median_area_um2: float | None
    class_colours: dict[str, tuple[int, int, int]]
    by_class: dict[str, float | None]
    """Density of each class its model has."""
    warnings: tuple[str, ...]
    """Messages."""
    warning_codes: tuple[str, ...]
    n_tiles: int
    n_flagged: int | None
    """Tiles with a flag; None if `tiles.parquet` does not say."""


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """The slides of one model: those of two are never summed."""

    model: str
    sha256: str
    n_slides: int
    n_cells: int
    analysed_mm2: float
    per_mm2: float | None
    repeated: tuple[tuple[str, ...], ...]
    """Names of runs of one slide, for each slide that is there more than once."""


@dataclass(frozen=True, slots=True)
class DensityStrip:
    """Densities of one class over the slides."""

    name: str
    css: str
    dots: tuple[float, ...]
    """Where each slide is on the axis, 0 to 1."""
    high: float
    """End of the axis; it begins at 0."""
    n: int
    n_zero: int
    low_value: float
    median: float
    median_at: float
    high_value: float


@dataclass(frozen=True, slots=True)
class CohortView:
    """All that the page of many slides shows."""

    problems: tuple[Problem, ...]
    n_not_begun: int
    version: str
    slides: tuple[CohortSlide, ...]
    models: tuple[ModelGroup, ...]
    classes: tuple[tuple[str, str], ...]
    """Name and CSS class of each class any model has."""
    warning_counts: tuple[tuple[str, int], ...]
    strips: tuple[DensityStrip, ...]
    colours: str


def cohort_slide(result: Result, name: str, href: str) -> CohortSlide:
    """Gather what the page of many slides shows of one."""
    summary = result.summary()
    total = summary["total"]
    tiles = result.run.get("tiles") or {}
    return CohortSlide(
        name=name,
        href=href,
        thumbnail=_thumbnail(result),
        model=result.model_name,
        sha256=str(result.run["model"].get("sha256", "")),
        fingerprint=str(result.run["slide"].get("fingerprint") or ""),
        n_cells=total["n"],
        analysed_mm2=result.analysed_mm2,
        no_density_reason=result.no_density_reason or "",
        per_mm2=total["per_mm2"],
        median_area_um2=total["median_area_um2"],
        class_colours=result.class_colours,
        by_class={name: numbers["per_mm2"] for name, numbers in summary["classes"].items()},
        warnings=tuple(str(warning["message"]) for warning in result.warnings),
        warning_codes=tuple(str(warning["code"]) for warning in result.warnings),
        n_tiles=int(tiles.get("run", 0)),
        n_flagged=_n_flagged(result.path),
    )


def cohort_page(
    slides: Sequence[CohortSlide],
    problems: Sequence[Problem],
    n_not_begun: int = 0,
    version: str = "",
) -> str:
    """Return the page of many slides.

    Parameters
    ----------
    slides : sequence of CohortSlide
        Finished ones.
    problems : sequence of Problem
        Those without a result.
    n_not_begun : int
        Slides of the batch's list nobody has begun.
    version : str
        Version of the classes; empty for the models' own.
    """
    colours: dict[str, tuple[int, int, int]] = {}
    for slide in slides:
        for name, rgb in slide.class_colours.items():
            colours.setdefault(name, rgb)
    classes = tuple((name, f"k{i}") for i, name in enumerate(colours))
    counts = Counter(code for slide in slides for code in set(slide.warning_codes))
    view = CohortView(
        problems=tuple(problems),
        n_not_begun=n_not_begun,
        version=version,
        slides=tuple(slides),
        models=tuple(_model_groups(slides)),
        classes=classes,
        warning_counts=tuple(sorted(counts.items(), key=lambda one: (-one[1], one[0]))),
        strips=tuple(_strips(slides, classes)),
        colours="".join(
            f".k{i}{{--k:#{r:02x}{g:02x}{b:02x}}}\n" for i, (r, g, b) in enumerate(colours.values())
        ),
    )
    return render("cohort.html", view=view)


def _thumbnail(result: Result) -> str:
    try:
        picture = slide_picture(result, read_crops(result.path))
    except ResultNotReadable:
        picture = slide_picture(result, None)
    return tiny(picture[0]) if picture else ""


def _n_flagged(run: Path) -> int | None:
    try:
        flags = pq.read_table(run / "tiles.parquet", columns=["flags"])["flags"].to_pylist()
    except (OSError, ValueError, KeyError):
        return None
    return sum(map(bool, flags))


def _model_groups(slides: Sequence[CohortSlide]) -> Iterator[ModelGroup]:
    for model, sha256 in sorted({(slide.model, slide.sha256) for slide in slides}):
        mine = [slide for slide in slides if (slide.model, slide.sha256) == (model, sha256)]
        counted = [slide for slide in mine if slide.analysed_mm2 > 0]
        n, area = sum(s.n_cells for s in counted), sum(s.analysed_mm2 for s in counted)
        yield ModelGroup(
            model=model,
            sha256=sha256,
            n_slides=len(mine),
            n_cells=sum(slide.n_cells for slide in mine),
            analysed_mm2=area,
            per_mm2=n / area if area else None,
            repeated=tuple(_repeated(mine)),
        )


def _repeated(slides: Sequence[CohortSlide]) -> Iterator[tuple[str, ...]]:
    """Yield the names of those with one fingerprint: copies, or one slide in several regions."""
    names: dict[str, list[str]] = {}
    for slide in slides:
        if slide.fingerprint:
            names.setdefault(slide.fingerprint, []).append(slide.name)
    yield from (tuple(found) for found in names.values() if len(found) > 1)


def _strips(
    slides: Sequence[CohortSlide], classes: Sequence[tuple[str, str]]
) -> Iterator[DensityStrip]:
    """Yield a strip for all nuclei, then for each class; zeros count, classes a model lacks not."""
    found = [("all nuclei", "k-all", [slide.per_mm2 for slide in slides])]
    found += [(name, css, [s.by_class.get(name) for s in slides]) for name, css in classes]
    for name, css, densities in found:
        values = np.array([value for value in densities if value is not None], np.float64)
        if len(values) == 0:
            continue
        high = float(values.max()) or 1.0
        yield DensityStrip(
            name=name,
            css=css,
            dots=tuple((values / high).tolist()),
            high=high,
            n=len(values),
            n_zero=int(np.sum(values == 0)),
            low_value=float(values.min()),
            median=float(np.median(values)),
            median_at=float(np.median(values)) / high,
            high_value=float(values.max()),
        )
