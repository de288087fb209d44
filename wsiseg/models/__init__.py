"""Models: cards, files, and the two protocols a model can follow.

No torch here: a card can be read, and a model named, without loading it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelNotUsable, UnknownName
from wsiseg.models.card import ModelCard, NucleusClass
from wsiseg.models.numerics import Numerics
from wsiseg.plugins import load_plugin
from wsiseg.records import Maps

__all__ = [
    "MapsModel",
    "ModelCard",
    "ModelFile",
    "NucleusClass",
    "Numerics",
    "Predictor",
    "list_models",
    "load_model",
]

Predictor = Callable[[NDArray[np.uint8]], Sequence[Maps]]
"""From (n, h, w, 3) uint8 blocks to the maps of each; h and w are multiples of 32."""

_SHIPPED = Path(__file__).parent / "weights"
DEFAULT_MODEL = "nuclei-40x-v1"
"""What `segment` uses unless told otherwise."""


@runtime_checkable
class MapsModel(Protocol):
    """A model that gives np/hv/class maps for wsiseg's decoder.  It must pickle."""

    @property
    def card(self) -> ModelCard:
        """What the model is and how it must be run."""
        ...

    def predictor(self, numerics: Numerics) -> Predictor:
        """Load the model in this process."""
        ...


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on disk: a folder of `card.json`, `weights.safetensors`, `LICENSE.txt`."""

    folder: Path
    """Where it lies."""
    card: ModelCard
    """Its card."""

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / "weights.safetensors"

    def predictor(self, numerics: Numerics) -> Predictor:
        """Load the weights, check them against the card, and return the predictor.

        Raises
        ------
        ModelNotUsable
            If the weights are not those the card describes.
        """
        check_weights(self)
        build = load_plugin("wsiseg.models", self.card.architecture)
        predictor: Predictor = build(self, numerics)
        return predictor


def check_weights(model: ModelFile) -> None:
    """Raise ModelNotUsable unless the weights file is the one the card describes."""
    try:
        found = hashlib.sha256(model.weights.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelNotUsable(
            f"model {model.card.name}: cannot read its weights: {error}"
        ) from error
    if found != model.card.weights_sha256:
        raise ModelNotUsable(
            f"model {model.card.name}: the weights have sha256 {found[:12]}…, the card says "
            f"{model.card.weights_sha256[:12]}…: the file is damaged or was exchanged; "
            "install it again"
        )


def list_models() -> list[ModelCard]:
    """Return the cards of the shipped models: the default one, then the others by name."""
    folders = sorted(path.parent for path in _SHIPPED.glob("*/card.json"))
    first = sorted(folders, key=lambda folder: folder.name != DEFAULT_MODEL)
    return [_read_folder(folder).card for folder in first]


def load_model(model: str | Path | MapsModel = DEFAULT_MODEL) -> MapsModel:
    """Find a model by name, folder, or take an object as it is.

    Parameters
    ----------
    model : str, Path or MapsModel
        Name of a shipped model, a folder with `card.json` and `weights.safetensors`, or
        any object that follows `MapsModel`.

    Raises
    ------
    UnknownName
        If there is no such model; lists the known ones.
    ModelNotUsable
        If its files are damaged or newer.
    """
    if not isinstance(model, str | Path):
        return model
    if (_SHIPPED / model / "card.json").is_file() and Path(model).name == str(model):
        return _read_folder(_SHIPPED / model)
    folder = Path(model)
    if (folder / "card.json").is_file():
        return _read_folder(folder)
    known = ", ".join(card.name for card in list_models())
    raise UnknownName(
        f"model {str(model)!r} is neither a shipped model ({known}) nor a folder with card.json"
    )


def _read_folder(folder: Path) -> ModelFile:
    path = folder / "card.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotUsable(f"{path.name} of model {folder.name}: {error}") from error
    return ModelFile(folder.absolute(), ModelCard.from_json(fields, source=f"model {folder.name}"))
