"""Optical density and the split into two stains."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wsiseg.stain import EOSIN, HEMATOXYLIN, optical_density, unmix


def test_density_is_the_logarithm_of_what_comes_through() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    density = optical_density(levels)
    assert density.dtype == np.float32
    for level in (1, 2, 25, 128, 254, 255):
        expected = -math.log10(level / 255)
        assert density.reshape(-1, 3)[level] == pytest.approx([expected] * 3, abs=1e-6)
    # Black has no finite density: that of one grey level.
    assert density.reshape(-1, 3)[0] == pytest.approx([math.log10(255)] * 3, abs=1e-6)


def test_the_directions_have_length_one() -> None:
    for direction in (HEMATOXYLIN, EOSIN):
        assert math.dist(direction, (0, 0, 0)) == pytest.approx(1, abs=2e-3)


def test_mixtures_come_apart_and_leave_nothing() -> None:
    rng = np.random.default_rng(1)
    amounts = rng.uniform(0, 1.5, (7, 5, 2)).astype(np.float32)
    vectors = np.array([HEMATOXYLIN, EOSIN])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = unmix((amounts @ vectors).astype(np.float32))
    assert found.shape == (7, 5, 3)
    assert np.allclose(found[..., :2], amounts, atol=1e-5)
    assert np.allclose(found[..., 2], 0, atol=1e-5)


def test_the_rest_has_a_sign() -> None:
    brown, blue = (np.array([[d]], np.float32) for d in ([0.27, 0.57, 0.78], [0.9, 0.6, 0.1]))
    assert unmix(brown)[0, 0, 2] > 0.4
    assert unmix(blue)[0, 0, 2] < -0.1


def test_every_pixel_alone_gives_the_same() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    whole = unmix(optical_density(rgb))
    for row in range(6):
        for col in range(4):
            one = unmix(optical_density(rgb[row : row + 1, col : col + 1]))
            assert np.allclose(one[0, 0], whole[row, col], atol=1e-6)
    assert unmix(optical_density(rgb[:0])).shape == (0, 4, 3)
