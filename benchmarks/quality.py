"""Quality control on real images with planted faults, wrong stains and blur.

WSISEG_SHARED (or ../shared beside the repository) must hold `data` and `slides`.  Prints one
table in about ten minutes; with a folder it also writes pictures of the mosaics and their flags.

    python benchmarks/quality.py [FOLDER]
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.geometry import Box, Frame
from wsiseg.pictures import draw_thumbnail
from wsiseg.quality import (
    Appearance,
    TileQuality,
    appearance_of,
    measure_tile,
    slide_warnings,
    tile_flags,
)
from wsiseg.slides import frame_at, read_frame
from wsiseg.stain import optical_density, unmix

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MPP = 0.25
TILE_PX = 1024
SETS = ("monuseg_train", "consep_train", "nucls_sample", "dsb2018_brightfield")
TRUE_HE = ("4193474b", "57bd029b", "87ea7289", "8f27ebc7")
"""The images of dsb2018_brightfield that are H&E."""
REAL_DYE = ("train_2", "train_12", "train_15", "train_4")
"""Images of consep_train with real dye or black matter on the tissue: no clean ground."""


# --- pictures


def shared_folder() -> Path:
    default = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("WSISEG_SHARED", default))


def images(name: str) -> Iterator[tuple[str, RGB]]:
    for path in sorted((shared_folder() / "data" / name / "images").glob("*.png")):
        yield path.stem, np.asarray(Image.open(path).convert("RGB"))


def blurred(rgb: RGB, sigma_px: float) -> RGB:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.uint8)


def from_density(density: NDArray[Any]) -> RGB:
    return np.rint(255 * 10.0**-density).clip(0, 255).astype(np.uint8)


def mosaic(pictures: list[RGB], n_cols: int, shift_px: int) -> RGB:
    """Return pictures, mirrored to the size of a tile, side by side; shifted off the tile grid."""
    rim_px = (TILE_PX - 1000) // 2
    full = [
        cv2.copyMakeBorder(p, rim_px, rim_px, rim_px, rim_px, cv2.BORDER_REFLECT) for p in pictures
    ]
    rows = [np.hstack(full[i : i + n_cols]) for i in range(0, len(full) - n_cols + 1, n_cols)]
    return np.ascontiguousarray(np.roll(np.vstack(rows), (shift_px, shift_px), (0, 1)))


def turned(rgb: RGB, degrees: float) -> RGB:
    hsv = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + degrees) % 360
    return np.asarray(np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255), np.uint8)


def smooth_noise(shape: tuple[int, ...], size_px: float, rng: np.random.Generator) -> Any:
    """Return smooth values between 0 and 1."""
    coarse = rng.random([max(2, int(n / size_px) + 2) for n in shape[:2]]).astype(np.float32)
    return np.asarray(cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_LINEAR))


def dab(rgb: RGB, positive: float, rng: np.random.Generator) -> RGB:
    """Return the picture as if brown DAB stood where eosin is, in a share of its area."""
    stains = np.maximum(unmix(optical_density(rgb)), 0)
    noise = smooth_noise(rgb.shape, 120, rng)
    where = noise < np.quantile(noise, positive)
    brown = np.array([0.268, 0.570, 0.776]) * (2 * stains[..., 1] * where)[..., None]
    blue = np.array([0.65, 0.70, 0.29]) * (0.6 * stains[..., :1])
    return from_density(blue + brown)


def fluorescent(rgb: RGB, channels: tuple[float, float, float]) -> RGB:
    """Return bright nuclei on black."""
    hematoxylin = unmix(optical_density(blurred(rgb, 1.5)))[..., 0]
    bright = np.clip((hematoxylin - np.quantile(hematoxylin, 0.7)) * 400, 0, 255)
    return np.asarray(np.rint(bright[..., None] * np.array(channels)), np.uint8)


# --- faults: each returns the picture and where the fault is


def stroke(shape: tuple[int, ...], width_px: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return the distance in px from the middle of a wavy line across, over half its width."""
    height, width = shape[:2]
    row, col = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    across = (col - width * rng.uniform(0.3, 0.7)) * np.cos(angle)
    across += (row - height * rng.uniform(0.3, 0.7)) * np.sin(angle)
    along = (row * np.cos(angle) - col * np.sin(angle)) / (400 * rng.uniform(0.6, 1.5))
    return np.asarray(np.abs(across + 80 * np.sin(along)) / (width_px / 2))


