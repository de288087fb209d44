"""How many nuclei does a moved tile grid change?

    python benchmarks/seams.py SLIDE [--mpp 0.25] [--mosaic DIR] [--model NAME]

Segments a slide, or a mosaic of the first images of a folder, twice: on the usual grid and on
one moved by half a core both ways.  Nuclei are matched by IoU; near a seam means that the
centroid is within 64 model px of a core's edge of either grid.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.evaluation.metrics import count_overlaps, match_instances

NEAR_PX = 64


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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        slide = arguments.slide
        if arguments.mosaic:
            slide = Path(temporary) / "mosaic.png"
            Image.fromarray(make_mosaic(arguments.mosaic, arguments.images)).save(slide)
        model = wsiseg.load_model(arguments.model)
        core_px = model.card.core_px
        runs = [
            wsiseg.segment(
                slide,
                Path(temporary) / str(offset_px),
                model=model,
                scale=arguments.mpp,
                options=wsiseg.PlanOptions(
                    grid_offset_px=offset_px,
                    scale=wsiseg.ScaleOptions(mpp=arguments.mpp),
                    tissue=None if arguments.mosaic else wsiseg.TissueOptions(),
                ),
                compute=wsiseg.ComputeOptions(precision=arguments.precision),
                formats=(),
            )
            for offset_px in (0, core_px // 2)
        ]
        compare(runs[0], runs[1], core_px)


def make_mosaic(folder: Path, n_images: int) -> NDArray[np.uint8]:
    """Put the first images of a folder side by side in a square."""
    paths = sorted(folder.glob("*.png"))[:n_images]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    side = int(np.sqrt(len(images)))
    rows = [np.hstack(images[i * side : (i + 1) * side]) for i in range(side)]
    return np.vstack(rows)


def compare(first: wsiseg.Result, second: wsiseg.Result, core_px: int) -> None:
    """Print matched, lost and doubled nuclei near seams and elsewhere."""
    labels = [read_labels(run) for run in (first, second)]
    found = match_instances(labels[0], labels[1], min_iou=0.5)
    iou = np.zeros(len(first.cells(columns=["cell_id"])) + 1)
    iou[found.reference_label] = found.iou
    near = [near_seam(run, core_px) for run in (first, second)]
    matched_second = np.zeros(len(near[1]), bool)
    matched_second[found.predicted_label - 1] = True
    doubled = count_doubled(*labels), count_doubled(*labels[::-1])
    for name, here, there in (
        ("near seams", near[0], near[1]),
        ("elsewhere", ~near[0], ~near[1]),
        ("all", np.ones_like(near[0]), np.ones_like(near[1])),
    ):
        values = iou[1:][here]
        n, n_moved = len(values), int(there.sum())
        print(
            f"{name:11}  nuclei {n:6}  IoU>0.5 {share(values > 0.5)}  IoU>0.9 "
            f"{share(values > 0.9)}  identical {share(values == 1)}  lost "
            f"{int((values == 0).sum())}  new {int((~matched_second & there).sum())}  "
            f"count {n_moved - n:+d}"
        )
    print("stitch", first.run["stitch"], second.run["stitch"], "doubled", doubled)


def read_labels(run: wsiseg.Result) -> NDArray[np.int32]:
    array = zarr.open_array(run.path / "masks.zarr/labels/nuclei/0", mode="r")
    return np.asarray(array[:]).astype(np.int32)


def near_seam(run: wsiseg.Result, core_px: int) -> NDArray[np.bool_]:
    """Return, for each cell in order of id, whether it lies near an edge of either grid."""
    table = pq.read_table(run.path / "cells.parquet", columns=["x", "y"])
    near = np.zeros(len(table), np.bool_)
    for name in ("x", "y"):
        position = table[name].to_numpy() / run.run["frame"]["scale"]
        to_edge = np.abs((position + core_px / 4) % (core_px / 2) - core_px / 4)
        near |= to_edge < NEAR_PX
    return near


def count_doubled(labels: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Count nuclei in which two or more of the other run lie with most of their area."""
    pairs = count_overlaps(other, labels)
    inside = 2 * pairs.shared_px > pairs.reference_px[pairs.reference_index]
    return int((np.bincount(pairs.predicted_index[inside]) > 1).sum())


def share(flags: NDArray[np.bool_]) -> str:
    return f"{100 * flags.mean():7.3f} %" if len(flags) else "      –"


if __name__ == "__main__":
    main()
