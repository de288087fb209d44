"""Annotated images in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_images import discs


@pytest.mark.parametrize("field", ["rgb", "instances", "classes", "ignored"])
def test_an_image_whose_parts_differ_in_size_is_refused(field: str) -> None:
    image = replace(discs(40), ignored=np.zeros((40, 40), np.bool_))
    with pytest.raises(ValueError, match=r"discs_0.*differ in size"):
        replace(image, **{field: getattr(image, field)[:-1]})
