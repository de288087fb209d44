"""How good a model of classes is, as far as its own examples can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.classes.cross_validation import (
    CrossValidation,
    accuracy_interval,
    balanced_accuracy,
    confusion,
    cross_validate,
    most_folds,
)
from wsiseg.classes.examples import RunExamples
from wsiseg.classes.linear_model import LinearModel

_LEAST_SLIDES = 3
_FEW = 20
_WEAK = 0.7
_MANY_MISSED = 0.2
"""Where more of the marks hit no nucleus, those that do may hit the wrong one."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Examples of all runs as numbers."""

    values: NDArray[np.float64]
    """(n, p): NaN where missing."""
    label: NDArray[np.int64]
    """(n,): position of the class."""
    group: NDArray[np.int64]
    """(n,): the area or click each comes from."""
    slide: NDArray[np.int64]
    """(n,): the run."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassReport:
    """What a user should know of a model before using its classes."""

    classes: tuple[str, ...]
    n_examples: tuple[int, ...]
    """Of each class, as used."""
    n_slides: int
    n_marks: int
    n_missed: int
    """Marks that hit no nucleus."""
    left_out: str | None
    """What was left out together in cross-validation: "slide", "area or click", "nucleus"; None
    if it could not be done."""
    n_folds: int
    balanced_accuracy: float | None
    """Mean over classes of the share called right, of examples the model had not seen."""
    interval: tuple[float, float] | None
    """Its 95 % interval."""
    confusion: tuple[tuple[int, ...], ...] | None
    """How often each class (row) was called each (column)."""
    mean_confidence: float | None
    """Mean probability of the class that was said; above the accuracy: too sure of itself."""
    accuracy: float | None
    """Share called right of all examples."""
    strength: float
    features: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    """Of each class (row) for each feature, per standard deviation; 0 on average."""
    dropped: tuple[str, ...]
    """Measurements left out because the examples have no values, or one only."""
    seed: int
    warnings: tuple[str, ...]

    @property
    def importance(self) -> list[tuple[str, float]]:
        """Features with the standard deviation of their weights over classes, largest first."""
        spread = np.std(np.array(self.weights), axis=0)
        order = np.argsort(-spread, kind="stable")
        return [(self.features[i], float(spread[i])) for i in order]

    def to_json(self) -> dict[str, Any]:
        """Return what is kept with the version."""
        return {
            "examples": dict(zip(self.classes, self.n_examples, strict=True)),
            "n_slides": self.n_slides,
            "n_marks": self.n_marks,
            "n_marks_missed": self.n_missed,
            "validation": {
                "left_out": self.left_out,
                "n_folds": self.n_folds,
                "balanced_accuracy": self.balanced_accuracy,
                "balanced_accuracy_interval_95": self.interval and list(self.interval),
                "confusion_rows_true": self.confusion and [list(row) for row in self.confusion],
                "accuracy": self.accuracy,
                "mean_confidence": self.mean_confidence,
            },
            "strength": self.strength,
            "importance": dict(self.importance),
            "features_dropped": list(self.dropped),
            "seed": self.seed,
            "warnings": list(self.warnings),
        }


def check_model(
    model: LinearModel,
    labelled: Labelled,
    strength: float,
    fills: dict[int, float],
    dropped: Sequence[str],
    found: Sequence[RunExamples],
    seed: int,
) -> ClassReport:
    """Return what cross-validation says of a model's examples."""
    left_out, group = what_to_leave_out(labelled)
    checked = cross_validate(labelled.values, labelled.label, group, fills, seed)
    numbers = _Numbers.of(checked, labelled.label, labelled.group)
    counts = np.bincount(labelled.label, minlength=len(model.classes))
    return ClassReport(
        classes=model.classes,
        n_examples=tuple(counts.tolist()),
        n_slides=len(found),
        n_marks=sum(each.n_marks for each in found),
        n_missed=sum(each.n_missed for each in found),
        left_out=None if checked is None else left_out,
        n_folds=0 if checked is None else checked.n_folds,
        balanced_accuracy=numbers.balanced,
        interval=numbers.interval,
        confusion=numbers.table,
        mean_confidence=numbers.confidence,
        accuracy=numbers.accuracy,
        strength=strength,
        features=model.features,
        weights=tuple(tuple(row) for row in model.weights.tolist()),
        dropped=tuple(dropped),
        seed=seed,
        warnings=(*_misplaced(found), *_warnings(model, counts, left_out, numbers)),
    )


def what_to_leave_out(labelled: Labelled) -> tuple[str, NDArray[np.int64]]:
    """Return what is left out together, and the examples' numbers of it.

    Whole slides, if three or more have examples of every class: then the figures are of a slide
    not seen.  Else the nuclei of one area together, for neighbours are alike; only where a class
    has a single area, single nuclei.
    """
    n_classes = len(np.unique(labelled.label))
    whole = [
        slide
        for slide in np.unique(labelled.slide)
        if len(np.unique(labelled.label[labelled.slide == slide])) == n_classes
    ]
    if len(whole) >= _LEAST_SLIDES:
        return "slide", labelled.slide
    if most_folds(labelled.label, labelled.group) >= 2:
        return "area or click", labelled.group
    return "nucleus", np.arange(len(labelled.label))


@dataclass(frozen=True, slots=True)
class _Numbers:
    balanced: float | None = None
    interval: tuple[float, float] | None = None
    table: tuple[tuple[int, ...], ...] | None = None
    confidence: float | None = None
    accuracy: float | None = None

    @staticmethod
    def of(
        checked: CrossValidation | None,
        label: NDArray[np.int64],
        group: NDArray[np.int64],
    ) -> _Numbers:
        if checked is None:
            return _Numbers()
        said = checked.probabilities.argmax(axis=1)
        n_classes = checked.probabilities.shape[1]
        table = confusion(label, said, n_classes)
        independent = np.array([len(np.unique(group[label == k])) for k in range(n_classes)])
        return _Numbers(
            balanced_accuracy(table),
            accuracy_interval(table, independent),
            tuple(tuple(row) for row in table.tolist()),
            float(checked.probabilities.max(axis=1).mean()),
            float((said == label).mean()),
        )


def _misplaced(found: Sequence[RunExamples]) -> list[str]:
    return [
        f"{each.n_missed} of the {each.n_marks} marks in {each.result.name} hit no nucleus (half "
        f"are {np.median(each.missed_um):.0f} µm or more from one's centre): if they lie on "
        "nuclei in QuPath, they are shifted or of another slide, and the others mean wrong nuclei"
        for each in found
        if each.n_missed > _MANY_MISSED * each.n_marks
    ]


def _warnings(
    model: LinearModel, counts: NDArray[np.int64], left_out: str, numbers: _Numbers
) -> list[str]:
    said = []
    few = [f"{name} ({n})" for name, n in zip(model.classes, counts, strict=True) if n < _FEW]
    if few:
        said.append(f"few examples of {', '.join(few)}: mark {_FEW} or more of each class")
    if left_out == "nucleus":
        said.append(
            "a class has all its examples in one area: neighbours are alike, so the accuracy "
            "elsewhere is likely lower than said; mark nuclei in several places"
        )
    if numbers.balanced is None or numbers.interval is None:
        said.append("the examples are too few or too close together to say how good the model is")
        return said
    if numbers.interval[0] <= 1 / len(model.classes):
        said.append("the model may be no better than guessing: mark more examples")
    elif numbers.balanced < _WEAK:
        said.append(
            f"weak: of unseen examples {100 * numbers.balanced:.0f} % are called right, on average "
            "over the classes; these measurements may not tell these classes apart"
        )
    return said
