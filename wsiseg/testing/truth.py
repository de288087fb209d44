"""The nuclei that a mosaic is known to hold, looked up box by box.

Beside a slide `a.svs` lies `a.svs.truth.npz`, which holds all that is needed: NumPy arrays
`format` (text), `slide_px` (width, height), `first_cell_px` (x, y), `cell_px` (width, height),
`picture` (rows, cols; -1: glass), `names` (of the pictures) and, for each picture, `labels_0`,
`labels_1`, … (h, w): 1 … n inside its nuclei, numbered in the order of the given labels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SlideNotReadable
from wsiseg.geometry import Box
from wsiseg.testing.mosaics import Mosaic, Pictures

_FORMAT = "wsiseg mosaic truth 1"


@dataclass(frozen=True, slots=True)
class Placement:
    """One picture on a slide."""

    name: str
    """Folder and name of the image."""
    picture: int
    """Its number among the slide's pictures."""
    box: Box
    """Where it lies, level-0 pixels."""
    first_id: int
    """Id of its first nucleus; its n nuclei have the ids from there on."""
    n_nuclei: int
    """How many nuclei it holds."""


class MosaicTruth:
    """Known nuclei of a slide, in level-0 pixels.

    An id is the nucleus of one picture at one place: a nucleus that was cut by the border of
    its image stays cut, and is another one than its neighbour across that border.  `cut_ids`
    names those, for comparisons that should leave them out.  Ids are 1 … `n_nuclei`, in the
    order of the pictures' places (row by row), within one in the order of its own labels.
    """

    def __init__(
        self, mosaic: Mosaic, names: Sequence[str], labels: Sequence[NDArray[np.unsignedinteger]]
    ) -> None:
        """Take label maps with labels 1 … n, one for each name."""
        self.mosaic = mosaic
        self._names = tuple(names)
        self._labels = tuple(labels)
        of_picture = np.array([int(each.max(initial=0)) for each in labels], np.int64)
        of_cell = np.where(mosaic.picture >= 0, of_picture[mosaic.picture], 0).reshape(-1)
        first_id = 1 + np.cumsum(of_cell) - of_cell
        self._first_id = first_id.reshape(mosaic.picture.shape)
        self._of_picture = of_picture
        self.n_nuclei = int(of_cell.sum())
        """Nuclei on the slide."""

    def labels_in(self, box: Box) -> NDArray[np.int64]:
        """Return the (h, w) ids in a box of level-0 pixels; 0 is no nucleus, also outside."""
        ids = np.zeros((box.height_px, box.width_px), np.int64)
        for place in self._placements_in(box):
            part = place.box.intersection(box)
            if part.area_px:
                labels = self._labels[place.picture][part.slices_in(place.box)].astype(np.int64)
                ids[part.slices_in(box)] = np.where(labels > 0, labels + place.first_id - 1, 0)
        return ids

    def placements(self) -> list[Placement]:
        """Return where each picture lies, row by row."""
        return list(self._placements_in(Box(0, 0, self.mosaic.width_px, self.mosaic.height_px)))

    def cut_ids(self) -> NDArray[np.int64]:
        """Return the sorted ids of the nuclei that touch the border of their picture."""
        at_border = [_border_labels(labels) for labels in self._labels]
        of_places = [at_border[p.picture] + p.first_id - 1 for p in self.placements()]
        return np.concatenate(of_places) if of_places else np.empty(0, np.int64)

    def save(self, path: Path) -> None:
        """Write a file for `open_truth`."""
        mosaic = self.mosaic
        arrays: dict[str, NDArray[np.generic]] = {
            "format": np.array(_FORMAT),
            "slide_px": np.array([mosaic.width_px, mosaic.height_px], np.int64),
            "first_cell_px": np.array([mosaic.x_px, mosaic.y_px], np.int64),
            "cell_px": np.array([mosaic.cell_width_px, mosaic.cell_height_px], np.int64),
            "picture": mosaic.picture,
            "names": np.array(self._names),
        }
        arrays |= {f"labels_{i}": labels for i, labels in enumerate(self._labels)}
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def _placements_in(self, box: Box) -> Iterator[Placement]:
        for row, col in self.mosaic.cells_in(box):
            index = int(self.mosaic.picture[row, col])
            yield Placement(
                name=self._names[index],
                picture=index,
                box=self.mosaic.place(row, col, self._labels[index].shape),
                first_id=int(self._first_id[row, col]),
                n_nuclei=int(self._of_picture[index]),
            )


def truth_of(mosaic: Mosaic, pictures: Pictures) -> MosaicTruth | None:
    """Return the truth of a mosaic, or None if the nuclei of some picture are not known."""
    known = []
    for index in range(len(pictures.names)):
        labels = pictures.labels(index)
        if labels is None:
            return None
        known.append(_renumbered(labels))
    return MosaicTruth(mosaic, pictures.names, known)


def truth_path(slide: Path) -> Path:
    """Return where the truth of a slide lies."""
    return slide.with_name(f"{slide.name}.truth.npz")


def open_truth(path: Path) -> MosaicTruth:
    """Open what `MosaicTruth.save` wrote: `SLIDE.truth.npz`.

    Raises
    ------
    SlideNotReadable
        If it is missing or something else.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if "format" not in file or str(file["format"]) != _FORMAT:
                raise SlideNotReadable(f"{path.name} is no {_FORMAT!r}; make the slide again")
            width, height = file["slide_px"].tolist()
            x, y = file["first_cell_px"].tolist()
            cell_width, cell_height = file["cell_px"].tolist()
            mosaic = Mosaic(width, height, x, y, cell_width, cell_height, file["picture"])
            names = file["names"].tolist()
            return MosaicTruth(mosaic, names, [file[f"labels_{i}"] for i in range(len(names))])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, SlideNotReadable):
            raise
        raise SlideNotReadable(
            f"{path.name} cannot be read as a slide's truth ({error}); make the slide again"
        ) from error


def _renumbered(labels: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Return the map with labels 1 … n in the same order, in as few bytes as hold them."""
    is_used = np.bincount(labels.ravel()) > 0
    is_used[0] = False
    number = np.cumsum(is_used)
    number[~is_used] = 0
    kind = np.uint16 if number.max() < 2**16 else np.uint32
    renumbered: NDArray[np.unsignedinteger] = number.astype(kind)[labels]
    return renumbered


def _border_labels(labels: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    found = np.unique(np.concatenate(edges)).astype(np.int64)
    return found[found > 0]
