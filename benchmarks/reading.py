"""Reading a slide tile by tile: wsiseg's readers beside the libraries used directly.

    python benchmarks/reading.py SLIDE [--tile 1024 --margin 192] [--tiles 64] [--repeats 3]

Boxes are those of a run: cores of --tile px in rows, with --margin on each side, at level 0;
at most --tiles of them, from the slide's middle on.  Every box is read through each of ours
(`openslide`, `tiffslide`, and `image` up to 64 Mpx, since it takes a TIFF into memory whole) and
through `openslide.OpenSlide` and `tiffslide.TiffSlide` directly, to an array of RGB; the pixels
must be equal.  All start with a new handle and
empty caches, and take turns.  CPU milliseconds per Mpx delivered; "×" is against
openslide-python.  A second table reads cores without margin: nothing is read twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import openslide
import tiffslide
from measuring import conditions, timed
from numpy.typing import NDArray

from wsiseg.errors import SlideNotReadable
from wsiseg.geometry import Box
from wsiseg.slides import open_slide

Pixels = Iterator[NDArray[np.uint8]]
Reader = Callable[[Path, list[Box]], Pixels]
IN_MEMORY_PX = 64_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--margin", type=int, default=192)
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(conditions("openslide-python", "openslide-bin", "tiffslide", "tifffile", "imagecodecs"))
    for path in arguments.slides:
        for margin in (arguments.margin, 0):
            compare(path, arguments.tile, margin, arguments.tiles, arguments.repeats)


def compare(path: Path, tile: int, margin: int, most: int, repeats: int) -> None:
    """Print a table of one slide."""
    with open_slide(path) as slide:
        width, height = slide.info.width_px, slide.info.height_px
    boxes = tile_boxes(width, height, tile, margin)
    boxes = boxes[len(boxes) // 2 :][:most] if len(boxes) > most else boxes
    readers = {
        "openslide-python": read_openslide,
        "tiffslide": read_tiffslide,
        "wsiseg openslide": ours("openslide"),
        "wsiseg tiffslide": ours("tiffslide"),
    }
    if width * height <= IN_MEMORY_PX:
        readers["wsiseg image"] = ours("image")
    able = {name: read for name, read in readers.items() if can_read(read, path, boxes[0])}
    pixels = sum(box.area_px for box in boxes)
    print(f"\n{path.name}: {len(boxes)} boxes of {tile} + 2 · {margin} px, {pixels / 1e6:.0f} Mpx")
    spent: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(repeats):
        for name, read in able.items():
            spent[name].append(timed(exhaust, read, path, boxes).cpu_s)
    per_mpx = {name: median(seconds) / pixels * 1e9 for name, seconds in spent.items()}
    print("| reader | CPU ms/Mpx | × | pixels |\n|---|---|---|---|")
    for name, ms in per_mpx.items():
        same = differences(able["openslide-python"], able[name], path, boxes)
        print(f"| {name} | {ms:.1f} | {ms / per_mpx['openslide-python']:.2f} | {same} |")
    for name in readers.keys() - able.keys():
        print(f"| {name} | cannot open it | – | – |", flush=True)


def tile_boxes(width: int, height: int, tile: int, margin: int) -> list[Box]:
    """Return outer boxes cut to the slide: outside of it the libraries disagree."""
    whole = Box(0, 0, width, height)
    return [
        Box(x - margin, y - margin, tile + 2 * margin, tile + 2 * margin).intersection(whole)
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]


def read_openslide(path: Path, boxes: list[Box]) -> Pixels:
    with openslide.OpenSlide(path) as slide:
        for box in boxes:
            region = slide.read_region((box.x_px, box.y_px), 0, (box.width_px, box.height_px))
            yield np.asarray(region.convert("RGB"))


def read_tiffslide(path: Path, boxes: list[Box]) -> Pixels:
    with tiffslide.TiffSlide(path) as slide:
        for box in boxes:
            size = (box.width_px, box.height_px)
            yield slide.read_region((box.x_px, box.y_px), 0, size, as_array=True)


def ours(reader: str) -> Reader:
    def read(path: Path, boxes: list[Box]) -> Pixels:
        with open_slide(path, reader) as slide:
            for box in boxes:
                yield slide.read_level(0, box)

    return read


def can_read(read: Reader, path: Path, box: Box) -> bool:
    try:
        with closing(read(path, [box])) as found:
            next(found)
    except (SlideNotReadable, openslide.OpenSlideError, tiffslide.TiffFileError):
        return False
    return True


def exhaust(read: Reader, path: Path, boxes: list[Box]) -> None:
    for _ in read(path, boxes):
        pass


def differences(first: Reader, second: Reader, path: Path, boxes: list[Box]) -> str:
    largest = 0
    for one, other in zip(first(path, boxes), second(path, boxes), strict=True):
        largest = max(largest, int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max()))
    return "equal" if largest == 0 else f"up to {largest} grey levels off"


if __name__ == "__main__":
    main()
