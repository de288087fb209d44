"""Tissue against glass, at a few µm per pixel, by fixed constants.

Tissue is stained: it absorbs one colour more than another, other than the glass around it does.
Grey things are none, however dark: borders, coverslip edges, air bubbles, shadows, dust.  Pen
marks are told by their hue (`wsiseg.ink`).  The mask only chooses which tiles run and what area
counts; it never removes a nucleus.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg._tissue_glass import PALEST, glass_colour
from wsiseg._tissue_stain import Stain, measure_stain
from wsiseg.errors import UsageError
from wsiseg.ink import Channel, find_ink

Mask = NDArray[np.uint8]
"""1 inside, 0 outside."""

_NOISE_PX = 500_000
"""Pixels looked at to estimate the noise, about."""


@dataclass(frozen=True, slots=True)
class TissueOptions:
    """Constants of the tissue mask; densities are natural logarithms, per colour channel."""

    target_mpp: float = 8.0
    """µm per pixel of the mask, about."""
    stain_od: float = 0.045
    """Largest minus smallest density, from which on a pixel is stained: six times what is left
    of a camera's noise after smoothing."""
    stain_share: float = 0.13
    """The same as a share of the largest density: dark edges are never quite grey; in H&E the
    share is above 0.2."""
    solid_um: float = 24.0
    """Stained areas wider than this do not count for the faint tissue around them."""
    haze_um: float = 64.0
    """Width of the surroundings in which haze is looked for, like mucus, paler than noise."""
    haze_od: float = 0.010
    """Mean density of green, or of red and green, above the others, from which on it is haze."""
    haze_clip_od: float = 0.04
    """A pixel counts as this much at most."""
    speck_od: float = 0.018
    """Density of green above the others, not smoothed, of a speck: a nucleus or a wall in fat,
    thinner than a pixel of the overview …"""
    speck_noise: float = 3.5
    """… and at least so many standard deviations of the glass."""
    speck_um: float = 160.0
    """Width of the surroundings in which specks are counted …"""
    speck_share: float = 0.0125
    """… and the share of them, from which on they are tissue: a fat cell has several."""
    ink_edge_um: float = 24.0
    """So near to ink, pale colours are the ink's edge."""
    ink_edge_od: float = 0.15
    """Stained that much, it is tissue even there."""
    ink_hue_um: float = 128.0
    """So near to ink, what has the hue of ink is ink, however pale: JPEG spreads colour."""
    ink_around_um: float = 320.0
    """Width of the surroundings in which ink is over tissue …"""
    ink_around_share: float = 0.6
    """… if this much of what is free of ink in them is tissue; that ink is kept."""
    close_um: float = 40.0
    """Gaps up to about this wide are closed."""
    fill_mm2: float = 0.03
    """Holes up to this size are filled: vessels, glands, fat cells."""
    grow_um: float = 16.0
    """Tissue is grown by this much, so that nuclei at its edge are in it."""
    min_mm2: float = 0.003
    """Smaller pieces are dust …"""
    min_purple_mm2: float = 0.0006
    """… and if they are as purple or pink as stained cells, those smaller than this …"""
    purple_od: float = 0.03
    """… which is a mean density of green above the others; dust is grey or brown."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.target_mpp <= 64:
            raise UsageError(f"tissue mask at {self.target_mpp} µm/px; 0.5 to 64 is needed")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def find_tissue(rgb: NDArray[np.uint8], mpp: float, options: TissueOptions) -> NDArray[np.bool_]:
    """Return where tissue is.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        The whole slide at a few µm per pixel; the colour of its glass is estimated from it.
    mpp : float
        µm per pixel of `rgb`.
    options : TissueOptions
        Constants.

    Returns
    -------
    ndarray, (h, w), bool
    """
    smooth = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.0), np.uint8)
    glass = glass_colour(smooth)
    # What a scanner fills in where it did not look is no other glass than the slide's.
    rgb = np.where((rgb >= PALEST).all(axis=2, keepdims=True), np.uint8(np.rint(glass)), rgb)
    smooth = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.0), np.uint8)
    ink = find_ink(rgb, mpp, glass).astype(np.uint8)
    stain = measure_stain(rgb, smooth, glass)
    mask = _stained(stain, ink, mpp, options)
    mask = np.asarray(
        cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(options.close_um / 2 / mpp)), np.uint8
    )
    if ink.any():
        over = _over_tissue(mask, ink, mpp, options)
        mask, ink = (mask & ~ink) | over, ink & ~over
    mask = _fill_holes(mask, options.fill_mm2 * 1e6 / mpp**2) & ~ink
    mask = _drop_small(mask, stain.purple_sharp, mpp, options)
    grown = np.asarray(cv2.dilate(mask, _disc(options.grow_um / mpp)), np.uint8)
    found: NDArray[np.bool_] = (grown & ~ink) > 0
    return found


def _stained(stain: Stain, ink: Mask, mpp: float, options: TissueOptions) -> Mask:
    """Return what is stained, or faintly so, and neither grey nor ink."""
    grey = stain.chroma < options.stain_share * stain.highest
    stained = (stain.chroma >= options.stain_od) & ~grey
    inky = np.zeros(grey.shape, np.bool_)
    if ink.any():
        inky = _inky(stain, ink, mpp, options)
        stained &= ~inky
        grey |= inky
    found = stained.astype(np.uint8)
    opened = cv2.morphologyEx(found, cv2.MORPH_OPEN, _disc(options.solid_um / 2 / mpp))
    solid = np.asarray(opened, np.uint8)
    found |= _specked(stain, inky, solid, mpp, options)
    # One pixel more than the smoothing reaches.
    grey |= cv2.dilate(solid, _disc(3)) > 0
    for excess in (stain.purple, stain.blueish):
        found |= _is_haze(excess, grey, mpp, options)
    return found


def _inky(stain: Stain, ink: Mask, mpp: float, options: TissueOptions) -> NDArray[np.bool_]:
    """Return ink, what is pale beside it, and what has its hue in a wider surrounding."""
    edge = cv2.dilate(ink, _disc(options.ink_edge_um / mpp)) > 0
    side = 2 * round(options.ink_hue_um / mpp) + 1
    near = cv2.dilate(ink, np.ones((side, side), np.uint8)) > 0
    return (ink > 0) | (edge & (stain.chroma < options.ink_edge_od)) | (near & stain.ink_hue)


def _is_haze(
    excess: Channel, other: NDArray[np.bool_], mpp: float, options: TissueOptions
) -> NDArray[np.bool_]:
    """Return where the surroundings are a little stained on average; noise averages to nothing."""
    size = max(1, round(options.haze_um / mpp))
    clipped = np.clip(excess, -options.haze_clip_od, options.haze_clip_od)
    clipped[other] = 0
    return np.asarray(cv2.blur(clipped, (size, size)) >= options.haze_od, np.bool_)


def _specked(
    stain: Stain, inky: NDArray[np.bool_], solid: Mask, mpp: float, options: TissueOptions
) -> Mask:
    """Return specks of stain with others around them, and what lies between them.

    Fat at 8 µm per pixel is glass with a faint pixel here and there: nuclei and pieces of wall.
    """
    purple = stain.purple_sharp
    other = inky | (cv2.dilate(solid, _disc(1)) > 0)
    limit = max(options.speck_od, options.speck_noise * _noise(purple, other))
    dark = options.stain_share * stain.highest
    specks = ((purple > limit) & (purple > dark) & ~other).astype(np.uint8)
    size = max(1, round(options.speck_um / mpp))
    number = cv2.boxFilter(
        specks, cv2.CV_32S, (size, size), normalize=False, borderType=cv2.BORDER_REFLECT
    )
    many = (number >= options.speck_share * size**2).astype(np.uint8)
    between = np.asarray(cv2.erode(many, _disc(options.speck_um / 2.5 / mpp)), np.uint8)
    return np.asarray(between | (specks & many), np.uint8)


def _noise(excess: Channel, other: NDArray[np.bool_]) -> float:
    """Return the standard deviation of glass, robustly; 0 if there is none."""
    apart = 4
    rows = slice(None, None, max(1, excess.size // _NOISE_PX))
    sample = excess[rows]
    pale = ~other[rows] & (np.abs(sample) < 0.05)
    both = pale[:, apart:] & pale[:, :-apart]
    differences = np.abs(sample[:, apart:] - sample[:, :-apart])[both]
    # Pixels that were filled in are all equal, and say nothing of noise.
    differences = differences[differences > 0]
    # The median of |difference of two| is 0.954 standard deviations.
    return float(np.median(differences)) / 0.954 if len(differences) else 0.0


def _disc(radius_px: float) -> Mask:
    size = 2 * round(radius_px) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _fill_holes(mask: Mask, max_px: float) -> Mask:
    """Return the mask with its small holes filled; what touches the picture's edge is no hole."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    height, width = mask.shape
    left, top, wide, high = (statistics[:, i] for i in range(4))
    inside = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    hole = inside & (statistics[:, cv2.CC_STAT_AREA] <= max_px)
    hole[0] = False
    return np.asarray(mask | hole[labels], np.uint8)


def _over_tissue(mask: Mask, ink: Mask, mpp: float, options: TissueOptions) -> Mask:
    """Return the ink whose surroundings, as far as they are free of ink, are mostly tissue."""
    size = 2 * round(options.ink_around_um / 2 / mpp) + 1
    free = 1 - ink
    tissue, all_free = (
        cv2.boxFilter(part, cv2.CV_32S, (size, size), normalize=False)
        for part in (mask & free, free)
    )
    over = (tissue > options.ink_around_share * all_free) & (ink > 0)
    return over.astype(np.uint8)


def _drop_small(mask: Mask, purple: Channel, mpp: float, options: TissueOptions) -> Mask:
    n, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    area_px = statistics[:, cv2.CC_STAT_AREA]
    # A picture smaller than any dust may be tissue all the same.
    keep = area_px >= min(options.min_mm2 * 1e6 / mpp**2, mask.size / 8)
    small = ~keep
    keep[0] = small[0] = False
    of_small = small[labels]
    sums = np.bincount(labels[of_small], weights=purple[of_small], minlength=n)
    enough = area_px >= options.min_purple_mm2 * 1e6 / mpp**2
    keep |= small & enough & (sums >= options.purple_od * area_px)
    return np.asarray(keep[labels], np.uint8)
