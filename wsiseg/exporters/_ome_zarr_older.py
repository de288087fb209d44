"""Masks copied as OME-Zarr 0.4, for readers that lack 0.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr

from wsiseg.errors import ResultNotReadable
from wsiseg.exporters import _ngff
from wsiseg.geometry import Box

# The Java reader behind Bio-Formats has no zstd, and blosc only with a native library.
_CODEC: dict[str, Any] = {"id": "zlib", "level": 1}


def write_older(masks: Path, folder: Path) -> None:
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
            f"{masks.parent.name}/{masks.name} is damaged ({error}); segment the slide again "
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
        compressors=_CODEC,
        filters=None,
        fill_value=source.fill_value,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": False},
    )
    *lead, height_px, width_px = source.shape
    side_px = (source.shards or source.chunks)[-1]
    for box in Box(0, 0, width_px, height_px).squares(side_px):
        place = (*[slice(None)] * len(lead), *box.slices)
        values = source[place]
        if (values != source.fill_value).any():
            array[place] = values
