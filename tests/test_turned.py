"""Test-time augmentation: maps of turned blocks come back where they belong, signs and all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import wsiseg
from wsiseg import ComputeOptions, PlanOptions
from wsiseg.errors import UsageError
from wsiseg.models import Numerics, load_model
from wsiseg.models.device import numerics_on
from wsiseg.models.turned import TURNS, averaged
from wsiseg.records import Maps
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide


def blocks(n: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, 3), np.uint8)


def equivariant(rgb: NDArray[np.uint8]) -> Sequence[Maps]:
    """A network that sees no directions: its maps of a turned block are the turned maps."""
    found = []
    for block in rgb.astype(np.int16):
        slope = np.zeros((2, *block.shape[:2]), np.int16)
        slope[0, :, 1:-1] = block[:, :-2, 1] - block[:, 2:, 1]
        slope[1, 1:-1] = block[:-2, :, 1] - block[2:, :, 1]
        classes = np.stack([block[:, :, 2], 255 - block[:, :, 2]])
        found.append(
            Maps(
                (255 - block[:, :, 0]).astype(np.uint8),
                np.clip(slope, -127, 127).astype(np.int8),
                classes.astype(np.uint8),
            )
        )
    return found


def uneven(rgb: NDArray[np.uint8]) -> Sequence[Maps]:
    """A network whose answers hang on place and direction, as a trained one's do."""
    found = []
    for maps in equivariant(rgb):
        height, width = maps.nucleus.shape
        rows, cols = np.mgrid[:height, :width]
        nucleus = (maps.nucleus.astype(np.int64) * (cols + 2) + 7 * rows) % 256
        hv = (maps.hv.astype(np.int64) + np.stack([3 * rows + cols, 5 * cols])) % 255 - 127
        classes = (maps.classes.astype(np.int64) * (rows + 1) + np.array([[[0]], [[9]]])) % 256
        found.append(Maps(nucleus.astype(np.uint8), hv.astype(np.int8), classes.astype(np.uint8)))
    return found


def same(one: Maps, other: Maps) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("nucleus", "hv", "classes")
    )


MATRICES = [np.array(m) for m in ([[1, 0], [0, 1]], [[0, 1], [1, 0]])]
SIGNS = [np.diag(signs) for signs in itertools.product((1, -1), repeat=2)]


def matrices_of(tta: str) -> list[NDArray[np.int64]]:
    """Return the turns as matrices on (x, y), made without the code under test."""
    swaps = MATRICES[:1] if tta == "flips" else MATRICES
    return [sign @ swap for swap in swaps for sign in SIGNS]


def moved(x: float, y: float, matrix: NDArray[np.int64], size: tuple[int, int]) -> tuple[int, int]:
    """Return the column and row of a pixel after its block of (w, h) was turned."""
    middle = np.array(size) / 2
    new_size = np.abs(matrix) @ np.array(size)
    there = matrix @ (np.array([x + 0.5, y + 0.5]) - middle) + new_size / 2 - 0.5
    return int(there[0]), int(there[1])


def slow_average(rgb: NDArray[np.uint8], tta: str) -> Maps:
    """Average pixel by pixel, moving points and arrows with matrices."""
    height, width = rgb.shape[:2]
    size = width, height
    total = np.zeros((5, height, width))
    for matrix in matrices_of(tta):
        w, h = np.abs(matrix) @ np.array(size)
        turned = np.zeros((h, w, 3), np.uint8)
        for y, x in np.ndindex(height, width):
            col, row = moved(x, y, matrix, size)
            turned[row, col] = rgb[y, x]
        (maps,) = uneven(turned[np.newaxis])
        for y, x in np.ndindex(height, width):
            col, row = moved(x, y, matrix, size)
            arrow = np.linalg.inv(matrix) @ maps.hv[:, row, col]
            total[:, y, x] += (maps.nucleus[row, col], *arrow, *maps.classes[:, row, col])
    mean = np.rint(total / len(matrices_of(tta)))
    return Maps(mean[0].astype(np.uint8), mean[1:3].astype(np.int8), mean[3:].astype(np.uint8))


@pytest.mark.parametrize("tta", ["flips", "flips+turns"])
@pytest.mark.parametrize("shape", [(12, 12), (6, 11), (1, 5)])
def test_averages_equal_their_slow_twin(tta: str, shape: tuple[int, int]) -> None:
    rgb = blocks(2, *shape)
    for block, maps in zip(rgb, averaged(uneven, tta)(rgb), strict=True):
        assert same(maps, slow_average(block, tta))


