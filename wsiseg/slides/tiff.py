"""What a TIFF file says about itself, whichever library reads its pixels."""

from __future__ import annotations

import itertools
import logging
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsiseg.errors import SlideNotReadable
from wsiseg.slides.protocol import on_white, premultiplied_on_white
from wsiseg.slides.truncation import truncation

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF file."""
LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What tifffile, zarr, codecs and XML raise on damaged or unknown files."""
# It logs what is odd in a file, and Python prints that if nobody listens; our errors say enough.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_COARSEST_MPP = 10.0
_UM_PER_UNIT = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}
_ONE_SLIDE = frozenset({"svs", "scn", "ndpi", "bif", "philips", "qpi"})
"""Formats of scanners, as tifffile names them: further images show the same slide."""
_MOST_PAGES = 4096
_RGB = {tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR}


def credible_mpp(value: object) -> float | None:
    """Return µm per pixel as a file gives it, or None if that cannot be a slide's.

    Missing, unreadable, zero, negative and endless values are no scale; nor is anything
    above 10 µm per pixel, which is the dots per inch of a screen or printer.
    """
    try:
        mpp = float(str(value))
    except ValueError:
        return None
    return mpp if math.isfinite(mpp) and 0 < mpp <= _COARSEST_MPP else None


def positive_number(value: object) -> float | None:
    """Return a number as a file gives it, or None if it is not a positive one."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


@dataclass(frozen=True, slots=True)
class OmeImage:
    """What an element Pixels of OME-XML says; 1 or 0 px where it does not.

    Specification: https://docs.openmicroscopy.org/ome-model/
    """

    width_px: int
    """SizeX."""
    height_px: int
    """SizeY."""
    n_z: int
    """Focal planes."""
    n_t: int
    """Time points."""
    n_c: int
    """Channels; each of red, green and blue is one."""


def ome_images(description: str) -> list[OmeImage]:
    """Return the images an OME-XML description lists, in order."""
    return [
        OmeImage(
            _whole_number(said, "SizeX", 0),
            _whole_number(said, "SizeY", 0),
            _whole_number(said, "SizeZ", 1),
            _whole_number(said, "SizeT", 1),
            _whole_number(said, "SizeC", 1),
        )
        for said in _ome_pixels(description)
    ]


def ome_mpp(description: str) -> tuple[float | None, float | None]:
    """Return µm per pixel in x and y of the first image of OME-XML, if it says so."""
    images = _ome_pixels(description)
    if not images:
        return None, None
    return _ome_length_um(images[0], "PhysicalSizeX"), _ome_length_um(images[0], "PhysicalSizeY")


def _ome_pixels(description: str) -> list[dict[str, str]]:
    """Return the attributes of each element Pixels."""
    elements = re.findall(r"<(?:\w+:)?Pixels\b([^>]*)>", description)
    return [dict(re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", each)) for each in elements]


def _whole_number(said: dict[str, str], name: str, otherwise: int) -> int:
    value = said.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else otherwise


def _ome_length_um(attributes: dict[str, str], name: str) -> float | None:
    unit = attributes.get(f"{name}Unit", "µm").replace("\u03bc", "µ").replace("&#181;", "µ")
    length = positive_number(attributes.get(name))
    if length is None or unit not in _UM_PER_UNIT:
        return None
    return credible_mpp(length * _UM_PER_UNIT[unit])


def is_tiff(path: Path) -> bool:
    """Return whether a file begins like a TIFF file."""
    with path.open("rb") as file:
        return file.read(4) in TIFF_MAGIC


def refuse_unsuitable_tiff(path: Path) -> None:
    """Refuse a TIFF file that libraries would open, but with wrong or missing pixels.

    OpenSlide and tiffslide turn 16 bits and grey scale into 8-bit RGB without a word, and
    open truncated files.  Files that are no TIFF, or that tifffile cannot parse, pass.

    Raises
    ------
    SlideNotReadable
        If the image is not 8-bit RGB(A), or the file ends before its pixels do.
    """
    if not is_tiff(path):
        return
    reason = truncation(path) or _wrong_pixels(path)
    if reason:
        raise SlideNotReadable(f"{path.name}: {reason}")


def refuse_overlapping_tiles(name: str, tiff: tifffile.TiffFile) -> None:
    """Refuse a format whose tiles overlap, for libraries that would lay them side by side.

    Raises
    ------
    SlideNotReadable
        If it is Ventana BIF.
    """
    if tiff.pages.first.is_bif:
        raise SlideNotReadable(
            f"{name}: only OpenSlide lays the overlapping tiles of Ventana BIF right"
        )


def _wrong_pixels(path: Path) -> str | None:
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            page = tiff.pages.first
            return _wrong_samples(page) or _several_planes(tiff) or _wrong_kind(page)
    except LIBRARY_ERRORS:
        return None


def _wrong_samples(page: Any) -> str | None:
    if page.bitspersample != 8:
        return (
            f"has {page.bitspersample} bits per sample; 8-bit RGB is needed: "
            "export it as 8-bit RGB (fluorescence is not supported)"
        )
    if page.sampleformat != tifffile.SAMPLEFORMAT.UINT:
        return "has signed samples; 8-bit RGB of an H&E slide is needed: export it as 8-bit RGB"
    return None


def _wrong_kind(page: Any) -> str | None:
    # Four: with transparency.  Libraries show three of more channels, as if they were RGB.
    if page.samplesperpixel in {3, 4} and page.photometric in _RGB:
        return None
    kind = getattr(page.photometric, "name", page.photometric)
    return (
        f"has {page.samplesperpixel} sample(s) per pixel of kind {kind}; 8-bit RGB of an H&E "
        "slide is needed: export it as RGB (grey scale, CMYK and fluorescence are not supported)"
    )


def _several_planes(tiff: Any) -> str | None:
    """Say which of several images, planes or channels would have to be chosen."""
    first = tiff.pages.first
    if tiff.flags & _ONE_SLIDE:
        return None
    if first.is_ome:
        said = ome_images(first.description)
        return _several_images([(one.width_px, one.height_px) for one in said]) or (
            _several_ome_planes(said[0], first.samplesperpixel) if said else None
        )
    sizes = [(first.imagewidth, first.imagelength)]
    for page in itertools.islice(tiff.pages, 1, _MOST_PAGES):
        if not (page.is_reduced or page.is_mask):
            sizes.append((page.imagewidth, page.imagelength))
        if reason := _several_images(sizes):
            return reason
    return None


def _several_images(sizes: list[tuple[int, int]]) -> str | None:
    """Return why there is a choice: smaller ones are levels, a thumbnail, or a label."""
    areas = [width * height for width, height in sizes]
    for (width, height), area in zip(sizes[1:], areas[1:], strict=True):
        if 2 * area > areas[0]:
            return (
                f"holds several images of like size ({sizes[0][0]} × {sizes[0][1]} and "
                f"{width} × {height} px); one RGB image is needed: export the one to analyse"
            )
    return None


def _several_ome_planes(image: OmeImage, samples: int) -> str | None:
    counts = {
        "focal planes (Z)": image.n_z,
        "time points (T)": image.n_t,
        "channels (C) in planes of their own": -(-image.n_c // max(1, samples)),
    }
    several = [f"{n} {what}" for what, n in counts.items() if n > 1]
    if not several:
        return None
    return (
        f"has {' and '.join(several)}; one RGB plane is needed: export one plane as RGB "
        "(fluorescence is not supported)"
    )


def without_alpha(pixels: NDArray[np.uint8], alpha: int | None) -> NDArray[np.uint8]:
    """Return (h, w, 3) RGB of a TIFF's (h, w, 3 or more) samples, on white.

    Parameters
    ----------
    pixels
        Samples as stored.
    alpha
        Value of the tag ExtraSamples (TIFF 6.0, section 18), None without it.
    """
    if alpha == tifffile.EXTRASAMPLE.UNASSALPHA:
        return on_white(pixels)
    if alpha == tifffile.EXTRASAMPLE.ASSOCALPHA:
        return premultiplied_on_white(pixels)
    return np.ascontiguousarray(pixels[..., :3])
