"""Whether a slide's file is still the one it was, without reading it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

_OF_SEVERAL_FILES = frozenset({".mrxs", ".vms", ".vmu", ".dcm"})
"""Formats that keep pixels in files beside the one that is named."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size and time of a file.  Two of one file are equal unless it was written in between."""

    n_bytes: int
    """Size."""
    mtime_ns: int
    """When it was last written, in ns since 1970."""

    def to_json(self) -> dict[str, int]:
        """Return plain JSON values."""
        return asdict(self)


def stamp_of(path: Path) -> FileStamp | None:
    """Return the stamp of a slide; None of one that is, or may be, of several files."""
    if path.suffix.lower() in _OF_SEVERAL_FILES or not path.is_file():
        return None
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)
