"""The one call that judges labels, runs or a model: `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from wsiseg.api import ComputeOptions, segment
from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.evaluation.annotated import (
    AnnotatedImage,
    Reader,
    check_classes,
    check_names,
    pair_up,
    read_labels,
    with_classes,
)
from wsiseg.evaluation.evaluation import Evaluation
from wsiseg.evaluation.found import paint_result, segment_labelled
from wsiseg.evaluation.label_images import (
    LabelImages,
    class_values,
    label_images_in,
    read_label_image,
)
from wsiseg.evaluation.perturb import PerturbOptions, perturbation_curve
from wsiseg.evaluation.readers import ReaderStudy, compare_readers
from wsiseg.evaluation.records import (
    EvaluateOptions,
    InstanceImage,
    PerturbationPoint,
    ScoredPair,
    labelled_instances,
)
from wsiseg.evaluation.scoring import Scores, score_images
from wsiseg.evaluation.writing import check_files, make_folder, write_files
from wsiseg.labels.records import LabelSets
from wsiseg.models import MapsModel, list_models, load_model
from wsiseg.plan import PlanOptions
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.results import Result, find_results, open_result

Progress = Callable[[str, int, int], None]
Given = str | Path | LabelSets | Sequence[str | Path]
_DEFAULTS = EvaluateOptions()


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What is judged, before any image is looked at."""

    said: str
    """A name for people, without folders."""
    kind: str
    names: tuple[str, ...]
    """Of its images."""
    class_names: tuple[str, ...]
    nuclei: Callable[[AnnotatedImage], InstanceImage]
    """Of one image, class indices pointing into `class_names`."""
    model: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_mapped: bool = False
    """Whether its classes have our names already."""
    by: MapsModel | None = None
    """The model, if one is judged itself."""


