"""Scores of images against plain loops, hand-worked cases and degenerate ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from slow_scores import elements, pixel_sets, slow_aji_plus, slow_image, slow_pairs

from wsiseg.evaluation.detection import pair_centroids
from wsiseg.evaluation.metrics import aji_plus, foreground_iou, panoptic_quality
from wsiseg.evaluation.records import EvaluateOptions, InstanceImage, ScoredPair, instance_image
from wsiseg.evaluation.scoring import score_images
from wsiseg.evaluation.tallies import scored_part
from wsiseg.records import UNKNOWN_CLASS

MPP = 0.5
OPTIONS = EvaluateOptions(radius_um=1.2, tolerance_um=0.5, n_draws=50)
NAMES = ("A", "B", "C")


def close(a, b):
    if a is None or b is None:
        return a is b or math.isnan(a if b is None else b)
    return a == pytest.approx(b, abs=1e-9, rel=1e-9, nan_ok=True)


def random_image(rng, n_labels=5, side=14):
    """Blobs that touch, overlap each other's places, and may be split in two."""
    labels = np.zeros((side, side + 2), np.int32)
    for label in rng.permutation(n_labels) + 1:
        row, col = rng.integers(0, side - 2, 2)
        high, wide = rng.integers(1, 6, 2)
        labels[row : row + high, col : col + wide] = label
    labels[rng.random(labels.shape) < 0.1] = 0
    return labels


def with_random_classes(labels, rng, unknown=0.2):
    compact = instance_image(labels, MPP)
    classes = rng.integers(0, len(NAMES), compact.n).astype(np.uint8)
    classes[rng.random(compact.n) < unknown] = UNKNOWN_CLASS
    return InstanceImage(compact.labels, classes, MPP)


def random_pair(seed):
    rng = np.random.default_rng(seed)
    truth = random_image(rng)
    # Half of the pairs resemble each other, so that there are matches.
    found = np.roll(truth, rng.integers(0, 2, 2), (0, 1)) if seed % 2 else random_image(rng)
    if seed % 2:
        found[found == rng.integers(1, 6)] = 0
    return ScoredPair(
        str(seed),
        f"patient {seed // 2}",
        with_random_classes(truth, rng, 0.3 * (seed % 3)),
        with_random_classes(found, rng, 0.1),
    )


def pair_of(truth, found, **more):
    both = (instance_image(np.array(each, np.int32), MPP) for each in (truth, found))
    return ScoredPair("a", "a", *both, **more)


def figures(pair, options=OPTIONS, names=()):
    return score_images([pair], names, options).images[0].figures


def test_images_equal_plain_loops():
    pairs = [random_pair(seed) for seed in range(40)]
    got = score_images(pairs, NAMES, OPTIONS)
    n_matched = 0
    for pair, image in zip(pairs, got.images, strict=True):
        truth, found = pair.truth, pair.found
        want, of_class = slow_image(
            truth.labels, truth.classes, found.labels, found.classes, MPP, OPTIONS, len(NAMES)
        )
        for name, value in want.items():
            assert close(image.figures[name], value), (pair.name, name)
        n_matched += (want["matched_share"] or 0) > 0
        values = slow_aji_plus(pixel_sets(truth.labels), pixel_sets(found.labels))
        assert any(close(image.figures["aji_plus"], value) for value in values)
        if (truth.classes != UNKNOWN_CLASS).any():
            for k, name in enumerate(NAMES):
                for figure in ("f1", "pq", "dq", "false_per_mm2"):
                    assert close(image.classes[name][figure], of_class[k][figure]), figure
            there = [of_class[k]["pq"] for k in range(3) if of_class[k]["n"]]
            assert close(image.figures["mpq"], np.mean(there))
        else:
            assert image.classes == {}
    assert n_matched > 10


