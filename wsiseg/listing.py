"""Which slides a command means: files, folders of slides, and lists in CSV files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsiseg._folder_search import SLIDE_SUFFIXES, slides_below
from wsiseg._place import RUN_SUFFIX, checked_place, place_of_file
from wsiseg._slide_table import read_rows
from wsiseg.errors import UsageError

__all__ = [
    "LIST_SUFFIXES",
    "RUN_SUFFIX",
    "SLIDE_SUFFIXES",
    "TRAINING_RECORD",
    "SlideEntry",
    "list_slides",
    "refuse_same_place",
]

TRAINING_RECORD = "training.json"
"""In the folder of a training."""

LIST_SUFFIXES = frozenset({".csv", ".tsv"})
"""What is taken for a list of slides."""
_UNSAID = PurePosixPath()


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """A slide, and what its list says about it; None: what the command says."""

    path: Path
    """A file, or the folder of a DICOM slide; need not exist."""
    mpp: float | None = None
    """µm per pixel, if the file lacks it."""
    override_mpp: float | None = None
    """µm per pixel, against the file."""
    mpp_from_objective: bool | None = None
    """Take µm per pixel from the objective power."""
    model: str | None = None
    """Name of a shipped model, or a model folder."""
    roi: Path | None = None
    """GeoJSON file of the regions."""
    tissue: str | None = None
    """`auto`, `none`, or a GeoJSON file."""
    place: PurePosixPath = _UNSAID
    """Where below the output folder the results go, without `.wsiseg`; left out: the file
    name.  It cannot lead out of that folder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if self.roi is not None:
            object.__setattr__(self, "roi", Path(self.roi))
        place = place_of_file(self.path) if self.place == _UNSAID else checked_place(self.place)
        object.__setattr__(self, "place", place)


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry, and where it was found."""

    entry: SlideEntry
    where: str


def list_slides(
    paths: str | Path | Iterable[str | Path], out: str | Path | None = None
) -> list[SlideEntry]:
    """Return the slides that files, folders and lists name.

    A file is taken as it is, whatever its suffix, even if it does not exist: that slide fails
    later, alone.  A folder is searched, with the folders in it, for `SLIDE_SUFFIXES`, in order
    of name; hidden files and results are skipped.  Links to folders are followed, each folder
    searched once.  A folder that may not be searched is an entry too, which fails later, alone.
    A folder whose only slide files are DICOM's is one slide.  The data folder beside an MRXS
    file is part of that slide.  A `.csv` or `.tsv` file is a list of slides: a header with a
    column `slide` (or `path`, `file`, `filename`, `image`), and any of `mpp`, `override_mpp`,
    `mpp_from_objective`, `model`, `roi`, `tissue`, `place`; other columns are ignored, empty
    cells say nothing, and paths are relative to the list's folder.

    A slide's place is its path below the folder that was searched; in a list what the column
    `place` says, else the path in the list, if that is relative and without `..`; else the
    file name.

    Parameters
    ----------
    paths : str or Path, or several of them
        Files, folders and lists.
    out : str or Path, optional
        The folder for the results, which is not searched, if it lies in one that is.

    Raises
    ------
    UsageError
        If a folder holds no slide, a list cannot be used (names line and column), or the
        results of two slides would have one place.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    results = None if out is None else Path(out)
    found = [one for path in given for one in _expand(path, given, results)]
    refuse_same_place([one.entry for one in found], [one.where for one in found])
    return [one.entry for one in found]


def _expand(path: Path, given: list[Path], out: Path | None) -> Iterator[_Found]:
    if path.is_dir():
        for place in slides_below(path, given, out):
            if place == PurePosixPath():
                yield _Found(SlideEntry(path), "the command")
            else:
                yield _Found(SlideEntry(path / place, place=place), str(path))
    elif path.suffix.lower() in LIST_SUFFIXES:
        yield from (_Found(_entry(row.values), row.where) for row in read_rows(path))
    else:
        yield _Found(SlideEntry(path), "the command")


def _entry(values: dict[str, object]) -> SlideEntry:
    """Build an entry from a row whose values have been checked."""
    return SlideEntry(**values)  # type: ignore[arg-type]


def refuse_same_place(entries: list[SlideEntry], where: list[str] | None = None) -> None:
    """Raise UsageError if results of two slides would have the same place.

    Parameters
    ----------
    entries : list of SlideEntry
        All slides.
    where : list of str, optional
        What named each of them, for the message.
    """
    places: dict[PurePosixPath, int] = {}
    for number, entry in enumerate(entries):
        first = places.setdefault(entry.place, number)
        if first == number:
            continue
        other = entries[first]
        before, now = (where[first], f"{where[number]}: ") if where else ("before", "")
        if other.path.resolve() == entry.path.resolve():
            raise UsageError(
                f"{now}{entry.place} was named before ({before}); name each slide once"
            )
        raise UsageError(
            f"{now}the results of two slides would have one place, {entry.place} ({other.path} "
            f"and {entry.path}); give them different output folders, or different places in a "
            "list with a column place"
        )
