"""The network in rows: as the plain one computes, and to the last bit whatever lies beside."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from test_network import MARGIN_PX, TINY, assert_equal_maps, lively, random_blocks
from torch import Tensor, nn

from wsiseg.decode import DecodeOptions, decode_instances
from wsiseg.evaluation.metrics import panoptic_quality
from wsiseg.models import MapsModel, Numerics, _bands, _layers, load_model
from wsiseg.models._bands import BAND, Kernel, Stream, collected, stream_of, windows
from wsiseg.models._encoder import RowEncoder, encoder_of
from wsiseg.models._filters import fastest_filter, filter_channels
from wsiseg.models._kernels import multiply_rows, pack_panels
from wsiseg.models._layers import (
    RELU6,
    convolve_from,
    doubled,
    filter_of,
    windows_of_neighbours,
)
from wsiseg.models._map_bytes import write_bytes
from wsiseg.models._streamed import StreamedPredictor
from wsiseg.models._winograd import offset_for
from wsiseg.models.folding import fold_batch_norms
from wsiseg.models.hovernet import (
    HoverNet,
    NetworkSpec,
    RawMaps,
    TorchPredictor,
    _quantise,
    upsample,
)
from wsiseg.records import Maps

Floats = NDArray[np.float32]
SMALL = NetworkSpec(decoder_channels=(24, 16, 8), head_channels=8)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def folded(spec: NetworkSpec) -> HoverNet:
    network = lively(spec)
    fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
    return network


def random_floats(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def as_torch(features: Floats) -> Tensor:
    return torch.from_numpy(features).permute(2, 0, 1)[None].double()


def as_rows(maps: Tensor) -> NDArray[np.float64]:
    return np.asarray(maps[0].permute(1, 2, 0).detach().numpy())


def in_bands(features: Floats, height_px: int) -> Stream:
    """Return a stream whose bands have other heights than usual."""
    bands = (features[row : row + height_px] for row in range(0, len(features), height_px))
    return Stream(*features.shape, bands)


def share_of_equal_bytes(one: Maps, other: Maps) -> float:
    """Return the smallest share of equal values among the maps; none may differ by more than 1."""
    shares = []
    for name in ("nucleus", "hv", "classes"):
        a, b = (getattr(maps, name).astype(np.int16) for maps in (one, other))
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= 1
        shares.append(float((a == b).mean()) if a.size else 1.0)
    return min(shares)


# The whole


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec(),
        SMALL,
        TINY,
        NetworkSpec("test_efficientnet", 3, (8, 8), 4, 0),
        NetworkSpec("tf_efficientnet_lite0", 5, (16, 16, 8, 8), 12, 2, "separate"),
        NetworkSpec("resnet18", 4, (16, 12, 20), 5, 4),
        NetworkSpec("resnet18", 4, (16, 12, 20), 5, 0, "separate"),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 224), (160, 96)])
def test_maps_are_those_of_the_plain_network(spec: NetworkSpec, height: int, width: int) -> None:
    network = folded(spec)
    blocks = random_blocks(2, height, width)
    plain, rows = TorchPredictor(network, Numerics())(blocks), StreamedPredictor(network, 1)(blocks)
    for want, have in zip(plain, rows, strict=True):
        assert want.hv.std() > 20, "maps that do not vary prove nothing"
        # Untrained networks round about more often than trained ones.
        assert share_of_equal_bytes(want, have) > 0.995


@pytest.fixture(scope="module")
def shipped() -> MapsModel:
    return load_model()


def images_of(shared: Path, name: str, n: int, side_px: int) -> NDArray[np.uint8]:
    paths = sorted((shared / "data" / name / "images").glob("*.png"))[:n]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return np.stack([image[:side_px, :side_px] for image in images])


def labels_of(maps: Maps, options: DecodeOptions) -> NDArray[np.int32]:
    found = decode_instances(maps, options)
    labels = np.zeros(maps.nucleus.shape, np.int32)
    for i in range(len(found.area_px)):
        for row, start, end in found.runs[found.first_run[i] : found.first_run[i + 1]]:
            labels[row, start:end] = i + 1
    return labels


@pytest.mark.parametrize("name", ["monuseg_train", "consep_train"])
def test_nuclei_of_real_images_are_those_of_the_plain_network(
    name: str, shared: Path, shipped: MapsModel
) -> None:
    blocks = images_of(shared, name, 1, 640)
    plain = shipped.predictor(Numerics())(blocks)
    rows = shipped.predictor(Numerics(backend="rows"))(blocks)
    options = DecodeOptions.from_json(shipped.card.decode)
    for want, have in zip(plain, rows, strict=True):
        assert share_of_equal_bytes(want, have) > 0.9999
        reference, predicted = labels_of(want, options), labels_of(have, options)
        assert reference.max() > 50
        assert panoptic_quality(reference, predicted).pq > 0.9999


def test_a_core_is_the_same_from_two_tiles() -> None:
    """A tile's edge, and what lies behind it, reach no bit of its core."""
    predict = StreamedPredictor(folded(NetworkSpec()), 1)
    core_px, shift_px = 64, 32
    slide = random_blocks(1, 2 * MARGIN_PX + core_px + shift_px, 2 * MARGIN_PX + core_px + shift_px)
    (first,) = predict(slide[:, :-shift_px, :-shift_px])
    (second,) = predict(slide[:, shift_px:, shift_px:])
    inside = slice(MARGIN_PX + shift_px, MARGIN_PX + core_px)
    shifted = slice(MARGIN_PX, MARGIN_PX + core_px - shift_px)
    for name in ("nucleus", "hv", "classes"):
        one, other = getattr(first, name), getattr(second, name)
        assert np.array_equal(one[..., inside, inside], other[..., shifted, shifted])
        assert not np.array_equal(
            one[..., shift_px:, shift_px:], other[..., :-shift_px, :-shift_px]
        )