def test_pooled_and_mean_equal_plain_sums():
    pairs = [random_pair(seed) for seed in range(12)]
    got = score_images(pairs, NAMES, OPTIONS)
    each = [panoptic_quality(p.truth.labels, p.found.labels) for p in pairs]
    tp, fp, fn = (sum(getattr(one, name) for one in each) for name in ("tp", "fp", "fn"))
    iou_sum = sum(one.sq * one.tp for one in each if one.tp)
    assert close(got.figures["pq"].pooled.value, iou_sum / (tp + fp / 2 + fn / 2))
    assert close(got.figures["pq"].macro.value, np.nanmean([one.pq for one in each]))
    assert got.figures["sq"].n == tp
    differences = np.array([p.found.n - p.truth.n for p in pairs])
    counts = np.array([p.truth.n for p in pairs])
    mean, sd = differences.mean(), differences.std(ddof=1)
    assert close(got.figures["count_error"].pooled.value, mean)
    assert close(got.figures["count_limit_low"].pooled.value, mean - 1.96 * sd)
    assert close(got.figures["count_limit_high"].pooled.value, mean + 1.96 * sd)
    r2 = 1 - (differences**2).sum() / ((counts - counts.mean()) ** 2).sum()
    assert close(got.figures["count_r2"].pooled.value, r2)
    classes = [got.classes[name]["pq"].pooled.value for name in NAMES]
    assert close(got.figures["mpq_plus"].pooled.value, np.mean(classes))
    own = [image.figures["mpq"] for image in got.images if image.figures["mpq"] is not None]
    assert close(got.figures["mpq"].macro.value, np.mean(own))
    assert got.figures["mpq"].pooled is None
    assert got.figures["mpq_plus"].macro is None


def test_area_limits_and_r2_are_those_of_all_matches():
    rng = np.random.default_rng(1)
    truth, found = np.zeros((2, 60, 60), np.int32)
    areas = []
    for k in range(6):
        wide, more = rng.integers(5, 9), rng.integers(0, 3)
        truth[10 * k : 10 * k + 8, 2 : 2 + wide] = k + 1
        found[10 * k : 10 * k + 8, 2 : 2 + wide + more] = k + 1
        areas.append((8 * wide * MPP**2, 8 * (wide + more) * MPP**2))
    ours, theirs = np.array(areas).T
    got = score_images([pair_of(truth, found)], (), OPTIONS).figures
    mean, sd = (theirs - ours).mean(), (theirs - ours).std(ddof=1)
    assert close(got["area_error_um2"].pooled.value, mean)
    assert close(got["area_limit_low_um2"].pooled.value, mean - 1.96 * sd)
    assert close(got["area_limit_high_um2"].pooled.value, mean + 1.96 * sd)
    r2 = 1 - ((theirs - ours) ** 2).sum() / ((ours - ours.mean()) ** 2).sum()
    assert close(got["area_r2"].pooled.value, r2)


@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_centroids_are_paired_as_by_trying_all(seed, n_found, n_truth):
    rng = np.random.default_rng(seed)
    # Whole numbers: distances equal to the radius, and ties, happen.
    found = rng.integers(0, 6, (n_found, 2)).astype(float)
    truth = rng.integers(0, 6, (n_truth, 2)).astype(float)
    got = pair_centroids(found, truth, 2.0)
    want = slow_pairs(found, truth, 2.0)
    assert len(set(got[:, 0].tolist())) == len(set(got[:, 1].tolist())) == len(got) == len(want)
    apart = [math.dist(found[i], truth[j]) for i, j in got]
    assert max(apart, default=0) <= 2
    assert close(sum(apart), sum(math.dist(found[i], truth[j]) for i, j in want))


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
        lambda shape: st.tuples(
            *[arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 3, 70000]))] * 2
        )
    )
)
@settings(max_examples=80, deadline=None)
def test_aji_plus_equals_trying_all_pairs(pair):
    best = max(
        slow_aji_plus(*map(pixel_sets, pair)), key=lambda value: -1 if value != value else value
    )
    assert close(aji_plus(*pair), best)
    assert close(aji_plus(*pair[::-1]), best)


def test_aji_plus_of_equal_sums_does_not_depend_on_labels():
    truth, found = np.zeros((2, 12), np.int32), np.zeros((2, 12), np.int32)
    # IoU of both is 1 / 6: one pixel of 6, or 2 of 12.
    truth[0, :6] = 1
    found[0, 0], found[0, 4:6], found[1, 4:10] = 1, 2, 2
    for renamed in (found, np.array([0, 2, 1])[found]):
        assert close(aji_plus(truth, renamed), 2 / 13)
        assert close(aji_plus(renamed, truth), 2 / 13)


def test_aji_plus_takes_nothing_twice():
    truth = np.array([[1, 1, 1, 2, 2]])
    found = np.array([[7, 7, 7, 7, 7]])
    # The pair 1-7 has 3 of 5 pixels; 2 stays alone.
    assert close(aji_plus(truth, found), 3 / (5 + 2))
    assert close(foreground_iou(truth, found), 1)


