"""Memory does not follow the slide: what a small one takes, a large one takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from wsiseg.testing.gigapixel import MosaicOptions, PaintedPictures, scatter, write_mosaic

SEGMENT = """
import sys
import wsiseg
from wsiseg.testing.models import fine_network

if __name__ == "__main__":
    wsiseg.segment(sys.argv[1], sys.argv[2], model=fine_network())
"""


def run_of(folder: Path, side_px: int) -> dict[str, Any]:
    """Segment a painted slide in a process of its own; return its run.json."""
    painted = PaintedPictures(nuclei_per_mm2=12_000)
    slide = folder / f"{side_px}.svs"
    write_mosaic(slide, scatter(painted, MosaicOptions(side_px, side_px, 0.15)), painted)
    command = [sys.executable, "-c", SEGMENT, str(slide), str(folder / "out")]
    subprocess.run(command, check=True)
    found = json.loads((folder / "out" / f"{slide.name}.wsiseg" / "run.json").read_text())
    return dict(found)


def test_memory_is_flat_over_the_slide_s_area(tmp_path: Path) -> None:
    # The small one has several shards, too: what is painted at the same time is the same.
    small, large = run_of(tmp_path, 8_000), run_of(tmp_path, 20_000)
    assert large["n_cells"] > 5 * small["n_cells"] > 25_000
    assert large["analysed_mm2"] > 5 * small["analysed_mm2"]
    # Without the network, which takes most of a run's memory but the same for every slide.
    assert large["peak_memory_mb"] < small["peak_memory_mb"] + 350
    assert large["peak_memory_mb"] < 1_800
