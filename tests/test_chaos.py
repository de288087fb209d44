"""Short forms of `benchmarks/chaos.py`: killed, without space, and several calls at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(os.name != "posix", reason="process groups are killed")
@pytest.mark.parametrize(
    ("trial", "n"),
    [
        ("kill", 2),
        pytest.param("full", 2, marks=pytest.mark.slow),
        pytest.param("readonly", 2, marks=pytest.mark.slow),
        pytest.param("together", 3, marks=pytest.mark.slow),
        pytest.param("batch", 2, marks=pytest.mark.slow),
        pytest.param("batchdisk", 1, marks=pytest.mark.slow),
    ],
)
def test_results_are_those_of_an_undisturbed_run(trial: str, n: int) -> None:
    script = REPOSITORY / "benchmarks" / "chaos.py"
    # Small, and with no compiler: this is about the order of things, not about their number.
    options = ["--times", str(n), "--size-px", "360", "--no-compiler"]
    done = subprocess.run(
        [sys.executable, str(script), trial, *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all is well"
