"""What was found in annotated images becomes a calibration; diagrams show what it changed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsiseg.calibration import Calibration, Confidences, fit_calibration
from wsiseg.errors import UsageError
from wsiseg.evaluation.calibrating import calibrate, confidences_of
from wsiseg.evaluation.metrics import panoptic_quality
from wsiseg.evaluation.reliability_plot import reliability_svg
from wsiseg.evaluation.segmenting import FoundNuclei, segment_image
from wsiseg.labels.records import LabelledImage
from wsiseg.models import MapsModel, Numerics, load_model
from wsiseg.models.device import choose_numerics
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.reliability import judge_calibration
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_nuclei

SVG = "{http://www.w3.org/2000/svg}"
MODEL = LocalNetwork(mpp=0.25, smooth_px=9, min_area_px=40)
SAME = np.arange(256).astype(np.uint8)


def numerics(_: MapsModel) -> Numerics:
    return Numerics()


def hand_made() -> tuple[FoundNuclei, LabelledImage]:
    """Four found: the first matches, the second by less than half, the third and fourth not."""
    truth = np.zeros((12, 24), np.int32)
    truth[1:5, 1:5], truth[1:5, 8:12], truth[7:11, 1:5] = 5, 9, 2
    classes = np.full(truth.shape, UNKNOWN_CLASS, np.uint8)
    classes[1:5, 1:5] = 1
    classes[1, 1:4] = 0
    found = np.zeros_like(truth)
    found[1:5, 1:6], found[1:5, 10:16], found[8:11, 14:20], found[7:11, 1:5] = 1, 2, 3, 4
    probs = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [1.0, 0.0]])
    nuclei = FoundNuclei(found, np.array([1, 0, 0, 0], np.uint8), np.arange(4) / 8 + 0.5, probs)
    rgb = np.zeros((12, 24, 3), np.uint8)
    return nuclei, LabelledImage("a", "a", rgb, truth, classes)


def test_truth_is_that_of_the_match() -> None:
    nuclei, image = hand_made()
    said = confidences_of(nuclei, image, SAME, 3)
    assert said.is_true.tolist() == [True, False, False, True]
    # The fourth matches a nucleus whose class nobody said.
    assert said.true_class.tolist() == [1, UNKNOWN_CLASS, UNKNOWN_CLASS, UNKNOWN_CLASS]
    assert said.has_class.tolist() == [True, False, False, False]
    assert np.array_equal(said.class_probs, nuclei.class_probs)
    assert said.group.tolist() == [3] * 4
    other = SAME.copy()
    other[1] = 0
    assert confidences_of(nuclei, image, other, 0).true_class[0] == 0


def test_what_lies_in_an_ignored_region_is_left_out() -> None:
    nuclei, image = hand_made()
    ignored = np.zeros(image.instances.shape, np.bool_)
    ignored[:, 16:] = True
    said = confidences_of(nuclei, replace(image, ignored=ignored), SAME, 0)
    assert said.nucleus_prob.tolist() == [0.5, 0.625, 0.875]


def painted(seed: int) -> LabelledImage:
    rgb, labels = paint_nuclei(200, 60, 0.25, (seed,))
    classes = np.where(labels > 0, labels % 2, UNKNOWN_CLASS).astype(np.uint8)
    return LabelledImage(f"{seed}", f"P{seed}", rgb, labels.astype(np.int32), classes)


def test_a_model_is_calibrated_on_what_it_finds() -> None:
    images = [painted(1), painted(2)]
    said: list[tuple[str, int, int]] = []
    # The images' list has the model's second class first.
    names = ("Inflammatory", "Epithelial")
    fitted, report = calibrate(
        [(MODEL, images[:1]), (MODEL, images[1:])],
        names,
        numerics,
        progress=lambda *step: said.append(step),
    )
    assert said == [("calibrating", 0, 2), ("calibrating", 1, 2)]
    swapped = SAME.copy()
    swapped[:2] = (1, 0)
    found = [segment_image(MODEL, image.rgb, 0.25, Numerics()) for image in images]
    parts = [
        confidences_of(nuclei, image, swapped, k)
        for k, (nuclei, image) in enumerate(zip(found, images, strict=True))
    ]
    together = Confidences.together(parts)
    assert fitted == fit_calibration(together)
    assert report.n_folds == 2
    n_true = sum(
        panoptic_quality(image.instances, nuclei.labels).tp
        for nuclei, image in zip(found, images, strict=True)
    )
    assert together.is_true.sum() == n_true > 10
    assert together.has_class.sum() == n_true


class _Calibrated(LocalNetwork):
    __slots__ = ()

    @property
    def card(self) -> Any:
        return replace(LocalNetwork().card, calibration=Calibration((0.5,), (0.5,)))


def test_a_calibrated_model_is_not_calibrated_again() -> None:
    with pytest.raises(UsageError, match="local-stand-in is calibrated already"):
        calibrate([(_Calibrated(), [painted(1)])], (), numerics)


def test_the_shipped_model_is_surer_of_real_nuclei(shared: Path) -> None:
    folder, name = shared / "data" / "monuseg_train", "TCGA-CH-5767-01Z-00-DX1"
    cut = slice(300, 700), slice(200, 600)
    rgb, labels = (
        np.asarray(Image.open(folder / part / f"{name}.png"))[cut] for part in ("images", "inst")
    )
    model = load_model()
    classes = np.full(labels.shape, UNKNOWN_CLASS, np.uint8)
    image = LabelledImage(name, name, rgb[..., :3], labels.astype(np.int32), classes)
    found = segment_image(model, image.rgb, 0.25, choose_numerics(model.card, "cpu", None, None))
    said = confidences_of(found, image, SAME, 0)
    assert panoptic_quality(image.instances, found.labels).pq > 0.5
    assert 20 < said.is_true.sum() < len(said)
    real, other = said.nucleus_prob[said.is_true], said.nucleus_prob[~said.is_true]
    # The chance that of a real one and another the real one is the surer.
    assert (real[:, np.newaxis] > other).mean() > 0.7


# Diagrams


def by_chance(with_classes: bool) -> Confidences:
    rng = np.random.default_rng(0)
    prob = rng.uniform(0.5, 1, 600)
    true_class = rng.integers(0, 2, 600).astype(np.uint8)
    probs = rng.dirichlet([1, 1], 600)
    if not with_classes:
        true_class[:] = UNKNOWN_CLASS
    return Confidences(prob, rng.random(600) < prob, probs, true_class, rng.integers(0, 5, 600))


@pytest.mark.parametrize("with_classes", [True, False])
def test_reliability_is_drawn_bin_by_bin(with_classes: bool) -> None:
    report = judge_calibration(by_chance(with_classes))
    root = ET.fromstring(reliability_svg(report))
    tables = [report.nucleus_before, report.nucleus_after]
    if with_classes:
        tables += [report.class_before, report.class_after]
    n_used = sum(int((table.n > 0).sum()) for table in tables)
    assert len(root.findall(f".//{SVG}circle")) == n_used
    text = " ".join(root.itertext())
    assert f"before: expected calibration error {report.nucleus_before.expected_error:.3f}" in text
    assert ("Its class is right" in text) is with_classes
    assert_inside(root)


def places(root: ET.Element) -> Iterator[tuple[float, float]]:
    for circle in root.iter(f"{SVG}circle"):
        yield float(circle.get("cx", "nan")), float(circle.get("cy", "nan"))


def assert_inside(root: ET.Element) -> None:
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for x, y in places(root):
        assert 0 < x < width
        assert 0 < y < height
