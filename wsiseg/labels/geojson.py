"""Images or slides with GeoJSON from QuPath: a corrected slide becomes training data.

* Detections, cells (their nucleus, where they have one) and annotations are nuclei, in the class
  they have in QuPath; without one they are nuclei of unknown class.
* An annotation of the class `Training region`, `Training` or `Region*`, or without a class and
  named so or `review 01` (as the squares of `wsiseg review`), is a region in which every nucleus
  was annotated.  Where there is one, everything outside is ignored, and each becomes an image.
  Without any the whole image counts as annotated; a whole slide needs regions.
* Any other class whose name ends in `*`, as `Ignore*`, marks what is to be ignored: QuPath's
  own convention.
* An annotation larger than 2,000 µm² is no nucleus and is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable, UsageError
from wsiseg.labels.aperio import refuse_elsewhere
from wsiseg.labels.areas import AnnotatedSlide, OutlinedNucleus, Rings, image_of_area, reach_of
from wsiseg.labels.files import (
    IMAGE_SUFFIXES,
    files_below,
    named,
    needed_mpp,
    open_picture,
    stated_mpp,
)
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.options import LARGEST_NUCLEUS_UM2, SetDescription
from wsiseg.listing import RUN_SUFFIX
from wsiseg.regions import Drawn, parse_objects, read_packed
from wsiseg.slides.protocol import SlideInfo

_REGION_CLASSES = frozenset({"region", "training", "training region"})
_REGION_NAME = re.compile(r"(review|region|training|training region)( ?\d+)?", re.IGNORECASE)
LARGEST_WHOLE_PX = 1 << 25
"""A larger image needs regions."""
_LABEL_SUFFIXES = (".geojson", ".geojson.gz")


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """The objects of a file by what they mean."""

    regions: list[list[Rings]]
    ignored: list[list[Rings]]
    nuclei: list[OutlinedNucleus]
    n_large: int


def is_geojson(path: Path) -> bool:
    """Return whether a path is a GeoJSON file, or a folder that holds one and is no run."""
    if path.is_dir():
        return path.suffix != RUN_SUFFIX and bool(_label_files(path))
    return path.name.lower().endswith(_LABEL_SUFFIXES)


def _label_files(folder: Path) -> list[Path]:
    found = files_below(folder, {".geojson", ".gz"})
    return [path for path in found if path.name.lower().endswith(_LABEL_SUFFIXES)]


def read_geojson(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the annotated images, or regions of slides, by name.

    Raises
    ------
    UsageError
        If a file is missing or damaged, a slide has no region, or nuclei cover each other and
        that is refused.
    """
    path = described.path
    if path.is_dir():
        pairs = _pairs(files_below(path, IMAGE_SUFFIXES), _label_files(path), path)
    elif described.slide is not None:
        pairs = [(described.slide, path)]
    else:
        beside = files_below(path.parent, IMAGE_SUFFIXES, 0)
        fitting = [image for image in beside if _fits(image, path)]
        pairs = _pairs(fitting, [path], path.parent)
    for image, labels in pairs:
        yield from _images_of(image, labels, described)


def _stem(labels: Path) -> str:
    """Return the name of a label file without what our scripts for QuPath add to a slide's."""
    added = r"(\.(training|corrected|review))?\.geojson(\.gz)?$"
    return re.sub(added, "", labels.name, flags=re.IGNORECASE)


def _fits(image: Path, labels: Path) -> bool:
    return _stem(labels) in (image.name, image.stem)


