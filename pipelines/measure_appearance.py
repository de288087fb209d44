"""What the training images of a model look like, for `appearance` in its card.

    python pipelines/measure_appearance.py DATA/monuseg_train DATA/consep_train

Each folder holds `images/*.png` at --mpp µm per pixel.  They are measured in blocks of 512 px
(the size of a first look at a slide); blocks with ink, with black matter or with hardly any
tissue are left out.  Prints a JSON object: field of `wsiseg.quality.TileQuality` to
[lowest, highest].
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsiseg.quality import appearance_of
from wsiseg.training.numbers import measured_blocks


def main() -> None:
    """Measure all images and print the ranges."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--mpp", type=float, default=0.25)
    arguments = parser.parse_args()
    found = [
        quality
        for folder in arguments.folders
        for path in sorted((folder / "images").glob("*.png"))
        for quality in measured_blocks(read_image(path), arguments.mpp)
    ]
    ranges = appearance_of(found)
    print(json.dumps({name: [round(end, 4) for end in ends] for name, ends in ranges.items()}))


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as (h, w, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    main()
