"""Crops that look like other scanners' and laboratories' slides, made on the device.

The same code on CPU and GPU; all of it on whole batches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsiseg.records import UNKNOWN_CLASS
from wsiseg.training.draws import Draws
from wsiseg.training.pixels import Pixels

RIM_PX = 32
"""Labels are read this far around a crop, so that most nuclei at its edge are whole when their
targets are made."""
_BLUR_REACH_PX = 4
# Annex K of ITU-T T.81: luminance and chrominance at quality 50.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87
80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98
112 100 103 99"""
_CHROMA = "17 18 24 47 18 21 26 66 24 26 56 99 47 66 99 99"
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class Batch(NamedTuple):
    """Crops to learn from."""

    rgb: Tensor
    """(n, 3, crop_px, crop_px), float32, whole numbers from 0 to 255."""
    instances: Tensor
    """(n, crop_px + 2 RIM_PX, crop_px + 2 RIM_PX), int32, with the rim."""
    classes: Tensor
    """(n, crop_px, crop_px), int64; `UNKNOWN_CLASS` where not known."""
    known: Tensor
    """(n, crop_px, crop_px), bool; False outside of images and where ignored."""


def make_batch(pixels: Pixels, draws: Draws, crop_px: int) -> Batch:
    """Cut crops out of images and change their colours."""
    device = pixels.rgb.device
    rgb = sharpen(
        shift_colours(_sample(pixels, draws, crop_px), draws),
        _on(device, draws.blur_px),
        _on(device, draws.sharpness),
    )
    rgb = compress(shift_brightness(rgb, draws), _on(device, draws.jpeg_quality))
    at, inside = _nearest(pixels, draws, crop_px + 2 * RIM_PX)
    inner = slice(RIM_PX, RIM_PX + crop_px)
    instances = torch.where(inside, pixels.instances[at], 0)
    at, inside = at[:, inner, inner], inside[:, inner, inner]
    classes = torch.where(inside, pixels.classes[at].long(), UNKNOWN_CLASS)
    return Batch(rgb.round().clamp(0, 255), instances, classes, inside & pixels.known[at])


def _on(device: torch.device, values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device, non_blocking=True)


def _places(pixels: Pixels, draws: Draws, side_px: int) -> tuple[Tensor, Tensor]:
    """Return rows and columns in the images, (n, side, side), of a square's pixel centres."""
    device = pixels.rgb.device
    offset = torch.arange(side_px, device=device, dtype=torch.float64) + 0.5 - side_px / 2
    to_image, centre = (
        torch.from_numpy(values).to(device) for values in (draws.to_image, draws.centre)
    )
    down, right = to_image[:, :, 0, None, None], to_image[:, :, 1, None, None]
    places = centre[:, :, None, None] + down * offset[:, None] + right * offset
    return places[:, 0], places[:, 1]


def _nearest(pixels: Pixels, draws: Draws, side_px: int) -> tuple[Tensor, Tensor]:
    """Return positions of the nearest pixels, and which are inside their image.

    Labels are not mirrored at the border: a mirrored nucleus would share its label.
    """
    row, col = (place.floor().long() for place in _places(pixels, draws, side_px))
    first, height, width = _shape_of(pixels, draws)
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    return torch.where(inside, first + row * width + col, 0), inside


