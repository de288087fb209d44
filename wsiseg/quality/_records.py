"""What is known of a tile's pixels, and from where on something is said about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

Appearance = Mapping[str, tuple[float, float]]
"""Lowest and highest value of fields of `TileQuality` in the images a model was trained on."""


@dataclass(frozen=True, slots=True)
class TileQuality:
    """What can be said of a tile's pixels.  Shares are of its pixels inside the slide."""

    focus: float | None
    """1 / (width of edges in µm); about 2 to 4 in focus, below 1.3 blurred; None without edges.
    The width is the standard deviation of the blur at the steepest edges (median over blocks of
    32 µm), from their slopes at two scales: independent of contrast, stain and pixel size."""
    hematoxylin_od: float | None
    """Mean optical density of haematoxylin over stained pixels; None if there are too few."""
    eosin_od: float | None
    """Mean optical density of eosin over stained pixels."""
    residual_od: float | None
    """Mean optical density that neither explains; positive is brown or orange."""
    hue_deg: float | None
    """Mean hue of stained pixels (circular, weighted by chroma): 270 purple, 330 pink; None if
    all are grey."""
    saturation: float | None
    """Mean HSV saturation of stained pixels, 0 to 1."""
    off_colour_share: float | None
    """Share of stained pixels whose hue no mixture of haematoxylin and eosin has."""
    bluest_hue_deg: float | None
    """Hue that 2 % of the clearly stained pixels are bluer than: that of nuclei, 245 to 325."""
    ink_share: float
    """Share under pen or marking dye."""
    fold_share: float
    """Share where tissue lies double."""
    dark_share: float
    """Share where hardly any light comes through: black border, bubble rim, dirt."""
    stained_share: float
    """Share that is stained, and neither ink nor dark."""

    def to_json(self) -> dict[str, float | None]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the record `to_json` was called on; fields of later versions are left out."""
        return cls(**{field.name: content[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """From where on something is flagged."""

    least_focus_per_um: float = 1.3
    """Below this a tile is blurred: edges wider than 0.77 µm."""
    most_ink_share: float = 0.01
    """Above this a tile is inked."""
    most_fold_share: float = 0.02
    """Above this a tile is folded."""
    most_dark_share: float = 0.004
    """Above this a tile is dark."""
    least_stained_share: float = 0.05
    """With less tissue a tile's colours say nothing."""
    hue_deg: tuple[float, float] = (258.0, 340.0)
    """Mean hue of H&E; 263 to 334 was seen."""
    least_saturation: float = 0.12
    """Below this a tile is grey; 0.21 was seen."""
    most_off_colour_share: float = 0.05
    """Above this a tile is not H&E."""
    most_bluest_hue_deg: float = 330.0
    """Above this nothing in a tile is as blue as haematoxylin; up to 325 was seen, in a frozen
    section at 1 µm/px."""
    least_confidence: float = 0.7
    """Mean probability of a tile's nuclei below which the network is unsure; nuclei-40x-v0 has
    0.83 to 0.89 on its training images and still 0.76 to 0.83 where they are blurred by 1 µm."""
    least_cells: int = 10
    """Fewer nuclei say nothing about its confidence."""
    odd_share: float = 0.4
    """A slide is not H&E, or unlike the training images, if this share of its tissue is."""
    blurred_share: float = 0.2
    """A slide is out of focus if this share of its tissue is."""
    inked_share: float = 0.005
    """A slide has ink over its tissue if this share of it is under ink."""
    fluorescent_share: float = 0.5
    """A slide of which this share is dark is no bright-field picture."""


DEFAULTS = QualityOptions()
"""The limits used unless others are given."""
