"""Which model suits a slide's µm per pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from wsiseg.errors import UnknownName, UsageError


class NamedScale(Protocol):
    """What of a model card decides."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def mpp(self) -> float:
        """µm per model pixel."""
        ...


Card = TypeVar("Card", bound=NamedScale)

_SAME = 1e-9
"""Distances that differ by less are equal: 0.25 and 1 are as far from 0.5."""


def choose_model(mpp: float, cards: Sequence[Card]) -> Card:
    """Return the model nearest to a slide in µm per pixel.

    Parameters
    ----------
    mpp : float
        µm per level-0 pixel of the slide.
    cards : sequence of ModelCard
        The models to choose from.

    Returns
    -------
    ModelCard
        The one whose µm per pixel differs from the slide's by the smallest factor; of two
        as near the finer one, of two as fine the first of those given.

    Raises
    ------
    UnknownName
        If there is nothing to choose from.
    UsageError
        If `mpp` is not a positive number.
    """
    if not cards:
        raise UnknownName("there is no model to choose from; name one with --model")
    if not (math.isfinite(mpp) and mpp > 0):
        raise UsageError(f"{mpp} µm per pixel; a positive number is needed to choose a model")
    distance = {card.name: abs(math.log(card.mpp / mpp)) for card in cards}
    nearest = min(distance.values())
    near = [card for card in cards if distance[card.name] - nearest < _SAME]
    return min(near, key=lambda card: card.mpp)
