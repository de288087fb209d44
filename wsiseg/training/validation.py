"""How good a network is on images that were held back: their maps, and scores of what is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.decode import DecodeOptions
from wsiseg.evaluation.metrics import aji, dice, panoptic_quality
from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.models import Numerics, Predictor
from wsiseg.models.hovernet import HoverNet, NetworkSpec, TorchPredictor
from wsiseg.records import Maps
from wsiseg.training.checkpoints import read_checkpoint
from wsiseg.training.decode_search import JudgedMaps, decode_labels, without_ignored

_UNIT_PX = 32
_WHITE = 255
_WINDOW_PX = 512
SCORES = ("pq", "dq", "sq", "aji", "dice")
"""Those of each image that are averaged."""


@dataclass(frozen=True, slots=True)
class ImageScore:
    """How well the nuclei of one image were found; NaN where there is nothing to score."""

    set: str
    """Its label set."""
    image: str
    """Its name."""
    pq: float
    """Panoptic quality: `dq × sq`."""
    dq: float
    """F1 of the matches."""
    sq: float
    """Mean IoU of the matches."""
    aji: float
    """Aggregated Jaccard index."""
    dice: float
    """Of all foreground."""
    nuclei: int
    """Annotated."""
    found: int
    """Found."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, rounded; NaN as null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if np.isnan(value) else round(value, 4)


def predict_whole(predictor: Predictor, rgb: NDArray[np.uint8]) -> Maps:
    """Return the maps of a whole image; around it there is white, as outside of a slide.

    Parameters
    ----------
    predictor : callable
        From (n, h, w, 3) uint8 to n `Maps`.
    rgb : ndarray, (h, w, 3), uint8
        Of any size; all of it is in memory at once.
    """
    height, width = rgb.shape[:2]
    below, right = -height % _UNIT_PX, -width % _UNIT_PX
    padded = np.pad(rgb, ((0, below), (0, right), (0, 0)), constant_values=_WHITE)
    (maps,) = predictor(padded[np.newaxis])
    return Maps(
        np.ascontiguousarray(maps.nucleus[:height, :width]),
        np.ascontiguousarray(maps.hv[:, :height, :width]),
        np.ascontiguousarray(maps.classes[:, :height, :width]),
    )


def score_image(set_name: str, image: LabelledImage, found: NDArray[np.int32]) -> ImageScore:
    """Score what was found in an image; nuclei where nothing is known count on neither side."""
    truth = without_ignored(image.instances, image.ignored)
    seen = without_ignored(found, image.ignored)
    quality = panoptic_quality(truth, seen)
    return ImageScore(
        set_name,
        image.name,
        quality.pq,
        quality.dq,
        quality.sq,
        aji(truth, seen),
        dice(truth, seen),
        quality.tp + quality.fn,
        quality.tp + quality.fp,
    )


def mean_scores(scores: Sequence[ImageScore]) -> dict[str, float]:
    """Return the mean of each of `SCORES` over images that have it; 0 if none has."""
    means = {}
    for name in SCORES:
        values = [getattr(each, name) for each in scores]
        known = [value for value in values if not np.isnan(value)]
        means[name] = float(np.mean(known)) if known else 0.0
    return means


def maps_of(
    predictor: Predictor,
    images: Sequence[LabelledImage],
    go_on: Callable[[], None] = lambda: None,
) -> list[JudgedMaps]:
    """Return the maps of images with what is true; `go_on` is called before each, and may raise."""
    judged = []
    for image in images:
        go_on()
        maps = predict_whole(predictor, image.rgb)
        judged.append(JudgedMaps(maps, image.instances, image.ignored))
    return judged


def few_images(sets: Sequence[LabelSet], n: int) -> list[tuple[str, LabelledImage]]:
    """Return the middles of up to n images, of all sets in turn: to look at during a training."""
    chosen: list[tuple[str, LabelledImage]] = []
    for place in range(max((len(each.images) for each in sets), default=0)):
        chosen += [
            (each.name, _middle(each.images[place])) for each in sets if place < len(each.images)
        ]
    return chosen[:n]


def _middle(image: LabelledImage) -> LabelledImage:
    height, width = image.instances.shape
    top, left = max(0, (height - _WINDOW_PX) // 2), max(0, (width - _WINDOW_PX) // 2)
    window = (slice(top, top + _WINDOW_PX), slice(left, left + _WINDOW_PX))
    return LabelledImage(
        image.name,
        image.patient,
        np.ascontiguousarray(image.rgb[window]),
        np.ascontiguousarray(image.instances[window]),
        np.ascontiguousarray(image.classes[window]),
        image.mpp,
        None if image.ignored is None else np.ascontiguousarray(image.ignored[window]),
    )


def score_checkpoint(
    path: Path,
    spec: NetworkSpec,
    numerics: Numerics,
    images: Sequence[tuple[str, LabelledImage]],
) -> tuple[int, dict[str, float]]:
    """Score the averaged network of a checkpoint, with the decoder's usual constants.

    Parameters
    ----------
    path : Path
        The checkpoint.
    spec : NetworkSpec
        Its architecture.
    numerics : Numerics
        How to compute; `threads` as in training, whose own number must not change.
    images : sequence of (str, LabelledImage)
        Names of sets, and images to look at.

    Returns
    -------
    steps, scores : int, dict
        Steps done, and the mean of each of `SCORES`.
    """
    saved = read_checkpoint(path)
    predictor = TorchPredictor(_filled(spec, saved["averaged"]), numerics)
    scores = [
        score_image(
            name, image, decode_labels(predict_whole(predictor, image.rgb), DecodeOptions())
        )
        for name, image in images
    ]
    return int(saved["step"]), mean_scores(scores)


def _filled(spec: NetworkSpec, weights: dict[str, Any]) -> HoverNet:
    """Return a network with these weights; chance, which a training may need, is left alone."""
    with torch.random.fork_rng(devices=()):
        network = HoverNet(spec)
    network.load_state_dict(weights)
    return network
