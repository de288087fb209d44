"""Whether a slide's file is still the one it was, without reading it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

_OF_SEVERAL_FILES = frozenset({".mrxs", ".vms", ".vmu", ".dcm"})
"""Formats that keep pixels in files beside the one that is named."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells a file from another.  Two of one file are equal unless it was changed meanwhile.

    A name, a size and a time of writing can be those of another file: of one that was unpacked or
    copied with its time, for instance.  The number of the file and the time at which that was last
    changed, which nobody can set, cannot.
    """

    n_bytes: int
    """Size."""
    mtime_ns: int
    """When it was last written, in ns since 1970."""
    ctime_ns: int
    """When its name, rights or content last changed."""
    inode: int
    """Its number on its disk."""

    def to_json(self) -> dict[str, int]:
        """Return plain JSON values."""
        return asdict(self)


def stamp_of(path: Path) -> FileStamp | None:
    """Return the stamp of a slide; None of one that is, or may be, of several files."""
    if path.suffix.lower() in _OF_SEVERAL_FILES or not path.is_file():
        return None
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
