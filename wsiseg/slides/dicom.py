"""Which files make a DICOM whole-slide image, and whether they are whole.

A slide is a series: one file, or several, for each level of its pyramid, all in one folder,
under any names (DICOM PS3.3, A.32.8).  OpenSlide puts them together; here the folder is
looked through for them, because their content identifies the slide and because OpenSlide
leaves out, or fails late on, files that were cut off.  The encoding is that of DICOM PS3.5,
sections 7 and A.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wsiseg.errors import SlideNotReadable

_MAGIC_AT = 128
_MAGIC = b"DICM"
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_KINDS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""Value representations whose length has four bytes."""
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_TRANSFER_SYNTAX, _IMAGE_KIND, _SOP_CLASS, _SERIES = 0x00020010, 0x00080008, 0x00080016, 0x0020000E
_SAMPLES, _PHOTOMETRIC, _BITS = 0x00280002, 0x00280004, 0x00280100
_OPTICAL_PATHS, _FOCAL_PLANES = 0x00480302, 0x00480303
_PIXELS = 0x7FE00010
_NUMBERS = frozenset({_SAMPLES, _BITS, _OPTICAL_PATHS, _FOCAL_PLANES})
_WANTED = _NUMBERS | {_TRANSFER_SYNTAX, _IMAGE_KIND, _SOP_CLASS, _SERIES, _PHOTOMETRIC}
_LONGEST_VALUE = 1024
_DEEPEST = 32


@dataclass(frozen=True, slots=True)
class SlideFiles:
    """The files of one slide."""

    start: Path
    """The file OpenSlide is given; it holds pixels of the slide, not its label."""
    files: tuple[Path, ...]
    """All files of the series, sorted by name."""


class _Header(NamedTuple):
    series: str
    is_volume: bool
    path: Path


class _CutShort(Exception):
    """The file ends inside an element, or before its pixels."""


class _NotDicom(Exception):
    """The bytes are no sequence of elements."""


def is_dicom(path: Path) -> bool:
    """Return whether a file begins like a DICOM file."""
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


def find_series(path: Path) -> SlideFiles:
    """Return the series of a DICOM file, or the one a folder holds.

    Parameters
    ----------
    path
        A DICOM file, or a folder.

    Raises
    ------
    SlideNotReadable
        If there is no whole-slide series, several of them in a folder, or a file that was
        cut off or is not 8-bit RGB.
    """
    folder = path if path.is_dir() else path.parent
    headers = list(_whole_slide_headers(folder))
    if path.is_dir():
        series = _only_series(path.name, headers)
    else:
        series = next((header.series for header in headers if header.path.name == path.name), "")
        if not series:
            raise SlideNotReadable(
                f"{path.name}: is DICOM, but no whole-slide image (VL Whole Slide Microscopy); "
                "give a file of such a series"
            )
    mine = [header for header in headers if header.series == series]
    for header in mine:
        _refuse_unsuitable(header)
    volumes = [header.path for header in mine if header.is_volume]
    if not volumes:
        raise SlideNotReadable(
            f"{path.name}: its series holds a label or an overview only; add the files of its "
            "levels (image type VOLUME)"
        )
    start = path if path in volumes else volumes[0]
    return SlideFiles(start, tuple(header.path for header in mine))


def _only_series(name: str, headers: list[_Header]) -> str:
    found = {header.series: header.path.name for header in headers if header.is_volume}
    if len(found) > 1:
        files = ", ".join(sorted(found.values())[:4]) + (", …" if len(found) > 4 else "")
        raise SlideNotReadable(
            f"{name}: is a folder of {len(found)} DICOM series; one slide is needed: give one "
            f"file of the series to analyse (such as {files})"
        )
    if not found:
        raise SlideNotReadable(
            f"{name}: is a folder without a DICOM whole-slide image; one slide file is needed "
            "(of an MRXS slide: the .mrxs file beside the folder)"
        )
    return next(iter(found))


def _whole_slide_headers(folder: Path) -> Iterator[_Header]:
    for path in sorted(folder.iterdir()):
        if path.is_fifo():
            # OpenSlide opens every entry of the folder, and would wait for a writer.
            raise SlideNotReadable(
                f"{path.name}: is a named pipe in the folder of a DICOM slide; move it away"
            )
        if not path.is_file():
            continue
        try:
            if not is_dicom(path):
                continue
            said = _read(path, until=_SERIES)
        except _CutShort as error:
            raise _cut_off(path) from error
        except (OSError, _NotDicom):
            continue
        if said.get(_SOP_CLASS) == _WHOLE_SLIDE and said.get(_SERIES):
            kind = said.get(_IMAGE_KIND, "").split("\\")
            yield _Header(said[_SERIES], "VOLUME" in kind, path)


