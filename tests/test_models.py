"""Model cards and files: whole or refused, and hashed by all that fixes what they compute."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from wsiseg import models
from wsiseg.calibration import Calibration
from wsiseg.decode import DecodeOptions
from wsiseg.errors import ModelNotUsable, UnknownName, UsageError
from wsiseg.models import (
    MapsModel,
    ModelCard,
    ModelFile,
    NucleusClass,
    Numerics,
    list_models,
    load_model,
)
from wsiseg.models.device import choose_numerics
from wsiseg.models.hovernet import HoverNet, NetworkSpec
from wsiseg.testing.models import LocalNetwork
from wsiseg.training.publish import publish_model

TINY = NetworkSpec("test_efficientnet", 4, (8, 8, 8), head_channels=4, n_classes=2)
CARD = ModelCard(
    name="tiny",
    architecture="hovernet",
    network=TINY.to_json(),
    mpp=0.25,
    classes=(NucleusClass("Epithelial", (255, 0, 0)), NucleusClass("Spindle", (0, 255, 0))),
    core_px=512,
    margin_px=224,
    decode=DecodeOptions().to_json(),
    precision={"cpu": "bfloat16", "cuda": "float16"},
    weights_sha256="",
    licence="Apache-2.0",
    licence_note="for tests.",
    nuclear_area_um2=(10.0, 90.0),
    about={"data": "none", "µ": [1, 2.5, None]},
    appearance={"hematoxylin_od": (0.1, 0.5)},
)


@pytest.fixture(scope="module")
def network() -> HoverNet:
    torch.manual_seed(0)
    return HoverNet(TINY).eval()


@pytest.fixture(scope="module")
def published(network: HoverNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    publish_model(network, CARD, "Do as you please.", folder)
    return folder


@pytest.fixture
def own(published: Path, tmp_path: Path) -> Path:
    """Copy the published model, to be damaged."""
    return Path(shutil.copytree(published, tmp_path / "tiny"))


def change_card(folder: Path, **changed: Any) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def change_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Exchange the weights, and make the card believe it."""
    content = save(tensors)
    (folder / "weights.safetensors").write_bytes(content)
    change_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())


# Cards


def test_a_card_survives_json() -> None:
    read = ModelCard.from_json(json.loads(json.dumps(CARD.to_json())), source="a file")
    assert read == CARD
    assert read.sha256 == CARD.sha256
    assert read.class_names == ("Epithelial", "Spindle")


@pytest.mark.parametrize("values", [{}, {"format": "zip"}, [], None, "card", {"name": "tiny"}])
def test_what_is_no_card_is_refused(values: Any) -> None:
    with pytest.raises(ModelNotUsable, match="model seven is no model card"):
        ModelCard.from_json(values, source="model seven")


@pytest.mark.parametrize("version", [4, 99, None, "1", 1.5])
def test_a_newer_card_is_refused_with_what_to_do(version: Any) -> None:
    with pytest.raises(ModelNotUsable, match=f"seven .* format {version}.* up to 3.*update"):
        ModelCard.from_json({**CARD.to_json(), "format_version": version}, source="model seven")


@pytest.mark.parametrize("name", [field.name for field in fields(ModelCard)])
def test_a_missing_field_is_named(name: str) -> None:
    values = CARD.to_json()
    del values[name]
    with pytest.raises(ModelNotUsable, match=f"model seven: .*incomplete.*{name}"):
        ModelCard.from_json(values, source="model seven")


@pytest.mark.parametrize(
    "changed",
    [
        {"colour": "blue"},
        {"classes": ["Epithelial"]},
        {"classes": [{"name": "Epithelial"}]},
        {"classes": None},
        {"mpp": "0.25"},
        {"core_px": "512"},
        {"nuclear_area_um2": 3},
        {"licence": None},
        {"calibration": []},
    ],
)
def test_a_field_of_another_kind_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ModelNotUsable, match="model seven"):
        ModelCard.from_json({**CARD.to_json(), **changed}, source="model seven")


