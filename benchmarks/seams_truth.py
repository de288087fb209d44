"""Do seams cost accuracy?  A mosaic with known nuclei, against them and image by image.

    python -m wsiseg.testing.gigapixel …            # makes MOSAIC.svs and MOSAIC.svs.truth.npz
    python benchmarks/seams_truth.py MOSAIC.svs --out DIR [--model NAME] [--json FILE]

The mosaic is segmented on the usual grid and on one moved by half a core, and each of its images
alone (cut out of the mosaic, so that the pixels are the same and only the surroundings differ).
All are scored within the images' boxes against the known nuclei: a nucleus that crosses an
image's border is cut there, as its truth is.  PQ is pooled over all nuclei.

* Seam band: nuclei whose centroid (of the known one; of the predicted one where there is none) is
  less than 64 px from a seam of the usual grid.  Its PQ is held against that of all others, and,
  nucleus by nucleus, against that of the *same band* on the moved grid, where it lies in the
  middle of tiles: the first difference is also one between tissues, the second is the seam's.
* Mosaic against images one by one: all nuclei, and only those more than 64 px from the border of
  their image, since near it the network sees other surroundings (a neighbour's image, or white).

95 % intervals are from drawing images with replacement.  DIR keeps the runs; call it again to
continue.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

import wsiseg
from wsiseg.evaluation.metrics import match_instances
from wsiseg.geometry import Box
from wsiseg.testing.gigapixel import open_truth, truth_path
from wsiseg.testing.slides import ArraySlide

NEAR_PX = 64
N_DRAWS = 2000

Labels = NDArray[np.integer]
Where = Callable[["Scored"], NDArray[np.bool_]]


@dataclass(frozen=True)
class Scored:
    """Known and predicted nuclei of one image: matched pairs, then misses, then false ones."""

    x_px: NDArray[np.float64]
    y_px: NDArray[np.float64]
    iou: NDArray[np.float64]
    """0 for what has no partner."""
    weight: NDArray[np.float64]
    """In the denominator of PQ: 1 for a pair, ½ for a miss or a false one."""
    border_px: NDArray[np.float64]
    """From the nearest border of the image."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("mosaic", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="nuclei-40x-v0")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = wsiseg.load_model(given.model)
    core_px = model.card.core_px
    truth = open_truth(truth_path(given.mosaic))
    places = truth.placements()
    runs = [segment(given.mosaic, given.out / f"grid-{o}", model, o) for o in (0, core_px // 2)]
    if runs[0].frame.scale != 1:
        raise SystemExit("a mosaic at the model's own µm per pixel is needed")
    labels = [zarr.open_array(run.path / "masks.zarr/labels/nuclei/0", mode="r") for run in runs]
    usual, moved, alone = [], [], []
    with wsiseg.open_slide(given.mosaic) as slide:
        for place in places:
            known = truth.labels_in(place.box)
            for scored, grid in zip((usual, moved), labels, strict=True):
                scored.append(score(known, np.asarray(grid[whole(place.box)]), place.box))
            one = ArraySlide(slide.read_level(0, place.box), runs[0].mpp, name=name_of(place))
            run = segment(one, given.out / "alone", model, 0)
            found = zarr.open_array(run.path / "masks.zarr/labels/nuclei/0", mode="r")
            alone.append(score(known, np.asarray(found[:]), place.box))
    report(usual, moved, alone, core_px, runs[0], given.json)


def segment(slide: object, out: Path, model: object, offset_px: int) -> wsiseg.Result:
    options = wsiseg.PlanOptions(grid_offset_px=offset_px, tissue=None)
    return wsiseg.segment(slide, out, model=model, options=options, formats=())


def name_of(place: object) -> str:
    return f"{place.box.y_px:06d}-{place.box.x_px:06d}-{Path(place.name).stem}.png"


def whole(box: Box) -> tuple[slice, slice]:
    return slice(box.y_px, box.y_end_px), slice(box.x_px, box.x_end_px)


def score(known: Labels, found: Labels, box: Box) -> Scored:
    """Match the nuclei of an image and say where each lies."""
    matches = match_instances(known, found.astype(np.int64))
    x, y = centroids(known)
    x_found, y_found = centroids(found)
    missed = np.setdiff1d(np.fromiter(x, np.int64), matches.reference_label)
    false = np.setdiff1d(np.fromiter(x_found, np.int64), matches.predicted_label)
    lists = [(x, y, matches.reference_label), (x, y, missed), (x_found, y_found, false)]
    x_px = np.array([xs[i] for xs, _, labels in lists for i in labels.tolist()])
    y_px = np.array([ys[i] for _, ys, labels in lists for i in labels.tolist()])
    n_unmatched = len(missed) + len(false)
    border = [x_px, y_px, box.width_px - x_px, box.height_px - y_px]
    return Scored(
        x_px + box.x_px,
        y_px + box.y_px,
        np.concatenate([matches.iou, np.zeros(n_unmatched)]),
        np.concatenate([np.ones(len(matches.iou)), np.full(n_unmatched, 0.5)]),
        np.min(border, axis=0),
    )


def centroids(labels: Labels) -> tuple[dict[int, float], dict[int, float]]:
    rows, cols = np.nonzero(labels)
    label, at, n = np.unique(labels[rows, cols], return_inverse=True, return_counts=True)
    x, y = (np.bincount(at, along + 0.5) / n for along in (cols, rows))
    return dict(zip(label.tolist(), x, strict=True)), dict(zip(label.tolist(), y, strict=True))


def parts_of(images: Sequence[Scored], where: Where) -> NDArray[np.float64]:
    """Return (n_images, 2): sum of IoU and of weights, the parts of PQ."""
    return np.array([[s.iou[where(s)].sum(), s.weight[where(s)].sum()] for s in images])


def pq(parts: NDArray[np.float64]) -> float:
    return float(parts[:, 0].sum() / parts[:, 1].sum())


def difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return PQ of one - PQ of other, with the ends of its 95 % interval."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(one), size=len(one)) for _ in range(N_DRAWS)]
    low, high = np.percentile([pq(one[i]) - pq(other[i]) for i in draws], [2.5, 97.5])
    return pq(one) - pq(other), float(low), float(high)


def report(
    usual: list[Scored],
    moved: list[Scored],
    alone: list[Scored],
    core_px: int,
    run: wsiseg.Result,
    path: Path | None,
) -> None:
    def in_band(scored: Scored) -> NDArray[np.bool_]:
        to_seam = [
            np.abs((v + core_px / 2) % core_px - core_px / 2) for v in (scored.x_px, scored.y_px)
        ]
        return np.minimum(*to_seam) < NEAR_PX

    def everywhere(scored: Scored) -> NDArray[np.bool_]:
        return np.ones(len(scored.iou), np.bool_)

    def inside(scored: Scored) -> NDArray[np.bool_]:
        return scored.border_px > NEAR_PX

    band, rest = parts_of(usual, in_band), parts_of(usual, lambda s: ~in_band(s))
    band_moved = parts_of(moved, in_band)
    said = {
        "images": len(usual),
        "mpx": run.frame.width_px * run.frame.height_px / 1e6,
        "matched_in_band": sum(int((in_band(s) & (s.weight == 1)).sum()) for s in usual),
        "pq_mosaic": pq(parts_of(usual, everywhere)),
        "pq_mosaic_moved": pq(parts_of(moved, everywhere)),
        "pq_alone": pq(parts_of(alone, everywhere)),
        "pq_mosaic_inside": pq(parts_of(usual, inside)),
        "pq_alone_inside": pq(parts_of(alone, inside)),
        "pq_band": pq(band),
        "pq_elsewhere": pq(rest),
        "pq_band_moved": pq(band_moved),
        "band - elsewhere": difference(band, rest),
        "band - same band, moved grid": difference(band, band_moved),
        "mosaic - alone": difference(parts_of(usual, everywhere), parts_of(alone, everywhere)),
        "mosaic - alone, inside": difference(parts_of(usual, inside), parts_of(alone, inside)),
    }
    for name, value in said.items():
        if isinstance(value, tuple):
            print(f"{name:30} {value[0]:+.4f}  ({value[1]:+.4f} to {value[2]:+.4f})")
        else:
            print(f"{name:30} {value:.4f}" if isinstance(value, float) else f"{name:30} {value}")
    if path is not None:
        path.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