@pytest.mark.parametrize("axis", [0, 1])
def test_what_lies_beyond_the_margin_changes_no_bit_of_the_results(axis: int) -> None:
    """Bytes would hide last bits: the heads' results are compared."""
    predict = StreamedPredictor(folded(NetworkSpec()), 1)
    size = [32, 32]
    size[axis] = 2 * MARGIN_PX + 64
    rgb = random_blocks(1, *size)[0]
    changed = rgb.copy()
    beyond = [slice(None), slice(None)]
    beyond[axis] = slice(0, 32)
    changed[tuple(beyond)] = 255 - changed[tuple(beyond)]

    def results(image: NDArray[np.uint8]) -> Floats:
        return np.moveaxis(collected(predict._branches[0](predict._encoder(image))), axis, 0)

    one, other = results(rgb), results(changed)
    # At stride 2, and one pixel more for the doubling.
    first = (32 + MARGIN_PX) // 2 - 1
    assert np.array_equal(one[first:], other[first:])
    assert not np.array_equal(one[:first], other[:first])


def test_blocks_threads_and_calls_do_not_matter() -> None:
    predict = StreamedPredictor(folded(SMALL), 1)
    blocks = [random_blocks(1, 96, 128, seed) for seed in range(6)]
    with ThreadPoolExecutor(2) as pool:
        at_once = [maps for (maps,) in pool.map(predict, blocks)]
    assert_equal_maps(at_once, predict(np.concatenate(blocks)))
    assert_equal_maps(at_once[:1], StreamedPredictor(folded(SMALL), 1)(blocks[0]))


