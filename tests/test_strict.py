"""Warnings: early where they can be, failures where that is asked for, never a lost nucleus."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wsiseg
from wsiseg.api import plan_slide
from wsiseg.errors import WarningsRefused
from wsiseg.models import ModelCard
from wsiseg.pipeline import refuse_as_a_run_would, run_directory, segment_planned
from wsiseg.runners import RunHere
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.slides import ArraySlide

MODEL = LocalNetwork(mpp=0.25, core_px=512, margin_px=64)


@dataclass(frozen=True)
class Particular(LocalNetwork):
    """A stand-in that was made for nuclei of another size."""

    @property
    def card(self) -> ModelCard:
        return replace(super().card, nuclear_area_um2=(2000.0, 3000.0))


@pytest.fixture(scope="module")
def tissue(shared: Path) -> Any:
    """Real tissue, 0.25 µm per pixel."""
    folder = shared / "data/consep_train/images"
    # Without marking dye, which some images have at an edge and which is rightly warned about.
    names = [folder / f"train_{n}.png" for n in (5, 6, 7, 9)]
    one, two, three, four = (np.asarray(Image.open(name).convert("RGB")) for name in names)
    return np.vstack([np.hstack([one, two]), np.hstack([three, four])])


def codes(warnings: Any) -> set[str]:
    return {warning["code"] for warning in warnings}


def test_good_slides_pass(tissue: Any, tmp_path: Path) -> None:
    result = wsiseg.segment(ArraySlide(tissue, mpp=0.25), tmp_path, model=MODEL, strict=True)
    assert result.warnings == ()
    tiles = pq.read_table(result.path / "tiles.parquet").to_pylist()
    assert [tile["flags"] for tile in tiles if tile["flags"]] == []
    for name in ("focus", "hematoxylin_od", "eosin_od", "hue_deg", "ink_share", "fold_share"):
        assert all(tile[name] is not None for tile in tiles), name


@pytest.mark.parametrize(
    ("fault", "code"), [("inverted", "not-h-and-e"), ("blurred", "out-of-focus")]
)
def test_a_bad_slide_is_refused_before_anything_runs(
    fault: str, code: str, tissue: Any, tmp_path: Path
) -> None:
    bad = 255 - tissue if fault == "inverted" else cv2.GaussianBlur(tissue, (0, 0), 5)
    slide = ArraySlide(np.ascontiguousarray(bad), mpp=0.25)
    options = wsiseg.PlanOptions(tissue=None)
    with pytest.raises(WarningsRefused, match=r"nothing was run.*--strict"):
        wsiseg.segment(slide, tmp_path, model=MODEL, options=options, strict=True)
    assert list(tmp_path.iterdir()) == []
    plans: list[Any] = []
    result = wsiseg.segment(slide, tmp_path, model=MODEL, options=options, planned=plans.append)
    assert code in codes(plans[0].first_look)
    assert code in codes(result.warnings)


def test_what_only_nuclei_tell_stops_after_a_few_tiles(tissue: Any, tmp_path: Path) -> None:
    model = Particular(mpp=0.25, core_px=512, margin_px=64)
    slide = ArraySlide(tissue, mpp=0.25)
    with pytest.raises(WarningsRefused, match=r"median nuclear area.*4 tiles were run"):
        wsiseg.segment(slide, tmp_path, model=model, strict=True)
    run = json.loads((tmp_path / "array.png.wsiseg/run.json").read_text())
    assert run["status"] == "failed"
    work = sorted((tmp_path / "array.png.wsiseg/work").glob("tile_*"))
    assert len(work) == 4
    result = wsiseg.segment(slide, tmp_path, model=model)
    assert codes(result.warnings) == {"nuclear-size"}
    with pytest.raises(WarningsRefused, match="finished, results in"):
        wsiseg.segment(slide, tmp_path, model=model, strict=True)
    assert wsiseg.open_result(result.path).cells().equals(result.cells())


def test_a_finished_run_without_warnings_passes_whatever_its_first_look(
    tissue: Any, tmp_path: Path
) -> None:
    slide = ArraySlide(tissue, mpp=0.25)
    result = wsiseg.segment(slide, tmp_path, model=MODEL)
    with plan_slide(slide, model=MODEL) as plan:
        doubtful = replace(plan, first_look=({"code": "out-of-focus", "message": "blurred"},))
    folder = run_directory(tmp_path, "array.png")
    again = segment_planned(doubtful, folder, RunHere(), strict=True)
    assert again.run == result.run
    assert refuse_as_a_run_would(doubtful, folder, overwrite=False, strict=True)
    with pytest.raises(WarningsRefused, match=r"blurred.*nothing was run"):
        segment_planned(doubtful, run_directory(tmp_path / "2", "a"), RunHere(), strict=True)


def test_notes_about_regions_are_no_failures(tissue: Any, tmp_path: Path) -> None:
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [9, 9]}}
    ring = [[10, 10], [1500, 10], [1500, 1500], [10, 10]]
    area = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [point, area]}))
    result = wsiseg.segment(
        ArraySlide(tissue, mpp=0.25),
        tmp_path,
        model=MODEL,
        options=wsiseg.PlanOptions(roi=path),
        strict=True,
    )
    assert codes(result.warnings) == {"regions"}


def test_what_lies_beside_a_region_does_not_count(tissue: Any, tmp_path: Path) -> None:
    inked = tissue.copy()
    inked[:, 1450:1650] = (20, 40, 160)
    slide = ArraySlide(inked, mpp=0.25)
    ring = [[0, 0], [900, 0], [900, 2000], [0, 2000], [0, 0]]
    path = tmp_path / "r.geojson"
    shape = {"type": "Polygon", "coordinates": [ring]}
    path.write_text(json.dumps({"type": "Feature", "geometry": shape}))
    whole = wsiseg.segment(slide, tmp_path / "1", model=MODEL)
    assert "ink-over-tissue" in codes(whole.warnings)
    options = wsiseg.PlanOptions(roi=path)
    part = wsiseg.segment(slide, tmp_path / "2", model=MODEL, options=options, strict=True)
    assert part.warnings == ()


def test_a_picture_without_tissue_is_still_looked_at(tmp_path: Path) -> None:
    rgb = np.zeros((900, 1200, 3), np.uint8)
    rgb[::40, ::40] = (20, 60, 255)
    options = wsiseg.PlanOptions(tissue=wsiseg.TissueOptions())
    result = wsiseg.segment(ArraySlide(rgb, mpp=0.25), tmp_path, model=MODEL, options=options)
    assert {"not-h-and-e", "no-tissue"} <= codes(result.warnings)
    assert result.cells().num_rows == 0


def test_empty_glass_warns_of_nothing_but_that(tmp_path: Path) -> None:
    rgb = np.full((900, 1200, 3), 243, np.uint8)
    result = wsiseg.segment(ArraySlide(rgb, mpp=0.25), tmp_path, model=MODEL)
    assert codes(result.warnings) == {"no-tissue"}
