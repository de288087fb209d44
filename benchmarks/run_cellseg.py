"""cellseg_models.pytorch's HoVer-Net on a CPU, for `whole_job.py`; runs in its environment.

    python run_cellseg.py IMAGE.png MAPS.npy [--window 256 --stride 128]

Steps are those of its slide segmenter for one tile: predict, post-process, polygons as
GeoParquet.  Without --window the image is predicted in one piece, which is its fastest; with it
by its sliding window.  Weights are random, so that between network and post-processing the
maps are exchanged for MAPS.npy, (h, w, 4), of wsiseg's model on the same image.  One shim: where
torchvision was built for another torch, two of its operators are declared, so that it imports.

The last line printed is JSON: seconds of CPU and wall.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

try:
    import torchvision  # noqa: F401
except RuntimeError:
    declared = torch.library.Library("torchvision", "DEF")
    declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from cellseg_models_pytorch.decoders.multitask_decoder import SoftInstanceOutput
from cellseg_models_pytorch.models.hovernet import HoverNet

N_CLASSES = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("image", type=Path)
    parser.add_argument("maps", type=Path)
    parser.add_argument("--encoder", default="efficientnet_b5", help="its default")
    parser.add_argument("--window", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # random weights must not cost what trained ones do not
    torch.manual_seed(0)
    model = HoverNet(N_CLASSES, arguments.encoder, enc_pretrain=False, device=torch.device("cpu"))
    model.set_inference_mode(mixed_precision=False)
    image = np.asarray(Image.open(arguments.image).convert("RGB"))
    real = as_its_own(np.load(arguments.maps))
    sliding = {}
    if arguments.window:
        window = (arguments.window, arguments.window)
        stride = arguments.stride or arguments.window // 2
        sliding = {"use_sliding_win": True, "window_size": window, "stride": stride}
    spent = {}
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary) / "nuclei.parquet"
        start = cpu_seconds(), time.perf_counter()
        maps = model.predict(image, **sliding)
        spent["network"] = since(start)
        if maps["nuc"].aux_map.shape != real["nuc"].aux_map.shape:
            raise SystemExit(f"{maps['nuc'].aux_map.shape} and {real['nuc'].aux_map.shape}")
        start = cpu_seconds(), time.perf_counter()
        model.post_process(real, save_paths_nuc=[saved])
        spent["postprocess"] = since(start)
        nuclei = count_rows(saved)
    spent["job"] = [a + b for a, b in zip(spent["network"], spent["postprocess"], strict=True)]
    spent["process"] = [cpu_seconds(), None]
    names = ("cellseg-models-pytorch", "torch", "numpy")
    versions = {name: version(name) for name in names}
    print(json.dumps({"seconds": spent, "nuclei": nuclei, "versions": versions}))


def cpu_seconds() -> float:
    """User and system seconds of this process and its ended children."""
    return sum(os.times()[:4])


def since(start: tuple[float, float]) -> list[float]:
    return [cpu_seconds() - start[0], time.perf_counter() - start[1]]


def as_its_own(maps: np.ndarray) -> dict[str, SoftInstanceOutput | None]:
    """Return (h, w, 4) maps (type, nucleus, h, v) as its predictor gives them."""
    types = torch.from_numpy(maps[..., 0].astype(np.int64))[None]
    aux = torch.from_numpy(maps[..., [3, 2]].transpose(2, 0, 1).copy())[None]
    return {"nuc": SoftInstanceOutput(types, aux), "cyto": None, "tissue": None}


def count_rows(path: Path) -> int:
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path).num_rows


if __name__ == "__main__":
    main()
