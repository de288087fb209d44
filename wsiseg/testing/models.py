"""An exactly local stand-in for a network, to test the pipeline to the last pixel."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.decode import DecodeOptions
from wsiseg.models import ModelCard, NucleusClass, Numerics
from wsiseg.records import Maps

_DARK_PX = 5
"""Side of the square over which darkness is averaged."""
_STEP_PX = 4
"""Distance of the two means whose difference is the horizontal or vertical map."""


@dataclass(frozen=True, slots=True)
class LocalNetwork:
    """Dark spots are nuclei, by whole-number arithmetic on a small neighbourhood.

    Its maps are the same wherever a tile starts, so any grid, order or grouping of tiles must
    give the same cells: a map pixel depends on slide pixels at most `field_px` away.  It
    follows `MapsModel`.
    """

    mpp: float = 0.5
    """µm per model pixel."""
    core_px: int = 256
    """Side of a tile's core."""
    margin_px: int = 64
    """Context on each side."""
    darkness: int = 90
    """255 minus red, from which on a spot is a nucleus."""
    smooth_px: int = 5
    """Side of the square, odd, over which the horizontal and vertical maps are averaged: larger
    ones part fewer nuclei; at most 11."""
    min_area_px: int = 10
    """Smaller nuclei are dropped."""
    record: Path | None = None
    """Folder in which an empty file is made for each block predicted, named by its hash."""
    pause_s: float = 0.0
    """Wait before each prediction, for tests that interrupt."""

    def __post_init__(self) -> None:
        if self.smooth_px not in range(1, 12, 2):
            raise ValueError(f"smooth_px is {self.smooth_px}; an odd number up to 11 is needed")

    @property
    def field_px(self) -> int:
        """How far a map pixel looks."""
        return _DARK_PX // 2 + _STEP_PX // 2 + self.smooth_px // 2

    @property
    def card(self) -> ModelCard:
        """A card like a trained model's."""
        return ModelCard(
            name="local-stand-in",
            architecture="none",
            network={"darkness": self.darkness, "smooth_px": self.smooth_px},
            mpp=self.mpp,
            classes=(
                NucleusClass("Epithelial", (220, 60, 60)),
                NucleusClass("Inflammatory", (60, 160, 60)),
            ),
            core_px=self.core_px,
            margin_px=self.margin_px,
            decode=DecodeOptions(sobel_px=5, min_area_px=self.min_area_px).to_json(),
            precision={"cpu": "float32", "cuda": "float32"},
            weights_sha256="",
            licence="Apache-2.0",
            licence_note="a stand-in for tests, of no use on slides.",
            nuclear_area_um2=(0.0, 1e9),
            about={"use": "tests"},
        )

    def predictor(self, numerics: Numerics) -> LocalPredictor:
        """Return the predictor; `numerics` makes no difference to whole numbers."""
        return LocalPredictor(self.darkness, self.smooth_px, self.record, self.pause_s, numerics)


def fine_network() -> LocalNetwork:
    """Return a network for slides of 0.25 µm per pixel, in tiles like the shipped model's.

    For measurements on slides too large for a trained network: it takes some 20 ms of one core
    for a block of 1408² px.  On painted tissue it finds nearly every nucleus; of annotated
    nuclei it touches 85 to 92 in a hundred, but follows the outline of three in ten.
    """
    return LocalNetwork(mpp=0.25, core_px=1024, margin_px=192, smooth_px=9, min_area_px=40)


@dataclass(frozen=True, slots=True)
class LocalPredictor:
    """What `LocalNetwork` runs."""

    darkness: int
    smooth_px: int
    record: Path | None
    pause_s: float
    numerics: Numerics

    def __call__(self, rgb: NDArray[np.uint8]) -> Sequence[Maps]:
        """Return the maps of (n, h, w, 3) blocks."""
        time.sleep(self.pause_s)
        if self.record is not None:
            for block in rgb:
                name = hashlib.sha256(block.tobytes()).hexdigest()
                (self.record / name).touch()
        return [self._maps(block) for block in rgb]

    def _maps(self, block: NDArray[np.uint8]) -> Maps:
        # Everything fits 16 bits: sums of 5 × 5 and 11 × 11 bytes are below 2**15.
        dark = 255 - block[:, :, 0]
        sums = _box_sum(dark, _DARK_PX)
        excess = (sums - np.int16(_DARK_PX**2 * self.darkness)) // np.int16(3)
        nucleus = np.clip(excess, -128, 127).astype(np.int8).view(np.uint8) ^ np.uint8(128)
        mean = (sums // np.int16(_DARK_PX**2)).astype(np.uint8)
        smooth = _box_sum(mean, self.smooth_px)
        hv = np.zeros((2, *dark.shape), np.int8)
        inner, back, ahead = slice(2, -2), slice(None, -_STEP_PX), slice(_STEP_PX, None)
        unit = np.int16(_STEP_PX * self.smooth_px**2 // 25)
        hv[0, :, inner] = np.clip((smooth[:, back] - smooth[:, ahead]) // unit, -127, 127)
        hv[1, inner] = np.clip((smooth[back] - smooth[ahead]) // unit, -127, 127)
        blue = _box_sum(255 - block[:, :, 2], _DARK_PX) // np.int16(_DARK_PX**2)
        classes = np.empty((2, *dark.shape), np.uint8)
        classes[0] = np.clip(128 + 2 * (dark.astype(np.int16) - blue), 0, 255)
        classes[1] = 255 - classes[0]
        return Maps(nucleus, hv, classes)


def _box_sum(values: NDArray[np.uint8], size: int) -> NDArray[np.int16]:
    """Sum over a square; outside the block counts as 0, as a network's padding does."""
    sums = cv2.boxFilter(
        values, cv2.CV_16S, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return np.asarray(sums, np.int16)
