"""HoVer-Net's losses (Graham et al. 2019, doi:10.1016/j.media.2019.101563, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsiseg.models.hovernet import RawMaps
from wsiseg.records import UNKNOWN_CLASS


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts of the loss."""

    nucleus: float = 1.0
    """Cross-entropy + Dice of the nucleus map."""
    hv: float = 2.0
    """Squared error + gradient squared error of the distance maps."""
    classes: float = 0.5
    """Cross-entropy of the class, inside nuclei of known class."""


def total_loss(
    maps: RawMaps,
    instances: Tensor,
    distances: Tensor,
    classes: Tensor,
    weights: LossWeights,
    class_weights: Tensor,
) -> Tensor:
    """Return the weighted sum of all parts.

    Parameters
    ----------
    maps : RawMaps
        Network output, (n, …, h, w).
    instances : Tensor, (n, h, w), int
        Label image; 0 is background.
    distances : Tensor, (n, 2, h, w), float
        Distance targets.
    classes : Tensor, (n, h, w), int64
        Class indices, `UNKNOWN_CLASS` elsewhere.
    weights : LossWeights
        Weights of the parts.
    class_weights : Tensor, (n_classes,)
        Weight of each class.
    """
    inside = (instances > 0).float()[:, None]
    loss = weights.nucleus * nucleus_loss(maps.nucleus_logit, inside)
    loss = loss + weights.hv * distance_loss(maps.hv, distances, inside)
    return loss + weights.classes * class_loss(maps.class_logits, classes, class_weights)


def nucleus_loss(logit: Tensor, inside: Tensor) -> Tensor:
    """Return binary cross-entropy + Dice loss."""
    probability = torch.sigmoid(logit)
    overlap = (probability * inside).sum()
    dice = 1 - (2 * overlap + 1e-3) / (probability.sum() + inside.sum() + 1e-3)
    return F.binary_cross_entropy_with_logits(logit, inside) + dice


def distance_loss(predicted: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Return squared error everywhere + squared error of the gradients inside nuclei."""
    # Gradients are linear: one convolution of the difference, not two.
    gradient_error = _gradients(predicted - target) ** 2
    inside_share = inside.sum() * 2 + 1e-3
    return F.mse_loss(predicted, target) + (gradient_error * inside).sum() / inside_share


def class_loss(logits: Tensor, classes: Tensor, class_weights: Tensor) -> Tensor:
    """Return cross-entropy where the class is known, 0 if it is nowhere."""
    if not bool((classes != UNKNOWN_CLASS).any()):
        return logits.sum() * 0
    return F.cross_entropy(logits, classes, weight=class_weights, ignore_index=UNKNOWN_CLASS)


def _gradients(maps: Tensor) -> Tensor:
    """Return d/dx of the horizontal and d/dy of the vertical map by a smooth 5×5 kernel."""
    offsets = torch.arange(-2.0, 3.0, device=maps.device)
    rows, cols = torch.meshgrid(offsets, offsets, indexing="ij")
    squared = rows**2 + cols**2
    kernel = cols / torch.where(squared == 0, 1.0, squared)
    kernels = torch.stack([kernel, kernel.T])[:, None]
    return F.conv2d(maps, kernels, padding=2, groups=2)
