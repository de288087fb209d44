"""The training loop."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from wsiseg.labels.records import LabelledImage
from wsiseg.models.hovernet import HoverNet, to_input
from wsiseg.training.augment import AugmentOptions, random_crop
from wsiseg.training.losses import LossWeights, total_loss
from wsiseg.training.targets import distance_targets


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
    checkpoint_steps: int = 100
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of initial weights and, with a crop's number, of each crop."""
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentOptions = field(default_factory=AugmentOptions)


Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""(n, 3, h, w) uint8 image, (n, h, w) instances, (n, 2, h, w) distances, (n, h, w) classes."""
BatchesFrom = Callable[[int], Iterable[Batch]]
"""From the number of steps done to the batches that follow; the same however often asked."""


class Crops(Dataset[Batch]):
    """Crop number i is a function of the seed and i alone, whoever asks for it."""

    def __init__(
        self, sources: Sequence[Sequence[LabelledImage]], options: TrainOptions, first: int
    ) -> None:
        self._sources = sources
        self._options = options
        self._first = first

    def __len__(self) -> int:
        return self._options.steps * self._options.batch_size - self._first

    def __getitem__(self, index: int) -> Batch:
        number = self._first + index
        rng = np.random.default_rng((self._options.seed, number))
        source = self._sources[number % len(self._sources)]
        crop = random_crop(source[int(rng.integers(len(source)))], rng, self._options.augment)
        return (
            torch.from_numpy(crop.rgb).permute(2, 0, 1),
            torch.from_numpy(crop.instances),
            torch.from_numpy(distance_targets(crop.instances)),
            torch.from_numpy(crop.classes).long(),
        )


def fit(
    network: HoverNet,
    sources: Sequence[Sequence[LabelledImage]],
    options: TrainOptions,
    folder: Path,
) -> HoverNet:
    """Train a network on the CPU and return its averaged twin.

    Continues from `folder/checkpoint.pt` if there is one: crops are numbered, so a run
    that was interrupted sees the same crops as one that was not.

    Parameters
    ----------
    network : HoverNet
        With encoder weights loaded, if any.
    sources : sequence of sequences of LabelledImage
        Data sets, sampled in turn.
    options : TrainOptions
        How to train.
    folder : Path
        For `log.csv` and `checkpoint.pt`.
    """
    return fit_batches(network, partial(_loaded_batches, sources, options), options, folder)


def fit_batches(
    network: HoverNet, batches_from: BatchesFrom, options: TrainOptions, folder: Path
) -> HoverNet:
    """Train a network on numbered batches; otherwise as `fit`."""
    folder.mkdir(parents=True, exist_ok=True)
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimiser = _optimiser(network, options)
    state = {"network": network, "averaged": averaged, "optimiser": optimiser}
    start = _load_checkpoint(folder / "checkpoint.pt", state)
    class_weights = torch.tensor(options.class_weights)
    network.train()
    began = time.monotonic()
    for step, batch in enumerate(batches_from(start), start=start + 1):
        loss = _step(network, optimiser, batch, options, class_weights, step)
        _average(averaged, network, min(options.ema_decay, step / (step + 10)))
        _log(folder / "log.csv", step, loss, time.monotonic() - began)
        if step % options.checkpoint_steps == 0 or step == options.steps:
            _save_checkpoint(folder / "checkpoint.pt", state, step)
    return averaged.eval()


def _loaded_batches(
    sources: Sequence[Sequence[LabelledImage]], options: TrainOptions, start: int
) -> Iterator[Batch]:
    crops = Crops(sources, options, start * options.batch_size)
    return iter(
        DataLoader(
            crops,
            batch_size=options.batch_size,
            num_workers=1,
            multiprocessing_context="spawn",
            prefetch_factor=4,
        )
    )


def _step(
    network: HoverNet,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    options: TrainOptions,
    class_weights: Tensor,
    step: int,
) -> float:
    rgb, instances, distances, classes = batch
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * _rate(step, options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = network(to_input(rgb))
    loss = total_loss(maps, instances, distances, classes, options.loss, class_weights)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
    optimiser.step()
    return float(loss.detach())


def _rate(step: int, options: TrainOptions) -> float:
    warm = min(1.0, step / max(1, options.warmup_steps))
    return warm * 0.5 * (1 + float(np.cos(np.pi * step / options.steps)))


def _optimiser(network: HoverNet, options: TrainOptions) -> torch.optim.Optimizer:
    encoder = list(network.encoder.parameters())
    known = {id(parameter) for parameter in encoder}
    others = [p for p in network.parameters() if id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": encoder, "peak": options.learning_rate * options.encoder_rate},
        {"params": others, "peak": options.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=options.weight_decay)


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _log(path: Path, step: int, loss: float, seconds: float) -> None:
    with path.open("a", newline="") as lines:
        csv.writer(lines).writerow([step, f"{loss:.4f}", f"{seconds:.1f}"])


def _save_checkpoint(path: Path, state: dict[str, Any], step: int) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(
        {"step": step} | {name: part.state_dict() for name, part in state.items()}, temporary
    )
    temporary.replace(path)


def _load_checkpoint(path: Path, state: dict[str, Any]) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])
