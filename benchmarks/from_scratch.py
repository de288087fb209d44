"""From fifteen small images to a model, with no number set by hand, against a classical watershed.

    python benchmarks/from_scratch.py ../shared/data/nucls_sample --out runs/from_scratch

In each fold a third of the images is held back from everything.  `wsiseg.train` learns from the
others (and splits them once more to choose the decoder's constants); the watershed's five numbers
are tuned on the same images, all of them.  Both are judged on the images held back, the model
through `wsiseg.segment`.  The encoder begins with ImageNet's weights if their package is there;
with `--start chance` the whole network begins with random ones.  Calling it again goes on.  CPU
seconds are those of this process and all it started.

Only outlines are judged.  The classes of this sample look like noise (neither size nor darkness nor
texture nor neighbours tell them apart, in no image), and its file names do not say which images are
of one patient, so that folds are made by image.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.segmentation import watershed

import wsiseg
from wsiseg.evaluation.metrics import aji, dice, panoptic_quality
from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.labels.records import LabelledImage
from wsiseg.stain import optical_density, unmix
from wsiseg.training.options import TrainRunOptions
from wsiseg.training.run import train

FOLDS = 3
MPP = 0.25
CLASSES = {"1": "Other", "2": "Tumour"}
SETTINGS = {
    "smoothing_px": (0.5, 1.0, 2.0),
    "otsu_share": (0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    "peak_smoothing_px": (0.5, 1.0, 2.0, 3.0),
    "peak_distance_px": (3, 5, 7, 10, 14),
    "min_area_px": (20, 50, 80, 120, 160, 220),
}
"""What is tried for the watershed, one number after the other until nothing improves."""


@dataclass(frozen=True)
class Watershed:
    """Numbers of the classical method."""

    smoothing_px: float = 1.0
    otsu_share: float = 1.0
    """Haematoxylin above this share of Otsu's threshold is nucleus."""
    peak_smoothing_px: float = 1.0
    peak_distance_px: int = 7
    min_area_px: int = 80


def main() -> None:
    """Run the folds and print and write what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with images/, inst/, types/, manifest.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(FOLDS)))
    parser.add_argument("--start", help="chance: random weights, also in the encoder")
    arguments = parser.parse_args()
    found = [
        run_fold(arguments.folder, arguments.out / f"fold_{fold}", fold, arguments.start)
        for fold in arguments.folds
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    for fold in found:
        print(f"fold {fold['fold']}: {fold['steps']} steps, {fold['cpu_s'] / 60:.1f} CPU minutes")
        for name in ("model", "watershed"):
            rows = fold[name]
            print(f"  {name:9}", *(f"{key} {mean(rows, key):.3f}" for key in ("pq", "aji", "dice")))
    for name in ("model", "watershed"):
        rows = [row for fold in found for row in fold[name]]
        values = [row["pq"] for row in rows]
        print(
            f"{name:9} {len(rows)} images: PQ {np.mean(values):.3f} "
            f"(sd over images {np.std(values, ddof=1):.3f}, {min(values):.3f} to {max(values):.3f})"
        )


def mean(rows: list[dict[str, Any]], key: str) -> float:
    """Return the mean over images."""
    return float(np.mean([row[key] for row in rows]))


def run_fold(folder: Path, out: Path, fold: int, start: str | None) -> dict[str, Any]:
    """Train, tune and judge; return all that is to be told."""
    names = sorted(path.stem for path in (folder / "images").glob("*.png"))
    held = names[fold * len(names) // FOLDS : (fold + 1) * len(names) // FOLDS]
    out.mkdir(parents=True, exist_ok=True)
    copy_of(folder, [name for name in names if name not in held], out / "learned")
    copy_of(folder, held, out / "held_back")
    options = LabelOptions(mpp=MPP, class_of=CLASSES, licence="CC0-1.0")
    judged = read_label_sets([out / "held_back"], options).sets[0].images
    learned = read_label_sets([out / "learned"], options).sets[0].images
    before = cpu_s()
    trained = train(
        [out / "learned"],
        out / "training",
        TrainRunOptions(start=start),
        options,
        resume=True,
        progress=lambda p: print(f"{p.record.step}/{p.steps} {p.record.loss:.3f}", flush=True),
    )
    spent = cpu_s() - before
    numbers = tuned(learned)
    rows = {
        "model": [scores(image, segmented(trained.folder, image)) for image in judged],
        "watershed": [scores(image, classical(image.rgb, numbers)) for image in judged],
    }
    steps = json.loads((out / "training" / "training.json").read_text())["settled"]["steps"]
    return {
        "fold": fold,
        "begun_from": trained.card.about["begun_from"],
        "steps": steps,
        "cpu_s": spent,
        "decode": trained.card.decode,
        "watershed_numbers": asdict(numbers),
        **rows,
    }


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def copy_of(folder: Path, names: list[str], target: Path) -> None:
    """Copy some images of a folder."""
    for part in ("images", "inst", "types"):
        (target / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(folder / part / f"{name}.png", target / part / f"{name}.png")
    with (target / "manifest.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([["name"], *([name] for name in names)])


def segmented(model: Path, image: LabelledImage) -> NDArray[np.int32]:
    """Return what the whole pipeline finds."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "image.png"
        Image.fromarray(image.rgb).save(path)
        result = wsiseg.segment(
            path,
            temporary,
            model=model,
            scale=MPP,
            options=wsiseg.PlanOptions(tissue=None),
            formats=(),
        )
        labels = zarr.open_array(result.path / "masks.zarr/labels/nuclei/0", mode="r")
        return np.asarray(labels[:]).astype(np.int32)


def scores(image: LabelledImage, found: NDArray[np.int32]) -> dict[str, Any]:
    """Score what was found in one image."""
    return {
        "image": image.name,
        "pq": panoptic_quality(image.instances, found).pq,
        "aji": aji(image.instances, found),
        "dice": dice(image.instances, found),
    }


def classical(rgb: NDArray[np.uint8], numbers: Watershed) -> NDArray[np.int32]:
    """Segment by Otsu's threshold on haematoxylin and a watershed of the distance transform."""
    stain = gaussian(unmix(optical_density(rgb))[..., 0], numbers.smoothing_px)
    mask = ndimage.binary_fill_holes(stain > numbers.otsu_share * threshold_otsu(stain))
    depth = gaussian(ndimage.distance_transform_edt(mask), numbers.peak_smoothing_px)
    parts, _ = ndimage.label(mask)
    peaks = peak_local_max(depth, min_distance=numbers.peak_distance_px, labels=parts)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-depth, seeds, mask=mask).astype(np.int32)
    area = np.bincount(labels.ravel())
    return np.where(area[labels] < numbers.min_area_px, 0, labels).astype(np.int32)


def tuned(images: tuple[LabelledImage, ...]) -> Watershed:
    """Return the numbers with the best mean panoptic quality on the images learned from."""
    best, best_pq = Watershed(), -1.0
    for _ in range(3):
        before = best
        for name, values in SETTINGS.items():
            for value in values:
                other = replace(best, **{name: value})
                found = [panoptic_quality(i.instances, classical(i.rgb, other)).pq for i in images]
                pq = float(np.mean(found))
                if pq > best_pq:
                    best, best_pq = other, pq
        if best == before:
            break
    print(f"watershed tuned to {best}: mean PQ {best_pq:.3f} where it was tuned", flush=True)
    return best


if __name__ == "__main__":
    main()
