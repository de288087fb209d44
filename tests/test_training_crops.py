"""Crops: where they lie, what labels go with them, and what chance decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from training_images import CPU, EXACT, PLAIN, discs, numbered_pixels, pixels_of, set_of

from wsiseg.labels.records import LabelledImage
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.training.augment import RIM_PX, Batch, make_batch
from wsiseg.training.draws import AugmentOptions, Draws, draw_crops
from wsiseg.training.pixels import Pixels, place_pixels

INNER = slice(RIM_PX, -RIM_PX)


def crops_of(pixels: Pixels, options: AugmentOptions, n: int, seed: int = 0) -> Batch:
    return make_batch(pixels, draw_crops(pixels, options, n, seed, 1), options.crop_px)


def draws_of(options: AugmentOptions, n: int, *images: LabelledImage) -> Draws:
    return draw_crops(pixels_of(*images), options, n, 0, 1)


# Pixels and labels


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(20, 31), (80, 80), (300, 90)]),
    st.sampled_from([32, 96]),
)
@settings(max_examples=20, deadline=None)
def test_a_crop_has_its_size_whatever_the_images(
    seed: int, size: tuple[int, int], crop_px: int
) -> None:
    image = numbered_pixels(*size)
    batch = crops_of(pixels_of(image), AugmentOptions(crop_px=crop_px), 2, seed)
    square, with_rim = (crop_px, crop_px), (crop_px + 2 * RIM_PX, crop_px + 2 * RIM_PX)
    assert (batch.rgb.shape, batch.rgb.dtype) == ((2, 3, *square), torch.float32)
    assert (batch.instances.shape, batch.instances.dtype) == ((2, *with_rim), torch.int32)
    assert (batch.classes.shape, batch.classes.dtype) == ((2, *square), torch.int64)
    assert (batch.known.shape, batch.known.dtype) == ((2, *square), torch.bool)
    assert batch.rgb.min() >= 0
    assert batch.rgb.max() <= 255
    assert torch.equal(batch.rgb, batch.rgb.round())
    label = batch.instances[:, INNER, INNER].long() - 1
    assert torch.equal(label >= 0, batch.known)
    wanted = torch.where(label >= 0, (label // size[1] + label % size[1]) % 5, UNKNOWN_CLASS)
    assert torch.equal(batch.classes, wanted)


def slow_places(draws: Draws, i: int, side_px: int) -> NDArray[np.float64]:
    """Return (2, side, side): row and column in the image of each pixel's centre."""
    places = np.zeros((2, side_px, side_px))
    for row, col in np.ndindex(side_px, side_px):
        offset = np.array([row + 0.5, col + 0.5]) - side_px / 2
        places[:, row, col] = draws.centre[i] + draws.to_image[i] @ offset
    return places


