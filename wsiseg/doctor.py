"""Does all that a run needs work on this machine?  Ten checks, each with what to do."""

from __future__ import annotations

import gzip
import json
import platform
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from wsiseg.errors import MissingDependency, WsisegError
from wsiseg.geometry import Box
from wsiseg.machine import (
    BASE_MB,
    MB_PER_PREDICTOR,
    RUN_GB,
    available_mb,
    cores,
    cpu_predictors,
)

LEAST_FREE_GB = 5.0
"""Below this, room for results is short: a large slide needs 1 to 2 GB while it runs."""

_SHOWN = ("numpy", "torch", "numba", "pyarrow", "zarr", "shapely", "opencv-python-headless")
_INSTALL = "install wsiseg again in a fresh environment: pip install --upgrade wsiseg"


@dataclass(frozen=True, slots=True)
class Check:
    """One answer."""

    name: str
    """What was looked at."""
    ok: bool
    """Whether a run can rely on it."""
    said: str
    """What was found, in one line."""
    fix: str
    """What to do, in one sentence; empty if all is well."""


class _Failing(Exception):
    """A check's answer is no, and the usual advice does not fit."""

    def __init__(self, said: str, fix: str) -> None:
        super().__init__(said)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class _Setting:
    out: Path
    model: str | None
    scratch: Path
    """A folder that is removed afterwards."""


@dataclass(frozen=True, slots=True)
class _Question:
    name: str
    ask: Callable[[_Setting], str]
    """Returns what was found; raises if a run cannot rely on it."""
    fix: str
    """Advice, unless the error has its own."""


def run_checks(out: Path | None = None, model: str | None = None) -> Iterator[Check]:
    """Check one thing after the other; ten checks, half a minute at most.

    Nothing is left on the disk but numba's cache of compiled functions.

    Parameters
    ----------
    out : Path, optional
        Where results would go; None: the working directory.  Need not exist.
    model : str, optional
        Name or folder of the model to try; None: the finest of the shipped ones.

    Yields
    ------
    Check
        As soon as it is known.  A check that breaks is one that fails.
    """
    with tempfile.TemporaryDirectory(prefix="wsiseg-doctor-") as scratch:
        setting = _Setting(Path.cwd() if out is None else out, model, Path(scratch))
        for question in _QUESTIONS:
            yield _answer(question, setting)


def _answer(question: _Question, setting: _Setting) -> Check:
    try:
        return Check(question.name, True, question.ask(setting), "")
    except _Failing as failing:
        return Check(question.name, False, str(failing), failing.fix)
    except WsisegError as error:
        return Check(question.name, False, _one_line(error), question.fix)
    # Whatever breaks here would break in a run: to find that out is what this is for.
    except Exception as error:  # noqa: BLE001
        said = f"{type(error).__name__}: {_one_line(error)}"
        return Check(question.name, False, said, question.fix)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no reason given"


def _ours(name: str) -> Any:
    """Return something of wsiseg, `module:name`, importing it now.

    Most modules import a large compiled package; one that does not load must become a check
    that fails, not keep all the others from running.
    """
    return resolve_name(f"wsiseg.{name}")


def _python(_: _Setting) -> str:
    missing, old = [], []
    for wanted in metadata.requires("wsiseg") or []:
        found = re.match(r"([\w.-]+)>=([\d.]+)$", wanted)
        if not found:
            continue
        name, least = found.groups()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if _numbers(version) < _numbers(least):
            old.append(f"{name} {version} (at least {least} is needed)")
    if missing or old:
        raise _Failing("missing or too old: " + ", ".join([*missing, *old]), _INSTALL)
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)
    return f"Python {platform.python_version()}, wsiseg {metadata.version('wsiseg')}, {shown}"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 2.13.0+cpu is 2, 13, 0."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version)[0]))


def _openslide(setting: _Setting) -> str:
    _read_back(setting.scratch / "tiled.tiff", "openslide")
    version = metadata.version("openslide-bin")
    return f"OpenSlide {version} reads a tiled TIFF, pixels right"


def _readers(setting: _Setting) -> str:
    _read_back(setting.scratch / "plain.png", "image")
    try:
        _read_back(setting.scratch / "other.tiff", "tiffslide")
    except MissingDependency:
        return (
            "plain images: right; tiffslide is not installed and only needed for what OpenSlide "
            "cannot open: pip install 'wsiseg[tiffslide]'"
        )
    return f"plain images: right; tiffslide {metadata.version('tiffslide')}: right"


