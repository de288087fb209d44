"""Slides of any size to test with: pyramids of tiled JPEG, written in a stream.

As a command::

    python -m wsiseg.testing.gigapixel OUT.svs --side 100000 --tissue 0.15 --images FOLDER

From Python::

    painted = PaintedPictures(nuclei_per_mm2=4000)
    mosaic = scatter(painted, MosaicOptions(50_000, 40_000, tissue_share=0.15))
    truth = write_mosaic(Path("painted.svs"), mosaic, painted)
    truth.labels_in(Box(0, 0, 512, 512))  # (h, w), int64; the same from open_truth(…)

Memory does not depend on the slide's size; what is read from the pictures stays below
64 million pixels.  The slide is an BigTIFF like Aperio's (JPEG 4:2:0 of quality 90, tiles of
256 px, levels 1, 4, 16, 64), that OpenSlide and tiffslide open with µm per pixel and objective.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wsiseg.errors import UsageError, WsisegError
from wsiseg.testing._giga_tiff import Report, write_pyramid
from wsiseg.testing.mosaics import (
    Canvas,
    Mosaic,
    MosaicOptions,
    Pictures,
    each_once,
    scatter,
    tissue_share,
)
from wsiseg.testing.pictures import FolderPictures, PaintedPictures
from wsiseg.testing.truth import MosaicTruth, open_truth, truth_of, truth_path

__all__ = [
    "FolderPictures",
    "Mosaic",
    "MosaicOptions",
    "MosaicTruth",
    "PaintedPictures",
    "Pictures",
    "each_once",
    "open_truth",
    "scatter",
    "truth_path",
    "write_mosaic",
]


def _say_nothing(line: str) -> None:
    """Ignore a line of progress."""


def write_mosaic(
    path: Path,
    mosaic: Mosaic,
    pictures: Pictures,
    mpp: float = 0.25,
    report: Report = _say_nothing,
) -> MosaicTruth | None:
    """Write a slide, and beside it its truth where the pictures' nuclei are known.

    Parameters
    ----------
    path : Path
        The slide; replaced if it exists.  The truth is `PATH.truth.npz`.
    mosaic : Mosaic
        From `scatter` or `each_once`.
    pictures : Pictures
        Those the mosaic was made for.
    mpp : float
        µm per level-0 pixel, written into the slide; pictures are not resampled.
    report : callable
        Given lines of progress.

    Returns
    -------
    MosaicTruth or None
        None if the pictures have no label maps.

    Raises
    ------
    UsageError
        If `mpp` is out of range.
    """
    if not 0.05 <= mpp <= 10:
        raise UsageError(f"{mpp} µm per pixel; 0.05 to 10 is needed")
    write_pyramid(path, Canvas(mosaic, pictures), mpp, report)
    truth = truth_of(mosaic, pictures)
    beside = truth_path(path)
    if truth is None:
        beside.unlink(missing_ok=True)
    else:
        truth.save(beside)
    return truth


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        pictures = _pictures(given)
        if given.once:
            mosaic = each_once(pictures)
        else:
            mosaic = scatter(
                pictures, MosaicOptions(given.side[0], given.side[1], given.tissue, given.seed)
            )
        truth = write_mosaic(given.out, mosaic, pictures, given.mpp, _print)
    except UsageError as error:
        parser.error(str(error))
    except (WsisegError, OSError) as error:
        _print(f"error: {error}")
        return 1
    nuclei = "nuclei not known" if truth is None else f"{truth.n_nuclei:,} nuclei known"
    _print(
        f"{given.out}: {mosaic.width_px:,} × {mosaic.height_px:,} px, "
        f"{100 * tissue_share(mosaic, pictures):.1f} % tissue, {nuclei}, "
        f"{given.out.stat().st_size / 1e6:,.0f} MB"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wsiseg.testing.gigapixel",
        description="Write a large test slide. For tests and measurements only.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT.svs", help="the slide; OUT.svs.truth.npz is its truth")
    add("--side", type=_size, default=(20_000, 20_000), help="px: 100000, or 30000x20001 (W x H)")
    add("--tissue", type=float, default=0.15, help="share of the slide, default %(default)s")
    add("--images", type=Path, nargs="+", help="folders with images/ and, if known, inst/")
    add("--once", action="store_true", help="each image once; the size follows from that")
    add("--nuclei-per-mm2", type=float, default=5000, help="of painted tissue (no --images)")
    add("--mpp", type=float, default=0.25, help="µm per pixel, default %(default)s")
    add("--seed", type=int, default=0, help="equal seeds give equal slides")
    return parser


def _size(text: str) -> tuple[int, int]:
    """Read "W" or "WxH"."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}; a number of px, or WxH, is needed")
    return int(sides[0]), int(sides[-1])


def _pictures(given: argparse.Namespace) -> Pictures:
    if given.images:
        return FolderPictures(given.images)
    if given.once:
        raise UsageError("--once lays given images side by side; name their folders with --images")
    if given.seed < 0:
        raise UsageError(f"the seed is {given.seed}; a whole number from 0 on is needed")
    side = max(1, min(1000, *given.side))
    n_cells = (given.side[0] // side) * (given.side[1] // side)
    return PaintedPictures(
        given.nuclei_per_mm2, given.mpp, given.seed, side, max(1, min(16, n_cells))
    )


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
