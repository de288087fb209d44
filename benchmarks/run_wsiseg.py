"""One whole job of wsiseg in a process of its own, for `whole_job.py`.

    python run_wsiseg.py SLIDE --mpp 0.25 --out DIR

The last line printed is JSON: seconds of CPU and wall of the job when everything is loaded
(512² px from its middle were segmented before), CPU seconds of that start, and of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import wsiseg
from wsiseg.geometry import Box
from wsiseg.models.hovernet import TorchPredictor
from wsiseg.records import Maps
from wsiseg.testing.slides import ArraySlide


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--tissue", choices=("auto", "none"), default="none")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    tissue = None if arguments.tissue == "none" else wsiseg.TissueOptions()
    options = wsiseg.PlanOptions(tissue=tissue)
    shutil.rmtree(arguments.out, ignore_errors=True)
    with wsiseg.open_slide(arguments.slide) as slide:
        info = slide.info
        middle = Box(info.width_px // 2 - 256, info.height_px // 2 - 256, 512, 512)
        mpp = arguments.mpp or info.mpp_x
        some = ArraySlide(slide.read_level(0, middle), mpp=mpp)
    wsiseg.segment(some, arguments.out / "warm", model=arguments.model, options=options)
    network = time_network()
    before = cpu_seconds()
    wall = time.perf_counter()
    result = wsiseg.segment(
        arguments.slide,
        arguments.out,
        model=arguments.model,
        scale=arguments.mpp,
        options=options,
    )
    spent = {
        "job": [cpu_seconds() - before, time.perf_counter() - wall],
        "network": [sum(network), None],
        "start": [before, None],
        "process": [cpu_seconds(), None],
    }
    found = {
        "seconds": spent,
        "stages": result.run["seconds"],
        "nuclei": result.run["n_cells"],
        "mm2": result.run["analysed_mm2"],
        "versions": {name: version(name) for name in ("wsiseg", "torch", "numpy")},
    }
    print(json.dumps(found))


def time_network() -> list[float]:
    """Have the CPU seconds of each call of the network from here on put into a list."""
    call = TorchPredictor.__call__
    spent: list[float] = []

    def timed(self: TorchPredictor, rgb: NDArray[np.uint8]) -> list[Maps]:
        # A call runs on the thread that makes it, and on no other.
        start = time.thread_time()
        maps = call(self, rgb)
        spent.append(time.thread_time() - start)
        return maps

    TorchPredictor.__call__ = timed  # type: ignore[method-assign]
    return spent


def cpu_seconds() -> float:
    """User and system seconds of this process and its ended children."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
