"""Files of annotated images: found, paired and opened."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsiseg.errors import (
    LabelsNotReadable,
    MissingDependency,
    MissingScale,
    ScaleRefused,
    SlideNotReadable,
)
from wsiseg.listing import RUN_SUFFIX, SLIDE_SUFFIXES, TRAINING_RECORD
from wsiseg.scale import CONTRADICTION, ScaleOptions, resolve_scale
from wsiseg.slides.opening import open_slide
from wsiseg.slides.protocol import Slide, SlideInfo

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
IMAGE_SUFFIXES = PICTURE_SUFFIXES | SLIDE_SUFFIXES
_DEEPEST = 3
_MOST_NAMED = 3
_LARGEST_PX = 1 << 27
_DAMAGED_MAT = (OSError, ValueError, TypeError, LookupError, EOFError, zlib.error)
"""What reading a damaged MATLAB file may end in, deep inside."""


def files_below(folder: Path, suffixes: Iterable[str], deepest: int = _DEEPEST) -> list[Path]:
    """Return files with one of some suffixes (in lower case), by path; hidden ones are left out."""
    wanted = frozenset(suffixes)
    return sorted(path for path in _walk(folder, deepest) if path.suffix.lower() in wanted)


def images_below(folder: Path) -> dict[str, Path]:
    """Return the images of a set by file name without suffix.

    Where folders are called after images, pictures elsewhere are masks or overlays.

    Raises
    ------
    LabelsNotReadable
        If two have the same name.
    """
    found = files_below(folder, IMAGE_SUFFIXES)
    inside = [
        path
        for path in found
        if any("image" in part.lower() for part in path.parent.relative_to(folder).parts)
    ]
    return by_stem(inside or found, "images")


def _walk(folder: Path, deepest: int) -> Iterator[Path]:
    try:
        inside = list(folder.iterdir())
    except OSError as error:
        raise LabelsNotReadable(
            f"{folder} cannot be looked into ({error.strerror}); see that you may read it"
        ) from error
    for path in inside:
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.is_file():
            yield path
        elif deepest and path.is_dir() and not _is_ours(path):
            yield from _walk(path, deepest - 1)


def _is_ours(folder: Path) -> bool:
    """Return whether a folder was written by us: pictures in it are no annotated images."""
    return folder.suffix == RUN_SUFFIX or (folder / TRAINING_RECORD).is_file()


def by_stem(paths: Sequence[Path], what: str) -> dict[str, Path]:
    """Return paths by file name without suffix.

    Raises
    ------
    LabelsNotReadable
        If two have the same.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise LabelsNotReadable(
                f"two {what} are called {path.stem}: {found[path.stem]} and {path}; give each a "
                "name of its own, or keep one"
            )
        found[path.stem] = path
    return found


def refuse_unpaired(
    images: Iterable[str], labels: Iterable[str], where: Path, labels_are: str
) -> None:
    """Refuse images without labels, and labels without an image.

    Parameters
    ----------
    images, labels : iterable of str
        Names without suffix.
    where : Path
        The set's folder.
    labels_are : str
        What its labels are, for messages.

    Raises
    ------
    LabelsNotReadable
        If there is any, or nothing at all.
    """
    names, labelled = set(images), set(labels)
    if not names and not labelled:
        raise LabelsNotReadable(
            f"{where} is empty; images and {labels_are} with the same names are needed"
        )
    for alone, has_no in ((names - labelled, labels_are), (labelled - names, "image")):
        if alone:
            raise LabelsNotReadable(
                f"{where}: {named(sorted(alone))} {'have' if len(alone) > 1 else 'has'} no "
                f"{has_no}; images and labels with the same names are needed: add what is "
                "missing, or take the others out"
            )


