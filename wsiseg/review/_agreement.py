"""How far a run and its reviewer agree, and what the whole run would count corrected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cell_table import ALL_CLASSES
from wsiseg.evaluation.polygons import boundary_distances, match_polygons
from wsiseg.evaluation.sampling import Estimate, bootstrap, difference_total
from wsiseg.review._changes import ReviewedCell
from wsiseg.review._records import (
    NO_CLASS,
    NO_NUCLEUS,
    NOT_FOUND,
    ReviewSample,
    ReviewSquare,
)

_STEP_UM = 0.1
"""Between the points laid along outlines."""
_ENOUGH_SQUARES = 5
"""With errors in fewer squares than this nobody can tell how they vary from place to place."""
_SHAPE = ("iou", "hd95", "distance", "redrawn", "hd95_redrawn")


@dataclass(frozen=True, slots=True, eq=False)
class SquareScore:
    """One square: matched nuclei, and where their outlines and classes differ."""

    square: ReviewSquare
    confusion: NDArray[np.int64]
    """(labels + 1, labels + 1): original by corrected; the last row holds what was added or
    not matched, the last column what was deleted or not matched."""
    shape: NDArray[np.float64]
    """Sums over matched nuclei of `_SHAPE`."""


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """How far the run's class and the reviewer's agree."""

    class_name: str
    precision: Estimate
    """Share of the run's nuclei of this class that are nuclei of this class."""
    recall: Estimate
    """Share of the nuclei of this class that the run has, in this class."""
    f1: Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """The run against its reviewer, who counts as right."""

    n_squares: int
    n_original: int
    n_corrected: int
    n_matched: int
    """IoU above 0.5."""
    pq: Estimate
    """Panoptic quality: dq × sq, of nuclei of all classes."""
    dq: Estimate
    """Detection quality, which is F1."""
    sq: Estimate
    """Mean IoU of matched nuclei."""
    precision: Estimate
    recall: Estimate
    same_class: Estimate
    """Share of matched nuclei in the same class."""
    hd95_um: Estimate
    """Mean over matched nuclei of the 95th percentile of outline distances."""
    boundary_distance_um: Estimate
    """Mean over matched nuclei of the mean distance of outlines."""
    redrawn_hd95_um: Estimate
    """As `hd95_um`, of nuclei whose outline was changed."""
    classes: tuple[ClassAgreement, ...]
    labels: tuple[str, ...]
    """Of the confusion matrix: classes, then `(added)` as a row, `(deleted)` as a column."""
    confusion: tuple[tuple[int, ...], ...]
    """Nuclei by original and corrected class, plain counts."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        rows = (*self.labels, NOT_FOUND)
        columns = (*self.labels, NO_NUCLEUS)
        counted = zip(rows, self.confusion, strict=True)
        confusion = {row: dict(zip(columns, n, strict=True)) for row, n in counted}
        return {**asdict(self), "labels": list(self.labels), "confusion": confusion}


@dataclass(frozen=True, slots=True)
class CorrectedCount:
    """A class in the whole analysed area, as the run has it and as the review corrects it."""

    class_name: str
    """Or `"(all)"`."""
    n: int
    """Of the run; 0 for a class the model does not have."""
    per_mm2: float
    corrected_n: Estimate
    corrected_per_mm2: Estimate


def labels_of(sample: ReviewSample, cells: Sequence[ReviewedCell]) -> tuple[str, ...]:
    """Return the model's classes, then new ones by name, then `(none)` if it is needed."""
    original = [name for square in sample.squares for name in square.cell_classes]
    corrected = [cell.class_name for cell in cells if cell.geometry is not None]
    known = list(sample.n_of_class)
    new = sorted({name for name in corrected if name} - set(known))
    none = [NO_CLASS] if None in {*original, *corrected} else []
    return (*known, *new, *none)


def score_square(
    square: ReviewSquare, cells: Sequence[ReviewedCell], labels: Sequence[str], mpp: float
) -> SquareScore:
    """Match a square's nuclei before and after, and measure what differs.

    Parameters
    ----------
    square : ReviewSquare
        The square.
    cells : sequence of ReviewedCell
        Its nuclei.
    labels : sequence of str
        Of `labels_of`.
    mpp : float
        µm per level-0 pixel.
    """
    code = {name: k for k, name in enumerate(labels)}
    before = [cell for cell in cells if cell.original is not None]
    after = [cell for cell in cells if cell.geometry is not None]
    old = np.array([c.original.geometry for c in before if c.original], object)
    new = np.array([cell.geometry for cell in after], object)
    matches = match_polygons(old, new)
    first, second = matches.reference_index, matches.predicted_index
    row = np.array([code[_label(c.original.class_name)] for c in before if c.original], np.int64)
    col = np.array([code[_label(cell.class_name)] for cell in after], np.int64)
    last = len(labels)
    confusion = np.zeros((last + 1, last + 1), np.int64)
    np.add.at(confusion, (row[first], col[second]), 1)
    confusion[:-1, last] = np.bincount(np.delete(row, first), minlength=last)
    confusion[last, :-1] = np.bincount(np.delete(col, second), minlength=last)
    hd95, mean = boundary_distances(old[first], new[second], _STEP_UM / mpp)
    differs = ~shapely.equals_exact(old[first], new[second], 0.0)
    shape = [matches.iou.sum(), hd95.sum() * mpp, mean.sum() * mpp, differs.sum()]
    return SquareScore(square, confusion, np.array([*shape, hd95[differs].sum() * mpp]))


