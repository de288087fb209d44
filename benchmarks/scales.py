"""The same annotated images at several µm per pixel, through the whole pipeline.

Each image is resampled, written as a file, segmented by `wsiseg.segment` with that µm per pixel
said, and scored twice: against the labels resampled in the same way, and, with its outlines laid
back on the image as it was, against the labels as they were.  The row `native` is the image
untouched.

    python benchmarks/scales.py ../shared/data/monuseg_train ../shared/data/consep_train \\
        --model nuclei-40x-v0 --held-back -n 4
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.evaluation.perturb import match_sums, misstate_mpp
from wsiseg.evaluation.sampling import bootstrap
from wsiseg.evaluation.segmenting import draw_outlines
from wsiseg.labels.folders import read_folder
from wsiseg.labels.records import LabelledImage

SCALES = (0.2, 0.25, 0.35, 0.5)


def resampled(image: LabelledImage, mpp: float) -> LabelledImage:
    """Return an image and its labels at another µm per pixel."""
    return replace(misstate_mpp(image, 100 * (image.mpp / mpp - 1)), mpp=mpp)


def outlines_of(image: LabelledImage, model: str, device: str) -> tuple[NDArray[Any], str]:
    """Write an image, segment it, and return its outlines in its pixels, and the model used."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{image.name}.png"
        Image.fromarray(image.rgb).save(path)
        result = wsiseg.segment(
            path,
            temporary,
            model=model,
            scale=image.mpp,
            options=wsiseg.PlanOptions(tissue=None, measure="none"),
            compute=wsiseg.ComputeOptions(device=device),
            formats=(),
        )
        geometry = result.cells(columns=["geometry"])["geometry"].to_numpy()
        return shapely.from_wkb(geometry), result.model_name


def measure(
    images: list[LabelledImage], mpp: float | None, model: str, device: str
) -> dict[str, Any]:
    """Return PQ of images at a scale (None: as they are), against both kinds of labels."""
    there, native, models = [], [], set[str]()
    start = time.perf_counter()
    for image in images:
        changed = image if mpp is None else resampled(image, mpp)
        outlines, name = outlines_of(changed, model, device)
        models.add(name)
        height, width = changed.instances.shape
        there.append(match_sums(changed, draw_outlines(outlines, (height, width))))
        rows, cols = image.instances.shape
        back = shapely.transform(outlines, lambda at, by=(cols / width, rows / height): at * by)
        native.append(match_sums(image, draw_outlines(back, (rows, cols))))
    patients = [image.patient for image in images]
    return {
        "mpp": "native" if mpp is None else mpp,
        "model": ", ".join(sorted(models)),
        "PQ, resampled labels": pooled_pq(there, patients),
        "PQ, native labels": pooled_pq(native, patients),
        "seconds": round(time.perf_counter() - start, 1),
    }


def pooled_pq(sums: list[tuple[float, ...]], patients: list[str]) -> dict[str, float | None]:
    """Return PQ of all images together, with its interval over patients."""
    unit = np.unique(patients, return_inverse=True)[1]
    of_patients = np.zeros((unit.max() + 1, 4))
    np.add.at(of_patients, unit, np.array(sums))
    (pq,) = bootstrap(
        lambda drawn: (2 * drawn[:, 0] / (drawn[:, 2] + drawn[:, 3]))[:, np.newaxis],
        of_patients,
        np.ones(len(of_patients)),
        seed=0,
    )
    return {"value": pq.value, "low": pq.low, "high": pq.high}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", help="folders of images/ and inst/")
    parser.add_argument("--model", default="auto", help="auto, a shipped model or a folder")
    parser.add_argument("--held-back", action="store_true", help="only what the card holds back")
    parser.add_argument("-n", type=int, help="images of each folder; else all")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="µm per pixel")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="file for the results")
    chosen = parser.parse_args()
    patients = None
    if chosen.held_back:
        patients = frozenset(wsiseg.load_model(chosen.model).card.about["held_back"])
    images = []
    for folder in chosen.data:
        known = [i for i in read_folder(folder, {}) if patients is None or i.patient in patients]
        images += known[: chosen.n]
    rows = []
    for mpp in (None, *chosen.scales):
        row = measure(images, mpp, chosen.model, chosen.device)
        rows.append(row)
        print(*(f"{name}: {said(value)}" for name, value in row.items()), sep="  ", flush=True)
    if chosen.json is not None:
        report = {"images": [image.name for image in images], "rows": rows}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")


def said(value: Any) -> str:
    """Return a value, or an estimate with its interval, as text."""
    if not isinstance(value, dict):
        return str(value)
    if value["low"] is None:
        return f"{value['value']:.4f}"
    return f"{value['value']:.4f} [{value['low']:.3f}, {value['high']:.3f}]"


if __name__ == "__main__":
    main()
