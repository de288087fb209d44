"""Folders of `images/`, `inst/` and `types/`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from wsiseg.labels.records import LabelledImage, patient_of
from wsiseg.records import UNKNOWN_CLASS


def read_folder(folder: Path, class_ids: dict[int, int]) -> list[LabelledImage]:
    """Read a folder of `images/`, `inst/` and, where classes are known, `types/`.

    Parameters
    ----------
    folder : Path
        Holds `manifest.csv` with a column `name`.
    class_ids : dict of int to int
        Class index for each value in `types/*.png`.

    Returns
    -------
    list of LabelledImage
        In the manifest's order.
    """
    with (folder / "manifest.csv").open(newline="") as lines:
        names = [row["name"] for row in csv.DictReader(lines)]
    return [_read_image(folder, name, class_ids) for name in names]


def _read_image(folder: Path, name: str, class_ids: dict[int, int]) -> LabelledImage:
    rgb = np.asarray(Image.open(folder / "images" / f"{name}.png").convert("RGB"))
    instances = np.asarray(Image.open(folder / "inst" / f"{name}.png")).astype(np.int32)
    classes = np.full(instances.shape, UNKNOWN_CLASS, np.uint8)
    types = folder / "types" / f"{name}.png"
    if types.exists():
        values = np.asarray(Image.open(types))
        for value, index in class_ids.items():
            classes[(values == value) & (instances > 0)] = index
    return LabelledImage(name, patient_of(name), rgb, instances, classes)
