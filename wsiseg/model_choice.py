"""Which model a slide gets: the one named, or the nearest of those that may be used."""

from __future__ import annotations

from pathlib import Path

from wsiseg.choosing import choose_model
from wsiseg.errors import LicenceRefused
from wsiseg.models import MapsModel, ModelCard, list_models, load_model
from wsiseg.models.licence import permitted_cards, refuse_licence
from wsiseg.plan import PlanOptions
from wsiseg.scale import resolve_scale
from wsiseg.slides import SlideInfo

NEAREST_MODEL = "auto"
"""Name that stands for the shipped model nearest to the slide in µm per pixel."""


def model_for(info: SlideInfo, model: str | Path | MapsModel, options: PlanOptions) -> MapsModel:
    """Return the model named, or for `"auto"` the shipped one nearest in µm per pixel.

    Raises
    ------
    LicenceRefused
        If its licence is not the one required, or that of no shipped model is.
    """
    required = options.require_licence
    if model != NEAREST_MODEL:
        return _named_model(model, required)
    cards = _shipped_cards(required)
    found = resolve_scale(info.name, info.mpp_x, info.mpp_y, info.objective_power, options.scale)
    return load_model(choose_model(found.mpp, cards).name)


def known_model(model: str | Path | MapsModel, options: PlanOptions) -> MapsModel | str:
    """Return the model that is named; `"auto"`, which each slide decides, stays as it is.

    Raises
    ------
    LicenceRefused
        If its licence is not the one required, or that of no shipped model is.
    """
    if model != NEAREST_MODEL:
        return _named_model(model, options.require_licence)
    _shipped_cards(options.require_licence)
    return NEAREST_MODEL


def _named_model(model: str | Path | MapsModel, required: str | None) -> MapsModel:
    loaded = load_model(model)
    if required is not None:
        refuse_licence(loaded.card, required, list_models())
    return loaded


def _shipped_cards(required: str | None) -> list[ModelCard]:
    """Return the shipped models whose licence is the one required."""
    cards = permitted_cards(list_models(), required)
    if required is not None and not cards:
        raise LicenceRefused(
            f"the licence of no shipped model is {required}, which was required; name a model of "
            "your own with --model"
        )
    return cards
