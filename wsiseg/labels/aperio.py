"""Outlines drawn in Aperio ImageScope (`.xml`) beside images, as in MoNuSeg and MoNuSAC.

A file holds `Annotations/Annotation/Regions/Region/Vertices/Vertex` with `X` and `Y` in pixels.
Regions of two points or fewer, rulers, arrows and deleted (negative) regions are no nuclei.  An
annotation's class is the name of its attribute, as in MoNuSAC; MoNuSeg has none.

Kumar et al. 2017, doi:10.1109/TMI.2017.2677499; Verma et al. 2021, doi:10.1109/TMI.2021.3085712.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelsNotReadable
from wsiseg.labels.files import (
    by_stem,
    files_below,
    images_below,
    read_rgb,
    refuse_unpaired,
    stated_mpp,
)
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.options import SetDescription
from wsiseg.labels.outlined import lay_down, patch_of
from wsiseg.scale import PLAUSIBLE_MPP

_HEAD_BYTES = 4096
_FREEHAND_RECTANGLE_POLYGON = frozenset({"", "0", "1", "4"})
_NO_CLASS = frozenset({"", "description"})


@dataclass(frozen=True, slots=True, eq=False)
class _Outline:
    title: str
    class_key: str | None
    xy_px: NDArray[np.float64]


def is_aperio(path: Path) -> bool:
    """Return whether a folder holds annotations of ImageScope."""
    return path.is_dir() and any(map(_is_annotations, files_below(path, {".xml"})))


def _is_annotations(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<Annotations" in file.read(_HEAD_BYTES)


def read_aperio(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the images of a folder with their outlines filled, by name.

    Raises
    ------
    LabelsNotReadable
        If something is missing or damaged, or nuclei cover each other and that is refused.
    """
    folder = described.path
    labels = by_stem(files_below(folder, {".xml"}), "annotation files")
    images = images_below(folder)
    refuse_unpaired(images, labels, folder, "annotations (.xml)")
    for name in sorted(images):
        yield _read_image(name, images[name], labels[name], described)


def _read_image(name: str, image: Path, labels: Path, described: SetDescription) -> FoundImage:
    rgb, info = read_rgb(image)
    height_px, width_px = rgb.shape[:2]
    counts: Counter[str] = Counter()
    outlines, xml_mpp = _outlines(labels, counts)
    patches, keys = [], []
    for one in outlines:
        patch = patch_of([[one.xy_px]], one.title, width_px, height_px)
        if patch is not None:
            patches.append(patch)
            keys.append(one.class_key)
    refuse_elsewhere(len(outlines), len(patches), labels, image, (width_px, height_px))
    if len(outlines) > len(patches):
        counts["outlines without the centre of a pixel: left out"] += len(outlines) - len(patches)
    laid = lay_down(patches, width_px, height_px, str(labels), described.overlaps)
    return FoundImage(
        name,
        rgb,
        laid.instances,
        tuple(keys[k] for k in laid.kept),
        str(labels),
        stated_mpp(info, described.mpp, xml_mpp),
        counts=counts + laid.counts,
    )


def refuse_elsewhere(
    n_outlines: int, n_inside: int, labels: Path, image: Path, size_px: tuple[int, int]
) -> None:
    """Refuse a file of which more than half of the outlines lie outside the image.

    Raises
    ------
    LabelsNotReadable
        If that is so.
    """
    if n_inside < n_outlines / 2:
        raise LabelsNotReadable(
            f"{labels}: {n_outlines - n_inside} of {n_outlines} outlines have no pixel in {image} "
            f"({size_px[0]} × {size_px[1]} px); outlines in the pixels of this image are needed: "
            "it may be the file of another image, or in another unit"
        )


def _outlines(path: Path, counts: Counter[str]) -> tuple[list[_Outline], float | None]:
    """Return the outlines of a file, and µm per pixel if it says that."""
    try:
        # Entities are not resolved from outside, and expat limits how far they expand.
        root = ET.parse(path).getroot()  # noqa: S314
    except (ET.ParseError, OSError, ValueError) as error:
        raise LabelsNotReadable(
            f"{path}: is no XML that can be read ({error}); annotations of ImageScope are needed"
        ) from error
    if root.tag != "Annotations":
        raise LabelsNotReadable(
            f"{path}: begins with <{root.tag}>; <Annotations> of ImageScope is needed"
        )
    found = []
    for number, annotation in enumerate(root.iter("Annotation"), start=1):
        key = _class_key(annotation)
        for position, region in enumerate(annotation.iter("Region"), start=1):
            title = f"region {region.get('Id') or position} of annotation {number}"
            xy_px = _vertices(region, f"{path}: {title}")
            if region.get("NegativeROA", "0") == "1":
                counts["negative regions: left out"] += 1
            elif region.get("Type", "") not in _FREEHAND_RECTANGLE_POLYGON or len(xy_px) < 3:
                counts["regions without an area (fewer than three points): left out"] += 1
            else:
                found.append(_Outline(title, key, xy_px))
    return found, _mpp(root.get("MicronsPerPixel"))


def _class_key(annotation: ET.Element) -> str | None:
    names = [attribute.get("Name", "") for attribute in annotation.iter("Attribute")]
    useful = [name.strip() for name in names if name.strip().lower() not in _NO_CLASS]
    return useful[0] if useful else None


def _vertices(region: ET.Element, title: str) -> NDArray[np.float64]:
    """Return the (x, y) of a region's points."""
    try:
        points = [(float(v.get("X", "")), float(v.get("Y", ""))) for v in region.iter("Vertex")]
    except ValueError as error:
        raise LabelsNotReadable(
            f"{title}: a vertex has no number as X and Y; correct it or take the region out"
        ) from error
    xy_px = np.array(points, np.float64).reshape(-1, 2)
    if not np.isfinite(xy_px).all():
        raise LabelsNotReadable(
            f"{title}: a vertex is not finite; correct it or take the region out"
        )
    return xy_px


def _mpp(text: str | None) -> float | None:
    try:
        mpp = float(text or "")
    except ValueError:
        return None
    # ImageScope writes 0 where it does not know.
    return mpp if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] else None


APERIO = LabelFormat(
    "monuseg",
    "annotations of Aperio ImageScope (MoNuSeg, MoNuSAC)",
    "images and .xml files of the same names",
    is_aperio,
    read_aperio,
    class_of={
        "Epithelial": "Epithelial",
        "Lymphocyte": "Inflammatory",
        "Macrophage": "Inflammatory",
        "Neutrophil": "Inflammatory",
        "Ambiguous": "-",
    },
)
