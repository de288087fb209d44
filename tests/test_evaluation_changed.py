"""Models on changed images through `evaluate`, and what a card says of scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_evaluation import CLASSES, NAMES, OPTIONS, write_folder

import wsiseg
from wsiseg.evaluation.card_figures import card_metrics, card_organs
from wsiseg.models.description import headline
from wsiseg.testing.models import fine_network


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("truth") / "labels")


def test_a_model_is_scored_on_changed_images_too(truth: Path, tmp_path: Path) -> None:
    model = replace(fine_network(), core_px=256, margin_px=64)
    said: list[str] = []
    found = wsiseg.evaluate(
        model,
        truth,
        OPTIONS,
        perturb=wsiseg.PerturbOptions({"brightness": (-20,)}),
        to=tmp_path / "scores",
        progress=lambda stage, done, total: said.append(stage),
    )
    changed, untouched = found.perturbation
    assert (changed.strength, untouched.strength) == (-20, 0)
    assert untouched.pq == found.scores.figures["pq"].pooled
    assert changed.pq != untouched.pq
    assert said.count("perturbing") == 2 * len(NAMES)
    written = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert [point["strength"] for point in written["perturbation"]] == [-20, 0]
    assert "Changed images" in (tmp_path / "scores" / "evaluation.html").read_text()


def test_labels_cannot_be_found_again_on_changed_images(truth: Path) -> None:
    with pytest.raises(wsiseg.WsisegError, match="give a model"):
        wsiseg.evaluate(truth, truth, OPTIONS, perturb=wsiseg.PerturbOptions())


def test_a_card_says_what_the_scores_do(truth: Path, tmp_path: Path) -> None:
    moved = write_folder(tmp_path / "moved", move_px=1, lost=3)
    scores = wsiseg.evaluate(moved, truth, OPTIONS).scores
    metrics = card_metrics({"painted": scores}, "judged on paint")
    row = metrics["sets"]["painted"]
    assert (row["images"], row["patients"]) == (4, 3)
    assert row["nuclei"] == sum(image.n_truth for image in scores.images)
    pq = scores.figures["pq"].macro
    assert pq is not None
    assert row["pq"]["value"] == pytest.approx(pq.value, abs=5e-5)
    mean = np.mean([image.figures["pq"] or 0 for image in scores.images])
    assert row["pq"]["value"] == pytest.approx(mean, abs=5e-5)
    assert row["f1_by_class"].keys() == set(CLASSES.values())
    organs = card_organs(scores, "likewise")
    assert [(one["organ"], one["images"]) for one in organs["rows"]] == [("colon", 2), ("lung", 2)]
    card = replace(fine_network().card, about={"metrics": metrics, "organs": organs})
    json.dumps(card.to_json(), allow_nan=False)
    assert headline(card) == (
        f"painted {row['pq']['value']:.3f} [{row['pq']['low']:.3f}, {row['pq']['high']:.3f}]"
    )
