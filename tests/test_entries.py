"""What a list says about a slide goes before what the command says for all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wsiseg
from wsiseg import model_choice
from wsiseg.api import options_of
from wsiseg.errors import (
    MissingScale,
    OutputExists,
    OutputNotWritable,
    ScaleRefused,
    UnknownName,
    UsageError,
)
from wsiseg.listing import SlideEntry, list_slides
from wsiseg.model_choice import model_for
from wsiseg.models import list_models
from wsiseg.plan import PlanOptions
from wsiseg.scale import ScaleOptions
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MODEL = LocalNetwork(mpp=0.25, core_px=256, margin_px=64)


def test_a_list_of_slides_is_segmented_slide_by_slide(tmp_path: Path) -> None:
    Image.fromarray(paint_tissue(300, 300, 900, seed=1)).save(tmp_path / "a.png")
    Image.fromarray(paint_tissue(300, 300, 900, seed=2)).save(tmp_path / "b.png")
    Image.fromarray(paint_tissue(300, 300, 900, seed=3)).save(tmp_path / "c.png")
    square = {"type": "Polygon", "coordinates": [[[9, 9], [150, 9], [150, 200], [9, 200], [9, 9]]]}
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "Feature", "geometry": square}))
    (tmp_path / "list.csv").write_text(
        "slide;mpp;override_mpp;roi;tissue;patient\n"
        "a.png;0,25;;r.geojson;none;7\nb.png;;0.3;;;8\nc.png;;;;;8\nnone.svs;0.25;;;;9\n"
    )
    entries = list_slides([tmp_path / "list.csv"])
    outcomes = {
        one.slide: one for one in wsiseg.segment_many(entries, tmp_path / "out", model=MODEL)
    }
    first, second = outcomes["a.png"], outcomes["b.png"]
    assert isinstance(first, wsiseg.Done)
    assert isinstance(second, wsiseg.Done)
    assert (first.result.mpp, first.result.run["slide"]["mpp_source"]) == (0.25, "given")
    assert first.result.run["options"]["tissue"] == "none"
    assert [region["name"] for region in first.result.regions] == ["Region 1"]
    assert first.result.cells()["x"].to_numpy().max() < 150
    assert (second.result.mpp, second.result.run["slide"]["mpp_source"]) == (0.3, "overridden")
    assert not second.result.regions
    third, fourth = outcomes["c.png"], outcomes["none.svs"]
    assert isinstance(third, wsiseg.Failed)
    assert isinstance(third.error, MissingScale)
    assert isinstance(fourth, wsiseg.Failed)


def test_what_the_list_leaves_open_comes_from_the_command() -> None:
    said = PlanOptions(roi=Path("all.geojson"))
    scale = ScaleOptions(mpp=0.25, force=True)
    assert options_of(SlideEntry(Path("a")), scale, said) == replace(said, scale=scale)
    own = SlideEntry(Path("a"), override_mpp=0.5, roi=Path("own.geojson"), tissue="t.geojson")
    found = options_of(own, scale, said)
    # A value of its own replaces the command's, of whichever kind.
    assert found.scale == ScaleOptions(override_mpp=0.5, force=True)
    assert (found.roi, found.tissue) == (Path("own.geojson"), Path("t.geojson"))
    objective = options_of(SlideEntry(Path("a"), mpp_from_objective=True), scale, said)
    assert objective.scale == ScaleOptions(from_objective=True, force=True)


@pytest.mark.parametrize(("mpp", "name"), [(0.2, "fine"), (0.3, "fine"), (0.4, "coarse")])
def test_each_slide_gets_the_model_nearest_to_it(
    mpp: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, *_ = list_models()
    cards = [replace(card, name="fine"), replace(card, name="coarse", mpp=0.5)]
    monkeypatch.setattr(model_choice, "list_models", lambda: cards)
    monkeypatch.setattr(model_choice, "load_model", lambda model: model)
    info = ArraySlide(np.zeros((90, 90, 3), np.uint8), mpp=mpp).info
    chosen: Any = model_for(info, "auto", PlanOptions())
    assert chosen == name
    assert model_for(info, "named", PlanOptions()) == "named"  # type: ignore[comparison-overlap]


def test_a_slide_without_scale_has_no_nearest_model() -> None:
    info = ArraySlide(np.zeros((90, 90, 3), np.uint8), mpp=None).info
    with pytest.raises(MissingScale, match=r"--mpp.*--mpp-from-objective"):
        model_for(info, "auto", PlanOptions())


def test_the_resolved_name_is_stored(tmp_path: Path) -> None:
    rgb = np.full((200, 200, 3), 240, np.uint8)
    result = wsiseg.segment(ArraySlide(rgb, mpp=0.26), tmp_path)
    card, *_ = list_models()
    assert (result.model_name, result.run["model"]["sha256"]) == (card.name, card.sha256)
    assert '"auto"' not in (result.path / "run.json").read_text()


def test_a_dry_run_writes_nothing_and_refuses_what_a_run_would(tmp_path: Path) -> None:
    Image.fromarray(paint_tissue(600, 600, 900, seed=1)).save(tmp_path / "a.png")
    entries = [
        SlideEntry(tmp_path / "a.png", mpp=0.25),
        SlideEntry(tmp_path / "none.svs", mpp=0.25),
    ]
    before = sorted(tmp_path.rglob("*"))
    good, bad = wsiseg.estimate_many(entries, tmp_path / "out", model=MODEL)
    assert isinstance(good, wsiseg.SlideEstimate)
    assert (good.model, good.mpp, good.mpp_source) == (MODEL.card.name, 0.25, "given")
    assert good.estimate.n_tiles == 9
    assert good.estimate.seconds > 0
    assert isinstance(bad, wsiseg.Failed)
    coarse = SlideEntry(tmp_path / "a.png", mpp=1.0)
    (refused,) = wsiseg.estimate_many([coarse], tmp_path / "out", model=MODEL)
    assert isinstance(refused, wsiseg.Failed)
    assert isinstance(refused.error, ScaleRefused)
    for out in (tmp_path / "a.png", Path("/proc/none")):
        (refused,) = wsiseg.estimate_many(entries[:1], out, model=MODEL)
        assert isinstance(refused, wsiseg.Failed)
        assert isinstance(refused.error, OutputNotWritable)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    slide = tmp_path / "a.png"
    Image.fromarray(paint_tissue(600, 600, 900, seed=1)).save(slide)
    wsiseg.segment(slide, tmp_path, model=MODEL, scale=0.25)
    (again,) = wsiseg.estimate_many([slide], tmp_path, model=MODEL, scale=0.25)
    assert isinstance(again, wsiseg.SlideEstimate)
    assert (again.estimate.n_done, again.estimate.work_bytes) == (again.estimate.n_tiles, 0)
    (other,) = wsiseg.estimate_many([slide], tmp_path, model=MODEL, scale=0.3)
    assert isinstance(other, wsiseg.Failed)
    assert isinstance(other.error, OutputExists)


def test_what_is_no_list_of_slides_or_formats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a list of slides"):
        list(wsiseg.segment_many("a.svs", tmp_path))
    with pytest.raises(UnknownName, match="xls"):
        list(wsiseg.segment_many(["a.svs"], tmp_path, formats="xls"))
