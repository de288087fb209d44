"""Masks as OME-Zarr 0.5: a coarse picture of the slide with label images on top.

Specification: https://ngff.openmicroscopy.org/0.5/.  An export can have version 0.4 for readers
that lack 0.5; the values, and all that is said about them, are the same.

The root is an RGB pyramid (axes c, y, x) from the label level nearest to `RGB_MPP` on, of as
many levels as the labels have, so that any viewer opens it; `labels/nuclei` holds
the cell ids, `labels/classes` the class indices plus one (`UNKNOWN_VALUE` without a class).

World coordinates are µm from the slide's top left corner, the same as x_um and y_um of the
cell table.  OME-Zarr places the centre of pixel 0 at the translation.  An RGB pixel is the
mean over its area, so with pixel size p it lies at p / 2.  A pixel of a coarser label level is
the label of one single pixel of the finest level, the first of those it stands for (labels
have no mean), and lies where that one lies: at half the finest pixel size, on every level.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.exporters import ExportableResult, _ngff
from wsiseg.exporters._finish import finished_directory, refuse_existing
from wsiseg.exporters._ome_zarr_classes import repaint_classes
from wsiseg.exporters._ome_zarr_older import write_older
from wsiseg.exporters._paint import UNKNOWN_VALUE, Paint, paint_box, paint_of
from wsiseg.exporters._shards import MakeShard, Pyramid, Tasks
from wsiseg.exporters._shards import Stopped as Stopped
from wsiseg.geometry import Box, Frame
from wsiseg.records import Cells

CHUNK_PX = 1024
SHARD_PX = 4096
READ_PX = 256
COARSEST_LABEL_PX = 1024
"""Label levels are added until one is no larger than this."""
RGB_MPP = 4.0
"""µm per pixel wanted of the finest RGB level."""

_WHITE = 255
_UNKNOWN_NAME = "Unknown"
_MASKS_NAME = "masks.zarr"


ReadCells = Callable[[Box], Iterable[Cells]]
"""Gives at least all cells that have pixels in a box of the model frame, in pieces."""
ReadRgb = Callable[[Frame, Box], NDArray[np.uint8]]
"""Gives (height, width, 3) uint8 of a box of a frame; called from several threads."""


@dataclass(frozen=True, slots=True)
class MaskSource:
    """Where the pixels of the masks come from."""

    frame: Frame
    """The model frame, of the labels' finest level."""
    model_mpp: float
    """µm per pixel of it."""
    read_cells: ReadCells
    """Asked once for each shard, from several threads."""
    read_rgb: ReadRgb
    """Asked for small boxes of coarse frames."""
    class_names: Sequence[str]
    """Name of each class index, at most 254."""
    class_colours: Mapping[str, tuple[int, int, int]]
    """Red, green, blue (0 to 255) of the class names; grey where one is missing."""

    def __post_init__(self) -> None:
        n = len(self.class_names)
        if n >= UNKNOWN_VALUE:
            raise ValueError(f"{n} classes; at most {UNKNOWN_VALUE - 1} fit uint8")


