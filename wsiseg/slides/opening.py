"""Opening a slide with the first reader that can."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from wsiseg.errors import MissingDependency, SlideNotReadable
from wsiseg.plugins import load_plugin, plugin_names
from wsiseg.slides.protocol import Slide

BUILT_IN = ("openslide", "tiffslide", "image")
"""Our readers, in the order in which they are asked."""


def open_slide(path: Path | str, reader: str | None = None) -> Slide:
    """Open a whole-slide or plain image.

    Parameters
    ----------
    path
        A file; for formats of several files (MRXS) the one that is opened in viewers.
    reader
        Name of the plug-in to read it with.  None: OpenSlide, tiffslide, the reader of
        plain images, then those of other packages, are asked in turn.

    Raises
    ------
    SlideNotReadable
        If the file is missing, empty or damaged, or no reader knows it.
    UnknownName
        If there is no reader of that name.
    MissingDependency
        If the named reader needs a package that is not installed.
    """
    path = Path(path)
    if reader is None or reader in BUILT_IN:
        _refuse_non_file(path)
    if reader is not None:
        return cast("Slide", load_plugin("wsiseg.slides", reader)(path))
    others = [name for name in plugin_names("wsiseg.slides") if name not in BUILT_IN]
    said: dict[str, list[str]] = {}
    for name in (*BUILT_IN, *others):
        try:
            return cast("Slide", load_plugin("wsiseg.slides", name)(path))
        except (SlideNotReadable, MissingDependency) as error:
            sentence = str(error).removeprefix(f"{path.name}: ")
            said.setdefault(sentence, []).append(name)
    raise SlideNotReadable(_nobody_reads(path, said))


def _nobody_reads(path: Path, said: dict[str, list[str]]) -> str:
    reasons = "".join(f"\n  {', '.join(names)}: {text}" for text, names in said.items())
    return (
        f"{path.name}: no reader can open it; an H&E slide or image in 8-bit RGB is needed:"
        f"{reasons}\nIf a viewer shows it, export it as a tiled pyramidal TIFF and try that."
    )


def _refuse_non_file(path: Path) -> None:
    if path.is_dir():
        raise SlideNotReadable(
            f"{path} is a folder; one slide file is needed (of an MRXS slide: the .mrxs file "
            "beside the folder)"
        )
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError as error:
        raise SlideNotReadable(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise SlideNotReadable(f"{path} cannot be read: {error.strerror or error}") from error
    if not first:
        raise SlideNotReadable(f"{path.name}: is empty (0 bytes): copy it again")
