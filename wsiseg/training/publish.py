"""From trained weights to a model folder: safetensors, card, licence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from wsiseg.models.card import ModelCard
from wsiseg.models.hovernet import HoverNet
from wsiseg.rundir import write_atomically


def publish_model(network: HoverNet, card: ModelCard, licence: str, folder: Path) -> ModelCard:
    """Write a model folder and return the card with the weights' hash.

    Weights are rounded to float16: half the size, and what is evaluated and shipped are the
    same numbers, because loading starts from this file.

    Parameters
    ----------
    network : HoverNet
        The averaged network.
    card : ModelCard
        All fields but `weights_sha256`.
    licence : str
        Text of `LICENSE.txt`.
    folder : Path
        Target.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: _rounded(name, value)
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    content = save(tensors)
    finished = replace(card, weights_sha256=hashlib.sha256(content).hexdigest())
    write_atomically(folder / "weights.safetensors", content)
    write_atomically(folder / "LICENSE.txt", licence.encode())
    text = json.dumps(finished.to_json(), indent=1, ensure_ascii=False)
    write_atomically(folder / "card.json", (text + "\n").encode())
    return finished


def _rounded(name: str, value: torch.Tensor) -> torch.Tensor:
    # Variances span more than float16 does.
    dtype = torch.float32 if name.endswith(("running_var", "running_mean")) else torch.float16
    return value.to(dtype).contiguous()
