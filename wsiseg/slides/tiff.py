"""What a TIFF file says about itself, whichever library reads its pixels."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

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
    TypeError,
    ValueError,
    struct.error,
)
"""What tifffile, zarr and the codecs raise on damaged or unknown files."""

_COARSEST_MPP = 10.0
_UM_PER_UNIT = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}
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


def ome_mpp(description: str) -> tuple[float | None, float | None]:
    """Return µm per pixel in x and y from an OME-XML description, if it says so.

    Specification: https://docs.openmicroscopy.org/ome-model/, element Pixels.
    """
    pixels = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", description)
    if pixels is None:
        return None, None
    attributes = dict(re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", pixels[1]))
    return _ome_length_um(attributes, "PhysicalSizeX"), _ome_length_um(attributes, "PhysicalSizeY")


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
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
    except LIBRARY_ERRORS:
        return None
    if page.bitspersample != 8:
        return (
            f"has {page.bitspersample} bits per sample; 8-bit RGB is needed: "
            "export it as 8-bit RGB (fluorescence is not supported)"
        )
    if page.samplesperpixel < 3 or page.photometric not in _RGB:
        kind = getattr(page.photometric, "name", page.photometric)
        return (
            f"has {page.samplesperpixel} sample(s) per pixel of kind {kind}; 8-bit RGB of "
            "an H&E slide is needed: export it as RGB (grey scale is not supported)"
        )
    return None


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
