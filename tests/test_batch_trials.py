"""Short forms of the trials of batches in `benchmarks/`, and the slides they are made of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsiseg.errors import WsisegError
from wsiseg.slides import open_slide

REPOSITORY = Path(__file__).resolve().parent.parent
BENCHMARKS = REPOSITORY / "benchmarks"


def run_benchmark(name: str, *options: str) -> str:
    """Run a script and return what it prints, after making sure that it found nothing wrong."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_batch_is_made_the_same_again_and_is_broken_where_it_says(tmp_path: Path) -> None:
    few = ["--slides", "17", "--side-px", "130", "150", "--images", str(tmp_path / "none")]
    for name in ("one", "other"):
        run_benchmark("batch_slides", str(tmp_path / name), *few)
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in _files(tmp_path / name)}
        for name in ("one", "other")
    ]
    assert files[0] == files[1]
    assert {"a.svs", "a.tiff", "sub/a.svs", "sub/a b; c.svs"} <= {str(path) for path in files[0]}
    broken = {}
    for path in _files(tmp_path / "one"):
        try:
            with open_slide(path) as slide:
                slide.read_level(0, slide.info.levels[0].box)
                broken[path] = slide.info.mpp_x is None
        except WsisegError:
            broken[path] = True
    assert sum(broken.values()) == 5


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.slow
def test_a_batch_in_parts_comes_out_once() -> None:
    said = run_benchmark("batch_parts", "--slides", "24", "--side-px", "300", "700")
    assert said.splitlines()[-1] == "all is well"


@pytest.mark.slow
def test_a_batch_on_a_cluster_started_by_hand_comes_out_once() -> None:
    few = ["--slides", "17", "--speed-slides", "8", "--side-px", "300", "600"]
    assert run_benchmark("batch_dask", *few).splitlines()[-1] == "all is well"


@pytest.mark.slow
def test_nothing_grows_with_the_number_of_slides() -> None:
    assert run_benchmark("batch_scale", "--slides", "40").splitlines()[-1] == "all is well"
