"""GeoJSON features as ASCII, written from ragged arrays without an object per nucleus.

Numbers come as whole multiples of a power of ten, so what is written depends on no
floating-point formatting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from wsiseg.exporters._decimal_text import (
    COORDINATE_DECIMALS,
    MISSING,
    SLACK_BYTES,
    put_coordinate,
    put_value,
)
from wsiseg.exporters.wkb import copy_bytes

UUID_BYTES = 36

_FIXED_TEXTS = (
    ',\n{"type":"Feature","id":"',
    '","geometry":{"type":"Polygon","coordinates":',
    '","geometry":{"type":"Point","coordinates":',
    '},"properties":{"objectType":"detection"',
    ',"measurements":{',
    "}}}",
)
_HEAD, _POLYGON, _POINT_AT, _PROPERTIES, _MEASUREMENTS, _TAIL = range(len(_FIXED_TEXTS))
_N_FIXED = len(_FIXED_TEXTS)
_NUMBER_BYTES = 21
_COMMA = ord(",")
_OPEN = ord("[")
_CLOSE = ord("]")


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBlock:
    """What is written of n nuclei."""

    uuids: NDArray[np.uint8]
    """(n, 36): ASCII."""
    first_ring: NDArray[np.int64]
    """(n + 1,): as in `wsiseg.exporters.wkb.Polygons`; (0,) for points."""
    first_vertex: NDArray[np.int64]
    """(number of rings + 1,); (0,) for points."""
    xy_centi_px: NDArray[np.int64]
    """(k, 2): x, y in hundredths of a pixel; for points k is n."""
    class_code: NDArray[np.int64]
    """(n,): index into the class texts; -1 without a class."""
    region_code: NDArray[np.int64]
    """(n,): index into the region texts; -1 without a region."""
    values: NDArray[np.int64]
    """(n, m): measurement times 10 ** decimals, or `MISSING`."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTexts:
    """The texts that features share, as one ragged array."""

    data: NDArray[np.uint8]
    """All texts, one after the other: fixed ones, measurements, classes, regions."""
    first_byte: NDArray[np.int64]
    """(number of texts + 1,)."""
    n_classes: int
    """How many of the texts are classes."""
    decimals: NDArray[np.int64]
    """(m,): decimals of each measurement."""

    @classmethod
    def of(
        cls,
        classifications: Sequence[str],
        regions: Sequence[str],
        measurements: Sequence[str],
        decimals: Sequence[int],
    ) -> FeatureTexts:
        """Return the texts for these classes (JSON values), regions and measurements (strings)."""
        texts = [
            *_FIXED_TEXTS,
            *(f"{name}:" for name in measurements),
            *(f',"classification":{value}' for value in classifications),
            *(f',"metadata":{{"Region":{name}}}' for name in regions),
        ]
        first_byte = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in texts], out=first_byte[1:])
        data = np.frombuffer("".join(texts).encode("ascii"), np.uint8)
        return cls(data, first_byte, len(classifications), np.array(decimals, np.int64))


def features_text(block: FeatureBlock, texts: FeatureTexts) -> memoryview:
    """Return the features as ASCII, each behind a comma and a line break."""
    out = np.empty(_most_bytes(block, texts) + SLACK_BYTES, np.uint8)
    n_bytes = _write_features(
        out,
        texts.data,
        texts.first_byte,
        texts.n_classes,
        texts.decimals,
        block.uuids,
        block.first_ring,
        block.first_vertex,
        block.xy_centi_px,
        block.class_code,
        block.region_code,
        block.values,
    )
    return out.data[:n_bytes]


def _most_bytes(block: FeatureBlock, texts: FeatureTexts) -> int:
    """Return how many bytes the block cannot exceed."""
    lengths = np.diff(texts.first_byte)
    first_class = _N_FIXED + len(texts.decimals)
    first_region = first_class + texts.n_classes
    names = lengths[_N_FIXED:first_class]
    one_feature = (
        lengths[:_N_FIXED].sum()
        + lengths[first_class:first_region].max(initial=0)
        + lengths[first_region:].max(initial=0)
        + (names + _NUMBER_BYTES + 1).sum()
        + UUID_BYTES
    )
    digits = len(str(int(np.abs(block.xy_centi_px).max(initial=0))))
    # Sign and point; small numbers have a zero before the point.
    number = max(digits, COORDINATE_DECIMALS + 1) + 2
    one_vertex = 2 * number + len("[,],")
    n_brackets = len(block.uuids) + len(block.first_vertex)
    return int(
        len(block.uuids) * one_feature
        + len(block.xy_centi_px) * one_vertex
        + n_brackets * len("[],")
    )


