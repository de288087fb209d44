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

from wsiseg._tissue_glass import glass_colour
from wsiseg.errors import UsageError
from wsiseg.ink import Channel, find_ink, has_ink_hue, optical_density

Mask = NDArray[np.uint8]
"""1 inside, 0 outside."""


@dataclass(frozen=True, slots=True)
class TissueOptions:
    """Constants of the tissue mask; densities are natural logarithms, per colour channel."""

    target_mpp: float = 8.0
    """µm per pixel of the mask, about."""
    stain_od: float = 0.045
    """Largest minus smallest density, from which on a pixel is stained: six times what is left
    of a camera's noise after smoothing."""
    stain_share: float = 0.17
    """The same as a share of the largest density beyond `grey_od`: dark edges are never quite
    grey; in H&E the share is above 0.25."""
    grey_od: float = 0.25
    """Glass in front of a weak lamp has this density."""
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
    thinner than a pixel of the overview; JPEG spreads a third of it around tissue …"""
    speck_noise: float = 3.5
    """… and at least so many standard deviations of the glass."""
    speck_um: float = 160.0
    """Width of the surroundings in which specks are counted …"""
    speck_share: float = 0.02
    """… and the share of them, from which on they are tissue: a fat cell has several."""
    ink_edge_um: float = 24.0
    """So near to ink, pale colours are the ink's edge."""
    ink_edge_od: float = 0.15
    """Stained that much, it is tissue even there."""
    ink_hue_um: float = 128.0
    """So near to ink, what has the hue of ink is ink, however pale: JPEG spreads colour."""
    ink_hue_od: float = 0.02
    """Difference of densities from which on a hue is looked at."""
    close_um: float = 40.0
    """Gaps up to about this wide are closed."""
    fill_mm2: float = 0.03
    """Holes up to this size are filled: vessels, glands, fat cells."""
    grow_um: float = 16.0
    """Tissue is grown by this much, so that nuclei at its edge are in it."""
    min_mm2: float = 0.003
    """Smaller pieces are dust …"""
    min_purple_mm2: float = 0.0008
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
    ink = find_ink(rgb, mpp, glass).astype(np.uint8)
    red, green, blue = cv2.split(optical_density(rgb, glass))
    purple = green - (red + blue) / 2
    mask = _stained(optical_density(smooth, glass), purple, ink, mpp, options)
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(options.close_um / 2 / mpp)))
    mask = _fill_holes(mask, options.fill_mm2 * 1e6 / mpp**2)
    mask = _without_outer_ink(mask, ink, mpp, options)
    mask = _drop_small(mask, purple, mpp, options)
    grown = np.asarray(cv2.dilate(mask, _disc(options.grow_um / mpp)))
    found: NDArray[np.bool_] = _without_outer_ink(grown, ink, mpp, options) > 0
    return found


def _stained(
    density: Channel, rgb_excess: Channel, ink: Mask, mpp: float, options: TissueOptions
) -> Mask:
    """Return what is stained, or faintly so, and neither grey nor ink."""
    red, green, blue = cv2.split(density)
    highest = cv2.max(cv2.max(red, green), blue)
    chroma = highest - cv2.min(cv2.min(red, green), blue)
    other = chroma < options.stain_share * (highest - options.grey_od)
    stained = (chroma >= options.stain_od) & ~other
    if ink.any():
        inky = _inky(red, green, blue, chroma, ink, mpp, options)
        stained &= ~inky
        other |= inky
    found = stained.astype(np.uint8)
    solid = cv2.morphologyEx(found, cv2.MORPH_OPEN, _disc(options.solid_um / 2 / mpp))
    specks = _specked(rgb_excess, other | (cv2.dilate(solid, _disc(1)) > 0), mpp, options)
    # One pixel more than the smoothing reaches.
    other |= cv2.dilate(solid, _disc(3)) > 0
    for excess in (green - (red + blue) / 2, (red + green) / 2 - blue):
        excess[other] = 0
        found |= _is_haze(excess, mpp, options)
    return found | specks