@pytest.mark.parametrize("band", [4, 16, 32])
def test_the_height_of_bands_does_not_matter(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    predict, blocks = StreamedPredictor(folded(SMALL), 1), random_blocks(1, 96, 64)
    want = predict(blocks)
    for module in (_bands, _layers):
        monkeypatch.setattr(module, "BAND", band)
    assert_equal_maps(predict(blocks), want)


def test_memory_is_a_few_bytes_a_pixel() -> None:
    """And some rows of the widest layer."""
    predict, blocks = StreamedPredictor(folded(NetworkSpec()), 1), random_blocks(1, 1024, 1024)
    predict(blocks)
    tracemalloc.start()
    predict(blocks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The plain network needs over 400.
    assert peak / blocks[0, ..., 0].size < 70


@pytest.mark.parametrize(("bias", "nucleus", "hv"), [(1e4, 255, 127), (-1e4, 0, -127)])
def test_maps_are_clipped_not_wrapped(bias: float, nucleus: int, hv: int) -> None:
    network = folded(TINY)
    for head in (network.nucleus_head, network.hv_head):
        nn.init.constant_(head[1].bias, bias)  # type: ignore[arg-type]
    (maps,) = StreamedPredictor(network, 1)(random_blocks(1, 32, 32))
    assert (maps.nucleus == nucleus).all()
    assert (maps.hv == hv).all()


# Encoders


def test_only_encoders_of_a_known_kind_are_rebuilt() -> None:
    assert isinstance(encoder_of(folded(SMALL).encoder), RowEncoder)
    for name in ("resnet18", "test_efficientnet", "tf_efficientnet_b0"):
        other = NetworkSpec(name, 4, (8, 8, 8), 4, 1)
        assert encoder_of(folded(other).encoder) is None


def test_an_encoder_that_is_not_folded_is_not_rebuilt() -> None:
    assert encoder_of(lively(SMALL).encoder) is None


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "efficientnet_lite0"])
def test_features_are_those_of_the_encoder(encoder: str) -> None:
    """The two pad differently."""
    network = folded(NetworkSpec(encoder, 4, (8, 8, 8), 8, 1))
    rgb = random_blocks(1, 64, 96)[0]
    rebuilt = encoder_of(network.encoder)
    assert rebuilt is not None
    with torch.inference_mode():
        want = network.encoder.double()(as_torch(rgb.astype(np.float32)) / 127.5 - 1)
    for plain, rows in zip(want, rebuilt(rgb), strict=True):
        assert np.abs(as_rows(plain) - rows).max() < 1e-4 * float(plain.std())


# Layers, against torch in float64


@pytest.mark.parametrize("n_pixels", [1, 5, 6, 7, 49, 100])
@pytest.mark.parametrize(("n_in", "n_out"), [(3, 8), (16, 16), (27, 24), (8, 40)])
def test_a_product_is_numpys(n_pixels: int, n_in: int, n_out: int) -> None:
    pixels, matrix = random_floats(n_pixels, n_in), random_floats(n_in, n_out, seed=1)
    bias, added = random_floats(n_out, seed=2), random_floats(n_pixels, n_out, seed=3)
    out = np.full((n_pixels + 1, n_out), np.nan, np.float32)
    multiply_rows(
        pixels, 0, n_pixels, pack_panels(matrix), 0, bias, added, n_out, (-1.0, 2.0), out, 0
    )
    want = np.clip(pixels.astype(float) @ matrix + bias + added, -1, 2)
    assert np.abs(out[:-1] - want).max() < 1e-5
    assert np.isnan(out[-1]).all(), "nothing is written behind the end"


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 8), (17, 30), (40, 12)])
def test_a_convolution_is_torchs(height: int, width: int, offset: int) -> None:
    features = random_floats(height, width, 16)
    weights, bias = random_floats(20, 12, 3, 3, seed=1) / 10, random_floats(20, seed=2)
    layer = convolve_from(weights.astype(float), bias.astype(float), 16, offset)
    found = collected(layer(in_bands(features, 3)))
    kernels, biases = torch.from_numpy(weights).double(), torch.from_numpy(bias).double()
    want = F.conv2d(as_torch(features[..., :12]), kernels, biases, padding=1).relu()
    assert np.abs(found[..., :20] - as_rows(want)).max() < 1e-5
    assert not found[..., 20:].any(), "what fills up the channels stays nothing"


