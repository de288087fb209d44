"""What every benchmark needs: real mosaics and maps, seconds of CPU, and who measured."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg.machine import cores
from wsiseg.models import Numerics
from wsiseg.records import Maps


class Timed(NamedTuple):
    """What a call gave, and what it took of all threads of this process."""

    cpu_s: float
    wall_s: float
    value: Any


def timed(function: Callable[..., Any], *arguments: Any) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    value = function(*arguments)
    return Timed(time.process_time() - cpu, time.perf_counter() - wall, value)


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of each call; they take turns, so all meet the same load."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            spent[name].append(timed(call).cpu_s)
    return {name: median(seconds) for name, seconds in spent.items()}


def make_mosaic(folders: Sequence[Path], side_px: int) -> NDArray[np.uint8]:
    """Lay the images of folders side by side, row by row, until a square is full."""
    images = [np.asarray(Image.open(path).convert("RGB")) for path in image_paths(folders)]
    mosaic = np.full((side_px, side_px, 3), 255, np.uint8)
    for row, col, number in places([image.shape[:2] for image in images], side_px):
        image = images[number][: side_px - row, : side_px - col]
        mosaic[row : row + image.shape[0], col : col + image.shape[1]] = image
    return mosaic


def make_truth(folders: Sequence[Path], side_px: int) -> NDArray[np.int64] | None:
    """Return the annotations of the mosaic, from `inst` beside each folder; None without."""
    paths = [path.parent.parent / "inst" / path.name for path in image_paths(folders)]
    if not all(path.exists() for path in paths):
        return None
    labels = [np.asarray(Image.open(path)).astype(np.int64) for path in paths]
    truth = np.zeros((side_px, side_px), np.int64)
    for count, (row, col, number) in enumerate(places([one.shape for one in labels], side_px)):
        part = labels[number][: side_px - row, : side_px - col]
        part = np.where(part > 0, part + (count << 16), 0)
        truth[row : row + part.shape[0], col : col + part.shape[1]] = part
    return truth


def image_paths(folders: Sequence[Path]) -> list[Path]:
    paths = [path for folder in folders for path in sorted(folder.glob("*.png"))]
    if not paths:
        raise SystemExit(f"no .png images in {', '.join(map(str, folders))}")
    return paths


def places(shapes: Sequence[tuple[int, ...]], side_px: int) -> Iterator[tuple[int, int, int]]:
    """Yield row, column and number of each image of a mosaic; they repeat if too few."""
    row = number = 0
    while row < side_px:
        col, height = 0, side_px
        while col < side_px:
            yield row, col, number % len(shapes)
            col += shapes[number % len(shapes)][1]
            height = min(height, shapes[number % len(shapes)][0])
            number += 1
        row += height


def predict_maps(rgb: NDArray[np.uint8], model_name: str, cache: Path) -> Maps:
    """Return the maps of an image, predicted tile by tile as in a run; kept in a folder."""
    model = wsiseg.load_model(model_name)
    key = hashlib.sha256(rgb.tobytes() + model.card.sha256.encode()).hexdigest()[:16]
    kept = cache / f"maps-{rgb.shape[0]}-{key}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return Maps(**arrays)
    core, margin = model.card.core_px, model.card.margin_px
    predictor = model.predictor(Numerics())
    height, width = rgb.shape[:2]
    after = (-height % core + margin, -width % core + margin)
    padded = np.pad(rgb, ((margin, after[0]), (margin, after[1]), (0, 0)), constant_values=255)
    whole = Maps(
        np.zeros((height, width), np.uint8),
        np.zeros((2, height, width), np.int8),
        np.zeros((len(model.card.classes), height, width), np.uint8),
    )
    outer = core + 2 * margin
    for row in range(0, height, core):
        for col in range(0, width, core):
            block = np.ascontiguousarray(padded[row : row + outer, col : col + outer])
            maps = predictor(block[None])[0]
            end = (min(height, row + core), min(width, col + core))
            into = (..., slice(row, end[0]), slice(col, end[1]))
            part = (
                ...,
                slice(margin, margin + end[0] - row),
                slice(margin, margin + end[1] - col),
            )
            whole.nucleus[into] = maps.nucleus[part]
            whole.hv[into] = maps.hv[part]
            whole.classes[into] = maps.classes[part]
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(kept, nucleus=whole.nucleus, hv=whole.hv, classes=whole.classes)
    return whole


def crop_maps(maps: Maps, row: int, col: int, side_px: int) -> Maps:
    cut = (..., slice(row, row + side_px), slice(col, col + side_px))
    return Maps(
        np.ascontiguousarray(maps.nucleus[cut]),
        np.ascontiguousarray(maps.hv[cut]),
        np.ascontiguousarray(maps.classes[cut]),
    )


def published_maps(maps: Maps) -> NDArray[np.float32]:
    """Return maps as HoVer-Net's code takes them: (h, w, 4) type, nucleus, h, v.

    Type 0 is background, there as wherever the nucleus probability is below one half.
    """
    types = (maps.classes.argmax(axis=0) + 1) * (maps.nucleus >= 128)
    planes = [types, maps.nucleus / 255, maps.hv[0] / 100, maps.hv[1] / 100]
    return np.stack(planes, axis=-1).astype(np.float32)


def conditions(*packages: str) -> str:
    """Return when, on what and with which versions something was measured."""
    cpu = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} (not installed)")
    commit = git_commit(Path(__file__).parent)
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu}, {cores()} cores, Python "
        f"{platform.python_version()}, wsiseg {version('wsiseg')} ({commit}), "
        + ", ".join(versions)
    )


def git_commit(folder: Path) -> str:
    """Return the short name of the commit a folder stands at, or `unknown`."""
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def run_json(command: Sequence[str | Path | int]) -> dict[str, Any] | None:
    """Run a command whose last line of output is JSON, and return that; None if it fails."""
    words = [str(word) for word in command]
    print(f"running: {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"ended with exit code {done.returncode}", file=sys.stderr, flush=True)
        return None
    last = done.stdout.splitlines()[-1]
    # Kept in sight, should a later one take everything down.
    print(last, file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(last)
    return found
