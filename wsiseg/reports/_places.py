"""What runs are called on pages, and where their pages go; places nobody named are left alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wsiseg.errors import OutputNotWritable

GENERATOR = '<meta name="generator" content="wsiseg">'
"""Stands near the beginning of every page, and tells them from others' files."""
_BEGINNING = 4096
_MOST_BYTES = 120
"""Of one part of a name, so that an ending and a number fit into the 255 a disk takes."""
_NOT_ON_DISKS = re.compile(r'[<>:"|?*\\]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for itself, with any ending."""


def folders_given(places: Sequence[str | Path], runs: Sequence[Path]) -> list[Path]:
    """Return the folders of runs among what was given; neither runs nor globs."""
    return [Path(p) for p in places if Path(p).is_dir() and Path(p) not in runs]


def names_of_runs(runs: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Return what each run is called: as in `wsiseg.cohort_stats`, and never by an absolute path.

    Parameters
    ----------
    runs : sequence of Path
        Finished or not.
    folders : sequence of Path
        The folders that were given.

    Returns
    -------
    list of str
        The run's path below the folder that was given, without `.wsiseg`; of a run that was
        given itself its name.  Where that is not enough, with the name of the folder before it,
        or a number behind it.
    """
    found = [_below(run, folders) for run in runs]
    often = {name for name, n in Counter(name for _, name in found).items() if n > 1}
    names = [f"{folder}/{name}" if name in often and folder else name for folder, name in found]
    return _numbered(names)


def _below(run: Path, folders: Sequence[Path]) -> tuple[str, str]:
    """Return the name of the folder a run lies in, and its place there."""
    for folder in folders:
        if run.is_relative_to(folder):
            place = run.relative_to(folder).as_posix().removesuffix(".wsiseg")
            return folder.absolute().name, place
    absolute = run.absolute()
    return absolute.parent.name, absolute.name.removesuffix(".wsiseg")


def file_names(names: Sequence[str]) -> list[str]:
    """Return names as ones that any disk takes, apart from each other on those without case."""
    return _numbered(["/".join(map(_part, name.split("/"))) for name in names])


def _part(part: str) -> str:
    known = "".join(c if c.isprintable() else "_" for c in _NOT_ON_DISKS.sub("_", part))
    cut = known.encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    plain = cut.strip(" .") or "_"
    return f"_{plain}" if _DEVICES.match(plain) else plain


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names, a number behind those that are there already."""
    taken: set[str] = set()
    apart = []
    for name in names:
        one, number = name, 1
        while one.casefold() in taken:
            number += 1
            one = f"{name}-{number}"
        taken.add(one.casefold())
        apart.append(one)
    return apart


def check_replaceable(target: Path) -> None:
    """Raise OutputNotWritable if a file is there that is no page by wsiseg."""
    if not os.path.lexists(target):
        return
    try:
        with target.open("rb") as file:
            is_ours = GENERATOR.encode() in file.read(_BEGINNING)
    except OSError:
        is_ours = False
    if not is_ours:
        raise OutputNotWritable(
            f"{target} is there and no page by wsiseg; move it, or name another folder with --to"
        )