@pytest.mark.parametrize(
    ("core_px", "margin_px", "said"),
    [
        (0, 0, "multiple of 64"),
        (-64, 0, "multiple of 64"),
        (96, 32, "multiple of 64"),
        (512, 100, "multiple of 32"),
        (512, -32, "multiple of 32"),
        (512, 288, "more than half"),
        (32_768, 0, "at most 32767 px"),
        (32_704, 32, "at most 32767 px"),
    ],
)
def test_tiles_that_do_not_fit_the_grid_are_refused(
    core_px: int, margin_px: int, said: str
) -> None:
    with pytest.raises(ModelNotUsable, match=said) as caught:
        replace(CARD, core_px=core_px, margin_px=margin_px)
    assert f"core {core_px} px" in str(caught.value) or f"of core {core_px} px" in str(caught.value)


@pytest.mark.parametrize("mpp", [0.0, -0.25, math.nan, math.inf])
def test_an_impossible_scale_is_refused(mpp: float) -> None:
    with pytest.raises(ModelNotUsable, match="positive number"):
        replace(CARD, mpp=mpp)


BEHAVIOUR: dict[str, Any] = {
    "architecture": "another",
    "network": {**CARD.network, "head_channels": 5},
    "mpp": 0.5,
    "classes": (CARD.classes[1], CARD.classes[0]),
    "core_px": 576,
    "margin_px": 192,
    "decode": {**CARD.decode, "marker_energy": 0.06},
    "weights_sha256": "0" * 64,
}
FOR_PEOPLE: dict[str, Any] = {
    "name": "another",
    "precision": {"cpu": "float32"},
    "licence": "MIT",
    "licence_note": "another.",
    "nuclear_area_um2": (1.0, 2.0),
    "about": {},
    "appearance": {},
}
SHA256_BEFORE = "ab4e64a5054225b16cb4c776b1e7a4fd9fb4d68704b3db2538fe39c64e35c936"
CALIBRATION = Calibration((0.5, 1.0), (0.1, 0.9), 1.5)


def test_every_field_is_either_behaviour_or_not() -> None:
    named = BEHAVIOUR.keys() | FOR_PEOPLE.keys() | {"calibration"}
    assert named == {field.name for field in fields(ModelCard)}


def test_a_calibration_is_part_of_the_hash_where_there_is_one() -> None:
    # As the versions without calibrations made it: runs of theirs are recognised.
    assert CARD.sha256 == SHA256_BEFORE
    ours = replace(CARD, calibration=CALIBRATION)
    other = replace(CARD, calibration=replace(CALIBRATION, class_temperature=1.4))
    assert len({CARD.sha256, ours.sha256, other.sha256}) == 3


def test_a_calibration_is_kept_in_the_card() -> None:
    ours = replace(CARD, calibration=CALIBRATION)
    fields = json.loads(json.dumps(ours.to_json()))
    assert ModelCard.from_json(fields, "here") == ours
    for wrong in ({"nucleus_to": [1, 2]}, {"turn": 1}, "yes"):
        with pytest.raises(ModelNotUsable, match="here: the model card is incomplete"):
            ModelCard.from_json({**fields, "calibration": wrong}, "here")
    # Cards of the format before have no such field.
    del fields["calibration"]
    assert ModelCard.from_json({**fields, "format_version": 2}, "here") == CARD
    with pytest.raises(ModelNotUsable, match="calibration"):
        ModelCard.from_json(fields, "here")


@pytest.mark.parametrize("name", BEHAVIOUR)
def test_the_hash_changes_with_all_that_fixes_results(name: str) -> None:
    assert replace(CARD, **{name: BEHAVIOUR[name]}).sha256 != CARD.sha256


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_the_hash_does_not_change_with_the_rest(name: str) -> None:
    changed = replace(CARD, **{name: FOR_PEOPLE[name]})
    assert changed != CARD
    assert changed.sha256 == CARD.sha256


