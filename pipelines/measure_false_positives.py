"""How many nuclei a model finds where none was annotated, for `about.metrics` in its card.

    python pipelines/measure_false_positives.py --data DATA [--model NAME|FOLDER] [--write CARD]

The images are those that the card calls held back: patients of DATA/monuseg_train (nuclei without
classes) and images of DATA/consep_train (with classes), all at 0.25 µm/px, segmented whole.  Found
and annotated nuclei are paired one to one, so that the distances of their centroids, of which none
is more than 3 µm, are smallest in sum over as many pairs as can be made.

A false positive has no partner, and its centroid lies on no annotated nucleus either: it is there
where nobody saw one.  Without the second condition (`unpaired_per_mm2`) halves of one nucleus, and
nuclei with a poor outline, count too.  Those whose partner is of another class are told apart.
Nuclei that the annotators left out count as false positives: the figures err upwards.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shipped_models import LABELS

import wsiseg
from wsiseg.evaluation.annotated import with_classes
from wsiseg.evaluation.detection import detect
from wsiseg.evaluation.records import labelled_instances
from wsiseg.labels.reading import read_label_sets
from wsiseg.labels.records import LabelledImage
from wsiseg.models import DEFAULT_MODEL, MapsModel, load_model
from wsiseg.models.card import ModelCard
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.rundir import write_json

RADIUS_UM = 3.0
DEFINITION = (
    "per_mm2: nuclei found on held-back images whose centroid lies on no annotated nucleus, nor "
    f"has one's centroid within {RADIUS_UM:g} µm as its one partner (smallest sum of distances), "
    "over the images' whole area; unpaired: those without a partner; of_other_class: those whose "
    "partner is of another class, where classes are known"
)


def main() -> None:
    """Measure, print, and write into the card if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--write", type=Path, help="card.json to write the figures into")
    arguments = parser.parse_args()
    card = load_model(arguments.model).card
    names = {
        "monuseg_train": "MoNuSeg held-back patients",
        "consep_train": "CoNSeP held-back images",
    }
    read = read_label_sets([arguments.data / folder for folder in names], LABELS)
    sets = {names[one.name]: one.images for one in read.sets}
    counted = {
        name: [
            count_image(arguments.model, card, image, read.class_names)
            for image in images
            if image.patient in card.about["held_back"]
        ]
        for name, images in sets.items()
    }
    figures = summarise(counted, card.class_names)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    if arguments.write is not None:
        fields = json.loads(arguments.write.read_text(encoding="utf-8"))
        fields["about"]["metrics"]["false_positives"] = figures
        write_json(arguments.write, fields)


def count_image(
    model: str | MapsModel, card: ModelCard, image: LabelledImage, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Segment one image, and count what its annotations do not hold."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{image.name}.png"
        Image.fromarray(image.rgb).save(path)
        options = wsiseg.PlanOptions(tissue=None)
        result = wsiseg.segment(
            path, temporary, model=model, scale=image.mpp, options=options, formats=()
        )
        cells = result.cells(columns=["x_um", "y_um", "class_name"])
    found_um = np.stack([cells["x_um"].to_numpy(), cells["y_um"].to_numpy()], axis=1)
    names = cells["class_name"].to_pylist()
    index = {name: k for k, name in enumerate(card.class_names)}
    classes = np.array([index.get(name, UNKNOWN_CLASS) for name in names], np.uint8)
    truth = with_classes(labelled_instances(image), class_names, {}, card.class_names)
    seen = detect(found_um, classes, truth, RADIUS_UM)
    return {
        "mm2": image.instances.size * image.mpp**2 / 1e6,
        "has_classes": bool((truth.classes != UNKNOWN_CLASS).any()),
        "found": Counter(names),
        "annotated": truth.n,
        "false": Counter(names[i] for i in seen.false),
        "unpaired": Counter(names[i] for i in seen.unpaired_found),
        "other": Counter(names[i] for i in seen.of_other_class),
    }


def summarise(
    counted: dict[str, list[dict[str, Any]]], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the card says."""
    every = [image for images in counted.values() for image in images]
    with_classes = [image for image in every if image["has_classes"]]
    return {
        "definition": DEFINITION,
        "radius_um": RADIUS_UM,
        "images": len(every),
        "mm2": round(sum(image["mm2"] for image in every), 4),
        "per_mm2": rates(every, "false", class_names),
        "unpaired_per_mm2": rates(every, "unpaired", class_names),
        "of_other_class_per_mm2": {
            name: rate
            for name, rate in rates(with_classes, "other", class_names).items()
            if name != "(all)"
        },
        "by_set": {
            name: {
                "per_mm2": rates(images, "false", class_names),
                "found_per_mm2": rates(images, "found", class_names),
                "annotated": sum(image["annotated"] for image in images),
                "images": len(images),
            }
            for name, images in counted.items()
        },
    }


def rates(images: list[dict[str, Any]], key: str, class_names: tuple[str, ...]) -> dict[str, float]:
    """Return counts over area of each class, and of all."""
    total: Counter[str] = sum((image[key] for image in images), Counter())
    mm2 = sum(image["mm2"] for image in images)
    per_class = {name: round(total[name] / mm2, 1) for name in class_names}
    return per_class | {"(all)": round(sum(total.values()) / mm2, 1)}


if __name__ == "__main__":
    main()
