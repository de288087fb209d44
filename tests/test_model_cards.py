"""What people read of a model: its card whole, its numbers with intervals, its cost counted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import wsiseg
from wsiseg.calibration import Calibration
from wsiseg.cli import app
from wsiseg.errors import UnknownName, UsageError
from wsiseg.models import ModelCard, ModelFile, list_models, load_model
from wsiseg.models.cost import kmac_per_px
from wsiseg.models.description import describe_model, headline, model_rows
from wsiseg.testing.models import LocalNetwork

ESTIMATE = {"value": 0.5012, "low": 0.45, "high": 0.5501}
ABOUT: dict[str, Any] = {
    "use": "Research only.",
    "data": [{"name": "a set", "licence": "CC0-1.0", "images": 30}],
    "metrics": {
        "how": "cross-validated over patients",
        "sets": {
            "CoNSeP": {
                "images": 27,
                "pq": ESTIMATE,
                "aji": 0.61,
                "f1_by_class": {"Spindle": ESTIMATE},
            },
            "MoNuSeg": {"images": 30, "pq": {"value": 0.6}},
        },
    },
    "organs": {"how": "leave one out", "rows": [{"organ": "kidney", "images": 6, "pq": ESTIMATE}]},
    "perturbation": [
        {
            "kind": "blur",
            "strength": 0.5,
            "unit": "µm",
            "pq": 0.4321,
            "pq_low": 0.4,
            "pq_high": 0.5,
            "f1": 0.6,
            "n_images": 11,
        }
    ],
    "calibration": {
        "how": "5-fold",
        "nucleus_prob": {
            "event": "it is real",
            "before": {"expected_calibration_error": 0.197},
            "after": {"expected_calibration_error": 0.026},
        },
    },
    "size": {"parameters": 1_285_991, "kmac_per_px": 41.6},
    "training": {"steps": 7, "loss": {"hv": 2.0}},
    "classes_valid_on": "colorectal H&E",
    "known_failures": ["pale nuclei are missed", "pigment is taken for nuclei"],
}


class _Described(LocalNetwork):
    """The stand-in with a card that says everything."""

    __slots__ = ()

    @property
    def card(self) -> ModelCard:
        calibration = Calibration((0.5, 1.0), (0.1, 0.9), 1.5)
        return replace(LocalNetwork().card, about=ABOUT, calibration=calibration)


def test_all_that_a_card_says_is_told() -> None:
    text = describe_model(_Described())
    for said in (
        "cross-validated over patients",
        "0.501 [0.450, 0.550]",
        "F1 by class: Spindle 0.501",
        "kidney",
        "blur    0.5 µm    0.432 [0.400, 0.500]  11",
        "expected calibration error 0.197 before, 0.026 after",
        "calibrated: 5-fold",
        "1,285,991",
        "41.6",
        "colorectal H&E",
        "- pale nuclei are missed",
        "steps: 7",
        "hv: 2.0",
        "licence: CC0-1.0",
        "permitted",
    ):
        assert said in text, text
    assert "{" not in text
    assert headline(_Described().card) == "CoNSeP 0.501 [0.450, 0.550]; MoNuSeg 0.600"


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers_in(one)]
    if isinstance(value, list):
        return [number for one in value for number in numbers_in(one)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("card", list_models(), ids=lambda card: card.name)
def test_shipped_cards_are_told_whole(card: ModelCard) -> None:
    text = describe_model(card.name)
    assert card.sha256 in text
    assert card.licence_note in text
    assert headline(card)
    sets = card.about["metrics"].get("sets", card.about["metrics"].get("mean_over_images"))
    for name in sets:
        assert name in text
    for failure in card.about["known_failures"]:
        assert failure in text
    assert numbers_in(card.about["training"])


@pytest.mark.parametrize("about", [{}, {"metrics": None, "organs": 3, "perturbation": "x"}])
def test_a_card_that_says_little_is_no_error(
    about: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(LocalNetwork().card, about=about)
    monkeypatch.setattr(LocalNetwork, "card", property(lambda _: card))
    text = describe_model(LocalNetwork())
    assert "not measured" in text
    assert "not calibrated" in text
    assert headline(card) == ""


def test_the_list_says_what_one_chooses_by() -> None:
    rows = model_rows()
    assert [row["model"] for row in rows] == [card.name for card in list_models()]
    for row, card in zip(rows, list_models(), strict=True):
        weights = Path(wsiseg.load_model(card.name).weights)  # type: ignore[attr-defined]
        assert row["MB"] == round(weights.stat().st_size / 1e6, 1)
        assert (row["µm/px"], row["licence"]) == (card.mpp, card.licence)


def test_the_command_lists_and_tells() -> None:
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    for card in list_models():
        assert re.search(rf"^{card.name} .*{card.licence}", done.stdout, re.MULTILINE)
    name = list_models()[0].name
    done = CliRunner().invoke(app, ["models", name])
    assert done.exit_code == 0
    assert done.stdout == describe_model(name) + "\n"
    done = CliRunner().invoke(app, ["models", "nonsense"])
    assert done.exit_code != 0
    assert "nonsense" in done.stderr
    with pytest.raises(UnknownName):
        describe_model("nonsense")


# Cost


def test_multiplications_worked_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 3·8·9 a pixel
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),  # 8·9 on a quarter
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # 8·4·4 for each of a quarter
        nn.Conv2d(4, 2, 1),  # 8 a pixel
    )
    wanted = 216 + 72 / 4 + 128 / 4 + 8
    assert kmac_per_px(network, 32) == pytest.approx(wanted / 1000)
    assert network.training
    assert not [m for m in network.modules() if m._forward_hooks]


def test_fully_connected_layers_count() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    assert kmac_per_px(network.eval(), 16) == pytest.approx(3 * 10 / 1000)
    assert not network.training


def test_cost_does_not_hang_on_the_block() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 1, 1))
    assert kmac_per_px(network, 32) == kmac_per_px(network, 96)
    with pytest.raises(UsageError, match="no convolution"):
        kmac_per_px(nn.ReLU())


@pytest.mark.parametrize(
    "about",
    [
        {"perturbation": 3},
        {"organs": {"rows": None}},
        {"calibration": {"class_prob": {"before": {"expected_calibration_error": "?"}}}},
    ],
)
def test_odd_entries_are_no_reason_to_say_nothing(about: dict[str, object]) -> None:
    shipped = load_model("nuclei-40x-v0")
    assert isinstance(shipped, ModelFile)
    ours = replace(shipped, card=replace(shipped.card, about=about))
    assert "not measured" in describe_model(ours)
