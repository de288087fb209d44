"""What a slide file is recognised by, wherever it lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK_BYTES = 2**18
_N_BLOCKS = 1024
HAMAMATSU_SUFFIXES = frozenset({".vms", ".vmu"})
"""Slides that are a text file, which names JPEG or raw files beside it."""


def fingerprint(*paths: Path) -> str:
    """Return the SHA-256 (hex) of the sizes of a slide's files and of blocks of their content.

    A file of at most 256 MiB is read whole; of a larger one 1,024 evenly spaced blocks of
    256 KiB, among them the first and the last.  For formats that keep their pixels beside the
    file, names and sizes of those files count too.  The path does not, nor do names and order
    of several files.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    each = sorted(_fingerprint_of_one(path) for path in paths)
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def _fingerprint_of_one(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(f"wsiseg slide 2\n{size}\n".encode())
    with path.open("rb") as file:
        for start in _block_starts(size):
            file.seek(start)
            digest.update(file.read(_BLOCK_BYTES))
    for companion in _companions(path):
        relative = companion.relative_to(path.parent)
        inner = relative.parts[1:] if len(relative.parts) > 1 else relative.parts
        digest.update(f"\n{'/'.join(inner)}\n{companion.stat().st_size}".encode())
    return digest.hexdigest()


def _block_starts(size: int) -> list[int]:
    if size <= _N_BLOCKS * _BLOCK_BYTES:
        return list(range(0, size, _BLOCK_BYTES))
    last = size - _BLOCK_BYTES
    return [last * i // (_N_BLOCKS - 1) for i in range(_N_BLOCKS)]


def _companions(path: Path) -> list[Path]:
    """Return the files that belong to a slide of several files, sorted by name."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        # MIRAX: the pixels are in a folder of the slide's name (without the suffix).
        return sorted(file for file in path.with_suffix("").rglob("*") if file.is_file())
    if suffix in HAMAMATSU_SUFFIXES:
        named = (path.parent / name for name in named_in_hamamatsu(path))
        return sorted(file for file in named if file.is_file() and file != path)
    return []


def named_in_hamamatsu(path: Path) -> set[str]:
    """Return what may be names of the files that a VMS or VMU slide is made of.

    It is an INI file, and some of its values are names of files beside it.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    lines = path.read_text("utf-8", "replace").splitlines()
    values = {line.partition("=")[2].strip() for line in lines} - {""}
    return {value for value in values if Path(value).name == value}
