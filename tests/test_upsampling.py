"""Doubling of maps: torch's own values, and a gradient that is gathered instead of scattered."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsiseg.models.hovernet import upsample

SHAPES = [(2, 3, 5, 7), (1, 2, 8, 4), (1, 1, 1, 6), (2, 1, 3, 1), (1, 1, 1, 1), (1, 2, 2, 2)]


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def torchs_own(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradient_are_torchs_own(shape: tuple[int, ...]) -> None:
    maps = random(*shape).requires_grad_()
    n, channels, height, width = shape
    wanted, found = torchs_own(maps), upsample(maps)
    assert torch.equal(found, wanted)
    gradient = random(n, channels, 2 * height, 2 * width)
    (of_own,) = torch.autograd.grad(wanted, maps, gradient)
    (of_ours,) = torch.autograd.grad(found, maps, gradient)
    assert torch.allclose(of_ours, of_own, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(upsample, random(*shape).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_has_the_number_format_and_layout_of_the_maps(dtype: torch.dtype) -> None:
    maps = random(2, 8, 6, 4, dtype=torch.float32).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    doubled = upsample(maps)
    (found,) = torch.autograd.grad(doubled.float().square().sum(), maps)
    assert doubled.dtype == found.dtype == dtype
    exact = maps.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(torchs_own(exact).square().sum(), exact)
    assert torch.allclose(found.double(), wanted, rtol=0.05, atol=0.1)
