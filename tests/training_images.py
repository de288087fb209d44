"""Images of drawn nuclei, and networks that train in seconds, for tests of the training core."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch

from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.models.hovernet import HoverNet, NetworkSpec
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.training.draws import AugmentOptions
from wsiseg.training.fit import TrainOptions
from wsiseg.training.pixels import Pixels, place_pixels

CPU = torch.device("cpu")
TINY = NetworkSpec("test_efficientnet", 4, (16, 16, 16), head_channels=8, n_classes=2)
PLAIN = AugmentOptions(
    crop_px=96,
    mix_share=0,
    stain_gain=0,
    stain_shift=0,
    brightness=0,
    blur_share=0,
    sharpen_share=0,
    jpeg_share=0,
)
"""Colours stay."""
EXACT = replace(PLAIN, scale_share=0, turn_share=0)
"""Pixels are copied."""
OPTIONS = TrainOptions(
    steps=4,
    batch_size=2,
    warmup_steps=2,
    class_weights=(1.0, 2.0),
    checkpoint_steps=2,
    record_steps=1,
    augment=AugmentOptions(crop_px=64),
)


def discs(side_px: int, seed: int = 0, first_label: int = 1) -> LabelledImage:
    """Draw dark discs apart from each other and from the edge; odd labels are class 1."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((side_px, side_px), np.float32)
    centres = np.arange(16, side_px - 12, 24)
    for label, (x, y) in enumerate(((x, y) for y in centres for x in centres), first_label):
        cv2.circle(instances, (int(x), int(y)), int(rng.integers(5, 9)), float(label), -1)
    labels = instances.astype(np.int32)
    classes = np.where(labels > 0, labels % 2, UNKNOWN_CLASS).astype(np.uint8)
    rgb = np.where(labels[..., None] > 0, (80, 60, 130), (225, 170, 200)).astype(np.uint8)
    return LabelledImage(f"discs_{seed}", f"patient_{seed}", rgb, labels, classes)


def numbered_pixels(height: int, width: int, name: str = "numbered") -> LabelledImage:
    """Return an image whose every pixel tells where it was: by colour, label and class."""
    rows, cols = np.mgrid[:height, :width]
    rgb = np.stack([rows, cols, (rows * 7 + cols * 13) % 251], 2).astype(np.uint8)
    labels = (rows * width + cols + 1).astype(np.int32)
    return LabelledImage(name, name, rgb, labels, ((rows + cols) % 5).astype(np.uint8))


def set_of(*images: LabelledImage, weight: float = 1.0) -> LabelSet:
    """Return images as a set with classes."""
    return LabelSet("drawn", images, ("Pale", "Dark"), weight)


def pixels_of(*images: LabelledImage) -> Pixels:
    """Place the images of one set on the CPU."""
    return place_pixels([set_of(*images)], CPU)


def new_network(seed: int = 3) -> HoverNet:
    """Return a small network of random weights."""
    torch.manual_seed(seed)
    return HoverNet(TINY)


def assert_same_weights(one: HoverNet, other: HoverNet) -> None:
    """Compare all that two networks hold, to the bit."""
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    for (name, have), want in pairs:
        assert torch.equal(have, want), name
