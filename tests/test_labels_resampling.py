"""Annotated images at another µm per pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import UsageError
from wsiseg.geometry import Frame
from wsiseg.labels.records import LabelledImage, LabelSet, LabelSets
from wsiseg.labels.resampling import SMALLEST_PX, resample, resample_counted, resample_sets
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.slides.frames import read_frame
from wsiseg.slides.opening import open_slide
from wsiseg.testing.painted import paint_nuclei


def painted(height_px: int = 151, width_px: int = 120) -> LabelledImage:
    rgb, labels = paint_nuclei(160, 25, 0.25, (5,))
    rgb, labels = rgb[:height_px, :width_px], labels[:height_px, :width_px]
    there = np.unique(labels[labels > 0])
    table = np.zeros(there.max() + 1, np.int32)
    table[there] = np.arange(1, len(there) + 1)
    instances = table[labels]
    classes = np.where(instances > 0, instances % 3, UNKNOWN_CLASS).astype(np.uint8)
    return LabelledImage("a", "p", np.ascontiguousarray(rgb), instances, classes)


@pytest.mark.parametrize("mpp", [0.2, 0.35, 0.5, 1.1])
def test_pixels_are_those_a_slide_is_read_with(tmp_path: Path, mpp: float) -> None:
    image = painted()
    Image.fromarray(image.rgb).save(tmp_path / "a.png")
    height_px, width_px = image.instances.shape
    frame = Frame.of_slide(width_px, height_px, mpp / 0.25)
    with open_slide(tmp_path / "a.png") as slide:
        expected = read_frame(slide, frame, frame.box)
    found = resample(image, mpp)
    assert np.array_equal(found.rgb, expected)
    assert found.mpp == mpp
    assert (found.name, found.patient) == ("a", "p")


@pytest.mark.parametrize("mpp", [0.2, 0.35, 0.5, 1.1])
def test_labels_are_those_at_the_centres_of_the_new_pixels(mpp: float) -> None:
    image = painted()
    found = resample_counted(image, mpp)
    height_px, width_px = found.image.instances.shape
    old = np.zeros((height_px, width_px), np.int32)
    beyond = np.zeros((height_px, width_px), np.bool_)
    for row in range(height_px):
        for col in range(width_px):
            at = int((row + 0.5) * mpp / 0.25), int((col + 0.5) * mpp / 0.25)
            beyond[row, col] = at[0] >= 151 or at[1] >= 120
            old[row, col] = 0 if beyond[row, col] else image.instances[at]
    left = [k for k in range(1, image.instances.max() + 1) if (old == k).sum() >= SMALLEST_PX]
    for new, k in enumerate(left, start=1):
        assert np.array_equal(found.image.instances == new, old == k)
        assert set(found.image.classes[old == k].tolist()) == {k % 3}
    assert found.image.instances.max() == len(left)
    assert found.n_dropped == image.instances.max() - len(left)
    assert (found.image.classes[found.image.instances == 0] == UNKNOWN_CLASS).all()
    ignored = found.image.ignored
    assert np.array_equal(np.zeros_like(beyond) if ignored is None else ignored, beyond)


def test_small_nuclei_are_dropped_and_counted() -> None:
    instances = np.zeros((16, 16), np.int32)
    instances[0:4, 0:4], instances[8:10, 8:14], instances[15, 15] = 1, 2, 3
    classes = np.where(instances > 0, 0, UNKNOWN_CLASS).astype(np.uint8)
    image = LabelledImage("a", "p", np.zeros((16, 16, 3), np.uint8), instances, classes, 0.25)
    # At half the size 4, 3 and 1 or no pixels.
    found = resample_counted(image, 0.5)
    assert found.n_dropped == 2
    assert found.image.instances.max() == 1
    assert found.image.instances.sum() == 4
    sets = LabelSets((LabelSet("one", (image,), ("A",)),), ("A",), ("before",))
    changed = resample_sets(sets, 0.5)
    assert np.array_equal(changed.sets[0].images[0].instances, found.image.instances)
    assert changed.notes == (
        "before",
        "one: 2 nuclei have fewer than 4 pixels at 0.5 µm/px: dropped",
    )
    # Within 5 % a slide's level would be used as it is.
    assert resample_sets(sets, 0.26).sets[0].images[0] is image
    assert resample(image, 0.25) is image


def test_ignored_pixels_go_along() -> None:
    ignored = np.zeros((8, 8), np.bool_)
    ignored[:4] = True
    zero = np.zeros((8, 8), np.int32)
    image = LabelledImage(
        "a", "p", np.zeros((8, 8, 3), np.uint8), zero, zero.astype(np.uint8), 0.25, ignored
    )
    found = resample(image, 0.5).ignored
    assert found is not None
    assert found.tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    with pytest.raises(UsageError, match="mpp is 0"):
        resample(image, 0)
