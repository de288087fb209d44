"""What chance decides of a batch of crops; a function of the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.training.pixels import Pixels
from wsiseg.training.stains import STAINS, UNMIX

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How far crops may differ from the images.

    Raises
    ------
    ValueError
        If a crop is no multiple of 32, or a range is the wrong way round.
    """

    crop_px: int = 256
    """Side of a crop; a multiple of 32."""
    scale_share: float = 0.7
    """Share of crops magnified or reduced; the others keep the images' pixels."""
    scale_low: float = 0.75
    """Smallest magnification."""
    scale_high: float = 1.4
    """Largest magnification."""
    turn_share: float = 0.3
    """Share of crops turned by any angle; the others by quarter turns only."""
    mix_share: float = 0.5
    """Share of crops stained as another image, wholly or in part."""
    stain_gain: float = 0.2
    """Each stain's density is multiplied by 1 ± this."""
    stain_shift: float = 0.04
    """Added to each stain's density, at most."""
    brightness: float = 0.12
    """Contrast 1 ± this, brightness ± this × 255 / 2."""
    blur_share: float = 0.3
    """Share of crops blurred, by a Gaussian of 0.3 to 1.5 px."""
    sharpen_share: float = 0.1
    """Share of crops sharpened, as scanners do."""
    jpeg_share: float = 0.3
    """Share of crops compressed, at quality 40 to 95."""

    def __post_init__(self) -> None:
        if self.crop_px <= 0 or self.crop_px % 32:
            raise ValueError(f"crop_px is {self.crop_px}; a positive multiple of 32 is needed")
        if not 0 < self.scale_low <= 1 <= self.scale_high:
            raise ValueError(
                f"scales from {self.scale_low} to {self.scale_high}; a range above 0 that "
                "includes 1 is needed"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Of each crop of a batch: where it lies, and how it looks."""

    image: NDArray[np.int64]
    """(n,): position among the images."""
    centre: Floats
    """(n, 2): row and column of the crop's centre in its image, pixel-corner convention."""
    to_image: Floats
    """(n, 2, 2): from a (row, column) offset in the crop to one in the image."""
    colour: Floats
    """(n, 3, 3): densities (as rows) are multiplied by this …"""
    colour_shift: Floats
    """(n, 3): … and this is added."""
    contrast: Floats
    """(n,)."""
    brightness: Floats
    """(n,): in grey levels."""
    blur_px: Floats
    """(n,): standard deviation of the Gaussian."""
    sharpness: Floats
    """(n,): 0 leaves the picture, -1 is blurred, above 0 sharpened."""
    jpeg_quality: Floats
    """(n,): 0 where not compressed."""


def draw_crops(pixels: Pixels, options: AugmentOptions, n: int, seed: int, step: int) -> Draws:
    """Draw the n crops of a step."""
    rng = np.random.default_rng((seed, step))
    image = rng.choice(len(pixels.chance), n, p=pixels.chance)
    to_image = _draw_turns(rng, options, n)
    colour, colour_shift = _draw_colours(rng, pixels, image, options)
    blurred = rng.random(n)
    sharpness = np.where(blurred < options.blur_share, -1.0, 0.0)
    sharpen = (blurred >= options.blur_share) & (
        blurred < options.blur_share + options.sharpen_share
    )
    return Draws(
        image=image,
        centre=_draw_centres(rng, pixels.size[image], to_image, options.crop_px),
        to_image=to_image,
        colour=colour,
        colour_shift=colour_shift,
        contrast=1 + rng.uniform(-options.brightness, options.brightness, n),
        brightness=rng.uniform(-options.brightness, options.brightness, n) * 127,
        blur_px=rng.uniform(0.3, 1.5, n),
        sharpness=np.where(sharpen, rng.uniform(0.3, 1.2, n), sharpness),
        jpeg_quality=np.where(rng.random(n) < options.jpeg_share, rng.integers(40, 96, n), 0),
    )


def _draw_turns(rng: np.random.Generator, options: AugmentOptions, n: int) -> Floats:
    log_scale = rng.uniform(np.log(options.scale_low), np.log(options.scale_high), n)
    scale = np.where(rng.random(n) < options.scale_share, np.exp(log_scale), 1.0)
    quarter = rng.integers(0, 4, n)
    free = rng.random(n) < options.turn_share
    angle = np.where(free, rng.uniform(0, 2 * np.pi, n), quarter * np.pi / 2)
    # Exact at quarter turns, so that pixels are copied, not interpolated.
    cos, sin = np.round(np.cos(angle), 12), np.round(np.sin(angle), 12)
    flip = rng.choice([-1.0, 1.0], n)
    turn = np.stack([np.stack([cos, -sin * flip], 1), np.stack([sin, cos * flip], 1)], 1)
    return np.asarray(turn / scale[:, None, None])


def _draw_centres(
    rng: np.random.Generator, size: NDArray[np.int64], to_image: Floats, crop_px: int
) -> Floats:
    """Return centres so that crops lie inside their images, or on their middle if too large."""
    reach = np.abs(to_image).sum(2) * crop_px / 2
    low = np.minimum(reach, size / 2)
    centre = low + rng.random(low.shape) * (size - 2 * low)
    # Pixels coincide where a crop is neither scaled nor turned freely: reach is whole then.  Also
    # around the middle of an odd side, where each colour would be a mean of two pixels' otherwise.
    whole = np.abs(reach - crop_px / 2) < 1e-9
    return np.asarray(np.where(whole, np.round(centre), centre))


def _draw_colours(
    rng: np.random.Generator, pixels: Pixels, image: NDArray[np.int64], options: AugmentOptions
) -> tuple[Floats, Floats]:
    n = len(image)
    other = rng.choice(len(pixels.chance), n, p=pixels.chance)
    part = np.where(rng.random(n) < options.mix_share, rng.random(n), 0.0)[:, None]
    mean, spread = pixels.stains.mean, pixels.stains.spread
    wanted_spread = spread[image] + part * (spread[other] - spread[image])
    wanted_mean = mean[image] + part * (mean[other] - mean[image])
    # A near-empty channel must not be blown up to another's.
    gain = np.clip(wanted_spread / spread[image], 0.5, 2.0)
    shift = wanted_mean - gain * mean[image]
    jitter = rng.uniform(1 - options.stain_gain, 1 + options.stain_gain, (n, 3))
    shift = shift * jitter + rng.uniform(-options.stain_shift, options.stain_shift, (n, 3))
    colour = np.einsum("cs,ns,sd->ncd", UNMIX, gain * jitter, STAINS)
    return colour, shift @ STAINS
