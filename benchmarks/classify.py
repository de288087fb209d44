"""A class known by 20 clicks per class: how often it is right on other images.

Runs the shipped model on annotated images as slides, clicks on annotated nuclei that a nucleus
of the run matches (points at their centroids, as QuPath writes them), calls `wsiseg.classify`,
and asks the new classes of the nuclei in *other* images that match an annotated one (IoU above
0.5).  Every call is the public one.

  consep   five images of CoNSeP that the shipped model was not trained on (its card's
           `held_back`): inflammatory, epithelial, spindle.  The model knows these classes from
           other images, so everything is given with and without its probabilities.

Two ways to click: `others`, clicks spread over all images but the one asked of; `one`, clicks in a
single image, asked of all others.  Takes about 20 minutes on two cores.

  python benchmarks/classify.py DATA [--seeds 10] [--clicks 20] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from measuring import conditions
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.evaluation.metrics import match_instances

MPP = 0.25
FEATURES = {
    "size + colour": "area_um2,colour",
    "all but probabilities": "size,shape,colour,neighbours,ring,texture",
    "probabilities": "probabilities",
    "all": "all",
}


@dataclass(frozen=True)
class Task:
    """Annotated images, and the classes to tell apart."""

    name: str
    folder: str
    images: tuple[str, ...]
    classes: dict[int, str]


TASKS = (
    Task(
        "consep",
        "consep_train",
        ("train_13", "train_17", "train_22", "train_3", "train_8"),
        {2: "Inflammatory", 3: "Epithelial", 4: "Spindle"},
    ),
)


@dataclass(frozen=True)
class Annotated:
    """One image: what is annotated, and which nuclei of the run match."""

    name: str
    run: Path
    xy_px: NDArray[np.float64]
    """(n, 2): centroids of annotated nuclei with a class of the task."""
    label: NDArray[np.int64]
    """(n,): their classes."""
    matched_cell: NDArray[np.int64]
    """(n,): the run's cell that matches, 0 without."""


def prepare(task: Task, data: Path, work: Path) -> list[Annotated]:
    """Run the shipped model on the images of a task, and match."""
    folder = data / task.folder
    out = work / task.name
    slides = [folder / "images" / f"{name}.png" for name in task.images]
    scale, options = wsiseg.ScaleOptions(mpp=MPP), wsiseg.PlanOptions(tissue="none")
    for slide in slides:
        wsiseg.segment(slide, out, scale=scale, options=options, formats=())
    return [annotated(task, folder, name, out / f"{name}.png.wsiseg") for name in task.images]


def annotated(task: Task, folder: Path, name: str, run: Path) -> Annotated:
    inst, types = (np.array(Image.open(folder / k / f"{name}.png")) for k in ("inst", "types"))
    predicted = zarr.open_group(run / "masks.zarr", mode="r")["labels/nuclei/0"][:]
    pairs = match_instances(inst, predicted)
    partner = dict(zip(pairs.reference_label.tolist(), pairs.predicted_label.tolist(), strict=True))
    xy, labels, cells = [], [], []
    for label in np.unique(inst)[1:]:
        rows, cols = np.nonzero(inst == label)
        kind = int(np.bincount(types[rows, cols]).argmax())
        if kind in task.classes:
            xy.append((cols.mean() + 0.5, rows.mean() + 0.5))
            labels.append(kind)
            cells.append(partner.get(int(label), 0))
    return Annotated(name, run, np.array(xy), np.array(labels), np.array(cells))


