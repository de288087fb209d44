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
    LossParts,
    LossWeights,
    Targets,
    class_loss,
    distance_loss,
    loss_parts,
    nucleus_loss,
)

AREA = (2, 12, 9)
SHAPE = (2, 1, 12, 9)
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5])


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def some_known() -> Tensor:
    return random(*AREA, seed=7) > -0.8


def some_inside() -> Tensor:
    """Return 1 in nuclei that are known."""
    return ((random(*AREA, seed=5) > 0) & some_known())[:, None].float()


def some_classes() -> Tensor:
    classes = torch.randint(0, 4, AREA, generator=torch.Generator().manual_seed(1))
    return torch.where(classes == 3, UNKNOWN_CLASS, classes)


def some_targets() -> Targets:
    instances = (random(*AREA, seed=5) > 0).int() * 3
    return Targets(instances, random(2, 2, 12, 9, seed=9), some_classes(), some_known())


def some_maps(scale: float = 1.0) -> list[Tensor]:
    return [random(2, n, 12, 9, seed=n, scale=scale).requires_grad_() for n in (1, 2, 3)]


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("covered", ["some", "none", "all"])
@pytest.mark.parametrize("of_known_class", ["some", "none", "all"])
@pytest.mark.parametrize("known", ["some", "none", "all"])
def test_loss_and_gradients_are_finite(
    scale: float, covered: str, of_known_class: str, known: str
) -> None:
    instances = {
        "some": (random(*AREA) > 0).int(),
        "none": torch.zeros(AREA, dtype=torch.int32),
        "all": torch.ones(AREA, dtype=torch.int32),
    }[covered]
    classes = torch.zeros(AREA, dtype=torch.int64)
    if of_known_class != "all":
        classes[: 1 if of_known_class == "some" else 2] = UNKNOWN_CLASS
    is_known = {
        "some": some_known(),
        "none": torch.zeros(AREA, dtype=torch.bool),
        "all": torch.ones(AREA, dtype=torch.bool),
    }[known]
    maps = some_maps(scale)
    targets = Targets(instances, random(2, 2, 12, 9), classes, is_known)
    loss = loss_parts(RawMaps(*maps), targets, torch.ones(3)).total(LossWeights())
    loss.backward()
    assert loss.isfinite()
    assert (loss > 1e-3) == (known != "none")
    for part in maps:
        assert part.grad is not None
        assert part.grad.isfinite().all()


def test_the_parts_are_those_of_each_map() -> None:
    maps, targets = RawMaps(*some_maps()), some_targets()
    known = some_known()[:, None].float()
    found = loss_parts(maps, targets, CLASS_WEIGHTS)
    assert found.nucleus == nucleus_loss(maps.nucleus_logit, some_inside(), known)
    assert found.hv == distance_loss(maps.hv, targets.distances, some_inside(), known)
    assert found.classes == class_loss(
        maps.class_logits, targets.classes, targets.known, CLASS_WEIGHTS
    )


def test_the_total_is_the_weighted_sum() -> None:
    parts = LossParts(*(torch.tensor(value) for value in (2.0, 3.0, 5.0)))
    assert parts.total(LossWeights(7.0, 11.0, 13.0)) == 2 * 7 + 3 * 11 + 5 * 13


def test_what_is_not_known_costs_nothing_and_teaches_nothing() -> None:
    """Maps and targets may say anything there: the loss is the same to the bit."""
    maps, targets, unknown = some_maps(), some_targets(), ~some_known()
    parts = loss_parts(RawMaps(*maps), targets, CLASS_WEIGHTS)
    parts.total(LossWeights()).backward()
    for part in maps:
        assert part.grad is not None
        here = part.grad.movedim(1, -1)
        assert not here[unknown].any()
        assert (here[~unknown] != 0).float().mean() > 0.7
    spoiled = [torch.where(unknown[:, None], 30 * random(1) - part, part) for part in maps]
    others = Targets(
        torch.where(unknown, 5 - targets.instances, targets.instances),
        torch.where(unknown[:, None], 4.0, targets.distances),
        torch.where(unknown, 1, targets.classes),
        targets.known,
    )
    for one, other in zip(loss_parts(RawMaps(*spoiled), others, CLASS_WEIGHTS), parts, strict=True):
        assert torch.equal(one, other)


# Nucleus


def test_nucleus_loss_equals_its_slow_twin() -> None:
    logit, inside, known = random(*SHAPE, scale=2.0), some_inside(), some_known()[:, None]
    entropy, overlap, covered = [], 0.0, 0.0
    for at in np.ndindex(*SHAPE):
        if known[at]:
            probability, target = 1 / (1 + math.exp(-float(logit[at]))), float(inside[at])
            entropy.append(-math.log(probability if target else 1 - probability))
            overlap += probability * target
            covered += probability + target
    wanted = sum(entropy) / (len(entropy) + 1e-3) + 1 - (2 * overlap + 1e-3) / (covered + 1e-3)
    assert float(nucleus_loss(logit, inside, known.float())) == pytest.approx(wanted, rel=1e-5)