def named(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def open_picture(path: Path) -> Slide:
    """Open an image or a slide.

    Raises
    ------
    LabelsNotReadable
        If it is none that can be read.
    """
    try:
        return open_slide(path)
    except (SlideNotReadable, MissingDependency) as error:
        raise LabelsNotReadable(f"{path}: {error}") from error


def read_rgb(path: Path) -> tuple[NDArray[np.uint8], SlideInfo]:
    """Return a whole image, (h, w, 3), and what its file says.

    Raises
    ------
    LabelsNotReadable
        If it cannot be read, or is a whole slide.
    """
    with open_picture(path) as slide:
        info = slide.info
        if info.width_px * info.height_px > _LARGEST_PX:
            raise LabelsNotReadable(
                f"{path}: has {info.width_px:,} × {info.height_px:,} px, so it is a slide; "
                f"images of up to {_LARGEST_PX:,} px are read whole: annotate regions of it in "
                "QuPath and give the GeoJSON"
            )
        try:
            return np.ascontiguousarray(slide.read_level(0, info.bounds)), info
        except SlideNotReadable as error:
            raise LabelsNotReadable(f"{path}: {error}") from error


def stated_mpp(info: SlideInfo, given: float | None, beside: float | None = None) -> float | None:
    """Return an image's µm per pixel by its file or one beside it, or as given if none says it.

    Raises
    ------
    ScaleRefused
        If the two differ by more than 2 %, or pixels are not square.
    """
    mpp_x, mpp_y = (beside if mpp is None else mpp for mpp in (info.mpp_x, info.mpp_y))
    if mpp_x is None or mpp_y is None:
        return given
    try:
        found = resolve_scale(info.name, mpp_x, mpp_y, info.objective_power, ScaleOptions()).mpp
    except ScaleRefused as error:
        # What `segment` has an option for must be put right in the file here.
        said = str(error).rpartition(";")[0]
        raise ScaleRefused(f"{said}; correct the file, or resample the image") from error
    if given is not None and abs(given - found) > CONTRADICTION * found:
        raise ScaleRefused(
            f"{info.name}: mpp {given:g} contradicts the file's {found:g} µm/px; leave mpp out, "
            "say it of those sets alone whose files do not (mpp = in a TOML file), or "
            "correct the file"
        )
    return found


def needed_mpp(mpp: float | None, where: object) -> float:
    """Return µm per pixel, or raise MissingScale if it is not known."""
    if mpp is None:
        raise MissingScale(
            f"{where}: its files do not say how many µm a pixel has; give it with --mpp, or as "
            "mpp = in a TOML file that describes the set"
        )
    return mpp


def read_label_picture(path: Path) -> NDArray[Any]:
    """Return the numbers of a label image as they are in its file.

    Raises
    ------
    LabelsNotReadable
        If it is no image.
    """
    try:
        with Image.open(path) as picture:
            is_jpeg = picture.format == "JPEG" or picture.info.get("compression") == "jpeg"
            numbers = np.asarray(picture)
    except (
        *(UnidentifiedImageError, Image.DecompressionBombError),
        *(OSError, SyntaxError, ValueError),
    ) as error:
        raise LabelsNotReadable(
            f"{path}: is no label image that can be read ({_short(error)}); a PNG or TIFF with one "
            "whole number per pixel is needed"
        ) from error
    if is_jpeg:
        raise LabelsNotReadable(
            f"{path}: is a JPEG, which changes the numbers of a label image; export it anew as "
            "PNG, or as TIFF without JPEG"
        )
    return numbers


def read_mat(path: Path, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """Return some variables of a MATLAB file, those that are there.

    Raises
    ------
    LabelsNotReadable
        If it cannot be read.
    """
    # Scipy takes long to import.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found: Mapping[str, NDArray[Any]] = loadmat(path, variable_names=list(names))
    except NotImplementedError as error:
        raise LabelsNotReadable(
            f"{path}: is of MATLAB 7.3, which is not read; save it with -v7"
        ) from error
    except (MatReadError, *_DAMAGED_MAT) as error:
        raise LabelsNotReadable(
            f"{path}: is no MATLAB file that can be read ({_short(error)}); copy it again"
        ) from error
    return found


def mat_variables(path: Path) -> frozenset[str]:
    """Return the names of the variables in a MATLAB file; none if it is not readable."""
    from scipy.io import whosmat
    from scipy.io.matlab import MatReadError

    try:
        return frozenset(name for name, *_ in whosmat(path))
    except (MatReadError, NotImplementedError, *_DAMAGED_MAT):
        return frozenset()


def open_npy(path: Path, n_dimensions: int, wanted: str) -> NDArray[Any]:
    """Return an array of a `.npy` file, left on disk.

    Parameters
    ----------
    path : Path
        The file.
    n_dimensions : int
        How many it must have.
    wanted : str
        Its shape in words, for messages.

    Raises
    ------
    LabelsNotReadable
        If it cannot be read, holds no numbers, or has another number of dimensions.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LabelsNotReadable(
            f"{path}: is no .npy array that can be read ({_short(error)}); {wanted} is needed"
        ) from error
    if array.ndim != n_dimensions or array.dtype.kind not in "buif":
        raise LabelsNotReadable(
            f"{path}: has the shape {array.shape} of {array.dtype}; {wanted} is needed"
        )
    return array


def rgb_of_array(pixels: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return one image of an array of any type as bytes.

    Raises
    ------
    LabelsNotReadable
        If its values are not whole numbers from 0 to 255, such as shares from 0 to 1.
    """
    if pixels.dtype == np.uint8:
        return np.array(pixels)
    whole = np.rint(pixels)
    low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    if not (low >= 0 and 1 < high <= 255 and (whole == pixels).all()) and high != 0:
        raise LabelsNotReadable(
            f"{where}: has values from {low:g} to {high:g}; RGB in whole numbers from 0 to 255 is "
            "needed"
        )
    found: NDArray[np.uint8] = whole.astype(np.uint8)
    return found


def refuse_other_size(
    image: tuple[int, ...], labels: tuple[int, ...], image_is: object, labels_are: object
) -> None:
    """Refuse labels of another size than their image.

    Parameters
    ----------
    image, labels : (int, int, …)
        Height and width.
    image_is, labels_are
        What messages call them.

    Raises
    ------
    LabelsNotReadable
        If they differ.
    """
    if image[:2] != labels[:2]:
        raise LabelsNotReadable(
            f"{labels_are} has {labels[1]} × {labels[0]} px and {image_is} {image[1]} × "
            f"{image[0]} px (width × height); labels of the image's size are needed"
        )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
