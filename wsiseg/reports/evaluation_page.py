"""The page of an evaluation: figures, plots, the best and the worst images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from wsiseg.evaluation.drawings import DrawnImage
from wsiseg.evaluation.evaluation import IGNORED_RULE, Evaluation, interval_rule
from wsiseg.evaluation.figures import AVERAGING, Averaging
from wsiseg.evaluation.sampling import Estimate
from wsiseg.evaluation.scoring import FigureScore, ImageScore
from wsiseg.reports._numbers import short
from wsiseg.reports._pictures import data_address
from wsiseg.reports._rendering import render
from wsiseg.reports.plots import Curve, Forest, Scatter, bland_altman, curves, forest

_HEADLINES = ("pq", "aji", "dice", "f1_centroid", "mpq_plus", "surface_dice", "hd95_um")
_MOST_HEADLINES = 6
_MOST_IMAGES = 60
"""In the plot; the table has all."""
_OF_READERS = (
    ("pq", "PQ"),
    ("dq", "F1 at IoU > 0.5"),
    ("f1_centroid", "F1 of centroids"),
)
_LAYER_NAMES = {
    "truth": "matched, as annotated",
    "found": "matched, as found",
    "missed": "missed",
    "extra": "extra",
}


@dataclass(frozen=True, slots=True)
class Extreme:
    """One of the best or worst images, drawn."""

    kind: str
    """`best` or `worst`."""
    score: ImageScore
    drawn: DrawnImage


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure in a table."""

    title: str
    unit: str
    pooled: Cell
    macro: Cell
    n: int
    n_images: int
    definition: str
    source: str


@dataclass(frozen=True, slots=True)
class ShownLayer:
    """Outlines of one kind."""

    kind: str
    text: str
    n: int
    path: str


@dataclass(frozen=True, slots=True)
class ShownImage:
    """A drawn image."""

    kind: str
    name: str
    organ: str
    pq: float | None
    jpeg: str
    view_box: str
    """Of the SVG."""
    part: str
    """Which part it is; empty for a whole image."""
    layers: tuple[ShownLayer, ...]
    alt: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A value and its interval, as text."""

    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class TableOf:
    """Rows of cells, each with its name, under column names."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """All that the page shows."""

    evaluation: Evaluation
    headlines: tuple[tuple[str, str, str, str], ...]
    """Title, value, unit, interval."""
    figures: tuple[FigureRow, ...]
    class_figures: tuple[FigureRow, ...]
    """Definitions of the figures of a class; no values."""
    classes: TableOf
    class_plots: tuple[Forest, ...]
    organs: TableOf
    organ_plot: Forest | None
    readers: tuple[Forest, ...]
    gap: tuple[tuple[str, str, str], ...]
    """Title, value and interval of how far readers agree better with each other."""
    perturbation: tuple[Curve, ...]
    per_image: Forest
    scatters: tuple[Scatter, ...]
    shown: tuple[ShownImage, ...]
    interval: str
    ignored: str
    averaging: Mapping[Averaging, str]
    colours: str = ""


def evaluation_page(evaluation: Evaluation, extremes: Sequence[Extreme]) -> str:
    """Return the page of an evaluation: one file that loads nothing.

    Parameters
    ----------
    evaluation : Evaluation
        What it says.
    extremes : sequence of Extreme
        Images to draw.
    """
    scores = evaluation.scores
    some = next(iter(scores.classes.values()), {})
    view = EvaluationView(
        evaluation=evaluation,
        headlines=tuple(_headlines(scores.figures)),
        figures=tuple(_row(score) for score in scores.figures.values()),
        class_figures=tuple(_row(score) for score in some.values()),
        classes=_class_table(scores.classes),
        class_plots=tuple(_class_plots(scores.classes)),
        organs=_organ_table(evaluation),
        organ_plot=_plot("PQ by organ", [(o, of["pq"].first) for o, of in scores.organs.items()]),
        readers=tuple(_reader_plots(evaluation)),
        gap=tuple(_gaps(evaluation)),
        perturbation=tuple(curves(evaluation.perturbation)),
        per_image=_per_image(scores.images),
        scatters=tuple(_scatters(evaluation)),
        shown=tuple(_shown(extreme) for extreme in extremes),
        interval=interval_rule(evaluation),
        ignored=IGNORED_RULE,
        averaging=AVERAGING,
    )
    return render("evaluation.html", view)


def _per_image(images: Sequence[ImageScore]) -> Forest:
    """Lay out the PQ of all images, or of the worst ones where there are many."""
    known = [(i.name, Estimate(i.figures["pq"])) for i in images if i.figures["pq"] is not None]
    ordered = sorted(known, key=lambda one: -(one[1].value or 0.0))
    if len(ordered) <= _MOST_IMAGES:
        return forest("PQ of each image", ordered)
    return forest(f"PQ of the {_MOST_IMAGES} worst images", ordered[-_MOST_IMAGES:])


def interval_text(estimate: Estimate | None) -> str:
    """Return an interval in words; empty where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{short(estimate.low)} to {short(estimate.high)}"


