"""How far can the tissue mask and the ink mask be trusted?

    python benchmarks/tissue.py [--pictures DIR] [--mpp 8]

Annotated nuclei on mosaics, pens and other blemishes on glass of many kinds, a real frozen
section against an outline drawn by hand, real tissue taken for ink, and the time of one call.
Real images and slides lie in the folder WSISEG_SHARED, or in ../shared beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.ink import find_ink
from wsiseg.plan import read_overview
from wsiseg.slides import frame_at
from wsiseg.testing import blemishes
from wsiseg.tissue import TissueOptions, find_tissue

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("WSISEG_SHARED", REPOSITORY.parent / "shared"))
SETS = ("monuseg_train", "consep_train", "nucls_sample", "dsb2018_brightfield")
INKED = ("train_2", "train_4", "train_12", "train_15")
"""CoNSeP images with real marking dye."""
IMAGE_MPP = 0.25
FROZEN, FROZEN_MPP = "TCGA-CR-7395-01A-01-TS1.svs", 1.0
DEMO, DEMO_MPP = "CMU-1-Small-Region.svs", 0.499
OPTIONS = TissueOptions()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, help="folder for overlays")
    parser.add_argument("--mpp", type=float, default=OPTIONS.target_mpp)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    pictures = Pictures(arguments.pictures)
    for part in (nuclei, glass, blemished, real_ink, sections, seconds):
        print(f"\n{part.__doc__}")
        part(arguments.mpp, pictures)


@dataclass(frozen=True)
class Pictures:
    """Where overlays go, if anywhere."""

    folder: Path | None

    def write(self, name: str, rgb: Picture, mask: Mask) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        times = max(1, min(4, 1200 // max(rgb.shape[:2])))
        rgb = rgb.repeat(times, 0).repeat(times, 1)
        outlines, _ = cv2.findContours(
            mask.astype(np.uint8).repeat(times, 0).repeat(times, 1),
            cv2.RETR_LIST,
            cv2.CHAIN_APPROX_NONE,
        )
        drawn = cv2.drawContours(rgb.copy(), outlines, -1, (0, 170, 0), 1)
        Image.fromarray(np.asarray(drawn, np.uint8)).save(self.folder / f"{name}.png")


@dataclass(frozen=True)
class Annotated:
    """An annotated image on white, whole blocks of overview pixels wide."""

    name: str
    rgb: Picture
    """The overview."""
    inst: NDArray[np.integer]
    """Labels at full zoom."""


def annotated(data_set: str, factor: int, margin_px: int) -> Iterator[Annotated]:
    """Yield a set's images on white canvases with a margin of overview pixels."""
    for path in sorted((SHARED / "data" / data_set / "images").glob("*.png")):
        rgb = np.asarray(Image.open(path).convert("RGB"))
        inst = np.asarray(Image.open(path.parent.parent / "inst" / path.name))
        size = [-(-side // factor) * factor + 2 * margin_px * factor for side in inst.shape]
        canvas, labels = np.full((*size, 3), 255, np.uint8), np.zeros(size, inst.dtype)
        inner = tuple(slice(margin_px * factor, margin_px * factor + n) for n in inst.shape)
        canvas[inner], labels[inner] = rgb, inst
        yield Annotated(path.stem, shrink(canvas, factor), labels)


def shrink(rgb: Picture, factor: int) -> Picture:
    size = (max(1, rgb.shape[1] // factor), max(1, rgb.shape[0] // factor))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def mosaic(images: list[Annotated]) -> tuple[Picture, NDArray[np.intp], NDArray[np.intp]]:
    """Return one overview of many, and the top and left edges of its images."""
    columns = int(np.ceil(np.sqrt(len(images))))
    high, wide = (max(image.rgb.shape[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    rgb = np.full((rows * high, columns * wide, 3), 255, np.uint8)
    tops, lefts = np.divmod(np.arange(len(images)), columns)
    for image, top, left in zip(images, tops * high, lefts * wide, strict=True):
        rgb[top : top + image.rgb.shape[0], left : left + image.rgb.shape[1]] = image.rgb
    return rgb, tops * high, lefts * wide


def missed(inst: NDArray[np.integer], mask: Mask, factor: int) -> NDArray[np.int64]:
    """Return nuclei, nuclei with their centroid outside, nuclear pixels, pixels outside."""
    inside = mask.repeat(factor, 0).repeat(factor, 1)[: inst.shape[0], : inst.shape[1]]
    rows, cols = np.nonzero(inst)
    _, index, count = np.unique(inst[rows, cols], return_inverse=True, return_counts=True)
    at = [np.bincount(index, weights=axis) / count for axis in (rows, cols)]
    outside = ~inside[at[0].astype(int), at[1].astype(int)]
    pixels_out = int((~inside[rows, cols]).sum())
    return np.array([len(count), int(outside.sum()), len(rows), pixels_out])


def nuclei(mpp: float, pictures: Pictures) -> None:
    """Annotated nuclei outside the tissue (aim: at most 0.1 %)"""
    factor = round(mpp / IMAGE_MPP)
    for data_set in SETS:
        images = list(annotated(data_set, factor, margin_px=12))
        total = np.zeros(4, np.int64)
        for image in images:
            mask = find_tissue(image.rgb, mpp, OPTIONS)
            result = missed(image.inst, mask, factor)
            total += result
            if result[3]:
                print(f"    {image.name[:24]}: {result[1]} centroids, {result[3]} px")
                pictures.write(f"missed_{data_set}_{image.name[:12]}", image.rgb, mask)
        print_missed(f"{data_set}, {len(images)} images alone", total)
        rgb, tops, lefts = mosaic(images)
        mask = find_tissue(rgb, mpp, OPTIONS)
        pictures.write(f"mosaic_{data_set}", rgb, mask)
        parts = [
            missed(
                image.inst, mask[top:, left:][: image.rgb.shape[0], : image.rgb.shape[1]], factor
            )
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
        print_missed(f"{data_set}, one mosaic", np.sum(parts, axis=0))


def print_missed(name: str, total: NDArray[np.int64]) -> None:
    print(
        f"  {name:38s} {total[0]:6d} nuclei: {100 * total[1] / total[0]:.3f} % of the centroids, "
        f"{100 * total[3] / total[2]:.3f} % of the pixels"
    )


GLASSES: dict[str, Callable[[Picture], Picture]] = {
    "white 255": lambda rgb: rgb,
    "white 248": lambda rgb: blemishes.tint(rgb, (248, 248, 248)),
    "grey 225": lambda rgb: blemishes.tint(rgb, (225, 225, 225)),
    "grey 200": lambda rgb: blemishes.tint(rgb, (200, 200, 200)),
    "yellow cast": lambda rgb: blemishes.tint(rgb, (243, 242, 235)),
    "blue cast": lambda rgb: blemishes.tint(rgb, (234, 238, 242)),
    "pink cast": lambda rgb: blemishes.tint(rgb, (244, 236, 242)),
    "noise 3": lambda rgb: blemishes.add_noise(blemishes.tint(rgb, (240, 240, 240)), 3, 0),
    "JPEG 50": lambda rgb: blemishes.through_jpeg(blemishes.tint(rgb, (242, 241, 240)), 50),
    "vignetting": lambda rgb: blemishes.shade(blemishes.tint(rgb, (244, 242, 244)), 0.8),
    "all of it": lambda rgb: blemishes.through_jpeg(
        blemishes.add_noise(blemishes.shade(blemishes.tint(rgb, (243, 236, 241)), 0.85), 3, 1), 60
    ),
}
"""What glass looks like, applied to a picture on pure white."""


def glass(mpp: float, pictures: Pictures) -> None:
    """Glass of many kinds kept, without tissue and around it; and nuclei lost on it"""
    factor = round(mpp / IMAGE_MPP)
    images = [image for name in SETS[:3] for image in list(annotated(name, factor, 12))[::4]]
    rgb, tops, lefts = mosaic(images)
    empty = np.full_like(rgb, 255)
    plain = find_tissue(rgb, mpp, OPTIONS)
    for name, change in GLASSES.items():
        changed = change(rgb)
        mask = find_tissue(changed, mpp, OPTIONS)
        pictures.write(f"glass_{name.replace(' ', '_')}", changed, mask)
        total = np.sum(
            [
                missed(i.inst, mask[top:, left:][: i.rgb.shape[0], : i.rgb.shape[1]], factor)
                for i, top, left in zip(images, tops, lefts, strict=True)
            ],
            axis=0,
        )
        alone = find_tissue(change(empty), mpp, OPTIONS).mean()
        print(
            f"  {name:14s} empty slide {100 * alone:6.3f} %; beyond the mask on white "
            f"{100 * (mask & ~plain).mean():6.3f} %; nuclear pixels lost "
            f"{100 * total[3] / total[2]:.3f} %"
        )


def scene(mpp: float) -> tuple[Picture, Mask]:
    """Return tissue in the middle of white glass, and where the glass is."""
    factor = round(mpp / IMAGE_MPP)
    rgb, _, _ = mosaic(list(islice(annotated("monuseg_train", factor, 0), 9)))
    margin = 250
    canvas = np.full((rgb.shape[0] + 2 * margin, rgb.shape[1] + 2 * margin, 3), 255, np.uint8)
    canvas[margin:-margin, margin:-margin] = rgb
    free = np.ones(canvas.shape[:2], np.bool_)
    reach = round(3 * OPTIONS.grow_um / mpp)
    free[margin - reach : reach - margin, margin - reach : reach - margin] = False
    return canvas, free


def pen(name: str, opacity: float, width_px: int) -> Callable[[Picture], blemishes.Painted]:
    def draw(rgb: Picture) -> blemishes.Painted:
        high, wide = rgb.shape[:2]
        points = [(40, 40), (wide - 60, 60), (wide - 40, high - 80), (90, high - 50), (60, 120)]
        return blemishes.draw_pen(rgb, blemishes.PENS[name], points, width_px, opacity, seed=3)

    return draw


def bubbles(rgb: Picture) -> blemishes.Painted:
    changed = np.zeros(rgb.shape[:2], np.bool_)
    for x, y, radius in ((120, 120, 60), (rgb.shape[1] - 130, 140, 100), (100, 400, 14)):
        rgb, here = blemishes.add_bubble(rgb, (x, y), radius)
        changed |= here
    return rgb, changed


BLEMISHES: dict[str, Callable[[Picture], blemishes.Painted]] = {
    **{
        f"{name} pen, {opacity:.0%}, {width} px": pen(name, opacity, width)
        for name in blemishes.PENS
        for opacity in (1.0, 0.6, 0.35)
        for width in (4, 12, 50)
    },
    "black border": lambda rgb: blemishes.add_border(rgb, 60),
    "coverslip edge": lambda rgb: blemishes.add_coverslip_edge(rgb, 100, 2),
    "wide coverslip edge": lambda rgb: blemishes.add_coverslip_edge(rgb, 100, 6, 60),
    "bubbles": bubbles,
    "dust": lambda rgb: blemishes.add_dust(rgb, 150, 5),
}
"""Painters of one kind of blemish on the glass around tissue."""

_SPOILT = ("white 248", "grey 225", "all of it")


def blemished(mpp: float, pictures: Pictures) -> None:
    """Painted pixels on glass that are kept (aim: < 1 %), on three kinds of glass"""
    clean, free = scene(mpp)
    for name, paint in BLEMISHES.items():
        painted, changed = paint(clean)
        changed &= free
        shares, inked = [], []
        for kind in _SPOILT:
            rgb = GLASSES[kind](painted)
            mask = find_tissue(rgb, mpp, OPTIONS)
            shares.append(100 * float(mask[changed].mean()))
            inked.append(100 * float(find_ink(rgb, mpp)[changed].mean()))
            stem = f"{name}_{kind}".replace(" ", "_").replace("%", "").replace(",", "")
            pictures.write(f"blemish_{stem}", rgb, mask)
        print(
            f"  {name:24s} kept {' '.join(f'{share:6.2f}' for share in shares)} %;   "
            f"called ink {' '.join(f'{share:5.1f}' for share in inked)} %"
        )


def real_ink(mpp: float, pictures: Pictures) -> None:
    """Real tissue called ink (aim: < 1 %), and images with real marking dye"""
    for step in (2.0, 4.0, mpp):
        factor = round(step / IMAGE_MPP)
        for data_set in SETS:
            called = []
            for image in annotated(data_set, factor, 0):
                ink = find_ink(image.rgb, step)
                if image.name in INKED:
                    print(f"    {image.name} at {step} µm: {100 * ink.mean():.1f} %")
                    pictures.write(f"ink_{image.name}_{step:g}", image.rgb, ink)
                else:
                    called.append(float(ink.mean()))
            print(
                f"  {data_set:22s} at {step} µm: mean {100 * np.mean(called):.4f} %, "
                f"worst image {100 * max(called):.3f} %"
            )


def sections(mpp: float, pictures: Pictures) -> None:
    """The frozen section against its outline (aim: >= 97 % covered, <= 10 % of the glass kept)"""
    for name, slide_mpp in ((FROZEN, FROZEN_MPP), (DEMO, DEMO_MPP)):
        slide = wsiseg.open_slide(SHARED / "slides" / name)
        frame = frame_at(slide.info, slide_mpp, mpp)
        rgb = read_overview(slide, frame)
        mask = find_tissue(rgb, mpp, OPTIONS)
        pictures.write(Path(name).stem, rgb, mask)
        pictures.write(f"ink_{Path(name).stem}", rgb, find_ink(rgb, mpp))
        print(f"  {name}: {100 * mask.mean():.1f} % of the slide is tissue")
        if name == FROZEN:
            inside = fill_outline(mask.shape, frame.scale)
            print(
                f"    outline covered {100 * mask[inside].mean():.2f} %, "
                f"glass kept {100 * mask[~inside].mean():.2f} %"
            )


def fill_outline(shape: tuple[int, ...], scale: float) -> Mask:
    """Return the outline drawn by hand as a mask of an overview."""
    text = (REPOSITORY / "tests" / "data" / "frozen_section_outline.geojson").read_text()
    fine = 4
    filled = np.zeros((shape[0] * fine, shape[1] * fine), np.uint8)
    rings = [
        np.rint(np.asarray(ring) / scale * fine - 0.5).astype(np.int32)
        for polygon in json.loads(text)["features"][0]["geometry"]["coordinates"]
        for ring in polygon
    ]
    cv2.fillPoly(filled, rings, 1)
    return shrink(filled * 255, fine) > 127


def seconds(mpp: float, pictures: Pictures) -> None:
    """Seconds for an overview of 3000 x 3000 px on one core (aim: 1)"""
    del pictures
    rgb, _ = scene(mpp)
    rgb = np.tile(rgb, (5, 5, 1))[:3000, :3000].copy()
    rgb, _ = pen("blue", 1.0, 40)(rgb)

    def tissue() -> None:
        find_tissue(rgb, mpp, OPTIONS)

    def ink() -> None:
        find_ink(rgb, mpp)

    for call in (tissue, ink):
        times = []
        for _ in range(3):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        print(f"  {call.__name__}: {min(times):.2f} s of {rgb.shape[0]} x {rgb.shape[1]} px")


if __name__ == "__main__":
    main()
