"""How many nuclei does a moved tile grid change, on a whole slide or a mosaic of images?

    python benchmarks/seams.py SLIDE [--mpp 0.25] [--model NAME] [--picture FILE]
    python benchmarks/seams.py --mosaic DIR [--images 16] [--mpp 0.25]

`wsiseg.seamcheck` of all of it, against the grid moved by half a core both ways.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.cli.terminal import print_seams


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("slide", type=Path, nargs="?")
    parser.add_argument("--mosaic", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--model", default="nuclei-40x-v0")
    parser.add_argument("--precision")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    model = wsiseg.load_model(arguments.model)
    with tempfile.TemporaryDirectory() as temporary:
        slide = arguments.slide
        if arguments.mosaic:
            slide = Path(temporary) / "mosaic.png"
            Image.fromarray(make_mosaic(arguments.mosaic, arguments.images)).save(slide)
        report = wsiseg.seamcheck(
            slide,
            model=model,
            scale=arguments.mpp,
            options=wsiseg.PlanOptions(tissue="none" if arguments.mosaic else "auto"),
            check=wsiseg.SeamCheckOptions("all", offsets_px=(model.card.core_px // 2,)),
            compute=wsiseg.ComputeOptions(precision=arguments.precision),
            picture=arguments.picture,
        )
    print_seams(report)


def make_mosaic(folder: Path, n_images: int) -> NDArray[np.uint8]:
    """Put the first images of a folder side by side in a square."""
    paths = sorted(folder.glob("*.png"))[:n_images]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    side = int(np.sqrt(len(images)))
    rows = [np.hstack(images[i * side : (i + 1) * side]) for i in range(side)]
    return np.vstack(rows)


if __name__ == "__main__":
    main()
