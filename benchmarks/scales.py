"""The same annotated images at several µm per pixel, through the whole pipeline.

Each image is resampled, written as a file, segmented by `wsiseg.segment` with that µm per pixel
said, and scored twice: against the labels resampled in the same way, and, with its outlines laid
back on the image as it was, against the labels as they were.  The row `native` is the image
untouched.

    python benchmarks/scales.py ../shared/data/monuseg_train ../shared/data/consep_train \\
        --mpp 0.25 --model nuclei-40x-v0 --held-back -n 4
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.evaluation.perturb import match_sums, pooled_pq
from wsiseg.evaluation.segmenting import draw_outlines
from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.labels.records import LabelledImage
from wsiseg.labels.resampling import resample

SCALES = (0.2, 0.25, 0.35, 0.5)


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
        changed = image if mpp is None else resample(image, mpp)
        outlines, name = outlines_of(changed, model, device)
        models.add(name)
        height, width = changed.instances.shape
        there.append(match_sums(changed, draw_outlines(outlines, (height, width))))
        rows, cols = image.instances.shape
        back = shapely.transform(outlines, lambda at, by=(cols / width, rows / height): at * by)
        native.append(match_sums(image, draw_outlines(back, (rows, cols))))
    return {
        "mpp": "native" if mpp is None else mpp,
        "model": ", ".join(sorted(models)),
        "PQ, resampled labels": estimate_of(there, images),
        "PQ, native labels": estimate_of(native, images),
        "seconds": round(time.perf_counter() - start, 1),
    }


def estimate_of(
    sums: list[tuple[float, ...]], images: list[LabelledImage]
) -> dict[str, float | None]:
    """Return PQ of all images together, with its interval over patients."""
    return asdict(pooled_pq(np.array(sums), [image.patient for image in images]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", help="annotated images")
    parser.add_argument("--model", default="auto", help="auto, a shipped model or a folder")
    parser.add_argument("--held-back", action="store_true", help="only what the card holds back")
    parser.add_argument("--mpp", type=float, help="µm per pixel, where files do not say")
    parser.add_argument("-n", type=int, help="images of each set; else all")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="µm per pixel")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="file for the results")
    chosen = parser.parse_args()
    patients = None
    if chosen.held_back:
        patients = frozenset(wsiseg.load_model(chosen.model).card.about["held_back"])
    images = []
    for one in read_label_sets(chosen.data, LabelOptions(mpp=chosen.mpp)).sets:
        known = [i for i in one.images if patients is None or i.patient in patients]
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
