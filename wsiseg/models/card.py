"""The model card: all that is known about a model, and all that fixes what it computes.

`about` is for people and for `wsiseg models NAME`; nothing computes with it, and every key may be
missing.  What the shipped models say there, from version 1 on (an *estimate* is a number, or
`{"value", "low", "high"}` with the ends of its 95 % interval):

* `use`: text, what the model is for;
* `data`: list of text, or of `{"name", "licence", "images", "patients", "nuclei", "classes"}`;
* `metrics`: `{"how": text, "averaging": text, "sets": {name: {"images", "patients", "nuclei",
  "pq", "dq", "sq", "aji", "dice", "f1", "f1_by_class": {class: estimate}}}}`, estimates made by
  `wsiseg.evaluation.card_figures`; `f1` is of centroids up to 3 µm apart.  Shipped weights are
  trained on all images, so the numbers are those of networks of the same recipe in
  cross-validation over patients, each image judged by one that never saw its patient; `how` says
  so;
* `organs`: `{"how": text, "rows": [{"organ", "images", "pq", "aji", …}]}`, each organ judged by a
  network that saw none of it;
* `perturbation`: list of `{"kind", "strength", "unit", "pq", "pq_low", "pq_high",
  "n_images"}` (`wsiseg.evaluation.perturb`);
* `calibration`: `CalibrationReport.to_json()` (`wsiseg.reliability`): before and after;
* `size`: `{"parameters", "kmac_per_px", "megabytes"}` (`wsiseg.models.cost`);
* `receptive_field_px`: how far a map pixel looks;
* `training`: the recipe, as its options say it; `encoder_weights`: where it started from;
* `classes_valid_on`: text, on which tissue the classes were annotated;
* `known_failures`: list of text;
* `held_back`: patients it was not trained on, if there are any.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from wsiseg.calibration import Calibration
from wsiseg.errors import ModelNotUsable

FORMAT_VERSION = 3
"""Newest card format this version reads."""
_FIRST_WITH_APPEARANCE = 2
_FIRST_WITH_CALIBRATION = 3
MAX_OUTER_PX = 32767
"""Largest side of a tile with its margins."""

_BEHAVIOUR = (
    "architecture",
    "network",
    "mpp",
    "classes",
    "core_px",
    "margin_px",
    "decode",
    "weights_sha256",
)


@dataclass(frozen=True, slots=True)
class NucleusClass:
    """A class of nuclei."""

    name: str
    """Fixed and capitalised, for example `Epithelial`."""
    rgb: tuple[int, int, int]
    """Colour in every picture and export."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is, how it must be run, and what is known about it."""

    name: str
    """Resolved name, as it stands in every output."""
    architecture: str
    """Entry point of group `wsiseg.models` that runs it."""
    network: dict[str, Any]
    """What that entry point needs to rebuild the network."""
    mpp: float
    """µm per model pixel."""
    classes: tuple[NucleusClass, ...]
    """In the order of the network's class channels."""
    core_px: int
    """Side of a tile's core; a multiple of 64."""
    margin_px: int
    """Context on each side of the core; a multiple of 32."""
    decode: dict[str, Any]
    """Fixed constants of the decoder."""
    precision: dict[str, str]
    """Default number format by kind of device (`cpu`, `cuda`)."""
    weights_sha256: str
    """Of the weights file; empty for a model without one."""
    licence: str
    """SPDX expression."""
    licence_note: str
    """What the licence means for the user, in one sentence."""
    nuclear_area_um2: tuple[float, float]
    """A slide's median nuclear area outside this range suggests a wrong µm per pixel."""
    about: dict[str, Any]
    """Data, training recipe, metrics, valid tissue, failure modes: for people."""
    appearance: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Ranges of stain and colour of the training images' tiles (see `wsiseg.quality`); empty
    if they were not measured."""
    calibration: Calibration | None = None
    """What turns mean probabilities of a nucleus into those that stand in the results; None:
    they stay as they are."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ModelNotUsable(
                f"model {self.name}: {self.mpp} µm per model pixel; a positive number is needed"
            )
        if self.core_px <= 0 or self.core_px % 64 or self.margin_px < 0 or self.margin_px % 32:
            raise ModelNotUsable(
                f"model {self.name}: core {self.core_px} px and margin {self.margin_px} px; "
                "a core that is a multiple of 64 and a margin that is a multiple of 32 are needed"
            )
        if self.margin_px * 2 > self.core_px:
            raise ModelNotUsable(
                f"model {self.name}: margin {self.margin_px} px is more than half of core "
                f"{self.core_px} px, so that tiles two apart would overlap"
            )
        if self.core_px + 2 * self.margin_px > MAX_OUTER_PX:
            raise ModelNotUsable(
                f"model {self.name}: core {self.core_px} px + 2 × margin {self.margin_px} px; "
                f"at most {MAX_OUTER_PX} px together are needed, for tile files count in 16 bits"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the class indices."""
        return tuple(nucleus_class.name for nucleus_class in self.classes)

    @property
    def sha256(self) -> str:
        """Hash of everything that fixes what the model computes, weights included."""
        fields = self.to_json()
        behaviour = {name: fields[name] for name in _BEHAVIOUR}
        # Models without one keep the hash they had before there was any.
        if self.calibration is not None:
            behaviour["calibration"] = fields["calibration"]
        return hashlib.sha256(json.dumps(behaviour, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain JSON values."""
        return {
            "format": "wsiseg-model",
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "architecture": self.architecture,
            "network": self.network,
            "mpp": self.mpp,
            "classes": [{"name": c.name, "rgb": list(c.rgb)} for c in self.classes],
            "core_px": self.core_px,
            "margin_px": self.margin_px,
            "decode": self.decode,
            "precision": self.precision,
            "weights_sha256": self.weights_sha256,
            "licence": self.licence,
            "licence_note": self.licence_note,
            "nuclear_area_um2": list(self.nuclear_area_um2),
            "appearance": {name: list(ends) for name, ends in self.appearance.items()},
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "about": self.about,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any], source: str) -> ModelCard:
        """Build a card from `to_json`'s values.

        Raises
        ------
        ModelNotUsable
            If it is not a card, is of a newer format, or lacks a field; names `source`.
        """
        if not isinstance(fields, dict) or fields.get("format") != "wsiseg-model":
            raise ModelNotUsable(f"{source} is no model card: its format is not 'wsiseg-model'")
        version = fields.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ModelNotUsable(
                f"{source} is a model card of format {version}; this wsiseg reads up to "
                f"{FORMAT_VERSION}: update wsiseg"
            )
        wanted = {name: value for name, value in fields.items() if not name.startswith("format")}
        try:
            wanted["classes"] = tuple(
                NucleusClass(c["name"], tuple(c["rgb"])) for c in wanted["classes"]
            )
            wanted["nuclear_area_um2"] = tuple(wanted["nuclear_area_um2"])
            appearance = {} if version < _FIRST_WITH_APPEARANCE else wanted["appearance"]
            wanted["appearance"] = {
                name: (float(low), float(high)) for name, (low, high) in appearance.items()
            }
            calibration = wanted["calibration"] if version >= _FIRST_WITH_CALIBRATION else None
            wanted["calibration"] = (
                None if calibration is None else Calibration.from_json(calibration)
            )
            for name in ("name", "licence", "licence_note"):
                if not isinstance(wanted[name], str):
                    raise TypeError(f"{name} is {wanted[name]!r}; text is needed")
            return cls(**wanted)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelNotUsable(f"{source}: the model card is incomplete: {error}") from error