@pytest.mark.parametrize("side_px", [24, 200])
def test_crops_equal_their_slow_twin(side_px: int) -> None:
    """Scaled and turned, from images larger and smaller than a crop, one partly ignored."""
    rows, cols = np.mgrid[:side_px, : side_px + 9]
    ignored = (rows // 16 + cols // 16) % 3 == 0
    images = [
        replace(numbered_pixels(side_px, side_px + 9), ignored=ignored),
        numbered_pixels(side_px + 3, side_px),
    ]
    options = replace(PLAIN, crop_px=32, scale_share=1, turn_share=1)
    pixels = pixels_of(*images)
    draws = draw_crops(pixels, options, 4, 5, 1)
    batch = make_batch(pixels, draws, 32)
    assert set(draws.image) == {0, 1}
    for i, image in enumerate(images[k] for k in draws.image):
        places = slow_places(draws, i, 32)
        for channel in range(3):
            colour = image.rgb[..., channel].astype(np.float64)
            wanted = map_coordinates(colour, places - 0.5, order=1, mode="reflect")
            assert np.abs(batch.rgb[i, channel].numpy() - wanted).max() < 0.51
        labels, known = slow_labels(image, slow_places(draws, i, 32 + 2 * RIM_PX))
        assert np.array_equal(batch.instances[i].numpy(), labels)
        assert np.array_equal(batch.known[i].numpy(), known[INNER, INNER])
    assert not batch.known.all()


def slow_labels(
    image: LabelledImage, places: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    labels, known = np.zeros(places.shape[1:], np.int32), np.zeros(places.shape[1:], np.bool_)
    height, width = image.instances.shape
    for at in np.ndindex(labels.shape):
        row, col = (int(np.floor(place[at])) for place in places)
        if 0 <= row < height and 0 <= col < width:
            labels[at] = image.instances[row, col]
            known[at] = image.ignored is None or not image.ignored[row, col]
    return labels, known


def test_pixels_are_copied_where_neither_scaled_nor_turned_freely() -> None:
    image = numbered_pixels(150, 130)
    batch = crops_of(pixels_of(image), EXACT, 12)
    rows, cols, third = batch.rgb.long().unbind(1)
    assert torch.equal(batch.instances[:, INNER, INNER], (rows * 130 + cols + 1).int())
    assert torch.equal(third, (rows * 7 + cols * 13) % 251)
    assert torch.equal(batch.classes, (rows + cols) % 5)
    assert batch.known.all()
    for at in (rows, cols):
        assert (at.amax((1, 2)) - at.amin((1, 2)) == 95).all()
    assert len({int(row.min()) for row in rows}) > 5, "crops do not lie here and there"


@pytest.mark.parametrize("turn_share", [0.0, 1.0])
@pytest.mark.parametrize("scale_share", [0.0, 1.0])
def test_labels_lie_on_what_they_label(turn_share: float, scale_share: float) -> None:
    options = replace(PLAIN, turn_share=turn_share, scale_share=scale_share)
    batch = crops_of(pixels_of(discs(300, first_label=70_001)), options, 16)
    dark, labelled = batch.rgb[:, 0] < 150, batch.instances[:, INNER, INNER] > 0
    total = int((dark | labelled).sum())
    assert total > 10_000
    assert int((dark & labelled).sum()) > 0.95 * total
    assert torch.equal(labelled, batch.classes != UNKNOWN_CLASS)


@pytest.mark.parametrize("turn_share", [0.0, 1.0])
def test_no_nucleus_is_duplicated_by_mirroring(turn_share: float) -> None:
    """A small image is mirrored at its border to fill the crop; its labels are not."""
    options = replace(PLAIN, crop_px=192, turn_share=turn_share)
    batch = crops_of(pixels_of(discs(80), discs(70, 1)), options, 10)
    for instances in batch.instances.numpy():
        for label in np.unique(instances[instances > 0]):
            n_parts, _ = cv2.connectedComponents((instances == label).astype(np.uint8))
            assert n_parts == 2, "one nucleus and the background"
    mirrored = (batch.rgb[:, 0] < 150) & ~batch.known
    assert int(mirrored.sum()) > 1000, "no image was mirrored: nothing is proven"
    assert not batch.instances[:, INNER, INNER][~batch.known].any()


def test_every_way_round_occurs() -> None:
    """Flips and quarter turns make eight pictures of one that has no symmetry."""
    image = numbered_pixels(96, 96)
    batch = crops_of(pixels_of(image), EXACT, 80)
    turned = [np.rot90(image.rgb, k) for k in range(4)]
    ways = {np.ascontiguousarray(way).tobytes() for t in turned for way in (t, t[:, ::-1])}
    found = batch.rgb.permute(0, 2, 3, 1).byte().numpy()
    assert {crop.tobytes() for crop in found} == ways
    assert len(ways) == 8


@pytest.mark.parametrize(
    "changed",
    [
        {"mix_share": 1.0},
        {"stain_gain": 0.2},
        {"stain_shift": 0.05},
        {"brightness": 0.2},
        {"blur_share": 1.0},
        {"sharpen_share": 1.0},
        {"jpeg_share": 1.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_each_change_of_colour_leaves_the_labels(changed: dict[str, Any]) -> None:
    pale = discs(200, 1)
    pale = replace(pale, rgb=(255 - (255 - pale.rgb) // 2).astype(np.uint8))
    pixels = pixels_of(discs(200), pale)
    plain = crops_of(pixels, PLAIN, 6)
    other = crops_of(pixels, replace(PLAIN, **changed), 6)
    assert torch.equal(plain.instances, other.instances)
    assert torch.equal(plain.classes, other.classes)
    assert torch.equal(plain.known, other.known)
    n_changed = (plain.rgb != other.rgb).flatten(1).any(1).sum()
    assert n_changed >= (2 if "mix_share" in changed else 6)


# Chance


def test_a_crop_is_a_function_of_seed_and_step() -> None:
    pixels = pixels_of(discs(120), discs(90, 9))
    options = AugmentOptions(crop_px=64)

    def crops(seed: int, step: int) -> Batch:
        return make_batch(pixels, draw_crops(pixels, options, 3, seed, step), 64)

    wanted = crops(4, 17)
    np.random.seed(1)  # noqa: NPY002 - whatever others do with the one they share
    torch.manual_seed(1)
    crops(4, 18)
    for one, other in zip(crops(4, 17), wanted, strict=True):
        assert torch.equal(one, other)
    for other in (crops(4, 18), crops(5, 17), crops(17, 4)):
        assert not torch.equal(other.rgb, wanted.rgb)


def test_sets_count_by_weight_and_images_by_area() -> None:
    sets = [set_of(discs(40), discs(80, 1), weight=1.0), set_of(discs(60, 2), weight=3.0)]
    pixels = place_pixels(sets, CPU)
    assert pixels.chance == pytest.approx([0.05, 0.2, 0.75])
    draws = draw_crops(pixels, EXACT, 20_000, 0, 1)
    shares = np.bincount(draws.image, minlength=3) / 20_000
    assert shares == pytest.approx([0.05, 0.2, 0.75], abs=0.015)
    assert pixels.names == ("discs_0", "discs_1", "discs_2")


def test_placed_pixels_are_those_of_the_images() -> None:
    ignored = np.zeros((50, 40), np.bool_)
    ignored[3, 4] = True
    one, two = numbered_pixels(50, 40), discs(40, first_label=70_001)
    pixels = pixels_of(replace(one, ignored=ignored), two)
    last = slice(int(pixels.first[1]), None)
    assert list(pixels.first) == [0, 2000]
    assert pixels.size.tolist() == [[50, 40], [40, 40]]
    assert np.array_equal(pixels.rgb[last].numpy(), two.rgb.reshape(-1, 3))
    assert np.array_equal(pixels.instances[:2000].numpy(), np.arange(2000) + 1)
    # Labels are numbered anew where they have gaps: 0 and 70 001 to 70 004 become 0 to 4.
    wanted = np.unique(two.instances, return_inverse=True)[1].reshape(-1)
    assert np.array_equal(pixels.instances[last].numpy(), wanted)
    assert pixels.most_instances == 2000
    assert (~pixels.known).nonzero().flatten().tolist() == [3 * 40 + 4]


@pytest.mark.parametrize("sets", [[], [set_of()], [set_of(discs(40), weight=0.0)]])
def test_sets_to_draw_nothing_from_are_refused(sets: Any) -> None:
    with pytest.raises(ValueError, match="weights above 0 are needed"):
        place_pixels(sets, CPU)


@pytest.mark.parametrize("wrong", [{"crop_px": 0}, {"crop_px": 100}, {"scale_low": 1.1}])
def test_options_for_no_crop_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is needed"):
        AugmentOptions(**wrong)


def test_scales_and_turns_have_their_shares() -> None:
    draws = draws_of(AugmentOptions(), 8000, discs(300))
    down, right = draws.to_image[:, :, 0], draws.to_image[:, :, 1]
    magnified = 1 / np.linalg.norm(down, axis=1)
    assert magnified == pytest.approx(1 / np.linalg.norm(right, axis=1))
    assert np.abs((down * right).sum(1)).max() < 1e-9, "crops are sheared"
    assert magnified.min() == pytest.approx(0.75, abs=0.02)
    assert magnified.max() == pytest.approx(1.4, abs=0.02)
    assert (np.abs(magnified - 1) > 1e-9).mean() == pytest.approx(0.7, abs=0.03)
    turned = np.abs(draws.to_image).min((1, 2)) > 0
    assert turned.mean() == pytest.approx(0.3, abs=0.03)
    mirrored = np.linalg.det(draws.to_image) < 0
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)


def test_crops_lie_inside_where_they_fit() -> None:
    options = replace(PLAIN, crop_px=64, scale_share=1, turn_share=0.5)
    draws = draws_of(options, 3000, discs(200))
    corners = np.array([[i, j] for i in (-32, 32) for j in (-32, 32)])
    at = draws.centre[:, None] + np.einsum("nij,kj->nki", draws.to_image, corners)
    assert at.min() >= -1e-9
    assert at.max() <= 200 + 1e-9
    # And reach each edge: no part of an image is never seen.
    assert at.min((0, 1)).max() < 1
    assert at.max((0, 1)).min() > 199


def test_looks_have_their_shares_and_ranges() -> None:
    draws = draws_of(AugmentOptions(), 8000, discs(300))
    assert (draws.sharpness < 0).mean() == pytest.approx(0.3, abs=0.03)
    assert (draws.sharpness > 0).mean() == pytest.approx(0.1, abs=0.02)
    packed = draws.jpeg_quality[draws.jpeg_quality > 0]
    assert len(packed) / 8000 == pytest.approx(0.3, abs=0.03)
    assert (packed.min(), packed.max()) == (40, 95)
    assert np.abs(draws.contrast - 1).max() == pytest.approx(0.12, abs=0.002)
    assert np.abs(draws.brightness).max() == pytest.approx(0.12 * 127, abs=0.1)