def _label(class_name: str | None) -> str:
    return NO_CLASS if class_name is None else class_name


def agreement(
    scores: Sequence[SquareScore], n_drawn: int, labels: tuple[str, ...], seed: int
) -> Agreement:
    """Pool the squares: if drawn by chance weighted by 1 / chance and with intervals.

    Parameters
    ----------
    scores : sequence of SquareScore
        All of random squares, or all of the least certain ones.
    n_drawn : int
        How many there were before some did not come back.
    labels : tuple of str
        Of `labels_of`.
    seed : int
        Of the bootstrap.
    """
    size = len(labels) + 1
    confusions = np.array([s.confusion for s in scores], np.int64).reshape(-1, size, size)
    shapes = np.array([s.shape for s in scores]).reshape(-1, len(_SHAPE))
    sums = np.hstack((confusions.reshape(len(scores), size * size), shapes))
    weight = np.array([1 / (s.square.inclusion_prob or 1.0) for s in scores])
    estimates = bootstrap(_statistics(size), sums, weight, seed)
    if any(s.square.inclusion_prob is None for s in scores):
        # Squares that were chosen are all there is of their kind.
        estimates = [Estimate(estimate.value) for estimate in estimates]
    elif scores and len(scores) == n_drawn and (weight <= 1).all():
        # No square of the run is missing, so nothing is left to chance.
        estimates = [Estimate(one.value, one.value, one.value) for one in estimates]
    plain = confusions.sum(axis=0)
    of_class = estimates[len(_OVERALL) :]
    return Agreement(
        n_squares=len(scores),
        n_original=int(plain[:-1].sum()),
        n_corrected=int(plain[:, :-1].sum()),
        n_matched=int(plain[:-1, :-1].sum()),
        **dict(zip(_OVERALL, estimates, strict=False)),
        classes=tuple(
            ClassAgreement(name, *of_class[3 * k : 3 * k + 3]) for k, name in enumerate(labels)
        ),
        labels=labels,
        confusion=tuple(tuple(row) for row in plain.tolist()),
    )


_OVERALL = (
    *("pq", "dq", "sq", "precision", "recall", "same_class"),
    *("hd95_um", "boundary_distance_um", "redrawn_hd95_um"),
)


