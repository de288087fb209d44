"""Tissue: glass gives nothing, and no annotated nucleus lies outside."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsiseg.errors import UsageError
from wsiseg.plan import read_overview
from wsiseg.slides import frame_at, open_slide
from wsiseg.testing import blemishes
from wsiseg.testing.painted import paint_tissue
from wsiseg.tissue import TissueOptions, find_tissue

HERE = Path(__file__).resolve().parent
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
    rgb[10:16, 10:16] = (120, 112, 100)
    rgb[20, 30] = PINK
    rgb[100:108, 60:160] = PINK
    mask = find_tissue(rgb, MPP, OPTIONS)
    assert not mask[:40, :40].any()
    assert mask[100:108, 60:160].all()


def test_a_few_stained_cells_are_kept_where_as_much_dust_is_not() -> None:
    for colour, kept in (((150, 110, 180), True), ((120, 112, 104), False)):
        rgb = flat(250)
        rgb[50:54, 60:64] = colour
        assert bool(find_tissue(rgb, MPP, OPTIONS)[50:54, 60:64].all()) is kept


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


def framed(rgb: NDArray[np.uint8], margin_px: int) -> NDArray[np.uint8]:
    """The picture on white glass."""
    height, width = rgb.shape[:2]
    slide = flat(255, (height + 2 * margin_px, width + 2 * margin_px))
    slide[margin_px : margin_px + height, margin_px : margin_px + width] = rgb
    return slide


GLASS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "white": lambda rgb: rgb,
    "grey": lambda rgb: blemishes.tint(rgb, (225, 225, 225)),
    "yellow": lambda rgb: blemishes.tint(rgb, (243, 242, 235)),
    "blue": lambda rgb: blemishes.tint(rgb, (234, 238, 242)),
    "pink": lambda rgb: blemishes.tint(rgb, (244, 236, 242)),
    "noisy": lambda rgb: blemishes.add_noise(blemishes.tint(rgb, (240, 240, 240)), 3, 0),
    "vignetted": lambda rgb: blemishes.shade(blemishes.tint(rgb, (244, 242, 244)), 0.8),
}


@pytest.mark.parametrize("glass", GLASS)
def test_glass_of_any_tint_is_out_and_tissue_on_it_is_in(glass: str) -> None:
    rgb = flat(255, (300, 300))
    rgb[100:200, 90:220] = PINK
    assert not find_tissue(GLASS[glass](flat(255, (300, 300))), MPP, OPTIONS).any()
    mask = find_tissue(GLASS[glass](rgb), MPP, OPTIONS)
    assert mask[100:200, 90:220].all()
    assert mask.sum() < 1.12 * 100 * 130


def test_jpeg_leaves_empty_glass_empty() -> None:
    glass = blemishes.through_jpeg(blemishes.add_noise(flat(242, (300, 300)), 2, 0), 50)
    assert not find_tissue(glass, MPP, OPTIONS).any()


def test_what_a_scanner_filled_in_is_not_taken_for_the_glass() -> None:
    """Between white filling and tissue lies glass that is a little pink."""
    rgb = flat(250, (300, 300))
    rgb[:, 60:] = (242, 236, 240)
    rgb[100:200, 120:220] = PINK
    mask = find_tissue(rgb, MPP, OPTIONS)
    assert mask[100:200, 120:220].all()
    assert mask.sum() <= (100 + 2 * 3) ** 2


def test_the_palest_tissue_of_a_full_picture_is_not_taken_for_glass() -> None:
    rng = np.random.default_rng(3)
    pale = np.array([232, 214, 228]) + rng.normal(0, 4, (120, 120, 3))
    assert find_tissue(np.asarray(np.clip(pale, 0, 255), np.uint8), MPP, OPTIONS).all()


@pytest.mark.parametrize("haze", [(236, 240, 246), (244, 236, 242), (230, 234, 244)])
def test_mucus_is_in(haze: tuple[int, int, int]) -> None:
    rgb = flat(248, (200, 200))
    rgb[60:140, 60:140] = haze
    mask = find_tissue(blemishes.add_noise(rgb, 1.5, 0), MPP, OPTIONS)
    assert mask[60:140, 60:140].mean() > 0.98
    assert not mask[:40].any()


def test_fat_is_in() -> None:
    """Walls of 2 µm at 1 µm per pixel, seen at 8."""
    fine = flat(246, (960, 960))
    for offset in range(240, 721, 60):
        fine[240:720, offset : offset + 2] = fine[offset : offset + 2, 240:720] = (212, 160, 196)
    rgb = np.asarray(cv2.resize(fine, (120, 120), interpolation=cv2.INTER_AREA), np.uint8)
    mask = find_tissue(rgb, MPP, OPTIONS)
    assert mask[32:88, 32:88].all()
    assert not mask[:20].any()


def around_glass() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Painted tissue in the middle of glass, and where no tissue is near."""
    rgb = framed(paint_tissue(80, 80, 2000, seed=4), 120)
    free = np.ones(rgb.shape[:2], np.bool_)
    free[110:210, 110:210] = False
    return rgb, free