def _cut_off(path: Path) -> SlideNotReadable:
    return SlideNotReadable(
        f"{path.name}: is truncated: the file ends at byte {path.stat().st_size:,}, in the "
        "middle of its content: copy it again"
    )


def _refuse_unsuitable(header: _Header) -> None:
    """Read a file to its end; refuse what ends too early, or is no plain 8-bit RGB."""
    path = header.path
    try:
        said = _read(path)
    except (_CutShort, _NotDicom) as error:
        raise _cut_off(path) from error
    if not header.is_volume:
        return
    bits, samples = said.get(_BITS, "8"), said.get(_SAMPLES, "3")
    if bits != "8":
        raise SlideNotReadable(
            f"{path.name}: has {bits} bits per sample; 8-bit RGB is needed: export it as 8-bit "
            "RGB (fluorescence is not supported)"
        )
    if samples != "3":
        raise SlideNotReadable(
            f"{path.name}: has {samples} sample(s) per pixel of kind {said.get(_PHOTOMETRIC)}; "
            "8-bit RGB of an H&E slide is needed: export it as RGB (grey scale and fluorescence "
            "are not supported)"
        )
    for tag, what in ((_FOCAL_PLANES, "focal planes"), (_OPTICAL_PATHS, "optical paths")):
        if said.get(tag, "1") != "1":
            raise SlideNotReadable(
                f"{path.name}: has {said[tag]} {what}; one RGB plane is needed: export one plane"
            )


def _read(path: Path, until: int | None = None) -> dict[int, str]:
    """Return the wanted elements of a file; `until` is the last tag of interest.

    Without it the file is followed to its end, so that whatever is missing there is noticed.
    """
    size = path.stat().st_size
    said: dict[int, str] = {}
    has_pixels = False
    # Unbuffered: of each element a few bytes are read, and thousands are stepped over.
    with path.open("rb", buffering=0) as file:
        walk = _Walk(file, size)
        walk.place = _MAGIC_AT + len(_MAGIC)
        while walk.place < size:
            if walk.peek_group() != 2:
                walk.implicit = said.get(_TRANSFER_SYNTAX) == _IMPLICIT
                if said.get(_TRANSFER_SYNTAX) in {_DEFLATED, _BIG_ENDIAN}:
                    raise _NotDicom
            tag, length = walk.head()
            if until is not None and tag > until:
                break
            if tag in _WANTED and length <= _LONGEST_VALUE:
                said[tag] = _text(tag, walk.bytes(length))
            else:
                walk.skip(length)
            has_pixels |= tag == _PIXELS
    if until is None and not has_pixels:
        raise _CutShort
    return said


def _text(tag: int, value: bytes) -> str:
    if tag in _NUMBERS:
        return str(int.from_bytes(value, "little"))
    return value.decode("ascii", "replace").strip(" \0")


class _Walk:
    """Steps from element to element."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.place = 0
        self.implicit = False

    def bytes(self, length: int) -> bytes:
        if self.place + length > self._size:
            raise _CutShort
        self._file.seek(self.place)
        data = self._file.read(length)
        self.place += length
        return data

    def peek_group(self) -> int:
        (group,) = struct.unpack("<H", self.bytes(2))
        self.place -= 2
        return int(group)

    def head(self) -> tuple[int, int]:
        """Return tag and length of an element; its value follows."""
        group, number = struct.unpack("<HH", self.bytes(4))
        tag = group << 16 | number
        if self.implicit or group == _ITEM >> 16:
            return tag, int.from_bytes(self.bytes(4), "little")
        kind = self.bytes(2)
        if kind in _LONG_KINDS:
            return tag, int.from_bytes(self.bytes(6)[2:], "little")
        if not kind.isalpha():
            raise _NotDicom
        return tag, int.from_bytes(self.bytes(2), "little")

    def skip(self, length: int, depth: int = 0) -> None:
        """Step over a value: `length` bytes, or items up to the end mark."""
        if length != _UNDEFINED:
            if self.place + length > self._size:
                raise _CutShort
            self.place += length
            return
        if depth > _DEEPEST:
            raise _NotDicom
        while True:
            tag, item_length = self.head()
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise _NotDicom
            if item_length != _UNDEFINED:
                self.skip(item_length)
            else:
                self._skip_item(depth)

    def _skip_item(self, depth: int) -> None:
        while True:
            tag, length = self.head()
            if tag == _ITEM_END:
                return
            self.skip(length, depth + 1)
