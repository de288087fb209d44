"""Encoders of the EfficientNet-Lite kind, as layers that take and give rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wsiseg.models._bands import Floats, Stream, collected, kept, stream_of
from wsiseg.models._layers import (
    NO_LIMITS,
    RELU,
    RELU6,
    Filter,
    Limits,
    Mix,
    Stem,
    arrays_of,
    filter_of,
    mix_from,
    mix_of,
)
from wsiseg.models._vectors import is_whole
from wsiseg.models.folding import is_folded

_LIMITS: dict[type, Limits] = {
    nn.ReLU: RELU,
    nn.ReLU6: RELU6,
    nn.Identity: NO_LIMITS,
}


class _NotKnown(Exception):
    """A part of the encoder is of another kind."""


@dataclass(frozen=True, slots=True)
class Block:
    """Widen the channels, filter each, narrow them, and add what came in."""

    widen: Mix | None
    """1×1 convolution."""
    filter: Filter
    """Depthwise convolution."""
    narrow: Mix
    """1×1 convolution."""
    adds_input: bool
    """Whether the result is a difference to the input."""

    def __call__(self, stream: Stream) -> Stream:
        """Return the results."""
        added: Iterator[Floats] | None = None
        if self.adds_input:
            stream, whole = kept(stream)
            added = stream_of(whole).bands
        wide = stream if self.widen is None else self.widen(stream)
        return self.narrow(self.filter(wide), added)


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """From an image to feature maps, finest first."""

    stem: Stem
    """The first convolution."""
    stages: tuple[tuple[Block, ...], ...]
    """Blocks up to each feature map."""

    def __call__(self, rgb: NDArray[np.uint8]) -> list[Floats]:
        """Return the feature maps, (h, w, channels), of an image, (h, w, 3)."""
        stream = self.stem(rgb)
        features = []
        for stage in self.stages:
            for block in stage:
                stream = block(stream)
            features.append(collected(stream))
            stream = stream_of(features[-1])
        return features


def encoder_of(features: nn.Module) -> RowEncoder | None:
    """Return timm's encoder as rows of layers, or None if a part of it is of another kind.

    Parameters
    ----------
    features : nn.Module
        With `features_only`; its batch norms are folded.
    """
    try:
        return _encoder_of(features)
    except _NotKnown:
        return None


def _encoder_of(features: Any) -> RowEncoder:
    if type(features).__name__ != "EfficientNetFeatures" or features.feature_hooks is not None:
        raise _NotKnown
    names = [name.partition(".") for name in features.feature_info.module_name()]
    if any(container != "blocks" or not index.isdigit() for container, _, index in names):
        raise _NotKnown
    ends = [int(index) + 1 for _, _, index in names]
    blocks = [tuple(_block_of(block) for block in stage) for stage in features.blocks]
    stages = tuple(
        tuple(block for stage in blocks[start:end] for block in stage)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    )
    return RowEncoder(_stem_of(features.conv_stem, features.bn1), stages)


def _stem_of(convolution: nn.Conv2d, norm: nn.Module) -> Stem:
    weights, bias = arrays_of(convolution)
    n_out, n_in, side, _ = weights.shape
    if n_in != 3 or convolution.groups != 1:
        raise _NotKnown
    by_patch = weights.transpose(0, 2, 3, 1).reshape(n_out, -1)
    mix = mix_from(by_patch, bias, _limits_behind(norm), by_patch.shape[1])
    # As the plain network scales its input.
    scaled = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    return Stem(mix, side, int(convolution.stride[0]), _padding_of(convolution), scaled)


def _block_of(block: Any) -> Block:
    kind = type(block).__name__
    if kind not in ("InvertedResidual", "DepthwiseSeparableConv"):
        raise _NotKnown
    others = (getattr(block, name, None) for name in ("aa", "se", "conv_s2d"))
    if not all(part is None or isinstance(part, nn.Identity) for part in others):
        raise _NotKnown
    if kind == "DepthwiseSeparableConv":
        widen, norm, narrow, last = None, block.bn1, block.conv_pw, block.bn2
    else:
        widen = _mix_of(block.conv_pw, block.bn1)
        norm, narrow, last = block.bn2, block.conv_pwl, block.bn3
    return Block(
        widen, _filter_of(block.conv_dw, norm), _mix_of(narrow, last), bool(block.has_skip)
    )


def _mix_of(convolution: nn.Conv2d, norm: nn.Module) -> Mix:
    fits = convolution.kernel_size == (1, 1) and convolution.stride == (1, 1)
    if not fits or convolution.groups != 1 or not is_whole(convolution.out_channels):
        raise _NotKnown
    return mix_of(convolution, _limits_behind(norm), convolution.in_channels)


def _filter_of(convolution: nn.Conv2d, norm: nn.Module) -> Filter:
    n = convolution.out_channels
    each_its_own = convolution.groups == n == convolution.in_channels
    if not each_its_own or not is_whole(n) or convolution.dilation != (1, 1):
        raise _NotKnown
    return filter_of(convolution, _limits_behind(norm), _padding_of(convolution))


def _padding_of(convolution: nn.Conv2d) -> int | None:
    if type(convolution).__name__ == "Conv2dSame":
        return None
    padding = convolution.padding
    if type(convolution) is not nn.Conv2d or isinstance(padding, str) or padding[0] != padding[1]:
        raise _NotKnown
    return padding[0]


def _limits_behind(norm: Any) -> Limits:
    """Return what a folded norm's activation does."""
    limits = _LIMITS.get(type(getattr(norm, "act", None)))
    if limits is None or not is_folded(norm):
        raise _NotKnown
    return limits