def test_a_perfect_nucleus_map_costs_nothing_and_an_inverted_one_most() -> None:
    inside, known = some_inside(), torch.ones(SHAPE)
    perfect = (inside - 0.5) * 60
    assert nucleus_loss(perfect, inside, known) < 1e-4
    assert nucleus_loss(-perfect, inside, known) > 20
    empty = torch.zeros(SHAPE)
    assert nucleus_loss(empty - 30, empty, known) < 1e-4


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
    known = some_known()[:, None].float()
    difference = ((predicted - target) * known).double().numpy()
    steep = np.stack([slow_gradients(each) for each in difference]) ** 2 * inside.numpy()
    squared = (difference**2).sum() / (2 * float(known.sum()) + 1e-3)
    wanted = squared + steep.sum() / (2 * float(inside.sum()) + 1e-3)
    found = distance_loss(predicted, target, inside, known)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_perfect_distances_cost_nothing() -> None:
    target = random(2, 2, 12, 9)
    assert distance_loss(target, target, some_inside(), torch.ones(SHAPE)) == 0


# Classes


def test_unknown_classes_cost_nothing_and_teach_nothing() -> None:
    logits, known = random(2, 3, 12, 9).requires_grad_(), torch.ones(AREA, dtype=torch.bool)
    loss = class_loss(logits, torch.full(AREA, UNKNOWN_CLASS), known, torch.ones(3))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_network_without_classes_has_no_class_loss() -> None:
    logits, known = torch.zeros(2, 0, 12, 9, requires_grad=True), some_known()
    assert class_loss(logits, torch.full(AREA, UNKNOWN_CLASS), known, torch.ones(0)) == 0


def slow_class_loss(logits: Tensor, classes: Tensor, known: Tensor) -> float:
    cost = weight = 0.0
    overlap, area, count = np.zeros(3), np.zeros(3), np.zeros(3)
    for n, row, col in np.ndindex(*AREA):
        index = int(classes[n, row, col])
        if index != UNKNOWN_CLASS and known[n, row, col]:
            shares = np.exp(logits[n, :, row, col].detach().double().numpy())
            shares /= shares.sum()
            cost -= float(CLASS_WEIGHTS[index]) * math.log(shares[index])
            weight += float(CLASS_WEIGHTS[index])
            overlap[index] += shares[index]
            area += shares
            area[index] += 1
            count[index] += 1
    occurs = (count > 0) * CLASS_WEIGHTS.numpy()
    dice = 1 - (2 * overlap + 1e-3) / (area + 1e-3)
    return cost / (weight + 1e-3) + float((dice * occurs).sum()) / (float(occurs.sum()) + 1e-3)


@pytest.mark.parametrize("absent", [0, 1, 2, UNKNOWN_CLASS])
def test_class_loss_equals_its_slow_twin(absent: int) -> None:
    logits, classes, known = random(2, 3, 12, 9), some_classes(), some_known()
    classes = torch.where(classes == absent, UNKNOWN_CLASS, classes)
    found = class_loss(logits, classes, known, CLASS_WEIGHTS)
    assert float(found) == pytest.approx(slow_class_loss(logits, classes, known), rel=1e-5)


def test_a_nucleus_of_unknown_class_does_not_teach_its_class() -> None:
    logits, classes, known = random(2, 3, 12, 9).requires_grad_(), some_classes(), some_known()
    found = class_loss(logits, classes, known, CLASS_WEIGHTS)
    found.backward()
    silent = (classes == UNKNOWN_CLASS) | ~known
    assert logits.grad is not None
    gradient = logits.grad.movedim(1, -1)
    assert not gradient[silent].any()
    assert gradient[~silent].all()
    changed = torch.where(silent[:, None], logits + 50 * random(1), logits)
    assert torch.equal(class_loss(changed, classes, known, CLASS_WEIGHTS), found)


def test_weights_say_which_class_counts() -> None:
    """Mistaking a class of 20 times the weight costs more than the other way round."""
    classes = torch.zeros(AREA, dtype=torch.int64)
    classes[1] = 1
    known, weights = torch.ones(AREA, dtype=torch.bool), torch.tensor([20.0, 1.0])
    all_first = torch.zeros(2, 2, 12, 9)
    all_first[:, 0] = 4.0
    assert class_loss(-all_first, classes, known, weights) > 5 * class_loss(
        all_first, classes, known, weights
    )
