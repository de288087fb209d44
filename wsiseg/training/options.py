"""How to train: what a person may say, and what is settled from the images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from wsiseg.errors import UsageError
from wsiseg.labels.options import check_mpp
from wsiseg.models.numerics import PRECISIONS

DEFAULT_ENCODER = "tf_efficientnet_lite0"


@dataclass(frozen=True, slots=True)
class TrainRunOptions:
    """What a person may say of a training; nothing has to be said.

    Raises
    ------
    UsageError
        If a value is out of range, or steps and minutes are both given.
    """

    steps: int | None = None
    """Optimiser steps; None: from the number of nuclei, or from `minutes`."""
    minutes: float | None = None
    """About how long to train on this machine as busy as it is; the first steps are timed."""
    validation: float | tuple[str, ...] = 0.2
    """Share of each set's patients to hold back, or names of patients or images."""
    model_mpp: float | None = None
    """µm per pixel of the model; None: the images' own."""
    seed: int = 0
    """Chooses who is held back, first weights and crops."""
    start: str | None = None
    """Name or folder of a model to go on from, or `chance`: random weights; None: ImageNet's in the
    encoder if they are installed."""
    encoder: str = DEFAULT_ENCODER
    """timm encoder of a new network; a model to go on from has its own."""
    weights: tuple[float, ...] = ()
    """Share of the crops from each set, in their order; (): as the sets say."""
    batch_size: int | None = None
    """Crops per step; None: 8 on a CPU, 16 on a GPU."""
    crop_px: int | None = None
    """Side of crops; None: 256, or less if the images are smaller."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: str | None = None
    """Number format of the network's arithmetic; None: what is fast on the device."""
    name: str | None = None
    """Of the model; None: its folder's."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise UsageError("both steps and minutes were given; give one of them")
        for what, value in (("steps", self.steps), ("batch size", self.batch_size)):
            if value is not None and value < 1:
                raise UsageError(f"{what} {value}; a whole number of at least 1 is needed")
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise UsageError(f"minutes {self.minutes:g}; a number above 0 is needed")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}; a whole number from 0 on is needed")
        check_mpp(self.model_mpp, "the model's mpp")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError(
                f"precision {self.precision!r}; one of {', '.join(PRECISIONS)} is needed"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise UsageError(f"weights {self.weights}; numbers above 0 are needed")

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON values, what must stay the same to go on with a training."""
        values = asdict(self)
        # Where it runs may change; what it is called is not in the weights; and a model to go on
        # from is known by its hash, wherever it lies.
        for name in ("device", "name", "start"):
            del values[name]
        held = values["validation"]
        return values | {
            "validation": list(held) if isinstance(held, tuple) else held,
            "weights": list(self.weights),
        }
