"""Opening a slide with the first reader that can."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import cast

from wsiseg.errors import MissingDependency, SlideNotReadable, UnknownFormat
from wsiseg.plugins import load_plugin, plugin_names
from wsiseg.slides.protocol import Slide
from wsiseg.slides.tiff import is_tiff
from wsiseg.slides.tiff_levels import has_hidden_levels

BUILT_IN: tuple[str, ...] = ("openslide", "tiffslide", "image")
"""Our readers, in the order in which they are asked."""
_READS_FOLDERS: tuple[str, ...] = ("openslide",)
_FOR_HIDDEN_LEVELS: tuple[str, ...] = ("image", "tiffslide", "openslide")
"""The order for pyramids of which OpenSlide sees the finest level only."""


def open_slide(path: Path | str, reader: str | None = None) -> Slide:
    """Open a whole-slide or plain image.

    Parameters
    ----------
    path
        A file; for formats of several files (MRXS) the one that is opened in viewers, of a
        DICOM series any file with pixels of the slide.  Or a folder that holds one DICOM
        series; the slide then has the folder's name.
    reader
        Name of the plug-in to read it with.  None: OpenSlide, tiffslide, the reader of
        plain images, then those of other packages, are asked in turn; of a TIFF pyramid
        whose levels OpenSlide does not see, the reader of images first.

    Raises
    ------
    SlideNotReadable
        If the file is missing, empty or damaged, or no reader knows it; one line.
    UnknownName
        If there is no reader of that name.
    MissingDependency
        If the named reader needs a package that is not installed.
    """
    path = Path(path)
    if path.name in {"", ".."}:
        # "." and the like: the slide is called as the folder is.
        path = path.resolve()
    if reader is not None and reader not in BUILT_IN:
        return _open_with(path, reader)
    _refuse_no_slide(path)
    if reader is not None:
        _refuse_folder(path, reader)
        return _open_with(path, reader)
    return _open_with_first(path)


def _open_with_first(path: Path) -> Slide:
    """Ask one reader after the other; if none can, give the reason of one who knows the format."""
    ours = BUILT_IN
    if path.is_dir():
        ours = _READS_FOLDERS
    elif is_tiff(path) and has_hidden_levels(path):
        ours = _FOR_HIDDEN_LEVELS
    asked = (*ours, *(name for name in plugin_names("wsiseg.slides") if name not in BUILT_IN))
    reasons: list[SlideNotReadable] = []
    for name in asked:
        try:
            return _open_with(path, name)
        except (UnknownFormat, MissingDependency):
            continue
        except SlideNotReadable as error:
            reasons.append(error)
    if reasons:
        raise reasons[0]
    raise SlideNotReadable(
        f"{_shown(path)}: no reader can open it ({', '.join(asked)} were asked); a whole-slide "
        "file, or an image in PNG, JPEG or TIFF, is needed: export it as a tiled pyramidal TIFF"
    )


def _open_with(path: Path, reader: str) -> Slide:
    try:
        return cast("Slide", load_plugin("wsiseg.slides", reader)(path))
    except OSError as error:
        if isinstance(error, SlideNotReadable):
            said = str(error)
        else:
            said = f"{_shown(path)} cannot be read ({error.strerror or error}); try again"
        # Libraries quote names and paths, and break lines.
        said = " ".join(said.replace(f"{path.absolute().parent}/", "").split())
        kind = UnknownFormat if isinstance(error, UnknownFormat) else SlideNotReadable
        raise kind(said) from error


def _shown(path: Path) -> str:
    """Return a path's name on one line."""
    return " ".join(path.name.split()) or str(path)


def _refuse_no_slide(path: Path) -> None:
    """Refuse what is missing, empty, or neither a file nor a folder, without opening it first."""
    name = _shown(path)
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise SlideNotReadable(f"{shown}: its name is not UTF-8; rename the file") from error
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            next(path.iterdir(), None)
            return
        # Opening a named pipe would wait for a writer.
        if not stat.S_ISREG(mode):
            raise SlideNotReadable(f"{name} is no regular file; one slide file is needed")
        with path.open("rb") as file:
            first = file.read(1)
    except SlideNotReadable:
        raise
    except FileNotFoundError as error:
        raise SlideNotReadable(_missing(path, name)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SlideNotReadable(
            f"{name} cannot be read ({reason}); check the path, and that you may read it"
        ) from error
    if not first:
        raise SlideNotReadable(f"{name}: is empty (0 bytes); a slide file is needed: copy it again")


def _refuse_folder(path: Path, reader: str) -> None:
    if path.is_dir() and reader not in _READS_FOLDERS:
        raise SlideNotReadable(
            f"{_shown(path)}: is a folder; the reader {reader!r} needs one file (only "
            f"{', '.join(_READS_FOLDERS)} reads a folder, of one DICOM series)"
        )


def _missing(path: Path, name: str) -> str:
    if path.is_symlink():
        return f"{name} is a link to a file that does not exist; check where it points"
    return f"{name} does not exist; check the path"