STROKE = [(30, 30), (280, 40), (290, 280), (40, 285), (35, 60)]


@pytest.mark.parametrize("width_px", [4, 20])
@pytest.mark.parametrize("opacity", [1.0, 0.6, 0.35])
@pytest.mark.parametrize("pen", blemishes.PENS)
def test_pen_on_glass_is_out_and_tissue_beside_it_in(
    pen: str, opacity: float, width_px: int
) -> None:
    rgb, free = around_glass()
    painted, changed = blemishes.draw_pen(rgb, blemishes.PENS[pen], STROKE, width_px, opacity)
    for glass in (GLASS["white"], GLASS["grey"]):
        mask = find_tissue(glass(painted), MPP, OPTIONS)
        assert mask[changed & free].mean() < 0.01
        assert mask[122:198, 122:198].all()


@pytest.mark.parametrize(
    "blemish",
    [
        lambda rgb: blemishes.add_border(rgb, 40),
        lambda rgb: blemishes.add_coverslip_edge(rgb, 50, 2),
        lambda rgb: blemishes.add_coverslip_edge(rgb, 50, 6, 60),
        lambda rgb: blemishes.add_bubble(rgb, (60, 60), 45),
        lambda rgb: blemishes.add_bubble(rgb, (60, 60), 12),
        lambda rgb: blemishes.add_dust(rgb, 40, 5),
    ],
    ids=["border", "coverslip", "thick coverslip", "bubble", "small bubble", "dust"],
)
def test_grey_things_on_glass_are_out(
    blemish: Callable[[NDArray[np.uint8]], blemishes.Painted],
) -> None:
    rgb, free = around_glass()
    painted, changed = blemish(rgb)
    assert (changed & free).sum() > 100
    assert find_tissue(painted, MPP, OPTIONS)[changed & free].mean() < 0.01


def test_ink_within_tissue_makes_no_hole() -> None:
    rgb = flat(250, (200, 200))
    rgb[30:170, 30:170] = PINK
    painted, _ = blemishes.draw_pen(rgb, blemishes.PENS["blue"], [(80, 60), (120, 140)], 8)
    assert find_tissue(painted, MPP, OPTIONS)[35:165, 35:165].all()


FACTOR = 32
MARGIN_PX = 12


