"""The decoder against its plain twin, against the published one, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from slow_decode import (
    as_dicts,
    assert_same,
    maps_from_labels,
    published_decode,
    random_maps,
    read_labels,
    slow_decode,
    slow_describe,
    slow_fill_holes,
    slow_levels,
)

from wsiseg._flood import energy_levels, sobel_kernels
from wsiseg._label_runs import find_runs, framed
from wsiseg.decode import DecodeOptions, decode_instances, instances_from_labels, paint_instances
from wsiseg.errors import UsageError
from wsiseg.evaluation.metrics import panoptic_quality
from wsiseg.records import UNKNOWN_CLASS, Maps

OPTIONS = DecodeOptions()
SMALL = DecodeOptions(sobel_px=5, min_marker_px=2, min_area_px=3)
REAL = [
    ("consep_train", "train_1", 0),
    ("consep_train", "train_3", 300),
    ("monuseg_train", "TCGA-18-5592-01Z-00-DX1", 500),
]


def shifted(maps: Maps, top: int, left: int, bottom: int, right: int) -> Maps:
    """Maps with empty rows and columns around."""
    border = ((top, bottom), (left, right))
    return Maps(
        np.pad(maps.nucleus, border),
        np.pad(maps.hv, ((0, 0), *border)),
        np.pad(maps.classes, ((0, 0), *border)),
    )


def real_crop(shared, data_set: str, name: str, start: int, size: int, seed: int = 0) -> Maps:
    labels = read_labels(shared, data_set, name)
    return maps_from_labels(labels[start : start + size, start : start + size].copy(), seed)


# --- against the twin -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_twin_on_random_maps(seed):
    options = OPTIONS if seed % 2 else SMALL
    maps = random_maps(seed, (60 + seed, 90 - seed), seed % 4, grain_px=1 + seed % 3)
    instances = decode_instances(maps, options)
    assert len(instances) > 5
    assert_same(instances, slow_decode(maps, options))


tiny_maps = st.tuples(st.integers(0, 7), st.integers(0, 7)).flatmap(
    lambda shape: st.builds(
        Maps,
        arrays(np.uint8, shape, elements=st.sampled_from([0, 127, 128, 255])),
        arrays(np.int8, (2, *shape), elements=st.sampled_from([-128, -60, 0, 60, 127])),
        arrays(np.uint8, (2, *shape), elements=st.sampled_from([0, 1, 255])),
    )
)


@given(tiny_maps, st.sampled_from([3, 5, 21]), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_equals_the_twin_on_tiny_maps(maps, sobel_px, min_marker_px, min_area_px):
    options = DecodeOptions(sobel_px=sobel_px, min_marker_px=min_marker_px, min_area_px=min_area_px)
    assert_same(decode_instances(maps, options), slow_decode(maps, options))


@pytest.mark.real
@pytest.mark.parametrize(("data_set", "name", "start"), REAL)
def test_equals_the_twin_on_real_nuclei(shared, data_set, name, start):
    maps = real_crop(shared, data_set, name, start, 256)
    instances = decode_instances(maps, OPTIONS)
    assert len(instances) > 20
    assert_same(instances, slow_decode(maps, OPTIONS))


@pytest.mark.real
@pytest.mark.parametrize(("data_set", "name", "start"), REAL)
def test_agrees_with_the_published_algorithm(shared, data_set, name, start):
    maps = real_crop(shared, data_set, name, 0, 1000, seed=start)
    ours = paint_instances(decode_instances(maps, OPTIONS), maps.nucleus.shape)
    score = panoptic_quality(published_decode(maps, OPTIONS), ours)
    assert score.pq >= 0.995, score


@pytest.mark.real
def test_finds_the_nuclei_it_was_shown(shared):
    labels = read_labels(shared, "consep_train", "train_3")[:512, :512].copy()
    maps = maps_from_labels(labels, 0, noise=0.02)
    ours = paint_instances(decode_instances(maps, OPTIONS), labels.shape)
    assert panoptic_quality(labels, ours).pq > 0.8


@pytest.mark.parametrize("sobel_px", range(3, 22, 2))
def test_energy_equals_opencv_kernels(sobel_px):
    rng = np.random.default_rng(sobel_px)
    hv = rng.integers(-128, 128, (2, 40, 37)).astype(np.int8)
    inside = rng.random((40, 37)) < 0.5
    canvas = framed(inside)
    got = energy_levels(hv, find_runs(canvas, np.arange(2, dtype=np.int32)), sobel_px, 100)
    want = np.where(inside, slow_levels(hv, sobel_px), 1024)
    np.testing.assert_array_equal(got[1:-1, 1:-1], want)


@pytest.mark.parametrize(("sobel_px", "bits"), [(13, 31), (21, 63)])
def test_energy_cannot_overflow(sobel_px, bits):
    """The largest slopes there are: a full fall in the middle, for the largest kernels."""
    smooth, derive = sobel_kernels(sobel_px)
    assert 128 * int(smooth.sum()) < 2**31
    assert 128 * int(np.abs(derive).sum()) < 2**31
    assert 128 * int(smooth.sum()) * int(np.abs(derive).sum()) < 2**bits
    assert 1023 * 128 * int(smooth.sum()) * int(np.abs(derive).sum()) < 2**63
    hv = np.full((2, 60, 60), 127, np.int8)
    hv[0, :, 30:] = -128
    hv[1, 30:] = -128
    canvas = framed(np.ones((60, 60), np.uint8))
    runs = find_runs(canvas, np.arange(2, dtype=np.int32))
    got = energy_levels(hv, runs, sobel_px, 100)
    np.testing.assert_array_equal(got[1:-1, 1:-1], slow_levels(hv, sobel_px))
    assert got[30, 10] == 1023


# --- place and neighbours do not matter -------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_moving_the_maps_moves_the_instances(top, left, bottom, right):
    maps = shifted(random_maps(7, (50, 60)), 1, 1, 1, 1)
    before = decode_instances(maps, SMALL)
    after = decode_instances(shifted(maps, top, left, bottom, right), SMALL)
    np.testing.assert_array_equal(after.runs, before.runs + np.array([top, left, left]))
    for name in ("first_run", "area_px", "class_index", "class_prob", "nucleus_prob"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.real
def test_a_crop_gives_the_same_nuclei(shared):
    """What lies 11 px (the kernel's reach and one) inside the crop knows of no edge."""
    maps = real_crop(shared, "consep_train", "train_1", 100, 700)
    top, left, size, reach = 93, 150, 380, 11
    cut = (slice(top, top + size), slice(left, left + size))
    crop = Maps(maps.nucleus[cut], maps.hv[:, *cut], maps.classes[:, *cut])
    inner = slice(reach, size - reach)
    mask = ndimage.label(crop.nucleus >= 128)[0]
    near_edge = mask.copy()
    near_edge[inner, inner] = 0
    far = ~np.isin(mask, near_edge[near_edge > 0]) & (mask > 0)
    whole = paint_instances(decode_instances(maps, OPTIONS), maps.nucleus.shape)[cut]
    part = paint_instances(decode_instances(crop, OPTIONS), crop.nucleus.shape)
    pairs = np.unique(np.stack([whole[far], part[far]]), axis=1)
    assert pairs.shape[1] > 100
    assert all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def test_strided_maps_are_read_right():
    maps = random_maps(3, (64, 64))
    turned = Maps(maps.nucleus.T, maps.hv.transpose(0, 2, 1), maps.classes.transpose(0, 2, 1))
    copied = Maps(*(np.ascontiguousarray(getattr(turned, n)) for n in ("nucleus", "hv", "classes")))
    assert as_dicts(decode_instances(turned, SMALL)) == as_dicts(decode_instances(copied, SMALL))


# --- worked by hand ---------------------------------------------------------------------


def picture(*rows: str) -> np.ndarray:
    return np.array([[int(c) if c.isdigit() else 0 for c in row] for row in rows], np.int32)


def painted(labels: np.ndarray) -> np.ndarray:
    return paint_instances(instances_from_labels(labels), labels.shape)


FILLED = picture(".....", ".111.", ".1.1.", ".111.", ".....")
OPEN = {
    "leak through a diagonal": picture(".....", ".111.", ".1.1.", ".11..", "....."),
    "C": picture(".....", ".111.", ".1...", ".111.", "....."),
    "another nucleus inside": picture("11111", "1...1", "1.2.1", "1...1", "11111"),
    "two nuclei around": picture(".....", ".112.", ".1.2.", ".122.", "....."),
    "another nucleus at the corner": picture("1111", "1..1", "1.12", "1112"),
    "open to the edge": picture("11.11", "1...1", "11111"),
    "edge on three sides": picture("111", "1.."),
}


def test_ring_is_filled():
    want = FILLED.copy()
    want[2, 2] = 1
    np.testing.assert_array_equal(painted(FILLED), want)


@pytest.mark.parametrize("case", OPEN)
def test_stays_open(case):
    labels = OPEN[case]
    np.testing.assert_array_equal(painted(labels) > 0, labels > 0)


def test_ring_in_a_ring_is_filled_only_inside():
    labels = picture("1111111", "1.....1", "1.222.1", "1.2.2.1", "1.222.1", "1.....1", "1111111")
    got = painted(labels)
    assert got[3, 3] == got[3, 2] > 0
    assert got[1, 1] == 0


@given(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).flatmap(
        lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 1, 1, 1, 2]))
    )
)
@settings(max_examples=150, deadline=None)
def test_holes_and_description_equal_the_twin(raw):
    labels = np.zeros_like(raw)
    for value in (1, 2):
        labels += np.where(raw == value, ndimage.label(raw == value)[0] * 2 + value, 0)
    nucleus = (raw * 50).astype(np.uint8)
    classes = np.stack([nucleus, nucleus[::-1]])
    got = instances_from_labels(labels.astype(np.int32), nucleus, classes)
    assert_same(got, slow_describe(slow_fill_holes(labels), nucleus, classes))


