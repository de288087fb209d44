"""Annotated images in memory, and their split by patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_images import discs

from wsiseg.labels.records import LabelledImage, patient_of, split_by_patient


def image_of(name: str) -> LabelledImage:
    return replace(discs(40), name=name, patient=patient_of(name))


def test_a_patient_stands_on_one_side_of_a_split() -> None:
    names = ["TCGA-AA-0001-01Z", "TCGA-AA-0001-02Z", "TCGA-BB-0002-01Z", "train_1", "train_11"]
    images = [image_of(name) for name in names]
    train, held = split_by_patient(images, frozenset({"TCGA-AA-0001", "train_1"}))
    assert [image.name for image in train] == ["TCGA-BB-0002-01Z", "train_11"]
    assert [image.name for image in held] == ["TCGA-AA-0001-01Z", "TCGA-AA-0001-02Z", "train_1"]
    assert split_by_patient(images, frozenset()) == (images, [])


def test_a_patient_without_images_is_no_silent_gap() -> None:
    with pytest.raises(ValueError, match="TCGA-ZZ-9999"):
        split_by_patient([image_of("train_1")], frozenset({"train_1", "TCGA-ZZ-9999"}))


@pytest.mark.parametrize("field", ["rgb", "instances", "classes", "ignored"])
def test_an_image_whose_parts_differ_in_size_is_refused(field: str) -> None:
    image = replace(discs(40), ignored=np.zeros((40, 40), np.bool_))
    with pytest.raises(ValueError, match=r"discs_0.*differ in size"):
        replace(image, **{field: getattr(image, field)[:-1]})
