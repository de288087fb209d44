"""The network for one CPU core: the same maps in a fraction of the time and memory.

The trained network is rebuilt from layers that take and give rows (`_layers`), so that wide
feature maps are never whole in memory; only those the decoder comes back to are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsiseg.models._bands import BAND, Floats, Stream, stream_of
from wsiseg.models._encoder import encoder_of
from wsiseg.models._layers import (
    NO_LIMITS,
    Convolve,
    Mix,
    arrays_of,
    convolve_from,
    doubled,
    mix_from,
    mix_of,
    windows_of_neighbours,
)
from wsiseg.models._map_bytes import write_bytes
from wsiseg.models._vectors import padded
from wsiseg.models._winograd import offset_for
from wsiseg.records import Maps

if TYPE_CHECKING:
    from wsiseg.models.hovernet import DecoderLevel, Head, HoverNet, UNetDecoder

Encoder = Callable[[NDArray[np.uint8]], list[Floats]]
"""From an image (h, w, 3) to feature maps (h, w, channels), finest first."""


@dataclass(frozen=True, slots=True)
class Level:
    """Double the resolution and mix in the encoder's features of that stride."""

    lateral: Mix
    """Before doubling."""
    skip: Mix
    """Of the encoder's features, added."""
    first: Convolve
    """Of the sum."""
    second: Convolve
    """Of the first's result."""

    def __call__(self, deep: Stream, features: Floats) -> Stream:
        """Return features at the stride of `features`."""
        wide = doubled(self.lateral(deep))
        return self.second(self.first(self.skip(stream_of(features), wide.bands)))


@dataclass(frozen=True, slots=True)
class Branch:
    """A decoder with the heads that hang on it."""

    levels: tuple[Level, ...]
    """Deepest first."""
    hidden: Convolve
    """The heads' hidden layers, side by side."""
    project: Mix
    """From all hidden layers to all maps."""
    n_maps: int
    """How many of the results are maps."""

    def __call__(self, features: Sequence[Floats]) -> Stream:
        """Return the maps at stride 2."""
        stream = stream_of(features[-1])
        for level, skip in zip(self.levels, features[-2::-1], strict=True):
            stream = level(stream, skip)
        return self.project(self.hidden(stream))


class StreamedPredictor:
    """Predicts the maps of blocks, one after the other, in float32.

    May be called from several threads; a block's maps do not depend on the others.
    """

    def __init__(self, network: HoverNet, threads: int) -> None:
        self._encoder: Encoder = encoder_of(network.encoder) or _TorchEncoder(
            network.encoder, threads
        )
        self._branches = _branches_of(network)
        self._n_classes = network.spec.n_classes

    def __call__(self, rgb: NDArray[np.uint8]) -> list[Maps]:
        """Predict the maps of each block.

        Parameters
        ----------
        rgb : ndarray, (n, h, w, 3), uint8
            `h` and `w` are multiples of 32.

        Returns
        -------
        list of Maps
            One per block.
        """
        return [self._predict(np.ascontiguousarray(block)) for block in rgb]

    def _predict(self, rgb: NDArray[np.uint8]) -> Maps:
        height, width, _ = rgb.shape
        features = self._encoder(rgb)
        results = _side_by_side([(branch(features), branch.n_maps) for branch in self._branches])
        nucleus = np.empty((height, width), np.uint8)
        hv = np.empty((2, height, width), np.int8)
        classes = np.empty((self._n_classes, height, width), np.uint8)
        scratch = np.empty(width * results.channels, np.float32)
        row = 0
        for window in windows_of_neighbours(results):
            write_bytes(window, row, scratch, nucleus, hv, classes)
            row += 2 * (len(window) - 2)
        return Maps(nucleus, hv, classes)


class _TorchEncoder:
    """An encoder of a kind `_encoder` does not know, as torch runs it."""

    def __init__(self, encoder: nn.Module, threads: int) -> None:
        self._encoder = encoder
        self._threads = threads

    def __call__(self, rgb: NDArray[np.uint8]) -> list[Floats]:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1.0
            features: list[Tensor] = self._encoder(image)
            return [
                np.ascontiguousarray(part[0].permute(1, 2, 0).float().numpy()) for part in features
            ]


def _side_by_side(streams: list[tuple[Stream, int]]) -> Stream:
    """Join the maps of several branches into one stream."""
    if len(streams) == 1:
        return streams[0][0]
    first = streams[0][0]
    channels = sum(n for _, n in streams)

    def bands() -> Iterator[Floats]:
        buffer = np.empty((BAND, first.width, channels), np.float32)
        for parts in zip(*(stream.bands for stream, _ in streams), strict=True):
            out = buffer[: len(parts[0])]
            at = 0
            for part, (_, n) in zip(parts, streams, strict=True):
                out[..., at : at + n] = part[..., :n]
                at += n
            yield out

    return Stream(first.height, first.width, channels, bands())


def _branches_of(network: HoverNet) -> list[Branch]:
    heads: list[Any] = [network.nucleus_head, network.hv_head]
    if network.class_head is not None:
        heads.append(network.class_head)
    decoders: list[Any] = list(network.decoders)
    if len(decoders) == 1:
        return [_branch_of(decoders[0], heads)]
    return [_branch_of(decoder, [head]) for decoder, head in zip(decoders, heads, strict=False)]


def _branch_of(decoder: UNetDecoder, heads: list[Head]) -> Branch:
    modules: list[Any] = list(decoder.levels)
    hidden = [arrays_of(head[0][0]) for head in heads]  # type: ignore[index]
    wide = convolve_from(
        np.concatenate([weights for weights, _ in hidden]),
        np.concatenate([bias for _, bias in hidden]),
        padded(modules[-1].lateral.out_channels),
        # Doubling the maps takes one pixel from beyond a border.
        offset_for(0),
    )
    levels: list[Level] = []
    last = 1
    for module in modules[::-1]:
        n_deep = module.lateral.in_channels
        levels.append(_level_of(module, n_deep if module is modules[0] else padded(n_deep), last))
        # Two convolutions reach two pixels further, and doubling one more; then by halves.
        last = (last + 3) // 2
    matrix, bias = _block_diagonal([arrays_of(head[1]) for head in heads])  # type: ignore[arg-type]
    project = mix_from(matrix, bias, NO_LIMITS, len(wide.bias))
    return Branch(tuple(levels[::-1]), wide, project, len(bias))


def _level_of(module: DecoderLevel, n_deep: int, last: int) -> Level:
    """Return a level whose results are wanted up to `last` pixels beyond a border."""
    lateral = mix_of(module.lateral, NO_LIMITS, n_deep)
    skip = mix_of(module.skip, NO_LIMITS, module.skip.in_channels)
    first, second = (arrays_of(part[0]) for part in module.mix)  # type: ignore[index]
    n_mixed = len(skip.bias)
    return Level(
        lateral,
        skip,
        convolve_from(*first, n_mixed, offset_for(last + 1)),
        convolve_from(*second, n_mixed, offset_for(last)),
    )


def _block_diagonal(
    projections: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one matrix and bias for heads that lie side by side."""
    n_out = sum(len(bias) for _, bias in projections)
    matrix = np.zeros((n_out, sum(weights.shape[1] for weights, _ in projections)))
    row = col = 0
    for weights, _ in projections:
        height, width = weights.shape[:2]
        matrix[row : row + height, col : col + width] = weights[:, :, 0, 0]
        row, col = row + height, col + width
    return matrix, np.concatenate([bias for _, bias in projections])
