"""Calibrating a model on annotated images: what it found, what was true, and the maps between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.calibration import Calibration, Confidences, fit_calibration
from wsiseg.errors import UsageError
from wsiseg.evaluation.metrics import match_instances
from wsiseg.evaluation.segmenting import FoundNuclei, segment_image
from wsiseg.labels.records import LabelledImage
from wsiseg.models import MapsModel, Numerics
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.reliability import CalibrationReport, judge_calibration

Fold = tuple[MapsModel, Sequence[LabelledImage]]
"""A model, and images of patients it was not trained on."""


def calibrate(
    folds: Sequence[Fold],
    class_names: Sequence[str],
    numerics: Callable[[MapsModel], Numerics],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Calibration, CalibrationReport]:
    """Fit a calibration to what models find in images they never saw, and judge it.

    Parameters
    ----------
    folds : sequence of (MapsModel, sequence of LabelledImage)
        The folds of a cross-validation, or one model with the images held back.
    class_names : sequence of str
        The list that the images' class indices point into.
    numerics : callable
        How each model is computed.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Calibration
        Fitted to all images; for the card of the model trained with the same recipe.
    CalibrationReport
        Before and after, each patient by maps fitted to the others.

    Raises
    ------
    UsageError
        If a model is calibrated already, or there are fewer than two patients.
    """
    work = [(model, image) for model, images in folds for image in images]
    patients = sorted({image.patient for _, image in work})
    parts = []
    for k, (model, image) in enumerate(work):
        if progress is not None:
            progress("calibrating", k, len(work))
        if model.card.calibration is not None:
            raise UsageError(
                f"model {model.card.name} is calibrated already; take the calibration out of its "
                "card to fit another"
            )
        found = segment_image(model, image.rgb, image.mpp, numerics(model))
        table = _class_table(class_names, model.card.class_names)
        parts.append(confidences_of(found, image, table, patients.index(image.patient)))
    together = Confidences.together(parts)
    return fit_calibration(together), judge_calibration(together)


def _class_table(given: Sequence[str], wanted: Sequence[str]) -> NDArray[np.uint8]:
    """Return the model's index of each class of the images; unknown where it has none."""
    table = np.full(UNKNOWN_CLASS + 1, UNKNOWN_CLASS, np.uint8)
    for index, name in enumerate(given):
        if name in wanted:
            table[index] = wanted.index(name)
    return table


def confidences_of(
    found: FoundNuclei, image: LabelledImage, class_table: NDArray[np.uint8], group: int
) -> Confidences:
    """Return what was said of an image's found nuclei, with what is true.

    A found nucleus is real if it matches an annotated one at an intersection over union above
    0.5.  One that lies by more than half in an ignored region is left out.

    Parameters
    ----------
    found : FoundNuclei
        n nuclei found in the image, not calibrated.
    image : LabelledImage
        As it is annotated.
    class_table : ndarray, (256,), uint8
        The model's class for each of the image's class indices.
    group : int
        The patient's number.
    """
    n = len(found.nucleus_prob)
    matches = match_instances(image.instances, found.labels)
    is_true = np.zeros(n, np.bool_)
    is_true[matches.predicted_label - 1] = True
    true_class = np.full(n, UNKNOWN_CLASS, np.uint8)
    annotated = class_table[_classes_of(image, matches.reference_label)]
    true_class[matches.predicted_label - 1] = annotated
    probs = np.clip(found.class_probs, 0, 1)
    everything = Confidences(
        found.nucleus_prob, is_true, probs, true_class, np.full(n, group, np.int64)
    )
    return everything.taken(~_ignored(found.labels, n, image.ignored))


def _classes_of(image: LabelledImage, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the class most pixels of each annotated nucleus have, the first of equals."""
    width = UNKNOWN_CLASS + 1
    flat = image.instances.astype(np.int64).ravel() * width + image.classes.ravel()
    pairs, n_px = np.unique(flat, return_counts=True)
    order = np.lexsort((pairs % width, -n_px, pairs // width))
    instance, first = np.unique(pairs[order] // width, return_index=True)
    most = (pairs[order] % width)[first].astype(np.uint8)
    chosen: NDArray[np.uint8] = most[np.searchsorted(instance, labels)]
    return chosen


def _ignored(
    labels: NDArray[np.int32], n: int, ignored: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Return which found nuclei lie by more than half in an ignored region, or have no pixel."""
    area_px = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    if ignored is None:
        return np.asarray(area_px == 0, np.bool_)
    inside_px = np.bincount(labels[ignored], minlength=n + 1)[1:]
    return np.asarray((2 * inside_px > area_px) | (area_px == 0), np.bool_)