def _pairs(images: list[Path], labels: list[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Return each image with its label file: `a.svs` with `a.geojson` or `a.svs.geojson`."""
    pairs = [(image, file) for image in images for file in labels if _fits(image, file)]
    for position, paths, has in ((0, images, "GeoJSON of its name"), (1, labels, "image")):
        counts = Counter(pair[position] for pair in pairs)
        alone = [path.name for path in paths if not counts[path]]
        if alone:
            raise LabelsNotReadable(
                f"{folder}: {named(alone)} has no {has}; a.svs and a.geojson (or a.svs.geojson) "
                "belong together: add what is missing, or take the others out"
            )
        twice = [path.name for path in paths if counts[path] > 1]
        if twice:
            raise LabelsNotReadable(
                f"{folder}: {named(twice)} fits several files; one GeoJSON for each image is needed"
            )
    return pairs


def _images_of(image: Path, labels: Path, described: SetDescription) -> Iterator[FoundImage]:
    with open_picture(image) as slide:
        info = slide.info
        mpp = needed_mpp(stated_mpp(info, described.mpp), image)
        content = read_packed(labels, str(labels))
        drawn, origin_px, warnings = parse_objects(content, str(labels), info.bounds, "nucleus")
        parts = _sorted(drawn, np.array(origin_px), mpp)
        notes = [f"{labels.name}: {warning}" for warning in warnings]
        if parts.n_large:
            notes.append(
                f"{labels.name}: {parts.n_large} annotations larger than "
                f"{LARGEST_NUCLEUS_UM2:,.0f} µm² are no nuclei and were passed over; give those "
                "in which every nucleus is annotated the class Training region"
            )
        _refuse_unusable(parts, image, labels, info)
        on_slide = AnnotatedSlide(
            slide,
            mpp,
            str(labels),
            parts.nuclei,
            parts.ignored,
            described.overlaps,
            reach_of(parts.nuclei),
        )
        if not parts.regions:
            whole = image_of_area(on_slide, image.stem, None)
            yield replace(whole, notes=tuple(notes))
        for number, region in enumerate(parts.regions, start=1):
            found = image_of_area(on_slide, f"{image.stem}_region{number}", region)
            yield replace(found, source=image.stem, notes=tuple(notes) if number == 1 else ())


def _sorted(drawn: Sequence[Drawn], origin_px: NDArray[np.float64], mpp: float) -> _Sorted:
    parts = _Sorted([], [], [], 0)
    n_large = 0
    for one in drawn:
        polygons = [[ring + origin_px for ring in rings] for rings in one.polygons]
        if _is_region(one):
            parts.regions.append(polygons)
        elif one.class_name is not None and one.class_name.endswith("*"):
            parts.ignored.append(polygons)
        elif not one.is_detection and _area_px2(polygons) * mpp**2 > LARGEST_NUCLEUS_UM2:
            n_large += 1
        else:
            parts.nuclei.append(OutlinedNucleus(one.title, one.class_name, polygons))
    return replace(parts, n_large=n_large)


def _is_region(one: Drawn) -> bool:
    if one.is_detection:
        return False
    if one.class_name is None:
        return _REGION_NAME.fullmatch(one.name or "") is not None
    return one.class_name.rstrip("* ").casefold() in _REGION_CLASSES


def _area_px2(polygons: Sequence[Rings]) -> float:
    total = 0.0
    for rings in polygons:
        x, y = rings[0].T
        total += abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
    return total


def _refuse_unusable(parts: _Sorted, image: Path, labels: Path, info: SlideInfo) -> None:
    size_px = info.width_px, info.height_px
    if not parts.regions and info.width_px * info.height_px > LARGEST_WHOLE_PX:
        raise UsageError(
            f"{labels}: has no region, and {image} has {size_px[0]:,} × {size_px[1]:,} px, in "
            "which nuclei that nobody drew would count as background; draw annotations of the "
            "class Training region around places where every nucleus is annotated"
        )
    if not parts.regions and not parts.nuclei:
        raise UsageError(
            f"{labels}: holds no nucleus and no region; outlines of nuclei, or a region of the "
            "class Training region that has none, are needed"
        )
    reach_px = reach_of(parts.nuclei)
    is_inside = (reach_px[:, :2] < size_px) & (reach_px[:, 2:] > 0)
    inside = int(np.count_nonzero(is_inside.all(axis=1)))
    refuse_elsewhere(len(parts.nuclei), inside, labels, image, size_px)


GEOJSON = LabelFormat(
    "geojson",
    "images or slides with GeoJSON from QuPath",
    "images (or slides) and .geojson files of the same names",
    is_geojson,
    read_geojson,
    names_classes=True,
)
