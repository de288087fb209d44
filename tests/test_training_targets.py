"""Targets: distances to nuclear centres, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from wsiseg.training.targets import distance_targets

Labels = NDArray[np.int32]


def slow_targets(instances: Labels) -> NDArray[np.float64]:
    """Return (2, h, w) of one image."""
    distances = np.zeros((2, *instances.shape))
    for label in np.unique(instances[instances > 0]):
        rows, cols = np.nonzero(instances == label)
        for axis, at in enumerate((cols, rows)):
            offset = at - at.mean()
            left, right = max(-offset.min(), 1e-6), max(offset.max(), 1e-6)
            distances[axis, rows, cols] = np.where(offset < 0, offset / left, offset / right)
    return distances


def targets_of(images: Labels, more_labels: int = 0) -> NDArray[np.float32]:
    most = int(images.max(initial=0)) + more_labels
    found = distance_targets(torch.from_numpy(images), most)
    assert found.dtype == torch.float32
    return found.numpy()


def assert_good_targets(images: Labels) -> None:
    for found, instances in zip(targets_of(images), images, strict=True):
        assert np.allclose(found, slow_targets(instances), atol=1e-6)
        assert not found[:, instances == 0].any()
        for label in np.unique(instances[instances > 0]):
            where = np.nonzero(instances == label)
            for axis in (0, 1):
                distances = found[axis][where]
                wide = np.ptp(where[1 - axis]) > 0
                assert (distances.min(), distances.max()) == ((-1, 1) if wide else (0, 0))


@given(
    arrays(np.int32, array_shapes(min_dims=3, max_dims=3, max_side=12), elements=st.integers(0, 4))
)
@settings(max_examples=60, deadline=None)
def test_targets_equal_their_slow_twin(images: Labels) -> None:
    assert_good_targets(images)


def test_images_do_not_share_their_labels() -> None:
    """Label 1 is another nucleus in each image, and label 9 is in the last one only."""
    images = np.zeros((3, 20, 24), np.int32)
    images[0, 2:6, 2:9] = 1
    images[1, 10:19, 12:14] = 1
    images[1, 0:3, 0:3] = 2
    images[2, 5:8, 5:16] = 9
    assert_good_targets(images)
    assert np.array_equal(targets_of(images, more_labels=50), targets_of(images))


def test_more_background_than_places_to_count_it() -> None:
    """Background is counted in many places, in turn; none of them touches a nucleus."""
    images = np.zeros((2, 300, 260), np.int32)
    images[:, 100:110, 50:70] = 1
    images[1, 299, 255:] = 3
    assert_good_targets(images)


@pytest.mark.real
def test_targets_of_real_nuclei_equal_their_slow_twin(shared: Path) -> None:
    folder = shared / "data" / "consep_train" / "inst"
    images = [np.asarray(Image.open(folder / f"train_{n}.png"))[:250, :250] for n in (1, 2)]
    assert_good_targets(np.stack(images).astype(np.int32))


def test_targets_point_right_and_down() -> None:
    instances = np.zeros((1, 9, 12), np.int32)
    instances[0, 2:7, 3:10] = 7
    horizontal, vertical = targets_of(instances)[0]
    assert np.allclose(horizontal[4, 3:10], np.linspace(-1, 1, 7))
    assert np.allclose(vertical[2:7, 5], np.linspace(-1, 1, 5))
