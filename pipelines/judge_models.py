"""How good the shipped models are: networks of a recipe on patients they never saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from measure_false_positives import count_image, summarise
from shipped_models import TITLES, judged_images

from wsiseg.calibration import Calibration
from wsiseg.evaluation.annotated import with_classes
from wsiseg.evaluation.calibrating import calibrate
from wsiseg.evaluation.card_figures import card_metrics, card_organs
from wsiseg.evaluation.perturb import perturbation_curve
from wsiseg.evaluation.records import (
    EvaluateOptions,
    ScoredPair,
    instance_image,
    labelled_instances,
)
from wsiseg.evaluation.scoring import score_images
from wsiseg.evaluation.segmenting import segment_image
from wsiseg.labels.records import LabelSet
from wsiseg.models import MapsModel, ModelFile, Numerics
from wsiseg.models.device import choose_numerics
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.reliability import CalibrationReport

Folds = Sequence[tuple[ModelFile, frozenset[str] | None]]
"""A model, and the patients it is judged on (None: all there are)."""
_CHANGED = 3
"""Every so manieth image of the first network's is changed, to see what that costs."""


def numerics_of(model: MapsModel) -> Numerics:
    """Return how a model is computed where it is judged."""
    return choose_numerics(model.card, "auto", None, None)


def judge(folds: Folds, sets: Sequence[LabelSet], class_names: Sequence[str]) -> dict[str, Any]:
    """Return `metrics` and `organs` of a card, through the whole pipeline."""
    pairs: dict[str, list[ScoredPair]] = defaultdict(list)
    counted: dict[str, list[dict[str, Any]]] = defaultdict(list)
    names: tuple[str, ...] = ()
    for model, patients in folds:
        names = model.card.class_names
        for one, image in judged_images(sets, patients):
            seen = segment_image(model, image.rgb, image.mpp, numerics_of(model))
            of_pixel = np.append(seen.class_index, UNKNOWN_CLASS)[seen.labels - 1]
            found = instance_image(seen.labels, image.mpp, of_pixel.astype(np.uint8))
            found = with_classes(found, names, {}, class_names)
            organ = one.organs.get(image.name, "")
            truth = labelled_instances(image)
            pairs[one.name].append(ScoredPair(image.name, image.patient, truth, found, organ))
            counted[TITLES[one.name]].append(
                count_image(model, model.card, image, tuple(class_names))
            )
    scores = {
        TITLES[name]: score_images(some, class_names, EvaluateOptions())
        for name, some in pairs.items()
    }
    cross = folds[0][1] is not None
    how = (
        f"{len(folds)} networks of the same recipe, trained for fewer steps, each on the patients "
        "it was not trained on; the decoder's constants are those of nuclei-40x-v0"
        if cross
        else "this network, on images of other sets than those it was trained on"
    )
    metrics = card_metrics(scores, how)
    metrics["false_positives"] = summarise(counted, names)
    metrics["by_image"] = [
        {"set": name, "image": image.name}
        | {
            key: None if (value := image.figures[key]) is None else round(value, 4)
            for key in ("pq", "aji", "dice")
        }
        for name, some in scores.items()
        for image in some.images
    ]
    whole = (
        "each organ by a network that saw no image of it"
        if cross and len(folds) > len(TITLES) + 1
        else "other images of these organs, or none, were seen"
    )
    return {"metrics": metrics, "organs": card_organs(scores["MoNuSeg"], whole)}


def calibration_of(
    folds: Folds, sets: Sequence[LabelSet], class_names: Sequence[str]
) -> tuple[Calibration, CalibrationReport]:
    """Fit a calibration to what networks find on images they never saw."""
    work = [
        (model, [image for _, image in judged_images(sets, patients)]) for model, patients in folds
    ]
    return calibrate(work, class_names, numerics_of)


def perturbations_of(folds: Folds, sets: Sequence[LabelSet]) -> list[dict[str, Any]]:
    """Return how panoptic quality falls on changed images, of the first network's patients."""
    model, patients = folds[0]
    images = [image for _, image in judged_images(sets, patients)][::_CHANGED]
    small = [
        replace(
            image,
            rgb=image.rgb[:500, :500].copy(),
            instances=image.instances[:500, :500].copy(),
            classes=image.classes[:500, :500].copy(),
        )
        for image in images[:8]
    ]
    points = perturbation_curve(model, small, numerics_of(model))
    return [point.to_json() for point in points]
