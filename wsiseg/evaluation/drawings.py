"""Images with what was annotated and what was found, as outlines over a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsiseg.evaluation.boundaries import label_boxes
from wsiseg.evaluation.metrics import match_instances
from wsiseg.evaluation.records import InstanceImage, ScoredPair
from wsiseg.evaluation.tallies import scored_part
from wsiseg.outlines import trace_mask

_MOST_PX = 1200
"""Along a picture's longer side."""
_SMOOTH_PX = 0.4
_JPEG = 80


@dataclass(frozen=True, slots=True)
class Layer:
    """Outlines of one kind."""

    kind: str
    """`truth` and `found` of matches, `missed`, `extra`."""
    n: int
    """Nuclei."""
    path: str
    """The `d` of an SVG path, in the image's pixels."""


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image with its outlines."""

    name: str
    jpeg: bytes
    width_px: int
    height_px: int
    layers: tuple[Layer, ...]


def draw_pair(pair: ScoredPair, rgb: NDArray[np.uint8]) -> DrawnImage:
    """Draw what matches (IoU > 0.5), what was missed and what was found without a match.

    Parameters
    ----------
    pair : ScoredPair
        The image as both sides have it; what is ignored is not drawn.
    rgb : ndarray, (h, w, 3), uint8
        Its picture.
    """
    truth, found, _ = scored_part(pair.truth, pair.found)
    matches = match_instances(truth.labels, found.labels)
    ours, theirs = matches.reference_label, matches.predicted_label
    missed = np.setdiff1d(np.arange(1, truth.n + 1), ours)
    extra = np.setdiff1d(np.arange(1, found.n + 1), theirs)
    height, width = truth.labels.shape
    layers = (
        _layer("truth", truth, ours),
        _layer("found", found, theirs),
        _layer("missed", truth, missed),
        _layer("extra", found, extra),
    )
    return DrawnImage(pair.name, _jpeg(rgb), width, height, layers)


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(rgb)
    image.thumbnail((_MOST_PX, _MOST_PX), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_JPEG)
    return content.getvalue()


def _layer(kind: str, image: InstanceImage, labels: Sequence[int] | NDArray[np.int64]) -> Layer:
    boxes = label_boxes(image.labels)
    path = "".join(
        text for label in labels for text in _outline(image.labels, int(label), boxes[label - 1])
    )
    return Layer(kind, len(labels), path)


def _outline(labels: NDArray[np.int32], label: int, box: NDArray[np.int64]) -> Iterator[str]:
    top, left, bottom, right = (int(v) for v in box)
    outlines = trace_mask(labels[top : bottom + 1, left : right + 1] == label)
    for ring in np.split(outlines.vertices_half_px, outlines.first_vertex[1:-1]):
        points = ring / 2 + (left, top)
        simple = shapely.simplify(shapely.LinearRing(points), _SMOOTH_PX)
        corners = np.asarray(simple.coords)[:-1].tolist()
        yield "M" + " ".join(f"{x:g},{y:g}" for x, y in corners) + "z"
