"""Changed images: each change is what it says, and the curve is that of single runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluation.found import paint_outline
from wsiseg.evaluation.metrics import panoptic_quality
from wsiseg.evaluation.perturb import (
    PERTURBATIONS,
    PerturbOptions,
    blur,
    brighten,
    compress,
    match_sums,
    misstate_mpp,
    perturbation_curve,
    shift_stains,
)
from wsiseg.evaluation.segmenting import draw_outlines, segment_image
from wsiseg.labels.records import LabelledImage
from wsiseg.models import Numerics
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.stain import optical_density, unmix
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_nuclei

NUMERICS = Numerics()
MODEL = LocalNetwork(mpp=0.25, smooth_px=9, min_area_px=40)


def painted(seed: int, side: int = 220) -> LabelledImage:
    rgb, labels = paint_nuclei(side, 60, 0.25, (seed,))
    classes = np.where(labels > 0, labels % 2, UNKNOWN_CLASS).astype(np.uint8)
    return LabelledImage(f"{seed}", f"P{seed}", rgb, labels.astype(np.int32), classes)


@pytest.mark.parametrize(
    ("kind", "strengths"),
    [("blur", (0.25, 1.0)), ("jpeg", (80, 20)), ("hed", (15, 30)), ("brightness", (-15, -30))],
)
def test_stronger_changes_change_more_and_leave_labels_alone(
    kind: str, strengths: tuple[float, float]
) -> None:
    image = painted(0)
    before = image.rgb.copy()
    change = PERTURBATIONS[kind]
    distances = []
    for strength in (change.untouched, *strengths):
        changed = change.of(image, strength)
        assert changed.rgb.dtype == np.uint8
        assert changed.instances is image.instances
        distances.append(np.abs(changed.rgb.astype(int) - image.rgb).mean())
    assert np.array_equal(image.rgb, before)
    assert distances[0] == 0 < distances[1] < distances[2]
    assert set(strengths) <= set(PerturbOptions().strengths[kind])


def test_a_wrong_scale_changes_labels_and_pixels_alike() -> None:
    image = painted(0)
    larger, smaller = misstate_mpp(image, 10), misstate_mpp(image, -10)
    assert larger.instances.shape == (242, 242)
    assert smaller.instances.shape == (198, 198)
    for changed, factor in ((larger, 1.1), (smaller, 0.9)):
        assert changed.mpp == image.mpp
        assert changed.rgb.shape[:2] == changed.instances.shape == changed.classes.shape
        area = np.bincount(changed.instances.ravel())[1:].sum()
        assert area == pytest.approx((image.instances > 0).sum() * factor**2, rel=0.02)
        # What is at the middle of the new pixel, but where that is on an edge between two.
        at = ((np.arange(197) + 0.5) / factor).astype(int)
        nuclei = changed.instances[:197, :197] > 0
        wrong = [((image.instances[np.ix_(at, at + by)] > 0) != nuclei).mean() for by in (0, 1)]
        assert wrong[0] < 0.005 < wrong[1]


def test_blur_is_a_gaussian_in_micrometres() -> None:
    rgb = np.zeros((61, 61, 3), np.uint8)
    rgb[30, 30] = 255
    spot = LabelledImage("a", "a", rgb, np.zeros((61, 61), np.int32), np.zeros((61, 61), np.uint8))
    seen = blur(replace(spot, rgb=np.where(rgb > 0, 255, 0).astype(np.uint8)), 0.5).rgb[:, :, 0]
    x = np.arange(61) - 30
    wanted = np.exp(-(x**2) / (2 * 2.0**2))
    wanted = 255 * np.outer(wanted, wanted) / wanted.sum() ** 2
    assert np.abs(seen - wanted).max() <= 1.0


def test_jpeg_is_that_of_the_quality() -> None:
    image = painted(1)
    errors = [
        np.abs(compress(image, quality).rgb.astype(int) - image.rgb).mean()
        for quality in (95, 50, 10)
    ]
    assert errors[0] < errors[1] < errors[2]
    # Red stays red: channels are not swapped on the way.
    red = replace(image, rgb=np.full_like(image.rgb, 0) + np.array([200, 30, 60], np.uint8))
    assert np.abs(compress(red, 95).rgb.astype(int) - red.rgb).max() <= 6


def test_stains_shift_as_they_say() -> None:
    image = painted(2)
    before = unmix(optical_density(image.rgb))
    after = unmix(optical_density(shift_stains(image, 20).rgb))
    # Where values are not cut at black or white.
    inside = (image.rgb.min(axis=2) > 40) & (image.rgb.max(axis=2) < 240)
    assert inside.mean() > 0.05
    assert after[inside][:, 0].mean() == pytest.approx(1.2 * before[inside][:, 0].mean(), rel=0.02)
    assert after[inside][:, 1].mean() == pytest.approx(0.8 * before[inside][:, 1].mean(), rel=0.05)
    assert np.abs(shift_stains(image, 1e-6).rgb.astype(int) - image.rgb).max() <= 1


def test_brightness_is_a_factor() -> None:
    image = painted(3)
    wanted = np.clip(np.rint(image.rgb * 1.15), 0, 255)
    assert np.abs(brighten(image, 15).rgb - wanted).max() <= 1
    assert brighten(image, -100).rgb.max() == 0


# Scores


def test_sums_make_panoptic_quality() -> None:
    rng = np.random.default_rng(0)
    image = painted(4)
    found = np.roll(image.instances, 2, axis=0)
    found[rng.random(found.shape) < 0.05] = 0
    iou, matches, n_truth, n_found = match_sums(image, found)
    wanted = panoptic_quality(image.instances, found)
    assert 2 * iou / (n_truth + n_found) == pytest.approx(wanted.pq)
    assert 2 * matches / (n_truth + n_found) == pytest.approx(wanted.dq)


def test_what_is_ignored_counts_for_nothing() -> None:
    labels = np.zeros((10, 20), np.int32)
    labels[2:6, 2:6], labels[2:6, 12:16] = 1, 2
    ignored = np.zeros((10, 20), np.bool_)
    ignored[:, 10:] = True
    classes = np.full(labels.shape, UNKNOWN_CLASS, np.uint8)
    rgb = np.zeros((10, 20, 3), np.uint8)
    image = LabelledImage("a", "a", rgb, labels, classes, 0.25, ignored)
    found = labels.copy()
    found[7:9, 12:16] = 3
    # By more than half in the ignored part; by less than half.
    found[8:10, 8:15], found[0:1, 6:12] = 4, 5
    assert match_sums(image, found) == (1.0, 1.0, 1.0, 2.0)


def test_the_curve_is_that_of_single_runs() -> None:
    images = [painted(5, 150), painted(6, 120)]
    options = PerturbOptions({"jpeg": (100,), "mpp": (10,)})
    said: list[tuple[str, int, int]] = []
    points = perturbation_curve(
        MODEL, images, NUMERICS, options, progress=lambda *step: said.append(step)
    )
    untouched = ("jpeg", 100)
    assert [(p.kind, p.strength) for p in points] == [untouched, ("mpp", 0), ("mpp", 10)]
    assert said == [("perturbing", k, 4) for k in range(4)]
    iou = n = 0.0
    for image in images:
        changed = misstate_mpp(image, 10)
        found = segment_image(MODEL, changed.rgb, 0.25, NUMERICS)
        quality = panoptic_quality(changed.instances, found.labels)
        iou += quality.sq * quality.tp
        n += quality.tp + quality.fp / 2 + quality.fn / 2
    assert points[2].pq.value == pytest.approx(iou / n)
    assert points[2].n_images == 2
    assert points[2].pq.low is not None
    assert points[2].pq.low <= iou / n
    # Measured once: the untouched images are a point of each kind.
    assert points[0].pq == points[1].pq
    assert points[1].pq.value != points[2].pq.value


def test_without_an_image_or_a_known_change_there_is_no_curve() -> None:
    with pytest.raises(UsageError, match="no image"):
        perturbation_curve(MODEL, [], NUMERICS)
    with pytest.raises(UsageError, match=r"'fog'.*known: blur, jpeg"):
        PerturbOptions({"fog": (1,)})


# Images through the pipeline


def test_found_nuclei_are_those_of_the_masks() -> None:
    image = painted(8)
    found = segment_image(MODEL, image.rgb, 0.25, NUMERICS)
    n = int(found.labels.max())
    assert n == len(found.class_index) == len(found.nucleus_prob) > 10
    assert found.class_probs.shape == (n, 2)
    assert np.array_equal(found.class_probs.argmax(axis=1), found.class_index)
    assert panoptic_quality(image.instances, found.labels).dq > 0.3


def slow_drawing(outlines: NDArray[np.object_], shape: tuple[int, int]) -> NDArray[np.int32]:
    labels = np.zeros(shape, np.int32)
    for row, col in np.ndindex(shape):
        for label, outline in enumerate(outlines, 1):
            if outline.contains(shapely.Point(col + 0.5, row + 0.5)):
                labels[row, col] = label
    return labels


def test_outlines_are_drawn_at_the_middles_of_pixels() -> None:
    ring = shapely.Polygon([(1, 1), (9.2, 1.4), (8, 8), (2, 9)], [[(4, 4), (6, 4), (6, 6), (4, 6)]])
    outlines = np.array(
        [
            ring,
            shapely.box(4.4, 4.4, 5.6, 5.6),
            shapely.box(-3, 10, 2.5, 14),
            shapely.box(10.6, 2.6, 11.4, 3.4),
            shapely.box(12, 0, 30, 20),
        ],
        object,
    )
    labels = draw_outlines(outlines, (12, 15))
    assert np.array_equal(labels, slow_drawing(outlines, (12, 15)))
    assert set(np.unique(labels)) == {0, 1, 2, 3, 5}
    assert not draw_outlines(np.empty(0, object), (3, 4)).any()


def test_outlines_are_drawn_as_runs_are_painted() -> None:
    # At another scale than the model's, ends lie on the middles of pixels.
    boxes = shapely.box([0.5, 4.5, 2.5], [0.5, 0.5, 4.5], [4.5, 8.5, 6.5], [4.5, 4.5, 8.5])
    labels = draw_outlines(boxes, (10, 10))
    painted = np.zeros((10, 10), np.int32)
    for label, outline in enumerate(boxes, 1):
        paint_outline(painted, outline, label)
    assert np.array_equal(labels, painted)
    assert [int((labels == k).sum()) for k in (1, 2, 3)] == [16, 16, 16]


@pytest.mark.parametrize(
    ("kind", "strength"),
    [("jpeg", 0), ("jpeg", 101), ("blur", -1), ("mpp", -100), ("brightness", float("nan"))],
)
def test_strengths_that_mean_nothing_are_refused(kind: str, strength: float) -> None:
    with pytest.raises(UsageError, match=f"{kind} of .* is needed"):
        PerturbOptions({kind: (strength,)})
