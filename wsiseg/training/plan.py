"""All that is settled before the first step of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch

from wsiseg.errors import UsageError
from wsiseg.labels.records import LabelSet, LabelSets
from wsiseg.labels.resampling import resample_sets
from wsiseg.models.device import kind_here, parse_device
from wsiseg.models.hovernet import NetworkSpec
from wsiseg.training.draws import AugmentOptions
from wsiseg.training.fit import TrainOptions
from wsiseg.training.numbers import (
    class_counts,
    class_weights_for,
    common_mpp,
    crop_px_for,
    nucleus_areas_px,
    steps_for,
)
from wsiseg.training.options import DEFAULT_ENCODER, TrainRunOptions
from wsiseg.training.record import sets_identity
from wsiseg.training.split import Split, split_sets
from wsiseg.training.start import (
    CHANCE,
    Start,
    network_by_chance,
    network_from,
    network_from_imagenet,
)

_LONGEST_AVERAGE = 0.995
_LEAST_WARMUP, _MOST_WARMUP = 10, 50
_RECORD_STEPS = {"cpu": 1, "cuda": 10}
_BATCH = {"cpu": 8, "cuda": 16}


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPlan:
    """What is trained, from what, on what, and for how long."""

    sets: tuple[LabelSet, ...]
    """All of them, at the model's scale."""
    split: Split
    """Who is learned from, and who is held back."""
    class_names: tuple[str, ...]
    """The common list."""
    mpp: float
    """µm per pixel of the model."""
    start: Start
    """The network to begin with."""
    fit: TrainOptions
    """How to train."""
    threads: int
    """Of torch on a CPU; their number is in the last bits of the weights."""
    notes: tuple[str, ...]
    """What the user should know."""

    def identity(self, options: TrainRunOptions) -> dict[str, Any]:
        """Return what must be the same to go on with this training, as plain JSON values."""
        return {
            "options": options.identity(),
            "sets": sets_identity(self.sets),
            "class_names": list(self.class_names),
            "held_back": list(self.split.held_back),
            "begun_from": self.start.origin,
        }

    def settled(self) -> dict[str, Any]:
        """Return what was chosen here and now, and holds until the end."""
        return {
            "steps": self.fit.steps,
            "batch_size": self.fit.batch_size,
            "precision": self.fit.precision,
            "threads": self.threads,
        }


def plan_training(read: LabelSets, options: TrainRunOptions) -> TrainingPlan:
    """Settle all numbers of a training.

    Parameters
    ----------
    read : LabelSets
        Annotated images with their common list of classes.
    options : TrainRunOptions
        What the user says; the rest comes from the images.

    Raises
    ------
    UsageError
        If images, patients, weights or the device do not allow it.
    UnknownName
        If there is no such encoder or model.
    """
    start = _start(options, read.class_names)
    mpp = options.model_mpp
    if mpp is None:
        mpp = common_mpp(read.sets) if start.card is None else start.card.mpp
    scaled = resample_sets(replace(read, sets=_weighted(read.sets, options.weights)), mpp)
    split = split_sets(scaled.sets, options.validation, options.seed)
    fit = _fit_options(split, len(read.class_names), options)
    warnings = [start.warning] if start.warning else []
    counts = class_counts(split.train, len(read.class_names))
    unseen = [name for name, n in zip(read.class_names, counts.tolist(), strict=True) if not n]
    if unseen:
        warnings.append(
            f"classes without a nucleus to learn from, which the model will hardly ever name: "
            f"{', '.join(unseen)}"
        )
    warnings += _perhaps_seen(start, split)
    return TrainingPlan(
        scaled.sets,
        split,
        read.class_names,
        mpp,
        start,
        fit,
        torch.get_num_threads(),
        (*scaled.notes, *warnings),
    )


def _perhaps_seen(start: Start, split: Split) -> list[str]:
    """Say which patients held back the model that a training goes on from may have learned."""
    if start.card is None:
        return []
    known = set(start.card.about.get("held_back", ()))
    n = sum(patient not in known for patient in split.held_back)
    if not n:
        return []
    return [
        f"{n} of {len(split.held_back)} patients held back are not among those that "
        f"{start.card.name} held back: if it learned from them, scores are too good"
    ]


def _start(options: TrainRunOptions, class_names: Sequence[str]) -> Start:
    spec = NetworkSpec(encoder=options.encoder, n_classes=len(class_names))
    if options.start is None:
        return network_from_imagenet(spec, options.seed)
    if options.start == CHANCE:
        return network_by_chance(spec, options.seed)
    start = network_from(options.start, class_names, options.seed)
    encoder = start.network.spec.encoder
    if options.encoder not in (DEFAULT_ENCODER, encoder):
        raise UsageError(
            f"--encoder {options.encoder}: {options.start} has {encoder}, and its weights fit no "
            "other; leave --encoder out, or do not go on from this model"
        )
    return start


def _weighted(sets: Sequence[LabelSet], weights: Sequence[float]) -> tuple[LabelSet, ...]:
    if weights and len(weights) != len(sets):
        names = ", ".join(each.name for each in sets)
        raise UsageError(
            f"{len(weights)} weights for {len(sets)} sets ({names}); one for each is needed, in "
            "this order"
        )
    if not weights:
        return tuple(sets)
    return tuple(replace(each, weight=weight) for each, weight in zip(sets, weights, strict=True))


def _fit_options(split: Split, n_classes: int, options: TrainRunOptions) -> TrainOptions:
    kind = kind_here(options.device)
    n_nuclei = len(nucleus_areas_px(split.train))
    batch_size = options.batch_size or _BATCH[kind]
    steps = options.steps or steps_for(n_nuclei, batch_size)
    crop_px = crop_px_for(split.train, options.crop_px)
    fit = TrainOptions(
        batch_size=batch_size,
        class_weights=class_weights_for(class_counts(split.train, n_classes)),
        record_steps=_RECORD_STEPS[kind],
        seed=options.seed,
        device=_torch_device(options.device, kind),
        precision=_precision(kind, options.precision),
        augment=AugmentOptions(crop_px=crop_px),
    )
    return with_steps(fit, steps)


def with_steps(fit: TrainOptions, steps: int) -> TrainOptions:
    """Return the options for that many steps, with all that goes with their number."""
    return replace(
        fit,
        steps=steps,
        warmup_steps=min(_MOST_WARMUP, max(_LEAST_WARMUP, steps // 10)),
        # The average must forget the first weights, also of a short training.
        ema_decay=min(_LONGEST_AVERAGE, max(0.0, 1 - 10 / steps)),
        checkpoint_steps=min(500, max(10, steps // 20)),
    )


def _torch_device(device: str, kind: str) -> str:
    _, gpus = parse_device(device)
    if len(gpus) > 1:
        raise UsageError(f"--device {device}: a training uses one GPU; name one")
    return f"cuda:{gpus[0]}" if gpus else kind


def _precision(kind: str, wanted: str | None) -> Literal["float32", "bfloat16", "float16"]:
    """Return the number format: bfloat16 where the hardware computes in it, unless told otherwise.

    On a CPU without it, torch imitates it slowly.
    """
    if wanted is not None:
        return cast("Literal['float32', 'bfloat16', 'float16']", wanted)
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"