def test_checkerboard_contact_stays_two():
    nucleus = np.zeros((12, 12), np.uint8)
    nucleus[1:6, 1:6] = nucleus[6:11, 6:11] = 255
    maps = Maps(nucleus, np.zeros((2, 12, 12), np.int8), np.zeros((0, 12, 12), np.uint8))
    instances = decode_instances(maps, OPTIONS)
    assert instances.area_px.tolist() == [25, 25]
    assert instances.runs[[0, -1]].tolist() == [[1, 1, 6], [10, 6, 11]]
    assert instances.class_index.tolist() == [UNKNOWN_CLASS] * 2
    assert np.isnan(instances.class_prob).all()
    assert instances.nucleus_prob.tolist() == [1, 1]
    assert not instances.cut.any()


def test_two_touching_nuclei_part_at_the_fall():
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 8:30] = 1
    labels[10:30, 30:52] = 2
    maps = maps_from_labels(labels, 0, noise=0)
    got = paint_instances(decode_instances(maps, OPTIONS), labels.shape)
    np.testing.assert_array_equal(got[12:28, 10:50], labels[12:28, 10:50])


def test_component_without_marker_is_one_nucleus():
    """A steep fall all over: no pixel has little energy."""
    nucleus = np.zeros((40, 40), np.uint8)
    nucleus[16:24, 18:22] = 200
    hv = np.zeros((2, 40, 40), np.int8)
    hv[0, :, :20], hv[0, :, 20:] = 100, -100
    maps = Maps(nucleus, hv, np.zeros((0, 40, 40), np.uint8))
    assert slow_levels(hv, OPTIONS.sobel_px)[nucleus > 0].min() > 100
    assert decode_instances(maps, OPTIONS).area_px.tolist() == [32]
    assert len(decode_instances(maps, replace(OPTIONS, min_area_px=33))) == 0


