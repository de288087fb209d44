"""Quality control: what is measured, what is flagged, what is warned about."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsiseg.quality import (
    FLAGS,
    QualityOptions,
    TileQuality,
    appearance_of,
    measure_tile,
    slide_warnings,
    tile_flags,
    unlike_fields,
)
from wsiseg.quality._colour import measure_colours
from wsiseg.quality._focus import edge_width_um
from wsiseg.stain import EOSIN, HEMATOXYLIN, optical_density

RGB = NDArray[np.uint8]
MPP = 0.25
GOOD = TileQuality(
    focus=2.4,
    hematoxylin_od=0.3,
    eosin_od=0.15,
    residual_od=0.1,
    hue_deg=310.0,
    saturation=0.35,
    off_colour_share=0.0,
    bluest_hue_deg=270.0,
    ink_share=0.0,
    fold_share=0.0,
    dark_share=0.0,
    stained_share=0.9,
)
RANGES = {"hue_deg": (260.0, 340.0), "hematoxylin_od": (0.1, 0.6)}


def but(**changes: Any) -> TileQuality:
    return dataclasses.replace(GOOD, **changes)


def from_density(density: NDArray[Any]) -> RGB:
    return np.rint(255 * 10.0**-density).clip(0, 255).astype(np.uint8)


def drawn_tissue(side_px: int = 768, seed: int = 0) -> RGB:
    """Dark blue discs of 7 µm in pink, with an edge a little soft."""
    rng = np.random.default_rng(seed)
    nuclei = np.zeros((side_px, side_px), np.float32)
    for x, y in rng.integers(0, side_px, (side_px**2 // 4000, 2)).tolist():
        cv2.circle(nuclei, (x, y), 14, 0.7, -1)
    nuclei = np.asarray(cv2.GaussianBlur(nuclei, (0, 0), 1.2), np.float32)
    texture = cv2.GaussianBlur(rng.normal(0, 1, nuclei.shape), (0, 0), 3)
    pink = 0.25 + 0.3 * texture
    density = nuclei[..., None] * HEMATOXYLIN + np.clip(pink, 0.1, None)[..., None] * EOSIN
    return from_density(density + 0.05 * np.array([0.5, 0.7, 0.6]))


def blur(rgb: RGB, sigma_px: float) -> RGB:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.uint8)


# --- focus


@pytest.mark.parametrize("width_um", [0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_the_width_of_a_drawn_edge_is_found(width_um: float, mpp: float) -> None:
    # Slanted, so that their places in the pixel grid vary; 16 µm from one to the next.
    row, col = np.mgrid[:256, :256] + 0.5
    across_um = (col - 0.2 * row) * mpp / math.sqrt(1.04)
    from_edge_um = np.abs(across_um % 32 - 16) - 8
    step = 0.5 * (1 + np.vectorize(math.erf)(from_edge_um / width_um / math.sqrt(2)))
    for low, high in ((60, 200), (150, 180)):
        grey = np.rint(low + (high - low) * step).astype(np.uint8)
        found = edge_width_um(np.repeat(grey[..., None], 3, 2), mpp)
        # Pixels of 0.5 µm and the difference of two of them are a blur of their own.
        own_um = 0.5 * math.sqrt(1 / 12 + 4 / 12)
        assert found == pytest.approx(math.hypot(width_um, own_um), rel=0.1)


def test_blur_lowers_focus_and_contrast_does_not() -> None:
    tissue = drawn_tissue()
    focus = [measure_tile(blur(tissue, s) if s else tissue, MPP).focus or 0 for s in (0, 2, 3, 4)]
    assert sorted(focus, reverse=True) == focus
    assert focus[0] > 1.5
    assert focus[-1] < 1.1
    pale = (255 - (255 - tissue.astype(np.float32)) / 2).astype(np.uint8)
    assert measure_tile(pale, MPP).focus == pytest.approx(focus[0], rel=0.05)


def test_a_slide_of_half_the_resolution_is_as_sharp() -> None:
    tissue = drawn_tissue()
    half = cv2.resize(tissue, (384, 384), interpolation=cv2.INTER_AREA)
    enlarged = np.asarray(cv2.resize(half, (768, 768), interpolation=cv2.INTER_CUBIC), np.uint8)
    sharp = measure_tile(tissue, MPP).focus
    assert measure_tile(enlarged, MPP).focus == pytest.approx(sharp, rel=0.1)
    assert measure_tile(np.asarray(half, np.uint8), 0.5).focus == pytest.approx(sharp, rel=0.1)


def test_the_white_outside_is_no_edge() -> None:
    soft = blur(drawn_tissue(), 4)
    alone = measure_tile(soft, MPP)
    framed = np.pad(soft, ((0, 300), (70, 0), (0, 0)), constant_values=255)
    assert measure_tile(framed, MPP) == alone


# --- colours


def test_flat_colours_are_what_they_are_made_of() -> None:
    density = np.array(HEMATOXYLIN) * 0.3 + np.array(EOSIN) * 0.2
    rgb = np.tile(from_density(density), (256, 256, 1))
    found = measure_tile(rgb, MPP)
    assert found.hematoxylin_od == pytest.approx(0.3, abs=0.01)
    assert found.eosin_od == pytest.approx(0.2, abs=0.01)
    assert found.residual_od == pytest.approx(0.0, abs=0.01)
    red, green, blue = (int(v) for v in rgb[0, 0])
    # Blue is the largest, green the smallest: between blue (240°) and red (360°).
    assert found.hue_deg == pytest.approx(240 + 60 * (red - green) / (blue - green), abs=0.5)
    assert found.saturation == pytest.approx(1 - green / blue, abs=0.01)
    assert found.stained_share == 1
    assert found.focus is None


def test_the_mean_hue_goes_round() -> None:
    rgb = np.full((64, 64, 3), (220, 120, 140), np.uint8)
    rgb[:, 32:] = (220, 140, 120)
    colours = measure_colours(rgb, optical_density(rgb), np.ones((64, 64), np.bool_))
    assert colours is not None
    assert colours.hue_deg is not None
    assert min(colours.hue_deg, 360 - colours.hue_deg) < 1


def test_glass_does_not_dilute_a_stain() -> None:
    tissue = drawn_tissue(512)
    beside = np.concatenate([tissue, np.full_like(tissue, 243)], axis=1)
    alone, found = measure_tile(tissue, MPP), measure_tile(beside, MPP)
    assert found.stained_share == pytest.approx(alone.stained_share / 2, abs=0.01)
    assert found.hematoxylin_od == pytest.approx(alone.hematoxylin_od, rel=0.02)
    assert found.hue_deg == pytest.approx(alone.hue_deg, abs=1)


# --- faults


def test_good_tissue_has_no_flag() -> None:
    for seed in range(3):
        assert tile_flags(measure_tile(drawn_tissue(seed=seed), MPP)) == ()


def test_faults_are_flagged_and_their_share_is_right() -> None:
    tissue = drawn_tissue()
    density = optical_density(tissue)
    band = np.zeros(tissue.shape[:2], np.bool_)
    band[:, 300:460] = True
    second = optical_density(tissue[::-1, ::-1])
    folded = measure_tile(from_density(density + second * band[..., None]), MPP)
    assert tile_flags(folded) == ("fold",)
    assert folded.fold_share == pytest.approx(band.mean(), rel=0.35)
    inked = measure_tile(from_density(density + [1.1, 0.7, 0.2] * band[..., None]), MPP)
    assert "ink" in tile_flags(inked)
    assert inked.ink_share == pytest.approx(band.mean(), rel=0.2)
    black = measure_tile(np.where(band[..., None], np.uint8(3), tissue), MPP)
    assert tile_flags(black) == ("dark",)
    assert black.dark_share == pytest.approx(band.mean(), rel=0.05)
    soft = np.where(np.arange(768)[None, :, None] < 600, blur(tissue, 4), tissue)
    assert tile_flags(measure_tile(soft, MPP)) == ("blurred",)


def test_dense_lymphocytes_or_blood_are_no_fold() -> None:
    tissue = drawn_tissue()
    density = optical_density(tissue)
    for stain in (HEMATOXYLIN, EOSIN):
        more = np.zeros(density.shape)
        more[:, 300:460] = np.array(stain) * 0.5
        assert measure_tile(from_density(density + more), MPP).fold_share == 0


# --- other stains


@pytest.mark.parametrize("change", ["grey", "inverted", "dab", "green", "yellow"])
def test_what_is_not_h_and_e_is_flagged(change: str) -> None:
    tissue = drawn_tissue()
    if change == "grey":
        rgb = np.repeat(tissue[..., 1:2], 3, axis=2)
    elif change == "inverted":
        rgb = 255 - tissue
    elif change == "dab":
        brown = np.zeros(tissue.shape)
        brown[::2] = np.array([0.27, 0.57, 0.78]) * 0.6
        rgb = from_density(brown + np.array(HEMATOXYLIN) * 0.15)
    else:
        hsv = cv2.cvtColor(tissue, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += {"green": 130, "yellow": 85}[change]
        rgb = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)
    quality = measure_tile(np.ascontiguousarray(rgb), MPP)
    warned = [warning["code"] for warning in slide_warnings([(quality, 1.0)])]
    assert "not-h-and-e" in warned


def test_nothing_can_be_said_of_nothing() -> None:
    for shape in ((1, 1), (1, 3000), (0, 4), (64, 64), (700, 3)):
        for level in (0, 100, 240, 255):
            for mpp in (0.1, 0.25, 0.5, 1.0, 8.0):
                quality = measure_tile(np.full((*shape, 3), level, np.uint8), mpp)
                assert quality.focus is None
                assert {"blurred", "fold", "ink"}.isdisjoint(tile_flags(quality))
    with pytest.raises(ValueError, match=r"a tile is uint8 of shape \(5, 5\)"):
        measure_tile(np.zeros((5, 5), np.uint8), MPP)


def test_a_record_survives_json() -> None:
    glass = measure_tile(np.full((64, 64, 3), 250, np.uint8), MPP)
    for quality in (GOOD, glass, measure_tile(drawn_tissue(256), MPP)):
        text = json.dumps(quality.to_json(), allow_nan=False)
        assert TileQuality.from_json(json.loads(text)) == quality
    later = GOOD.to_json() | {"what a later version measures": 1.0}
    assert TileQuality.from_json(later) == GOOD


def test_measuring_repeats_to_the_bit() -> None:
    tissue = drawn_tissue(300)
    assert measure_tile(tissue, MPP) == measure_tile(tissue.copy(), MPP)


# --- flags and warnings from records


@pytest.mark.parametrize(
    ("quality", "flag"),
    [
        (but(focus=1.0), "blurred"),
        (but(ink_share=0.05), "ink"),
        (but(fold_share=0.1), "fold"),
        (but(dark_share=0.1), "dark"),
        (but(hue_deg=200.0), "not-h-and-e"),
        (but(hue_deg=20.0), "not-h-and-e"),
        (but(hue_deg=None), "not-h-and-e"),
        (but(saturation=0.05), "not-h-and-e"),
        (but(off_colour_share=0.2), "not-h-and-e"),
        (but(bluest_hue_deg=335.0), "not-h-and-e"),
        (but(bluest_hue_deg=5.0), "not-h-and-e"),
    ],
)
def test_each_limit_gives_its_flag(quality: TileQuality, flag: str) -> None:
    assert tile_flags(GOOD) == ()
    assert tile_flags(quality) == (flag,)
    assert flag in FLAGS


def test_confidence_and_appearance_are_flagged_where_they_can_be() -> None:
    assert tile_flags(GOOD, 0.3, 50) == ("low-confidence",)
    assert tile_flags(GOOD, 0.3, 5) == ()
    assert tile_flags(GOOD, None, 0) == ()
    assert tile_flags(GOOD, 0.95, 50, RANGES) == ()
    pale = but(hematoxylin_od=0.05)
    assert tile_flags(pale, 0.95, 50, RANGES) == ("unlike-training",)
    assert unlike_fields(pale, RANGES) == ("hematoxylin_od",)
    assert tile_flags(pale, 0.95, 50, {}) == ()
    assert tile_flags(but(hematoxylin_od=0.05, stained_share=0.01), None, 0, RANGES) == ()
    strict = QualityOptions(least_confidence=0.99)
    assert tile_flags(GOOD, 0.95, 50, RANGES, strict) == ("low-confidence",)


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (but(focus=1.0), "out-of-focus"),
        (but(ink_share=0.5), "ink-over-tissue"),
        (but(off_colour_share=0.5), "not-h-and-e"),
        (but(dark_share=0.9, stained_share=0.05), "not-h-and-e"),
        (but(hematoxylin_od=0.9), "unlike-training"),
    ],
)
def test_a_slide_is_warned_about_when_enough_of_it_is_odd(odd: TileQuality, code: str) -> None:
    def warned(n_odd: int) -> list[str]:
        tiles = [(odd, 1.0)] * n_odd + [(GOOD, 1.0)] * (1000 - n_odd)
        return [warning["code"] for warning in slide_warnings(tiles, RANGES)]

    assert warned(0) == []
    assert warned(5) == []
    assert warned(700) == [code]


def test_tiles_count_by_their_tissue() -> None:
    tiles = [(but(focus=1.0), 0.01), (GOOD, 1.0)]
    assert slide_warnings(tiles) == []
    assert [w["code"] for w in slide_warnings([(q, 1.01 - w) for q, w in tiles])] == [
        "out-of-focus"
    ]
    assert slide_warnings([]) == []
    assert slide_warnings([(GOOD, 0.0)], RANGES, [(None, 0)]) == []


def test_messages_say_what_was_seen_and_what_to_do() -> None:
    tiles = [(but(focus=1.0, ink_share=0.25, hue_deg=200.0, hematoxylin_od=0.9), 1.0)]
    found = slide_warnings(tiles, RANGES, [(0.4, 100), (None, 0), (0.6, 300)])
    messages = {warning["code"]: warning["message"] for warning in found}
    assert list(messages) == [
        *("not-h-and-e", "out-of-focus", "ink-over-tissue", "unlike-training", "low-confidence")
    ]
    for code, seen in (
        ("not-h-and-e", "mean hue is 200°"),
        ("out-of-focus", "100% of the tissue is blurred"),
        ("ink-over-tissue", "25.0%"),
        ("unlike-training", "hue_deg: 200, expected 260 to 340"),
        ("low-confidence", "400 nuclei is 0.55"),
    ):
        assert seen in messages[code]
        assert "expected" in messages[code]
        assert "\n" not in messages[code]


def test_ranges_hold_what_they_were_made_of() -> None:
    tiles = [but(hue_deg=hue, hematoxylin_od=None) for hue in range(280, 320)]
    tiles += [but(hematoxylin_od=0.2)]
    ranges = appearance_of(tiles)
    assert all(unlike_fields(tile, ranges) == () for tile in tiles)
    assert unlike_fields(but(hue_deg=350.0), ranges) == ("hue_deg", "hematoxylin_od")
    low, high = ranges["hue_deg"]
    assert 270 < low < 280
    assert 319 < high < 329
    with pytest.raises(ValueError, match="none of 1 tiles has a hue_deg"):
        appearance_of([but(hue_deg=None)])


# --- real images


@pytest.mark.real
def test_real_images_pass_and_blurred_ones_do_not(shared: Path) -> None:
    for name in ("monuseg_train", "consep_train"):
        for path in sorted((shared / "data" / name / "images").glob("*.png"))[::6]:
            rgb = np.asarray(Image.open(path).convert("RGB"))
            quality = measure_tile(rgb, MPP)
            found = {warning["code"] for warning in slide_warnings([(quality, 1.0)])}
            assert {"not-h-and-e", "out-of-focus"}.isdisjoint(found), path.stem
            soft = measure_tile(blur(rgb, 4), MPP)
            assert "blurred" in tile_flags(soft), path.stem
            half = cv2.resize(rgb, (500, 500), interpolation=cv2.INTER_AREA)
            enlarged = cv2.resize(half, (1000, 1000), interpolation=cv2.INTER_CUBIC)
            assert "blurred" not in tile_flags(measure_tile(np.asarray(enlarged, np.uint8), MPP))