@pytest.mark.parametrize("field", ["decoder_channels", "decoder"])
def test_a_network_that_makes_no_sense_is_refused(field: str) -> None:
    wrong: dict[str, Any] = {"decoder_channels": (8, 8), "decoder": "twice"}
    with pytest.raises(ValueError, match=field):
        replace(TINY, **{field: wrong[field]})


def test_a_network_spec_survives_json() -> None:
    assert NetworkSpec.from_json(json.loads(json.dumps(TINY.to_json()))) == TINY


# Files


def test_a_published_model_is_found_by_its_folder(published: Path) -> None:
    model = load_model(published)
    assert isinstance(model, ModelFile)
    assert isinstance(model, MapsModel)
    weights = (published / "weights.safetensors").read_bytes()
    assert model.card == replace(CARD, weights_sha256=hashlib.sha256(weights).hexdigest())
    assert load_model(str(published)) == model
    assert (published / "LICENSE.txt").read_text() == "Do as you please."
    assert {path.name for path in published.iterdir()} == {
        "LICENSE.txt",
        "card.json",
        "weights.safetensors",
    }
    assert pickle.loads(pickle.dumps(model)) == model


def test_published_weights_are_those_of_the_network(network: HoverNet, published: Path) -> None:
    kept = load_file(published / "weights.safetensors")
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    assert kept.keys() == state.keys()
    for name, value in kept.items():
        if "running" in name:
            assert torch.equal(value, state[name])
        else:
            assert torch.equal(value, state[name].half())


def test_publishing_twice_gives_the_same_bytes(
    network: HoverNet, published: Path, tmp_path: Path
) -> None:
    publish_model(network, CARD, "Do as you please.", tmp_path)
    for path in published.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_flipped_byte_in_the_weights_is_refused(own: Path) -> None:
    path = own / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    model = load_model(own)
    with pytest.raises(ModelNotUsable, match=r"tiny.*sha256.*damaged or was exchanged.*install"):
        model.predictor(Numerics())


def test_missing_weights_are_refused(own: Path) -> None:
    (own / "weights.safetensors").unlink()
    with pytest.raises(ModelNotUsable, match="tiny: cannot read its weights"):
        load_model(own).predictor(Numerics())


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_weights_of_another_network_are_refused(own: Path, damage: str) -> None:
    tensors = load_file(own / "weights.safetensors")
    name = "nucleus_head.1.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "unexpected":
        name = "another.weight"
        tensors[name] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(1, 7, 1, 1)
    change_weights(own, tensors)
    with pytest.raises(ModelNotUsable, match=f"tiny: weights and card disagree.*{name}"):
        load_model(own).predictor(Numerics())


def test_weights_that_are_no_safetensors_are_refused(own: Path) -> None:
    content = b"PK\x03\x04 a pickle in a zip, perhaps"
    (own / "weights.safetensors").write_bytes(content)
    change_card(own, weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelNotUsable, match="tiny: its weights are no safetensors"):
        load_model(own).predictor(Numerics())


@pytest.mark.parametrize("wrong", [{}, {"decoder_channels": [8]}, {"depth": 3}])
def test_a_card_of_no_known_network_is_refused(own: Path, wrong: dict[str, Any]) -> None:
    change_card(own, network={**TINY.to_json(), **wrong} if wrong else {})
    with pytest.raises(ModelNotUsable, match="tiny: its card describes no network"):
        load_model(own).predictor(Numerics())


def test_an_encoder_timm_does_not_know_is_named(own: Path) -> None:
    change_card(own, network={**TINY.to_json(), "encoder": "no_such_encoder"})
    with pytest.raises(UnknownName, match=r"timm .* 'no_such_encoder'.*update timm"):
        load_model(own).predictor(Numerics())


