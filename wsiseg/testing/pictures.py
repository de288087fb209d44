"""Pictures for mosaics: annotated images of a folder, or painted tissue with its nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsiseg.errors import UsageError
from wsiseg.testing.painted import paint_nuclei

_SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg"}
_MOST_LABELS = 2**24


class FolderPictures:
    """Images with label maps of the same file name: `FOLDER/images/*`, `FOLDER/inst/*`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """List the images of the folders, by folder and name.

        Raises
        ------
        UsageError
            If a folder has no images, label maps for some of them only, or one of another size.
        """
        listed = [_list_images(folder) for folder in folders]
        self._images = [image for images, _ in listed for image in images]
        self._labels = [label for _, labels in listed for label in labels]
        self.names = [f"{image.parent.parent.name}/{image.stem}" for image in self._images]
        self.sizes = [_size_of(image) for image in self._images]
        for labels, size in zip(self._labels, self.sizes, strict=True):
            if labels is not None and _size_of(labels) != size:
                raise UsageError(
                    f"{labels} has (height, width) {_size_of(labels)}, its image {size}; "
                    "one label per pixel is needed"
                )

    def rgb(self, index: int) -> NDArray[np.uint8]:
        """Return one image, (h, w, 3)."""
        with Image.open(self._images[index]) as image:
            return np.asarray(image.convert("RGB"), np.uint8)

    def labels(self, index: int) -> NDArray[np.integer] | None:
        """Return its label map, (h, w); None if its folder has none.

        Raises
        ------
        UsageError
            If it is no map of labels from 0 to 2**24.
        """
        path = self._labels[index]
        if path is None:
            return None
        with Image.open(path) as image:
            labels = np.asarray(image)
        if labels.ndim != 2 or labels.dtype.kind not in "iu" or not _are_labels(labels):
            raise UsageError(
                f"{path} is {labels.dtype} of shape {labels.shape}; a label map, one whole number "
                f"from 0 to {_MOST_LABELS} for each pixel, is needed"
            )
        return labels.astype(np.int32)


def _are_labels(values: NDArray[np.integer]) -> bool:
    return int(values.min()) >= 0 and int(values.max()) <= _MOST_LABELS


def _list_images(folder: Path) -> tuple[list[Path], list[Path | None]]:
    inside = folder / "images"
    images = sorted(path for path in inside.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not images:
        raise UsageError(
            f"{folder} has no images; PNG, TIFF or JPEG files in {folder.name}/images are needed, "
            f"label maps of the same names may lie in {folder.name}/inst"
        )
    named = {path.stem: path for path in (folder / "inst").glob("*")}
    lacking = [image.name for image in images if image.stem not in named]
    if named and lacking:
        raise UsageError(
            f"{folder}: {len(lacking)} of {len(images)} images have no label map in inst, the "
            f"first is {lacking[0]}; add them, or leave inst away for a slide without truth"
        )
    return images, [named.get(image.stem) for image in images]


def _size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


class PaintedPictures:
    """Painted tissue of a chosen density; no nucleus touches a picture's border."""

    def __init__(
        self,
        nuclei_per_mm2: float,
        mpp: float = 0.25,
        seed: int = 0,
        side_px: int = 1000,
        n_pictures: int = 16,
    ) -> None:
        """Prepare to paint `n_pictures` different squares of `side_px`.

        Raises
        ------
        UsageError
            If the density is not from 0 to 30,000 nuclei per mm².
        """
        if not 0 <= nuclei_per_mm2 <= 30_000:
            raise UsageError(
                f"{nuclei_per_mm2} nuclei per mm² of tissue; 0 to 30,000 can be painted"
            )
        self._density = nuclei_per_mm2
        self._mpp = mpp
        self._seed = seed
        self.names = [f"painted/{seed}-{index}" for index in range(n_pictures)]
        self.sizes = [(side_px, side_px)] * n_pictures

    def rgb(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, (h, w, 3)."""
        return self._paint(index)[0]

    def labels(self, index: int) -> NDArray[np.integer]:
        """Return its label map, (h, w)."""
        return self._paint(index)[1]

    def _paint(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        side = self.sizes[index][0]
        n = round(self._density * (side * self._mpp / 1000) ** 2)
        return paint_nuclei(side, n, self._mpp, (self._seed, index))
