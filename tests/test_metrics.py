"""Scores against hand-worked cases and against plain loops over pixel sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsiseg.evaluation.metrics import (
    PanopticQuality,
    aji,
    count_overlaps,
    dice,
    match_instances,
    panoptic_quality,
)

LABELS = np.int32


def pixel_sets(labels):
    found = {}
    for place, label in np.ndenumerate(labels):
        if label:
            found.setdefault(int(label), set()).add(place)
    return dict(sorted(found.items()))


def slow_iou(a, b):
    return len(a & b) / len(a | b)


def slow_pq(reference, predicted):
    ours, theirs = pixel_sets(reference), pixel_sets(predicted)
    ious = [v for a in ours.values() for b in theirs.values() if (v := slow_iou(a, b)) > 0.5]
    tp, fp, fn = len(ious), len(theirs) - len(ious), len(ours) - len(ious)
    if tp + fp + fn == 0:
        return PanopticQuality(math.nan, math.nan, math.nan, 0, 0, 0)
    dq = tp / (tp + 0.5 * fp + 0.5 * fn)
    sq = sum(ious) / tp if tp else 0.0
    return PanopticQuality(dq * sq, dq, sq, tp, fp, fn)


def slow_aji(reference, predicted):
    ours, theirs = pixel_sets(reference), pixel_sets(predicted)
    shared = united = 0
    taken = set()
    for a in ours.values():
        best, best_iou = None, 0.0
        for label, b in theirs.items():
            if slow_iou(a, b) > best_iou:
                best, best_iou = label, slow_iou(a, b)
        if best is None:
            united += len(a)
        else:
            taken.add(best)
            shared += len(a & theirs[best])
            united += len(a | theirs[best])
    united += sum(len(b) for label, b in theirs.items() if label not in taken)
    return shared / united if united else math.nan


def slow_dice(reference, predicted):
    total = np.count_nonzero(reference) + np.count_nonzero(predicted)
    both = np.count_nonzero((reference > 0) & (predicted > 0))
    return 2 * both / total if total else math.nan


def close(a, b):
    return a == pytest.approx(b, abs=1e-9, nan_ok=True)


label_images = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda shape: st.tuples(
        *[arrays(LABELS, shape, elements=st.sampled_from([0, 0, 1, 2, 3, 70000]))] * 2
    )
)


@given(label_images)
@settings(max_examples=150, deadline=None)
def test_scores_equal_plain_loops(pair):
    reference, predicted = pair
    got, want = panoptic_quality(reference, predicted), slow_pq(reference, predicted)
    assert (got.tp, got.fp, got.fn) == (want.tp, want.fp, want.fn)
    assert close(got.pq, want.pq)
    assert close(got.dq, want.dq)
    assert close(got.sq, want.sq)
    assert close(aji(reference, predicted), slow_aji(reference, predicted))
    assert close(dice(reference, predicted), slow_dice(reference, predicted))


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_plain_loops_on_blocks(seed):
    """Blocks moved by a little: many matches, which random pixels hardly ever have."""
    rng = np.random.default_rng(seed)
    reference = np.kron(rng.permutation(36).reshape(6, 6), np.ones((12, 14))).astype(LABELS)
    predicted = np.roll(reference, rng.integers(0, 3, 2), (0, 1))
    predicted[predicted % 5 == 4] = 0
    got, want = panoptic_quality(reference, predicted), slow_pq(reference, predicted)
    assert got.tp > 5
    assert got.fn > 0
    assert (got.tp, got.fp, got.fn) == (want.tp, want.fp, want.fn)
    assert close(got.pq, want.pq)
    assert close(aji(reference, predicted), slow_aji(reference, predicted))


def test_hand_worked():
    reference = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 0, 0]], LABELS)
    predicted = np.array([[5, 5, 5, 0, 0, 0, 7, 7, 0, 9]], LABELS)
    # 1-5: 3 of 4 px; 2-7: 1 of 3 px, no match; 9 lies alone.
    score = panoptic_quality(reference, predicted)
    assert (score.tp, score.fp, score.fn) == (1, 2, 1)
    assert close(score.dq, 1 / 2.5)
    assert close(score.sq, 0.75)
    assert close(score.pq, 0.3)
    assert close(aji(reference, predicted), (3 + 1) / (4 + 3 + 1))
    assert close(dice(reference, predicted), 2 * 4 / (6 + 6))
    matches = match_instances(reference, predicted)
    assert matches.reference_label.tolist() == [1]
    assert matches.predicted_label.tolist() == [5]
    assert matches.iou.tolist() == [0.75]


def test_half_is_no_match():
    reference = np.array([[1, 1]], LABELS)
    predicted = np.array([[1, 0]], LABELS)
    assert panoptic_quality(reference, predicted) == PanopticQuality(0.0, 0.0, 0.0, 0, 1, 1)


def test_aji_takes_the_lowest_label_of_equals_and_may_take_it_twice():
    # Label 1 of the reference meets 3 and 4 with IoU 1/3 each and takes 3.
    reference = np.array([[0, 1, 1, 0]], LABELS)
    predicted = np.array([[3, 3, 4, 4]], LABELS)
    assert close(aji(reference, predicted), 1 / (3 + 2))
    # Both reference instances take the only prediction; their unions add up.
    reference = np.array([[1, 1, 2, 2]], LABELS)
    predicted = np.array([[6, 6, 6, 6]], LABELS)
    assert close(aji(reference, predicted), 4 / 8)


def test_same_image_is_perfect_whatever_the_labels():
    reference = np.array([[1, 1, 0, 4], [0, 2, 2, 4]], LABELS)
    renamed = np.array([[9, 9, 0, 1], [0, 300, 300, 1]], np.uint16)
    assert panoptic_quality(reference, renamed) == PanopticQuality(1.0, 1.0, 1.0, 3, 0, 0)
    assert aji(reference, renamed) == 1
    assert dice(reference, renamed) == 1


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (0, 0)])
def test_nothing_to_score_is_nan(shape):
    empty = np.zeros(shape, LABELS)
    score = panoptic_quality(empty, empty)
    assert all(math.isnan(value) for value in (score.pq, score.dq, score.sq))
    assert (score.tp, score.fp, score.fn) == (0, 0, 0)
    assert math.isnan(aji(empty, empty))
    assert math.isnan(dice(empty, empty))
    assert len(match_instances(empty, empty).iou) == 0


def test_one_empty_scores_nothing():
    empty, one = np.zeros((2, 2), LABELS), np.array([[1, 2], [0, 2]], LABELS)
    assert panoptic_quality(one, empty) == PanopticQuality(0.0, 0.0, 0.0, 0, 0, 2)
    assert panoptic_quality(empty, one) == PanopticQuality(0.0, 0.0, 0.0, 0, 2, 0)
    for pair in ((one, empty), (empty, one)):
        assert aji(*pair) == 0
        assert dice(*pair) == 0


def test_overlaps_hold_every_pair_once():
    overlaps = count_overlaps(
        np.array([[1, 1, 4], [1, 0, 4]], LABELS), np.array([[2, 3, 3], [2, 3, 0]], LABELS)
    )
    pairs = np.transpose([overlaps.reference_index, overlaps.predicted_index, overlaps.shared_px])
    assert pairs.tolist() == [[0, 0, 2], [0, 1, 1], [1, 1, 1]]
    assert overlaps.united_px.tolist() == [3, 5, 4]


def test_refused():
    one = np.ones((2, 2), LABELS)
    with pytest.raises(ValueError, match="same size"):
        dice(one, np.ones((2, 3), LABELS))
    with pytest.raises(ValueError, match="down to -1"):
        aji(one, -one)
    with pytest.raises(ValueError, match="not unique"):
        match_instances(one, one, 0.3)
