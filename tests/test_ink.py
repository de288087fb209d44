"""Ink: pens of all colours are found, stained tissue of any shade is not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsiseg import ink as ink_module
from wsiseg.ink import find_ink
from wsiseg.testing import blemishes
from wsiseg.testing.painted import paint_tissue

MPP = 4.0
STROKE = [(40, 60), (200, 90), (210, 220)]
INKED = {"train_2": 0.05, "train_12": 0.05, "train_15": 0.005}
"""CoNSeP images with black and blue dye, and the least share of it anybody sees."""
BROWN_INKED = "train_4"


def flat(colour: tuple[int, int, int], shape: tuple[int, int] = (60, 60)) -> NDArray[np.uint8]:
    return np.full((*shape, 3), colour, np.uint8)


@pytest.mark.parametrize("opacity", [1.0, 0.7])
@pytest.mark.parametrize("pen", ["blue", "green", "red"])
@pytest.mark.parametrize("mpp", [2.0, 4.0, 8.0])
def test_a_stroke_on_glass_is_found_and_nothing_else(pen: str, opacity: float, mpp: float) -> None:
    glass = blemishes.add_noise(flat((245, 244, 246), (260, 260)), 2, 1)
    painted, changed = blemishes.draw_pen(glass, blemishes.PENS[pen], STROKE, 24, opacity)
    found = find_ink(painted, mpp)
    assert found[changed].mean() > 0.85
    assert not found[~cv2.dilate(changed.astype(np.uint8), np.ones((9, 9))).astype(bool)].any()


@pytest.mark.parametrize(("pen", "least"), [("blue", 0.6), ("green", 0.6), ("black", 0.4)])
def test_a_stroke_over_tissue_is_found(pen: str, least: float) -> None:
    """Of black only what is dense: paler, over tissue, it looks like a fold."""
    tissue = paint_tissue(260, 260, 3000, seed=5)
    painted, changed = blemishes.draw_pen(tissue, blemishes.PENS[pen], STROKE, 24, 0.95)
    found = find_ink(painted, MPP)
    assert found[changed].mean() > least
    assert not find_ink(tissue, MPP).any()


@pytest.mark.parametrize(
    "colour",
    [
        (226, 170, 200),
        (205, 105, 150),
        (88, 52, 120),
        (40, 20, 75),
        (220, 120, 110),
        (130, 90, 60),
        (90, 60, 45),
        (60, 40, 28),
        (170, 150, 205),
        (250, 250, 250),
        (190, 190, 192),
        (140, 140, 138),
        (0, 0, 0),
    ],
    ids=[
        *("stroma", "eosin", "haematoxylin", "lymphoid", "blood", "DAB", "melanin", "dark melanin"),
        *("mucus", "glass", "shadow", "dust", "border"),
    ],
)
def test_what_is_not_ink(colour: tuple[int, int, int]) -> None:
    for white in ((255, 255, 255), (243, 242, 235), (244, 236, 242), (215, 215, 215)):
        assert not find_ink(blemishes.tint(flat(colour), white), MPP).any()


def test_blood_red_cells_within_tissue_are_not_red_ink() -> None:
    """They have the hue of a red pen, but never all of their surroundings."""
    tissue = flat((226, 160, 195), (120, 120))
    tissue[::10, :] = tissue[1::10, :] = (215, 90, 98)
    assert find_ink(flat((215, 90, 98)), MPP).all()
    assert not find_ink(tissue, MPP).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 4000)])
def test_any_shape_works(shape: tuple[int, int]) -> None:
    found = find_ink(flat((28, 52, 158), shape), MPP)
    assert found.shape == shape
    assert found.dtype == np.bool_
    assert not find_ink(flat((250, 250, 250), shape), MPP).any()


def test_strips_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    tissue = paint_tissue(400, 90, 3000, seed=6)
    painted, _ = blemishes.draw_pen(tissue, blemishes.PENS["red"], [(10, 5), (70, 390)], 30)
    painted, _ = blemishes.draw_pen(painted, blemishes.PENS["blue"], [(80, 5), (20, 390)], 9)
    whole = find_ink(painted, MPP)
    monkeypatch.setattr(ink_module, "_STRIP_PX", 1)
    assert 0.05 < whole.mean() < 0.9
    assert np.array_equal(find_ink(painted, MPP), whole)


def shrunk(path: Path, factor: int) -> NDArray[np.uint8]:
    rgb = np.asarray(Image.open(path).convert("RGB"))
    size = (rgb.shape[1] // factor, rgb.shape[0] // factor)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.real
@pytest.mark.parametrize(
    "data_set", ["monuseg_train", "consep_train", "nucls_sample", "dsb2018_brightfield"]
)
def test_real_tissue_is_not_called_ink(shared: Path, data_set: str) -> None:
    worst = 0.0
    paths = [
        path
        for path in sorted((shared / "data" / data_set / "images").glob("*.png"))
        if path.stem not in {*INKED, BROWN_INKED}
    ]
    assert len(paths) > 10
    for path in paths:
        fine = shrunk(path, 8)
        coarse = cv2.resize(fine, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        worst = max(worst, find_ink(fine, 2.0).mean(), find_ink(np.asarray(coarse), 8.0).mean())
    assert worst < 0.01


@pytest.mark.real
@pytest.mark.parametrize("name", INKED)
def test_real_dye_is_found(shared: Path, name: str) -> None:
    rgb = shrunk(shared / "data" / "consep_train" / "images" / f"{name}.png", 16)
    found = find_ink(rgb, MPP)
    assert INKED[name] < found.mean() < 0.3
