"""Which device, number format and batch size to use."""

from __future__ import annotations

import torch

from wsiseg.errors import UsageError
from wsiseg.models.card import ModelCard
from wsiseg.models.numerics import Numerics

_BATCH = {"cpu": 1, "cuda": 8}
DEVICES = ("auto", "cpu", "cuda", "cuda:0,1")
_BACKENDS = {("hovernet", "cpu", "float32"): "rows"}
"""By architecture, kind of device and precision; torch for the others."""


def choose_numerics(
    card: ModelCard, device: str, precision: str | None, batch_size: int | None
) -> Numerics:
    """Settle how a model is computed on this machine.

    Parameters
    ----------
    card : ModelCard
        Its precision for the kind of device is the default: what happens to be installed
        must not change results.
    device : str
        `auto` (a GPU if torch can use one), `cpu`, `cuda`, or `cuda:` and numbers of GPUs.
    precision : str or None
        `float32`, `bfloat16` or `float16`; None: the card's.
    batch_size : int or None
        Tiles per call; None: 1 on a CPU, 8 on a GPU.

    Raises
    ------
    UsageError
        If there is no such device or precision.
    """
    return numerics_on(kind_here(device), card, precision, batch_size)


def numerics_on(
    kind: str,
    card: ModelCard,
    precision: str | None,
    batch_size: int | None,
    tta: str = "none",
) -> Numerics:
    """Settle how a model is computed on a kind of device, wherever it is: `cpu` or `cuda`."""
    chosen = card.precision.get(kind, "float32") if precision is None else precision
    return Numerics(
        device_kind=kind,
        precision=chosen,
        batch_size=_BATCH[kind] if batch_size is None else int(batch_size),
        backend=_BACKENDS.get((card.architecture, kind, chosen), "torch"),
        tta=tta,
    )


def parse_device(device: str) -> tuple[str, tuple[int, ...]]:
    """Return what a device is called without numbers, and the numbers of its GPUs.

    Raises
    ------
    UsageError
        If it is none of `DEVICES`.
    """
    name, colon, numbers = device.partition(":")
    try:
        gpus = tuple(int(number) for number in numbers.split(",")) if colon else ()
    except ValueError:
        gpus = (-1,)
    if name not in DEVICES or (colon and name != "cuda") or min(gpus, default=0) < 0:
        raise UsageError(f"device {device!r}; one of {', '.join(DEVICES)} is needed")
    if len(set(gpus)) < len(gpus):
        raise UsageError(f"device {device!r} names a GPU twice; name each once")
    return name, gpus


def kind_here(device: str) -> str:
    """Return the kind of device that is meant on this machine: `cpu` or `cuda`.

    Raises
    ------
    UsageError
        If there is no such device.
    """
    name, gpus = parse_device(device)
    usable = gpus_here() if name != "cpu" else 0
    if name == "cuda" and not usable:
        raise UsageError(
            f"--device {device}: torch finds no usable GPU; use --device cpu, or install a torch "
            "built for your GPU"
        )
    if max(gpus, default=-1) >= usable > 0:
        raise UsageError(
            f"--device {device}: torch finds {usable} GPUs; their numbers are 0 to {usable - 1}"
        )
    return "cuda" if usable else "cpu"


def gpus_here() -> int:
    """Return how many GPUs torch can use on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpus_meant(device: str) -> tuple[int, ...]:
    """Return which GPUs need a process each; empty: this process does, with or without a GPU.

    `auto` means the first; `cuda` all that torch sees; `cuda:0,1` those.
    """
    name, gpus = parse_device(device)
    if kind_here(device) == "cpu" or name == "auto":
        return ()
    gpus = gpus or tuple(range(gpus_here()))
    return () if gpus == (0,) else gpus
