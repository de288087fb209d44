"""Whether the classes of a model say anything, on nuclei that were held back and found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.decode import DecodeOptions, decode_instances, paint_instances
from wsiseg.evaluation.metrics import match_instances
from wsiseg.labels.records import LabelledImage
from wsiseg.records import UNKNOWN_CLASS, Maps
from wsiseg.training.decode_search import without_ignored

_SURE = 1.96
"""Standard errors that a share must be above chance."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """How nuclei that were found are called."""

    class_names: tuple[str, ...]
    """In the order of rows and columns."""
    confusion: NDArray[np.int64]
    """(n_classes, n_classes): true class (row) and the one it was called (column)."""

    @property
    def recalls(self) -> dict[str, float]:
        """Share called right of each class that occurs."""
        n = self.confusion.sum(axis=1)
        return {
            name: float(self.confusion[k, k] / n[k])
            for k, name in enumerate(self.class_names)
            if n[k]
        }

    @property
    def balanced_accuracy(self) -> float:
        """Mean of `recalls`; NaN if no nucleus has a class."""
        return float(np.mean(list(self.recalls.values()))) if self.recalls else math.nan

    @property
    def is_above_chance(self) -> bool:
        """Whether the balanced accuracy is surely above that of one class for all.

        The standard error is that of independent shares; nuclei of one image are not quite
        independent, so that this is rather too easily satisfied.
        """
        n = self.confusion.sum(axis=1)
        n, right = n[n > 0], self.confusion.diagonal()[n > 0]
        if len(n) < 2:
            return False
        # One success and one failure more: two of two are no certainty.
        share = (right + 1) / (n + 2)
        error = math.sqrt((share * (1 - share) / n).sum()) / len(n)
        return self.balanced_accuracy - _SURE * error > 1 / len(n)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values, for a card."""
        known = not math.isnan(self.balanced_accuracy)
        return {
            "names": list(self.class_names),
            "confusion": self.confusion.tolist(),
            "recalls": {name: round(value, 4) for name, value in self.recalls.items()},
            "balanced_accuracy": round(self.balanced_accuracy, 4) if known else None,
            "above_chance": self.is_above_chance,
            "note": "of nuclei found (IoU > 0.5) whose class is known",
        }


def score_classes(
    images: Sequence[LabelledImage],
    maps: Sequence[Maps],
    decode: DecodeOptions,
    class_names: Sequence[str],
) -> ClassScores:
    """Count how nuclei that were found are called.

    Parameters
    ----------
    images : sequence of LabelledImage
        What is true.
    maps : sequence of Maps
        What a network says of each.
    decode : DecodeOptions
        Constants of the decoder.
    class_names : sequence of str
        The list that classes are indices into.
    """
    n = len(class_names)
    confusion = np.zeros((n, n), np.int64)
    for image, said in zip(images, maps, strict=True):
        height, width = image.instances.shape
        instances = decode_instances(said, decode)
        found = without_ignored(paint_instances(instances, (height, width)), image.ignored)
        truth = without_ignored(image.instances, image.ignored)
        matches = match_instances(truth, found)
        true_class = _class_of_labels(image)[matches.reference_label]
        called = instances.class_index[matches.predicted_label - 1]
        known = (true_class != UNKNOWN_CLASS) & (called != UNKNOWN_CLASS)
        np.add.at(confusion, (true_class[known], called[known]), 1)
    return ClassScores(tuple(class_names), confusion)


def _class_of_labels(image: LabelledImage) -> NDArray[np.uint8]:
    """Return the class of each label, by label; a nucleus has one."""
    table = np.full(int(image.instances.max(initial=0)) + 1, UNKNOWN_CLASS, np.uint8)
    table[image.instances.ravel()] = image.classes.ravel()
    return table