def click(
    task: Task, images: Sequence[Annotated], n: int, rng: np.random.Generator, folder: Path
) -> None:
    """Write n clicks of each class, spread over images, as QuPath would."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    features: dict[str, list[Any]] = {image.name: [] for image in images}
    for kind, class_name in task.classes.items():
        # Who clicks sees the outlines, and takes nuclei that were found as what they are.
        where = [
            (i, k)
            for i, image in enumerate(images)
            for k in np.flatnonzero((image.label == kind) & (image.matched_cell > 0))
        ]
        chosen = [where[j] for j in rng.choice(len(where), n, replace=False)]
        for i, image in enumerate(images):
            points = [image.xy_px[k].tolist() for j, k in chosen if j == i]
            if points:
                features[image.name].append(
                    {
                        "type": "Feature",
                        "geometry": {"type": "MultiPoint", "coordinates": points},
                        "properties": {"objectType": "annotation", "classification": class_name},
                    }
                )
    for name, some in features.items():
        if some:
            text = json.dumps({"type": "FeatureCollection", "features": some})
            (folder / f"{name}.png.geojson").write_text(text)


def said_of(task: Task, image: Annotated, version: str | None) -> NDArray[np.int64]:
    """Return the class a run says of each annotated nucleus that matched; 0 for another."""
    names = wsiseg.open_result(image.run, version).cells(columns=["class_name"])["class_name"]
    codes = {name: kind for kind, name in task.classes.items()}
    code = np.array([codes.get(name, 0) for name in names.to_pylist()])
    return code[image.matched_cell[image.matched_cell > 0] - 1]


def truth(image: Annotated) -> NDArray[np.int64]:
    return image.label[image.matched_cell > 0]


def balanced(true: NDArray[np.int64], said: NDArray[np.int64], kinds: Sequence[int]) -> float:
    """Mean over the classes that are there of the share said right."""
    there = [kind for kind in kinds if (true == kind).any()]
    return float(np.mean([(said[true == kind] == kind).mean() for kind in there]))


@dataclass(frozen=True)
class Outcome:
    """One drawing of clicks and all images asked."""

    way: str
    features: str
    seed: int
    pooled: float
    by_image: dict[str, float]
    promised: float | None
    """What cross-validation said beforehand."""
    held: bool
    """Whether its interval holds `pooled`."""


def splits(
    way: str, images: Sequence[Annotated], task: Task, n: int
) -> Iterator[tuple[list[Annotated], list[Annotated]]]:
    """Yield images to click in and images to ask, which are others."""
    for image in images:
        rest = [other for other in images if other is not image]
        if way == "others":
            yield rest, [image]
        elif all((truth(image) == kind).sum() >= n for kind in task.classes):
            yield [image], rest


def trial(
    task: Task, images: Sequence[Annotated], way: str, features: str, seed: int, n: int, work: Path
) -> Iterator[Outcome]:
    """Click, classify and ask; `others` is pooled over all images, `one` is one outcome each."""
    options = wsiseg.ClassifyOptions(features=FEATURES[features], seed=seed)
    true: dict[str, NDArray[np.int64]] = {}
    said: dict[str, NDArray[np.int64]] = {}
    promises = []
    kinds = list(task.classes)
    for number, (clicked, asked) in enumerate(splits(way, images, task, n)):
        rng = np.random.default_rng([seed, number])
        marks = work / "marks"
        click(task, clicked, n, rng, marks)
        runs = [image.run for image in (*clicked, *asked)]
        found = wsiseg.classify(runs, marks, name="trial", options=options, overwrite=True)
        assert found.report is not None
        promises.append((found.report.balanced_accuracy, found.report.interval))
        here_true = {image.name: truth(image) for image in asked}
        here_said = {image.name: said_of(task, image, "trial") for image in asked}
        if way == "one":
            yield outcome(way, features, seed, here_true, here_said, kinds, promises[-1:])
        else:
            true |= here_true
            said |= here_said
    if way == "others":
        yield outcome(way, features, seed, true, said, kinds, promises)


def outcome(
    way: str,
    features: str,
    seed: int,
    true: dict[str, NDArray[np.int64]],
    said: dict[str, NDArray[np.int64]],
    kinds: list[int],
    promises: Sequence[tuple[float | None, tuple[float, float] | None]],
) -> Outcome:
    whole = np.concatenate(list(true.values())), np.concatenate(list(said.values()))
    pooled = balanced(*whole, kinds)
    known = [p for p, _ in promises if p is not None]
    held = [i is not None and i[0] <= pooled <= i[1] for _, i in promises]
    return Outcome(
        way,
        features,
        seed,
        pooled,
        {name: balanced(true[name], said[name], kinds) for name in true},
        float(np.mean(known)) if known else None,
        bool(np.mean(held) > 0.5),
    )


def report(task: Task, images: Sequence[Annotated], outcomes: Sequence[Outcome]) -> None:
    kinds = list(task.classes)
    n = [int((np.concatenate([truth(i) for i in images]) == kind).sum()) for kind in kinds]
    counted = ", ".join(f"{task.classes[k]} {m}" for k, m in zip(kinds, n, strict=True))
    total = sum(len(image.label) for image in images)
    print(f"\n{task.name}: {len(images)} images, {total} annotated nuclei; matched: {counted}")
    true = np.concatenate([truth(image) for image in images])
    own = np.concatenate([said_of(task, image, None) for image in images])
    if set(task.classes.values()) <= set(wsiseg.open_result(images[0].run).class_names):
        print(f"the model's own classes: {100 * balanced(true, own, kinds):.1f} %")
    rows = []
    for way in dict.fromkeys(o.way for o in outcomes):
        base = {
            o.seed: o.pooled for o in outcomes if o.way == way and o.features == "size + colour"
        }
        for features in FEATURES:
            these = [o for o in outcomes if o.way == way and o.features == features]
            values = np.array([o.pooled for o in these])
            low, high = np.percentile(values, [2.5, 97.5])
            by_image = {
                name: np.mean([o.by_image[name] for o in these if name in o.by_image])
                for name in dict.fromkeys(k for o in these for k in o.by_image)
            }
            worst = min(by_image, key=lambda name: by_image[name])
            seeds = [np.mean([o.pooled for o in these if o.seed == s]) for s in sorted(base)]
            plain = [
                np.mean(
                    [
                        o.pooled
                        for o in outcomes
                        if o.way == way and o.features == "size + colour" and o.seed == s
                    ]
                )
                for s in sorted(base)
            ]
            gain = np.array(seeds) - np.array(plain)
            promised = [o.promised for o in these if o.promised is not None]
            rows.append(
                {
                    "clicks in": "one image" if way == "one" else "other images",
                    "measurements": features,
                    "trials": len(these),
                    "balanced accuracy %": f"{100 * values.mean():.1f}",
                    "95 % of trials": f"{100 * low:.1f}–{100 * high:.1f}",
                    "gain": f"{100 * gain.mean():+.1f} ± {100 * gain.std(ddof=1):.1f}",
                    "worst image": f"{worst} {100 * by_image[worst]:.0f}",
                    "foretold %": f"{100 * np.mean(promised):.1f}",
                    "interval held": f"{100 * np.mean([o.held for o in these]):.0f} %",
                }
            )
    names = list(rows[0])
    for cells in (names, ["---"] * len(names), *([row[name] for name in names] for row in rows)):
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder that holds consep_train")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--work", type=Path, help="keeps the runs; else a temporary folder")
    given = parser.parse_args()
    print(conditions("numpy", "pyarrow", "shapely"))
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        for task in TASKS:
            images = prepare(task, given.data, work)
            outcomes = [
                one
                for way in ("others", "one")
                for features in FEATURES
                for seed in range(given.seeds)
                for one in trial(task, images, way, features, seed, given.clicks, work)
            ]
            report(task, images, outcomes)


if __name__ == "__main__":
    main()