def cell_of(estimate: Estimate | None) -> Cell:
    """Return an estimate as text; empty where there is no such average."""
    if estimate is None:
        return Cell("")
    return Cell(short(estimate.value), interval_text(estimate))


def _headlines(figures: Mapping[str, FigureScore]) -> Iterator[tuple[str, str, str, str]]:
    there = [figures[name] for name in _HEADLINES if name in figures]
    for score in there[:_MOST_HEADLINES]:
        title = score.figure.title.split(" (")[0]
        yield title, short(score.first.value), score.figure.unit, interval_text(score.first)


def _row(score: FigureScore) -> FigureRow:
    figure = score.figure
    return FigureRow(
        title=figure.title,
        unit=figure.unit,
        pooled=cell_of(score.pooled),
        macro=cell_of(score.macro),
        n=score.n,
        n_images=score.n_images,
        definition=figure.definition,
        source=figure.source,
    )


_OF_CLASS = (
    *(("n", "Annotated"), ("f1", "F_c"), ("pq", "PQ"), ("dq", "DQ"), ("sq", "SQ")),
    *(("false_per_mm2", "False per mm²"), ("count_error", "Count error")),
)


def _class_table(classes: Mapping[str, Mapping[str, FigureScore]]) -> TableOf:
    rows = tuple(
        (
            name,
            (
                Cell(f"{of['f1'].n:,}"),
                *(cell_of(of[figure].first) for figure, _ in _OF_CLASS[1:]),
            ),
        )
        for name, of in classes.items()
    )
    return TableOf(tuple(title for _, title in _OF_CLASS), rows)


def _class_plots(classes: Mapping[str, Mapping[str, FigureScore]]) -> Iterator[Forest]:
    for figure, title in (("f1", "F1 of the class, F_c"), ("pq", "PQ of the class")):
        plot = _plot(title, [(name, of[figure].first) for name, of in classes.items()])
        if plot is not None:
            yield plot


def _plot(title: str, rows: Sequence[tuple[str, Estimate]]) -> Forest | None:
    return forest(title, rows) if rows else None


def _organ_table(evaluation: Evaluation) -> TableOf:
    organs = evaluation.scores.organs
    if not organs:
        return TableOf((), ())
    some = next(iter(organs.values()))
    titles = [score.figure.title.split(",")[-1].split(" (")[0].strip() for score in some.values()]
    rows = tuple(
        (
            organ,
            (
                Cell(f"{sum(image.organ == organ for image in evaluation.scores.images)}"),
                *(cell_of(score.first) for score in of.values()),
            ),
        )
        for organ, of in organs.items()
    )
    return TableOf(("Images", *titles), rows)


def _reader_plots(evaluation: Evaluation) -> Iterator[Forest]:
    if evaluation.readers is None:
        return
    found = "model" if evaluation.kind == "model" else "found"
    for figure, title in _OF_READERS:
        rows = [
            (
                f"{found} – {one.first}" if one.second == "found" else "reader 1 – reader 2",
                one.scores.figures[figure].first,
            )
            for one in evaluation.readers.comparisons
        ]
        yield forest(title, rows)


def _gaps(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    if evaluation.readers is None:
        return
    for name, title in _OF_READERS:
        estimate = evaluation.readers.gap[name]
        yield title, short(estimate.value), interval_text(estimate)


def _scatters(evaluation: Evaluation) -> Iterator[Scatter]:
    images = evaluation.scores.images
    figures = evaluation.scores.figures
    yield bland_altman(
        "Nuclei of an image: found − annotated",
        "mean of both",
        [(i.name, (i.n_truth + i.n_found) / 2, float(i.n_found - i.n_truth)) for i in images],
        [figures[n].pooled for n in ("count_error", "count_limit_low", "count_limit_high")],
    )
    areas = [
        (i.name, i.matched_area_um2 + error / 2, error)
        for i in images
        if i.matched_area_um2 is not None and (error := i.figures["area_error_um2"]) is not None
    ]
    if areas:
        yield bland_altman(
            "Area of matched nuclei, an image's mean: found − annotated, µm²",
            "mean of both, µm² (limits are those of single nuclei)",
            areas,
            [
                figures[n].pooled
                for n in ("area_error_um2", "area_limit_low_um2", "area_limit_high_um2")
            ],
        )


def _shown(extreme: Extreme) -> ShownImage:
    drawn = extreme.drawn
    layers = tuple(
        ShownLayer(layer.kind, _LAYER_NAMES[layer.kind], layer.n, layer.path)
        for layer in drawn.layers
    )
    counted = {layer.kind: layer.n for layer in layers}
    return ShownImage(
        kind=extreme.kind,
        name=drawn.name,
        organ=extreme.score.organ,
        pq=extreme.score.figures["pq"],
        jpeg=data_address(drawn.jpeg, "jpeg"),
        view_box=f"{drawn.x_px} {drawn.y_px} {drawn.width_px} {drawn.height_px}",
        part=f"the part of {drawn.width_px} × {drawn.height_px} px with most nuclei"
        if drawn.is_part
        else "",
        layers=layers,
        alt=f"{drawn.name}: {counted['found']} matched, {counted['missed']} missed, "
        f"{counted['extra']} extra",
    )