PENS = {
    "black": (1.0, 1.0, 1.0),
    "blue": (1.1, 0.7, 0.2),
    "green": (1.1, 0.35, 0.8),
    "red": (0.1, 1.1, 0.9),
}


def pen(rgb: RGB, rng: np.random.Generator, colour: str) -> tuple[RGB, Mask]:
    far = stroke(rgb.shape, rng.uniform(100, 400) / MPP, rng)
    # Fuzzy over about 5 µm at its edge; streaky inside.
    cover = np.clip((1.04 - far) * 20, 0, 1) * (0.6 + 0.5 * smooth_noise(rgb.shape, 60, rng))
    ink = np.array(PENS[colour]) * cover[..., None]
    return from_density(optical_density(rgb) + ink), far < 1


def fold(rgb: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    band = stroke(rgb.shape, rng.uniform(30, 80) / MPP, rng) < 1
    # The second layer is the tissue beside, turned over: a fold doubles what is there.
    second = np.hstack([c[:, ::-1] for c in np.split(rgb, rgb.shape[1] // TILE_PX, axis=1)])
    density = optical_density(rgb)
    return from_density(density + optical_density(second) * band[..., None]), band


def blur(rgb: RGB, _: np.random.Generator) -> tuple[RGB, Mask]:
    where = np.zeros(rgb.shape[:2], np.bool_)
    where[:, : rgb.shape[1] // 3] = True
    return np.where(where[..., None], blurred(rgb, 4.0), rgb), where


def border(rgb: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    where = np.ones(rgb.shape[:2], np.bool_)
    where[rng.integers(20, 400) :, rng.integers(20, 400) : -rng.integers(20, 400)] = False
    return np.where(where[..., None], np.uint8(rng.integers(0, 12)), rgb), where


def bubbles(rgb: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    density: NDArray[Any] = optical_density(rgb)
    rim = np.zeros(rgb.shape[:2], np.bool_)
    row, col = np.ogrid[: rgb.shape[0], : rgb.shape[1]]
    for _ in range(rgb.shape[0] * rgb.shape[1] // (3 * TILE_PX**2)):
        radius_px, wide_px = rng.uniform(60, 250) / MPP, rng.uniform(6, 15) / MPP
        far = np.hypot(row - rng.uniform(0, len(rgb)), col - rng.uniform(0, rgb.shape[1]))
        away = (far - radius_px) / wide_px
        dark = np.exp(-((2 * away) ** 4))[..., None]
        bright = np.exp(-((3 * (away + 1)) ** 2))[..., None]
        density = density * (1 - 0.8 * bright) + rng.uniform(0.8, 1.4) * dark
        rim |= np.abs(away) < 0.5
    return from_density(density), rim


FAULTS: dict[str, tuple[Callable[..., tuple[RGB, Mask]], str, float]] = {
    **{f"pen, {name}": (partial(pen, colour=name), "ink", 0.02) for name in PENS},
    "fold": (fold, "fold", 0.05),
    "blur, σ 1 µm": (blur, "blurred", 0.6),
    "black border": (border, "dark", 0.02),
    "bubbles": (bubbles, "dark", 0.01),
}
"""How it is made, the right flag, and from which share of a tile on that flag is demanded."""
ALSO_RIGHT = {"pen, black": {"dark"}, "bubbles": {"ink"}, "black border": {"ink"}}
"""Flags that are no mistake on a tile with that fault."""


# --- counting


@dataclass(slots=True)
class Tally:
    n_faulty: int = 0
    n_right: int = 0
    n_clean: int = 0
    n_wrong: int = 0
    other: Counter[str] = field(default_factory=Counter)


def tiles_of(rgb: RGB) -> Iterator[tuple[tuple[slice, slice], TileQuality]]:
    for top in range(0, rgb.shape[0], TILE_PX):
        for left in range(0, rgb.shape[1], TILE_PX):
            where = np.s_[top : top + TILE_PX, left : left + TILE_PX]
            yield where, measure_tile(rgb[where], MPP)


def judge(rgb: RGB, fault: Mask, name: str, tally: Tally) -> list[Any]:
    """Count right and wrong flags; return all with their places."""
    _, flag, least = FAULTS[name]
    flagged = []
    for where, quality in tiles_of(rgb):
        share = fault[where].mean()
        found = set(tile_flags(quality))
        flagged += [(where, code) for code in found]
        if share >= least:
            tally.n_faulty += 1
            tally.n_right += flag in found
        elif share == 0:
            tally.n_clean += 1
            tally.n_wrong += bool(found)
        tally.other.update((found if share else set()) - {flag} - ALSO_RIGHT.get(name, set()))
    return flagged


def draw(rgb: RGB, flagged: list[Any], path: Path) -> None:
    frame = Frame(8.0, rgb.shape[1] // 8, rgb.shape[0] // 8)
    small = cv2.resize(rgb, (frame.width_px, frame.height_px), interpolation=cv2.INTER_AREA)
    boxes = [((w[1].start, w[0].start, TILE_PX, TILE_PX), code) for w, code in flagged]
    tiles = [
        (x, y, TILE_PX, TILE_PX)
        for y in range(0, rgb.shape[0], TILE_PX)
        for x in range(0, rgb.shape[1], TILE_PX)
    ]
    sheet = draw_thumbnail(
        np.asarray(small, np.uint8), frame, [], tiles, [], MPP, path.stem, flagged=boxes
    )
    cv2.imwrite(str(path), sheet[..., ::-1])


def planted(folder: Path | None) -> None:
    print(f"{'planted':14} {'ground':20} {'right flags':>16} {'wrong, clean tiles':>21}  other")
    for name in ("monuseg_train", "consep_train"):
        pictures = [p for stem, p in images(name) if stem not in REAL_DYE]
        for shift_px in (0, 512):
            ground = mosaic(pictures, 4, shift_px)
            rng = np.random.default_rng(7)
            for fault, (make, _, _) in FAULTS.items():
                tally = Tally()
                rgb, where = make(ground, rng)
                flagged = judge(rgb, where, fault, tally)
                if folder:
                    draw(rgb, flagged, folder / f"{name} {shift_px} {fault}.png")
                print(f"{fault:14} {name + f' +{shift_px}':20} {line(tally)}", flush=True)


def line(tally: Tally) -> str:
    right = tally.n_right / max(1, tally.n_faulty)
    wrong = tally.n_wrong / max(1, tally.n_clean)
    return (
        f"{tally.n_right:4}/{tally.n_faulty:<4} {right:6.1%} {tally.n_wrong:6}/{tally.n_clean:<4} "
        f"{wrong:6.1%}    {dict(tally.other)}"
    )


# --- slides of one picture


def blocks_of(rgb: RGB, side_px: int = 512) -> list[tuple[TileQuality, float]]:
    found = []
    for top in range(0, rgb.shape[0], side_px):
        for left in range(0, rgb.shape[1], side_px):
            quality = measure_tile(rgb[top : top + side_px, left : left + side_px], MPP)
            found.append((quality, quality.stained_share))
    return found


def codes(
    blocks: list[tuple[TileQuality, float]], appearance: Appearance | None = None
) -> set[str]:
    return {warning["code"] for warning in slide_warnings(blocks, appearance)}


def wrong_stains() -> None:
    rng = np.random.default_rng(3)
    makers: dict[str, Callable[[RGB], RGB]] = {
        **{f"H-DAB, {p:.0%} positive": partial(dab, positive=p, rng=rng) for p in (0.1, 0.3, 0.6)},
        "inverted": lambda rgb: 255 - rgb,
        "grey": lambda rgb: np.repeat(
            np.asarray(Image.fromarray(rgb).convert("L"))[..., None], 3, 2
        ),
        "fluorescent, grey": partial(fluorescent, channels=(1, 1, 1)),
        "fluorescent, blue": partial(fluorescent, channels=(0.1, 0.2, 1)),
        **{f"hue +{d}": partial(turned, degrees=d) for d in range(60, 301, 60)},
    }
    found: dict[str, list[set[str]]] = {name: [] for name in makers}
    for name in SETS[:3]:
        for _, rgb in images(name):
            for kind, make in makers.items():
                found[kind].append(codes(blocks_of(make(rgb))))
    for kind, each in found.items():
        n = sum("not-h-and-e" in one for one in each)
        print(f"{kind:22} warned not-h-and-e {n:3}/{len(each)} {n / len(each):6.1%}", flush=True)


def real_images() -> None:
    """Print warnings on untouched images, by ranges of other images than those judged."""
    sets = {name: [(stem, blocks_of(rgb)) for stem, rgb in images(name)] for name in SETS}
    halves = [
        [b for name in SETS[:2] for _, blocks in sets[name][k::2] for b, w in blocks if w >= 0.05]
        for k in (0, 1)
    ]
    ranges = {
        "even → odd half": (appearance_of(halves[0]), 1, SETS[:2]),
        "odd → even half": (appearance_of(halves[1]), 0, SETS[:2]),
        "both sets → nucls": (appearance_of(halves[0] + halves[1]), None, SETS[2:3]),
        "both sets → dsb2018": (appearance_of(halves[0] + halves[1]), None, SETS[3:]),
    }
    for one, other in (SETS[:2], SETS[1::-1]):
        own = [b for _, blocks in sets[one] for b, w in blocks if w >= 0.05]
        ranges[f"{one} → {other}"] = (appearance_of(own), None, (other,))
    for title, (appearance, half, names) in ranges.items():
        judged = [x for n in names for x in (sets[n] if half is None else sets[n][half::2])]
        if names == SETS[3:]:
            for text, is_he in (("H&E", True), ("others", False)):
                some = [x for x in judged if x[0].startswith(TRUE_HE) == is_he]
                report(f"{title}, {text}", some, appearance)
        else:
            report(title, judged, appearance)


def report(title: str, judged: list[Any], appearance: Appearance) -> None:
    found = [(stem, codes(blocks, appearance)) for stem, blocks in judged]
    counts = Counter(code for _, warned in found for code in warned)
    print(f"{title:36} {len(judged):4} images: {dict(counts)}", flush=True)


def magnifications() -> None:
    """Print focus and warnings of images as scanned, enlarged and blurred."""

    def enlarged(rgb: RGB, times: int) -> RGB:
        size = rgb.shape[1::-1]
        small = cv2.resize(rgb, (size[0] // times, size[1] // times), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), np.uint8)

    changes: dict[str, Callable[[RGB], RGB]] = {
        "0.25 µm/px": lambda rgb: rgb,
        "0.5 µm/px, enlarged 2x": partial(enlarged, times=2),
        "1.0 µm/px, enlarged 4x": partial(enlarged, times=4),
        **{f"blurred, σ {s / 4:g} µm": partial(blurred, sigma_px=s) for s in (2, 3, 4, 6)},
    }
    pictures = [rgb for name in SETS[:3] for _, rgb in images(name)]
    for title, change in changes.items():
        found = [blocks_of(change(rgb), 1024) for rgb in pictures]
        focus = [q.focus for blocks in found for q, _ in blocks if q.focus is not None]
        n = sum("out-of-focus" in codes(blocks) for blocks in found)
        low, middle, high = np.percentile(focus, [0, 50, 100])
        print(f"{title:24} focus {low:.2f} {middle:.2f} {high:.2f}; out of focus {n}/{len(found)}")


def slides() -> None:
    for name, mpp in (("CMU-1-Small-Region.svs", 0.499), ("TCGA-CR-7395-01A-01-TS1.svs", 1.0)):
        with wsiseg.open_slide(shared_folder() / "slides" / name) as slide:
            frame = frame_at(slide.info, mpp, MPP)
            found, flags = [], Counter[str]()
            for top in range(0, frame.height_px, TILE_PX):
                for left in range(0, frame.width_px, TILE_PX):
                    box = Box(left, top, TILE_PX, TILE_PX).intersection(frame.box)
                    quality = measure_tile(read_frame(slide, frame, box), MPP)
                    if quality.stained_share >= 0.05:
                        found.append((quality, quality.stained_share))
                        flags.update(tile_flags(quality))
        focus = np.percentile([q.focus for q, _ in found if q.focus is not None], [5, 50, 95])
        print(f"{name}: {len(found)} tiles, focus {focus.round(2)}, flags {dict(flags)}")
        for warning in slide_warnings(found):
            print(f"    {warning['code']}: {warning['message']}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="where pictures go")
    folder: Path | None = parser.parse_args().folder
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    for part in (magnifications, slides, real_images, wrong_stains, partial(planted, folder)):
        part()
        print()


if __name__ == "__main__":
    main()
