"""A model that is loaded once in a process, however many slides it runs on."""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.models import MapsModel, ModelCard, Numerics, Predictor
from wsiseg.records import Maps

_MOST = 2
"""Models kept; a batch may use several in turn."""
_loaded: OrderedDict[tuple[bytes, Numerics], Predictor] = OrderedDict()
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class LoadedOnce:
    """A model whose predictor all its copies in this process share.  It follows `MapsModel`."""

    model: MapsModel

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.model.card

    def predictor(self, numerics: Numerics) -> Predictor:
        """Return the predictor that was loaded before, or load it.

        On a GPU it is called by one thread at a time.
        """
        key = (pickle.dumps(self.model), numerics)
        with _loading:
            if key not in _loaded:
                _loaded[key] = _in_turn(self.model.predictor(numerics), numerics)
            _loaded.move_to_end(key)
            while len(_loaded) > _MOST:
                _loaded.popitem(last=False)
            return _loaded[key]


def _in_turn(predictor: Predictor, numerics: Numerics) -> Predictor:
    """Let one thread at a time use a GPU: two calls at once need twice its memory."""
    if numerics.device_kind != "cuda":
        return predictor
    turn = threading.Lock()

    def predict(blocks: NDArray[np.uint8]) -> Sequence[Maps]:
        with turn:
            return predictor(blocks)

    return predict
