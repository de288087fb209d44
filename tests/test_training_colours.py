"""Changes of colour against other programs and plain formulas."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from scipy.ndimage import gaussian_filter
from torch import Tensor
from training_images import CPU, PLAIN, discs, pixels_of

from wsiseg.labels.records import LabelledImage
from wsiseg.testing.painted import paint_nuclei
from wsiseg.training import augment
from wsiseg.training.augment import compress, make_batch, sharpen, shift_brightness, shift_colours
from wsiseg.training.draws import Draws, draw_crops
from wsiseg.training.stains import STAINS, UNMIX, stain_statistics


def tissue(side_px: int = 96) -> NDArray[np.uint8]:
    """Return a picture with edges, colours and noise."""
    rgb, _ = paint_nuclei(side_px, 25, 0.25, (3,))
    noise = np.random.default_rng(0).normal(0, 4, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def as_batch(*pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def some_draws(n: int) -> Draws:
    return draw_crops(pixels_of(discs(80), discs(80, 1)), replace(PLAIN, crop_px=32), n, 0, 1)


# JPEG


def packed_by_pillow(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.float64]:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file)).astype(np.float64)


@pytest.mark.parametrize("quality", [40, 60, 95])
def test_compression_loses_what_jpeg_loses(quality: int) -> None:
    """Pillow works on whole numbers, so coefficients near the middle go to another step."""
    rgb = tissue()
    found = compress(as_batch(rgb), torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy()
    wanted = packed_by_pillow(rgb, quality)
    lost = np.abs(wanted - rgb).mean()
    assert lost > 0.5, "nothing to compare"
    off = np.abs(found - wanted).mean()
    assert off < 0.4 * lost
    for other in (quality - 5, quality + 5):
        assert off < 0.7 * np.abs(found - packed_by_pillow(rgb, other)).mean()
    lost_here = np.abs(found - rgb).mean()
    assert lost_here == pytest.approx(lost, rel=0.1)


@pytest.mark.parametrize(("quality", "tolerance"), [(50, 0), (80, 1), (95, 1)])
def test_steps_are_those_of_pillows_jpeg(quality: int, tolerance: int) -> None:
    """Halves go up there, and to the even number here."""
    file = io.BytesIO()
    Image.fromarray(tissue()).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        assert isinstance(image, JpegImageFile)
        steps = image.quantization
    scale = torch.tensor([(200 - 2 * quality) / 100])
    for number, at_50 in enumerate((augment._luma(), augment._chroma())):
        found = augment._table(at_50, scale, CPU).flatten().numpy()
        assert np.abs(found - np.array(steps[number])).max() <= tolerance


def test_each_picture_of_a_batch_has_its_quality() -> None:
    rgb = as_batch(tissue(), tissue()[::-1].copy(), tissue())
    found = compress(rgb, torch.tensor([0.0, 90.0, 20.0]))
    assert torch.equal(found[0], rgb[0])
    for i, quality in ((1, 90.0), (2, 20.0)):
        alone = compress(rgb[i : i + 1], torch.tensor([quality]))
        assert torch.allclose(found[i : i + 1], alone, atol=1e-3)
    changed = (found - rgb).abs().mean((1, 2, 3))
    assert changed[2] > 1.5 * changed[1] > 0


# Sharpness


def test_blurring_and_sharpening_equal_scipys() -> None:
    rgb = as_batch(tissue(), tissue(), tissue(), tissue())
    blur_px, sharpness = torch.tensor([0.3, 0.9, 1.5, 1.0]), torch.tensor([-1.0, -1.0, 0.7, 0.0])
    found = sharpen(rgb, blur_px, sharpness).numpy()
    for i, picture in enumerate(rgb.double().numpy()):
        sigma, amount = float(blur_px[i]), float(sharpness[i])
        blurred = [gaussian_filter(plane, sigma, mode="mirror", radius=4) for plane in picture]
        wanted = np.clip(picture + amount * (picture - np.stack(blurred)), 0, 255)
        assert np.abs(found[i] - wanted).max() < 1e-2
    assert np.array_equal(found[3], rgb[3].numpy())


# Stains


def test_shifted_colours_equal_a_plain_formula() -> None:
    draws = draw_crops(
        pixels_of(discs(80), discs(80, 1)),
        replace(PLAIN, crop_px=32, mix_share=1, stain_gain=0.2, stain_shift=0.05, brightness=0.12),
        *(3, 0, 1),
    )
    rgb = as_batch(tissue(32), tissue(64)[16:48, 16:48], tissue(32)[::-1].copy())
    found, lit = (change(rgb, draws).numpy() for change in (shift_colours, shift_brightness))
    for i, row, col in np.ndindex(3, 32, 32):
        colour = rgb[i, :, row, col].double().numpy()
        density = -np.log((colour + 1) / 256) @ draws.colour[i] + draws.colour_shift[i]
        wanted = np.clip(256 * np.exp(-density) - 1, 0, 255)
        assert np.abs(found[i, :, row, col] - wanted).max() < 0.01
        wanted = np.clip((colour - 127.5) * draws.contrast[i] + 127.5 + draws.brightness[i], 0, 255)
        assert np.abs(lit[i, :, row, col] - wanted).max() < 0.01


def test_colours_stay_where_nothing_is_drawn() -> None:
    draws = some_draws(2)
    rgb = as_batch(tissue(), tissue()[::-1].copy())
    assert torch.allclose(shift_colours(rgb, draws), rgb, atol=0.01)
    assert torch.equal(shift_brightness(rgb, draws), rgb)


def stained(mean: Any, spread: Any, side_px: int = 200, seed: int = 0) -> LabelledImage:
    """Return an image of known densities of haematoxylin, eosin and the residual."""
    rng = np.random.default_rng(seed)
    amounts = rng.normal(mean, spread, (side_px, side_px, 3))
    rgb = np.clip(np.rint(256 * np.exp(-amounts @ STAINS) - 1), 0, 255).astype(np.uint8)
    blank = np.zeros((side_px, side_px), np.int32)
    return LabelledImage(f"stained_{seed}", "one", rgb, blank, blank.astype(np.uint8))


def test_statistics_are_those_an_image_was_stained_with() -> None:
    mean, spread = [0.5, 0.3, 0.1], [0.08, 0.06, 0.03]
    whole = stained(mean, spread)
    half_glass = replace(whole, rgb=whole.rgb.copy())
    half_glass.rgb[:, ::2] = 250
    for image in (whole, half_glass):
        found = stain_statistics([image.rgb])
        assert found.mean[0] == pytest.approx(mean, abs=0.01)
        assert found.spread[0] == pytest.approx(spread, abs=0.01)


def test_glass_alone_has_statistics_that_can_be_divided_by() -> None:
    found = stain_statistics([np.full((50, 50, 3), 255, np.uint8)] * 2)
    assert found.mean.shape == found.spread.shape == (2, 3)
    assert found.mean == pytest.approx(0)
    assert (found.spread > 0).all()


def test_crops_are_stained_between_their_image_and_another() -> None:
    low, high = np.array([0.3, 0.2, 0.05]), np.array([0.6, 0.5, 0.15])
    pixels = pixels_of(stained(low, 0.05), stained(high, 0.08, seed=1))
    options = replace(PLAIN, crop_px=64, scale_share=0, turn_share=0, mix_share=1)
    draws = draw_crops(pixels, options, 60, 0, 1)
    batch = make_batch(pixels, draws, 64).rgb.double().numpy()
    density = -np.log((batch + 1) / 256)
    means = np.einsum("nchw,cs->ns", density, UNMIX) / 64**2
    share = (means - low) / (high - low)
    # One part for all stains of a crop, from 0 (its own) to 1 (the other's).
    assert np.abs(share - share.mean(1, keepdims=True)).max() < 0.2
    haematoxylin = share[:, 0]
    assert haematoxylin.min() > -0.1
    assert haematoxylin.max() < 1.1
    for i in (0, 1):
        moved = np.abs(haematoxylin - i)[draws.image == i]
        assert moved.min() < 0.1
        assert moved.max() > 0.7


def test_stains_and_their_unmixing_are_inverse() -> None:
    assert np.allclose(STAINS @ UNMIX, np.eye(3))
    assert np.allclose(np.linalg.norm(STAINS, axis=1), 1)
