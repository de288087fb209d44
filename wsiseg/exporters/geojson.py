"""GeoJSON for QuPath: one detection per nucleus, streamed from the cell table.

Each nucleus is a Feature with its UUID as `id`, a Polygon, `objectType` "detection", its class
with colour, and measurements whose names start with "wsiseg: " and end in their unit, so that
they cannot be taken for QuPath's own.  The region of interest it is in, the smallest where
several overlap, is the entry "Region" of its `metadata`.  GeoJSON: RFC 7946; its longitude and
latitude are pixels here, as QuPath has it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial as partial_function
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.errors import ResultNotReadable
from wsiseg.exporters import ExportableResult, wkb
from wsiseg.exporters._choice import chosen_batches
from wsiseg.exporters._decimal_text import hundredths, scaled
from wsiseg.exporters._feature_text import (
    UUID_BYTES,
    FeatureBlock,
    FeatureTexts,
    features_text,
)
from wsiseg.exporters._finish import finished_file, refuse_existing
from wsiseg.exporters._finish_parts import finished_files
from wsiseg.exporters._geojson_choice import (
    GeojsonOptions,
    numbered,
    part_paths,
    refuse_existing_parts,
)
from wsiseg.exporters._packed import open_for_text

__all__ = ["MEASUREMENTS", "GeojsonOptions", "export_geojson", "write_geojson"]

_BLOCK_ROWS = 4096
_THREADS = 2
"""Blocks whose text is made while another is packed: packing is the slower of the two."""


class _Measurement(NamedTuple):
    column: str
    name: str
    decimals: int


MEASUREMENTS = (
    _Measurement("cell_id", "wsiseg: Cell id", 0),
    _Measurement("class_prob", "wsiseg: Class probability", 4),
    _Measurement("nucleus_prob", "wsiseg: Nucleus probability", 4),
    _Measurement("area_um2", "wsiseg: Area um^2", 4),
    _Measurement("perimeter_um", "wsiseg: Perimeter um", 4),
    _Measurement("major_axis_um", "wsiseg: Major axis um", 4),
    _Measurement("minor_axis_um", "wsiseg: Minor axis um", 4),
    _Measurement("eccentricity", "wsiseg: Eccentricity", 4),
    _Measurement("solidity", "wsiseg: Solidity", 4),
    _Measurement("circularity", "wsiseg: Circularity", 4),
    _Measurement("orientation_rad", "wsiseg: Orientation rad", 4),
    _Measurement("hematoxylin_od_mean", "wsiseg: Hematoxylin OD mean", 4),
    _Measurement("hematoxylin_od_sd", "wsiseg: Hematoxylin OD sd", 4),
    _Measurement("eosin_od_mean", "wsiseg: Eosin OD mean", 4),
    _Measurement("eosin_od_sd", "wsiseg: Eosin OD sd", 4),
    _Measurement("cut", "wsiseg: Cut at tile edge", 0),
)
"""Column of the cell table, name in QuPath and decimals of each measurement.

