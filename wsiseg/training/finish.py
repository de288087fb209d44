"""From trained weights to a model: published, its decoder's constants chosen, judged and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.decode import DecodeOptions
from wsiseg.models import ModelCard, Numerics, load_model
from wsiseg.models.hovernet import HoverNet
from wsiseg.pictures import Picture, encode_png
from wsiseg.rundir import write_atomically, write_json
from wsiseg.training.class_scores import ClassScores, score_classes
from wsiseg.training.decode_search import (
    FoundConstants,
    JudgedMaps,
    constants_to_try,
    decode_labels,
    search_constants,
)
from wsiseg.training.describe import first_card, licence_of, metrics_of, rounded
from wsiseg.training.numbers import nucleus_areas_px
from wsiseg.training.pictures import Judged, draw_validation
from wsiseg.training.plan import TrainingPlan
from wsiseg.training.publish import publish_model
from wsiseg.training.validation import ImageScore, maps_of, mean_scores, score_image
from wsiseg.training.watch import stop_if_asked

_SHOWN = 3
"""So many of the worst images, and of the best, are drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A model that is ready to segment, and how good it is on patients held back."""

    folder: Path
    """With `card.json`, `weights.safetensors`, `LICENSE.txt`; `segment` takes it as a model."""
    card: ModelCard
    """Its card."""
    scores: tuple[ImageScore, ...]
    """Of each image held back."""
    classes: ClassScores
    """How nuclei found in them are called."""
    scores_before: tuple[ImageScore, ...] = ()
    """Of the model it went on from, as it was, on the same images; () if it began anew."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before using the model."""
        if not any(each.nuclei for each in self.scores):
            return (
                "no image held back has a nucleus, so that neither scores nor the decoder's "
                "constants say anything: hold others back (--validation, --seed)",
            )
        if not self.classes.class_names or self.classes.is_above_chance:
            return ()
        n = int(self.classes.confusion.sum())
        return (
            f"the classes are no better than chance on {n} nuclei held back and found (balanced "
            f"accuracy {self.classes.balanced_accuracy:.2f}): do not use them; are the labels' "
            "classes right, and are there enough nuclei of each?",
        )

    @property
    def mean_scores(self) -> dict[str, float]:
        """Mean over images of each score."""
        return mean_scores(self.scores)

    @property
    def mean_scores_before(self) -> dict[str, float]:
        """The same of `scores_before`."""
        return mean_scores(self.scores_before)


def finish_training(
    plan: TrainingPlan, network: HoverNet, out: Path, name: str, stop: Callable[[], bool]
) -> TrainedModel:
    """Publish a network, choose the decoder's constants, judge and draw it.

    Parameters
    ----------
    plan : TrainingPlan
        Of the training.
    network : HoverNet
        The averaged one.
    out : Path
        The model goes to `out/model`, the picture to `out/validation.png`.
    name : str
        Of the model.
    stop : callable
        Asked before each image and each set of constants.

    Raises
    ------
    Interrupted
        If `stop` said so.
    """
    folder = out / "model"
    licence, note = licence_of(plan)
    card = publish_model(network, first_card(plan, name), f"{licence}\n\n{note}\n", folder)

    def go_on() -> None:
        stop_if_asked(stop, "choosing the decoder's constants")

    # What is judged are the weights on disk, which are rounded.
    predictor = load_model(folder).predictor(_numerics(plan))
    images = [image for _, image in plan.split.held_back_images]
    judged = maps_of(predictor, images, go_on)
    values = constants_to_try(nucleus_areas_px(plan.split.train))
    constants = search_constants(judged, values, DecodeOptions(), go_on)
    found = [decode_labels(each.maps, constants.decode) for each in judged]
    scores = _scores(plan, found)
    maps = [each.maps for each in judged]
    classes = score_classes(images, maps, constants.decode, plan.class_names)
    trained = TrainedModel(folder, card, scores, classes, _scores_before(plan, go_on))
    write_atomically(out / "validation.png", encode_png(_picture(plan, judged, found, scores)))
    return _with_metrics(trained, constants, len(plan.split.held_back))


def _numerics(plan: TrainingPlan) -> Numerics:
    kind = torch.device(plan.fit.device).type
    return Numerics(device_kind=kind, threads=plan.threads)


def _scores(plan: TrainingPlan, found: Sequence[NDArray[np.int32]]) -> tuple[ImageScore, ...]:
    """Score what was found in each image held back."""
    pairs = zip(plan.split.held_back_images, found, strict=True)
    return tuple(score_image(name, image, labels) for (name, image), labels in pairs)


def _with_metrics(
    trained: TrainedModel, constants: FoundConstants, n_patients: int
) -> TrainedModel:
    """Write the card with constants and scores, and return the model with it as it is read."""
    metrics = metrics_of(trained.scores, trained.classes, constants, n_patients)
    if trained.scores_before:
        metrics |= {"before_training": rounded(trained.mean_scores_before)}
    about = trained.card.about | {"metrics": metrics}
    card = replace(trained.card, decode=constants.decode.to_json(), about=about)
    write_json(trained.folder / "card.json", card.to_json())
    return replace(trained, card=load_model(trained.folder).card)


def _scores_before(plan: TrainingPlan, go_on: Callable[[], None]) -> tuple[ImageScore, ...]:
    """Score the model a training went on from, with its own constants: what was there to gain."""
    start = plan.start.model
    if start is None or start.card.mpp != plan.mpp:
        return ()
    predictor = start.predictor(_numerics(plan))
    images = [image for _, image in plan.split.held_back_images]
    decode = DecodeOptions.from_json(start.card.decode)
    judged = maps_of(predictor, images, go_on)
    return _scores(plan, [decode_labels(each.maps, decode) for each in judged])


def _picture(
    plan: TrainingPlan,
    judged: Sequence[JudgedMaps],
    found: Sequence[NDArray[np.int32]],
    scores: Sequence[ImageScore],
) -> Picture:
    """Return the worst and the best images, in this order."""
    order = sorted(range(len(scores)), key=lambda k: np.nan_to_num(scores[k].pq, nan=-1.0))
    shown = sorted({*order[:_SHOWN], *order[-_SHOWN:]}, key=order.index)
    images = plan.split.held_back_images
    return draw_validation(
        [
            Judged(_title(scores[k]), images[k][1].rgb, judged[k].truth, found[k], judged[k].maps)
            for k in shown
        ]
    )


def _title(score: ImageScore) -> str:
    return (
        f"{score.set} / {score.image}: PQ {score.pq:.3f} (DQ {score.dq:.3f}, SQ {score.sq:.3f}), "
        f"AJI {score.aji:.3f}, Dice {score.dice:.3f}; {score.found} found of {score.nuclei}"
    )