def test_hand_worked_classes():
    """Four annotated nuclei: found right, found as another class, missed, and one extra."""
    truth, found = np.zeros((2, 9, 40), np.int32)
    for k in range(3):
        truth[2:6, 8 * k + 1 : 8 * k + 5] = k + 1
    found[2:6, 1:5] = 1
    found[2:6, 9:13] = 2
    found[2:6, 30:34] = 3
    pair = ScoredPair(
        "a",
        "a",
        InstanceImage(truth, np.array([0, 0, 0], np.uint8), MPP),
        InstanceImage(found, np.array([0, 1, 0], np.uint8), MPP),
    )
    got = score_images([pair], ("A", "B"), OPTIONS)
    # A: TP 1, FN 1 (found as B), FP_d 1, FN_d 1; B: FP 1.
    assert close(got.classes["A"]["f1"].pooled.value, 2 / (2 + 2 + 1 + 1))
    assert got.classes["B"]["f1"].pooled.value == 0
    assert close(got.classes["A"]["pq"].pooled.value, 1 / (1 + 1 / 2 + 2 / 2))
    assert got.classes["B"]["pq"].pooled.value == 0
    # mPQ leaves out B, which is annotated nowhere; mPQ+ does not.
    assert close(got.figures["mpq"].macro.value, 0.4)
    assert close(got.figures["mpq_plus"].pooled.value, 0.2)
    mm2 = 360 * MPP**2 / 1e6
    assert close(got.classes["A"]["false_per_mm2"].pooled.value, 1 / mm2)
    assert close(got.classes["B"]["of_other_class_per_mm2"].pooled.value, 1 / mm2)
    assert close(got.figures["pq"].pooled.value, 2 / 3)
    assert close(got.figures["f1_centroid"].pooled.value, 2 / 3)


def test_matches_of_unknown_class_are_in_no_count_of_a_class():
    labels = np.zeros((9, 40), np.int32)
    for k in range(4):
        labels[2:6, 8 * k + 1 : 8 * k + 5] = k + 1
    known = np.array([0, 0, UNKNOWN_CLASS, UNKNOWN_CLASS], np.uint8)
    truth = InstanceImage(labels, known, MPP)
    found = InstanceImage(labels, np.zeros(4, np.uint8), MPP)
    got = score_images([ScoredPair("a", "a", truth, found)], ("A",), OPTIONS).classes["A"]
    assert got["pq"].pooled.value == got["f1"].pooled.value == 1
    assert got["count_error"].pooled.value == 0


def test_hand_worked_outlines():
    """A square of 4 px and one moved by 1 px: sides have 3 straight elements, corners √½."""
    truth, found = np.zeros((2, 12, 12), np.int32)
    truth[3:7, 3:7] = 1
    found[3:7, 4:8] = 1
    got = figures(pair_of(truth, found), EvaluateOptions(tolerance_um=0.4))
    length = 4 * 3 + 4 * math.sqrt(0.5)
    # The left side with its corners, and the right one without, are 1 px from the other outline;
    # elsewhere at top and bottom both have an element.
    off = 3 + 2 * math.sqrt(0.5) + 3
    assert close(got["boundary_distance_um"], off / length * MPP)
    assert close(got["hd95_um"], MPP)
    assert close(got["surface_dice"], 1 - off / length)
    assert close(got["surface_dice_matched"], 1 - off / length)
    assert figures(pair_of(truth, found))["surface_dice"] == 1
    # An extra nucleus has all of its outline outside.
    found[9:11, 0:2] = 2
    extra = 4 + 4 * math.sqrt(0.5)
    assert close(figures(pair_of(truth, found))["surface_dice"], 2 * length / (2 * length + extra))


def test_hd95_leaves_out_a_twentieth_of_the_length():
    """A bump of 2 × 4 px: of the outline's 89.7 px, 2.4 are 4 px away, 2 each 3, 2 and 1 px."""
    truth, found = np.zeros((2, 24, 40), np.int32)
    truth[8:20, 4:34] = found[8:20, 4:34] = 1
    found[4:8, 10:12] = 1
    (lengths,) = (sum(elements(each).values()) for each in pixel_sets(found))
    away = 1 + 2 * math.sqrt(0.5)
    # 3 px or more: 4.4 px of outline, within the twentieth; 2 px or more: not.
    assert away < away + 2 < 0.05 * lengths < away + 4 < 0.1 * lengths
    assert close(figures(pair_of(truth, found))["hd95_um"], 2 * MPP)


