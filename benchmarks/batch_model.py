"""Stand-ins for a network as model folders, so that the command line itself can be tried.

Every process that has `environment()` finds the package below; `--model FOLDER` names the model.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from wsiseg.testing.models import LocalNetwork

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "wsiseg_stand_in"
LOCAL = LocalNetwork(mpp=0.25, core_px=512, margin_px=64, smooth_px=9, min_area_px=40)
"""Dark spots are nuclei."""

SOURCE = '''
"""A network that is none: dark spots are nuclei, or nothing is."""
import os
import time

import numpy as np

from wsiseg.models import Numerics
from wsiseg.records import Maps
from wsiseg.testing.models import LocalNetwork


def build(model, numerics):
    network = model.card.network
    pause_s = float(os.environ.get("WSISEG_STAND_IN_PAUSE_S", "0"))
    if not network:
        return lambda blocks: [nothing(block, len(model.card.classes)) for block in blocks]
    return LocalNetwork(**network, pause_s=pause_s).predictor(numerics)


def nothing(block, n_classes):
    shape = block.shape[:2]
    zeros = [np.zeros((*more, *shape), kind) for more, kind in
             (((), np.uint8), ((2,), np.int8), ((n_classes,), np.uint8))]
    return Maps(*zeros)
'''


def make_model(folder: Path, finds_nothing: bool = False) -> Path:
    """Write the model folder and the package that runs it; return the model folder."""
    package, model = folder / "plug-in", folder / "stand-in"
    facts = package / f"{NAME}-1.0.dist-info"
    facts.mkdir(parents=True)
    model.mkdir()
    (package / f"{NAME}.py").write_text(SOURCE)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[wsiseg.models]\nstand-in = {NAME}:build\n")
    network = {name: getattr(LOCAL, name) for name in ("mpp", "core_px", "margin_px")}
    network |= {name: getattr(LOCAL, name) for name in ("darkness", "smooth_px", "min_area_px")}
    card = replace(
        LOCAL.card,
        name="nothing" if finds_nothing else "stand-in",
        architecture="stand-in",
        network={} if finds_nothing else network,
        weights_sha256=hashlib.sha256(b"").hexdigest(),
    )
    (model / "weights.safetensors").write_bytes(b"")
    (model / "card.json").write_text(json.dumps(card.to_json()))
    return model


def environment(model: Path | None, pause_s: float = 0.0) -> dict[str, str]:
    """Return the environment in which processes find wsiseg and the model's package."""
    paths = [str(REPOSITORY)] + ([] if model is None else [str(model.parent / "plug-in")])
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    more = {"PYTHONPATH": os.pathsep.join(paths), "WSISEG_STAND_IN_PAUSE_S": str(pause_s)}
    return os.environ | more
