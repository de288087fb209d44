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

FIELD_PX = 6
"""A map pixel of `LocalNetwork` depends on slide pixels no further away than this."""


@dataclass(frozen=True, slots=True)
class LocalNetwork:
    """Dark spots are nuclei, by whole-number arithmetic on a small neighbourhood.

    Its maps are the same wherever a tile starts, so any grid, order or grouping of tiles must
    give the same cells.  It follows `MapsModel`.
    """

    mpp: float = 0.5
    """µm per model pixel."""
    core_px: int = 256
    """Side of a tile's core."""
    margin_px: int = 64
    """Context on each side."""
    darkness: int = 90
    """255 minus red, from which on a spot is a nucleus."""
    record: Path | None = None
    """Folder in which an empty file is made for each block predicted, named by its hash."""
    pause_s: float = 0.0
    """Wait before each prediction, for tests that interrupt."""

    @property
    def card(self) -> ModelCard:
        """A card like a trained model's."""
        return ModelCard(
            name="local-stand-in",
            architecture="none",
            network={"darkness": self.darkness},
            mpp=self.mpp,
            classes=(
                NucleusClass("Epithelial", (220, 60, 60)),
                NucleusClass("Inflammatory", (60, 160, 60)),
            ),
            core_px=self.core_px,
            margin_px=self.margin_px,
            decode=DecodeOptions(sobel_px=5).to_json(),
            precision={"cpu": "float32", "cuda": "float32"},
            weights_sha256="",
            licence="Apache-2.0",
            licence_note="a stand-in for tests, of no use on slides.",
            nuclear_area_um2=(0.0, 1e9),
            about={"use": "tests"},
        )

    def predictor(self, numerics: Numerics) -> LocalPredictor:
        """Return the predictor; `numerics` makes no difference to whole numbers."""
        return LocalPredictor(self.darkness, self.record, self.pause_s, numerics)


@dataclass(frozen=True, slots=True)
class LocalPredictor:
    """What `LocalNetwork` runs."""

    darkness: int
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
        dark = 255 - block[:, :, 0].astype(np.int32)
        smooth = _box_sum(dark, 5)
        nucleus = np.clip((smooth - 25 * self.darkness) // 3 + 128, 0, 255).astype(np.uint8)
        sums = _box_sum(smooth // 25, 5)
        hv = np.zeros((2, *dark.shape), np.int32)
        hv[0, :, 2:-2] = sums[:, :-4] - sums[:, 4:]
        hv[1, 2:-2, :] = sums[:-4, :] - sums[4:, :]
        blue = _box_sum(255 - block[:, :, 2].astype(np.int32), 5) // 25
        first = np.clip(128 + 2 * (dark - blue), 0, 255)
        classes = np.stack([first, 255 - first]).astype(np.uint8)
        return Maps(nucleus, np.clip(hv // 4, -127, 127).astype(np.int8), classes)


def _box_sum(values: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Sum over a square; outside the block counts as 0, as a network's padding does."""
    sums = cv2.boxFilter(
        values.astype(np.float64), -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    # Sums of small whole numbers are exact in float64.
    return np.asarray(sums, np.int32)