def test_a_false_positive_lies_on_nothing():
    truth, found = np.zeros((2, 6, 30), np.int32)
    truth[0:4, 0:12] = 1
    found[0:4, 0:2] = 1
    found[0:4, 9:11] = 2
    found[2:4, 20:22] = 3
    got = figures(pair_of(truth, found))
    mm2 = 180 * MPP**2 / 1e6
    assert close(got["unpaired_per_mm2"], 3 / mm2)
    assert close(got["false_per_mm2"], 1 / mm2)


EMPTY = np.zeros((6, 7), np.int32)
ONE_PX = np.zeros((6, 7), np.int32)
ONE_PX[0, 6] = 9


def test_both_empty_has_no_score_but_counts():
    got = figures(pair_of(EMPTY, EMPTY))
    numbers = {name: value for name, value in got.items() if value is not None}
    assert numbers == {"false_per_mm2": 0, "unpaired_per_mm2": 0}
    both = score_images([pair_of(EMPTY, EMPTY), pair_of(ONE_PX, ONE_PX)], (), OPTIONS)
    assert both.figures["pq"].macro.value == 1
    assert both.figures["pq"].n_images == 1
    assert both.figures["count_error"].pooled.value == 0


@pytest.mark.parametrize("turned", [False, True])
def test_one_empty_scores_nothing(turned):
    pair = pair_of(EMPTY, ONE_PX) if turned else pair_of(ONE_PX, EMPTY)
    got = figures(pair)
    for name in ("pq", "dq", "sq", "aji", "aji_plus", "dice", "iou", "f1_centroid"):
        assert got[name] == 0, name
    assert got["surface_dice"] == 0
    assert got["hd95_um"] is None
    assert got["count_error_share"] == (None if turned else -1)


def test_one_pixel_is_a_nucleus():
    got = figures(pair_of(ONE_PX, ONE_PX))
    assert got["pq"] == got["aji_plus"] == got["surface_dice"] == got["f1_centroid"] == 1
    assert got["hd95_um"] == got["boundary_distance_um"] == got["area_error_um2"] == 0


def test_touching_nuclei_are_told_apart():
    truth = np.array([[1, 1, 2, 2]] * 3)
    merged = np.array([[5, 5, 5, 5]] * 3)
    got = figures(pair_of(truth, merged))
    assert got["dice"] == 1
    assert got["pq"] == 0
    assert close(got["aji_plus"], 0.5 / 1.5)
    assert figures(pair_of(truth, truth[:, ::-1]))["pq"] == 1


def test_sides_may_be_turned_where_scores_are_said_to_be_symmetric():
    for seed in range(1, 12, 2):
        pair = random_pair(seed)
        got = figures(pair)
        turned = figures(ScoredPair("b", "b", pair.found, pair.truth))
        for name in ("pq", "dq", "sq", "aji_plus", "dice", "iou", "f1_centroid"):
            assert close(got[name], turned[name]), name
        for name in ("hd95_um", "boundary_distance_um", "surface_dice", "surface_dice_matched"):
            assert close(got[name], turned[name]), name
        assert close(got["matched_share"], turned["precision_iou"])


def test_centroids_of_the_same_pixels_are_pairs_though_scales_differ_a_little():
    labels = np.zeros((8, 1200), np.int32)
    labels[2:6, 10::20] = np.arange(1, 61)
    ours, theirs = instance_image(labels, 0.25), instance_image(labels, 0.254)
    for truth, found in ((ours, theirs), (theirs, ours)):
        got = figures(ScoredPair("a", "a", truth, found), EvaluateOptions(n_draws=1))
        assert got["f1_centroid"] == got["pq"] == 1
        assert got["false_per_mm2"] == 0


def test_names_of_labels_do_not_matter():
    rng = np.random.default_rng(5)
    truth = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((7, 6), np.int32)).astype(np.int32)
    found = np.roll(truth, (1, 1), (0, 1))
    found[0], found[:, 0] = 0, 0
    want = figures(pair_of(truth, found))
    for _ in range(3):
        renamed = rng.permutation(np.arange(1, 400))[:17]
        renamed[0] = 0
        assert figures(pair_of(renamed[truth], renamed[found])) == pytest.approx(want, nan_ok=True)


