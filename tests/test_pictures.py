"""Pictures: where lines fall to the pixel, and what is written on them."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wsiseg import _drawing
from wsiseg._drawing import fill_ring, printable, ring_edge, scale_bar, text_strip
from wsiseg.geometry import Frame
from wsiseg.outlines import trace_mask
from wsiseg.pictures import (
    Crop,
    draw_crop,
    draw_overlay,
    draw_thumbnail,
    encode_png,
)
from wsiseg.records import UNKNOWN_CLASS

CLASSES = ("Epithelial", "Spindle")
COLOURS = {"Epithelial": (255, 0, 0), "Spindle": (0, 0, 255)}
SQUARE = np.array([[5.0, 10], [15, 10], [15, 20], [5, 20], [5, 10]])


def rings_of(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Rings of every component of a mask, holes too, in pixels."""
    outlines = trace_mask(mask)
    return np.split(outlines.vertices_half_px / 2, outlines.first_vertex[1:-1])


def inner_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with a 4-neighbour outside it, one by one."""
    padded = np.pad(mask, 1)
    border = np.zeros_like(mask)
    for row, col in np.argwhere(mask):
        steps = ((0, 1), (2, 1), (1, 0), (1, 2))
        border[row, col] = not all(padded[row + i, col + j] for i, j in steps)
    return border


def white_crop(side: int, outlines: list[Any], classes: list[int], **seams: Any) -> Crop:
    return Crop(np.full((side, side, 3), 255, np.uint8), "random", outlines, classes, **seams)


def drawn(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.all(picture == colour, axis=2)


# --- outlines


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_filling_is_that_of_the_slow_twin(seed: int, n_vertices: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, n_vertices))
    radius = rng.uniform(1, 12, n_vertices)
    ring = np.stack([20 + radius * np.cos(angle), 15 + radius * np.sin(angle)], axis=1)
    polygon = shapely.Polygon(ring)
    if not polygon.is_valid:
        return
    found = fill_ring(ring, 6, 1, 28, 27)
    slow = [
        [polygon.contains(shapely.Point(6 + j + 0.5, 1 + i + 0.5)) for j in range(28)]
        for i in range(27)
    ]
    assert np.array_equal(found, slow)
    closed = fill_ring(np.vstack([ring, ring[:1]]), 6, 1, 28, 27)
    assert np.array_equal(closed, found)


def test_a_mask_comes_back_from_its_rings() -> None:
    rng = np.random.default_rng(5)
    mask = rng.random((40, 50)) < 0.6
    filled = np.zeros_like(mask)
    for ring in rings_of(mask):
        filled ^= fill_ring(ring, 0, 0, 50, 40)
    assert np.array_equal(filled, mask)


def test_the_line_of_a_square_nucleus_is_its_border_pixels() -> None:
    _, outlined = draw_crop(white_crop(32, [SQUARE], [0]), CLASSES, COLOURS)
    nucleus = np.zeros((64, 64), np.bool_)
    nucleus[20:40, 10:30] = True
    assert np.array_equal(drawn(outlined, COLOURS["Epithelial"]), inner_border(nucleus))
    assert np.all(outlined[~inner_border(nucleus)] == 255)


def check_line(line: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
    """Check a line, drawn twice enlarged, against the pixels of a nucleus without holes."""
    height, width = mask.shape
    enlarged = mask.repeat(2, axis=0).repeat(2, axis=1)
    # An outline cuts hollow corners by half a pixel: one pixel of the picture.
    assert not np.any(line & ~enlarged & ~inner_border(~enlarged))
    assert np.sum(line & ~enlarged) < 0.2 * line.sum()
    # Each border pixel of the nucleus holds a part of the line, and none deeper than next to it.
    touched = line.reshape(height, 2, width, 2).any(axis=(1, 3))
    border = inner_border(mask)
    assert np.all(touched[border])
    assert not np.any(touched & mask & ~border & ~inner_border(mask & ~border))


def test_the_line_of_a_traced_nucleus_is_just_inside_it() -> None:
    row, col = np.indices((40, 40)) + 0.5
    mask = np.hypot(row - 21, (col - 18) / 1.6) < 9
    _, outlined = draw_crop(white_crop(40, rings_of(mask), [1]), CLASSES, COLOURS)
    check_line(drawn(outlined, COLOURS["Spindle"]), mask)


def test_nuclei_that_touch_keep_their_own_lines() -> None:
    right = SQUARE + np.array([10, 0])
    _, outlined = draw_crop(white_crop(32, [SQUARE, right], [0, 1]), CLASSES, COLOURS)
    for colour in COLOURS.values():
        assert drawn(outlined, colour).sum() == 4 * 19
    assert tuple(outlined[30, 29]) == COLOURS["Epithelial"]
    assert tuple(outlined[30, 30]) == COLOURS["Spindle"]


def test_a_nucleus_that_reaches_out_gets_no_line_along_the_crop_edge() -> None:
    reaching, outside = SQUARE - np.array([10, 15]), SQUARE + np.array([1000, 0])
    _, outlined = draw_crop(white_crop(32, [reaching, outside], [0, 0]), CLASSES, COLOURS)
    line = drawn(outlined, COLOURS["Epithelial"])
    # What is seen of it covers rows 0 to 9 and columns 0 to 9 of the enlarged crop.
    assert set(map(tuple, np.argwhere(line).tolist())) == {(9, j) for j in range(10)} | {
        (i, 9) for i in range(10)
    }


def test_tiny_and_degenerate_rings() -> None:
    diamond = np.array([[5, 5.5], [5.5, 5], [6, 5.5], [5.5, 6]])
    rows, cols = ring_edge(diamond * 2)
    assert 1 <= len(rows) <= 4
    assert set(rows.tolist()) | set(cols.tolist()) <= {10, 11}
    for nothing in (np.empty((0, 2)), np.array([[1.0, 1], [9, 9]]), np.full((5, 2), 3.0)):
        assert len(ring_edge(nothing)[0]) == 0


def test_nuclei_without_a_class_are_black() -> None:
    _, outlined = draw_crop(white_crop(32, [SQUARE], [UNKNOWN_CLASS]), (), {})
    assert drawn(outlined, (0, 0, 0)).sum() == 4 * 19


def test_a_plain_crop_is_its_pixels_twice() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    before = rgb.copy()
    plain, outlined = draw_crop(Crop(rgb, "random", [SQUARE], [0]), CLASSES, COLOURS)
    assert plain.shape == outlined.shape == (14, 18, 3)
    for i, j in itertools.product((0, 1), (0, 1)):
        assert np.array_equal(plain[i::2, j::2], rgb)
    assert np.array_equal(rgb, before)


def test_seams_are_dashed_lines_at_their_place() -> None:
    crop = white_crop(40, [], [], seams_x_px=[10, 99.0], seams_y_px=[12.5, -3.0])
    _, outlined = draw_crop(crop, CLASSES, COLOURS)
    dark = drawn(outlined, (0, 0, 0))
    assert set(np.flatnonzero(dark.sum(axis=0) > 20)) == {20}
    assert set(np.flatnonzero(dark.sum(axis=1) > 20)) == {25}
    assert not dark[25].all()
    assert not dark[:, 20].all()


def test_a_crop_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match="1 outlines have 2 classes"):
        white_crop(8, [SQUARE], [0, 1])
    with pytest.raises(ValueError, match=r"the crop is float64 of shape \(8, 8\)"):
        Crop(np.zeros((8, 8)), "random", [], [])


# --- sheets


def test_the_sheet_shows_every_crop_and_its_lines() -> None:
    crops = [
        Crop(np.full((50, 50, 3), 10 * i + 40, np.uint8), kind, [SQUARE], [i % 2], (25,))
        for i, kind in enumerate(("random", "random", "densest", "seam", "seam", "seam"))
    ]
    sheet = draw_overlay(crops, CLASSES, COLOURS, 0.25, "a.svs", {"Epithelial": 3, "Spindle": 0})
    assert sheet.dtype == np.uint8
    for i in range(6):
        grey = drawn(sheet, (10 * i + 40,) * 3)
        # Twice 100 × 100, less the outline and the dashed seam (and plus some text edges).
        assert abs(grey.sum() - (20_000 - 4 * 19 - 52)) <= 30
    for name in CLASSES:
        assert drawn(sheet, COLOURS[name]).sum() >= 3 * 4 * 19


def test_what_is_written_on_the_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    plain = printable

    def noted(text: str) -> str:
        written.append(plain(text))
        return written[-1]

    monkeypatch.setattr(_drawing, "printable", noted)
    crop = Crop(np.zeros((50, 50, 3), np.uint8), "seam", [], [], box=(1234.4, 5678.0, 50.0, 50.0))
    draw_overlay([crop], CLASSES, COLOURS, 0.25, "a.svs", {"Epithelial": 12345, "Spindle": 0})
    words = " | ".join(written)
    for part in ("a.svs", "Epithelial: 12,345", "Spindle: 0", "20 um", "Research use only"):
        assert part in words
    assert "x 1234, y 5678 (level-0 px)" in words
    assert "Seams" in words
    assert "Densest" not in words


def test_a_sheet_without_crops_is_a_picture_still() -> None:
    sheet = draw_overlay([], (), {}, 0.25, "empty.svs", {})
    assert sheet.ndim == 3
    assert 640 <= sheet.shape[1] <= 700
    assert sheet.min() < 100


def test_long_and_strange_names_fit() -> None:
    assert printable("Ünïcode µm² 切片\n.svs") == "Unicode um2 ???.svs"
    strip = text_strip("a very long name " * 50, 20, 300)
    assert strip.shape == (30, 300, 3)
    assert text_strip("x", 20, 1).shape == (30, 1, 3)
    sheet = draw_overlay([], (), {}, 0.25, "long " * 100, {"a class with a long name " * 9: 1})
    assert sheet.shape[1] <= 700


@pytest.mark.parametrize("per_px", [0.125, 0.25, 3.7, 1000.0])
@pytest.mark.parametrize("longest_px", [100, 160])
def test_the_scale_bar_is_as_long_as_it_says(per_px: float, longest_px: int) -> None:
    bar = scale_bar(per_px, "um", longest_px)
    length, unit = bar.text.split()
    columns = np.flatnonzero((bar.swatch < 255).any(axis=(0, 2)))
    bar_px = columns[-1] - columns[0] + 1
    assert unit == "um"
    assert bar_px == round(float(length) / per_px)
    assert longest_px * 0.39 <= bar_px <= longest_px


# --- thumbnail


def thumbnail_inside(rings: list[Any], tiles: list[Any], unreadable: list[Any]) -> Any:
    """Draw on mid-grey, 100 × 80 px at scale 10; return the part that is the slide."""
    rgb = np.full((80, 100, 3), 120, np.uint8)
    sheet = draw_thumbnail(rgb, Frame(10.0, 100, 80), rings, tiles, unreadable, 0.5)
    assert np.all(rgb == 120)
    # 8 px of margin and 1 px of frame.
    return sheet[9:89, 9:109]


def test_tiles_that_did_not_run_are_veiled() -> None:
    inside = thumbnail_inside([], [(0, 0, 300, 400), (300, 0, 300, 400)], [])
    ran = drawn(inside, (120, 120, 120))
    veiled = drawn(inside, (148, 148, 148))
    edges = ~ran & ~veiled
    assert ran[1:40, 1:30].all()
    assert ran[1:40, 31:60].all()
    assert veiled[41:].all()
    assert veiled[:, 61:].all()
    assert set(np.flatnonzero(edges[20])) == {0, 30, 60}
    assert set(np.flatnonzero(edges[:, 20])) == {0, 40}


def test_tissue_is_outlined_where_it_is() -> None:
    ring = np.array([[200.0, 300], [700, 300], [700, 600], [200, 600]])
    inside = thumbnail_inside([ring], [(0, 0, 1000, 800)], [])
    darker = 120.0 - inside[..., 0]
    darker[[0, -1]] = darker[:, [0, -1]] = 0
    centre = np.arange(100) + 0.5
    for profile, sides in ((darker[45], (20, 70)), (darker[:, 45], (30, 60))):
        at = centre[: len(profile)]
        for side in sides:
            near = np.abs(at - side) < 4
            # The middle of the smooth line is the ring, to half a pixel.
            assert abs(np.average(at[near], weights=profile[near]) - side) <= 0.5
            assert profile[near].max() >= 60
            profile[near] = 0
        assert not profile.any()


def test_what_could_not_be_read_is_hatched() -> None:
    inside = thumbnail_inside([], [(0, 0, 1000, 800)], [(400, 200, 200, 300)])
    red = drawn(inside, (220, 0, 0))
    row, col = np.nonzero(red)
    assert (row.min(), row.max(), col.min(), col.max()) == (20, 50, 40, 60)
    assert 0.3 < red[20:51, 40:61].mean() < 0.7


def test_a_slide_of_one_pixel_has_a_thumbnail() -> None:
    one = np.zeros((1, 1, 3), np.uint8)
    sheet = draw_thumbnail(one, Frame(1.0, 1, 1), [], [], [], 0.25, "tiny.svs")
    assert sheet.shape[1] >= 640
    untitled = draw_thumbnail(one, Frame(1.0, 1, 1), [], [], [], 0.25)
    assert untitled.shape[0] < sheet.shape[0]
    outside = [(-50.0, -50.0, 10.0, 10.0), (5.0, 5.0, 100.0, 100.0)]
    draw_thumbnail(one, Frame(1.0, 1, 1), [SQUARE], outside, outside, 0.25, "", [SQUARE])
    with pytest.raises(ValueError, match="the thumbnail is uint8 of shape"):
        draw_thumbnail(one[..., 0], Frame(1.0, 1, 1), [], [], [], 0.25)


def test_png_keeps_every_pixel() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(rgb)))), rgb)


@pytest.mark.real
def test_real_nuclei_are_outlined_within_themselves(shared: Path) -> None:
    folder = shared / "data" / "monuseg_train"
    path = sorted((folder / "inst").glob("*.png"))[0]
    inst = np.asarray(Image.open(path))[200:392, 300:492]
    rgb = np.asarray(Image.open(folder / "images" / path.name).convert("RGB"))[200:392, 300:492]
    n_checked = 0
    for i in np.unique(inst[inst > 0]):
        row, col = np.nonzero(inst == i)
        around = np.s_[max(row.min() - 3, 0) : row.max() + 4, max(col.min() - 3, 0) : col.max() + 4]
        mask = inst[around] == i
        rings = rings_of(mask)
        if len(rings) > 1:
            continue
        crop = Crop(np.ascontiguousarray(rgb[around]), "densest", rings, [0])
        plain, outlined = draw_crop(crop, CLASSES, {"Epithelial": (0, 255, 0)})
        check_line((plain != outlined).any(axis=2), mask)
        n_checked += 1
    assert n_checked > 20


@pytest.mark.parametrize("longest_px", [0, 1, 3, 200, 1600])
@pytest.mark.parametrize("power", [-4, -3, -1, 0, 2])
def test_a_scale_bar_is_found_also_beside_a_power_of_ten(longest_px: int, power: int) -> None:
    for nudge in (-1e-15, -1e-16, 0.0, 1e-16, 1e-15):
        per_px = 10.0**power * (1 + nudge) / max(1, longest_px)
        bar = scale_bar(per_px, "mm", longest_px)
        assert 1 <= bar.swatch.shape[1] <= max(1, longest_px)


def test_flagged_tiles_are_framed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    plain = printable

    def noted(text: str) -> str:
        written.append(text)
        return plain(text)

    monkeypatch.setattr(_drawing, "printable", noted)
    rgb = np.full((80, 100, 3), 120, np.uint8)
    boxes = [(0.0, 0.0, 400.0, 400.0), (400.0, 0.0, 400.0, 400.0)]
    flagged = [(boxes[0], "ink"), (boxes[0], "blurred"), (boxes[1], "ink"), (boxes[1], "new")]
    sheet = draw_thumbnail(rgb, Frame(10.0, 100, 80), [], boxes, [], 0.5, flagged=flagged)
    inside = sheet[9:89, 9:109]
    # Row 20 from the left: the tile's edge, its flags two pixels each, the slide.
    assert [tuple(pixel) for pixel in inside[20, 1:6].tolist()] == [
        *[(230, 120, 0)] * 2,
        *[(0, 160, 200)] * 2,
        (120, 120, 120),
    ]
    assert [tuple(pixel) for pixel in inside[20, 41:46].tolist()] == [
        *[(0, 160, 200)] * 2,
        *[(110, 110, 110)] * 2,
        (120, 120, 120),
    ]
    blurred = drawn(inside, (230, 120, 0))
    rows, cols = np.nonzero(blurred)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (1, 39, 1, 39)
    assert blurred.sum() == 39**2 - 35**2
    words = " | ".join(written)
    for part in ("blurred: 1", "ink: 2", "new: 1"):
        assert part in words


def test_flags_fit_the_smallest_tiles() -> None:
    rgb = np.full((3, 3, 3), 120, np.uint8)
    boxes = [(x * 10.0, y * 10.0, 10.0, 10.0) for x in range(3) for y in range(3)]
    flagged = [(box, code) for box in boxes for code in ("ink", "dark", "fold", "blurred")]
    sheet = draw_thumbnail(rgb, Frame(10.0, 3, 3), [], boxes, [], 0.5, flagged=flagged)
    assert sheet.shape[1] >= 640
