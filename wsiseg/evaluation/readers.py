"""A model between two readers: each against each, and whether it agrees as well as they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wsiseg.evaluation.figures import figures_of
from wsiseg.evaluation.formulas import Numbers
from wsiseg.evaluation.records import EvaluateOptions, InstanceImage, ScoredPair
from wsiseg.evaluation.sampling import Estimate, bootstrap
from wsiseg.evaluation.scoring import Scores, known_classes, scores_of, sums_of_patients
from wsiseg.evaluation.tallies import Tally, columns_of, tally_pair

GAP_FIGURES = ("pq", "dq", "f1_centroid", "aji_plus", "dice")
"""The same whichever side is the truth, so that they can be compared between pairs of readers."""


@dataclass(frozen=True, slots=True)
class ReaderComparison:
    """Two of what was found and the readers against each other."""

    first: str
    """`reader 1` or `reader 2`; counts as right where a figure has a side."""
    second: str
    """`found` or `reader 2`."""
    scores: Scores


@dataclass(frozen=True, slots=True)
class ReaderStudy:
    """What was found and two readers, each against each."""

    comparisons: tuple[ReaderComparison, ...]
    """Found and reader 1, found and reader 2, reader 1 and reader 2."""
    gap: Mapping[str, Estimate]
    """Of `GAP_FIGURES`, pooled: the mean of the first two minus the third, with the interval of
    the same samples; below 0 where the readers agree better with each other."""


def compare_readers(
    pairs: Sequence[ScoredPair],
    second: Sequence[InstanceImage],
    class_names: Sequence[str],
    options: EvaluateOptions,
) -> ReaderStudy:
    """Score what was found and two readers each against each.

    Each comparison leaves out what one of its own two sides ignores.

    Parameters
    ----------
    pairs : sequence of ScoredPair
        The first reader's truth, and what was found.
    second : sequence of InstanceImage
        The same images as the second reader has them.
    class_names : sequence of str
        The list that class indices point into.
    options : EvaluateOptions
        How nuclei are paired, and the seed.
    """
    sides = (
        ("reader 1", "found", list(pairs)),
        ("reader 2", "found", [replace(p, truth=q) for p, q in zip(pairs, second, strict=True)]),
        ("reader 1", "reader 2", [replace(p, found=q) for p, q in zip(pairs, second, strict=True)]),
    )
    comparisons, tallied = [], []
    for first_name, second_name, mine in sides:
        names = known_classes(mine, class_names)
        tallies = [tally_pair(pair, len(names), options) for pair in mine]
        scores = scores_of(mine, tallies, names, options)
        comparisons.append(ReaderComparison(first_name, second_name, scores))
        tallied.append(tallies)
    patients = [pair.patient for pair in pairs]
    return ReaderStudy(tuple(comparisons), _gap(tallied, patients, options))


def _gap(
    tallied: Sequence[Sequence[Tally]], patients: Sequence[str], options: EvaluateOptions
) -> dict[str, Estimate]:
    """Compare how well pairs agree, all from the same samples of patients."""
    columns = [columns_of(list(tallies)) for tallies in tallied]
    keys = [sorted(one) for one in columns]
    tables = [
        np.stack([one[name] for name in names], axis=1)
        for one, names in zip(columns, keys, strict=True)
    ]
    ends = np.cumsum([len(names) for names in keys])[:-1]
    formulas = [
        figure.formula
        for name in GAP_FIGURES
        for figure in figures_of(options.radius_um, options.tolerance_um)
        if figure.name == name
    ]

    def statistics(sums: Numbers) -> Numbers:
        parts = np.split(sums, ends, axis=1)
        by_name = [
            {name: part[:, i] for i, name in enumerate(names)}
            for part, names in zip(parts, keys, strict=True)
        ]
        values = [[formula(one) for one in by_name] for formula in formulas]
        return np.column_stack([(a + b) / 2 - c for a, b, c in values])

    sums = sums_of_patients(np.hstack(tables), patients)
    estimates = bootstrap(statistics, sums, np.ones(len(sums)), options.seed, options.n_draws)
    return dict(zip(GAP_FIGURES, estimates, strict=True))