def overview(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """An annotated image on white, at 8 µm per pixel, and its labels at 0.25."""
    rgb = np.asarray(Image.open(path).convert("RGB"))
    inst = np.asarray(Image.open(path.parent.parent / "inst" / path.name))
    high, wide = (-(-side // FACTOR) * FACTOR for side in inst.shape)
    canvas, labels = flat(255, (high, wide)), np.zeros((high, wide), inst.dtype)
    canvas[: inst.shape[0], : inst.shape[1]] = rgb
    labels[: inst.shape[0], : inst.shape[1]] = inst
    small = cv2.resize(canvas, (wide // FACTOR, high // FACTOR), interpolation=cv2.INTER_AREA)
    return framed(np.asarray(small, np.uint8), MARGIN_PX), labels


@pytest.mark.real
@pytest.mark.parametrize(
    "data_set", ["monuseg_train", "consep_train", "nucls_sample", "dsb2018_brightfield"]
)
def test_annotated_nuclei_lie_in_one_mosaic_of_all_images(shared: Path, data_set: str) -> None:
    """At least 99.9 % of their pixels, on glass that the images touch with no margin of theirs."""
    images = [overview(path) for path in sorted((shared / "data" / data_set).glob("images/*.png"))]
    side_px = max(max(rgb.shape[:2]) for rgb, _ in images)
    columns = math.isqrt(len(images) - 1) + 1
    slide = flat(255, (columns * side_px, columns * side_px))
    corners = [divmod(index, columns) for index in range(len(images))]
    for (rgb, _), (row, col) in zip(images, corners, strict=True):
        top, left = row * side_px, col * side_px
        slide[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
    mask = find_tissue(slide, MPP, OPTIONS)
    lost = total = 0
    for (rgb, labels), (row, col) in zip(images, corners, strict=True):
        tile = mask[row * side_px :, col * side_px :][: rgb.shape[0], : rgb.shape[1]]
        inside = tile[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        lost += int((~inside.repeat(FACTOR, 0).repeat(FACTOR, 1) & (labels > 0)).sum())
        total += int((labels > 0).sum())
    assert total > 100_000
    assert lost <= 0.001 * total
    assert mask.mean() < 0.8, "the glass is in it as well"


@pytest.mark.real
def test_a_frozen_section_agrees_with_an_outline_drawn_by_hand(shared: Path) -> None:
    slide = open_slide(shared / "slides" / "TCGA-CR-7395-01A-01-TS1.svs")
    frame = frame_at(slide.info, 1.0, MPP)
    rgb = read_overview(slide, frame)
    drawn = json.loads((HERE / "data" / "frozen_section_outline.geojson").read_text())
    filled = np.zeros((slide.info.height_px, slide.info.width_px), np.uint8)
    rings = [
        np.asarray(ring, np.int32)
        for polygon in drawn["features"][0]["geometry"]["coordinates"]
        for ring in polygon
    ]
    cv2.fillPoly(filled, rings, 1)
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * frame.scale).astype(np.intp), size - 1)
        for n, size in zip(rgb.shape[:2], filled.shape, strict=True)
    )
    outline = filled[np.ix_(rows, cols)] > 0
    assert 0.5 < outline.mean() < 0.7
    for change in (GLASS["white"], GLASS["yellow"], GLASS["noisy"]):
        mask = find_tissue(change(rgb), MPP, OPTIONS)
        assert mask[outline].mean() >= 0.97
        assert mask[~outline].mean() <= 0.10


@pytest.mark.parametrize("glass", [(245, 245, 245), (245, 244, 241), (235, 233, 228)])
@pytest.mark.parametrize("noise", [0.0, 2.0, 3.0])
def test_what_a_scanner_fills_in_is_glass(glass: tuple[int, int, int], noise: float) -> None:
    """MRXS and SCN slides are white where nothing was scanned, whatever their glass is."""
    random = np.random.default_rng(1)
    rgb = np.full((400, 400, 3), 255, np.uint8)
    scanned = np.array(glass) + random.normal(0, noise, (200, 240, 3))
    scanned[60:140, 80:160] = (200, 120, 170)
    rgb[150:350, 120:360] = np.clip(np.rint(scanned), 0, 253)
    found = find_tissue(rgb, 8.0, TissueOptions())
    assert found[210:290, 200:280].all()
    found[195:305, 185:295] = False
    assert found.mean() < 0.002
