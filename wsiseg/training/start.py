"""The network a training begins with: ImageNet's weights, another model's, or chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from wsiseg.errors import MissingDependency, ModelNotUsable
from wsiseg.models import ModelCard, ModelFile, check_weights, load_model
from wsiseg.models.hovernet import HoverNet, NetworkSpec
from wsiseg.training.imagenet import load_encoder_weights

CHANCE = "chance"
"""Instead of a model: random weights, also where ImageNet's are installed."""
_CLASS_ROWS = ("class_head.1.weight", "class_head.1.bias")


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A network that has learned nothing of the data yet."""

    network: HoverNet
    origin: str
    """Where its weights come from, for the card and for `--resume`."""
    model: ModelFile | None = None
    """What it goes on from."""
    warning: str | None = None
    """What the user should know about it."""

    @property
    def card(self) -> ModelCard | None:
        """Of the model it goes on from."""
        return None if self.model is None else self.model.card


def network_by_chance(spec: NetworkSpec, seed: int) -> Start:
    """Build a network with random weights.

    Raises
    ------
    UnknownName
        If timm has no such encoder.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = HoverNet(spec)
    return Start(network, f"chance (seed {seed})")


def network_from_imagenet(spec: NetworkSpec, seed: int) -> Start:
    """Build a network, with ImageNet's weights in the encoder if a package with them is there.

    Raises
    ------
    UnknownName
        If timm has no such encoder.
    """
    start = network_by_chance(spec, seed)
    try:
        load_encoder_weights(start.network)
    except (MissingDependency, ValueError) as error:
        said = f"the encoder begins with random weights, which needs far more images: {error}"
        return replace(start, warning=said)
    return replace(start, origin=f"ImageNet ({spec.encoder}), the rest {start.origin}")


def network_from(model: str | Path, class_names: Sequence[str], seed: int) -> Start:
    """Build a network that goes on from a model's weights.

    Where the classes differ, those with the same name keep their weights, the others begin with
    chance.

    Raises
    ------
    UnknownName
        If there is no such model.
    ModelNotUsable
        If it is no network of ours, or damaged.
    """
    found = load_model(model)
    if not isinstance(found, ModelFile) or found.card.architecture != "hovernet":
        raise ModelNotUsable(
            f"model {found.card.name} is no network that can be trained here; a shipped model or "
            "one that `wsiseg train` made is needed"
        )
    check_weights(found)
    card = found.card
    try:
        spec = replace(NetworkSpec.from_json(card.network), n_classes=len(class_names))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelNotUsable(
            f"model {card.name}: its card describes no network: {error}"
        ) from error
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = HoverNet(spec)
    _fill(network, found, class_names)
    new = [name for name in class_names if name not in card.class_names]
    gone = [name for name in card.class_names if name not in class_names]
    said = []
    if new:
        said.append(f"classes that {card.name} does not know begin with chance: {', '.join(new)}")
    if gone:
        said.append(
            f"classes of {card.name} that the new model will not have, for no image here has them: "
            f"{', '.join(gone)} (--classes, or classes = in a TOML file, keeps those it names)"
        )
    origin = f"model {card.name} (sha256 {card.sha256[:12]})"
    return Start(network, origin, found, "; ".join(said) or None)


def _fill(network: HoverNet, model: ModelFile, class_names: Sequence[str]) -> None:
    """Copy a model's weights, those of class channels by name."""
    weights = {name: value.float() for name, value in load_file(model.weights).items()}
    state = network.state_dict()
    known = model.card.class_names
    for name, value in state.items():
        if name in _CLASS_ROWS and name in weights:
            for row, class_name in enumerate(class_names):
                if class_name in known:
                    value[row] = weights[name][known.index(class_name)]
        elif name in weights and weights[name].shape == value.shape:
            value.copy_(weights[name])
        elif not name.endswith("num_batches_tracked") and not name.startswith("class_head."):
            raise ModelNotUsable(
                f"model {model.card.name}: its weights do not fit its card ({name})"
            )
    network.load_state_dict(state)
