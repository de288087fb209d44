"""A licence that is required is what a model has, or the model is refused before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import only_error, run_command

import wsiseg
from wsiseg import PlanOptions, model_choice
from wsiseg.errors import LicenceRefused, UsageError
from wsiseg.models import ModelCard, list_models
from wsiseg.models.licence import permits, refuse_licence
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue

CARD = LocalNetwork().card


def licensed(name: str, licence: str, mpp: float = 0.25) -> ModelCard:
    return replace(CARD, name=name, licence=licence, mpp=mpp)


@pytest.mark.parametrize(
    ("expression", "commercial", "permissive"),
    [
        ("CC0-1.0", True, True),
        ("Apache-2.0", True, True),
        ("mit", True, True),
        ("BSD-3-Clause", True, True),
        ("CC-BY-4.0", True, True),
        ("CC-BY-SA-4.0", True, False),
        ("GPL-3.0-or-later", True, False),
        ("CC-BY-NC-4.0", False, False),
        ("CC-BY-NC-SA-4.0", False, False),
        ("CC-BY-ND-4.0", False, False),
        ("PolyForm-Noncommercial-1.0.0", False, False),
        ("LicenseRef-ours", False, False),
        ("", False, False),
        ("do as you please", False, False),
        ("MIT AND CC-BY-NC-4.0", False, False),
        ("MIT OR CC-BY-NC-4.0", True, True),
        ("MIT AND CC-BY-SA-4.0", True, False),
        # AND binds more closely than OR.
        ("MIT OR MIT AND CC-BY-NC-4.0", True, True),
        ("(MIT OR MIT) AND CC-BY-NC-4.0", False, False),
        ("CC-BY-NC-4.0 AND (CC0-1.0 OR MIT)", False, False),
        ("Apache-2.0 WITH LLVM-exception", True, True),
        ("GPL-3.0-only WITH Classpath-exception-2.0 AND MIT", True, False),
        ("MIT WITH Commons-Clause", False, False),
        ("(" * 5000 + "MIT" + ")" * 5000, False, False),
        # Not SPDX: nothing is sure.
        ("MIT MIT", False, False),
        ("MIT OR", False, False),
        ("(MIT", False, False),
        ("MIT)", False, False),
        ("MIT AND OR MIT", False, False),
        ("AND", False, False),
        ("MIT WITH", False, False),
        ("MIT, Apache-2.0", False, False),
    ],
)
def test_what_expressions_permit(expression: str, commercial: bool, permissive: bool) -> None:
    assert permits(expression, "commercial") is commercial
    assert permits(expression, "permissive") is permissive


def test_identifiers_can_be_required() -> None:
    assert permits("CC0-1.0", "CC0-1.0,MIT")
    assert permits("cc0-1.0 AND MIT", "MIT, cc0-1.0")
    assert permits("CC0-1.0", "Commercial")
    assert not permits("Apache-2.0", "CC0-1.0,MIT")
    assert permits("LicenseRef-ours OR CC-BY-NC-4.0", "LicenseRef-ours")
    for wrong in ("", "MIT OR CC0-1.0", "MIT,,CC0-1.0", "free of charge"):
        with pytest.raises(UsageError, match="commercial, permissive, or SPDX"):
            permits("MIT", wrong)
        with pytest.raises(UsageError, match="commercial, permissive, or SPDX"):
            PlanOptions(require_licence=wrong)


def test_a_refusal_names_licence_note_and_what_would_pass() -> None:
    card = replace(licensed("ours", "CC-BY-NC-4.0"), licence_note="for research only.")
    shipped = [card, licensed("free", "CC0-1.0"), licensed("shared", "CC-BY-SA-4.0")]
    with pytest.raises(LicenceRefused) as told:
        refuse_licence(card, "commercial", shipped)
    said = str(told.value)
    assert "model ours has the licence CC-BY-NC-4.0 (for research only)" in said
    assert "--model free (CC0-1.0), shared (CC-BY-SA-4.0)" in said
    with pytest.raises(LicenceRefused, match="no shipped model"):
        refuse_licence(card, "0BSD", shipped)
    refuse_licence(card, None, shipped)
    refuse_licence(card, "CC-BY-NC-4.0", shipped)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image; three shipped models that are all the stand-in."""
    Image.fromarray(paint_tissue(200, 300, 900, seed=1)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    cards = [
        licensed("fine", "CC-BY-NC-SA-4.0"),
        licensed("free", "CC0-1.0", 0.6),
        licensed("coarse", "MIT", 1.0),
    ]
    chosen: list[str] = []

    def load(model: Any) -> Any:
        if not isinstance(model, str):
            return model
        chosen.append(model)
        return _Named(next(card for card in cards if card.name == model))

    monkeypatch.setattr(model_choice, "list_models", lambda: cards)
    monkeypatch.setattr(model_choice, "load_model", load)
    return tmp_path


class _Named(LocalNetwork):
    """The stand-in under another card."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        object.__setattr__(self, "_own", card)

    __slots__ = ("_own",)

    @property
    def card(self) -> ModelCard:
        own: ModelCard = self._own
        return own


def test_the_nearest_of_those_that_pass_is_taken(folder: Path) -> None:
    for required, name in ((None, "fine"), ("commercial", "free"), ("MIT", "coarse")):
        options = PlanOptions(tissue=None, require_licence=required)
        out = folder / name
        result = wsiseg.segment(
            folder / "a.png", out, scale=0.3, options=options, formats=(), model="auto"
        )
        assert result.model_name == name
        # Also what is finished, and so is not opened again.
        again = PlanOptions(tissue=None, require_licence="0BSD")
        with pytest.raises(LicenceRefused, match="no shipped model"):
            wsiseg.segment(folder / "a.png", out, scale=0.3, options=again, formats=())


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_commands_refuse_before_anything_is_made(folder: Path, extra: list[str]) -> None:
    command = ["segment", "a.png", "--mpp", "0.3", "-o", "out", "--require-licence"]
    done = run_command(*command, "commercial", "--model", "fine", *extra)
    assert done.exit_code == 2
    assert "CC-BY-NC-SA-4.0" in only_error(done.stderr)
    assert "--model free (CC0-1.0), coarse (MIT)" in only_error(done.stderr)
    done = run_command(*command, "0BSD", *extra)
    assert done.exit_code == 2
    assert "no shipped model is 0BSD" in only_error(done.stderr)
    done = run_command(*command, "for free", *extra)
    assert done.exit_code == 2
    assert "SPDX identifiers" in only_error(done.stderr)
    assert not (folder / "out").exists()


def test_the_shipped_models_say_what_they_permit() -> None:
    for card in list_models():
        permits(card.licence, "commercial")
        assert card.licence_note
        if "NC" in card.licence:
            assert not permits(card.licence, "commercial")
