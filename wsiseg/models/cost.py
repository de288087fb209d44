"""What a network costs, by counting instead of by the clock."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wsiseg.errors import UsageError

_SIDE_PX = 256


def kmac_per_px(network: nn.Module, side_px: int = _SIDE_PX) -> float:
    """Return thousands of multiply-accumulates per pixel of a network's input.

    Input and maps have as many pixels.  Counted are convolutions, transposed ones and fully
    connected layers, whose biases, like normalisation, activation and up-sampling, are not:
    HoVer-Net counted in the same way has 5,539 (fast) and 30,642 (original).

    Parameters
    ----------
    network : nn.Module
        Takes (n, 3, h, w).
    side_px : int
        Side of the input it is tried on.

    Raises
    ------
    UsageError
        If the network has no layer that is counted.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _multiplications(layer, inputs[0], output)

    counted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks: list[Any] = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, counted)
    ]
    if not hooks:
        raise UsageError("the network has no convolution and no fully connected layer to count")
    was_training = network.training
    try:
        device = next(network.parameters()).device
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, side_px, side_px, device=device))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return total / side_px**2 / 1000


def _multiplications(layer: nn.Module, given: Tensor, made: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return made.numel() * layer.in_features
    if isinstance(layer, nn.ConvTranspose2d):
        per_value = layer.out_channels // layer.groups * _area(layer.kernel_size)
        return given.numel() * per_value
    if isinstance(layer, nn.Conv2d):
        return made.numel() * layer.in_channels // layer.groups * _area(layer.kernel_size)
    raise TypeError(f"{type(layer).__name__} is not counted")


def _area(kernel: tuple[int, ...]) -> int:
    return kernel[0] * kernel[1]
