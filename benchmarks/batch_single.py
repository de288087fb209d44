"""Segments slides one after the other, each alone: what a batch is measured against.

    python benchmarks/batch_single.py FOLDER OUT MODEL

A line of JSON for each good slide of `batch_slides.py`: its place and its seconds. The first is
run once before, so that loading and compiling do not count.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from batch_slides import read_batch

import wsiseg


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    model = sys.argv[3]
    good = [one.place for one in read_batch(folder) if one.broken is None]
    with tempfile.TemporaryDirectory() as elsewhere:
        wsiseg.segment(folder / good[0], elsewhere, model=model)
    for place in good:
        start = time.perf_counter()
        wsiseg.segment(folder / place, (out / place).parent, model=model)
        seconds = time.perf_counter() - start
        print(json.dumps({"place": place, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
