"""Calibrate the probabilities of a model on annotated images of patients it never saw.

    python pipelines/calibrate_model.py MODEL DATA... --to runs/calibrated

MODEL is a shipped model's name or a model folder whose card names the patients that were held
back (`about.held_back`); DATA are annotated images in any format that `wsiseg train` reads, or a
TOML file that describes them.  `TO` becomes a copy of the model whose card holds the calibration
and the reliability before and after, with `reliability.svg` beside it.  A model trained on all
images is calibrated on those of a cross-validation instead: see
`wsiseg.evaluation.calibrating.calibrate`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from wsiseg.evaluation.calibrating import calibrate
from wsiseg.evaluation.reliability_plot import reliability_svg
from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.models import MapsModel, ModelFile, Numerics, load_model
from wsiseg.models.device import choose_numerics
from wsiseg.rundir import write_atomically, write_json


def main() -> None:
    """Calibrate on the images held back, and write the model anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="a shipped model's name, or a model folder")
    parser.add_argument("data", type=Path, nargs="+", help="annotated images")
    parser.add_argument("--mpp", type=float, help="µm per pixel, where files do not say")
    parser.add_argument("--to", type=Path, required=True, help="folder for the calibrated model")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    chosen = parser.parse_args()

    model = load_model(chosen.model)
    if not isinstance(model, ModelFile):
        parser.error(f"{chosen.model} is no model folder")
    sets = read_label_sets(chosen.data, LabelOptions(mpp=chosen.mpp))
    patients = frozenset(model.card.about.get("held_back", ()))
    images = [i for one in sets.sets for i in one.images if i.patient in patients]
    if not images:
        parser.error(f"the card of {model.card.name} names no patient of these as held back")

    def numerics(which: MapsModel) -> Numerics:
        return choose_numerics(which.card, chosen.device, None, None)

    calibration, report = calibrate([(model, images)], sets.class_names, numerics)
    about = model.card.about | {"calibration": report.to_json()}
    shutil.copytree(model.folder, chosen.to, dirs_exist_ok=True)
    card = replace(model.card, calibration=calibration, about=about)
    write_json(chosen.to / "card.json", card.to_json())
    write_atomically(chosen.to / "reliability.svg", reliability_svg(report).encode())
    print(json.dumps(calibration.to_json()))
    for name, before, after in (
        ("nucleus_prob", report.nucleus_before, report.nucleus_after),
        ("class_prob", report.class_before, report.class_after),
    ):
        print(
            f"{name}: expected calibration error {before.expected_error:.4f} before, "
            f"{after.expected_error:.4f} after, of {int(before.n.sum()):,} nuclei"
        )


if __name__ == "__main__":
    main()
