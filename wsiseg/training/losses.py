"""HoVer-Net's losses (Graham et al. 2019, doi:10.1016/j.media.2019.101563, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wsiseg.models.hovernet import RawMaps
from wsiseg.records import UNKNOWN_CLASS

_NOTHING = 1e-3
"""Added to areas, so that an empty one divides nothing by zero."""


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts of the loss."""

    nucleus: float = 1.0
    """Cross-entropy + Dice of the nucleus map."""
    hv: float = 2.0
    """Squared error + gradient squared error of the distance maps."""
    classes: float = 0.5
    """Cross-entropy + Dice of the class, inside nuclei of known class."""


class Targets(NamedTuple):
    """What a batch should give."""

    instances: Tensor
    """(n, h, w), int: label image; 0 is background."""
    distances: Tensor
    """(n, 2, h, w), float."""
    classes: Tensor
    """(n, h, w), int64: class indices, `UNKNOWN_CLASS` elsewhere."""
    known: Tensor
    """(n, h, w), bool: False where nothing is known and nothing is to be learned."""


class LossParts(NamedTuple):
    """The parts before weighting, each a scalar."""

    nucleus: Tensor
    hv: Tensor
    classes: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """Return the weighted sum."""
        return (
            weights.nucleus * self.nucleus + weights.hv * self.hv + weights.classes * self.classes
        )


def loss_parts(maps: RawMaps, targets: Targets, class_weights: Tensor) -> LossParts:
    """Compare maps with targets.

    Parameters
    ----------
    maps : RawMaps
        Network output, (n, …, h, w).
    targets : Targets
        Of the same size.
    class_weights : Tensor, (n_classes,)
        Weight of each class.
    """
    known = targets.known[:, None].float()
    inside = (targets.instances > 0)[:, None].float() * known
    return LossParts(
        nucleus_loss(maps.nucleus_logit, inside, known),
        distance_loss(maps.hv, targets.distances, inside, known),
        class_loss(maps.class_logits, targets.classes, targets.known, class_weights),
    )


def nucleus_loss(logit: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """Return binary cross-entropy + Dice loss where something is known; (n, 1, h, w) each."""
    probability = torch.sigmoid(logit) * known
    overlap = (probability * inside).sum()
    dice = 1 - (2 * overlap + _NOTHING) / (probability.sum() + inside.sum() + _NOTHING)
    entropy = F.binary_cross_entropy_with_logits(logit, inside, weight=known, reduction="sum")
    return entropy / (known.sum() + _NOTHING) + dice


def distance_loss(predicted: Tensor, target: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """Return squared error everywhere + squared error of the gradients inside nuclei."""
    difference = (predicted - target) * known
    # Gradients are linear: one convolution of the difference, not two.
    gradient_error = _gradients(difference) ** 2
    error = (difference**2).sum() / (2 * known.sum() + _NOTHING)
    return error + (gradient_error * inside).sum() / (inside.sum() * 2 + _NOTHING)


def class_loss(logits: Tensor, classes: Tensor, known: Tensor, class_weights: Tensor) -> Tensor:
    """Return cross-entropy + Dice where the class is known, 0 if it is nowhere.

    Without a branch on what the batch holds: a GPU would have to be waited for.
    """
    n_classes = logits.shape[1]
    if n_classes == 0:
        return logits.sum()
    known = known & (classes != UNKNOWN_CLASS)
    index = torch.where(known, classes, 0)
    weight = class_weights[index] * known
    entropy = (F.cross_entropy(logits, index, reduction="none") * weight).sum()
    target = F.one_hot(index, n_classes).permute(0, 3, 1, 2) * known[:, None]
    probability = torch.softmax(logits, 1) * known[:, None]
    overlap = (probability * target).sum((0, 2, 3))
    areas = (probability + target).sum((0, 2, 3))
    # Only of classes that occur: the Dice of nothing says nothing.
    occurs = (target.sum((0, 2, 3)) > 0).float() * class_weights
    dice = 1 - (2 * overlap + _NOTHING) / (areas + _NOTHING)
    return entropy / (weight.sum() + _NOTHING) + (dice * occurs).sum() / (occurs.sum() + _NOTHING)


def _gradients(maps: Tensor) -> Tensor:
    """Return d/dx of the horizontal and d/dy of the vertical map by a smooth 5×5 kernel."""
    offsets = torch.arange(-2.0, 3.0, device=maps.device)
    rows, cols = torch.meshgrid(offsets, offsets, indexing="ij")
    squared = rows**2 + cols**2
    kernel = cols / torch.where(squared == 0, 1.0, squared)
    kernels = torch.stack([kernel, kernel.T])[:, None]
    return F.conv2d(maps, kernels, padding=2, groups=2)
