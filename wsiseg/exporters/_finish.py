"""Files and directories that appear by rename only, complete or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsiseg.errors import OutputExists, OutputNotWritable, WsisegError


@contextmanager
def finished_file(destination: Path) -> Iterator[Path]:
    """Give the path of a temporary neighbour; on success it becomes `destination`.

    An older `destination` is replaced; after a failure it is as it was, and the temporary
    file is gone.

    Raises
    ------
    OutputNotWritable
        If the operating system refuses to write.
    """
    partial = _neighbour(destination)
    try:
        with _writing(destination):
            yield partial
            _sync_file(partial)
            partial.replace(destination)
            _sync_directory(destination.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def finished_directory(destination: Path) -> Iterator[Path]:
    """Give an empty temporary neighbour; on success it becomes `destination`.

    An older `destination` is replaced; after a failure it is as it was, and the temporary
    directory is gone.

    Raises
    ------
    OutputNotWritable
        If the operating system refuses to write.
    """
    partial = _neighbour(destination)
    try:
        with _writing(destination):
            partial.mkdir()
            yield partial
            _sync_tree(partial)
            _replace_directory(partial, destination)
            _sync_directory(destination.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(destination: Path) -> None:
    """Raise OutputExists if something is at `destination`."""
    if destination.exists() or destination.is_symlink():
        raise OutputExists(
            f"{destination} exists already and is not overwritten; "
            "delete it first or choose another name"
        )


def _neighbour(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def _writing(destination: Path) -> Iterator[None]:
    """Turn the operating system's refusals into OutputNotWritable."""
    try:
        yield
    except OSError as error:
        # Our own errors (a slide that cannot be read) may be OSErrors and say more.
        if isinstance(error, WsisegError):
            raise
        raise OutputNotWritable(
            f"{destination.name} could not be written ({error.strerror}); check that its folder "
            "exists and is writable and that the disk has space, then run the same command again"
        ) from error


def _replace_directory(partial: Path, destination: Path) -> None:
    """Rename `partial` to `destination`; a directory can only be replaced by moving it away."""
    if not destination.exists():
        partial.rename(destination)
        return
    older = _neighbour(destination)
    destination.rename(older)
    partial.rename(destination)
    shutil.rmtree(older)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(parent, name))
        _sync_directory(Path(parent))


def _sync_file(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _sync_directory(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a directory
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
