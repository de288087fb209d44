"""What OME-Zarr wants said about images and labels, as JSON values.

Specifications: https://ngff.openmicroscopy.org/0.5/ and https://ngff.openmicroscopy.org/0.4/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VERSION = "0.5"
OLDER_VERSION = "0.4"
"""Written on demand, for readers that lack `VERSION`."""

_SPACE_AXES = [
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]
_GREY = (128, 128, 128)


def image_attributes(pixel_um: Sequence[float]) -> dict[str, Any]:
    """Return the attributes of an RGB pyramid (axes c, y, x) of averaged pixels.

    Parameters
    ----------
    pixel_um
        µm per pixel of each level.
    """
    datasets = [_dataset(k, [1.0, p, p], [0.0, p / 2, p / 2]) for k, p in enumerate(pixel_um)]
    multiscale = {
        "name": "slide",
        "type": "mean",
        "axes": [{"name": "c", "type": "channel"}, *_SPACE_AXES],
        "datasets": datasets,
    }
    channels = [
        {
            "label": label,
            "color": colour,
            "active": True,
            "window": {"start": 0, "end": 255, "min": 0, "max": 255},
        }
        for label, colour in (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
    ]
    omero = {"channels": channels, "rdefs": {"model": "color"}}
    return _ome(multiscales=[multiscale], omero=omero)


def nuclei_attributes(pixel_um: Sequence[float]) -> dict[str, Any]:
    """Return the attributes of a label pyramid whose values are cell ids."""
    return _label_attributes("nuclei", pixel_um, {})


def classes_attributes(
    pixel_um: Sequence[float],
    class_values: Sequence[tuple[int, str]],
    class_colours: Mapping[str, tuple[int, int, int]],
) -> dict[str, Any]:
    """Return the attributes of a label pyramid whose values are classes.

    Parameters
    ----------
    pixel_um
        µm per pixel of each level.
    class_values
        The pixel value and name of each class.
    class_colours
        Red, green, blue (0 to 255) of the class names; grey where one is missing.
    """
    return _label_attributes("classes", pixel_um, described_classes(class_values, class_colours))


def described_classes(
    class_values: Sequence[tuple[int, str]], class_colours: Mapping[str, tuple[int, int, int]]
) -> dict[str, Any]:
    """Return what `image-label` says of the values of a class image."""
    colours = [
        {"label-value": value, "rgba": [*map(int, class_colours.get(name, _GREY)), 255]}
        for value, name in class_values
    ]
    names = [{"label-value": value, "class": name} for value, name in class_values]
    return {"colors": colours, "properties": names}


def labels_attributes() -> dict[str, Any]:
    """Return the attributes of the group that holds the label images."""
    return _ome(labels=["nuclei", "classes"])


def older_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes of `VERSION` as those of `OLDER_VERSION`.

    That has no `ome` around everything, and its version in each part.

    Raises
    ------
    KeyError
        If they are not of `VERSION`.
    """
    described = {name: value for name, value in attributes["ome"].items() if name != "version"}
    version = {"version": OLDER_VERSION}
    for name in ("image-label", "omero"):
        if name in described:
            described[name] = {**described[name], **version}
    if "multiscales" in described:
        described["multiscales"] = [{**image, **version} for image in described["multiscales"]]
    return described


def _label_attributes(
    name: str, pixel_um: Sequence[float], image_label: dict[str, Any]
) -> dict[str, Any]:
    # Coarser levels are samples of single pixels, so all lie where the finest level's lie.
    place = [pixel_um[0] / 2] * 2
    multiscale = {
        "name": name,
        "type": "nearest",
        "axes": _SPACE_AXES,
        "datasets": [_dataset(k, [p, p], place) for k, p in enumerate(pixel_um)],
    }
    described = {"version": VERSION, "source": {"image": "../../"}, **image_label}
    return _ome(multiscales=[multiscale], **{"image-label": described})


def _dataset(level: int, scale: list[float], translation: list[float]) -> dict[str, Any]:
    return {
        "path": str(level),
        "coordinateTransformations": [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ],
    }


def _ome(**values: Any) -> dict[str, Any]:
    return {"ome": {"version": VERSION, **values}}
