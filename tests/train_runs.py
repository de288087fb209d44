"""Folders of drawn nuclei, and trainings that take seconds, for tests."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from wsiseg import LabelOptions, TrainedModel, TrainRunOptions, train

OPTIONS = TrainRunOptions(
    steps=14, encoder="test_efficientnet", batch_size=2, crop_px=64, device="cpu", validation=0.3
)
LABELS = LabelOptions(mpp=0.25, class_of={"1": "Dark", "2": "Pale"}, licence="CC0-1.0")
CHECKPOINT_STEPS = 10
"""Of a training of so few steps."""


def draw_folder(folder: Path, names: Sequence[str], side_px: int = 112) -> Path:
    """Draw images of dark and pale discs in the layout of our folders."""
    for part in ("images", "inst", "types"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        instances = np.zeros((side_px, side_px), np.float32)
        centres = np.arange(16, side_px - 12, 24)
        for label, (x, y) in enumerate(((x, y) for y in centres for x in centres), 1):
            at = (int(x + rng.integers(-2, 3)), int(y + rng.integers(-2, 3)))
            cv2.circle(instances, at, int(rng.integers(5, 9)), float(label), -1)
        labels = instances.astype(np.uint16)
        types = np.where(labels > 0, labels % 2 + 1, 0).astype(np.uint8)
        colours = np.array([(225, 170, 200), (70, 50, 120), (110, 80, 150)])
        rgb = np.clip(colours[types] + rng.normal(0, 6, (*labels.shape, 3)), 0, 255)
        Image.fromarray(rgb.astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "inst" / f"{name}.png")
        Image.fromarray(types).save(folder / "types" / f"{name}.png")
    with (folder / "manifest.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([["name"], *([name] for name in names)])
    return folder


def train_discs(
    data: Path,
    out: Path,
    options: TrainRunOptions = OPTIONS,
    labels: LabelOptions = LABELS,
    **more: Any,
) -> TrainedModel:
    """Train for seconds."""
    return train([data], out, options, labels, **more)


def weights_of(out: Path) -> bytes:
    """Return the weights that a training ended with."""
    return (out / "model" / "weights.safetensors").read_bytes()


def steps_in(path: Path) -> list[int]:
    """Return the steps of a log."""
    with path.open(newline="") as lines:
        return [int(row["step"]) for row in csv.DictReader(lines)]
