"""The network: folded, of limited reach, and the same on every call and thread."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsiseg.models import Numerics, _timm
from wsiseg.models.folding import fold_batch_norms
from wsiseg.models.hovernet import HoverNet, NetworkSpec, TorchPredictor
from wsiseg.records import Maps

TINY = NetworkSpec("test_efficientnet", 4, (16, 16, 16), head_channels=16, n_classes=3)
CELL_PX = 16
"""Stride of the deepest features: what a pixel reaches depends on its place in such a cell."""
REACH_PX = 214 + CELL_PX - 1
"""How far the default network reaches: by its convolutions, and by its place in a cell."""
MARGIN_PX = 224
"""The smallest margin, in whole multiples of 32, beyond that."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@torch.no_grad()
def lively(spec: NetworkSpec) -> HoverNet:
    """Build a network as if trained: its batch norms do something, its outputs vary."""
    torch.manual_seed(0)
    network = HoverNet(spec).eval()
    for norm in norms_of(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.weight.uniform_(0.7, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2.0)
    heads = (network.nucleus_head, network.hv_head, network.class_head)
    for head, maps in zip(heads, network(random_images(2, 64, 96)), strict=True):
        if head is not None:
            projection = head[1]
            assert isinstance(projection, nn.Conv2d)
            assert projection.bias is not None
            deviation, mean = torch.std_mean(maps, (0, 2, 3))
            projection.bias.sub_(mean).div_(deviation)
            projection.weight.div_(deviation[:, None, None, None])
    return network


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def random_blocks(n: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def random_images(n: int, height: int, width: int) -> Tensor:
    return torch.rand((n, 3, height, width), generator=torch.Generator().manual_seed(1)) * 2 - 1


# Folding


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet18", "test_efficientnet"])
@pytest.mark.parametrize("decoder", ["shared", "separate"])
def test_a_folded_network_computes_the_same(encoder: str, decoder: Any) -> None:
    network = lively(NetworkSpec(encoder, 4, (16, 16, 8), 8, 4, decoder))
    folded = copy.deepcopy(network)
    assert fold_batch_norms(folded, torch.zeros(1, 3, 64, 64)) == len(norms_of(network)) > 10
    images = random_images(2, 64, 96)
    with torch.inference_mode():
        for want, have in zip(network(images), folded(images), strict=True):
            assert want.std() > 0.3, "outputs that do not vary prove nothing"
            assert (want - have).abs().max() < 1e-4


@torch.inference_mode()
def test_no_batch_norm_is_left_to_do_anything() -> None:
    network = lively(NetworkSpec())
    fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
    images = random_images(1, 64, 64)
    before = network(images)
    for norm in norms_of(network):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert values is not None
            values.fill_(float("nan"))
    for want, have in zip(before, network(images), strict=True):
        assert torch.equal(want, have)


# Reach


@torch.inference_mode()
def test_no_pixel_reaches_further_than_the_margin_assumes() -> None:
    """NaN spreads to every output that depends on it, whatever the weights are."""
    network = lively(NetworkSpec())
    reached = []
    for column in range(512, 512 + CELL_PX):
        images = torch.zeros(1, 3, 32, 1024)
        images[..., column] = float("nan")
        maps = torch.cat(network(images), dim=1)[0]
        columns = torch.nonzero(maps.isnan().any(dim=0).any(dim=0))[:, 0]
        reached += [column - int(columns[0]), int(columns[-1]) - column]
    assert max(reached) == REACH_PX


@torch.inference_mode()
@pytest.mark.parametrize("axis", ["row", "column"])
def test_what_changes_out_of_reach_changes_no_bit(axis: str) -> None:
    network = lively(NetworkSpec())
    fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
    images = random_images(1, 32, 1024)
    for column in (0, 505, 511, 512, 1023):
        changed = images.clone()
        changed[..., column] += 0.5
        pair = [images, changed] if axis == "column" else [images.mT, changed.mT]
        one, other = (torch.cat(network(each.contiguous()), dim=1)[0] for each in pair)
        differs = (one != other).any(dim=0).any(dim=0 if axis == "column" else 1)
        distance = (torch.arange(1024) - column).abs()
        assert not differs[distance > REACH_PX].any()
        assert differs[distance < 8].all(), "a change that changes nothing proves nothing"


@torch.inference_mode()
def test_a_core_is_the_same_from_two_tiles() -> None:
    """A tile's edge, and what lies behind it, reach no pixel of its core."""
    network = lively(NetworkSpec())
    fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
    side_px, shift_px = 2 * MARGIN_PX + 64, 32
    slide = random_images(1, 32, side_px + shift_px)
    first = torch.cat(network(slide[..., :side_px].contiguous()), dim=1)
    second = torch.cat(network(slide[..., shift_px:].contiguous()), dim=1)
    core = slice(MARGIN_PX + shift_px, side_px - MARGIN_PX)
    shifted = slice(core.start - shift_px, core.stop - shift_px)
    assert torch.equal(first[..., core], second[..., shifted])
    assert not torch.equal(first[..., shift_px:], second[..., :-shift_px])


# Prediction


def predictor_of(spec: NetworkSpec, **numerics: Any) -> TorchPredictor:
    network = lively(spec)
    fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
    return TorchPredictor(network, Numerics(**numerics))


def assert_equal_maps(one: Sequence[Maps], other: Sequence[Maps], tolerance: int = 0) -> None:
    assert len(one) == len(other)
    for have, want in zip(one, other, strict=True):
        for name in ("nucleus", "hv", "classes"):
            a, b = (getattr(maps, name).astype(np.int16) for maps in (have, want))
            assert np.abs(a - b).max() <= tolerance


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_maps_have_the_shape_and_range_they_should(precision: str) -> None:
    found = predictor_of(TINY, precision=precision)(random_blocks(2, 64, 96))
    assert len(found) == 2
    for maps in found:
        assert maps.nucleus.shape == (64, 96)
        assert maps.hv.shape == (2, 64, 96)
        assert maps.classes.shape == (3, 64, 96)
        assert maps.hv.min() >= -127
        # Three roundings of numbers that add up to 255.
        assert np.abs(maps.classes.sum(axis=0, dtype=np.int64) - 255).max() <= 1
        for part in (maps.nucleus, maps.hv, maps.classes):
            assert int(part.max()) - int(part.min()) > 100
    assert not np.array_equal(found[0].nucleus, found[1].nucleus)


@pytest.mark.parametrize(("bias", "nucleus", "hv"), [(1e4, 255, 127), (-1e4, 0, -127)])
def test_maps_are_clipped_not_wrapped(bias: float, nucleus: int, hv: int) -> None:
    network = lively(TINY)
    for head in (network.nucleus_head, network.hv_head):
        nn.init.constant_(head[1].bias, bias)  # type: ignore[arg-type]
    (maps,) = TorchPredictor(network, Numerics())(random_blocks(1, 32, 32))
    assert (maps.nucleus == nucleus).all()
    assert (maps.hv == hv).all()


def test_a_network_without_classes_gives_none() -> None:
    (maps,) = predictor_of(NetworkSpec("test_efficientnet", 4, (8, 8, 8), 4, 0))(
        random_blocks(1, 64, 32)
    )
    assert maps.classes.shape == (0, 64, 32)


def test_one_call_is_like_another() -> None:
    predict, blocks = predictor_of(NetworkSpec()), random_blocks(1, 96, 128)
    assert_equal_maps(predict(blocks), predict(blocks))
    assert_equal_maps(predict(blocks), predictor_of(NetworkSpec())(blocks))


def test_two_threads_at_once_disturb_nothing() -> None:
    """torch counts its threads per thread: a new one must not come with more of them."""
    torch.set_num_threads(2)
    predict = predictor_of(NetworkSpec())
    blocks = [random_blocks(1, 96, 128, seed) for seed in range(6)]
    with ThreadPoolExecutor(2) as pool:
        at_once = list(pool.map(predict, blocks))
        threads = list(pool.map(lambda _: torch.get_num_threads(), range(4)))
    for have, block in zip(at_once, blocks, strict=True):
        assert_equal_maps(have, predict(block))
    assert set(threads) == {torch.get_num_threads()} == {1}


def test_a_batch_is_like_its_blocks() -> None:
    """Within one step of 1/255: bits are promised for equal batch sizes only."""
    predict, blocks = predictor_of(NetworkSpec()), random_blocks(2, 64, 96)
    apart = list(itertools.chain(predict(blocks[:1]), predict(blocks[1:])))
    assert_equal_maps(predict(blocks), apart, tolerance=1)


# timm beside a torchvision that does not fit


class ImportRecord:
    """Stands for `importlib.import_module`: fails with each error, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.names: list[str] = []

    def __call__(self, name: str) -> ModuleType:
        self.names.append(name)
        if self.errors:
            raise self.errors.pop(0)
        return ModuleType(name)


class LibraryRecord:
    """Stands for `torch.library.Library`."""

    def __init__(self, name: str, kind: str) -> None:
        assert (name, kind) == ("torchvision", "DEF")
        self.schemas: list[str] = []
        made.append(self)

    def define(self, schema: str) -> None:
        self.schemas.append(schema)


made: list[LibraryRecord] = []
KNOWN = "operator torchvision::nms does not exist"


def import_with(monkeypatch: pytest.MonkeyPatch, imports: ImportRecord) -> ModuleType:
    made.clear()
    with monkeypatch.context() as patched:
        patched.setattr(_timm, "_shims", [])
        patched.setattr(torch.library, "Library", LibraryRecord)
        patched.setattr(_timm.importlib, "import_module", imports)
        found = _timm.import_timm()
        assert _timm._shims == made, "what is not kept is undefined again"
    return found


def test_a_healthy_import_defines_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = ImportRecord()
    assert import_with(monkeypatch, imports).__name__ == "timm"
    assert imports.names == ["timm"]
    assert made == []


def test_the_one_known_failure_declares_both_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = ImportRecord(RuntimeError(KNOWN))
    assert import_with(monkeypatch, imports).__name__ == "timm"
    assert imports.names == ["timm", "timm"]
    (library,) = made
    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert library.schemas == [f"nms{arguments}", f"qnms{arguments}"]


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error"), ImportError(KNOWN), ModuleNotFoundError("no timm")]
)
def test_another_failure_passes_through(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    imports = ImportRecord(error)
    with pytest.raises(type(error)) as caught:
        import_with(monkeypatch, imports)
    assert caught.value is error
    assert imports.names == ["timm"]
    assert made == []


def test_a_second_failure_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = ImportRecord(RuntimeError(KNOWN), RuntimeError("still not"))
    with pytest.raises(RuntimeError, match="still not"):
        import_with(monkeypatch, imports)


def test_timm_imports_here() -> None:
    timm = _timm.import_timm()
    assert timm.__name__ == "timm"
    assert _timm.import_timm() is timm
    features, channels = _timm.create_features("tf_efficientnet_lite0", 4)
    assert channels == [16, 24, 40, 112]
    strides = [96 // maps.shape[-1] for maps in features(torch.zeros(1, 3, 96, 96))]
    assert strides == [2, 4, 8, 16]
