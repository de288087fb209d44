"""The decoder against HoVer-Net's own post-processing, on maps of the shipped model.

    python benchmarks/decode.py IMAGES --hovernet CHECKOUT [--sides 512 1024 2048 4096]

IMAGES are folders of PNG at 0.25 µm/px, laid side by side as a mosaic; CHECKOUT is a clone of
https://github.com/vqdang/hover_net, whose `models/hovernet/post_proc.py` is run as it is, in
this process, in turn with ours.  Times are CPU seconds, medians.  Theirs is run twice: for the
label image alone, and complete (with centroid, contour, type of each nucleus, as its `tile`
command uses it).  Ours always gives runs, centroid, class; the column "+ outlines" adds
polygons.  Without --hovernet only ours is measured.  About 8 minutes with 4096², half a
minute up to 2048²; the maps (1 minute) are kept in --cache.

Agreement is that of label images with: the same algorithm in scikit-image's form with our
fixed constants (`published_decode` of the tests: isolates the implementation); the plain twin
(must be equal); HoVer-Net's code as it is, which scales each tile by its own extremes.  Where
`inst` beside the images holds annotations, both are also scored against these.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measuring import (
    conditions,
    crop_maps,
    git_commit,
    interleaved,
    make_mosaic,
    make_truth,
    predict_maps,
    published_maps,
    timed,
)
from numpy.typing import NDArray

import wsiseg
from wsiseg.decode import DecodeOptions, decode_instances, paint_instances
from wsiseg.evaluation.metrics import panoptic_quality
from wsiseg.models.allocator import keep_large_buffers
from wsiseg.outlines import trace_outlines
from wsiseg.records import Maps

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from slow_decode import assert_same, published_decode, slow_decode

Process = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--hovernet", type=Path)
    parser.add_argument("--model", default="nuclei-40x-v0")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/wsiseg-benchmarks"))
    arguments = parser.parse_args()
    print(conditions("numpy", "numba", "opencv-python-headless", "scipy", "scikit-image"))
    process = None
    if arguments.hovernet:
        sys.path.append(str(arguments.hovernet))
        process = importlib.import_module("models.hovernet.post_proc").process
        print(f"HoVer-Net's code: {git_commit(arguments.hovernet)}")
    options = DecodeOptions.from_json(wsiseg.load_model(arguments.model).card.decode)
    # As in a run: the predictor makes malloc keep what the decoder gives back.
    keep_large_buffers()
    whole = predict_maps(
        make_mosaic(arguments.images, max(arguments.sides)), arguments.model, arguments.cache
    )
    decode_instances(crop_maps(whole, 0, 0, 64), options)
    compare_times(whole, options, arguments.sides, process, arguments.repeats)
    truth = make_truth(arguments.images, max(arguments.sides))
    compare_labels(whole, options, arguments.sides, process, truth)
    compare_densities(whole, options, arguments.repeats)
    compare_threads(whole, options, arguments.repeats)


def compare_times(
    whole: Maps,
    options: DecodeOptions,
    sides: list[int],
    process: Process | None,
    repeats: int,
) -> None:
    """Print seconds by area, ours and theirs."""
    print(
        "\n| side px | nuclei | ours ms | ns/px | + outlines ms | theirs, labels s | ratio | "
        "theirs, complete s | ratio |\n|---|---|---|---|---|---|---|---|---|"
    )
    for side in sides:
        maps = crop_maps(whole, 0, 0, side)
        given = published_maps(maps)
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda maps=maps: decode_instances(maps, options),
            "outlines": lambda maps=maps: trace_outlines(decode_instances(maps, options)),
        }
        if process is not None:
            calls["labels"] = lambda given=given: process(given[..., 1:])
            calls["complete"] = lambda given=given: process(given, 5, True)
        decode_instances(maps, options)
        spent = interleaved(calls, repeats)
        cells = [
            f"{side}²",
            f"{len(decode_instances(maps, options))}",
            f"{spent['ours'] * 1e3:.1f}",
            f"{spent['ours'] / side**2 * 1e9:.1f}",
            f"{spent['outlines'] * 1e3:.1f}",
        ]
        for name in ("labels", "complete"):
            theirs = spent.get(name)
            cells += [f"{theirs:.3f}", f"{theirs / spent['ours']:.1f}x"] if theirs else ["–", "–"]
        print(f"| {' | '.join(cells)} |", flush=True)


def compare_labels(
    whole: Maps,
    options: DecodeOptions,
    sides: list[int],
    process: Process | None,
    truth: NDArray[np.int64] | None,
) -> None:
    """Print how well the label images agree."""
    side = min(512, *sides)
    small = crop_maps(whole, 0, 0, side)
    twin = timed(slow_decode, small, options)
    assert_same(decode_instances(small, options), twin.value)
    print(f"\nequal to the plain twin at {side}² ({twin.cpu_s:.1f} s)")
    print("\n| side px | against | PQ | DQ | SQ | matched | only ours | only theirs |")
    print("|---|---|---|---|---|---|---|---|")
    for side in sides:
        maps = crop_maps(whole, 0, 0, side)
        ours = paint_instances(decode_instances(maps, options), maps.nucleus.shape)
        same = timed(published_decode, maps, options)
        agree(f"{side}²", f"same constants, {same.cpu_s:.2f} s", same.value, ours, options)
        if process is not None:
            labels, _ = process(published_maps(maps)[..., 1:])
            agree(f"{side}²", "HoVer-Net's code", labels, ours, options)
            if truth is not None:
                known = truth[:side, :side]
                scores = [panoptic_quality(known, found).pq for found in (ours, labels)]
                print(f"| {side}² | annotations: ours {scores[0]:.4f}, theirs {scores[1]:.4f} |")


def agree(
    side: str, name: str, theirs: NDArray[Any], ours: NDArray[Any], options: DecodeOptions
) -> None:
    # The published algorithm drops small mask components, ours also small nuclei in large ones.
    area_px = np.bincount(theirs.ravel())
    found = panoptic_quality(np.where(area_px[theirs] < options.min_area_px, 0, theirs), ours)
    print(
        f"| {side} | {name} | {found.pq:.4f} | {found.dq:.4f} | {found.sq:.4f} | {found.tp} | "
        f"{found.fp} | {found.fn} |",
        flush=True,
    )


def compare_densities(whole: Maps, options: DecodeOptions, repeats: int) -> None:
    """Print milliseconds by number of nuclei, at one size."""
    side = min(1024, whole.nucleus.shape[0])
    crops = [
        crop_maps(whole, row, col, side)
        for row in range(0, whole.nucleus.shape[0] - side + 1, side)
        for col in range(0, whole.nucleus.shape[1] - side + 1, side)
    ]
    none = crop_maps(whole, 0, 0, side)
    none = Maps(np.zeros_like(none.nucleus), none.hv, none.classes)
    found = []
    for maps in [none, *crops]:
        decode = {"ours": lambda maps=maps: decode_instances(maps, options)}
        n = len(decode_instances(maps, options))
        share = float((maps.nucleus >= 128).mean())
        found.append((n, share, interleaved(decode, repeats)["ours"] * 1e3))
    found.sort()
    print(f"\n| nuclei on {side}² | mask share | ours ms |\n|---|---|---|")
    for i in sorted({*range(0, len(found), max(1, len(found) // 6)), len(found) - 1}):
        n, share, ms = found[i]
        print(f"| {n} | {share:.3f} | {ms:.1f} |")
    design = np.array([(1, n, share) for n, share, _ in found])
    (base, per_nucleus, per_mask), *_ = np.linalg.lstsq(design, np.array([f[2] for f in found]))
    print(
        f"\nleast squares: {base:.1f} ms + {per_nucleus * 1e3:.1f} µs a nucleus + "
        f"{per_mask:.0f} ms if all were mask"
    )


def compare_threads(whole: Maps, options: DecodeOptions, repeats: int) -> None:
    """Print what two decodes at once take, against one."""
    maps = crop_maps(whole, 0, 0, min(2048, whole.nucleus.shape[0]))

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: decode_instances(maps, options), range(2)))

    one = median(timed(decode_instances, maps, options).wall_s for _ in range(repeats))
    two = median(timed(both).wall_s for _ in range(repeats))
    print(f"\ntwo threads: {two * 1e3:.0f} ms wall for two decodes, {one * 1e3:.0f} ms for one")


if __name__ == "__main__":
    main()
