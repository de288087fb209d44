"""Losses: finite, equal to their slow twins, and silent about what is not known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsiseg.models.hovernet import RawMaps
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.training.losses import (
    LossWeights,
    class_loss,
    distance_loss,
    nucleus_loss,
    total_loss,
)

SHAPE = (2, 1, 12, 9)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def some_inside() -> Tensor:
    return (random(*SHAPE, seed=5) > 0).float()


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("covered", ["some", "none", "all"])
@pytest.mark.parametrize("known", ["some", "none", "all"])
def test_loss_and_gradients_are_finite(scale: float, covered: str, known: str) -> None:
    instances = {
        "some": (random(2, 12, 9) > 0).int(),
        "none": torch.zeros(2, 12, 9, dtype=torch.int32),
        "all": torch.ones(2, 12, 9, dtype=torch.int32),
    }[covered]
    classes = torch.zeros(2, 12, 9, dtype=torch.int64)
    if known != "all":
        classes[: 1 if known == "some" else 2] = UNKNOWN_CLASS
    parts = [random(2, n, 12, 9, seed=n, scale=scale).requires_grad_() for n in (1, 2, 3)]
    loss = total_loss(
        RawMaps(*parts), instances, random(2, 2, 12, 9), classes, LossWeights(), torch.ones(3)
    )
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    for part in parts:
        assert part.grad is not None
        assert part.grad.isfinite().all()


def test_the_total_is_the_weighted_sum() -> None:
    maps = RawMaps(random(*SHAPE), random(2, 2, 12, 9), random(2, 3, 12, 9))
    instances, distances = some_inside()[:, 0].int(), random(2, 2, 12, 9, seed=9)
    classes = torch.where(instances > 0, 1, UNKNOWN_CLASS).long()
    weights, class_weights = LossWeights(3.0, 5.0, 7.0), torch.tensor([1.0, 2.0, 3.0])
    inside = (instances > 0).float()[:, None]
    wanted = (
        3 * nucleus_loss(maps.nucleus_logit, inside)
        + 5 * distance_loss(maps.hv, distances, inside)
        + 7 * class_loss(maps.class_logits, classes, class_weights)
    )
    found = total_loss(maps, instances, distances, classes, weights, class_weights)
    assert torch.isclose(found, wanted)


# Nucleus


def test_nucleus_loss_equals_its_slow_twin() -> None:
    logit, inside = random(*SHAPE, scale=2.0), some_inside()
    entropy, overlap, covered = [], 0.0, 0.0
    for value, target in zip(logit.flatten().tolist(), inside.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-value))
        entropy.append(-math.log(probability if target else 1 - probability))
        overlap += probability * target
        covered += probability + target
    wanted = sum(entropy) / len(entropy) + 1 - (2 * overlap + 1e-3) / (covered + 1e-3)
    assert float(nucleus_loss(logit, inside)) == pytest.approx(wanted, rel=1e-5)


def test_a_perfect_nucleus_map_costs_nothing_and_an_inverted_one_most() -> None:
    inside = some_inside()
    perfect = (inside - 0.5) * 60
    assert nucleus_loss(perfect, inside) < 1e-4
    assert nucleus_loss(-perfect, inside) > 20
    empty = torch.zeros(SHAPE)
    assert nucleus_loss(empty - 30, empty) < 1e-4


# Distances


def slow_gradients(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, h, w): d/dx of the first and d/dy of the second map, weighted by 1 / distance²."""
    _, height, width = maps.shape
    found = np.zeros_like(maps)
    for axis, row, col in np.ndindex(maps.shape):
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                y, x = row + dy, col + dx
                if (dy or dx) and 0 <= y < height and 0 <= x < width:
                    along = dx if axis == 0 else dy
                    found[axis, row, col] += maps[axis, y, x] * along / (dx**2 + dy**2)
    return found


def test_distance_loss_equals_its_slow_twin() -> None:
    predicted, target, inside = random(2, 2, 12, 9), random(2, 2, 12, 9, seed=1), some_inside()
    difference = (predicted - target).double().numpy()
    steep = np.stack([slow_gradients(each) for each in difference]) ** 2 * inside.numpy()
    wanted = (difference**2).mean() + steep.sum() / (2 * float(inside.sum()) + 1e-3)
    assert float(distance_loss(predicted, target, inside)) == pytest.approx(wanted, rel=1e-5)


def test_perfect_distances_cost_nothing() -> None:
    target = random(2, 2, 12, 9)
    assert distance_loss(target, target, some_inside()) == 0


# Classes


def test_unknown_classes_cost_nothing_and_teach_nothing() -> None:
    logits = random(2, 3, 12, 9).requires_grad_()
    loss = class_loss(logits, torch.full((2, 12, 9), UNKNOWN_CLASS), torch.ones(3))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_network_without_classes_has_no_class_loss() -> None:
    logits = torch.zeros(2, 0, 12, 9, requires_grad=True)
    assert class_loss(logits, torch.full((2, 12, 9), UNKNOWN_CLASS), torch.ones(0)) == 0


def test_class_loss_equals_its_slow_twin_where_the_class_is_known() -> None:
    logits, weights = random(2, 3, 12, 9), torch.tensor([1.0, 2.0, 0.5])
    classes = torch.randint(0, 4, (2, 12, 9), generator=torch.Generator().manual_seed(1))
    classes[classes == 3] = UNKNOWN_CLASS
    cost = weight = 0.0
    for n, row, col in np.ndindex(*classes.shape):
        index = int(classes[n, row, col])
        if index != UNKNOWN_CLASS:
            values = logits[n, :, row, col].double()
            share = float(values.exp()[index] / values.exp().sum())
            cost -= float(weights[index]) * math.log(share)
            weight += float(weights[index])
    found = class_loss(logits, classes, weights)
    assert float(found) == pytest.approx(cost / weight, rel=1e-5)
    changed = torch.where((classes == UNKNOWN_CLASS)[:, None], logits + 50 * random(1), logits)
    assert torch.equal(class_loss(changed, classes, weights), found)
