"""Whether a TIFF file ends before everything it points to.

Libraries open such files: they drop the directories that are missing and fail, or show
grey, where pixels are.  So the chain of directories is followed here (TIFF 6.0, section 2;
BigTIFF: https://libtiff.gitlab.io/libtiff/specification/bigtiff.html).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_DIRECTORIES = 4096
_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_BYTES_OF_TYPE |= {13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE_NUMBERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_PIXELS = ((273, 279), (324, 325))
"""Tags of offsets and byte counts: of strips, of tiles."""
_JPEG_TABLES = 347
_SUB_DIRECTORIES = 330
_NDPI = 65420


class _Layout(NamedTuple):
    order: str
    word: str
    n_word: str
    entry_bytes: int


class _Entry(NamedTuple):
    kind: int
    n_values: int
    place: int

    @property
    def end(self) -> int:
        return self.place + self.n_values * _BYTES_OF_TYPE.get(self.kind, 0)


class _CutShort(Exception):
    """Something lies beyond the end of the file."""


def truncation(path: Path) -> str | None:
    """Return what a TIFF file lacks at its end, as a phrase, or None if it is whole.

    Hamamatsu's NDPI is taken as whole: its offsets are not those of the standard.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            _follow(file, size)
        except _CutShort as missing:
            return f"is truncated: {missing}, the file ends at byte {size:,}: copy it again"
    return None


def _follow(file: BinaryIO, size: int) -> None:
    head = _bytes_at(file, 0, 8, "its header")
    order = "<" if head[:1] == b"I" else ">"
    if head[2:4] in (b"+\0", b"\0+"):
        layout = _Layout(order, "Q", "Q", 20)
        (start,) = struct.unpack(order + "Q", _bytes_at(file, 8, 8, "its header"))
    else:
        layout = _Layout(order, "I", "H", 12)
        (start,) = struct.unpack(order + "I", head[4:])
    waiting, seen = [start], set[int]()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        start = waiting.pop()
        if start == 0 or start in seen:
            continue
        seen.add(start)
        entries, following = _directory(file, start, layout)
        if _NDPI in entries:
            return
        if _SUB_DIRECTORIES in entries:
            waiting += _numbers(file, entries[_SUB_DIRECTORIES], layout).tolist()
        waiting.append(following)
        _check_pixels(file, size, entries, layout)


def _directory(file: BinaryIO, start: int, layout: _Layout) -> tuple[dict[int, _Entry], int]:
    """Return the entries by tag, and where the next directory begins (0: none)."""
    what = "a directory"
    order, word, n_word, entry_bytes = layout
    head_bytes, word_bytes = struct.calcsize(order + n_word), struct.calcsize(order + word)
    (n,) = struct.unpack(order + n_word, _bytes_at(file, start, head_bytes, what))
    body = _bytes_at(file, start + head_bytes, n * entry_bytes + word_bytes, what)
    entries = {}
    for i in range(n):
        tag, kind, values = struct.unpack_from(f"{order}HH{word}", body, i * entry_bytes)
        inline = i * entry_bytes + entry_bytes - word_bytes
        place = start + head_bytes + inline
        if values * _BYTES_OF_TYPE.get(kind, 0) > word_bytes:
            (place,) = struct.unpack_from(order + word, body, inline)
        entries[tag] = _Entry(kind, values, place)
    (following,) = struct.unpack_from(order + word, body, n * entry_bytes)
    return entries, following


def _check_pixels(file: BinaryIO, size: int, entries: dict[int, _Entry], layout: _Layout) -> None:
    tables = entries.get(_JPEG_TABLES)
    if tables is not None and tables.end > size:
        raise _CutShort(f"its JPEG tables end at byte {tables.end:,}")
    for offsets_tag, counts_tag in _PIXELS:
        if offsets_tag in entries and counts_tag in entries:
            offsets = _numbers(file, entries[offsets_tag], layout)
            counts = _numbers(file, entries[counts_tag], layout)
            n = min(len(offsets), len(counts))
            end = int((offsets[:n] + counts[:n]).max(initial=0))
            if end > size:
                raise _CutShort(f"its pixels end at byte {end:,}")


def _numbers(file: BinaryIO, entry: _Entry, layout: _Layout) -> NDArray[np.uint64]:
    """Return the whole numbers of an entry; none if it holds another type."""
    kind = _WHOLE_NUMBERS.get(entry.kind)
    if kind is None:
        return np.empty(0, np.uint64)
    data = _bytes_at(file, entry.place, entry.end - entry.place, "the table of its pixels")
    return np.frombuffer(data, layout.order + kind).astype(np.uint64)


def _bytes_at(file: BinaryIO, start: int, length: int, what: str) -> bytes:
    size = file.seek(0, 2)
    if start + length > size:
        raise _CutShort(f"{what} ends at byte {start + length:,}")
    file.seek(start)
    return file.read(length)
