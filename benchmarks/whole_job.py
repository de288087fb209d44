"""From image to nuclei in files, per mm²: wsiseg beside HoVer-Net's code and cellseg_models.

    python benchmarks/whole_job.py IMAGES [--side 4096]
        [--hovernet CHECKOUT --hovernet-python PYTHON] [--modes fast original]
        [--cellseg-python PYTHON]

IMAGES are folders of PNG at 0.25 µm/px, laid side by side; all programs get the same mosaic,
the others a corner of it (their time is proportional to the area: sides are whole numbers of
their patches, so that they waste nothing at the edge).  CHECKOUT is a clone of
https://github.com/vqdang/hover_net; the PYTHONs are those of environments with what it needs
and with `cellseg-models-pytorch`.  Each program runs in a process of its own; ours first and
last, so that a change of load shows.  The others' weights are random, and between network and
post-processing their maps are exchanged for those of our model on the same pixels, so that
both work on real nuclei; see run_hovernet.py and run_cellseg.py for all that is changed.

Start-up (imports, loading) is left out of "job" everywhere and given apart.  Without tissue
detection: all of the mosaic is tissue.  On two idle cores: ours 1 minute each, HoVer-Net fast
1 to 2 minutes, original 3 to 6, cellseg_models 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measuring import conditions, make_mosaic, predict_maps, published_maps, run_json
from PIL import Image

from wsiseg.machine import cores

HERE = Path(__file__).parent
MPP = 0.25
PATCH_PX = {"fast": 164, "original": 80}
"""What one patch of HoVer-Net's code gives."""
Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--slide", type=Path, help="ours also on this slide")
    parser.add_argument("--mpp", type=float, help="of that slide")
    parser.add_argument("--hovernet", type=Path)
    parser.add_argument("--hovernet-python", type=Path)
    parser.add_argument("--modes", nargs="+", choices=list(PATCH_PX), default=list(PATCH_PX))
    parser.add_argument("--their-side", type=int, default=656, help="at most so many pixels")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4])
    parser.add_argument("--cellseg-python", type=Path)
    parser.add_argument("--windows", type=int, nargs="*", default=[256])
    parser.add_argument("--threads", type=int, default=cores(), help="of the others")
    parser.add_argument("--model", default="nuclei-40x-v0")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/wsiseg-benchmarks"))
    arguments = parser.parse_args()
    print(conditions("torch", "numpy", "numba"))
    arguments.cache.mkdir(parents=True, exist_ok=True)
    mosaic = make_mosaic(arguments.images, arguments.side)
    ours = [run_ours(mosaic, arguments)]
    theirs = {**run_hovernet(mosaic, arguments), **run_cellseg(mosaic, arguments)}
    ours.append(run_ours(mosaic, arguments))
    print(
        "\n| program | area | nuclei | network | the rest | job: CPU s/mm² | wall s/mm² | "
        "start s | CPU ratio | wall ratio |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    base = [sum(run["seconds"]["job"][i] / run["mm2"] for run in ours) / len(ours) for i in (0, 1)]
    for number, run in enumerate(ours):
        report(f"wsiseg, run {number + 1}", run, base)
    for name, run in theirs.items():
        report(name, run, base)
    print("\nours, seconds by stage:", ours[-1]["stages"])
    if arguments.slide:
        run = run_json(our_command(arguments.slide, arguments.mpp, "auto", arguments))
        print(f"\n{arguments.slide.name}: {run}")


def report(name: str, run: Found, base: list[float]) -> None:
    """Print one program's row; seconds of the network and the rest are CPU s/mm², too."""
    seconds, mm2 = run["seconds"], run["mm2"]
    cpu, wall = (value / mm2 for value in seconds["job"])
    network = seconds["network"][0] / mm2
    start = seconds["process"][0] - seconds["job"][0]
    print(
        f"| {name} | {mm2:.4f} mm² | {run['nuclei']} | {network:.1f} | {cpu - network:.1f} | "
        f"{cpu:.1f} | {wall:.1f} | {start:.1f} | {cpu / base[0]:.1f}x | {wall / base[1]:.1f}x |",
        flush=True,
    )


def our_command(
    slide: Path, mpp: float | None, tissue: str, arguments: argparse.Namespace
) -> list[str | Path | int]:
    command: list[str | Path | int] = [
        sys.executable,
        HERE / "run_wsiseg.py",
        slide,
        "--tissue",
        tissue,
    ]
    command += ["--model", arguments.model, "--out", arguments.cache / "ours"]
    return command if mpp is None else [*command, "--mpp", str(mpp)]


def run_ours(mosaic: np.ndarray, arguments: argparse.Namespace) -> Found:
    path = arguments.cache / f"mosaic-{len(mosaic)}.png"
    Image.fromarray(mosaic).save(path)
    run = run_json(our_command(path, MPP, "none", arguments))
    if run is None:
        raise SystemExit("wsiseg itself failed")
    return run


def corner(mosaic: np.ndarray, side: int, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Save a corner of the mosaic and the maps of it; return both paths."""
    part = np.ascontiguousarray(mosaic[:side, :side])
    image, maps = (arguments.cache / f"corner-{side}.{kind}" for kind in ("png", "npy"))
    Image.fromarray(part).save(image)
    np.save(maps, published_maps(predict_maps(part, arguments.model, arguments.cache)))
    return image, maps


def run_hovernet(mosaic: np.ndarray, arguments: argparse.Namespace) -> dict[str, Found]:
    runs: dict[str, Found] = {}
    for mode in arguments.modes if arguments.hovernet else ():
        side = arguments.their_side // PATCH_PX[mode] * PATCH_PX[mode]
        image, maps = corner(mosaic, side, arguments)
        for batch in arguments.batch_sizes:
            command = [arguments.hovernet_python, HERE / "run_hovernet.py", arguments.hovernet]
            command += [image, maps, "--mode", mode, "--batch-size", batch]
            run = run_json([*command, "--threads", arguments.threads])
            if run is not None:
                run["mm2"] = (side * MPP / 1000) ** 2
                runs[f"HoVer-Net {mode}, batch {batch}"] = run
    return runs


def run_cellseg(mosaic: np.ndarray, arguments: argparse.Namespace) -> dict[str, Found]:
    if not arguments.cellseg_python:
        return {}
    side = arguments.their_side // 32 * 32
    image, maps = corner(mosaic, side, arguments)
    runs: dict[str, Found] = {}
    for window in (None, *arguments.windows):
        command = [arguments.cellseg_python, HERE / "run_cellseg.py", image, maps]
        command += ["--threads", arguments.threads]
        name = "cellseg_models, one piece"
        if window:
            command += ["--window", window]
            name = f"cellseg_models, windows of {window}"
        run = run_json(command)
        if run is not None:
            run["mm2"] = (side * MPP / 1000) ** 2
            runs[name] = run
    return runs


if __name__ == "__main__":
    main()
