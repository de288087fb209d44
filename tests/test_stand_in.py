"""The stand-in network: whole numbers, an exact field, equal to its plainest form."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsiseg.decode import DecodeOptions, decode_instances
from wsiseg.models import Numerics
from wsiseg.records import Maps
from wsiseg.testing.models import LocalNetwork, fine_network


def slow_sum(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Sum over a square, zeros outside."""
    half = size // 2
    height, width = values.shape
    padded = np.pad(values, half)
    return sum(
        (padded[i : i + height, j : j + width] for i in range(size) for j in range(size)),
        np.zeros_like(values),
    )


def slow_maps(block: NDArray[np.uint8], darkness: int, smooth_px: int) -> Maps:
    """Return the maps in plain 64-bit arithmetic."""
    dark = 255 - block[:, :, 0].astype(np.int64)
    sums = slow_sum(dark, 5)
    nucleus = np.clip((sums - 25 * darkness) // 3 + 128, 0, 255)
    smooth = slow_sum(sums // 25, smooth_px)
    hv = np.zeros((2, *dark.shape), np.int64)
    unit = 4 * smooth_px**2 // 25
    for row in range(dark.shape[0]):
        for col in range(dark.shape[1]):
            if 2 <= col < dark.shape[1] - 2:
                hv[0, row, col] = (smooth[row, col - 2] - smooth[row, col + 2]) // unit
            if 2 <= row < dark.shape[0] - 2:
                hv[1, row, col] = (smooth[row - 2, col] - smooth[row + 2, col]) // unit
    blue = slow_sum(255 - block[:, :, 2].astype(np.int64), 5) // 25
    first = np.clip(128 + 2 * (dark - blue), 0, 255)
    return Maps(
        nucleus.astype(np.uint8),
        np.clip(hv, -127, 127).astype(np.int8),
        np.stack([first, 255 - first]).astype(np.uint8),
    )


def maps_of(model: LocalNetwork, block: NDArray[np.uint8]) -> Maps:
    (maps,) = model.predictor(Numerics())(block[None])
    return maps


def assert_equal(found: Maps, expected: Maps) -> None:
    assert np.array_equal(found.nucleus, expected.nucleus)
    assert np.array_equal(found.hv, expected.hv)
    assert np.array_equal(found.classes, expected.classes)


@pytest.mark.parametrize("smooth_px", [5, 9, 11])
@pytest.mark.parametrize("darkness", [0, 90, 255])
def test_maps_are_those_of_plain_arithmetic(smooth_px: int, darkness: int) -> None:
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (61, 47, 3), np.uint8)
    # Black and white squares give the largest sums and differences.
    stark = np.kron(random.integers(0, 2, (6, 4, 1), np.uint8), np.ones((11, 12, 3), np.uint8))
    for block in (grey, stark * np.uint8(255), grey[:5, :4]):
        model = LocalNetwork(darkness=darkness, smooth_px=smooth_px)
        assert_equal(maps_of(model, block), slow_maps(block, darkness, smooth_px))


@pytest.mark.parametrize("model", [LocalNetwork(), fine_network()], ids=["coarse", "fine"])
def test_maps_depend_on_the_field_only(model: LocalNetwork) -> None:
    random = np.random.default_rng(1)
    block = random.integers(0, 256, (90, 90, 3), np.uint8)
    before = maps_of(model, block)
    changed = block.copy()
    changed[40, 40] = 255 - changed[40, 40]
    after = maps_of(model, changed)
    near = np.zeros((90, 90), bool)
    reach = model.field_px
    near[40 - reach : 41 + reach, 40 - reach : 41 + reach] = True
    apart = (before.hv != after.hv).any(axis=0) | (before.nucleus != after.nucleus)
    assert apart.any()
    assert not (apart & ~near).any()
    crop = maps_of(model, block[7:83, 5:80])
    inner = slice(reach, -reach)
    assert np.array_equal(before.hv[:, 7:83, 5:80][:, inner, inner], crop.hv[:, inner, inner])


def test_it_goes_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(fine_network())) == fine_network()
    with pytest.raises(ValueError, match="smooth_px is 4; an odd number up to 11"):
        LocalNetwork(smooth_px=4)


@pytest.mark.parametrize("name", ["monuseg_train/images/*", "consep_train/images/train_1.png"])
def test_it_touches_most_annotated_nuclei(shared: Path, name: str) -> None:
    image = sorted((shared / "data").glob(name))[0]
    with Image.open(image) as opened:
        rgb = np.asarray(opened.convert("RGB"), np.uint8)
    with Image.open(image.parent.parent / "inst" / image.name) as opened:
        truth = np.asarray(opened)
    model = fine_network()
    found = decode_instances(maps_of(model, rgb), DecodeOptions.from_json(model.card.decode))
    touched = [truth[row, first:end] for row, first, end in found.runs.tolist()]
    hit = np.setdiff1d(np.concatenate(touched), [0])
    assert len(hit) > 0.8 * (len(np.unique(truth)) - 1)
    assert len(found) < 2 * len(np.unique(truth))
