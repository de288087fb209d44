"""Files and directories that appear by rename only, complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsiseg.errors import OutputExists, OutputNotWritable, WsisegError
from wsiseg.rundir import sync_directory, temporary


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
    with temporary(destination) as partial:
        try:
            with _writing(destination):
                yield partial
                _sync_file(partial)
                partial.replace(destination)
                sync_directory(destination.parent)
        finally:
            # What cannot be removed must not hide why.
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def finished_directory(destination: Path) -> Iterator[Path]:
    """Give an empty temporary neighbour; on success it becomes `destination`.

    A directory with content that has come there meanwhile stays, and the temporary one goes: a
    directory can only be replaced by first moving the other away, so that for a moment, or for
    ever if the process is killed then, there would be none.  After a failure nothing has changed.

    Raises
    ------
    OutputNotWritable
        If the operating system refuses to write, or somebody deletes the temporary directory.
    """
    with temporary(destination) as partial:
        try:
            with _writing(destination):
                partial.mkdir()
                with _the_same_at_the_end(partial):
                    yield partial
                    _sync_tree(partial)
                _rename_unless_there(partial, destination)
                sync_directory(destination.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(destination: Path) -> None:
    """Raise OutputExists if something is at `destination`."""
    if destination.exists() or destination.is_symlink():
        raise OutputExists(
            f"{destination} exists already and is not overwritten; "
            "delete it first or choose another name"
        )


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


@contextmanager
def _the_same_at_the_end(folder: Path) -> Iterator[None]:
    """Raise FileNotFoundError if somebody deletes a folder, even if it was made anew.

    Libraries do that when they write into it, and then it lacks what they wrote before.
    """
    if os.name != "posix":  # other systems cannot open a directory
        yield
        return
    # While it is open no other gets its number.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield
        if not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    finally:
        os.close(descriptor)


def _rename_unless_there(partial: Path, destination: Path) -> None:
    """Rename a directory, unless one with content is there: one step, also on a network disk."""
    try:
        partial.rename(destination)
    except OSError as error:
        # Windows says so of an empty one too.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not destination.is_dir():
            raise


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(parent, name))
        sync_directory(Path(parent))


def _sync_file(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())