def test_ignored_pixels_count_on_neither_side():
    truth, found = np.zeros((2, 10, 20), np.int32)
    ignored = np.zeros((10, 20), np.bool_)
    ignored[:, 12:] = True
    truth[1:5, 1:5] = 1  # matched
    found[1:5, 1:5] = 1
    found[1:5, 11:16] = 2  # four fifths ignored: does not count
    found[6:9, 9:13] = 3  # a quarter ignored: counts, with 9 px
    truth[6:9, 15:19] = 2  # ignored wholly
    pair = ScoredPair(
        "a",
        "a",
        instance_image(truth, MPP, ignored=ignored),
        instance_image(found, MPP),
    )
    ours, theirs, area_px = scored_part(pair.truth, pair.found)
    assert (ours.n, theirs.n, area_px) == (1, 2, 120)
    assert np.bincount(theirs.labels.ravel()).tolist() == [200 - 16 - 9, 16, 9]
    got = score_images([pair], (), OPTIONS)
    assert close(got.figures["pq"].pooled.value, 1 / 1.5)
    assert close(got.images[0].mm2, 120 * MPP**2 / 1e6)
    # What matches with what is left of it counts, however little that is.
    truth[1:5, 11] = 3
    pair = ScoredPair(
        "a", "a", instance_image(truth, MPP, ignored=ignored), instance_image(found, MPP)
    )
    assert score_images([pair], (), OPTIONS).figures["sq"].n == 2
    turned = ScoredPair("a", "a", pair.found, pair.truth)
    assert close(
        score_images([turned], (), OPTIONS).figures["pq"].pooled.value,
        score_images([pair], (), OPTIONS).figures["pq"].pooled.value,
    )


def test_intervals_are_over_patients_and_repeat():
    pairs = [random_pair(seed) for seed in range(12)]
    first, again = (score_images(pairs, NAMES, OPTIONS) for _ in range(2))
    assert first.n_patients == 6
    for name, score in first.figures.items():
        assert score.pooled == again.figures[name].pooled
        assert score.macro == again.figures[name].macro
    other = score_images(pairs, NAMES, EvaluateOptions(1, {}, 1.2, n_draws=50, seed=1))
    assert other.figures["pq"].pooled != first.figures["pq"].pooled
    # A patient's images come along together: six equal ones are one unit, without an interval.
    same = [ScoredPair(p.name, "one", p.truth, p.found) for p in pairs]
    assert score_images(same, NAMES, OPTIONS).figures["pq"].pooled.low is None


def test_an_image_without_nuclei_counts_against_the_classes_found_there():
    one = InstanceImage(np.where(ONE_PX, 1, 0).astype(np.int32), np.array([0], np.uint8), MPP)
    none = instance_image(EMPTY, MPP)
    pairs = [ScoredPair("a", "a", one, one), ScoredPair("b", "b", none, one)]
    got = score_images(pairs, ("A",), OPTIONS)
    assert close(got.classes["A"]["f1"].pooled.value, 2 / 3)
    assert close(got.figures["mpq_plus"].pooled.value, 2 / 3)
    assert got.figures["mpq"].macro.value == 1
    # Nothing was found at all: classes are scored, with 0.
    nothing = score_images([ScoredPair("a", "a", one, none)], ("A",), OPTIONS)
    assert nothing.classes["A"]["f1"].pooled.value == 0
    assert nothing.figures["mpq"].macro.value == 0


def test_organs_are_scored_apart():
    pairs = [pair_of(ONE_PX, ONE_PX, organ="lung"), pair_of(ONE_PX, EMPTY, organ="colon")]
    organs = score_images(pairs, (), OPTIONS).organs
    assert list(organs) == ["colon", "lung"]
    assert organs["lung"]["pq"].pooled.value == 1
    assert organs["colon"]["pq"].pooled.value == 0


def test_refused():
    with pytest.raises(ValueError, match="no image"):
        score_images([], (), OPTIONS)
    with pytest.raises(ValueError, match="same size"):
        pair_of(EMPTY, EMPTY[1:])
    with pytest.raises(ValueError, match="down to -3"):
        instance_image(EMPTY - 3, MPP)
    with pytest.raises(ValueError, match="one class for each"):
        InstanceImage(ONE_PX, np.zeros(1, np.uint8), MPP)
    with pytest.raises(ValueError, match="radius_um is -1"):
        EvaluateOptions(radius_um=-1)
