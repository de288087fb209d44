"""Makes a folder of small slides to try batches with: real images, odd names, five broken ones.

    python benchmarks/batch_slides.py FOLDER [--slides 200] [--seed 0] [--images DATA/*/images …]
        [--side-px 300 1500]

Slides are pieces of the images (or of several, laid side by side), written as tiled JPEG pyramids
as Aperio's scanners do, at 0.25 µm/px. Without images tissue is painted. Among them are `a.svs`,
`a.tiff` and `sub/a.svs`, names with blanks, `;`, quotes and letters of other scripts, deep
folders; and five that are broken: cut off in the middle, empty, text, without µm per pixel, and
with damaged JPEG data in one tile. `FOLDER.json` beside the folder says what is what. Equal seeds
make equal files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsiseg.testing.pictures import PaintedPictures

MPP = 0.25
TILE_PX = 128
"""Of the file; small, so that a broken one is a small part of a slide."""
BROKEN = ("cut off", "empty", "text", "no mpp", "bad tile")
"""Ways to be broken; the last only in one tile, which `--skip-bad-tiles` leaves out."""
ODD_NAMES = (
    *("a.svs", "a.tiff", "sub/a.svs", "sub/a b; c.svs", "sub/it's $(echo) `x` & y.svs"),
    *("ångström/Gewebe – Blöcke/組織 1.svs", "sub/-rf.svs", "sub/%2e%2e#1?.svs", "a.b.c/d..e.svs"),
    *("deep/1/2/3/4/5/6/7/8/9/slide.svs", "sub/UPPER.SVS", 'sub/comma, and "quote".tif'),
)
"""Places of slides whose names have broken programs."""


@dataclass(frozen=True)
class Made:
    """A slide of the batch."""

    place: str
    """Below the folder."""
    broken: str | None
    """How, one of `BROKEN`; None: it is well."""
    width_px: int
    height_px: int


def make_batch(
    folder: Path,
    n_slides: int,
    seed: int = 0,
    images: Sequence[Path] = (),
    sides_px: tuple[int, int] = (300, 1500),
) -> list[Made]:
    """Write the slides and the list of them; return the list."""
    random = np.random.default_rng(seed)
    pictures = sorted(path for one in images for path in one.glob("*.png"))
    places = _places(n_slides, random)
    broken = dict(zip(_some(places, len(BROKEN), random), BROKEN, strict=False))
    made = []
    for place in places:
        height, width = (int(side) for side in random.integers(*sides_px, 2, endpoint=True))
        rgb = _pixels(height, width, pictures, random)
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        how = broken.get(place)
        write_slide(path, rgb, None if how == "no mpp" else MPP)
        _break(path, how)
        made.append(Made(place, how, width, height))
    list_file(folder).write_text(json.dumps([asdict(one) for one in made], ensure_ascii=False))
    return made


def read_batch(folder: Path) -> list[Made]:
    """Return what `make_batch` has made."""
    return [Made(**one) for one in json.loads(list_file(folder).read_text())]


def list_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def shared_images() -> list[Path]:
    """Return the folders of real images that the environment names; there may be none."""
    data = Path(os.environ.get("WSISEG_SHARED", "../shared")) / "data"
    names = ("monuseg_train", "consep_train")
    return [data / name / "images" for name in names if (data / name / "images").is_dir()]


def write_slide(path: Path, rgb: NDArray[np.uint8], mpp: float | None) -> None:
    """Write a pyramid of two levels as Aperio's scanners do: JPEG tiles, a thumbnail, a text."""
    height, width = rgb.shape[:2]
    said = "" if mpp is None else f"|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    text = f"Aperio look-alike\r\n{width}x{height} ({TILE_PX}x{TILE_PX}) JPEG/RGB Q=90{said}"
    layout = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 90}}
    tiled = layout | {"tile": (TILE_PX, TILE_PX), "subsampling": (2, 2), "metadata": None}
    small = np.asarray(Image.fromarray(rgb).reduce(4))
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(rgb, description=text, **tiled)
        tiff.write(small, description=text, metadata=None, rowsperstrip=16, photometric="rgb")
        if min(small.shape[:2]) >= TILE_PX:
            tiff.write(small, description=text, **tiled)


def _places(n: int, random: np.random.Generator) -> list[str]:
    usual = [
        f"cohort {number % 3}/block-{int(random.integers(1, 20)):02d}/S{number:04d}.svs"
        for number in range(max(0, n - len(ODD_NAMES)))
    ]
    return [*ODD_NAMES, *usual][:n]


def _some(places: Sequence[str], n: int, random: np.random.Generator) -> list[str]:
    """Choose places to break, none of the three of one stem, and with usual names if possible."""
    usual = [place for place in places if place not in ODD_NAMES]
    chosen = usual if len(usual) >= n else list(places[3:])
    return [chosen[index] for index in random.permutation(len(chosen))[:n]]


def _pixels(
    height: int, width: int, pictures: Sequence[Path], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a piece of the images, with glass along one side, as at the edge of tissue."""
    side = 1000
    rgb = np.full((-(-height // side) * side, -(-width // side) * side, 3), 244, np.uint8)
    for row in range(0, rgb.shape[0], side):
        for col in range(0, rgb.shape[1], side):
            tile = _picture(pictures, int(random.integers(1 << 20)))[:side, :side]
            rgb[row : row + tile.shape[0], col : col + tile.shape[1]] = tile
    rgb = rgb[:height, :width]
    rgb[:, width - width // 8 :] = 244
    return np.ascontiguousarray(rgb)


def _picture(pictures: Sequence[Path], number: int) -> NDArray[np.uint8]:
    if not pictures:
        return PaintedPictures(3000, MPP, side_px=1000).rgb(number % 16)
    return np.asarray(Image.open(pictures[number % len(pictures)]).convert("RGB"))


def _break(path: Path, how: str | None) -> None:
    """Break a slide; one without µm per pixel was written so."""
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("This slide was moved to the archive.\n")
    elif how == "cut off":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "bad tile":
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            n_tiles = len(page.dataoffsets)
            start, size = page.dataoffsets[n_tiles // 2], page.databytecounts[n_tiles // 2]
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(size))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=Path, nargs="+", default=shared_images())
    parser.add_argument("--side-px", type=int, nargs=2, default=(300, 1500))
    given = parser.parse_args()
    if given.folder.exists():
        sys.exit(f"{given.folder} exists; name a folder to make")
    made = make_batch(given.folder, given.slides, given.seed, given.images, tuple(given.side_px))
    size_mb = sum((given.folder / one.place).stat().st_size for one in made) / 1e6
    area_mm2 = sum(one.width_px * one.height_px for one in made) * MPP**2 / 1e6
    print(f"{len(made)} slides, {size_mb:.0f} MB, {area_mm2:.2f} mm², into {given.folder}")
    for one in made:
        if one.broken:
            print(f"   {one.broken:9} {one.place}")


if __name__ == "__main__":
    main()