def test_small_neighbour_becomes_background_then_a_hole():
    nucleus = np.full((9, 9), 255, np.uint8)
    nucleus[2:7, 2:7] = 0
    nucleus[4, 4] = 255
    maps = Maps(nucleus, np.zeros((2, 9, 9), np.int8), np.zeros((0, 9, 9), np.uint8))
    assert decode_instances(maps, replace(OPTIONS, min_area_px=2)).area_px.tolist() == [81]
    assert decode_instances(maps, replace(OPTIONS, min_area_px=1)).area_px.tolist() == [56, 1]


def test_one_pixel():
    maps = Maps(
        np.full((1, 1), 128, np.uint8),
        np.zeros((2, 1, 1), np.int8),
        np.array([[[7]], [[9]], [[9]]], np.uint8),
    )
    instances = decode_instances(maps, DecodeOptions(min_marker_px=1, min_area_px=1))
    assert instances.runs.tolist() == [[0, 0, 1]]
    assert instances.class_index.tolist() == [1]
    assert instances.class_prob[0] == np.float32(9 / 255)
    assert instances.nucleus_prob[0] == np.float32(128 / 255)
    assert instances.cut.tolist() == [True]
    assert len(decode_instances(maps, OPTIONS)) == 0


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (30, 40)])
def test_nothing_there(shape):
    maps = Maps(
        np.zeros(shape, np.uint8), np.zeros((2, *shape), np.int8), np.zeros((4, *shape), np.uint8)
    )
    instances = decode_instances(maps, OPTIONS)
    assert len(instances) == 0
    assert instances.runs.shape == (0, 3)
    assert paint_instances(instances, shape).shape == shape