def _inky(
    red: Channel,
    green: Channel,
    blue: Channel,
    chroma: Channel,
    ink: Mask,
    mpp: float,
    options: TissueOptions,
) -> NDArray[np.bool_]:
    """Return ink, what is pale beside it, and what has its hue in a wider surrounding."""
    hue = has_ink_hue(red, green, blue, options.ink_hue_od)
    edge = cv2.dilate(ink, _disc(options.ink_edge_um / mpp)) > 0
    side = 2 * round(options.ink_hue_um / mpp) + 1
    near = cv2.dilate(ink, np.ones((side, side), np.uint8)) > 0
    return (ink > 0) | (edge & (chroma < options.ink_edge_od)) | (near & hue)


def _is_haze(excess: Channel, mpp: float, options: TissueOptions) -> NDArray[np.bool_]:
    """Return where the surroundings are a little stained on average; noise averages to nothing."""
    size = max(1, round(options.haze_um / mpp))
    clipped = np.clip(excess, -options.haze_clip_od, options.haze_clip_od)
    return np.asarray(cv2.blur(clipped, (size, size)) >= options.haze_od, np.bool_)


def _specked(purple: Channel, other: NDArray[np.bool_], mpp: float, options: TissueOptions) -> Mask:
    """Return specks of stain with others around them, and what lies between them.

    Fat at 8 µm per pixel is glass with a faint pixel here and there: nuclei and pieces of wall.
    """
    limit = max(options.speck_od, options.speck_noise * _noise(purple, other))
    specks = ((purple > limit) & ~other).astype(np.uint8)
    size = max(1, round(options.speck_um / mpp))
    share = cv2.blur(specks.astype(np.float32), (size, size), borderType=cv2.BORDER_REFLECT)
    many = (share >= options.speck_share).astype(np.uint8)
    between = cv2.erode(many, _disc(options.speck_um / 2.5 / mpp))
    return np.asarray(between | (specks & many), np.uint8)


def _noise(excess: Channel, other: NDArray[np.bool_]) -> float:
    """Return the standard deviation of glass, robustly; 0 if there is none."""
    apart = 4
    pale = ~other & (np.abs(excess) < 0.05)
    both = pale[:, apart:] & pale[:, :-apart]
    differences = np.abs(excess[:, apart:] - excess[:, :-apart])[both]
    stride = max(1, len(differences) // 500_000)
    return float(np.median(differences[::stride])) * 1.05 if len(differences) else 0.0


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
    return mask | hole[labels].astype(np.uint8)


def _without_outer_ink(mask: Mask, ink: Mask, mpp: float, options: TissueOptions) -> Mask:
    """Return the mask without the ink that more than half its rim says is not over tissue."""
    if not ink.any():
        return mask
    edge = np.asarray(cv2.dilate(ink, _disc(options.ink_edge_um / mpp)), np.uint8)
    n, labels = cv2.connectedComponents(edge, connectivity=8)
    rim = labels[(edge > ink) & (mask > 0)]
    whole = labels[edge > ink]
    outer = np.bincount(rim, minlength=n) < 0.5 * np.bincount(whole, minlength=n)
    outer[0] = False
    return mask & ~(outer[labels] & (ink > 0)).astype(np.uint8)


def _drop_small(mask: Mask, purple: Channel, mpp: float, options: TissueOptions) -> Mask:
    n, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    area_px = statistics[:, cv2.CC_STAT_AREA]
    inside = mask > 0
    sums = np.bincount(labels[inside], weights=purple[inside], minlength=n)
    is_purple = sums >= options.purple_od * area_px
    min_mm2 = np.where(is_purple, options.min_purple_mm2, options.min_mm2)
    # A picture smaller than any dust may be tissue all the same.
    keep = area_px >= np.minimum(min_mm2 * 1e6 / mpp**2, mask.size / 8)
    keep[0] = False
    return np.asarray(keep[labels], np.uint8)
