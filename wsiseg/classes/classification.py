"""Other classes for nuclei that are there already, from examples marked in QuPath."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wsiseg.classes._features import (
    ALL_FEATURES,
    batch_values,
    chosen_features,
    example_values,
    fills_of,
    refuse_missing,
    slide_medians,
    without_the_empty,
)
from wsiseg.classes._report import ClassReport, Labelled, check_model
from wsiseg.classes.cross_validation import best_strength
from wsiseg.classes.examples import RunExamples, find_examples
from wsiseg.classes.linear_model import LinearModel, fit_model, model_from_json
from wsiseg.classes.versions import CLASSES_SCHEMA, read_classes_record
from wsiseg.errors import ResultNotReadable, UsageError, WsisegError
from wsiseg.exporters.class_table import (
    refuse_existing_version,
    refuse_unwritable_version,
    write_class_version,
)
from wsiseg.results import Result, find_results, open_result

__all__ = ["LEAST_EXAMPLES", "ClassReport", "Classification", "ClassifyOptions", "classify"]

LEAST_EXAMPLES = 5
"""A class with fewer examples is refused."""
_MOST_EXAMPLES = 1000
_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".zip")
_PALETTE = (
    *((228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0)),
    *((166, 86, 40), (247, 129, 191), (153, 153, 153), (255, 217, 47), (102, 194, 165)),
)


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a model is made of."""

    features: Sequence[str] = ALL_FEATURES
    """Groups of measurements (`size`, `shape`, `colour`, `neighbours`, `ring`, `texture`,
    `probabilities`), single columns, or "all": those that the runs have."""
    seed: int = 0
    """Decides folds, and which examples are used where a class has more than 1,000."""

    def __post_init__(self) -> None:
        if isinstance(self.features, str):
            names = tuple(name.strip() for name in self.features.split(","))
            object.__setattr__(self, "features", names)
        if not self.features:
            raise UsageError("features names nothing; name groups of measurements, or all")


_EVERYTHING = ClassifyOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """Runs with new classes, and how good these are."""

    name: str
    """Name of the version."""
    results: tuple[Result, ...]
    """The runs, with the new classes."""
    report: ClassReport | None
    """How the model was made and checked; None if it came from another version."""
    unread: tuple[WsisegError, ...]
    """Why runs were left out: failed, unfinished, damaged, or without what the model needs."""