def evaluate(
    pred: Given | MapsModel,
    truth: Given,
    options: EvaluateOptions = _DEFAULTS,
    *,
    second_reader: Given | None = None,
    perturb: PerturbOptions | None = None,
    to: str | Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score nuclei against annotated ones.

    Images are paired by name.  Definitions of all figures are in `docs/evaluation.md`, and stand
    beside each in what is returned.

    Parameters
    ----------
    pred
        Labels in any format that `wsiseg train` reads, or a folder of label images alone; a run,
        or a folder or glob of runs; or a model (name, folder or object), which then segments the
        images of `truth` through the whole pipeline, without looking for tissue.
    truth
        Labels that count as right.
    options
        How nuclei are paired and intervals are made.
    second_reader
        The same images, annotated by somebody else: then model and readers are scored each
        against each.
    perturb
        Score a model on changed images too: blur, JPEG, stain, brightness, a wrong µm per pixel.
    to
        Folder for `evaluation.json`, `evaluation.csv` (a row an image) and `evaluation.html`;
        made if need be.  None: nothing is written.
    progress
        Called with (stage, done, total).

    Returns
    -------
    Evaluation
        Figures with intervals, pooled and as means over images; classes, organs, images.

    Raises
    ------
    UsageError
        If images have no partner, sizes or µm per pixel differ, or a class is unknown.
    ResultNotReadable
        If a run is damaged or unfinished.
    OutputNotWritable
        If the files cannot be written, or others are in their place.

    Examples
    --------
    >>> import wsiseg
    >>> found = wsiseg.evaluate("runs/", "labels/", to="scores/")  # doctest: +SKIP
    >>> found.scores.figures["pq"].pooled  # doctest: +SKIP
    Estimate(value=0.61, low=0.58, high=0.64)
    """
    if to is not None:
        check_files(Path(to))
    ours = read_labels(truth, "TRUTH", options)
    judged = _judged(pred, ours, options)
    if perturb is not None and judged.by is None:
        raise UsageError(
            f"{judged.said} are {judged.kind}, which were found once; to score changed images "
            "too, give a model (its name or folder), or leave out what to change"
        )
    class_of = {} if judged.is_mapped else options.class_of
    check_names(ours.images, judged.names, judged.said, "TRUTH")
    check_classes(judged.said, judged.class_names, ours.class_names, class_of)
    other = None if second_reader is None else _second(second_reader, ours, options)
    if to is not None:
        make_folder(Path(to))
    pairs = []
    stage = "segmenting" if judged.kind == "model" else "reading"
    for i, (name, image) in enumerate(ours.images.items()):
        _tell(progress, stage, i, len(ours.images))
        found = with_classes(judged.nuclei(image), judged.class_names, class_of, ours.class_names)
        truth_nuclei = labelled_instances(image.image)
        pairs.append(pair_up(name, image, truth_nuclei, found, judged.said))
    _tell(progress, stage, len(pairs), len(pairs))
    scores = score_images(pairs, ours.class_names, options, progress)
    curve = _on_changed(judged, ours, perturb, options, progress)
    evaluation = Evaluation(
        found=judged.said,
        truth=ours.said,
        kind=judged.kind,
        model=judged.model,
        class_names=ours.class_names,
        scores=scores,
        readers=None if other is None else _study(pairs, ours, other, options),
        perturbation=curve,
        notes=(*ours.notes, *judged.notes, *_notes(pairs, ours, judged, scores)),
        options=options,
        version=version("wsiseg"),
    )
    if to is not None:
        pictures = {name: image.image.rgb for name, image in ours.images.items()}
        write_files(evaluation, pairs, pictures, Path(to))
    return evaluation


def _tell(progress: Progress | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)


def _judged(pred: Given | MapsModel, truth: Reader, options: EvaluateOptions) -> _Judged:
    """Say what is judged: a model, runs or labels."""
    if isinstance(pred, MapsModel):
        return _of_model(pred, truth, options)
    if isinstance(pred, str | Path):
        shipped = {card.name for card in list_models()}
        if str(pred) in shipped or (Path(pred) / "card.json").is_file():
            return _of_model(load_model(pred), truth, options)
    if not isinstance(pred, LabelSets):
        try:
            runs = find_results(pred)
        except ResultNotReadable:
            pass
        else:
            return _of_runs(runs)
    if isinstance(pred, str | Path):
        files = label_images_in(Path(pred))
        if files is not None:
            return _of_label_images(files, Path(pred))
        if not Path(pred).exists():
            raise UsageError(
                f"{pred} does not exist, nor is it a shipped model ({', '.join(sorted(shipped))}); "
                "give labels, runs (a run, a folder, a glob), or a model's name or folder"
            )
    reader = read_labels(pred, "PRED", options)
    return _Judged(
        said=reader.said,
        kind="labels",
        names=tuple(reader.images),
        class_names=reader.class_names,
        nuclei=lambda image: labelled_instances(reader.images[image.image.name].image),
        notes=reader.notes,
        is_mapped=True,
    )


def _of_label_images(files: LabelImages, folder: Path) -> _Judged:
    values = class_values(files)
    return _Judged(
        said=folder.absolute().name,
        kind="labels",
        names=tuple(files.inst),
        class_names=values,
        nuclei=lambda image: read_label_image(files, image.image.name, values, image.image.mpp),
    )


def _of_model(model: MapsModel, truth: Reader, options: EvaluateOptions) -> _Judged:
    card = model.card
    compute = ComputeOptions(options.device)

    def run(path: Path, out: Path, mpp: float) -> Result:
        plan = PlanOptions(tissue=None, measure=())
        return segment(path, out, model=model, scale=mpp, options=plan, compute=compute, formats=())

    held_back = set(card.about.get("held_back", ()))
    patients = {image.image.patient for image in truth.images.values()}
    learned = sorted(patients - held_back)
    notes = (
        (
            f"{len(learned)} of {len(patients)} patients are not among those that the model's "
            "card calls held back: if it learned from them, figures are too good",
        )
        if learned
        else ()
    )
    return _Judged(
        said=card.name,
        kind="model",
        names=tuple(truth.images),
        class_names=card.class_names,
        nuclei=lambda image: segment_labelled(image.image, run, card.class_names),
        model={"name": card.name, "sha256": card.sha256},
        notes=notes,
        by=model,
    )


def _on_changed(
    judged: _Judged,
    truth: Reader,
    perturb: PerturbOptions | None,
    options: EvaluateOptions,
    progress: Progress | None,
) -> tuple[PerturbationPoint, ...]:
    """Score a model on changed images, if that is asked for."""
    if perturb is None or judged.by is None:
        return ()
    images = [image.image for image in truth.images.values()]
    numerics = ComputeOptions(options.device).numerics(judged.by.card)
    return perturbation_curve(judged.by, images, numerics, perturb, options, progress)


def _of_runs(runs: Sequence[Path]) -> _Judged:
    results: dict[str, Result] = {}
    for path in runs:
        result = open_result(path)
        name = Path(result.name).stem
        if name in results:
            raise UsageError(
                f"two runs are of images called {name} ({results[name].path} and {path}); images "
                "are paired by name: give one of them"
            )
        results[name] = result
    found = list(results.values())
    models = {(r.model_name, str(r.run["model"].get("sha256", ""))) for r in found}
    class_names = tuple(dict.fromkeys(name for r in found for name in r.class_names))
    one = next(iter(models))
    many = f"the runs are of {len(models)} models: {', '.join(sorted({m for m, _ in models}))}"
    return _Judged(
        said=f"runs of {one[0]}" if len(models) == 1 else f"runs of {len(models)} models",
        kind="runs",
        names=tuple(results),
        class_names=class_names,
        nuclei=lambda image: paint_result(
            results[image.image.name], class_names, image.image.rgb.shape[:2]
        ),
        model={"name": one[0], "sha256": one[1]} if len(models) == 1 else {},
        notes=() if len(models) == 1 else (many,),
    )


def _second(second_reader: Given, truth: Reader, options: EvaluateOptions) -> Reader:
    other = read_labels(second_reader, "TRUTH2", options)
    check_names(truth.images, other.images, "TRUTH2", "TRUTH")
    check_classes("TRUTH2", other.class_names, truth.class_names, {})
    return other


def _study(
    pairs: Sequence[ScoredPair], first: Reader, second: Reader, options: EvaluateOptions
) -> ReaderStudy:
    """Score what was found and both readers each against each."""
    nuclei = []
    for pair in pairs:
        theirs = labelled_instances(second.images[pair.name].image)
        theirs = with_classes(theirs, second.class_names, {}, first.class_names)
        pair_up(pair.name, first.images[pair.name], pair.truth, theirs, "TRUTH2")
        nuclei.append(theirs)
    return compare_readers(pairs, nuclei, first.class_names, options)


def _notes(
    pairs: Sequence[ScoredPair], truth: Reader, judged: _Judged, scores: Scores
) -> list[str]:
    """Say what the reader of the figures should know."""
    notes = []
    if truth.class_names and not scores.classes:
        notes.append(f"{judged.said} has no classes that the truth knows: none is scored")
    if judged.class_names and not truth.class_names:
        notes.append("the truth has no classes: none is scored")
    never = [
        name
        for k, name in enumerate(truth.class_names)
        if scores.classes and not any((pair.found.classes == k).any() for pair in pairs)
    ]
    if never:
        notes.append(f"no nucleus of class {', '.join(never)} was found")
    unknown = sum(int((p.truth.classes == UNKNOWN_CLASS).sum()) for p in pairs)
    if scores.classes and unknown:
        notes.append(
            f"{unknown:,} annotated nuclei are of unknown class; they count in no figure of a class"
        )
    if scores.n_patients < 2:
        notes.append("intervals need images of at least two patients; there are none")
    elif scores.n_patients < 10:
        notes.append(f"intervals rest on {scores.n_patients} patients; with so few they are rough")
    empty = [p.name for p in pairs if p.truth.n == 0 and p.found.n == 0]
    if empty:
        notes.append(
            f"{len(empty)} images hold no nucleus on either side; they are in no mean of ratios"
        )
    return notes