class MaskWriter:
    """Writes `masks.zarr` while its cells are still being found.

    Use as a context manager: the directory appears when the block ends well, after an
    exception nothing is left.  Shards are painted as soon as `cells_complete_above` says that
    their cells are known, coarser levels and the coarse picture as soon as what they are made
    of is there.  Besides the shards at hand (4096² px, one for each thread) only small pieces
    of cells are in memory.  Chunks without any nucleus take no space.

    Parameters
    ----------
    destination
        Directory to make; one with content that is there stays (see `finished_directory`).
    source
        Cells and pixels.
    threads
        How many shards are worked on at a time.
    spent
        Told the seconds each shard took.
    stopped
        When set, nothing further is begun, and `Stopped` is raised.

    Raises
    ------
    ValueError
        If a class index has no name.
    Stopped
        If `stopped` is set.
    OutputNotWritable
        If the operating system refuses to write.
    """

    def __init__(
        self,
        destination: Path,
        source: MaskSource,
        threads: int = 1,
        spent: Callable[[float], None] | None = None,
        stopped: Event | None = None,
    ) -> None:
        self._destination = destination
        self._source = source
        self._threads = threads
        self._spent = spent
        self._stopped = stopped or Event()

    def __enter__(self) -> Self:
        source = self._source
        labels = _pyramid(source.frame, COARSEST_LABEL_PX)
        rgb = _rgb_frames(labels, source.model_mpp)
        with ExitStack() as stack:
            folder = stack.enter_context(finished_directory(self._destination))
            self._painting = Tasks(self._threads, "wsiseg-masks", self._stopped)
            stack.callback(self._painting.stop)
            # A thread of its own: of a slide without coarse levels all pixels are read here.
            self._reading = Tasks(1, "wsiseg-rgb", self._stopped)
            stack.callback(self._reading.stop)
            root = zarr.create_group(
                folder, zarr_format=3, attributes=_ngff.image_attributes(_pixel_um(source, rgb))
            )
            pictures = [_create(root, str(k), frame, "uint8", 3) for k, frame in enumerate(rgb)]
            self._labels = self._pyramid(labels, _label_maker(root, labels, source), self._painting)
            make_rgb = partial(_make_rgb, pictures, rgb, self._read_rgb)
            self._pyramid(rgb, make_rgb, self._reading).start_above(rgb[0].height_px)
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def _pyramid(self, frames: Sequence[Frame], make: MakeShard, tasks: Tasks) -> Pyramid:
        return Pyramid(frames, SHARD_PX, self._timed(make), tasks)

    def _read_rgb(self, frame: Frame, box: Box) -> NDArray[np.uint8]:
        if self._stopped.is_set():
            raise Stopped("the picture is not wanted any more")
        return self._source.read_rgb(frame, box)

    def _timed(self, make: MakeShard) -> MakeShard:
        def make_shard(level: int, box: Box) -> bool:
            start = time.perf_counter()
            is_filled = make(level, box)
            if self._spent is not None:
                self._spent(time.perf_counter() - start)
            return is_filled

        return make_shard

    def cells_complete_above(self, y_px: int) -> None:
        """Say that `read_cells` now gives all cells with pixels above a row of the model frame."""
        self._labels.start_above(y_px)
        for tasks in (self._painting, self._reading):
            tasks.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _finish(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._labels.start_above(self._source.frame.height_px)
            for tasks in (self._painting, self._reading):
                tasks.wait()


def write_masks(destination: Path, source: MaskSource, threads: int = 1) -> None:
    """Write the label images of all nuclei and a coarse picture of the slide; see `MaskWriter`."""
    with MaskWriter(destination, source, threads):
        pass


@dataclass(frozen=True, slots=True)
class OmeZarrOptions:
    """In which form masks are exported."""

    version: str = _ngff.VERSION
    """Version of OME-Zarr: "0.5" as in the run (zarr 3, few files), or "0.4" (zarr 2, a file
    per 1024² pixels) for readers that lack it."""

    def __post_init__(self) -> None:
        if self.version not in (_ngff.VERSION, _ngff.OLDER_VERSION):
            raise UsageError(
                f"OME-Zarr version {self.version!r} cannot be written; give {_ngff.VERSION} or "
                f"{_ngff.OLDER_VERSION}"
            )


_AS_IN_THE_RUN = OmeZarrOptions()


def export_ome_zarr(
    result: ExportableResult, destination: Path, options: OmeZarrOptions = _AS_IN_THE_RUN
) -> None:
    """Copy a run's masks to `destination`; the classes are those of the version that is read.

    Memory does not depend on the size of the slide.

    Raises
    ------
    OutputExists
        If something is at `destination` already.
    ResultNotReadable
        If the run has no masks, or they are damaged.
    OutputNotWritable
        If the operating system refuses to write; nothing is left then.
    """
    refuse_existing(destination)
    masks = result.path / _MASKS_NAME
    if not (masks / "zarr.json").is_file():
        raise ResultNotReadable(
            f"{result.path.name} has no {_MASKS_NAME}; segment the slide again to make it"
        )
    with finished_directory(destination) as folder:
        if options.version == _ngff.VERSION:
            shutil.copytree(masks, folder, dirs_exist_ok=True)
        else:
            write_older(masks, folder)
        if result.classes_version is not None:
            names = list(result.class_colours)
            described = _ngff.described_classes(_class_values(names), result.class_colours)
            repaint_classes(folder, result.batches(["class_name"]), names, described)


def _class_values(class_names: Sequence[str]) -> list[tuple[int, str]]:
    """Return the value of each class in the class image, and its name."""
    return [*enumerate(class_names, start=1), (UNKNOWN_VALUE, _UNKNOWN_NAME)]


def _pyramid(finest: Frame, coarsest_px: int) -> list[Frame]:
    """Return the frame and its halves until one fits `coarsest_px`."""
    frames = [finest]
    while max(frames[-1].width_px, frames[-1].height_px) > coarsest_px:
        frames.append(finest.coarser(2 ** len(frames)))
    return frames


def _rgb_frames(labels: Sequence[Frame], model_mpp: float) -> list[Frame]:
    """Return as many frames as the labels have (OME-Zarr wants that), from near `RGB_MPP` on."""
    halvings = round(math.log2(RGB_MPP / model_mpp))
    finest = labels[min(max(halvings, 0), len(labels) - 1)]
    return [finest.coarser(2**k) for k in range(len(labels))]


def _create(group: zarr.Group, name: str, frame: Frame, dtype: str, channels: int) -> Any:
    """Create one level: (y, x) without channels, else (c, y, x), blank where not written."""
    chunk = [min(CHUNK_PX, side) for side in (frame.height_px, frame.width_px)]
    shard = [
        min(SHARD_PX // step, math.ceil(side / step)) * step
        for side, step in zip((frame.height_px, frame.width_px), chunk, strict=True)
    ]
    lead = (channels,) if channels else ()
    return group.create_array(
        name,
        shape=(*lead, frame.height_px, frame.width_px),
        chunks=(*lead, *chunk),
        shards=(*lead, *shard),
        dtype=dtype,
        compressors=ZstdCodec(level=1),
        # Outside the slide, and where nothing was scanned, it is white; labels are 0.
        fill_value=_WHITE if channels else 0,
        dimension_names=("c", "y", "x") if channels else ("y", "x"),
        config={"write_empty_chunks": False},
    )


def _label_maker(root: zarr.Group, frames: Sequence[Frame], source: MaskSource) -> MakeShard:
    """Make the label arrays and return what fills them."""
    pixel_um = _pixel_um(source, frames)
    values = _class_values(source.class_names)
    group = root.create_group("labels", attributes=_ngff.labels_attributes())
    group.create_group("nuclei", attributes=_ngff.nuclei_attributes(pixel_um))
    group.create_group(
        "classes", attributes=_ngff.classes_attributes(pixel_um, values, source.class_colours)
    )
    nuclei = [_create(group, f"nuclei/{k}", f, "uint32", 0) for k, f in enumerate(frames)]
    classes = [_create(group, f"classes/{k}", f, "uint8", 0) for k, f in enumerate(frames)]
    n_classes = len(source.class_names)

    def make(level: int, box: Box) -> bool:
        if level == 0:
            pieces = (paint_of(c, n_classes) for c in source.read_cells(box) if len(c))
            return _paint_shard(nuclei[0], classes[0], pieces, box)
        filled = [_halve_labels(one[level - 1], one[level], box) for one in (nuclei, classes)]
        return any(filled)

    return make


def _pixel_um(source: MaskSource, frames: Sequence[Frame]) -> list[float]:
    """Return the µm per pixel of frames coarser than, or as fine as, the model frame."""
    return [source.model_mpp * frame.scale / source.frame.scale for frame in frames]


def _twice(box: Box) -> Box:
    """Return the box in the next finer level; may reach over its edge by a pixel."""
    return Box(2 * box.x_px, 2 * box.y_px, 2 * box.width_px, 2 * box.height_px)


def _paint_shard(nuclei: Any, classes: Any, pieces: Iterable[Paint], box: Box) -> bool:
    """Paint one shard of both labels; say whether there is anything in it."""
    near = (p for p in pieces if p.x_start_px < box.x_end_px and p.x_end_px > box.x_px)
    painted = paint_box(near, box)
    if painted is None:
        return False
    nuclei[box.slices], classes[box.slices] = painted
    return True


def _halve_labels(finer: Any, coarser: Any, box: Box) -> bool:
    """Keep the first of every 2 × 2 labels; say whether any is left."""
    labels = np.empty((box.height_px, box.width_px), coarser.dtype)
    # A shard of the finer level is 64 MB: little is read at a time.
    for part in box.squares(CHUNK_PX):
        rows, cols = _twice(part).slices
        labels[part.slices_in(box)] = finer[rows.start : rows.stop : 2, cols.start : cols.stop : 2]
    if not labels.any():
        return False
    coarser[box.slices] = labels
    return True


def _make_rgb(
    levels: Sequence[Any], frames: Sequence[Frame], read_rgb: ReadRgb, level: int, shard: Box
) -> bool:
    """Read a shard of the finest picture, or average one of the others; say if it has colour."""
    picture = np.empty((3, shard.height_px, shard.width_px), np.uint8)
    if level == 0:
        # A pixel here may stand for hundreds of the slide's, so little is read at a time.
        for box in shard.squares(READ_PX):
            picture[:, *box.slices_in(shard)] = read_rgb(frames[0], box).transpose(2, 0, 1)
    else:
        for box in shard.squares(CHUNK_PX):
            finer = levels[level - 1][:, *_twice(box).slices]
            picture[:, *box.slices_in(shard)] = _mean_of_four(finer)
    if (picture == _WHITE).all():
        return False
    levels[level][:, *shard.slices] = picture
    return True


def _mean_of_four(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the rounded means of 2 × 2 pixels, (3, h, w) to half of it; white outside."""
    odd = [(0, 0), (0, picture.shape[1] % 2), (0, picture.shape[2] % 2)]
    whole = np.pad(picture, odd, constant_values=_WHITE).astype(np.uint16)
    rows = whole[:, ::2] + whole[:, 1::2]
    return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) >> 2).astype(np.uint8)
