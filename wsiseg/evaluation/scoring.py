"""Scores of many images: pooled and as means over images, with intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.evaluation.class_figures import class_figures_of, over_classes_figures
from wsiseg.evaluation.figures import Averaging, Figure, figures_of
from wsiseg.evaluation.formulas import Columns, Numbers, ratio
from wsiseg.evaluation.records import EvaluateOptions, ScoredPair
from wsiseg.evaluation.sampling import Estimate, bootstrap
from wsiseg.evaluation.tallies import Tally, columns_of, of_class, tally_pair
from wsiseg.records import UNKNOWN_CLASS

_OF_ORGANS = ("pq", "dq", "sq", "aji", "dice", "f1_centroid", "surface_dice", "count_error_share")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FigureScore:
    """One figure over all images."""

    figure: Figure
    pooled: Estimate | None
    """None: not a figure that is pooled."""
    macro: Estimate | None
    """None: not a figure that images have."""
    n: int
    """What it is over, such as annotated nuclei."""
    n_images: int
    """Images with a value of their own; of a figure that they do not have, all."""

    @property
    def first(self) -> Estimate:
        """The pooled value, or the mean over images of what is not pooled."""
        return self.pooled or self.macro or Estimate(None)

    def of(self, averaging: Averaging) -> Estimate | None:
        """Return one of the two averages."""
        return self.pooled if averaging == "pooled" else self.macro


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image's own figures; None where there is nothing to score."""

    name: str
    patient: str
    organ: str
    n_truth: int
    n_found: int
    mm2: float
    """Area that is scored."""
    matched_area_um2: float | None
    """Mean annotated area of matched nuclei."""
    figures: Mapping[str, float | None]
    classes: Mapping[str, Mapping[str, float | None]]
    """By class; empty for an image without classes."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What was found against the truth."""

    figures: Mapping[str, FigureScore]
    """By name, in the order of tables; means over classes last."""
    classes: Mapping[str, Mapping[str, FigureScore]]
    """Figures of each class; empty without classes on both sides."""
    organs: Mapping[str, Mapping[str, FigureScore]]
    """Some figures of each organ; empty where none is known."""
    images: tuple[ImageScore, ...]
    """In the order given."""
    n_patients: int
    """Units that intervals are over."""


def score_images(
    pairs: Sequence[ScoredPair],
    class_names: Sequence[str],
    options: EvaluateOptions,
    progress: Progress | None = None,
) -> Scores:
    """Score what was found on images, with intervals.

    Intervals are of the bootstrap over patients (`wsiseg.evaluation.sampling.bootstrap`): images
    of one patient, and the nuclei of an image, are not independent.

    Parameters
    ----------
    pairs : sequence of ScoredPair
        At least one.
    class_names : sequence of str
        The list that class indices point into; classes are scored if both sides know any.
    options : EvaluateOptions
        How nuclei are paired, and the seed.
    progress : callable, optional
        Called with (stage, done, total).

    Raises
    ------
    ValueError
        If there is no pair.
    """
    if not pairs:
        raise ValueError("there is no image to score; at least one is needed")
    names = known_classes(pairs, class_names)
    tallies = []
    for i, pair in enumerate(pairs):
        if progress is not None:
            progress("scoring", i, len(pairs))
        tallies.append(tally_pair(pair, len(names), options))
    if progress is not None:
        progress("scoring", len(pairs), len(pairs))
    return scores_of(pairs, tallies, names, options)