`Cell id` is the label of the nucleus in the mask; `Cut at tile edge` is 1 where a part of the
nucleus may be missing.
"""


_EVERYTHING = GeojsonOptions()


def write_geojson(
    batches: Iterable[pa.RecordBatch],
    destination: Path,
    class_colours: Mapping[str, tuple[int, int, int]],
    origin_px: tuple[float, float],
    *,
    centroids: bool = False,
) -> None:
    """Write nuclei as a GeoJSON FeatureCollection that QuPath opens as detections.

    Memory does not depend on the number of nuclei.  Measurements that are null or not finite
    are left out; a class without a colour is written by its name alone.

    Parameters
    ----------
    batches
        Rows of the cell table (`wsiseg.exporters.parquet.CELLS_SCHEMA`).
    destination
        The file, compressed by gzip if its name ends in ``.gz``; an older one is replaced.
    class_colours
        Red, green, blue (0 to 255) of each class name.
    origin_px
        (x, y) in level-0 pixels that becomes (0, 0): the corner of the slide's bounds.
        Coordinates are then rounded to 0.01 px, as QuPath does.
    centroids
        Write points instead of polygons.

    Raises
    ------
    ResultNotReadable
        If a row's geometry or UUID is damaged.
    OutputNotWritable
        If the operating system refuses to write; nothing is left then.
    """
    features = _Features(class_colours, origin_px, centroids)
    with finished_file(destination) as partial:
        _write_collection(batches, partial, destination, features)


def export_geojson(
    result: ExportableResult, destination: Path, options: GeojsonOptions = _EVERYTHING
) -> list[Path]:
    """Write a run's nuclei for QuPath; see `write_geojson`.

    Returns
    -------
    list of Path
        `destination`; or with a split, for ``name.geojson.gz``, ``name-001.geojson.gz``,
        ``name-002.geojson.gz``, …: at least one, each a whole collection, with the nuclei in
        the order of the table.  All of them appear, or none.

    Raises
    ------
    UnknownName
        If the model has no such class or the run no such region.
    OutputExists
        If something is at `destination` already, or parts of that name are.
    ResultNotReadable
        If the run's cell table is damaged.
    OutputNotWritable
        If the operating system refuses to write.
    """
    batches = chosen_batches(result, options)
    features = _Features(result.class_colours, result.bounds_origin_px, options.centroids)
    if options.split is not None:
        return _write_parts(batches, destination, features, options.split)
    refuse_existing(destination)
    with finished_file(destination) as partial:
        _write_collection(batches, partial, destination, features)
    return [destination]


def _write_parts(
    batches: Iterable[pa.RecordBatch], destination: Path, features: _Features, split: int
) -> list[Path]:
    """Write files of at most `split` nuclei; how many they are is known at the end."""
    refuse_existing_parts(destination)
    written: list[Path] = []

    def paths_of(n_parts: int) -> list[Path]:
        written.extend(part_paths(destination, n_parts))
        return written

    with finished_files(destination, paths_of) as next_file:
        n_parts = 0
        for _, pieces in groupby(numbered(batches, split), key=itemgetter(0)):
            rows = (piece for _, piece in pieces)
            _write_collection(rows, next_file(), destination, features)
            n_parts += 1
        if n_parts == 0:
            _write_collection((), next_file(), destination, features)
    return written


@dataclass(frozen=True, slots=True)
class _Features:
    """How nuclei are written."""

    class_colours: Mapping[str, tuple[int, int, int]]
    origin_px: tuple[float, float]
    centroids: bool


def _write_collection(
    batches: Iterable[pa.RecordBatch], partial: Path, destination: Path, features: _Features
) -> None:
    """Write one collection to `partial`, packed if the name of `destination` says so."""
    with (
        open_for_text(partial, destination) as stream,
        ThreadPoolExecutor(_THREADS, "geojson") as pool,
    ):
        stream.write(b'{"type":"FeatureCollection","features":[')
        skip = 1  # the comma before the first feature
        for text in _in_order(pool, _jobs(batches, features)):
            stream.write(text[skip:])
            skip = 0
        stream.write(b"\n]}\n")


def _jobs(
    batches: Iterable[pa.RecordBatch], features: _Features
) -> Iterator[Callable[[], memoryview]]:
    """Yield what makes the text of each block, in order."""
    for batch in batches:
        texts, class_code, region_code = _texts(batch, features.class_colours)
        for start in range(0, batch.num_rows, _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            rows = batch.slice(start, _BLOCK_ROWS)
            codes = class_code[block], region_code[block]
            yield partial_function(_block_text, rows, *codes, features, texts)


def _in_order(
    pool: ThreadPoolExecutor, jobs: Iterator[Callable[[], memoryview]]
) -> Iterator[memoryview]:
    """Yield the texts in order; a few are made ahead, never more."""
    ahead: deque[Future[memoryview]] = deque()
    for job in jobs:
        ahead.append(pool.submit(job))
        if len(ahead) > _THREADS:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _block_text(
    rows: pa.RecordBatch,
    class_code: NDArray[np.int64],
    region_code: NDArray[np.int64],
    features: _Features,
    texts: FeatureTexts,
) -> memoryview:
    return features_text(_block(rows, class_code, region_code, features), texts)


def _texts(
    batch: pa.RecordBatch, class_colours: Mapping[str, tuple[int, int, int]]
) -> tuple[FeatureTexts, NDArray[np.int64], NDArray[np.int64]]:
    """Return the texts for a batch, and the class and region code of each row (-1: none)."""
    class_names, class_code = _encoded(batch.column("class_name"))
    region_names, region_code = _encoded(batch.column("region"))
    texts = FeatureTexts.of(
        [_classification(name, class_colours) for name in class_names],
        [json.dumps(name) for name in region_names],
        [json.dumps(measurement.name) for measurement in MEASUREMENTS],
        [measurement.decimals for measurement in MEASUREMENTS],
    )
    return texts, class_code, region_code


def _encoded(column: pa.Array) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different names in a column, and each row's index in them (-1: null)."""
    encoded = column.cast(pa.string()).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary.to_pylist(), codes


