"""A disk that fills up, and a user who stops: one line, and the same command continues."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from refused import MPP, STAND_IN, error_of, only_error, run_command, stand_in

import wsiseg
from wsiseg import model_choice, rundir
from wsiseg.testing.painted import paint_tissue


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "good.png"
    Image.fromarray(paint_tissue(400, 500, 1500, seed=4)).save(path)
    return path


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_choice, "load_model", stand_in)


def cells_of(out: Path) -> Any:
    return pq.read_table(out / "good.png.wsiseg" / "cells.parquet")


@pytest.fixture(scope="module")
def undisturbed(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int, int]:
    """Cells of a run that nothing disturbs, how often it makes a file safe, and its kilobytes."""
    out = tmp_path_factory.mktemp("whole")
    count = 0

    def fsync(_: int) -> None:
        nonlocal count
        count += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rundir.os, "fsync", fsync)
        wsiseg.segment(slide, out, model=STAND_IN, scale=0.25)
    assert count > 8
    n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return cells_of(out), count, n_bytes // 1024


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 0.8, 0.99])
def test_a_full_disk_is_said_and_survived(
    slide: Path,
    undisturbed: tuple[Any, int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    """The n-th file, and all after it, cannot be made safe; then there is room again."""
    expected, n_files, _ = undisturbed
    # The last one only makes the name of a run.json safe that says so already.
    left = int(share * (n_files - 1))

    def fsync(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(rundir.os, "fsync", fsync)
        result = run_command("segment", slide, "-o", tmp_path / "out", *MPP)
    line = error_of(result)
    assert result.exit_code == 3
    assert "No space left" in line
    assert "the same command again" in line
    assert str(tmp_path) not in line
    assert run_command("segment", slide, "-o", tmp_path / "out", *MPP).exit_code == 0
    assert cells_of(tmp_path / "out").equals(expected)


ON_SMALL_DISKS = """
    import json, subprocess, sys
    from pathlib import Path
    import pyarrow.parquet as pq
    from refused import MPP, run_command, stand_in
    from wsiseg import model_choice
    model_choice.load_model = stand_in
    slide, folder, *sizes = sys.argv[1:]
    told = []
    for kilobytes in sizes:
        out = Path(folder, kilobytes)
        out.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(out)]
        subprocess.run(mount, check=True)
        full = run_command("segment", slide, "-o", out, *MPP)
        left = sorted(path.name for path in (out / "good.png.wsiseg").glob("*"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(out)], check=True)
        again = run_command("segment", slide, "-o", out, *MPP)
        cells = pq.read_table(out / "good.png.wsiseg" / "cells.parquet").to_pylist()
        told.append([full.exit_code, full.stderr, left, again.exit_code, repr(cells)])
    print(json.dumps(told))
"""
OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")
"""The disks are seen by this process alone, and gone when it ends."""


def can_mount() -> bool:
    command = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    try:
        return not subprocess.run(command, capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def test_disks_that_are_really_full(
    slide: Path, undisturbed: tuple[Any, int, int], tmp_path: Path
) -> None:
    """Full at the first file, during the tiles, and while results are written."""
    if not can_mount():
        pytest.skip("a process of the user cannot mount a tmpfs of its own here")
    expected, _, kilobytes = undisturbed
    sizes = [4, kilobytes // 4, kilobytes * 2 // 3]
    code = textwrap.dedent(ON_SMALL_DISKS)
    command = [*OWN_MOUNTS, sys.executable, "-c", code, str(slide), str(tmp_path), *map(str, sizes)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == len(sizes)
    for code_full, stderr, left, code_again, cells in told:
        line = only_error(stderr)
        assert code_full == 3
        assert "No space left" in line
        assert "the same command again" in line
        assert not {"cells.parquet", "summary.json"} <= set(left)
        assert code_again == 0
        assert cells == repr(expected.to_pylist())


INTERRUPTIBLE = """
    from refused import STAND_IN
    from dataclasses import replace
    from wsiseg import many, model_choice
    from wsiseg.cli import main
    model_choice.load_model = many.load_model = lambda name: replace(STAND_IN, pause_s=0.5)
    main()
"""
"""As a command runs: bare KeyboardInterrupt may be swallowed by an import under way."""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
@pytest.mark.alone
def test_an_interrupted_run_continues(
    slide: Path, undisturbed: tuple[Any, int, int], tmp_path: Path
) -> None:
    code = textwrap.dedent(INTERRUPTIBLE)
    command = [sys.executable, "-c", code, "segment", str(slide), "-o", str(tmp_path / "out"), *MPP]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        work = tmp_path / "out" / "good.png.wsiseg" / "work"
        until = time.monotonic() + 90
        while not list(work.glob("tile_*")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 75, stderr
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("good.png: interrupted; finished tiles are kept")
    assert "call the same command again" in last
    assert list(work.glob("tile_*"))
    assert not (work.parent / "cells.parquet").exists()
    assert run_command("segment", slide, "-o", tmp_path / "out", *MPP).exit_code == 0
    assert cells_of(tmp_path / "out").equals(undisturbed[0])
