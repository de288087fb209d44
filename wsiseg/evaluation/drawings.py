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
from wsiseg.geometry import Box
from wsiseg.outlines import trace_mask

_WHOLE_PX = 1200
"""Images up to this long are drawn whole."""
_PART_PX = 1000
"""Side of the square that is drawn of larger ones."""
_SMOOTH_PX = 0.4
_JPEG = 80


@dataclass(frozen=True, slots=True)
class Layer:
    """Outlines of one kind."""

    kind: str
    """`truth` and `found` of matches, `missed`, `extra`."""
    n: int
    """Nuclei in the whole image."""
    path: str
    """The `d` of an SVG path, in the image's pixels: of those in what is drawn."""


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image with its outlines."""

    name: str
    jpeg: bytes
    x_px: int
    y_px: int
    width_px: int
    height_px: int
    """Of what is drawn, in the image."""
    is_part: bool
    """Whether the image is larger than that."""
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
    box = _drawn_part(truth.labels.shape, [truth.labels, found.labels])
    layers = (
        _layer("truth", truth, ours, box),
        _layer("found", found, theirs, box),
        _layer("missed", truth, missed, box),
        _layer("extra", found, extra, box),
    )
    is_part = (box.height_px, box.width_px) != truth.labels.shape
    part = rgb[box.y_px : box.y_end_px, box.x_px : box.x_end_px]
    return DrawnImage(
        pair.name, _jpeg(part), box.x_px, box.y_px, box.width_px, box.height_px, is_part, layers
    )


def _drawn_part(shape: tuple[int, ...], both: Sequence[NDArray[np.int32]]) -> Box:
    """Return the whole image, or of a large one the square of a grid with the most nuclei."""
    height, width = shape
    if max(height, width) <= _WHOLE_PX:
        return Box(0, 0, width, height)
    boxes = np.concatenate([label_boxes(labels) for labels in both])
    square = (boxes[:, :2] + boxes[:, 2:]) // 2 // _PART_PX
    squares, n = np.unique(square, axis=0, return_counts=True)
    row, col = squares[n.argmax()] if len(n) else (0, 0)
    # The last square of a row or column ends where the image does.
    y = max(0, min(int(row) * _PART_PX, height - _PART_PX))
    x = max(0, min(int(col) * _PART_PX, width - _PART_PX))
    return Box(x, y, min(_PART_PX, width), min(_PART_PX, height))


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(content, "JPEG", quality=_JPEG)
    return content.getvalue()


def _layer(kind: str, image: InstanceImage, labels: NDArray[np.int64], part: Box) -> Layer:
    boxes = label_boxes(image.labels)
    first, last = boxes[labels - 1, :2], boxes[labels - 1, 2:]
    low, high = (part.y_px, part.x_px), (part.y_end_px, part.x_end_px)
    seen = ((first < high) & (last >= low)).all(axis=1)
    path = "".join(
        text
        for label in labels[seen].tolist()
        for text in _outline(image.labels, label, boxes[label - 1])
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