@pytest.mark.parametrize("tta", ["flips", "flips+turns"])
def test_a_network_without_directions_is_not_changed(tta: str) -> None:
    rgb = blocks(3, 32, 64)
    for plain, mean in zip(equivariant(rgb), averaged(equivariant, tta)(rgb), strict=True):
        assert same(plain, mean)
    assert averaged(equivariant, "none") is equivariant


def turned_maps(maps: Maps, rows: bool, cols: bool, swapped: bool) -> Maps:
    """Turn maps as numpy's own functions do, in this order: swap, rows, columns."""
    nucleus, hv, classes = maps.nucleus, maps.hv, maps.classes
    if swapped:
        nucleus, hv, classes = nucleus.T, hv.transpose(0, 2, 1)[::-1], classes.transpose(0, 2, 1)
    if rows:
        nucleus, hv, classes = np.flipud(nucleus), hv[:, ::-1].copy(), classes[:, ::-1]
        hv[1] *= -1
    if cols:
        nucleus, hv, classes = np.fliplr(nucleus), hv[:, :, ::-1].copy(), classes[:, :, ::-1]
        hv[0] *= -1
    return Maps(nucleus, hv, classes)


def turned_block(
    rgb: NDArray[np.uint8], rows: bool, cols: bool, swapped: bool
) -> NDArray[np.uint8]:
    rgb = rgb.transpose(1, 0, 2) if swapped else rgb
    return rgb[:: -1 if rows else 1, :: -1 if cols else 1]


@pytest.mark.parametrize("turn", list(itertools.product((False, True), repeat=3)))
def test_the_average_of_a_turned_block_is_the_turned_average(
    turn: tuple[bool, bool, bool],
) -> None:
    (block,) = blocks(1, 24, 17, seed=3)
    tta = averaged(uneven, "flips+turns")
    (straight,), (turned,) = tta(block[np.newaxis]), tta(turned_block(block, *turn)[np.newaxis])
    assert same(turned, turned_maps(straight, *turn))
    if not turn[2]:
        flips = averaged(uneven, "flips")
        (straight,), (turned,) = (
            flips(each[np.newaxis]) for each in (block, turned_block(block, *turn))
        )
        assert same(turned, turned_maps(straight, *turn))


def test_the_shipped_model_averages_alike_from_either_side() -> None:
    model = load_model()
    predictor = model.predictor(numerics_on("cpu", model.card, None, None))
    block = paint_tissue(64, 96, 12, seed=4)
    tta = averaged(predictor, "flips")
    (straight,) = tta(block[np.newaxis])
    (mirrored,) = tta(np.ascontiguousarray(block[np.newaxis, :, ::-1]))
    assert same(mirrored, turned_maps(straight, False, True, False))
    (plain,) = predictor(block[np.newaxis])
    assert not same(plain, straight)


def test_each_choice_is_a_group_of_its_size() -> None:
    assert {tta: len(set(turns)) for tta, turns in TURNS.items()} == {
        "none": 1,
        "flips": 4,
        "flips+turns": 8,
    }


# In the pipeline


def test_identities_without_augmentation_stay_as_they_were() -> None:
    assert set(Numerics().to_json()) == {
        *("device_kind", "precision", "batch_size", "threads", "backend"),
    }
    assert Numerics(tta="flips").to_json() == Numerics().to_json() | {"tta": "flips"}
    with pytest.raises(UsageError, match=r"tta 'all'.*flips\+turns"):
        Numerics(tta="all")


def test_a_run_is_of_its_augmentation(tmp_path: Path) -> None:
    slide = ArraySlide(paint_tissue(300, 400, 1500, seed=5), mpp=0.5)
    model = replace(LocalNetwork(), record=tmp_path)

    def segment(out: str, tta: str) -> wsiseg.Result:
        options = PlanOptions(tissue=None)
        compute = ComputeOptions(tta=tta)
        return wsiseg.segment(
            slide, tmp_path / out, model=model, options=options, compute=compute, formats=()
        )

    plain = segment("plain", "none")
    n_tiles = len(list(tmp_path.glob("?" * 64)))
    ours = segment("turned", "flips+turns")
    # The block as it is was counted before; painted tissue is not its own mirror image.
    assert len(list(tmp_path.glob("?" * 64))) == 8 * n_tiles
    assert "tta" not in plain.run["numerics"]
    assert ours.run["numerics"]["tta"] == "flips+turns"
    assert json.loads((ours.path / "run.json").read_text())["identity"]["numerics"]["tta"]
    assert segment("turned", "flips+turns").path == ours.path
    with pytest.raises(wsiseg.WsisegError, match=r"numerics.tta: flips\+turns there, none now"):
        segment("turned", "none")
    # The stand-in's darkness has no direction, its distances are rounded down.
    assert abs(ours.summary()["total"]["n"] - plain.summary()["total"]["n"]) <= 3
