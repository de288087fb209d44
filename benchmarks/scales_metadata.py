"""The same tissue at 40x and at 20x, and at 20x with metadata that claim 40x.

Images of 0.25 µm per pixel are laid side by side as one slide, and reduced to 0.5 µm per pixel.
The counts and median areas of the two should agree; the slide whose metadata are wrong should
finish with a warning that its nuclei are too small.

    python benchmarks/scales_metadata.py IMAGES [--n 16]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.testing.slides import ArraySlide


def mosaic(folder: Path, n: int) -> NDArray[np.uint8]:
    """Return up to n images of one size, four in a row."""
    paths = sorted(folder.glob("*.png"))[:n]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    same = [image for image in images if image.shape == images[0].shape]
    rows = [np.hstack(same[k : k + 4]) for k in range(0, len(same) // 4 * 4, 4)]
    return np.vstack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of PNG images at 0.25 µm per pixel")
    parser.add_argument("--n", type=int, default=16)
    chosen = parser.parse_args()
    rgb = mosaic(chosen.images, chosen.n)
    half = cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cases = {
        "40x": ArraySlide(rgb, name="40x.png", mpp=0.25),
        "20x": ArraySlide(half, name="20x.png", mpp=0.5),
        "20x claiming 40x": ArraySlide(half, name="claims.png", mpp=0.25),
    }
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as out:
        for name, slide in cases.items():
            options = wsiseg.PlanOptions(tissue=None)
            result = wsiseg.segment(slide, out, options=options, formats=())
            total = result.summary()["total"]
            first = first or total
            n, area = total["n"], total["median_area_um2"]
            print(
                f"{name:18} {n:6} nuclei ({n / first['n'] - 1:+.1%}), median {area:5.1f} µm² "
                f"({area / first['median_area_um2'] - 1:+.1%}), warnings: "
                f"{', '.join(warning['code'] for warning in result.warnings) or 'none'}"
            )


if __name__ == "__main__":
    main()
