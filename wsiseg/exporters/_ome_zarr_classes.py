"""The class image of copied masks painted anew, with the classes of a version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr
from numpy.typing import NDArray

from wsiseg.errors import ResultNotReadable
from wsiseg.exporters._paint import UNKNOWN_VALUE
from wsiseg.geometry import Box


def repaint_classes(
    folder: Path,
    batches: Iterable[pa.RecordBatch],
    class_names: Sequence[str],
    described: dict[str, Any],
) -> None:
    """Paint `labels/classes` from `labels/nuclei`; a byte a nucleus and a shard are in memory.

    Parameters
    ----------
    folder : Path
        Masks of any version of OME-Zarr; changed in place.
    batches : iterable of pyarrow.RecordBatch
        `class_name` of all nuclei, in the order of their ids.
    class_names : sequence of str
        The classes; their values in the image count from 1.
    described : dict
        What `image-label` says of the classes.

    Raises
    ------
    ResultNotReadable
        If the masks hold another nucleus than the table.
    """
    values = _values(batches, class_names)
    root = zarr.open_group(folder, mode="r+")
    _describe(root["labels/classes"], described)
    for level in range(_n_levels(root)):
        nuclei: Any = root[f"labels/nuclei/{level}"]
        classes: Any = root[f"labels/classes/{level}"]
        height_px, width_px = nuclei.shape
        side_px = (classes.shards or classes.chunks)[-1]
        for box in Box(0, 0, width_px, height_px).squares(side_px):
            ids = nuclei[box.slices]
            if not ids.any():
                continue
            if ids.max() >= len(values):
                raise ResultNotReadable(
                    f"the masks hold nucleus {ids.max()}, the cell table {len(values) - 1} nuclei; "
                    "segment the slide again with --overwrite"
                )
            classes[box.slices] = values[ids]


def _values(batches: Iterable[pa.RecordBatch], class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Return the class image's value of each cell id; 0 of none."""
    parts = [np.zeros(1, np.uint8)]
    names = pa.array(class_names, pa.string())
    for batch in batches:
        index = pc.index_in(batch["class_name"].cast(pa.string()), value_set=names)
        code = pc.add(index, 1).fill_null(UNKNOWN_VALUE)
        parts.append(code.to_numpy(zero_copy_only=False).astype(np.uint8))
    return np.concatenate(parts)


def _n_levels(root: zarr.Group) -> int:
    attributes: Any = root["labels/nuclei"].attrs.asdict()
    return len(attributes.get("ome", attributes)["multiscales"][0]["datasets"])


def _describe(group: Any, described: dict[str, Any]) -> None:
    """Replace what is said of the values; where depends on the version of OME-Zarr."""
    attributes = group.attrs.asdict()
    if "ome" in attributes:
        ome = attributes["ome"]
        group.attrs["ome"] = ome | {"image-label": ome["image-label"] | described}
    else:
        group.attrs["image-label"] = attributes["image-label"] | described