def _shape_of(pixels: Pixels, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    size, first = pixels.size[draws.image], pixels.first[draws.image]
    first_px, height, width = (
        torch.from_numpy(values).to(pixels.rgb.device)[:, None, None]
        for values in (first, size[:, 0], size[:, 1])
    )
    return first_px, height, width


def _sample(pixels: Pixels, draws: Draws, side_px: int) -> Tensor:
    """Interpolate between pixels; images are mirrored at their border."""
    places = _places(pixels, draws, side_px)
    first, height, width = _shape_of(pixels, draws)
    row, col = (place - 0.5 for place in places)
    top, left = row.floor(), col.floor()
    down, right = ((at - low).float()[..., None] for at, low in ((row, top), (col, left)))
    rows = [_mirrored(top.long() + i, height) for i in (0, 1)]
    cols = [_mirrored(left.long() + i, width) for i in (0, 1)]
    taps = [[pixels.rgb[first + i * width + j].float() for j in cols] for i in rows]
    upper, lower = (tap[0] + (tap[1] - tap[0]) * right for tap in taps)
    return (upper + (lower - upper) * down).permute(0, 3, 1, 2).contiguous()


def _mirrored(index: Tensor, length: Tensor) -> Tensor:
    """Return indices with the border between pixels as mirror, as often as needed."""
    folded = torch.remainder(index, 2 * length)
    return torch.minimum(folded, 2 * length - 1 - folded)


def shift_colours(rgb: Tensor, draws: Draws) -> Tensor:
    """Change stain densities of (n, 3, h, w) pictures."""
    n, _, height, width = rgb.shape
    density = -torch.log((rgb + 1) / 256)
    colour, shift = _on(rgb.device, draws.colour), _on(rgb.device, draws.colour_shift)
    changed = torch.baddbmm(shift[:, :, None], colour.transpose(1, 2), density.flatten(2))
    return (256 * torch.exp(-changed) - 1).clamp(0, 255).view(n, 3, height, width)


def shift_brightness(rgb: Tensor, draws: Draws) -> Tensor:
    """Change contrast and brightness of (n, 3, h, w) pictures."""
    contrast, brightness = (
        _on(rgb.device, values)[:, None, None, None]
        for values in (draws.contrast, draws.brightness)
    )
    return ((rgb - 127.5) * contrast + 127.5 + brightness).clamp(0, 255)


def sharpen(rgb: Tensor, blur_px: Tensor, sharpness: Tensor) -> Tensor:
    """Add (below 0: take away) what a Gaussian of `blur_px` would remove.

    Parameters
    ----------
    rgb : Tensor, (n, 3, h, w), float
        Pictures.
    blur_px, sharpness : Tensor, (n,), float
        Standard deviation; -1 gives the blurred picture, 0 the same, 1 twice the detail.
    """
    n, channels, height, width = rgb.shape
    reach = _BLUR_REACH_PX
    offset = torch.arange(-reach, reach + 1, device=rgb.device)
    kernel = torch.exp(-((offset / blur_px[:, None]) ** 2) / 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    pictures = F.pad(rgb.reshape(1, n * channels, height, width), (reach,) * 4, mode="reflect")
    across = F.conv2d(pictures, kernel[:, None, None], groups=n * channels)
    blurred = F.conv2d(across, kernel[:, None, :, None], groups=n * channels)
    detail = rgb - blurred.view_as(rgb)
    return (rgb + sharpness[:, None, None, None] * detail).clamp(0, 255)


def compress(rgb: Tensor, quality: Tensor) -> Tensor:
    """Lose what JPEG loses: rounded cosine coefficients, colour at half resolution.

    Parameters
    ----------
    rgb : Tensor, (n, 3, h, w), float
        Pictures; sides are multiples of 16.
    quality : Tensor, (n,), float
        1 to 100 as the Independent JPEG Group counts it; 0 leaves the picture.
    """
    to_ycc = torch.tensor(_YCC, device=rgb.device)
    ycc = torch.einsum("kc,nchw->nkhw", to_ycc, rgb)
    scale = torch.where(quality < 50, 5000 / quality.clamp(min=1), 200 - 2 * quality) / 100
    luma = _rounded_blocks(ycc[:, :1] - 128, _table(_luma(), scale, rgb.device)) + 128
    chroma = _rounded_blocks(F.avg_pool2d(ycc[:, 1:], 2), _table(_chroma(), scale, rgb.device))
    chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear", align_corners=False)
    back = torch.einsum("ck,nkhw->nchw", torch.linalg.inv(to_ycc), torch.cat([luma, chroma], 1))
    return torch.where((quality > 0)[:, None, None, None], back.clamp(0, 255), rgb)


def _rounded_blocks(pictures: Tensor, steps: Tensor) -> Tensor:
    n, channels, height, width = pictures.shape
    basis = _cosines(pictures.device)
    blocks = pictures.reshape(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    step = steps[:, None, None, None]
    rounded = basis.T @ (torch.round(coefficients / step) * step) @ basis
    return rounded.transpose(3, 4).reshape(n, channels, height, width)


def _cosines(device: torch.device) -> Tensor:
    at = torch.arange(8, device=device)
    basis = torch.cos((2 * at + 1) * at[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


def _luma() -> NDArray[np.float64]:
    return np.array(_LUMA.split(), float).reshape(8, 8)


def _chroma() -> NDArray[np.float64]:
    table = np.full((8, 8), 99.0)
    table[:4, :4] = np.array(_CHROMA.split(), float).reshape(4, 4)
    return table


def _table(at_50: NDArray[np.float64], scale: Tensor, device: torch.device) -> Tensor:
    table = torch.from_numpy(at_50.astype(np.float32)).to(device)
    return (table * scale[:, None, None]).round().clamp(1, 255)
