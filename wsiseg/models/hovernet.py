"""The network: a timm encoder, one shared U-Net decoder, and three heads.

The maps it predicts are those of HoVer-Net (Graham et al. 2019,
doi:10.1016/j.media.2019.101563): nucleus probability, horizontal and vertical
distance to the nucleus centre, and class.  The architecture is not: one light decoder
serves all heads, and the heads work at half resolution.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsiseg.errors import ModelNotUsable, UsageError
from wsiseg.models import ModelFile, Numerics, Predictor
from wsiseg.models._streamed import StreamedPredictor
from wsiseg.models._timm import create_features
from wsiseg.models.allocator import keep_large_buffers
from wsiseg.models.folding import fold_batch_norms
from wsiseg.records import Maps

Decoder = Literal["shared", "separate"]


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything needed to rebuild the network; stored in the model card.

    With the defaults an output pixel depends on input pixels no further than 229 px away:
    214 px by its convolutions, and up to 15 px more by its place in a stride-16 cell.  So with
    a margin of 224 px, and tiles whose origins are multiples of 32, nothing outside a tile
    reaches its core.
    """

    encoder: str = "tf_efficientnet_lite0"
    """Name of a timm encoder that supports `features_only`."""
    encoder_stages: int = 4
    """How many feature stages to use, from stride 2 on: 4 ends at stride 16."""
    decoder_channels: tuple[int, ...] = (128, 96, 48)
    """Channels of the decoder, deepest first; one fewer level than there are stages."""
    head_channels: int = 32
    """Channels of each head's hidden layer."""
    n_classes: int = 4
    """Number of nucleus classes; background is the nucleus map's business. 0: no class head."""
    decoder: Decoder = "shared"
    """`shared`: one decoder for all heads; `separate`: one per head, as in HoVer-Net."""

    def __post_init__(self) -> None:
        if len(self.decoder_channels) != self.encoder_stages - 1:
            raise ValueError(
                f"decoder_channels has {len(self.decoder_channels)} entries for "
                f"{self.encoder_stages} encoder stages; {self.encoder_stages - 1} are needed"
            )
        if self.decoder not in ("shared", "separate"):
            raise ValueError(f"decoder is {self.decoder!r}; 'shared' or 'separate' is needed")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {**asdict(self), "decoder_channels": list(self.decoder_channels)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> NetworkSpec:
        """Build a spec from what `to_json` gave."""
        return cls(**{**fields, "decoder_channels": tuple(fields["decoder_channels"])})


class RawMaps(NamedTuple):
    """What the network gives, at the resolution of its input."""

    nucleus_logit: Tensor
    """(n, 1, h, w)."""
    hv: Tensor
    """(n, 2, h, w): horizontal, vertical distance, about -1 to 1 inside nuclei."""
    class_logits: Tensor
    """(n, n_classes, h, w)."""


class ConvNormAct(nn.Sequential):
    """3×3 or 1×1 convolution, batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
        )


class _Doubled(torch.autograd.Function):
    """Bilinear doubling whose gradient is gathered.

    torch's own is scattered by atomic additions, whose order on a GPU is left to chance.
    """

    @staticmethod
    def forward(_: Any, maps: Tensor) -> Tensor:
        """Return maps of twice the height and width."""
        return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Return the gradient of the maps."""
        # A pixel reaches four: 1/4, 3/4, 3/4, 1/4, and at the border what would lie outside.
        for axis in (2, 3):
            gradient = _gathered(gradient, axis)
        return gradient


def _gathered(gradient: Tensor, axis: int) -> Tensor:
    length = gradient.shape[axis]
    even = [slice(None)] * axis + [slice(0, None, 2)]
    odd = [slice(None)] * axis + [slice(1, None, 2)]
    first, second = gradient[tuple(even)], gradient[tuple(odd)]
    at_start, at_end = first.narrow(axis, 0, 1), second.narrow(axis, length // 2 - 1, 1)
    before = torch.cat([at_start, second.narrow(axis, 0, length // 2 - 1)], axis)
    after = torch.cat([first.narrow(axis, 1, length // 2 - 1), at_end], axis)
    gathered: Tensor = 0.75 * (first + second) + 0.25 * (before + after)
    return gathered


def upsample(maps: Tensor) -> Tensor:
    """Double height and width bilinearly."""
    doubled: Tensor = _Doubled.apply(maps)  # type: ignore[no-untyped-call]
    return doubled


class DecoderLevel(nn.Module):
    """Double the resolution and mix in the encoder's features of that stride."""

    def __init__(self, n_in: int, n_skip: int, n_out: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(n_in, n_out, 1)
        self.skip = nn.Conv2d(n_skip, n_out, 1)
        self.mix = nn.Sequential(ConvNormAct(n_out, n_out), ConvNormAct(n_out, n_out))

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Return features at the stride of `skip`."""
        # 1×1 convolutions commute with bilinear up-sampling; before it they cost a quarter.
        mixed: Tensor = self.mix(upsample(self.lateral(deep)) + self.skip(skip))
        return mixed


class UNetDecoder(nn.Module):
    """From the deepest features up to stride 2."""

    def __init__(self, encoder_channels: list[int], decoder_channels: tuple[int, ...]) -> None:
        super().__init__()
        deep = [encoder_channels[-1], *decoder_channels[:-1]]
        skips = encoder_channels[-2::-1]
        self.levels = nn.ModuleList(
            DecoderLevel(n_in, n_skip, n_out)
            for n_in, n_skip, n_out in zip(deep, skips, decoder_channels, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return features at stride 2."""
        deep = features[-1]
        for level, skip in zip(self.levels, features[-2::-1], strict=True):
            deep = level(deep, skip)
        return deep


class Head(nn.Sequential):
    """One hidden 3×3 layer and a 1×1 projection, then ×2 to the input's resolution."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__(ConvNormAct(n_in, n_hidden), nn.Conv2d(n_hidden, n_out, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, n_out, h, w) in float32 at the resolution of the network's input."""
        maps: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return upsample(maps.float())


class HoverNet(nn.Module):
    """Predict nucleus, distance and class maps.

    Parameters
    ----------
    spec : NetworkSpec
        Architecture.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder, channels = create_features(spec.encoder, spec.encoder_stages)
        n_decoders = 1 if spec.decoder == "shared" else 3
        self.decoders = nn.ModuleList(
            UNetDecoder(channels, spec.decoder_channels) for _ in range(n_decoders)
        )
        width = spec.decoder_channels[-1]
        self.nucleus_head = Head(width, spec.head_channels, 1)
        self.hv_head = Head(width, spec.head_channels, 2)
        self.class_head = (
            Head(width, spec.head_channels, spec.n_classes) if spec.n_classes else None
        )

    def forward(self, images: Tensor) -> RawMaps:
        """Predict maps.

        Parameters
        ----------
        images : Tensor, (n, 3, h, w), float, scaled to -1…1
            `h` and `w` must be multiples of 32.

        Returns
        -------
        RawMaps
            All in float32, (n, …, h, w).
        """
        features = self.encoder(images)
        decoded = [decoder(features) for decoder in self.decoders]
        for_nucleus, for_hv, for_class = decoded if len(decoded) == 3 else decoded * 3
        if self.class_head is None:
            n, _, h, w = images.shape
            class_logits = images.new_zeros((n, 0, h, w), dtype=torch.float32)
        else:
            class_logits = self.class_head(for_class)
        return RawMaps(self.nucleus_head(for_nucleus), self.hv_head(for_hv), class_logits)


class TorchPredictor:
    """Runs a network on blocks of pixels."""

    def __init__(self, network: HoverNet, numerics: Numerics) -> None:
        self._device = torch.device(numerics.device_kind)
        self._dtype: torch.dtype = getattr(torch, numerics.precision)
        self._threads = numerics.threads
        self._network = network.eval().requires_grad_(False).to(self._device)

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
        if self._device.type == "cpu" and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode(), self._autocast():
            images = torch.from_numpy(rgb).to(self._device).permute(0, 3, 1, 2)
            maps = self._network(to_input(images))
            quantised = _quantise(maps)
        return [Maps(*(part[i].cpu().numpy() for part in quantised)) for i in range(len(rgb))]

    def _autocast(self) -> torch.autocast:
        if self._dtype == torch.float32:
            return torch.autocast(self._device.type, enabled=False)
        return torch.autocast(self._device.type, dtype=self._dtype)


def to_input(rgb: Tensor) -> Tensor:
    """Scale 0…255 to -1…1, as the encoder was trained."""
    return rgb.float() / 127.5 - 1.0


def _quantise(maps: RawMaps) -> tuple[Tensor, Tensor, Tensor]:
    """Turn network output into the bytes of `Maps`."""
    nucleus = torch.sigmoid(maps.nucleus_logit[:, 0]).mul(255).round().to(torch.uint8)
    hv = maps.hv.mul(100).round().clamp(-127, 127).to(torch.int8)
    classes = torch.softmax(maps.class_logits, 1).mul(255).round().to(torch.uint8)
    return nucleus, hv, classes


def build_predictor(model: ModelFile, numerics: Numerics) -> Predictor:
    """Load a model file into this process; the entry point `hovernet`.

    With the backend `torch` the network runs as it was trained; with `rows` it is rebuilt to
    need less time and memory on a CPU.  Maps differ by one grey level in a few pixels of 100,000.

    Raises
    ------
    UsageError
        If a GPU is asked for and none is usable.
    ModelNotUsable
        If the weights do not fit the network the card describes.
    """
    if numerics.device_kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device cuda: torch finds no usable GPU; use --device cpu, or install a torch "
            "built for your GPU"
        )
    network = _described_network(model)
    _load_weights(network, model)
    fold_batch_norms(network.eval(), torch.zeros(1, 3, 64, 64))
    if numerics.backend == "rows":
        return StreamedPredictor(network, numerics.threads)
    if numerics.device_kind == "cpu":
        keep_large_buffers()
    return TorchPredictor(network, numerics)


def _described_network(model: ModelFile) -> HoverNet:
    try:
        spec = NetworkSpec.from_json(model.card.network)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelNotUsable(
            f"model {model.card.name}: its card describes no network this wsiseg can build: {error}"
        ) from error
    return HoverNet(spec)


def _load_weights(network: HoverNet, model: ModelFile) -> None:
    try:
        weights = {name: value.float() for name, value in load_file(model.weights).items()}
    except SafetensorError as error:
        raise ModelNotUsable(
            f"model {model.card.name}: its weights are no safetensors file: {error}"
        ) from error
    wanted = {
        name: value.shape
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    missing = [name for name in wanted if name not in weights]
    unexpected = [
        name for name, value in weights.items() if name not in wanted or value.shape != wanted[name]
    ]
    if missing or unexpected:
        raise ModelNotUsable(
            f"model {model.card.name}: weights and card disagree; missing {missing[:3]}, "
            f"unknown or of another shape {unexpected[:3]}"
        )
    network.load_state_dict(weights, strict=False)