def classify(
    runs: str | Path | Sequence[str | Path],
    examples: str | Path | None = None,
    *,
    model_from: str | Path | None = None,
    name: str = "examples",
    options: ClassifyOptions = _EVERYTHING,
    overwrite: bool = False,
) -> Classification:
    """Give the nuclei of runs other classes, learned from a few dozen examples.

    The nuclei stay as they are, and so do the run's files: the classes are written as a version,
    which `open_result(run, classes=name)` reads.

    Parameters
    ----------
    runs
        Runs, folders of runs, or globs.
    examples
        GeoJSON from QuPath: points, areas or detections with the classes to tell apart.  For
        several runs, a folder with a file for each that has examples, named after its slide
        (``a.svs.geojson`` or ``a.geojson``).
    model_from
        Instead of examples: the JSON of a version (``RUN/classes/NAME.json``) whose model is
        used again.
    name
        Name of the version.
    options
        What the model is made of.
    overwrite
        Replace a version of that name.

    Returns
    -------
    Classification
        The runs with the new classes; what cross-validation says of them.

    Raises
    ------
    UsageError
        If neither or both of `examples` and `model_from` are given, examples contradict one
        another, or a class has fewer than 5.
    OutputExists
        If a run has a version of that name.
    ResultNotReadable
        If a run with examples, or the version whose model is wanted, cannot be used.
    OutputNotWritable
        If a run's folder cannot be written.

    Examples
    --------
    >>> import wsiseg
    >>> made = wsiseg.classify("results/a.svs.wsiseg", "a.geojson", name="tumour")  # doctest: +SKIP
    >>> made.results[0].summary()["classes"]["Tumour"]["n"]  # doctest: +SKIP
    """
    if (examples is None) == (model_from is None):
        raise UsageError(
            "give either examples (GeoJSON from QuPath) or model_from (the JSON of a version made "
            "before)"
        )
    results, unread = _open_all(find_results(runs))
    if not overwrite:
        for result in results:
            refuse_existing_version(result.path, name)
    for result in results:
        refuse_unwritable_version(result.path)
    report = None
    if examples is not None:
        made = _learn(_examples_of(results, Path(examples)), options)
        report = made.report
    else:
        made = _taken_from(Path(str(model_from)))
    written = []
    for result in results:
        try:
            written.append(_write(result, name, made))
        except ResultNotReadable as error:
            unread.append(error)
    if not written:
        raise unread[0]
    return Classification(name, tuple(written), report, tuple(unread))


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A model, and what is written of it."""

    model: LinearModel
    colours: Mapping[str, tuple[int, int, int]]
    made_by: Mapping[str, Any]
    report: ClassReport | None


def _open_all(paths: Sequence[Path]) -> tuple[list[Result], list[WsisegError]]:
    results: list[Result] = []
    unread: list[WsisegError] = []
    for path in paths:
        try:
            results.append(open_result(path))
        except ResultNotReadable as error:
            unread.append(error)
    if not results:
        raise unread[0]
    return results, unread


def _examples_of(results: Sequence[Result], given: Path) -> list[RunExamples]:
    """Return the examples of each run that has some."""
    if not given.is_dir():
        if len(results) > 1:
            raise UsageError(
                f"{len(results)} runs and one file of examples, {given}: which slide it is of "
                "cannot be told; give a folder with a file for each slide, named after it "
                "(a.svs.geojson)"
            )
        return [find_examples(results[0], given)]
    files = {path.name: path for path in sorted(given.iterdir()) if _suffix(path.name) is not None}
    found: list[RunExamples] = []
    used: set[str] = set()
    for result in results:
        stems = {result.name, Path(result.name).stem}
        mine = [name for name in files if name.removesuffix(str(_suffix(name))) in stems]
        if len(mine) > 1 or used & set(mine):
            raise UsageError(
                f"{given}: {', '.join(mine)} could be of {result.name} and of another slide, or "
                "both of this one; give each slide with examples one file, named like a.svs.geojson"
            )
        used.update(mine)
        found += [find_examples(result, files[name]) for name in mine]
    if not found or used != set(files):
        strange = ", ".join(sorted(set(files) - used)[:3]) or "nothing"
        raise UsageError(
            f"{given} holds {strange} for which there is no run; name each file of examples after "
            "its slide (a.svs.geojson) and give the run of that slide"
        )
    return found


def _suffix(name: str) -> str | None:
    """Return which ending makes a name that of a file of examples; None if it is none."""
    return next((s for s in sorted(_SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)


def _learn(found: Sequence[RunExamples], options: ClassifyOptions) -> _Made:
    """Return the model of all examples, checked by cross-validation."""
    _refuse_several_models([each.result for each in found])
    counts = Counter(name for each in found for name in each.class_names)
    _refuse_too_few(counts)
    classes = tuple(sorted(counts))
    features = chosen_features([each.result for each in found], options.features)
    values = np.concatenate([example_values(each, features) for each in found])
    values, features, dropped = without_the_empty(values, features)
    if not features:
        raise UsageError("no measurement differs between the examples; mark other nuclei")
    labelled = _labelled(found, classes, values, options.seed)
    fills = fills_of(features)
    label, group = labelled.label, labelled.group
    strength = best_strength(labelled.values, label, group, fills, options.seed)
    model = fit_model(labelled.values, label, features, classes, strength, fills)
    report = check_model(model, labelled, strength, fills, dropped, found, options.seed)
    colours = {name: rgb for each in found for name, rgb in each.colours.items()}
    own = {name: rgb for each in found for name, rgb in each.result.class_colours.items()}
    return _Made(
        model,
        own | colours,
        {
            "how": "multinomial logistic regression on examples",
            "segmentation_model": _segmenter(found[0].result),
            "model": model.to_json(),
            "examples_sha256": _fingerprint(found),
            "features_asked_for": list(options.features),
            **report.to_json(),
        },
        report,
    )


def _refuse_several_models(results: Sequence[Result]) -> None:
    first = results[0]
    for result in results[1:]:
        if _segmenter(result) != _segmenter(first):
            raise UsageError(
                f"{first.name} was run with the model {first.model_name}, {result.name} with "
                f"{result.model_name}: their numbers are not alike; give examples in runs of one "
                "model"
            )


def _refuse_too_few(counts: Mapping[str, int]) -> None:
    said = ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"
    if len(counts) < 2:
        raise UsageError(
            f"examples of two classes at least are needed; there are: {said}; mark nuclei that "
            "are not of the class as another, such as Other"
        )
    few = [name for name, n in sorted(counts.items()) if n < LEAST_EXAMPLES]
    if few:
        raise UsageError(
            f"too few examples of {', '.join(few)} (there are: {said}); mark at least "
            f"{LEAST_EXAMPLES} nuclei of each class, better 20 or more, on all parts of the slide"
        )


def _labelled(
    found: Sequence[RunExamples], classes: Sequence[str], values: Any, seed: int
) -> Labelled:
    """Return the examples as numbers; at most 1,000 of a class, drawn by lot."""
    label = np.array([classes.index(n) for each in found for n in each.class_names], np.int64)
    slide = np.repeat(np.arange(len(found)), [len(each.cell_id) for each in found])
    group = np.concatenate([each.group for each in found])
    # Numbers of different files must differ.
    group = np.unique(np.column_stack([slide, group]), axis=0, return_inverse=True)[1].ravel()
    lot = np.random.default_rng(seed).permutation(len(label))
    kept = [lot[label[lot] == k][:_MOST_EXAMPLES] for k in range(len(classes))]
    rows = np.sort(np.concatenate(kept))
    return Labelled(values[rows], label[rows], group[rows].astype(np.int64), slide[rows])


def _segmenter(result: Result) -> dict[str, str]:
    return {"name": result.model_name, "sha256": str(result.run["model"]["sha256"])}


def _fingerprint(found: Sequence[RunExamples]) -> str:
    """Return a SHA-256 of which nuclei of which runs are examples of what."""
    digest = hashlib.sha256()
    for each in found:
        digest.update(repr((each.result.name, each.result.run["n_cells"])).encode())
        digest.update(each.cell_id.tobytes() + repr(each.class_names).encode())
    return digest.hexdigest()


def _taken_from(path: Path) -> _Made:
    """Return the model of a version made before."""
    record = read_classes_record(path)
    made_by = record.get("made_by")
    try:
        if not isinstance(made_by, Mapping):
            raise ValueError("made_by is missing")
        model = model_from_json(made_by.get("model", {}))
    except ValueError as error:
        raise ResultNotReadable(
            f"{path} holds no model ({error}); give the JSON of a version that wsiseg classify "
            "made from examples"
        ) from error
    colours = {entry["name"]: tuple(entry["rgb"]) for entry in record["classes"]}
    return _Made(model, colours, dict(made_by) | {"taken_from": record.get("name")}, None)


def _write(result: Result, name: str, made: _Made) -> Result:
    """Write the new classes of a run, and open it with them."""
    needed = made.made_by.get("segmentation_model")
    if needed != _segmenter(result):
        said = needed.get("name") if isinstance(needed, Mapping) else needed
        raise ResultNotReadable(
            f"{result.path.name} was run with the model {result.model_name}, the examples are of "
            f"runs with {said} (or with other weights of it); mark examples in this run"
        )
    refuse_missing(result, made.model.features)
    classes = [
        {"name": each, "index": i, "rgb": list(made.colours.get(each, _PALETTE[i % len(_PALETTE)]))}
        for i, each in enumerate(made.model.classes, start=1)
    ]
    batches = _classified(result, made.model)
    write_class_version(result.path, name, batches, classes, made.made_by)
    return result.with_classes(name)


def _classified(result: Result, model: LinearModel) -> Iterator[pa.RecordBatch]:
    """Yield the new classes in the order of the table."""
    names = pa.array(model.classes, pa.string())
    n_known = np.zeros(len(model.features), np.int64)
    n_rows = 0
    medians = slide_medians(result, model.features)
    for batch in result.batches(["cell_id", *model.features]):
        values = batch_values(batch, model.features) - medians
        n_known += (~np.isnan(values)).sum(axis=0)
        n_rows += batch.num_rows
        probs = model.probabilities(values)
        best = probs.argmax(axis=1)
        columns = [
            batch.column("cell_id").cast(pa.uint32()),
            pc.take(names, pa.array(best)),
            pa.array(probs[np.arange(len(best)), best].astype(np.float32)),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=CLASSES_SCHEMA)
    empty = [name for name, n in zip(model.features, n_known, strict=True) if n == 0]
    if n_rows and empty:
        raise ResultNotReadable(
            f"{result.path.name} has no value of {', '.join(empty)}, which the model needs; "
            "segment the slide again with --overwrite, by a version that measures it"
        )
