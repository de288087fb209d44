"""The model chosen for a slide is the nearest in µm per pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.choosing import choose_model
from wsiseg.errors import UnknownName, UsageError


@dataclass(frozen=True)
class Card:
    name: str
    mpp: float


FINE, COARSE = Card("fine", 0.25), Card("coarse", 0.5)


@pytest.mark.parametrize(
    ("mpp", "expected"),
    [
        *((0.1, FINE), (0.2528, FINE), (0.35, FINE), (0.36, COARSE), (0.499, COARSE)),
        (4.0, COARSE),
    ],
)
def test_the_nearest_by_factor_is_chosen(mpp: float, expected: Card) -> None:
    assert choose_model(mpp, [FINE, COARSE]) is expected
    assert choose_model(mpp, [COARSE, FINE]) is expected


def test_of_two_as_near_the_finer_is_chosen() -> None:
    # 0.3 · 3 is not 0.9 in binary: equal distances must not depend on the last bit.
    for middle, factor in ((0.5, 2.0), (0.3, 3.0), (0.7, 1.1)):
        finer, coarser = Card("b", middle / factor), Card("a", middle * factor)
        assert choose_model(middle, [coarser, finer]) is finer
        assert choose_model(middle, [finer, coarser]) is finer


def test_of_two_as_fine_the_first_is_chosen() -> None:
    cards = [Card("nuclei-v1", 0.25), Card("nuclei-v0", 0.25)]
    assert choose_model(0.3, cards).name == "nuclei-v1"
    assert choose_model(0.3, cards[::-1]).name == "nuclei-v0"


@given(
    st.floats(0.02, 20), st.lists(st.floats(0.05, 4), min_size=1, max_size=6), st.floats(1.01, 2)
)
def test_no_other_model_is_nearer(mpp: float, scales: list[float], factor: float) -> None:
    cards = [Card(f"model-{i}", scale) for i, scale in enumerate(scales)]
    chosen = choose_model(mpp, cards)
    ratio = max(chosen.mpp / mpp, mpp / chosen.mpp)
    assert all(ratio <= max(c.mpp / mpp, mpp / c.mpp) * (1 + 1e-6) for c in cards)
    # Seen at another magnification with models to match, the choice is the same.
    scaled = [Card(c.name, c.mpp * factor) for c in cards]
    assert math.isclose(choose_model(mpp * factor, scaled).mpp, chosen.mpp * factor, rel_tol=1e-6)


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(UnknownName, match="--model"):
        choose_model(0.25, [])


@pytest.mark.parametrize("mpp", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_is_refused(mpp: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        choose_model(mpp, [FINE])
