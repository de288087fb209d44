"""Quality control on real images with planted faults, wrong stains and blur.

WSISEG_SHARED (or ../shared beside the repository) must hold `data` and `slides`.  Prints one
table; with a folder as argument it also writes pictures of the mosaics and their flags.

    python benchmarks/quality.py [FOLDER]
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, Frame
from wsiseg.pictures import draw_thumbnail
from wsiseg.quality import Appearance, TileQuality, measure_tile, slide_warnings, tile_flags
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
        yield path.stem, np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


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
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def smooth_noise(shape: tuple[int, ...], size_px: float, rng: np.random.Generator) -> Any:
    """Return smooth values between 0 and 1."""
    coarse = rng.random([max(2, int(n / size_px) + 2) for n in shape[:2]]).astype(np.float32)
    return cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_LINEAR)


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
    hematoxylin = unmix(optical_density(cv2.GaussianBlur(rgb, (0, 0), 1.5)))[..., 0]
    bright = np.clip((hematoxylin - np.quantile(hematoxylin, 0.7)) * 400, 0, 255)
    return np.rint(bright[..., None] * np.array(channels)).astype(np.uint8)


# --- faults: each returns the picture and where the fault is


def stroke(shape: tuple[int, ...], width_px: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return the distance in px from the middle of a wavy line across, over half its width."""
    height, width = shape[:2]
    row, col = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    across = (col - width * rng.uniform(0.3, 0.7)) * np.cos(angle)
    across += (row - height * rng.uniform(0.3, 0.7)) * np.sin(angle)
    along = (row * np.cos(angle) - col * np.sin(angle)) / (400 * rng.uniform(0.6, 1.5))
    return np.abs(across + 80 * np.sin(along)) / (width_px / 2)


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


def blur(rgb: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    where = np.zeros(rgb.shape[:2], np.bool_)
    where[:, : rgb.shape[1] // 3] = True
    return np.where(where[..., None], cv2.GaussianBlur(rgb, (0, 0), 4.0), rgb), where


def border(rgb: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    where = np.ones(rgb.shape[:2], np.bool_)
    where[rng.integers(20, 400) :, rng.integers(20, 400) : -rng.integers(20, 400)] = False
    return np.where(where[..., None], np.uint8(rng.integers(0, 12)), rgb), where


def bubbles(rgb: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    density = optical_density(rgb)
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
    **{
        f"pen, {c}": (lambda rgb, rng, c=c: pen(rgb, rng, c), "ink", 0.02)  # type: ignore[misc]
        for c in PENS
    },
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
    other: Counter[str] | None = None


def tiles_of(rgb: RGB) -> Iterator[tuple[tuple[slice, slice], TileQuality]]:
    for top in range(0, rgb.shape[0], TILE_PX):
        for left in range(0, rgb.shape[1], TILE_PX):
            where = np.s_[top : top + TILE_PX, left : left + TILE_PX]
            yield where, measure_tile(rgb[where], MPP)


def judge(rgb: RGB, fault: Mask, name: str, tally: Tally, known: dict[Any, set[str]]) -> list[Any]:
    """Count right and wrong flags; `known` holds what each tile has without the fault."""
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
        assert tally.other is not None
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
    sheet = draw_thumbnail(small, frame, [], tiles, [], MPP, path.stem, flagged=boxes)
    cv2.imwrite(str(path), sheet[..., ::-1])


def planted(folder: Path | None) -> None:
    print(f"{'planted':14} {'ground':22} {'right flags':>18} {'wrong, clean tiles':>20}  other")
    for name in ("monuseg_train", "consep_train"):
        pictures = [p for stem, p in images(name) if stem not in REAL_DYE]
        for shift_px in (0, 512):
            ground = mosaic(pictures[: len(pictures) // 4 * 4], 4, shift_px)
            for fault, (make, _, _) in FAULTS.items():
                tally = Tally(other=Counter())
                rng = np.random.default_rng(7)
                for trial in range(1):
                    rgb, where = make(ground, rng)
                    flagged = judge(rgb, where, fault, tally, {})
                    if folder and not trial:
                        draw(rgb, flagged, folder / f"{name} {shift_px} {fault}.png")
                right = tally.n_right / max(1, tally.n_faulty)
                wrong = tally.n_wrong / max(1, tally.n_clean)
                print(
                    f"{fault:14} {name} +{shift_px:<5} {tally.n_right:4}/{tally.n_faulty:<4} {right:6.1%} "
                    f"{tally.n_wrong:6}/{tally.n_clean:<4} {wrong:6.1%}   {dict(tally.other)}",
                    flush=True,
                )


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    planted(folder)


if __name__ == "__main__":
    main()