def known_classes(pairs: Sequence[ScoredPair], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that are scored: all, or none where one side knows no nucleus's class."""
    for side in ([p.truth for p in pairs], [p.found for p in pairs]):
        classes = np.concatenate([each.classes for each in side])
        if len(classes) and (classes == UNKNOWN_CLASS).all():
            return ()
    return tuple(class_names)


def sums_of_patients(table: Numbers, patients: Sequence[str]) -> Numbers:
    """Add up the rows of images, (n, k), of one patient each."""
    unit = np.unique(patients, return_inverse=True)[1]
    sums = np.zeros((int(unit.max()) + 1, table.shape[1]))
    np.add.at(sums, unit, table)
    return sums


def scores_of(
    pairs: Sequence[ScoredPair],
    tallies: Sequence[Tally],
    names: tuple[str, ...],
    options: EvaluateOptions,
) -> Scores:
    """Make the figures of the images' sums."""
    columns = columns_of(list(tallies))
    overall = figures_of(options.radius_um, options.tolerance_um)
    means = over_classes_figures(len(names)) if names else ()
    of_one = class_figures_of(options.radius_um)
    patients = [pair.patient for pair in pairs]
    seen = [k for k in range(len(names)) if _is_there(columns, k)]
    return Scores(
        figures=_scored(columns, (*overall, *means), patients, options),
        classes={names[k]: _scored(of_class(columns, k), of_one, patients, options) for k in seen},
        organs=_organs(pairs, columns, overall, options),
        images=tuple(
            _images(pairs, columns, (*overall, *means), of_one, {k: names[k] for k in seen})
        ),
        n_patients=len(set(patients)),
    )


def _is_there(columns: Columns, k: int) -> bool:
    mine = of_class(columns, k)
    return bool((mine["n_truth"] + mine["n_found"]).any())


def _scored(
    columns: Columns, figures: Sequence[Figure], patients: Sequence[str], options: EvaluateOptions
) -> dict[str, FigureScore]:
    """Return the figures, pooled and macro, all from the same samples of patients."""
    keys = list(columns)
    own = [f for f in figures if "macro" in f.averages]
    values = np.stack([f.formula(columns) for f in own]) if own else np.empty((0, len(patients)))
    known = np.isfinite(values)
    table = np.stack([*columns.values(), *np.where(known, values, 0.0), *known], axis=1)
    sums = sums_of_patients(table, patients)
    pooled = [f for f in figures if "pooled" in f.averages]

    def statistics(drawn: Numbers) -> Numbers:
        by_name = {name: drawn[:, i] for i, name in enumerate(keys)}
        total, n = np.split(drawn[:, len(keys) :], 2, axis=1)
        macro = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
        return np.column_stack([*(f.formula(by_name) for f in pooled), macro])

    estimates = bootstrap(statistics, sums, np.ones(len(sums)), options.seed, options.n_draws)
    of_pooled = dict(zip([f.name for f in pooled], estimates, strict=False))
    of_macro = dict(zip([f.name for f in own], estimates[len(pooled) :], strict=True))
    n_known = dict(zip([f.name for f in own], known.sum(axis=1).tolist(), strict=True))
    return {
        f.name: FigureScore(
            figure=f,
            pooled=of_pooled.get(f.name),
            macro=of_macro.get(f.name),
            n=_total(columns, f.over),
            n_images=n_known.get(f.name, _total(columns, _images_key(f))),
        )
        for f in figures
    }


def _images_key(figure: Figure) -> str:
    return "classed_images" if figure.over == "classed_images" else "images"


def _total(columns: Columns, name: str) -> int:
    return round(float(columns[name].sum()))


def _organs(
    pairs: Sequence[ScoredPair],
    columns: Columns,
    figures: Sequence[Figure],
    options: EvaluateOptions,
) -> dict[str, dict[str, FigureScore]]:
    shown = [f for f in figures if f.name in _OF_ORGANS]
    scored = {}
    for organ in sorted({pair.organ for pair in pairs} - {""}):
        mine = np.array([pair.organ == organ for pair in pairs])
        patients = [pair.patient for pair in pairs if pair.organ == organ]
        part = {name: column[mine] for name, column in columns.items()}
        scored[organ] = _scored(part, shown, patients, options)
    return scored


def _images(
    pairs: Sequence[ScoredPair],
    columns: Columns,
    figures: Sequence[Figure],
    class_figures: Sequence[Figure],
    classes: Mapping[int, str],
) -> list[ImageScore]:
    overall = _own_values(columns, figures)
    areas = ratio(columns["area_t"], columns["tp"])
    of_classes = {
        name: _own_values(of_class(columns, k), class_figures) for k, name in classes.items()
    }
    return [
        ImageScore(
            name=pair.name,
            patient=pair.patient,
            organ=pair.organ,
            n_truth=round(float(columns["n_truth"][i])),
            n_found=round(float(columns["n_found"][i])),
            mm2=float(columns["mm2"][i]),
            matched_area_um2=_plain(areas[i]),
            figures={name: _plain(values[i]) for name, values in overall.items()},
            classes={
                name: {figure: _plain(values[i]) for figure, values in mine.items()}
                for name, mine in of_classes.items()
                if columns["classed_images"][i]
            },
        )
        for i, pair in enumerate(pairs)
    ]


def _own_values(columns: Columns, figures: Sequence[Figure]) -> dict[str, NDArray[np.float64]]:
    return {f.name: f.formula(columns) for f in figures if "macro" in f.averages}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
