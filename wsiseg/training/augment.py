"""Random crops that look like other scanners' and laboratories' slides."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.labels.records import LabelledImage

# Optical density of haematoxylin, eosin and a residual
# (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291).
_DIRECTIONS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_STAINS = (_DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)).astype(np.float32)
_UNMIX = np.linalg.inv(_STAINS)


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How far crops may differ from the images."""

    crop_px: int = 256
    """Side of a crop."""
    scale_low: float = 0.75
    """Smallest magnification."""
    scale_high: float = 1.4
    """Largest magnification."""
    turn_share: float = 0.3
    """Share of crops turned by any angle; the others by quarter turns only."""
    stain_gain: float = 0.2
    """Each stain's density is multiplied by 1 ± this."""
    stain_shift: float = 0.04
    """Added to each stain's density, at most."""
    brightness: float = 0.12
    """Contrast 1 ± this, brightness ± this × 255 / 2."""
    blur_share: float = 0.3
    """Share of crops blurred, by a Gaussian of 0.3 to 1.5 px."""
    jpeg_share: float = 0.3
    """Share of crops compressed, at quality 40 to 95."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A piece of a labelled image."""

    rgb: NDArray[np.uint8]
    """(crop_px, crop_px, 3)."""
    instances: NDArray[np.int32]
    """(crop_px, crop_px)."""
    classes: NDArray[np.uint8]
    """(crop_px, crop_px)."""


def random_crop(image: LabelledImage, rng: np.random.Generator, options: AugmentOptions) -> Crop:
    """Draw one augmented crop, wholly inside the image."""
    crop = _shape_crop(image, rng, options)
    rgb = _shift_stains(crop.rgb, rng, options)
    rgb = _shift_brightness(rgb, rng, options)
    if rng.random() < options.blur_share:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.3, 1.5)).astype(np.uint8)
    if rng.random() < options.jpeg_share:
        rgb = _compress(rgb, int(rng.integers(40, 96)))
    return Crop(rgb, crop.instances, crop.classes)


def _shape_crop(image: LabelledImage, rng: np.random.Generator, options: AugmentOptions) -> Crop:
    scale = np.exp(rng.uniform(np.log(options.scale_low), np.log(options.scale_high)))
    turned = rng.random() < options.turn_share
    angle = rng.uniform(0, 360) if turned else 0.0
    size = options.crop_px
    reach = size / scale / 2 * (1.0 if not turned else np.sqrt(2.0))
    height, width = image.instances.shape
    cx = rng.uniform(min(reach, width / 2), max(width - reach, width / 2))
    cy = rng.uniform(min(reach, height / 2), max(height - reach, height / 2))
    warp = np.asarray(cv2.getRotationMatrix2D((cx, cy), angle, scale), np.float64)
    warp[:, 2] += size / 2 - np.array([cx, cy])
    square = (size, size)
    rgb = cv2.warpAffine(
        image.rgb, warp, square, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    # Labels are not mirrored at the border: a mirrored nucleus would share its label.
    instances = cv2.warpAffine(
        image.instances.astype(np.float32), warp, square, flags=cv2.INTER_NEAREST
    )
    classes = cv2.warpAffine(image.classes, warp, square, flags=cv2.INTER_NEAREST, borderValue=255)
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def orient(array: NDArray[np.generic]) -> NDArray[np.generic]:
        array = np.rot90(array, turns)
        return np.ascontiguousarray(array[:, ::-1] if flip else array)

    return Crop(
        orient(rgb).astype(np.uint8),
        orient(instances).astype(np.int32),
        orient(classes).astype(np.uint8),
    )


def _shift_stains(
    rgb: NDArray[np.uint8], rng: np.random.Generator, options: AugmentOptions
) -> NDArray[np.uint8]:
    density = -np.log((rgb.astype(np.float32) + 1) / 256)
    gain = rng.uniform(1 - options.stain_gain, 1 + options.stain_gain, 3).astype(np.float32)
    shift = rng.uniform(-options.stain_shift, options.stain_shift, 3).astype(np.float32)
    shifted = ((density @ _UNMIX) * gain + shift) @ _STAINS
    return np.asarray(np.clip(256 * np.exp(-shifted) - 1, 0, 255), np.uint8)


def _shift_brightness(
    rgb: NDArray[np.uint8], rng: np.random.Generator, options: AugmentOptions
) -> NDArray[np.uint8]:
    contrast = 1 + rng.uniform(-options.brightness, options.brightness)
    brightness = rng.uniform(-options.brightness, options.brightness) * 127
    return np.asarray(np.clip((rgb - 127.5) * contrast + 127.5 + brightness, 0, 255), np.uint8)


def _compress(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, packed = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
