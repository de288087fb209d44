"""Tissue: glass gives nothing, and no annotated nucleus lies outside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsiseg.errors import UsageError
from wsiseg.testing.painted import paint_tissue
from wsiseg.tissue import TissueOptions, find_tissue

MPP = 8.0
OPTIONS = TissueOptions()
PINK = (226, 170, 200)


def flat(level: int, shape: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    return np.full((*shape, 3), level, np.uint8)


def noisy(rgb: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 2, rgb.shape)
    return np.asarray(np.clip(rgb + noise, 0, 255), np.uint8)


@pytest.mark.parametrize("level", [255, 250, 240, 220, 200, 185])
def test_white_and_grey_glass_are_no_tissue(level: int) -> None:
    assert not find_tissue(flat(level), MPP, OPTIONS).any()
    assert not find_tissue(noisy(flat(level)), MPP, OPTIONS).any()


@pytest.mark.parametrize("mixed", [0, 40, 90, 128, 200])
@pytest.mark.parametrize("glass", [255, 225])
def test_a_black_border_is_no_tissue(glass: int, mixed: int) -> None:
    """Nor is its edge, where black and glass mix in one pixel."""
    rgb = flat(glass)
    rgb[:20] = rgb[:, -25:] = 0
    rgb[20, :-25] = rgb[21:, -26] = mixed
    assert not find_tissue(rgb, MPP, OPTIONS).any()
    assert not find_tissue(noisy(rgb), MPP, OPTIONS).any()


def test_an_all_black_slide_has_no_tissue() -> None:
    assert not find_tissue(flat(0), MPP, OPTIONS).any()


def test_tissue_that_touches_a_black_border_is_kept_whole() -> None:
    rgb = flat(250)
    rgb[:20] = 0
    rgb[20:80, 30:120] = PINK
    assert find_tissue(rgb, MPP, OPTIONS)[20:80, 30:120].all()


def test_a_black_speck_makes_no_hole() -> None:
    rgb = flat(250)
    rgb[30:90, 30:120] = PINK
    rgb[55:57, 60:62] = 0
    assert find_tissue(rgb, MPP, OPTIONS)[30:90, 30:120].all()


def test_tissue_is_grown_by_what_the_options_say_and_no_more() -> None:
    rgb = flat(250)
    rgb[40:80, 50:110] = PINK
    mask = find_tissue(rgb, MPP, OPTIONS)
    reach_px = round(OPTIONS.grow_um / MPP)
    assert mask[40 - reach_px : 80 + reach_px, 80].all()
    smoothing_px = 2
    beyond_px = reach_px + smoothing_px
    assert not mask[: 40 - beyond_px].any()
    assert not mask[80 + beyond_px :].any()
    assert not mask[:, : 50 - beyond_px].any()


def test_dust_is_dropped_and_a_biopsy_is_not() -> None:
    rgb = flat(250, (200, 200))
    rgb[10:13, 10:13] = PINK
    rgb[100:108, 60:160] = PINK
    mask = find_tissue(rgb, MPP, OPTIONS)
    assert not mask[:40, :40].any()
    assert mask[100:108, 60:160].all()


def test_a_gap_as_wide_as_a_vessel_is_closed_and_a_wide_one_is_not() -> None:
    rgb = flat(250, (120, 200))
    rgb[20:100, 20:180] = PINK
    rgb[20:100, 60:63] = 250
    rgb[20:100, 120:140] = 250
    mask = find_tissue(rgb, MPP, OPTIONS)
    assert mask[20:100, 60:63].all()
    assert not mask[40:80, 125:135].any()


def test_the_same_tissue_at_another_scale() -> None:
    """Options are in µm: half the µm per pixel gives the mask of twice the size."""
    rgb = flat(250)
    rgb[40:80, 50:110] = PINK
    coarse = find_tissue(rgb, MPP, OPTIONS)
    fine = find_tissue(rgb.repeat(2, 0).repeat(2, 1), MPP / 2, OPTIONS)
    differing = fine != coarse.repeat(2, 0).repeat(2, 1)
    assert differing.sum() < 0.05 * fine.sum()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (7, 10)])
@pytest.mark.parametrize("level", [0, 255])
def test_tiny_images_of_nothing_are_empty(shape: tuple[int, int], level: int) -> None:
    mask = find_tissue(flat(level, shape), MPP, OPTIONS)
    assert mask.shape == shape
    assert mask.dtype == np.bool_
    assert not mask.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (7, 10)])
def test_tiny_images_of_tissue_are_full(shape: tuple[int, int]) -> None:
    rgb = np.full((*shape, 3), PINK, np.uint8)
    assert find_tissue(rgb, MPP, OPTIONS).all()


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_a_picture_of_300_by_200_px_at_full_zoom_works(mpp: float) -> None:
    assert find_tissue(paint_tissue(200, 300, 800, seed=1), mpp, OPTIONS).mean() > 0.99
    assert not find_tissue(flat(250, (200, 300)), mpp, OPTIONS).any()


def test_the_mask_is_deterministic_and_leaves_its_input_alone() -> None:
    rgb = paint_tissue(300, 400, 900, seed=2, border_px=60)
    before = rgb.copy()
    first = find_tissue(rgb, MPP, OPTIONS)
    assert np.array_equal(first, find_tissue(rgb, MPP, OPTIONS))
    assert np.array_equal(first, find_tissue(np.asfortranarray(rgb), MPP, OPTIONS))
    assert np.array_equal(rgb, before)
    assert 0.2 < first.mean() < 0.8


@pytest.mark.parametrize("target_mpp", [0.0, -8.0, 0.4, 65.0, float("nan")])
def test_an_unusable_scale_is_refused(target_mpp: float) -> None:
    with pytest.raises(UsageError, match=r"0\.5 to 64"):
        replace(OPTIONS, target_mpp=target_mpp)


def area_averaged(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    height, width = (side // factor for side in rgb.shape[:2])
    blocks = rgb[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.asarray(np.rint(blocks.mean(axis=(1, 3))), np.uint8)


def centroids_px(instances: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n, 2): mean row and column of every label."""
    rows, cols = np.nonzero(instances)
    _, index, count = np.unique(instances[rows, cols], return_inverse=True, return_counts=True)
    sums = [np.bincount(index, weights=axis) for axis in (rows, cols)]
    return np.stack(sums, axis=1) / count[:, None]


@pytest.mark.real
@pytest.mark.parametrize("data_set", ["monuseg_train", "consep_train", "nucls_sample"])
def test_annotated_nuclei_lie_in_the_mask(shared: Path, data_set: str) -> None:
    factor, glass_px = 32, 12
    inside = total = 0
    for labels in sorted((shared / "data" / data_set / "inst").glob("*.png"))[::4]:
        picture = Image.open(labels.parent.parent / "images" / labels.name).convert("RGB")
        tissue = area_averaged(np.asarray(picture), factor)
        height, width = tissue.shape[:2]
        slide = flat(255, (height + 2 * glass_px, width + 2 * glass_px))
        slide[glass_px : glass_px + height, glass_px : glass_px + width] = tissue
        mask = find_tissue(slide, MPP, OPTIONS)
        at = (centroids_px(np.asarray(Image.open(labels))) // factor).astype(np.int64)
        at = at[(at < (height, width)).all(axis=1)] + glass_px
        inside += int(mask[at[:, 0], at[:, 1]].sum())
        total += len(at)
        assert not mask[0].any(), f"{labels.name}: the glass around it is in the mask"
    assert total > 100
    assert inside >= 0.99 * total, f"{total - inside} of {total} nuclei lie outside"
