"""Searching a folder, and those in it, for slides."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from wsiseg._place import RUN_SUFFIX
from wsiseg.errors import UsageError
from wsiseg.slides.fingerprint import HAMAMATSU_SUFFIXES, named_in_hamamatsu

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu"}
    | {".czi", ".dcm", ".png", ".jpg", ".jpeg"}
)
"""What is taken for a slide in a folder; files named one by one may have any."""
_MRXS = ".mrxs"
_DICOM = ".dcm"
_ANNOTATIONS = ".ann.dcm"
"""End of the names that exported annotations have: DICOM, and no slide."""
_RUN_FORMAT = "wsiseg-run"
_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Content:
    """What lies in one folder, hidden things left out; each in order of name."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    links: tuple[str, ...]
    """To folders."""
    is_result: bool
    """Whether a run has left this."""

    @property
    def slides(self) -> list[str]:
        """Files that are taken for slides."""
        return [
            name
            for name in self.files
            if _suffix(name) in SLIDE_SUFFIXES and not name.lower().endswith(_ANNOTATIONS)
        ]

    @property
    def is_dicom(self) -> bool:
        """Whether these are the files of one DICOM slide, and none of another slide."""
        return bool(self.slides) and all(_suffix(name) == _DICOM for name in self.slides)

    @property
    def mrxs_folders(self) -> set[str]:
        """Names of the data folders of MRXS slides."""
        return {name[: -len(_MRXS)] for name in self.files if _suffix(name) == _MRXS}


@dataclass(slots=True)
class _Search:
    """How far a search is."""

    root: Path
    seen: set[_Identity]
    """Folders that need no search, or no second one."""
    found: list[PurePosixPath] = field(default_factory=list)
    links: list[PurePosixPath] = field(default_factory=list)
    """Links to folders, which are searched after all folders: a slide has the place of its
    own folder, whatever links to that."""


def slides_below(folder: Path, given: Sequence[Path], out: Path | None) -> list[PurePosixPath]:
    """Return the slides in a folder and those in it, relative to it, in order.

    Parameters
    ----------
    folder : Path
        Where to search; if it is a DICOM slide itself, that is an empty path.
    given : sequence of Path
        What else was named: a shell's `slides/*` names an MRXS slide's data folder beside it.
    out : Path, optional
        Is not searched, unless it is the folder itself.

    Raises
    ------
    UsageError
        If the folder cannot be searched, holds results, or no slide; or if DICOM files lie among
        other slides, so that nobody can tell which belong together.
    """
    index = folder.parent / f"{folder.name}{_MRXS}"
    if index.is_file():
        if index in given:
            return []
        raise UsageError(f"{folder} is the data folder of an MRXS slide; give {index.name}")
    try:
        content = _look(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be searched ({error.strerror}); check who may read it"
        ) from error
    if content.is_result or folder.resolve().suffix == RUN_SUFFIX:
        raise UsageError(f"{folder} holds results, no slides; give the folder of the slides")
    search = _Search(folder, {_identity(folder)})
    if out is not None and out.is_dir():
        search.seen.add(_identity(out))
    _search_all(search, content)
    if not search.found:
        raise UsageError(
            f"{folder} holds no slide; files ending in {', '.join(sorted(SLIDE_SUFFIXES))} "
            "are looked for, also in folders within"
        )
    return sorted(search.found, key=lambda place: place.parts)


def _search_all(search: _Search, content: _Content) -> None:
    """Search the folders, then what links lead to and was not among them."""
    waiting = _take(search, PurePosixPath(), content)
    while waiting or search.links:
        if not waiting:
            search.links.sort(key=lambda place: place.parts)
            waiting.append(search.links.pop(0))
        place = waiting.pop()
        path = search.root / place
        try:
            identity = _identity(path)
            if identity in search.seen:
                continue
            search.seen.add(identity)
            inside = _look(path)
        except OSError:
            # It may hold slides, so it is not passed over: opening it fails, and says why.
            search.found.append(place)
            continue
        if not inside.is_result:
            waiting += _take(search, place, inside)


def _take(search: _Search, place: PurePosixPath, content: _Content) -> list[PurePosixPath]:
    """Note what a folder holds; return the folders that are still to be searched."""
    if content.is_dicom:
        search.found.append(place)
    else:
        _refuse_mixed(search.root / place, content)
        search.found += [place / name for name in content.slides]
    parts_of_slides = content.mrxs_folders
    search.links += [place / name for name in content.links if name not in parts_of_slides]
    return [place / name for name in content.folders if name not in parts_of_slides]


def _refuse_mixed(folder: Path, content: _Content) -> None:
    """Raise UsageError for several DICOM files beside other slides.

    One is a slide like any other; of several nobody can tell which belong together.
    """
    mixed = [name for name in content.slides if _suffix(name) == _DICOM]
    if len(mixed) > 1 and not content.is_dicom:
        raise UsageError(
            f"{folder} holds DICOM files ({mixed[0]}) and other slides; put the files of each "
            "DICOM slide into a folder of its own"
        )


def _look(folder: Path) -> _Content:
    """Return what lies in a folder."""
    kinds: dict[str, list[str]] = {"file": [], "folder": [], "link": []}
    with os.scandir(folder) as entries:
        for entry in entries:
            # macOS leaves `._name` beside a file on some disks.
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                kinds["file"].append(entry.name)
            elif not entry.name.endswith(RUN_SUFFIX):
                kinds["link" if entry.is_symlink() else "folder"].append(entry.name)
    parts_of_slides = _parts_of_hamamatsu(folder, kinds["file"])
    kinds["file"] = [name for name in kinds["file"] if name not in parts_of_slides]
    files, folders, links = (tuple(sorted(names)) for names in kinds.values())
    return _Content(files, folders, links, "run.json" in files and _is_run(folder / "run.json"))


def _parts_of_hamamatsu(folder: Path, names: Sequence[str]) -> set[str]:
    """Return the images that Hamamatsu's slides of a folder are made of."""
    parts: set[str] = set()
    for name in names:
        if _suffix(name) in HAMAMATSU_SUFFIXES:
            # One that cannot be read is found, and opening it says why.
            with suppress(OSError):
                parts |= named_in_hamamatsu(folder / name)
    return {part for part in parts if _suffix(part) not in HAMAMATSU_SUFFIXES}


def _is_run(run_json: Path) -> bool:
    """Return whether a run has written a file of this name, as other programs do as well."""
    try:
        said = json.loads(run_json.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("format") == _RUN_FORMAT


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads nowhere, or round in a circle.
        return False


def _identity(folder: Path) -> _Identity:
    """Return what a folder is, by whichever path."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each file is slow
