"""The card of a model that was trained: what it learned from, how, and how good it is."""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from wsiseg.decode import DecodeOptions
from wsiseg.models import ModelCard, NucleusClass
from wsiseg.training.class_scores import ClassScores
from wsiseg.training.decode_search import FoundConstants
from wsiseg.training.numbers import appearance, images_of, nuclear_area_um2, nucleus_areas_px
from wsiseg.training.plan import TrainingPlan
from wsiseg.training.validation import ImageScore, mean_scores

_USUAL_COLOURS = {
    "Epithelial": (255, 230, 0),
    "Inflammatory": (60, 255, 60),
    "Spindle": (0, 220, 255),
    "Miscellaneous": (255, 140, 0),
}
"""Those of the shipped models, so that pictures of several models can be compared."""
_TURN = 0.381966
"""The golden angle, as a share of a turn: hues of any number of classes lie well apart."""
CORE_PX, MARGIN_PX = 1024, 192
_SIMPLE = re.compile(r"[A-Za-z0-9.+:-]+")
_EXPRESSION = re.compile(r"[A-Za-z0-9.+:-]+( (AND|OR|WITH) [A-Za-z0-9.+:-]+)+")
UNKNOWN_LICENCE = "LicenseRef-unknown"
"""SPDX's way to name a licence that is not on its list."""


def class_colours(names: Sequence[str]) -> tuple[NucleusClass, ...]:
    """Return classes with colours; names the shipped models have keep theirs."""
    classes = []
    for k, name in enumerate(names):
        red, green, blue = colorsys.hsv_to_rgb((0.58 + k * _TURN) % 1, 0.85, 0.95)
        mixed = (round(red * 255), round(green * 255), round(blue * 255))
        classes.append(NucleusClass(name, _USUAL_COLOURS.get(name, mixed)))
    return tuple(classes)


def spdx(licence: str) -> str:
    """Return a licence as one term of an SPDX expression that can be joined by `AND`.

    Expressions are put in brackets: joined bare, one with `OR` would set the others aside.  Words
    become a name of our own, which no requirement takes for a known licence.
    """
    if _SIMPLE.fullmatch(licence):
        return licence
    if _EXPRESSION.fullmatch(licence):
        return f"({licence})"
    return f"LicenseRef-{re.sub(r'[^A-Za-z0-9.]+', '-', licence).strip('-') or 'unknown'}"


def licence_of(plan: TrainingPlan) -> tuple[str, str]:
    """Return the licence of the weights, and what it means for a user, in a sentence.

    A model is made of its data, and of the model it went on from: all their licences hold.
    """
    sources = {each.name: each.licence for each in plan.sets}
    if plan.start.card is not None:
        sources[f"model {plan.start.card.name}"] = plan.start.card.licence
    unknown = sorted(name for name, licence in sources.items() if not licence)
    known = sorted({spdx(licence) for licence in sources.values() if licence})
    if unknown:
        return UNKNOWN_LICENCE, (
            f"the licence of {', '.join(unknown)}, which the model learned from, was not given; "
            "settle it before you hand the weights on."
        )
    if len(known) == 1:
        return known[0].removeprefix("(").removesuffix(
            ")"
        ), f"the licence of all that the model learned from: {', '.join(sources)}."
    return " AND ".join(known), (
        "all of these hold, for the model learned from images of each: "
        + ", ".join(f"{name} ({licence})" for name, licence in sources.items())
        + "."
    )


def first_card(plan: TrainingPlan, name: str) -> ModelCard:
    """Return the card without weights' hash, the decoder's constants, and scores."""
    train = plan.split.train
    licence, note = licence_of(plan)
    return ModelCard(
        name=name,
        architecture="hovernet",
        network=plan.start.network.spec.to_json(),
        mpp=plan.mpp,
        classes=class_colours(plan.class_names),
        core_px=CORE_PX if plan.start.card is None else plan.start.card.core_px,
        margin_px=MARGIN_PX if plan.start.card is None else plan.start.card.margin_px,
        decode=DecodeOptions().to_json(),
        precision={"cpu": "float32", "cuda": "float16"},
        weights_sha256="",
        licence=licence,
        licence_note=note,
        nuclear_area_um2=nuclear_area_um2(nucleus_areas_px(train), plan.mpp),
        about=_about(plan),
        appearance=appearance(train, plan.mpp),
    )


def _about(plan: TrainingPlan) -> dict[str, Any]:
    organs = sorted({organ for each in plan.sets for organ in each.organs.values() if organ})
    return {
        "use": "Research only. Not for use in diagnostic procedures.",
        "data": [
            {
                "set": each.name,
                "images": len(each.images),
                "nuclei": len(nucleus_areas_px([each])),
                "classes": list(each.class_names),
                "licence": each.licence or None,
                "weight": each.weight,
            }
            for each in plan.split.train
        ],
        "held_back": list(plan.split.held_back),
        "begun_from": plan.start.origin,
        # As it is read again: lists, not tuples.
        "training": json.loads(json.dumps(asdict(plan.fit))),
        "classes_valid_on": (
            f"tissue as in the images they were learned on ({', '.join(organs)}); elsewhere "
            "classes are guesses"
            if organs
            else "tissue as in the images they were learned on; elsewhere classes are guesses"
        ),
        "known_failures": [
            f"learned from {len(images_of(plan.split.train))} images: expect worse on other "
            "scanners, stains and organs",
        ],
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return values with four decimals."""
    return {name: round(value, 4) for name, value in values.items()}


def metrics_of(
    scores: Sequence[ImageScore],
    classes: ClassScores,
    constants: FoundConstants,
    n_patients: int,
) -> dict[str, Any]:
    """Return, as plain JSON values, how good the model is on images held back."""
    return {
        "mean_over_images": rounded(mean_scores(scores))
        | {"images": len(scores), "patients": n_patients},
        "by_image": [each.to_json() for each in scores],
        "classes": classes.to_json() if classes.class_names else None,
        "decode_search": {
            "mean_pq": round(constants.mean_pq, 4),
            "mean_pq_before": round(constants.mean_pq_before, 4),
            "tried": constants.n_tried,
            "note": "the decoder's constants were chosen on these very images, so that the scores "
            "are a little too good",
        },
    }
