"""The one place that imports timm."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import nn

from wsiseg.errors import UnknownName

_MISSING_OPS = "operator torchvision::nms does not exist"
# Kept for the life of the process: when a Library is collected its definitions go with it.
_shims: list[torch.library.Library] = []


def import_timm() -> ModuleType:
    """Import timm, also beside a torchvision wheel that was built for another torch.

    A torchvision wheel built for CUDA cannot load its compiled operators beside a CPU-only
    torch, and fails while registering shapes for operators nobody defined.  timm needs none
    of them, so their schemas are declared and the import repeated; a torchvision that
    imports is left alone.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if _MISSING_OPS not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _shims.append(library)
    return importlib.import_module("timm")


def create_features(encoder: str, n_stages: int) -> tuple[nn.Module, list[int]]:
    """Build an encoder without weights.

    Parameters
    ----------
    encoder : str
        timm model name.
    n_stages : int
        Number of stages from stride 2 on.

    Returns
    -------
    tuple of (nn.Module, list of int)
        A module that gives one feature map per stage, and their channels.

    Raises
    ------
    UnknownName
        If the installed timm has no such model.
    """
    timm = import_timm()
    if not timm.is_model(encoder):
        raise UnknownName(
            f"timm {timm.__version__} has no model {encoder!r}; update timm, or choose one of "
            "timm.list_models()"
        )
    features = timm.create_model(
        encoder, pretrained=False, features_only=True, out_indices=tuple(range(n_stages))
    )
    _drop_unused_blocks(features)
    return features, list(features.feature_info.channels())


def _drop_unused_blocks(features: Any) -> None:
    """Remove what lies behind the last stage; timm's EfficientNets keep it and run it."""
    last = features.feature_info.module_name()[-1]
    container, _, index = last.partition(".")
    if container == "blocks" and index.isdigit():
        features.blocks = nn.Sequential(*list(features.blocks)[: int(index) + 1])
