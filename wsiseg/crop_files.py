"""`crops/` in a run: places at full zoom and the whole slide small, for reports without the slide.

Pictures are plain: outlines are drawn anew from `cells.parquet`, in whatever classes it has then.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wsiseg.errors import OutputNotWritable, ResultNotReadable
from wsiseg.pictures import Crop, Picture
from wsiseg.rundir import json_bytes, sync_directory, temporary, write_atomically

FOLDER = "crops"
"""Name of the folder in a run."""
_INDEX = "crops.json"
_FORMAT = "wsiseg-crops"
_FORMAT_VERSION = 1
_OVERVIEW = "overview.jpg"
_QUALITY = 90
_OVERVIEW_QUALITY = 85
_OVERVIEW_PX = 1024
_MOST_BYTES = 4_000_000
"""A picture that is larger is none that a run has written."""
_MOST_PX = 8192
_KINDS = ("random", "densest", "uncertain", "seam")

Box4 = tuple[float, float, float, float]
"""Left, top, width, height."""


@dataclass(frozen=True, slots=True)
class StoredCrop:
    """A picture of a place."""

    jpeg: bytes
    """The place as it is, without lines."""
    kind: str
    """Why it was chosen: `random`, `densest`, `uncertain` or `seam`."""
    box: Box4
    """Where it is, level-0 pixels."""
    side_px: int
    """Side in model pixels, which are the picture's."""
    seams_x_px: tuple[float, ...]
    """Upright edges between tiles, in the picture's pixels from its left."""
    seams_y_px: tuple[float, ...]
    """Level edges, from its top."""


@dataclass(frozen=True, slots=True)
class StoredCrops:
    """What `crops/` holds."""

    overview: bytes
    """The whole slide as a JPEG, at most 1,024 px long, without lines."""
    crops: tuple[StoredCrop, ...]
    """In the order of kinds: random, densest, least certain, on seams."""


def encode_jpeg(picture: Picture, quality: int = _QUALITY) -> bytes:
    """Return the picture as the content of a JPEG file without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0)
    return buffer.getvalue()


def encode_overview(picture: Picture) -> bytes:
    """Return the whole slide as the content of a small JPEG file."""
    image = Image.fromarray(picture)
    image.thumbnail((_OVERVIEW_PX, _OVERVIEW_PX), Image.Resampling.BOX, reducing_gap=None)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_OVERVIEW_QUALITY, optimize=True)
    return buffer.getvalue()


def write_crops(run: Path, overview: Picture, crops: Sequence[tuple[Crop, Box4]]) -> None:
    """Write `crops/` into a run, whole or not at all; one that is there stays.

    Parameters
    ----------
    run : Path
        The run's directory.
    overview : ndarray
        (h, w, 3) uint8: the whole slide.
    crops : sequence of (Crop, (x, y, width, height))
        Places, and where they are in level-0 pixels.

    Raises
    ------
    OutputNotWritable
        If it cannot be written; nothing is left behind.
    """
    files = {_OVERVIEW: encode_overview(overview)}
    listed = []
    numbers = dict.fromkeys(_KINDS, 0)
    for crop, box in crops:
        numbers[crop.kind] += 1
        name = f"{crop.kind}-{numbers[crop.kind]}.jpg"
        files[name] = encode_jpeg(crop.rgb)
        listed.append(
            {
                "file": name,
                "kind": crop.kind,
                "box": list(box),
                "side_px": crop.rgb.shape[0],
                "seams_x_px": list(crop.seams_x_px),
                "seams_y_px": list(crop.seams_y_px),
            }
        )
    index = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "overview": _OVERVIEW,
        "crops": listed,
    }
    _write_folder(run / FOLDER, files | {_INDEX: json_bytes(index)})


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    with temporary(folder) as partial:
        try:
            partial.mkdir()
            for name, content in files.items():
                write_atomically(partial / name, content)
            sync_directory(partial)
            # Of another call of the same run, which makes the same.
            if not (folder / _INDEX).is_file():
                partial.rename(folder)
        except OutputNotWritable:
            raise
        except OSError as error:
            raise OutputNotWritable(
                f"cannot write {folder.name} ({error.strerror}); free some space or choose another "
                "output folder, then call the same command again"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def read_crops(run: Path) -> StoredCrops | None:
    """Return what a run's `crops/` holds; None if it has none, as those of older versions.

    Parameters
    ----------
    run : Path
        The run's directory.

    Raises
    ------
    ResultNotReadable
        If it is damaged, or of a newer version.
    """
    folder = run / FOLDER
    if not folder.is_dir():
        return None
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        if index["format"] != _FORMAT or index["format_version"] > _FORMAT_VERSION:
            raise ResultNotReadable(
                f"{FOLDER}/{_INDEX} is of a newer version ({index['format_version']}); "
                "update wsiseg"
            )
        crops = tuple(_stored(folder, entry) for entry in index["crops"])
        return StoredCrops(_jpeg(folder, index["overview"]), crops)
    except (
        *(OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError),
        SyntaxError,  # of Pillow, for some damaged files
        Image.DecompressionBombError,
    ) as error:
        if isinstance(error, ResultNotReadable):
            raise
        raise ResultNotReadable(
            f"{FOLDER} is damaged ({type(error).__name__}); remove the folder to do without it"
        ) from error


def _stored(folder: Path, entry: Mapping[str, Any]) -> StoredCrop:
    x, y, width, height = (float(value) for value in entry["box"])
    side_px = int(entry["side_px"])
    seams = [tuple(float(v) for v in entry[name]) for name in ("seams_x_px", "seams_y_px")]
    if entry["kind"] not in _KINDS:
        raise ValueError(f"a crop is of kind {entry['kind']!r}")
    if not all(map(math.isfinite, (x, y, width, height, *seams[0], *seams[1]))):
        raise ValueError("a place is no number")
    if not (0 < side_px <= _MOST_PX and min(width, height) > 0):
        raise ValueError(f"a crop of {width:g} x {height:g} px has a side of {side_px}")
    return StoredCrop(
        jpeg=_jpeg(folder, entry["file"]),
        kind=entry["kind"],
        box=(x, y, width, height),
        side_px=side_px,
        seams_x_px=seams[0],
        seams_y_px=seams[1],
    )


def _jpeg(folder: Path, name: str) -> bytes:
    """Return a picture's file; ValueError if it is none, or leads out of the folder."""
    path = folder / name
    # A run may come from anywhere, so its list may name anything.
    if path.parent != folder or path.is_symlink() or path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{name} is no picture of a run")
    content = path.read_bytes()
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as picture:
        if max(picture.size) > _MOST_PX:
            raise ValueError(f"{name} has {picture.width} x {picture.height} px")
        # Decoded whole: only that tells a file that ends too early.
        picture.load()
    return content