def test_an_architecture_nobody_runs_is_named(own: Path) -> None:
    change_card(own, architecture="stardist")
    with pytest.raises(UnknownName, match=r"'stardist'.*hovernet"):
        load_model(own).predictor(Numerics())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_card_is_refused(own: Path, content: bytes) -> None:
    (own / "card.json").write_bytes(content)
    with pytest.raises(ModelNotUsable, match="model tiny"):
        load_model(own)


# Names


@pytest.fixture
def shelf(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that two models are shipped."""
    for name in ("second", "first"):
        shutil.copytree(published, tmp_path / "shelf" / name)
        change_card(tmp_path / "shelf" / name, name=name)
    monkeypatch.setattr(models, "_SHIPPED", tmp_path / "shelf")
    return tmp_path / "shelf"


@pytest.mark.usefixtures("shelf")
def test_shipped_models_are_found_by_name() -> None:
    assert [card.name for card in list_models()] == ["first", "second"]
    assert load_model("second").card.name == "second"


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("name", ["third", "", ".", "shelf/first", "first/", "first/../second"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        load_model(name)
    assert repr(name) in str(caught.value)
    assert "first, second" in str(caught.value)


@pytest.mark.usefixtures("shelf")
def test_a_shipped_name_wins_over_a_folder_of_that_name(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.rename(own.parent / "first")
    monkeypatch.chdir(own.parent)
    assert load_model("first").card.name == "first"
    assert load_model("./first").card.name == "tiny"


def test_an_object_is_taken_as_it_is() -> None:
    model = LocalNetwork()
    assert isinstance(model, MapsModel)
    assert load_model(model) is model


def test_the_default_model_is_shipped() -> None:
    assert models.DEFAULT_MODEL in [card.name for card in list_models()]
    card = load_model().card
    assert card.name == models.DEFAULT_MODEL
    DecodeOptions.from_json(card.decode)
    assert card.licence_note
    assert NetworkSpec.from_json(card.network).n_classes == len(card.classes)


# Numerics


def test_the_cards_precision_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_numerics(CARD, "auto", None, None) == Numerics("cpu", "bfloat16", 1)
    assert choose_numerics(CARD, "cpu", "bfloat16", 3) == Numerics("cpu", "bfloat16", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_numerics(CARD, "auto", None, None) == Numerics("cuda", "float16", 8)
    assert choose_numerics(CARD, "cpu", None, None) == Numerics("cpu", "bfloat16", 1)


def test_the_backend_follows_from_architecture_device_and_precision() -> None:
    rows = Numerics(backend="rows")
    assert choose_numerics(replace(CARD, precision={}), "cpu", None, None) == rows
    assert choose_numerics(CARD, "cpu", "float32", 3) == replace(rows, batch_size=3)
    assert choose_numerics(CARD, "cpu", "float16", None).backend == "torch"
    other = replace(CARD, architecture="another")
    assert choose_numerics(other, "cpu", "float32", None) == Numerics()


@pytest.mark.parametrize("other", [{"device_kind": "cuda"}, {"precision": "bfloat16"}])
def test_rows_on_another_device_or_in_another_precision_are_refused(other: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"backend rows on .* cpu in float32 only"):
        Numerics(**other, backend="rows")  # type: ignore[arg-type]


def test_a_gpu_that_is_not_there_is_refused(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"--device cuda.*no usable GPU.*--device cpu"):
        choose_numerics(CARD, "cuda", None, None)
    with pytest.raises(UsageError, match="no usable GPU"):
        load_model(published).predictor(Numerics("cuda"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"device_kind": "tpu"},
        {"precision": "int8"},
        {"backend": "onnx"},
        {"batch_size": 0},
        {"threads": 0},
    ],
)
def test_impossible_numerics_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        Numerics(**wrong)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match="'tpu'; one of auto, cpu, cuda"):
        choose_numerics(CARD, "tpu", None, None)


def test_a_card_of_the_first_format_still_opens() -> None:
    values = CARD.to_json() | {"format_version": 1}
    del values["appearance"]
    assert ModelCard.from_json(values, "old") == replace(CARD, appearance={})