@numba.njit(cache=True, nogil=True)
def _put_text(
    out: NDArray[np.uint8],
    at: int,
    data: NDArray[np.uint8],
    first_byte: NDArray[np.int64],
    text: int,
) -> int:
    n_bytes = int(first_byte[text + 1] - first_byte[text])
    copy_bytes(out, at, data, first_byte[text], n_bytes)
    return at + n_bytes


@numba.njit(cache=True, nogil=True)
def _put_position(out: NDArray[np.uint8], at: int, xy: NDArray[np.int64], v: int) -> int:
    out[np.uint64(at)] = _OPEN
    at = put_coordinate(out, at + 1, xy[v, 0])
    out[np.uint64(at)] = _COMMA
    at = put_coordinate(out, at + 1, xy[v, 1])
    out[np.uint64(at)] = _CLOSE
    return at + 1


@numba.njit(cache=True, nogil=True)
def _put_ring(out: NDArray[np.uint8], at: int, xy: NDArray[np.int64], start: int, stop: int) -> int:
    out[at] = _OPEN
    at += 1
    for v in range(start, stop):
        at = _put_position(out, at, xy, v)
        out[at] = _COMMA
        at += 1
    # The comma behind the last vertex gives way; an empty ring has none.
    at -= 1 if stop > start else 0
    out[at] = _CLOSE
    return at + 1


@numba.njit(cache=True, nogil=True)
def _put_geometry(
    out: NDArray[np.uint8],
    at: int,
    data: NDArray[np.uint8],
    first_byte: NDArray[np.int64],
    first_ring: NDArray[np.int64],
    first_vertex: NDArray[np.int64],
    xy: NDArray[np.int64],
    i: int,
) -> int:
    if len(first_ring) == 0:
        at = _put_text(out, at, data, first_byte, _POINT_AT)
        return _put_position(out, at, xy, i)
    at = _put_text(out, at, data, first_byte, _POLYGON)
    out[at] = _OPEN
    at += 1
    for ring in range(first_ring[i], first_ring[i + 1]):
        if ring > first_ring[i]:
            out[at] = _COMMA
            at += 1
        at = _put_ring(out, at, xy, first_vertex[ring], first_vertex[ring + 1])
    out[at] = _CLOSE
    return at + 1


@numba.njit(cache=True, nogil=True)
def _write_features(
    out: NDArray[np.uint8],
    data: NDArray[np.uint8],
    first_byte: NDArray[np.int64],
    n_classes: int,
    decimals: NDArray[np.int64],
    uuids: NDArray[np.uint8],
    first_ring: NDArray[np.int64],
    first_vertex: NDArray[np.int64],
    xy: NDArray[np.int64],
    class_code: NDArray[np.int64],
    region_code: NDArray[np.int64],
    values: NDArray[np.int64],
) -> int:
    first_class = _N_FIXED + len(decimals)
    at = 0
    for i in range(len(uuids)):
        at = _put_text(out, at, data, first_byte, _HEAD)
        copy_bytes(out, at, uuids[i], 0, UUID_BYTES)
        at = _put_geometry(out, at + UUID_BYTES, data, first_byte, first_ring, first_vertex, xy, i)
        at = _put_text(out, at, data, first_byte, _PROPERTIES)
        if class_code[i] >= 0:
            at = _put_text(out, at, data, first_byte, first_class + class_code[i])
        if region_code[i] >= 0:
            at = _put_text(out, at, data, first_byte, first_class + n_classes + region_code[i])
        at = _put_text(out, at, data, first_byte, _MEASUREMENTS)
        first = True
        for m in range(len(decimals)):
            if values[i, m] == MISSING:
                continue
            if not first:
                out[at] = _COMMA
                at += 1
            first = False
            at = _put_text(out, at, data, first_byte, _N_FIXED + m)
            at = put_value(out, at, values[i, m], decimals[m])
        at = _put_text(out, at, data, first_byte, _TAIL)
    return at
