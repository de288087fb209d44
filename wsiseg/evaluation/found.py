"""The nuclei that runs hold, or that a model finds on annotated images, as label images."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.evaluation.records import InstanceImage
from wsiseg.labels.outlined import fill_rings
from wsiseg.labels.records import LabelledImage
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.results import Result

_MOST_NAMED = 100
"""Characters of a name that go into a file's."""
Segment = Callable[[Path, Path, float], Result]
"""From an image file, a folder for the run, and µm per pixel, to the finished run."""


def paint_result(
    result: Result, class_names: Sequence[str], size: tuple[int, int]
) -> InstanceImage:
    """Paint the nuclei of a finished run at its slide's full resolution.

    What the cell table holds is painted: outlines drawn at the model's µm per pixel give at other
    ones the pixels whose centres lie inside.

    Parameters
    ----------
    result : Result
        The run.
    class_names : sequence of str
        The list that class indices point into; all of the run's classes are in it.
    size : (int, int)
        Height and width that are needed.

    Raises
    ------
    ResultNotReadable
        If the run is damaged or unfinished.
    UsageError
        If the slide is of another size.
    """
    try:
        width, height = (int(result.run["slide"][name]) for name in ("width_px", "height_px"))
    except (KeyError, TypeError, ValueError) as error:
        raise ResultNotReadable(
            f"{result.path.name} does not say how large its slide is; segment the slide again"
        ) from error
    if (height, width) != tuple(size):
        raise UsageError(
            f"{result.name}: the truth has {size[1]} × {size[0]} px, its run {width} × {height}; "
            "both must be of the same picture: segment the annotated images themselves"
        )
    index = {name: k for k, name in enumerate(class_names)}
    labels = np.zeros((height, width), np.int32)
    classes: list[int] = []
    for batch in result.batches(["geometry", "class_name"]):
        polygons = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False))
        names = batch["class_name"].to_pylist()
        for polygon, name in zip(polygons, names, strict=True):
            if paint_outline(labels, polygon, len(classes) + 1):
                classes.append(UNKNOWN_CLASS if name is None else index[name])
    return InstanceImage(labels, np.array(classes, np.uint8), result.mpp)


def paint_outline(labels: NDArray[np.int32], polygon: shapely.Geometry, label: int) -> bool:
    """Paint an outline where nothing is painted yet; say whether there was any pixel.

    Parameters
    ----------
    labels : ndarray, (h, w), int32
        Changed in place.
    polygon : shapely Polygon or MultiPolygon
        In pixels, (0, 0) the image's corner.
    label : int
        Of its pixels: those whose middle is inside.
    """
    height, width = labels.shape
    painted = False
    for part in shapely.get_parts(polygon):
        rings = [
            np.asarray(ring.coords, np.float64)[:-1, :2]
            for ring in (part.exterior, *part.interiors)
        ]
        box, inside = fill_rings(rings, width, height)
        there = labels[box.y_px : box.y_end_px, box.x_px : box.x_end_px]
        inside &= there == 0
        there[inside] = label
        painted |= bool(inside.any())
    return painted


def segment_labelled(
    image: LabelledImage, segment: Segment, class_names: Sequence[str]
) -> InstanceImage:
    """Run the whole pipeline on an annotated image's picture, in a temporary folder.

    Parameters
    ----------
    image : LabelledImage
        Its labels are not looked at.
    segment : callable
        Segments an image file.
    class_names : sequence of str
        The list that class indices point into; all of the model's classes are in it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        # Errors and warnings name the file.
        name = re.sub(r"[^\w.-]", "_", image.name)[:_MOST_NAMED]
        path = Path(temporary, f"{name}.png")
        Image.fromarray(image.rgb).save(path)
        result = segment(path, Path(temporary), image.mpp)
        return paint_result(result, class_names, image.rgb.shape[:2])
