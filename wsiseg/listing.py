"""Which slides a command means: files, folders of slides, and lists in CSV files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsiseg._slide_table import read_rows
from wsiseg.errors import UsageError

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu"}
    | {".czi", ".dcm", ".png", ".jpg", ".jpeg"}
)
"""What is taken for a slide in a folder; files named one by one may have any."""
LIST_SUFFIXES = frozenset({".csv", ".tsv"})
"""What is taken for a list of slides."""


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if self.roi is not None:
            object.__setattr__(self, "roi", Path(self.roi))


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry, and where it was found."""

    entry: SlideEntry
    where: str


def list_slides(paths: Iterable[Path]) -> list[SlideEntry]:
    """Return the slides that files, folders and lists name, in their order.

    A file is taken as it is, whatever its suffix, even if it does not exist: that slide fails
    later, alone.  A folder is searched, without its folders, for `SLIDE_SUFFIXES`; hidden
    files are skipped.  A folder whose only slide files are DICOM's is one slide, and so is
    such a folder in a folder that is searched.  The data folder beside an MRXS file is part of
    that slide.  A `.csv` or `.tsv` file is a list of slides: a header with a column `slide`
    (or `path`, `file`, `filename`, `image`), and any of `mpp`, `override_mpp`,
    `mpp_from_objective`, `model`, `roi`, `tissue`; other columns are ignored, empty cells say
    nothing, and paths are relative to the list's folder.

    Raises
    ------
    UsageError
        If a folder holds no slide, a list cannot be used (names line and column), or two
        slides are the same or have one file name: their results would have one place.
    """
    given = list(paths)
    found = [one for path in given for one in _expand(path, given)]
    _refuse_same_place(found)
    return [one.entry for one in found]


def _expand(path: Path, given: list[Path]) -> Iterator[_Found]:
    if path.is_dir():
        yield from (_Found(SlideEntry(inside), str(path)) for inside in _search(path, given))
    elif path.suffix.lower() in LIST_SUFFIXES:
        yield from (_Found(_entry(row.values), row.where) for row in read_rows(path))
    else:
        yield _Found(SlideEntry(path), "the command")


def _entry(values: dict[str, object]) -> SlideEntry:
    """Build an entry from a row whose values have been checked."""
    return SlideEntry(**values)  # type: ignore[arg-type]


def _search(folder: Path, given: list[Path]) -> list[Path]:
    """Return the slides in a folder, or the folder if it is one."""
    index = folder.parent / f"{folder.name}.mrxs"
    if index.is_file():
        # A shell's `slides/*` names the data folder beside its slide.
        if index in given:
            return []
        raise UsageError(f"{folder} is the data folder of an MRXS slide; give {index.name}")
    if _is_result(folder):
        raise UsageError(f"{folder} holds results, no slides; give the folder of the slides")
    content = _visible(folder)
    if _is_dicom(content):
        return [folder]
    _refuse_mixed(folder, content)
    found = [path for path in content if _is_slide(path)]
    if not found:
        raise UsageError(
            f"{folder} holds no slide; files ending in {', '.join(sorted(SLIDE_SUFFIXES))} "
            "are looked for, not in folders within"
        )
    return found


def _is_slide(path: Path) -> bool:
    if path.is_dir():
        # What may not be read is refused if it was named, not if it lies beside slides.
        if _is_result(path) or not os.access(path, os.R_OK | os.X_OK):
            return False
        content = _visible(path)
        if _is_dicom(content):
            return True
        _refuse_mixed(path, content)
        return False
    return path.suffix.lower() in SLIDE_SUFFIXES


def _is_dicom(content: list[Path]) -> bool:
    """Return whether these are the files of one DICOM slide, and none of another slide."""
    slides = [path for path in content if path.is_file() and path.suffix.lower() in SLIDE_SUFFIXES]
    return bool(slides) and all(path.suffix.lower() == ".dcm" for path in slides)


def _refuse_mixed(folder: Path, content: list[Path]) -> None:
    """Raise UsageError for several DICOM files beside other slides.

    One is a slide like any other; of several nobody can tell which belong together.
    """
    mixed = [path for path in content if path.suffix.lower() == ".dcm" and path.is_file()]
    if len(mixed) > 1:
        raise UsageError(
            f"{folder} holds DICOM files ({mixed[0].name}) and other slides; put the files of each "
            "DICOM slide into a folder of its own"
        )


def _is_result(folder: Path) -> bool:
    return folder.resolve().suffix == ".wsiseg" or os.path.isfile(folder / "run.json")  # noqa: PTH113 - no error where one may not look


def _visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, by name."""
    try:
        # macOS leaves `._name` beside a file on some disks.
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be searched ({error.strerror}); check who may read it"
        ) from error


def _refuse_same_place(found: list[_Found]) -> None:
    """Raise UsageError if results of two slides would have the same name."""
    places: dict[str, _Found] = {}
    for one in found:
        path = one.entry.path.absolute()
        first = places.setdefault(path.name, one)
        if first is one:
            continue
        if first.entry.path.resolve() == path.resolve():
            raise UsageError(
                f"{one.where}: {path.name} was named before ({first.where}); name each slide once"
            )
        raise UsageError(
            f"{one.where}: two slides are called {path.name} ({first.entry.path} and "
            f"{one.entry.path}); their results would have the same place: give them different "
            "output folders"
        )