def _classification(name: str, class_colours: Mapping[str, tuple[int, int, int]]) -> str:
    """Return QuPath's JSON for a class; an object without colour would abort its import."""
    if name not in class_colours:
        return json.dumps(name)
    return json.dumps(
        {"name": name, "color": [int(value) for value in class_colours[name]]},
        separators=(",", ":"),
    )


def _block(
    rows: pa.RecordBatch,
    class_code: NDArray[np.int64],
    region_code: NDArray[np.int64],
    features: _Features,
) -> FeatureBlock:
    first_ring, first_vertex, xy_px = _outlines(rows, features.centroids)
    xy_centi_px = np.empty(xy_px.shape, np.int64)
    x_px, y_px = features.origin_px
    if not hundredths(xy_px, float(x_px), float(y_px), xy_centi_px):
        raise ResultNotReadable(
            "the cell table has a coordinate that is no pixel position; it is damaged: run the "
            "slide again"
        )
    values = np.empty((rows.num_rows, len(MEASUREMENTS)), np.int64)
    for m, measurement in enumerate(MEASUREMENTS):
        column = rows.column(measurement.column).to_numpy(zero_copy_only=False)
        scaled(column.astype(np.float64), 10**measurement.decimals, values[:, m])
    return FeatureBlock(
        _uuids(rows.column("uuid")),
        first_ring,
        first_vertex,
        xy_centi_px,
        class_code,
        region_code,
        values,
    )


def _outlines(
    rows: pa.RecordBatch, centroids: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return first ring, first vertex and positions, as in `FeatureBlock`."""
    if centroids:
        none = np.empty(0, np.int64)
        xy = [rows.column(name).to_numpy(zero_copy_only=False) for name in ("x", "y")]
        return none, none, np.column_stack(xy)
    polygons = wkb.decode(rows.column("geometry"))
    return polygons.first_ring, polygons.first_vertex, polygons.xy_px


def _uuids(column: pa.Array) -> NDArray[np.uint8]:
    """Return (n, 36) ASCII; anything but hexadecimal digits and hyphens is refused."""
    first_byte, data = wkb.binary_buffers(column)
    if (np.diff(first_byte) == UUID_BYTES).all():
        text = data[first_byte[0] : first_byte[-1]]
        if _IN_UUID[text].all():
            return text.reshape(-1, UUID_BYTES)
    raise ResultNotReadable(
        "a cell's uuid is not of the 36-character form; the cell table is damaged or was changed "
        "by another program: run the slide again"
    )


_IN_UUID = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdefABCDEF-", np.uint8))