def _statistics(size: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return what makes all statistics of (b, k) sums: `_OVERALL`, then three a class."""

    def statistics(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = sums[:, : size * size].reshape(-1, size, size)
        iou, hd95, distance, redrawn, hd95_redrawn = sums[:, size * size :].T
        matched = counts[:, :-1, :-1].sum(axis=(1, 2))
        original = counts[:, :-1].sum(axis=(1, 2))
        corrected = counts[:, :, :-1].sum(axis=(1, 2))
        same = np.trace(counts[:, :-1, :-1], axis1=1, axis2=2)
        half = (original + corrected) / 2
        dq, pq = _ratio(matched, half), _ratio(iou, half)
        # As in `panoptic_quality`: 0, not undefined, if there are nuclei but no match.
        sq = np.where((matched == 0) & (half > 0), 0.0, _ratio(iou, matched))
        overall = (pq, dq, sq, _ratio(matched, original), _ratio(matched, corrected))
        shapes = (_ratio(same, matched), _ratio(hd95, matched), _ratio(distance, matched))
        columns = [*overall, *shapes, _ratio(hd95_redrawn, redrawn)]
        for k in range(size - 1):
            right, found, there = counts[:, k, k], counts[:, k].sum(axis=1), counts[:, :, k]
            true = there.sum(axis=1)
            columns += [_ratio(right, found), _ratio(right, true)]
            columns.append(_ratio(2 * right, found + true))
        return np.column_stack(columns)

    return statistics


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return part / whole, NaN of nothing."""
    ratio: NDArray[np.float64] = np.full(len(part), np.nan)
    return np.divide(part, whole, out=ratio, where=whole > 0)


def corrected_counts(
    sample: ReviewSample, cells: Sequence[ReviewedCell], reviewed: frozenset[str]
) -> tuple[CorrectedCount, ...]:
    """Correct each class's count in the whole analysed area by what random squares show.

    Squares that did not come back are taken to be missing at random: the chances of the others
    shrink by the share that came back.

    Parameters
    ----------
    sample : ReviewSample
        The sample.
    cells : sequence of ReviewedCell
        Of all squares that came back.
    reviewed : frozenset of str
        Names of the squares that came back.
    """
    drawn = [square for square in sample.squares if square.kind == "random"]
    back = [square for square in drawn if square.name in reviewed]
    chance = np.array([square.inclusion_prob for square in back], np.float64)
    if len(back) < len(drawn):
        chance *= len(back) / len(drawn)
    before, after = _counts(cells, "before"), _counts(cells, "after")
    names = [name for name in labels_of(sample, cells) if name != NO_CLASS]
    known = {**sample.n_of_class, ALL_CLASSES: sample.n_cells}
    rows = []
    for name in (*names, ALL_CLASSES):
        change = [after[s.name, name] - before[s.name, name] for s in back]
        total = difference_total(known.get(name, 0), np.array(change, np.float64), chance)
        area = sample.analysed_mm2
        values = (total.value, total.low, total.high)
        density = Estimate(*(None if v is None else v / area for v in values))
        n = known.get(name, 0)
        rows.append(CorrectedCount(name, n, n / area, total, density))
    return tuple(rows)


def _counts(cells: Sequence[ReviewedCell], when: str) -> Counter[tuple[str, str]]:
    """Count nuclei by square and class, and all of each square."""
    count: Counter[tuple[str, str]] = Counter()
    for cell in cells:
        if when == "before" and cell.original is not None:
            count.update(_places(cell.square, cell.original.class_name))
        elif when == "after" and cell.geometry is not None:
            count.update(_places(cell.square, cell.class_name))
    return count


def _places(square: str, class_name: str | None) -> list[tuple[str, str]]:
    return [(square, _label(class_name)), (square, ALL_CLASSES)]


def count_changes(cells: Sequence[ReviewedCell]) -> Mapping[str, int]:
    """Count nuclei and edits; one that was relabelled and redrawn counts in both."""
    return {
        "original": sum(cell.original is not None for cell in cells),
        "corrected": sum(cell.geometry is not None for cell in cells),
        "deleted": sum(cell.geometry is None for cell in cells),
        "added": sum(cell.original is None for cell in cells),
        "relabelled": sum(cell.is_relabelled for cell in cells),
        "redrawn": sum(cell.is_redrawn for cell in cells),
        "unchanged": sum(cell.change == "unchanged" for cell in cells),
    }


def review_notes(
    sample: ReviewSample,
    back: Sequence[ReviewSquare],
    cells: Sequence[ReviewedCell],
    labels: Sequence[str],
) -> list[str]:
    """Return what the reader of the results should know, a sentence each.

    Parameters
    ----------
    sample : ReviewSample
        The sample.
    back : sequence of ReviewSquare
        The squares that came back.
    cells : sequence of ReviewedCell
        Their nuclei.
    labels : sequence of str
        Of `labels_of`.
    """
    notes = []
    missing = [square.name for square in sample.squares if square not in back]
    if missing:
        notes.append(f"not reviewed, since the square did not come back: {', '.join(missing)}")
    new = [name for name in labels if name not in sample.n_of_class and name != NO_CLASS]
    if new:
        notes.append(f"classes the run does not have: {', '.join(new)}")
    if all(cell.change == "unchanged" for cell in cells):
        notes.append(
            "no edit was found; if there were any, this may be the sample as it was made, or the "
            "image was not saved before it was exported"
        )
    n_random = sum(square.kind == "random" for square in back)
    if n_random < 2:
        notes.append(
            f"{n_random} random squares were reviewed; intervals need at least 2, and estimates "
            "for the whole run are worth little with fewer than 10"
        )
    notes += _few_with_errors(back, cells)
    return notes


def _few_with_errors(back: Sequence[ReviewSquare], cells: Sequence[ReviewedCell]) -> list[str]:
    """Warn where the errors that were seen are too few to say how they vary."""
    chance = {s.name: s.inclusion_prob for s in back if s.inclusion_prob is not None}
    wrong = {c.square for c in cells if c.change not in ("unchanged", "redrawn")} & chance.keys()
    if len(wrong) >= _ENOUGH_SQUARES or all(p >= 1 for p in chance.values()):
        return []
    return [
        f"errors were found in {len(wrong)} of {len(chance)} random squares; if there are some in "
        "a few other places (ink, a fold), intervals hold the truth less often than they say: "
        "look there, or review more squares"
    ]
