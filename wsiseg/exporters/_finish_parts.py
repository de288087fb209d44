"""Several files that appear together, complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wsiseg.exporters._finish import _sync_file, _writing
from wsiseg.rundir import sync_directory, temporary


@contextmanager
def finished_files(
    destination: Path, paths_of: Callable[[int], list[Path]]
) -> Iterator[Callable[[], Path]]:
    """Give a function that names the next temporary file; on success they get their names.

    Parameters
    ----------
    destination
        What messages call the whole; the files lie in its folder.
    paths_of
        Gives the names of so many files; asked when all are written.

    Raises
    ------
    OutputNotWritable
        If the operating system refuses to write; no file is left then.
    """
    partials: list[Path] = []
    with temporary(destination) as folder:

        def next_file() -> Path:
            partials.append(folder / str(len(partials)))
            return partials[-1]

        try:
            with _writing(destination):
                folder.mkdir()
                yield next_file
                for partial in partials:
                    _sync_file(partial)
                _rename_all(partials, paths_of(len(partials)))
                sync_directory(destination.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _rename_all(partials: list[Path], paths: list[Path]) -> None:
    done: list[Path] = []
    try:
        for partial, path in zip(partials, paths, strict=True):
            partial.rename(path)
            done.append(path)
    except OSError:
        for path in done:
            path.unlink(missing_ok=True)
        raise