@pytest.mark.parametrize("last", range(8))
def test_tiles_placed_by_offset_reach_no_further_than_kernels(last: int) -> None:
    layer = convolve_from(
        random_floats(8, 8, 3, 3).astype(float), np.ones(8) * 9, 8, offset_for(last)
    )
    features = random_floats(4, 48, 8)
    want = collected(layer(stream_of(features)))
    # Between pixels 16 and 32, and `last` beyond.
    for axis in (0, 1):
        turned = features.swapaxes(0, 1).copy() if axis == 0 else features
        want = collected(layer(stream_of(turned)))
        for far in (16 - last - 3, 32 + last + 2):
            changed = turned.copy()
            np.moveaxis(changed, axis, 0)[far] += 0.3
            found = np.moveaxis(collected(layer(stream_of(changed))), axis, 0)
            wanted = slice(16 - last - 1, 32 + last + 1)
            assert np.array_equal(found[wanted], np.moveaxis(want, axis, 0)[wanted])
            assert not np.array_equal(found, np.moveaxis(want, axis, 0))


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (18, 6), (34, 40)])
def test_a_filter_is_torchs(side: int, stride: int, height: int, width: int) -> None:
    convolution = nn.Conv2d(16, 16, side, stride, side // 2, groups=16).requires_grad_(False)
    features = random_floats(height, width, 16)
    layer = filter_of(convolution, RELU6, side // 2)
    found = collected(layer(in_bands(features, 5)))
    want = as_rows(convolution.double()(as_torch(features)).clamp(0, 6))
    assert found.shape == want.shape
    assert np.abs(found - want).max() < 1e-5


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n_cols", [1, 3, 4, 5, 11])
def test_the_fast_filters_equal_the_slow_one(side: int, stride: int, n_cols: int) -> None:
    window = random_floats(2 * stride + side, (n_cols - 1) * stride + side, 16)
    weights, bias = random_floats(side * side, 16, seed=1), random_floats(16, seed=2)
    found, want = np.empty((2, 3, n_cols, 16), np.float32)
    fast = fastest_filter(side, stride, n_cols)
    assert (fast is filter_channels) == (n_cols < 4 or side == 7)
    for run, out in ((fast, found), (filter_channels, want)):
        run(window, weights, bias, side, stride, (-1.0, 6.0), out)
    assert np.array_equal(found, want)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (9, 3), (16, 16)])
def test_doubling_is_torchs(height: int, width: int) -> None:
    features = random_floats(height, width, 8)
    found = collected(doubled(in_bands(features, 3)))
    assert np.abs(found - as_rows(upsample(as_torch(features)))).max() < 1e-6


@pytest.mark.parametrize("n_classes", [0, 1, 5])
def test_bytes_are_torchs(n_classes: int) -> None:
    """Over the whole range of logits, also far outside what a byte can tell apart."""
    height, width, scale = 20, 32, 4 * random_floats(20, 32, 1) ** 3
    results = random_floats(height, width, 3 + n_classes, seed=1) * scale
    maps = upsample(torch.from_numpy(results).permute(2, 0, 1)[None])
    want = _quantise(RawMaps(maps[:, :1], maps[:, 1:3], maps[:, 3:]))
    nucleus = np.empty((2 * height, 2 * width), np.uint8)
    hv, classes = (
        np.empty((2, *nucleus.shape), np.int8),
        np.empty((n_classes, *nucleus.shape), np.uint8),
    )
    scratch = np.empty(2 * width * results.shape[2], np.float32)
    row = 0
    for window in windows_of_neighbours(stream_of(results)):
        write_bytes(window, row, scratch, nucleus, hv, classes)
        row += 2 * (len(window) - 2)
    plain = Maps(*(part[0].numpy() for part in want))
    assert set(np.unique(nucleus)) >= {0, 1, 128, 254, 255}
    assert share_of_equal_bytes(plain, Maps(nucleus, hv, classes)) > 0.999


@pytest.mark.parametrize(
    "kernel", [Kernel(1), Kernel(3, 1, 1, 1), Kernel(5, 2, 1, 0), Kernel(3, 1, 0, 3)]
)
@pytest.mark.parametrize("height", [1, 7, 8, 30])
@pytest.mark.parametrize("pieces", [1, 3, 8, 64])
def test_windows_are_slices_of_the_padded_picture(kernel: Kernel, height: int, pieces: int) -> None:
    features = random_floats(height, 6, 2)
    n_rows = -(-(height + kernel.above) // kernel.stride)
    padded = np.pad(features, ((kernel.above, 99), (kernel.left, 99), (0, 0)))
    row = 0
    for window in windows(in_bands(features, pieces), kernel, n_rows, 11, band=4):
        n = (len(window) - kernel.side) // kernel.stride + 1
        first = row * kernel.stride
        assert np.array_equal(window, padded[first : first + len(window), : window.shape[1]])
        assert window.shape[1] == 11
        row += n
    assert row == n_rows


def test_a_stream_that_repeats_its_edge() -> None:
    features = random_floats(9, 2, 1)
    repeated = np.pad(features, ((1, 1), (0, 0), (0, 0)), mode="edge")
    found = [window.copy() for window in windows_of_neighbours(in_bands(features, 2))]
    assert [len(window) for window in found] == [6, 6, 3]
    for first, window in zip(range(0, 9, BAND // 2), found, strict=True):
        assert np.array_equal(window, repeated[first : first + len(window)])
