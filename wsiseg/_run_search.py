"""Finding runs by path, folder or glob."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsiseg.errors import ResultNotReadable


def find_results(path_or_glob: str | Path | Sequence[str | Path]) -> list[Path]:
    """Find runs: given themselves, in folders (at any depth), or by globs.

    Parameters
    ----------
    path_or_glob
        A run, a folder of runs, a glob (`**` for any depth), or several of them.

    Returns
    -------
    list of Path
        Sorted, each run once; unfinished ones too.

    Raises
    ------
    ResultNotReadable
        If one of them leads to no run.
    """
    given = [path_or_glob] if isinstance(path_or_glob, (str, Path)) else list(path_or_glob)
    if not given:
        raise ResultNotReadable("no path was given; give a run, a folder of runs, or a glob")
    found: dict[Path, Path] = {}
    for pattern in given:
        runs = [run for start in _starts(pattern) for run in _runs_below(start)]
        if not runs:
            raise ResultNotReadable(
                f"no run (*.wsiseg folder) at {pattern}; give a run, a folder of runs, or a glob"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return sorted(found.values())


def _starts(pattern: str | Path) -> list[Path]:
    """Return the existing path, or what matches the glob; names may hold brackets."""
    if Path(pattern).exists():
        return [Path(pattern)]
    return [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207


def _runs_below(start: Path) -> Iterator[Path]:
    """Yield the runs in a folder; never looks into a run, which may hold many files."""
    if _is_run(start):
        yield start
        return
    for folder, names, _ in os.walk(start):
        for name in list(names):
            if _is_run(Path(folder, name)):
                names.remove(name)
                yield Path(folder, name)


def _is_run(path: Path) -> bool:
    return path.is_dir() and (path.suffix == ".wsiseg" or (path / "run.json").is_file())
