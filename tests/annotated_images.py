"""Annotated images to make mosaics of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsiseg.testing.painted import paint_nuclei

SIZES = [(200, 230), (180, 230), (200, 190), (200, 230), (151, 203)]
"""Heights and widths of the images."""


def write_annotated(folder: Path) -> Path:
    """Write images cut out of painted tissue: borders cut nuclei, labels have gaps."""
    (folder / "images").mkdir(parents=True)
    (folder / "inst").mkdir()
    for number, (height, width) in enumerate(SIZES):
        rgb, labels = paint_nuclei(260, 60, 0.25, (number,))
        cut = slice(20, 20 + height), slice(25, 25 + width)
        Image.fromarray(rgb[cut]).save(folder / "images" / f"{number}.png")
        sparse = (labels[cut] * 7).astype(np.uint16)
        Image.fromarray(sparse).save(folder / "inst" / f"{number}.png")
    return folder
