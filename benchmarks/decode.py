"""The decoder against its plain twin and the published algorithm, on maps of a real model.

    python benchmarks/decode.py IMAGE.png [--model NAME] [--sides 1024 2048]

Prints seconds of CPU time (median of 5 for the decoder) and agreement.  Larger maps are the
image's, mirrored side by side.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import wsiseg
from wsiseg.decode import DecodeOptions, decode_instances, paint_instances
from wsiseg.evaluation.metrics import panoptic_quality
from wsiseg.models import Numerics
from wsiseg.records import Maps

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from slow_decode import assert_same, published_decode, slow_decode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--model", default="nuclei-40x-v0")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048])
    arguments = parser.parse_args()
    model = wsiseg.load_model(arguments.model)
    predict = model.predictor(Numerics())
    options = DecodeOptions.from_json(model.card.decode)
    for path in arguments.images:
        rgb = np.asarray(Image.open(path).convert("RGB"))
        for side in arguments.sides:
            after = (max(0, side - rgb.shape[0]), max(0, side - rgb.shape[1]))
            big = np.pad(rgb, ((0, after[0]), (0, after[1]), (0, 0)), "reflect")[:side, :side]
            maps = predict(np.ascontiguousarray(big)[None])[0]
            report(path.stem, side, maps, options)


def report(name: str, side: int, maps: Maps, options: DecodeOptions) -> None:
    decode_instances(maps, options)
    seconds = sorted(timed(decode_instances, maps, options)[0] for _ in range(5))[2]
    _, instances = timed(decode_instances, maps, options)
    twin_seconds, twin = timed(slow_decode, maps, options)
    published_seconds, published = timed(published_decode, maps, options)
    labels = paint_instances(instances, maps.nucleus.shape)
    # The published algorithm drops small mask components, ours also small nuclei in large ones.
    areas = np.bincount(published.ravel())
    published[areas[published] < options.min_area_px] = 0
    quality = panoptic_quality(published, labels)
    twin_labels = np.zeros_like(labels)
    for number, nucleus in enumerate(twin):
        rows, cols = zip(*nucleus["pixels"], strict=True)
        twin_labels[rows, cols] = number + 1
    twin_quality = panoptic_quality(twin_labels, labels)
    assert_same(instances, twin)
    print(
        f"{name} {side}²: {len(instances)} nuclei; decoder {seconds * 1e3:.0f} ms; plain twin "
        f"{twin_seconds:.1f} s ({twin_seconds / seconds:.0f}x), "
        f"equal, PQ {twin_quality.pq:.4f}; "
        f"published algorithm {published_seconds:.2f} s ({published_seconds / seconds:.0f}x), "
        f"PQ {quality.pq:.4f}, DQ {quality.dq:.4f}",
        flush=True,
    )


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.process_time()
    value = function(*arguments)
    return time.process_time() - start, value


if __name__ == "__main__":
    main()
