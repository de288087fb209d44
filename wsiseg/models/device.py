"""Which device, number format and batch size to use."""

from __future__ import annotations

import torch

from wsiseg.errors import UsageError
from wsiseg.models.card import ModelCard
from wsiseg.models.numerics import Numerics

_BATCH = {"cpu": 1, "cuda": 8}
DEVICES = ("auto", "cpu", "cuda")
_BACKENDS = {("hovernet", "cpu", "float32"): "rows"}
"""By architecture, kind of device and precision; torch for the others."""


def choose_numerics(
    card: ModelCard, device: str, precision: str | None, batch_size: int | None
) -> Numerics:
    """Settle how a model is computed.

    Parameters
    ----------
    card : ModelCard
        Its precision for the kind of device is the default: what happens to be installed
        must not change results.
    device : str
        `auto` (a GPU if torch can use one), `cpu` or `cuda`.
    precision : str or None
        `float32`, `bfloat16` or `float16`; None: the card's.
    batch_size : int or None
        Tiles per call; None: 1 on a CPU, 8 on a GPU.

    Raises
    ------
    UsageError
        If there is no such device or precision.
    """
    if device not in DEVICES:
        raise UsageError(f"device {device!r}; one of {', '.join(DEVICES)} is needed")
    usable = torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise UsageError(
            "--device cuda: torch finds no usable GPU; use --device cpu, or install a torch "
            "built for your GPU"
        )
    kind = "cuda" if device == "cuda" or (device == "auto" and usable) else "cpu"
    chosen = card.precision.get(kind, "float32") if precision is None else precision
    return Numerics(
        device_kind=kind,
        precision=chosen,
        batch_size=_BATCH[kind] if batch_size is None else int(batch_size),
        backend=_BACKENDS.get((card.architecture, kind, chosen), "torch"),
    )