def _read_back(path: Path, reader: str) -> None:
    """Write a picture, read it with one of our readers, and compare."""
    import numpy as np

    side = 512
    ramp = np.arange(side)
    red, green = np.broadcast_arrays(ramp[:, np.newaxis], ramp)
    rgb = np.stack([red, green, red * 3 + green * 5], axis=2).astype(np.uint8)
    if path.suffix == ".png":
        path.write_bytes(_ours("pictures:encode_png")(rgb))
    else:
        path.write_bytes(tiled_tiff(rgb))
    box = Box(100, 200, 300, 250)
    with _ours("slides:open_slide")(path, reader) as slide:
        found = slide.read_level(0, box)
    if not np.array_equal(found, rgb[box.slices_in(Box(0, 0, side, side))]):
        raise _Failing(f"the reader {reader} gives wrong pixels", _INSTALL)


def tiled_tiff(rgb: Any, tile_px: int = 256) -> bytes:
    """Return the content of an uncompressed tiled TIFF, the simplest OpenSlide opens.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Both sides are multiples of `tile_px`.
    tile_px : int
        Side of a tile.
    """
    height, width, _ = rgb.shape
    tiles = [
        rgb[y : y + tile_px, x : x + tile_px].tobytes()
        for y in range(0, height, tile_px)
        for x in range(0, width, tile_px)
    ]
    n, tile_bytes = len(tiles), tile_px * tile_px * 3
    first, short, long = 8, 3, 4
    # Offsets of what does not fit into a tag: bits per sample, tile offsets, tile sizes.
    n_tags = 11
    bits = first + n * tile_bytes + 2 + 12 * n_tags + 4
    # A single number stands in the tag itself.
    offsets, sizes = (bits + 6, bits + 6 + 4 * n) if n > 1 else (first, tile_bytes)
    tags = [
        *((256, long, 1, width), (257, long, 1, height), (258, short, 3, bits)),
        # No compression, RGB, three samples a pixel, side by side.
        *((259, short, 1, 1), (262, short, 1, 2), (277, short, 1, 3), (284, short, 1, 1)),
        *((322, long, 1, tile_px), (323, long, 1, tile_px)),
        *((324, long, n, offsets), (325, long, n, sizes)),
    ]
    places = [first + k * tile_bytes for k in range(n)]
    return b"".join(
        [
            struct.pack("<2sHI", b"II", 42, first + n * tile_bytes),
            *tiles,
            struct.pack("<H", n_tags),
            *(struct.pack("<HHII", *tag) for tag in tags),
            struct.pack("<I3H", 0, 8, 8, 8),
            struct.pack(f"<{2 * n}I", *places, *[tile_bytes] * n),
        ]
    )


def _device(_: _Setting) -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        return f"torch {torch.__version__} uses {', '.join(names)}"
    return f"torch {torch.__version__} uses the CPU ({cores()} cores); it finds no GPU"


def _memory(_: _Setting) -> str:
    free_mb, needed_mb = available_mb(), BASE_MB + min(MB_PER_PREDICTOR.values())
    said = f"{free_mb / 1000:.1f} GB free"
    if free_mb < needed_mb:
        raise _Failing(
            f"{said}, {needed_mb / 1000:.1f} GB are needed",
            "close other programs, or use a machine with more memory",
        )
    at_once = {cpu_predictors(backend) for backend in MB_PER_PREDICTOR}
    tiles = " to ".join(map(str, sorted(at_once)))
    return f"{said}; {tiles} tiles at a time keep within {RUN_GB:g} GB on a CPU (--memory-gb)"


def _disk(setting: _Setting) -> str:
    folder = setting.out.absolute()
    while not folder.exists():
        folder = folder.parent
    fix = "choose another output folder with --out, one you may write to"
    if not folder.is_dir():
        raise _Failing(f"{setting.out}: {folder.name} is a file", fix)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"wsiseg")
    except OSError as error:
        raise _Failing(f"{setting.out} cannot be written ({error.strerror})", fix) from error
    free = shutil.disk_usage(folder).free / 1e9
    if free < LEAST_FREE_GB:
        raise _Failing(
            f"{free:.1f} GB free at {setting.out}; large slides need {LEAST_FREE_GB:g} GB",
            "free some space, or choose another output folder with --out",
        )
    return f"{free:.0f} GB free at {setting.out}, writable"


