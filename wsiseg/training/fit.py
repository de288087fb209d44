"""The training loop, on a CPU or a GPU."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wsiseg.errors import Interrupted, TrainingFailed
from wsiseg.labels.records import LabelSet
from wsiseg.models.hovernet import HoverNet, to_input
from wsiseg.training.augment import RIM_PX, make_batch
from wsiseg.training.checkpoints import load_checkpoint, save_checkpoint
from wsiseg.training.draws import AugmentOptions, Draws, draw_crops
from wsiseg.training.losses import LossWeights, Targets, loss_parts
from wsiseg.training.pixels import Pixels, place_pixels
from wsiseg.training.targets import distance_targets

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train."""

    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 16
    """Crops per step."""
    learning_rate: float = 1.5e-3
    """Peak rate of decoder and heads; cosine to 0 after a short warm-up."""
    encoder_rate: float = 0.4
    """The encoder's rate as a share of `learning_rate`."""
    weight_decay: float = 1e-2
    """AdamW's."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    clip_norm: float = 5.0
    """Largest gradient norm."""
    ema_decay: float = 0.995
    """The shipped weights are an exponential average of those trained."""
    class_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    """Weight of each class in the class loss."""
    silent_rim_px: int = 0
    """Pixels at a crop's edge, where the network sees little around them, without loss."""
    checkpoint_steps: int = 100
    """Steps between checkpoints."""
    record_steps: int = 10
    """Steps between two records of the loss."""
    seed: int = 0
    """Seed of the crops; with a step's number it decides all of them."""
    device: str = "cpu"
    """`cpu` or a torch name of a GPU, such as `cuda`."""
    precision: Precision = "float32"
    """Number format of the network's arithmetic; weights stay float32."""
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentOptions = field(default_factory=AugmentOptions)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How a training goes; means over the steps since the last record."""

    step: int
    """Steps done."""
    loss: float
    """Weighted sum of the parts."""
    nucleus: float
    hv: float
    classes: float
    learning_rate: float
    """Of decoder and heads."""
    images_per_s: float
    """Crops trained on per second."""
    seconds: float
    """Since this call began."""


def ignore_record(_: StepRecord) -> None:
    """Do nothing."""


def fit(
    network: HoverNet,
    sets: Sequence[LabelSet],
    options: TrainOptions,
    folder: Path,
    *,
    on_step: Callable[[StepRecord], None] = ignore_record,
) -> HoverNet:
    """Train a network and return its averaged twin, on the CPU.

    Continues from `folder/checkpoint.pt` if there is one: crops are a function of seed and
    step, so a run that was interrupted sees the same crops as one that was not.

    Parameters
    ----------
    network : HoverNet
        With encoder weights loaded, if any.
    sets : sequence of LabelSet
        Sampled by their weights.
    options : TrainOptions
        How to train.
    folder : Path
        For `checkpoint.pt`.
    on_step : callable
        Called with a `StepRecord` every `record_steps` steps and after the last.  May raise
        `Interrupted`: then a checkpoint of that very step is left.

    Raises
    ------
    TrainingFailed
        If the loss or its gradient is no number; the checkpoint of before stays.
    OutputNotWritable
        If the disk is full; the checkpoint of before stays.
    """
    device = torch.device(options.device)
    pixels = place_pixels(sets, device)
    return fit_pixels(network, pixels, options, folder, on_step=on_step)


def fit_pixels(
    network: HoverNet,
    pixels: Pixels,
    options: TrainOptions,
    folder: Path,
    *,
    on_step: Callable[[StepRecord], None] = ignore_record,
) -> HoverNet:
    """Train on pixels that are on the device already; otherwise as `fit`."""
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    network.to(device=device, memory_format=layout).train()  # type: ignore[call-overload]
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimiser = _optimiser(network, options)
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "float16")
    state = {
        "network": network, "averaged": averaged, "optimiser": optimiser, "scaler": scaler
    }  # fmt: skip
    start = load_checkpoint(folder / "checkpoint.pt", state, device)
    averaging = _Averaging(averaged, network)
    recorder = _Recorder(options, on_step)
    for step in range(start + 1, options.steps + 1):
        draws = draw_crops(pixels, options.augment, options.batch_size, options.seed, step)
        # Of the ways to convolve, a GPU's library tries which is fastest for these sizes.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, benchmark_limit=3):
            losses = _step(network, optimiser, scaler, pixels, draws, options, step)
        averaging.add(min(options.ema_decay, step / (step + 10)))
        due = step % options.checkpoint_steps == 0 or step == options.steps
        try:
            recorder.add(step, losses, [pixels.names[i] for i in draws.image])
            if due:
                recorder.report(step)
        except Interrupted:
            _refuse_no_numbers(network, step, options)
            save_checkpoint(folder / "checkpoint.pt", state, step)
            raise
        if due:
            _refuse_no_numbers(network, step, options)
            save_checkpoint(folder / "checkpoint.pt", state, step)
    return averaged.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload, no-any-return]


def _step(
    network: HoverNet,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    pixels: Pixels,
    draws: Draws,
    options: TrainOptions,
    step: int,
) -> Tensor:
    """Learn from one batch; return what to check, on the device: loss, its parts, norm."""
    device = pixels.rgb.device
    with torch.no_grad():
        batch = make_batch(pixels, draws, options.augment.crop_px)
        inner = slice(RIM_PX, -RIM_PX)
        distances = distance_targets(batch.instances, pixels.most_instances)
        targets = Targets(
            batch.instances[:, inner, inner],
            distances[:, :, inner, inner],
            batch.classes,
            _with_silent_rim(batch.known, options.silent_rim_px),
        )
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * _rate(step, options)
    dtype = getattr(torch, options.precision)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        images = to_input(batch.rgb)
        if device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        maps = network(images)
    class_weights = torch.tensor(options.class_weights, device=device)
    parts = loss_parts(maps, targets, class_weights)
    loss = parts.total(options.loss)
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimiser)
    norm = nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
    scaler.step(optimiser)
    scaler.update()
    # A loss may be fine and its gradient not.  The scaler leaves such steps out by itself.
    checked = [loss, *parts] if scaler.is_enabled() else [loss, *parts, norm]
    return torch.stack(checked).detach()


def _refuse_no_numbers(network: nn.Module, step: int, options: TrainOptions) -> None:
    """Refuse weights that a step made no numbers, though its own loss was one.

    Raises
    ------
    TrainingFailed
        If there are any.
    """
    state = [value for value in network.state_dict().values() if value.dtype.is_floating_point]
    if not bool(torch.stack([value.isfinite().all() for value in state]).all()):
        raise TrainingFailed(
            f"weights are no numbers after step {step}; the last checkpoint is intact. Try a lower "
            f"learning rate, or float32 instead of {options.precision}"
        )


def _with_silent_rim(known: Tensor, rim_px: int) -> Tensor:
    if rim_px == 0:
        return known
    silent = torch.zeros_like(known)
    inner = slice(rim_px, -rim_px)
    silent[:, inner, inner] = known[:, inner, inner]
    return silent


def _rate(step: int, options: TrainOptions) -> float:
    warm = min(1.0, step / max(1, options.warmup_steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))


def _optimiser(network: HoverNet, options: TrainOptions) -> torch.optim.Optimizer:
    encoder = list(network.encoder.parameters())
    known = {id(parameter) for parameter in encoder}
    others = [p for p in network.parameters() if id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": encoder, "peak": options.learning_rate * options.encoder_rate},
        {"params": others, "peak": options.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=options.weight_decay)


class _Averaging:
    """Keeps a twin whose weights are an exponential average; its tensors are looked up once."""

    def __init__(self, averaged: nn.Module, network: nn.Module) -> None:
        pairs = list(
            zip(averaged.state_dict().values(), network.state_dict().values(), strict=True)
        )
        numbers = [pair for pair in pairs if pair[0].dtype.is_floating_point]
        self._means, self._values = ([pair[i] for pair in numbers] for i in (0, 1))
        self._counts = [pair for pair in pairs if not pair[0].dtype.is_floating_point]

    @torch.no_grad()
    def add(self, decay: float) -> None:
        """Move the twin towards the network."""
        torch._foreach_lerp_(self._means, self._values, 1 - decay)
        for mean, value in self._counts:
            mean.copy_(value)


class _Recorder:
    """Gathers losses on the device, and fetches them now and then: each fetch waits for it."""

    def __init__(self, options: TrainOptions, on_step: Callable[[StepRecord], None]) -> None:
        self._options = options
        self._on_step = on_step
        self._began = self._last = time.monotonic()
        self._losses: list[Tensor] = []
        self._names: list[list[str]] = []

    def add(self, step: int, losses: Tensor, names: list[str]) -> None:
        """Take the losses of a step, and report if it is time to."""
        self._losses.append(losses)
        self._names.append(names)
        if len(self._losses) >= self._options.record_steps:
            self.report(step)

    def report(self, step: int) -> None:
        """Hand out a record of the steps since the last one.

        Raises
        ------
        TrainingFailed
            If a loss or its gradient is no number.
        """
        if not self._losses:
            return
        losses = torch.stack(self._losses).double().cpu()
        self._check(losses, step)
        now = time.monotonic()
        crops = len(losses) * self._options.batch_size
        loss, nucleus, hv, classes = losses[:, :4].mean(0).tolist()
        self._on_step(
            StepRecord(
                step,
                loss,
                nucleus,
                hv,
                classes,
                learning_rate=self._options.learning_rate * _rate(step, self._options),
                images_per_s=crops / max(now - self._last, 1e-9),
                seconds=now - self._began,
            )
        )
        self._last = now
        self._losses, self._names = [], []

    def _check(self, losses: Tensor, step: int) -> None:
        bad = (~losses.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            first = step - len(losses) + 1 + bad[0]
            names = ", ".join(sorted(set(self._names[bad[0]])))
            raise TrainingFailed(
                f"the loss of step {first} or its gradient is no number (crops of: "
                f"{names}); the last checkpoint is intact. Try a lower learning rate, float32 "
                f"instead of {self._options.precision}, or look at these images"
            )
