"""A finished run is recognised without opening its slide, and only if it is the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsiseg
from wsiseg import api
from wsiseg.errors import OutputExists
from wsiseg.finished import slide_info
from wsiseg.plan import PlanOptions, identity_unseen, plan_run
from wsiseg.slides.stamp import stamp_of
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(paint_tissue(300, 300, 60, seed=1)).save(path)
    return path


def refuse_to_open(path: Path, reader: str | None = None) -> None:
    raise AssertionError(f"{path} was opened")


def test_a_finished_slide_is_not_opened(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = wsiseg.segment(slide, out, model=MODEL, scale=0.5, formats=())
    with monkeypatch.context() as patched:
        patched.setattr(api, "open_slide", refuse_to_open)
        again = wsiseg.segment(slide, out, model=MODEL, scale=0.5)
        assert again.run == first.run
        # An export that was not asked for before needs no slide either.
        assert (out / "a.png.wsiseg/cells.geojson.gz").is_file()
        with pytest.raises(AssertionError):
            wsiseg.segment(slide, out, model=MODEL, scale=0.5, overwrite=True)


@pytest.mark.parametrize("change", ["time", "size", "content", "options", "scale"])
def test_whatever_may_be_another_run_is_looked_at(
    change: str, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options, scale = tmp_path / "out", PlanOptions(), 0.5
    wsiseg.segment(slide, out, model=MODEL, scale=scale, formats=())
    before = slide.stat()
    if change == "time":
        os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "size":
        slide.write_bytes(slide.read_bytes() + b"\0")
        os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "content":
        Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(slide)
    elif change == "options":
        options = PlanOptions(tissue=None)
    else:
        scale = 0.55
    with monkeypatch.context() as patched:
        patched.setattr(api, "open_slide", refuse_to_open)
        with pytest.raises(AssertionError):
            wsiseg.segment(slide, out, model=MODEL, scale=scale, options=options, formats=())
    if change == "time":
        wsiseg.segment(slide, out, model=MODEL, scale=scale, options=options, formats=())
    else:
        with pytest.raises(OutputExists):
            wsiseg.segment(slide, out, model=MODEL, scale=scale, options=options, formats=())


def test_another_file_of_the_same_name_size_and_time_is_another(
    slide: Path, tmp_path: Path
) -> None:
    """As of two patients, unpacked without times, in files without compression."""
    paths = [tmp_path / f"p{k}" / "a.tif" for k in (1, 2)]
    for k, path in enumerate(paths):
        path.parent.mkdir()
        Image.fromarray(paint_tissue(200, 200, 60, seed=k)).save(path)
        os.utime(path, (0, 0))
    assert paths[0].stat().st_size == paths[1].stat().st_size
    wsiseg.segment(paths[0], tmp_path / "out", model=MODEL, scale=0.5, formats=())
    with pytest.raises(OutputExists):
        wsiseg.segment(paths[1], tmp_path / "out", model=MODEL, scale=0.5, formats=())


@pytest.mark.parametrize("tissue", ["auto", None])
def test_the_identity_is_that_of_the_plan(tissue: str | None, slide: Path, tmp_path: Path) -> None:
    options = PlanOptions(tissue=tissue)
    with api.plan_slide(slide, MODEL, 0.5, options) as plan:
        unseen = identity_unseen(plan.slide.info, MODEL.card, plan.numerics, plan.options)
        assert unseen == plan.identity
        replanned = plan_run(plan.slide, MODEL, plan.numerics, plan.options)
        assert replanned.identity == unseen
    result = wsiseg.segment(slide, tmp_path, model=MODEL, scale=0.5, options=options, formats=())
    assert slide_info(result.run["slide"]) == plan.slide.info


def test_slides_of_several_files_have_no_stamp(tmp_path: Path) -> None:
    for name in ("a.mrxs", "b.dcm"):
        (tmp_path / name).write_bytes(b"x")
        assert stamp_of(tmp_path / name) is None
    assert stamp_of(tmp_path) is None
    assert stamp_of(tmp_path / "none.svs") is None


@pytest.mark.parametrize("made", ["reviews/first/sample.json", "classes/mine.json"])
def test_overwrite_does_not_delete_what_people_made(made: str, slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = wsiseg.segment(slide, out, model=MODEL, scale=0.5, formats=())
    work = first.path / made
    work.parent.mkdir(parents=True)
    work.write_text("{}")
    name = "reviews/first" if "reviews" in made else "classes/mine.json"
    with pytest.raises(OutputExists, match=f"would delete what people made .*{name}; move it"):
        wsiseg.segment(slide, out, model=MODEL, scale=0.5, formats=(), overwrite=True)
    assert work.is_file()
    assert wsiseg.segment(slide, out, model=MODEL, scale=0.5, formats=()).run == first.run
    work.unlink()
    work.parent.rmdir()
    wsiseg.segment(slide, out, model=MODEL, scale=0.5, formats=(), overwrite=True)
    assert not work.exists()
