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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.exporters import ExportableResult, _ngff
from wsiseg.exporters._finish import finished_directory, refuse_existing
from wsiseg.exporters._paint import UNKNOWN_VALUE, Paint, paint_box, paint_of
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
# The Java reader behind Bio-Formats has no zstd, and blosc only with a native library.
_OLDER_CODEC: dict[str, Any] = {"id": "zlib", "level": 1}


def write_masks(
    destination: Path,
    frame: Frame,
    model_mpp: float,
    read_cells: Callable[[int, int], Iterable[Cells]],
    read_rgb: Callable[[Frame, Box], NDArray[np.uint8]],
    class_names: Sequence[str],
    class_colours: Mapping[str, tuple[int, int, int]],
    threads: int = 1,
) -> None:
    """Write the label images of all nuclei and a coarse picture of the slide.

    Shards are painted and written one by one, `threads` at a time; besides them only the
    cells of one row of shards (4096 model pixels) are in memory.  Chunks without any nucleus
    take no space.

    Parameters
    ----------
    destination
        Directory to make; one with content that is there stays (see `finished_directory`).
    frame
        The model frame, of the labels' finest level.
    model_mpp
        µm per pixel of `frame`.
    read_cells
        Gives all cells that have pixels in the model rows from its first to before its second
        argument, in pieces; called once per row of shards, from the top.
    read_rgb
        Gives (height, width, 3) uint8 of a box of a frame; called from one thread.
    class_names
        Name of each class index, at most 254.
    class_colours
        Red, green, blue (0 to 255) of the class names; grey where one is missing.
    threads
        How many shards are worked on at a time.

    Raises
    ------
    ValueError
        If a class index has no name, or there are too many classes.
    OutputNotWritable
        If the operating system refuses to write; nothing is left then.
    """
    if len(class_names) >= UNKNOWN_VALUE:
        raise ValueError(f"{len(class_names)} classes; at most {UNKNOWN_VALUE - 1} fit uint8")
    with finished_directory(destination) as folder, ThreadPoolExecutor(threads) as pool:
        labels = _pyramid(frame, COARSEST_LABEL_PX)
        rgb = _rgb_frames(labels, model_mpp)
        values = [*enumerate(class_names, start=1), (UNKNOWN_VALUE, _UNKNOWN_NAME)]
        pixel_um = [model_mpp * level.scale / frame.scale for level in labels]
        rgb_um = [model_mpp * level.scale / frame.scale for level in rgb]

        root = zarr.create_group(folder, zarr_format=3, attributes=_ngff.image_attributes(rgb_um))
        group = root.create_group("labels", attributes=_ngff.labels_attributes())
        group.create_group("nuclei", attributes=_ngff.nuclei_attributes(pixel_um))
        group.create_group(
            "classes", attributes=_ngff.classes_attributes(pixel_um, values, class_colours)
        )
        _write_labels(group, labels, read_cells, len(class_names), pool)
        _write_rgb(root, rgb, read_rgb)


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
    """Copy a run's masks to `destination`.

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
            _write_older(masks, folder)


def _write_older(masks: Path, folder: Path) -> None:
    """Write the masks as OME-Zarr 0.4."""
    try:
        # A full disk leaves files without content, which would be read as empty chunks.
        if any(path.stat().st_size == 0 for path in masks.rglob("*") if path.is_file()):
            raise ValueError("a file in it is empty")
        source = zarr.open_group(masks, mode="r", zarr_format=3)
        target = zarr.create_group(folder, zarr_format=2)
        for path in ("", "labels", "labels/nuclei", "labels/classes"):
            _copy_older(_group_at(source, path), target.require_group(path) if path else target)
    # What zarr raises for metadata that do not fit, and the codecs for damaged chunks.
    except (AttributeError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ResultNotReadable(
            f"{masks.parent.name}/{_MASKS_NAME} is damaged ({error}); segment the slide again "
            "with --overwrite"
        ) from error


def _group_at(root: zarr.Group, path: str) -> zarr.Group:
    found = root[path] if path else root
    if not isinstance(found, zarr.Group):
        raise TypeError(f"{path} is no group")
    return found


def _copy_older(source: zarr.Group, target: zarr.Group) -> None:
    """Copy what one group says, and its levels, a shard at a time."""
    described = _ngff.older_attributes(source.attrs.asdict())
    target.attrs.update(described)
    for image in described.get("multiscales", ()):
        for dataset in image["datasets"]:
            _copy_array(source[dataset["path"]], target, dataset["path"])


def _copy_array(source: Any, group: zarr.Group, name: str) -> None:
    array = group.create_array(
        name,
        shape=source.shape,
        chunks=source.chunks,
        dtype=source.dtype,
        compressors=_OLDER_CODEC,
        filters=None,
        fill_value=source.fill_value,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": False},
    )
    *lead, height_px, width_px = source.shape
    for box in _boxes(Box(0, 0, width_px, height_px), (source.shards or source.chunks)[-1]):
        place = (*[slice(None)] * len(lead), *_slices(box))
        values = source[place]
        if (values != source.fill_value).any():
            array[place] = values


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


def _boxes(outer: Box, side_px: int) -> list[Box]:
    """Return the squares that tile a box, row by row; clipped at its right and bottom."""
    return [
        Box(x, y, side_px, side_px).intersection(outer)
        for y in range(outer.y_px, outer.y_end_px, side_px)
        for x in range(outer.x_px, outer.x_end_px, side_px)
    ]


def _rows(frame: Frame, height_px: int) -> list[Box]:
    """Return the bands that tile a frame."""
    return [
        Box(0, y, frame.width_px, height_px).intersection(frame.box)
        for y in range(0, frame.height_px, height_px)
    ]


def _slices(box: Box) -> tuple[slice, slice]:
    return box.slices_in(Box(0, 0, 0, 0))


def _twice(box: Box) -> Box:
    """Return the box in the next finer level; may reach over its edge by a pixel."""
    return Box(2 * box.x_px, 2 * box.y_px, 2 * box.width_px, 2 * box.height_px)


def _write_labels(
    group: zarr.Group,
    frames: Sequence[Frame],
    read_cells: Callable[[int, int], Iterable[Cells]],
    n_classes: int,
    pool: ThreadPoolExecutor,
) -> None:
    """Paint the finest level, then make each level from the one before."""
    nuclei = [_create(group, f"nuclei/{k}", f, "uint32", 0) for k, f in enumerate(frames)]
    classes = [_create(group, f"classes/{k}", f, "uint8", 0) for k, f in enumerate(frames)]
    for band in _rows(frames[0], SHARD_PX):
        found = read_cells(band.y_px, band.y_end_px)
        pieces = [paint_of(cells, n_classes) for cells in found if len(cells)]
        paint = partial(_paint_shard, nuclei[0], classes[0], pieces)
        _run_all(pool, paint, _boxes(band, SHARD_PX))
    for levels in (nuclei, classes):
        for finer, coarser, frame in zip(levels, levels[1:], frames[1:], strict=False):
            _run_all(pool, partial(_halve_labels, finer, coarser), _boxes(frame.box, SHARD_PX))


def _run_all(pool: ThreadPoolExecutor, task: Callable[[Box], None], boxes: list[Box]) -> None:
    """Run a task for every box; the first error is raised here."""
    for _ in pool.map(task, boxes):
        pass


def _paint_shard(nuclei: Any, classes: Any, pieces: list[Paint], box: Box) -> None:
    near = [p for p in pieces if p.x_start_px < box.x_end_px and p.x_end_px > box.x_px]
    if near:
        nuclei[_slices(box)], classes[_slices(box)] = paint_box(near, box)


def _halve_labels(finer: Any, coarser: Any, box: Box) -> None:
    """Keep the first of every 2 × 2 labels."""
    rows, cols = _slices(_twice(box))
    labels = finer[rows.start : rows.stop : 2, cols.start : cols.stop : 2]
    if labels.any():
        coarser[_slices(box)] = labels


def _write_rgb(
    root: zarr.Group,
    frames: Sequence[Frame],
    read_rgb: Callable[[Frame, Box], NDArray[np.uint8]],
) -> None:
    """Read the finest level, then make each level from the one before."""
    levels = [_create(root, str(k), frame, "uint8", 3) for k, frame in enumerate(frames)]
    for shard in _boxes(frames[0].box, SHARD_PX):
        picture = np.empty((3, shard.height_px, shard.width_px), np.uint8)
        # A pixel here may stand for hundreds of the slide's, so little is read at a time.
        for box in _boxes(shard, READ_PX):
            picture[:, *box.slices_in(shard)] = read_rgb(frames[0], box).transpose(2, 0, 1)
        levels[0][:, *_slices(shard)] = picture
    for finer, coarser, frame in zip(levels, levels[1:], frames[1:], strict=False):
        for shard in _boxes(frame.box, SHARD_PX):
            picture = np.empty((3, shard.height_px, shard.width_px), np.uint8)
            for box in _boxes(shard, CHUNK_PX):
                picture[:, *box.slices_in(shard)] = _mean_of_four(finer[:, *_slices(_twice(box))])
            coarser[:, *_slices(shard)] = picture


def _mean_of_four(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the rounded means of 2 × 2 pixels, (3, h, w) to half of it; white outside."""
    odd = [(0, 0), (0, picture.shape[1] % 2), (0, picture.shape[2] % 2)]
    whole = np.pad(picture, odd, constant_values=_WHITE).astype(np.uint16)
    rows = whole[:, ::2] + whole[:, 1::2]
    return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) >> 2).astype(np.uint8)
