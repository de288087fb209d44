"""What slides carry besides tissue, painted: pens, borders, edges, bubbles, dust, bad glass.

Every painter takes an overview (h, w, 3), uint8, and returns a new one with the mask of the
pixels it changed.  Sizes are pixels of that overview; equal seeds paint equal pictures.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Painted = tuple[Picture, NDArray[np.bool_]]

PENS: dict[str, Colour] = {
    "black": (28, 26, 34),
    "blue": (28, 52, 158),
    "green": (22, 128, 72),
    "red": (206, 36, 52),
}
"""Colours of marker pens on glass."""


def _blank(rgb: Picture) -> Picture:
    return np.zeros(rgb.shape[:2], np.uint8)


def blend(rgb: Picture, colour: Colour, opacity: NDArray[np.floating]) -> Painted:
    """Lay a colour over a picture; the opacity of every pixel is 0 to 1."""
    cover = np.asarray(opacity, np.float64)
    mixed = rgb + cover[:, :, None] * (np.asarray(colour, np.float64) - rgb)
    return np.asarray(np.rint(mixed), np.uint8), np.asarray(cover >= 0.02, np.bool_)


def texture(shape: tuple[int, int], low: float, seed: int, grain_px: float) -> NDArray[np.float64]:
    """Return a smooth random field between `low` and 1."""
    rng = np.random.default_rng(seed)
    field = np.asarray(cv2.GaussianBlur(rng.normal(size=shape), (0, 0), grain_px))
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-9)
    return np.asarray(low + (1 - low) * field, np.float64)


def draw_pen(
    rgb: Picture,
    colour: Colour,
    points: list[tuple[int, int]],
    width_px: int,
    opacity: float = 1.0,
    seed: int = 0,
) -> Painted:
    """Draw a stroke through (x, y) points, uneven inside and soft at its edge."""
    stroke = _blank(rgb)
    path = np.asarray(points, np.int32)[None]
    cv2.polylines(stroke, list(path), False, 255, width_px, cv2.LINE_AA)
    soft = np.asarray(cv2.GaussianBlur(stroke, (0, 0), 0.7), np.float64) / 255
    return blend(
        rgb, colour, soft * opacity * texture((rgb.shape[0], rgb.shape[1]), 0.75, seed, 4.0)
    )


def add_border(rgb: Picture, width_px: int) -> Painted:
    """Blacken the left and the upper edge, as scanners do outside the slide."""
    outside = np.zeros(rgb.shape[:2], np.float64)
    outside[:width_px] = outside[:, :width_px] = 1
    return blend(rgb, (0, 0, 0), np.asarray(cv2.GaussianBlur(outside, (0, 0), 0.6), np.float64))


def add_coverslip_edge(rgb: Picture, x_px: int, width_px: int, level: int = 95) -> Painted:
    """Draw the edge of a coverslip: a nearly straight grey line with a paler one beside it."""
    lines = _blank(rgb)
    bottom = rgb.shape[0]
    cv2.line(lines, (x_px, 0), (x_px + bottom // 60, bottom), 255, width_px, cv2.LINE_AA)
    cv2.line(lines, (x_px + 9, 0), (x_px + 9 + bottom // 60, bottom), 110, width_px, cv2.LINE_AA)
    return blend(rgb, (level, level - 2, level + 3), lines / 255.0)


def add_bubble(rgb: Picture, centre: tuple[int, int], radius_px: int) -> Painted:
    """Draw an air bubble: a dark rim, a bright line inside it, glass within."""
    rim, shine = _blank(rgb), _blank(rgb)
    width_px = max(1, radius_px // 12)
    cv2.circle(rim, centre, radius_px, 255, width_px, cv2.LINE_AA)
    cv2.circle(shine, centre, radius_px - width_px - 1, 200, width_px, cv2.LINE_AA)
    shone, at_shine = blend(rgb, (255, 255, 255), shine / 255.0)
    painted, at_rim = blend(shone, (60, 62, 66), rim / 255.0)
    return painted, at_shine | at_rim


def add_dust(rgb: Picture, number: int, seed: int) -> Painted:
    """Sprinkle grey and brown specks and fibres of a few pixels."""
    rng = np.random.default_rng(seed)
    painted, changed = rgb, np.zeros(rgb.shape[:2], np.bool_)
    for _ in range(number):
        speck = _blank(rgb)
        x, y = rng.integers(0, (rgb.shape[1], rgb.shape[0])).tolist()
        axes = tuple(rng.integers(1, 4, 2).tolist())
        cv2.ellipse(speck, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
        grey = int(rng.integers(40, 150))
        painted, here = blend(painted, (grey, grey - 6, grey - 16), speck / 255.0)
        changed |= here
    return painted, changed


def shade(rgb: Picture, darkest: float) -> Picture:
    """Darken towards the corners, down to the factor `darkest`."""
    height, width = rgb.shape[:2]
    rows = np.linspace(-1, 1, height)[:, None] ** 2
    cols = np.linspace(-1, 1, width)[None] ** 2
    light = 1 - (1 - darkest) * (rows + cols) / 2
    return np.asarray(np.rint(rgb * light[:, :, None]), np.uint8)


def tint(rgb: Picture, white: Colour) -> Picture:
    """Return what a picture on white glass looks like on glass of another colour."""
    return np.asarray(np.rint(rgb * (np.asarray(white) / 255.0)), np.uint8)


def add_noise(rgb: Picture, sigma: float, seed: int) -> Picture:
    """Add independent Gaussian noise to every channel."""
    noise = np.random.default_rng(seed).normal(0, sigma, rgb.shape)
    return np.asarray(np.clip(np.rint(rgb + noise), 0, 255), np.uint8)


def through_jpeg(rgb: Picture, quality: int) -> Picture:
    """Compress as JPEG with halved colour resolution, and decode again."""
    _, encoded = cv2.imencode(
        ".jpg", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded, np.uint8)[:, :, ::-1])
