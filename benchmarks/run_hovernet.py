"""HoVer-Net's own `run_infer.py tile` on a CPU, for `whole_job.py`; runs in its environment.

    python run_hovernet.py CHECKOUT IMAGE.png MAPS.npy --mode fast --batch-size 4

The code is run as it is, from its checkout, with these exceptions, made from outside:

* it asks for "cuda" by name: tensors and modules stay on the CPU instead, and one GPU is
  reported, by which it multiplies its batch size;
* names that newer numpy and OpenCV dropped are given back;
* the weights are random, so what the network says is exchanged, between network and
  post-processing, for MAPS.npy, (h, w, 4), of the shipped model on the same image: the network
  costs what it costs, and what follows works on real nuclei.

The last line printed is JSON: seconds of CPU and wall for the network, for post-processing, and
for the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

N_TYPES = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("maps", type=Path)
    parser.add_argument("--mode", choices=("fast", "original"), default="fast")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # random weights must not cost what trained ones do not
    checkout = arguments.checkout.absolute()
    sys.path.insert(0, str(checkout))
    stay_on_cpu()
    give_back_names()
    spent = {}
    time_steps(spent, np.load(arguments.maps))
    image = arguments.image.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "in").mkdir()
        shutil.copy(image, folder / "in")
        save_random_weights(folder / "random.tar", arguments.mode)
        os.chdir(folder)  # it writes a log where it stands
        sys.argv = [
            "run_infer.py",
            f"--nr_types={N_TYPES}",
            f"--model_path={folder / 'random.tar'}",
            f"--model_mode={arguments.mode}",
            f"--type_info_path={write_types(folder)}",
            f"--batch_size={arguments.batch_size}",
            # In this process, so that all of its time is counted, and none of starting others.
            "--nr_inference_workers=0",
            "--nr_post_proc_workers=0",
            "tile",
            f"--input_dir={folder / 'in'}",
            f"--output_dir={folder / 'out'}/",
            "--mem_usage=0.5",
        ]
        start = cpu_seconds(), time.perf_counter()
        runpy.run_path(str(checkout / "run_infer.py"), run_name="__main__")
        spent["job"] = [cpu_seconds() - start[0], time.perf_counter() - start[1]]
        written = json.loads((folder / f"out/json/{image.stem}.json").read_text())
    spent["process"] = [cpu_seconds(), None]
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    print(json.dumps({"seconds": spent, "nuclei": len(written["nuc"]), "versions": versions}))


def cpu_seconds() -> float:
    """User and system seconds of this process and its ended children."""
    return sum(os.times()[:4])


def stay_on_cpu() -> None:
    def staying(to):
        def moved(self, *places, **named):
            if places and str(places[0]).startswith("cuda"):
                return self
            return to(self, *places, **named)

        return moved

    torch.Tensor.to = staying(torch.Tensor.to)
    torch.nn.Module.to = staying(torch.nn.Module.to)
    torch.cuda.device_count = lambda: 1
    load = torch.load
    torch.load = lambda path: load(path, map_location="cpu", weights_only=True)


def give_back_names() -> None:
    for name, value in (("bool", bool), ("int", int), ("float", float), ("object", object)):
        if name not in vars(np):
            setattr(np, name, value)
    if "pad" not in vars(np.lib):
        np.lib.pad = np.pad


def save_random_weights(path: Path, mode: str) -> None:
    """Write a checkpoint as their training does."""
    from models.hovernet.net_desc import create_model

    torch.manual_seed(0)
    net = create_model(nr_types=N_TYPES, mode=mode)
    torch.save({"desc": net.state_dict()}, path)


def write_types(folder: Path) -> Path:
    path = folder / "types.json"
    types = {str(i): [f"type {i}", [50 * i, 255 - 50 * i, 100]] for i in range(N_TYPES)}
    path.write_text(json.dumps(types))
    return path


def time_steps(spent: dict[str, list[float]], real: np.ndarray) -> None:
    """Measure the network and the post-processing; put real maps between them."""
    from models.hovernet import post_proc, run_desc

    infer_step, process = run_desc.infer_step, post_proc.process

    def add(name: str, start: tuple[float, float]) -> None:
        cpu, wall = spent.get(name, [0.0, 0.0])
        spent[name] = [cpu + cpu_seconds() - start[0], wall + time.perf_counter() - start[1]]

    def timed_step(batch, model):
        start = cpu_seconds(), time.perf_counter()
        output = infer_step(batch, model)
        add("network", start)
        return output

    def timed_process(pred_map, **options):
        if pred_map.shape != real.shape:
            raise SystemExit(f"maps are {real.shape}, theirs {pred_map.shape}")
        start = cpu_seconds(), time.perf_counter()
        found = process(real.copy(), **options)
        add("postprocess", start)
        return found

    run_desc.infer_step, post_proc.process = timed_step, timed_process


if __name__ == "__main__":
    main()