def _model(setting: _Setting) -> str:
    models = _ours("models")
    named = [] if setting.model is None else [models.load_model(setting.model)]
    found = [models.load_model(card.name) for card in models.list_models()] + named
    if not found:
        raise _Failing("no model is shipped", _INSTALL)
    for model in found:
        models.check_weights(model)
    shown = dict.fromkeys(f"{model.card.name} ({model.card.sha256[:12]})" for model in found)
    return f"weights are those of the card: {', '.join(shown)}"


def _results(setting: _Setting) -> str:
    """Segment a painted picture with a stand-in for the network; count in every file."""
    import numpy as np
    import zarr

    rgb = _ours("testing.painted:paint_tissue")(500, 400, 300, seed=1)
    result = _ours("api:segment")(
        _ours("testing.slides:ArraySlide")(rgb, mpp=0.5, name="painted.png"),
        setting.scratch / "results",
        model=_ours("testing.models:LocalNetwork")(),
        compute=_ours("api:ComputeOptions")(device="cpu"),
    )
    table = result.cells()
    labels = np.asarray(zarr.open_group(result.path / "masks.zarr", mode="r")["labels/nuclei/0"])
    area_px = np.bincount(labels.ravel(), minlength=len(table) + 1)[1:]
    with gzip.open(result.path / "cells.geojson.gz") as file:
        features = json.load(file)["features"]
    counts = {"run.json": result.run["n_cells"], "cells.parquet": len(table)}
    counts |= {"masks.zarr": int((area_px > 0).sum()), "cells.geojson.gz": len(features)}
    if len(set(counts.values())) > 1 or not len(table):
        raise _Failing(f"the files of one run disagree about its nuclei: {counts}", _INSTALL)
    if not np.allclose(area_px * 0.5**2, table["area_um2"].to_numpy(), rtol=1e-5):
        raise _Failing("masks and table of one run disagree about nuclear areas", _INSTALL)
    return f"table, masks and GeoJSON of a small run are read back: {len(table)} nuclei in each"


def _twice(number: int) -> int:
    return 2 * number


def _compiler(_: _Setting) -> str:
    import numba

    compiled: Any = numba.njit(_twice)
    if compiled(21) != 42:
        raise _Failing("numba computes wrong numbers", _INSTALL)
    cached: Any = numba.njit(_twice, cache=True)
    cached(21)
    place = Path(cached.stats.cache_path)
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(b"wsiseg")
    return f"numba {numba.__version__} compiles, and keeps it in {place}"


def _speed(setting: _Setting) -> str:
    """Run a few painted tiles through the real model, as many at once as a run does."""
    models = _ours("models")
    finest = min(models.list_models(), key=lambda card: card.mpp).name
    model = models.load_model(setting.model or finest)
    card = model.card
    numerics = _ours("models.device:choose_numerics")(card, "auto", None, None)
    at_once = _ours("runners:tiles_at_once")(numerics)
    rgb = _ours("testing.painted:paint_tissue")(card.core_px, 2 * card.core_px, 800, seed=1)
    slide = _ours("testing.slides:ArraySlide")(rgb, mpp=card.mpp, name="painted.png")
    options = _ours("plan:PlanOptions")(tissue=None)
    plan = _ours("plan:plan_run")(slide, model, numerics, options)
    tiles = [tile for tile, _ in plan.tiles]
    cost = _ours("estimate:measure_tiles")(plan, tiles, at_once, least=at_once)
    per_mm2 = cost.seconds / ((card.core_px * plan.model_mpp) ** 2 / 1e6)
    return (
        f"about {per_mm2:.0f} s per mm² of tissue with {card.name} ({numerics.device_kind}, "
        f"{numerics.precision}, {at_once} at a time)"
    )


_QUESTIONS = (
    _Question("packages", _python, _INSTALL),
    _Question(
        "OpenSlide",
        _openslide,
        "install OpenSlide's library again: pip install --force-reinstall openslide-bin",
    ),
    _Question("other readers", _readers, _INSTALL),
    _Question(
        "device",
        _device,
        "install torch for this machine again, as https://pytorch.org/get-started says",
    ),
    _Question("memory", _memory, "close other programs, or use a machine with more memory"),
    _Question("disk", _disk, "choose another output folder with --out, one you may write to"),
    _Question("models", _model, "install wsiseg again, or name another model with --model"),
    _Question("results", _results, _INSTALL),
    _Question(
        "compiler",
        _compiler,
        "set the environment variable NUMBA_CACHE_DIR to a folder you may write to",
    ),
    _Question("speed", _speed, "see the checks that failed above, then call wsiseg doctor again"),
)