# --- label images -----------------------------------------------------------------------


def test_label_keeps_its_largest_part():
    labels = picture("7.77", "7...", "..9.", "99..")
    got = instances_from_labels(labels * 1_000_000)
    assert got.runs.tolist() == [[0, 0, 1], [1, 0, 1], [3, 0, 2]]


def test_order_is_exact():
    """Equal centroids: the first pixel decides, whatever the labels are."""
    labels = picture("33333", "3...3", "3.2.3", "3...3", "33333")
    labels = np.kron(labels, np.ones((3, 3), np.int32))
    got = instances_from_labels(labels)
    assert got.area_px.tolist() == [16 * 9, 9]
    assert (got.row_sum / got.area_px).tolist() == [7, 7]


def test_painting_gives_back_the_instances():
    instances = decode_instances(random_maps(11, (80, 70)), SMALL)
    again = instances_from_labels(paint_instances(instances, (80, 70)))
    assert len(instances) > 10
    for name in ("first_run", "runs", "area_px", "row_sum", "col_sum", "cut"):
        np.testing.assert_array_equal(getattr(again, name), getattr(instances, name))
    assert np.isnan(again.nucleus_prob).all()
    assert (again.class_index == UNKNOWN_CLASS).all()


def test_label_images_refused():
    ones = np.ones((2, 3), np.int32)
    with pytest.raises(ValueError, match="negative"):
        instances_from_labels(-ones)
    with pytest.raises(ValueError, match="nucleus is uint8"):
        instances_from_labels(ones, np.ones((3, 2), np.uint8))
    with pytest.raises(ValueError, match="classes is float64"):
        instances_from_labels(ones, classes=np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="inside"):
        paint_instances(instances_from_labels(ones), (2, 2))


# --- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nucleus_threshold", 0.0),
        ("nucleus_threshold", 1.01),
        ("nucleus_threshold", math.nan),
        ("marker_energy", -0.1),
        ("sobel_px", 4),
        ("sobel_px", 23),
        ("sobel_px", 1),
        ("min_marker_px", 0),
        ("min_area_px", 2.5),
    ],
)
def test_options_out_of_range(name, value):
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        DecodeOptions(**{name: value})


def test_options_go_through_json():
    options = DecodeOptions(nucleus_threshold=0.4, sobel_px=11)
    assert DecodeOptions.from_json(options.to_json()) == options
    assert DecodeOptions.from_json({}) == OPTIONS
    with pytest.raises(UsageError, match="sobel_size"):
        DecodeOptions.from_json({"sobel_size": 3})


def test_threshold_is_met_by_equality():
    nucleus = np.array([[127, 128]], np.uint8)
    maps = Maps(nucleus, np.zeros((2, 1, 2), np.int8), np.zeros((0, 1, 2), np.uint8))
    options = DecodeOptions(min_marker_px=1, min_area_px=1)
    assert decode_instances(maps, options).runs.tolist() == [[0, 1, 2]]
