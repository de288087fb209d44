"""Annotated images in memory, and their split by patient."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsiseg.records import UNKNOWN_CLASS


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One image with a label per nucleus."""

    name: str
    """File name without suffix."""
    patient: str
    """Images of one patient never stand on both sides of a split."""
    rgb: NDArray[np.uint8]
    """(h, w, 3)."""
    instances: NDArray[np.int32]
    """(h, w); 0 is background."""
    classes: NDArray[np.uint8]
    """(h, w); class index from 0, `UNKNOWN_CLASS` where not known."""

    def __post_init__(self) -> None:
        shape = self.rgb.shape[:2]
        if self.instances.shape != shape or self.classes.shape != shape:
            raise ValueError(
                f"{self.name}: image {shape}, instances {self.instances.shape} and classes "
                f"{self.classes.shape} differ in size; one label per pixel is needed"
            )


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


def patient_of(name: str) -> str:
    """Return the patient of an image: `TCGA-XX-XXXX` for TCGA, else the image itself."""
    return name[:12] if name.startswith("TCGA-") else name


def split_by_patient(
    images: list[LabelledImage], held_back: frozenset[str]
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Split into images to train on and images of the patients held back.

    Raises
    ------
    ValueError
        If a held-back patient has no image.
    """
    missing = held_back - {image.patient for image in images}
    if missing:
        raise ValueError(f"no image of the held-back patients {sorted(missing)}")
    train = [image for image in images if image.patient not in held_back]
    return train, [image for image in images if image.patient in held_back]
