"""`wsiseg.seamcheck`: nothing is found where nothing is, and planted faults are found."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from refused import MPP, error_of, run_command, stand_in

import wsiseg
from wsiseg import SeamCheckOptions, model_choice
from wsiseg._seam_sheet import label_edges
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
    WsisegError,
)
from wsiseg.geometry import Box, Frame
from wsiseg.models import ModelCard, Numerics
from wsiseg.plan import PlanOptions
from wsiseg.records import Maps
from wsiseg.regions import Region
from wsiseg.seam_check import _run as _seam_run
from wsiseg.seam_check._report import SeamCounts, Share
from wsiseg.seam_check._squares import choose_squares, in_boxes, ran_there, seam_distance_px
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide
from wsiseg.tiles import AreaMask, TileGrid, plan_tiles

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=96)
FEW = SeamCheckOptions(squares=3)


@dataclass(frozen=True, slots=True)
class Faulty:
    """The stand-in, with a fault that depends on where a tile begins."""

    fault: str
    core_px: int = 512
    margin_px: int = 96

    @property
    def card(self) -> ModelCard:
        card = replace(MODEL, core_px=self.core_px, margin_px=self.margin_px).card
        return replace(card, name=f"faulty-{self.fault}", network={"fault": self.fault})

    def predictor(self, numerics: Numerics) -> Any:
        exact = MODEL.predictor(numerics)

        def predict(rgb: NDArray[np.uint8]) -> Sequence[Maps]:
            return [self._spoilt(maps) for maps in exact(rgb)]

        return predict

    def _spoilt(self, maps: Maps) -> Maps:
        nucleus = maps.nucleus.copy()
        edge, end = self.margin_px, self.margin_px + self.core_px
        if self.fault == "blind":
            # The tile sees nothing beyond 24 px inside its core, so it leaves a gap at seams.
            seen = np.zeros_like(nucleus)
            seen[edge + 24 : end - 24, edge + 24 : end - 24] = 1
            nucleus *= seen
        elif self.fault == "cutting":
            # It cuts nuclei in two where cores meet.
            for line in (edge, end):
                nucleus[line - 1 : line + 1] = 0
                nucleus[:, line - 1 : line + 1] = 0
        elif self.fault == "shrinking":
            # Nuclei near the core's edge lose their left columns: found again, but changed.
            shifted = np.minimum(nucleus, np.roll(nucleus, 2, axis=1))
            inside = np.zeros(nucleus.shape, np.bool_)
            inside[:, edge + 20 : end - 20] = True
            nucleus = np.where(inside, nucleus, shifted)
        return replace(maps, nucleus=nucleus)


@pytest.fixture(scope="module")
def slide() -> ArraySlide:
    return ArraySlide(paint_tissue(1100, 1300, 1500, seed=1), mpp=0.5)


@pytest.fixture(scope="module")
def run(slide: ArraySlide, tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return wsiseg.segment(slide, tmp_path_factory.mktemp("run"), model=MODEL, formats=())


def test_exact_tiles_have_no_seams(slide: ArraySlide, run: wsiseg.Result) -> None:
    report = wsiseg.seamcheck(slide, model=MODEL, check=FEW)
    assert len(report.squares) == 3
    assert len(report.grids) == 2
    for counts in (report.near, report.elsewhere, report.total):
        assert counts.n == counts.matched == counts.matched_90 == counts.identical
        assert (counts.lost, counts.new, counts.doubled) == (0, 0, 0)
    assert report.near.n > 200
    assert report.differences == ()
    # So few nuclei tell nothing of one in a thousand.
    assert (report.matched_verdict, report.count_verdict) == ("not known", "not known")
    again = wsiseg.seamcheck(run, slide=slide, model=MODEL, check=FEW)
    assert again.grids == report.grids
    assert again.run == run.path.name
    assert again.squares == report.squares
    assert again.differences == ()


def test_the_nuclei_counted_are_those_of_the_run(slide: ArraySlide, run: wsiseg.Result) -> None:
    report = wsiseg.seamcheck(run, slide=slide, model=MODEL, check=replace(FEW, offsets_px=(96,)))
    boxes = [shapely.box(b.x_px, b.y_px, b.x_end_px, b.y_end_px) for b in report.squares]
    inside = run.cells(within=shapely.unary_union(boxes), columns=["x", "y"])
    assert report.total.n == len(inside)
    x, y = (inside[name].to_numpy() for name in ("x", "y"))
    near = np.zeros(len(inside), np.bool_)
    for position, size_px in ((x, 1300), (y, 1100)):
        for offset_px in (0, 96):
            for line in range(256 - offset_px, size_px, 256):
                near |= np.abs(position - line) < 64
    assert report.near.n == int(near.sum())
    assert 0 < report.near.n < report.total.n


def test_the_whole_slide_and_a_grid_of_its_own(slide: ArraySlide, run: wsiseg.Result) -> None:
    check = SeamCheckOptions(squares="all", offsets_px=(128,))
    report = wsiseg.seamcheck(run, slide=slide, model=MODEL, check=check)
    assert report.total.n == report.total.identical == run.run["n_cells"]
    moved = PlanOptions(grid_offset_px=64, tissue=None)
    again = wsiseg.seamcheck(slide, model=MODEL, options=moved, check=replace(check, squares=2))
    assert again.grid_offset_px == 64
    assert again.total.n == again.total.identical > 50


def test_a_gap_at_seams_is_found(slide: ArraySlide, tmp_path: Path) -> None:
    picture, written = tmp_path / "a.png", tmp_path / "a.json"
    check = SeamCheckOptions(squares=3, offsets_px=(256,))
    report = wsiseg.seamcheck(
        slide, model=Faulty("blind"), check=check, picture=picture, json=written
    )
    near = report.near
    assert near.lost > 50
    assert near.new > 50
    assert near.matched == near.n - near.lost
    assert report.elsewhere.identical == report.elsewhere.n > 0
    assert report.elsewhere.new == 0
    assert report.matched_verdict == "missed"
    assert report.has_missed
    kinds = {one.kind for one in report.differences if one.near}
    assert {"lost", "new"} <= kinds
    assert all(one.near for one in report.differences)
    lost = [one for one in report.differences if one.kind == "lost"]
    # Where the moved grid sees nothing; the others are what the checked grid left of a nucleus.
    assert sum(one.moved_seam_px < 24 + 12 for one in lost) > len(lost) / 2
    said = json.loads(written.read_text())
    assert said["near"]["lost"] == near.lost
    assert said["aims"]["matched"]["verdict"] == "missed"
    assert len(said["differences"]) == len(report.differences) > 20
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn)
    for colour in ((0, 205, 255), (225, 60, 0)):
        assert (pixels == colour).all(axis=2).sum() > 500


def test_nuclei_cut_in_two_are_found(slide: ArraySlide) -> None:
    check = SeamCheckOptions(squares=3, offsets_px=(256,))
    report = wsiseg.seamcheck(slide, model=Faulty("cutting"), check=check)
    assert report.near.split > 5
    assert report.near.merged > 5
    assert report.near.doubled == report.near.split + report.near.merged
    assert report.elsewhere.doubled == 0
    assert "doubled" in {one.kind for one in report.differences}


def test_changed_outlines_are_found(slide: ArraySlide) -> None:
    check = SeamCheckOptions(squares=3, offsets_px=(256,))
    report = wsiseg.seamcheck(slide, model=Faulty("shrinking"), check=check)
    assert report.near.identical < report.near.matched_90 <= report.near.matched
    assert report.near.matched - report.near.matched_90 > 10
    assert report.elsewhere.identical == report.elsewhere.n > 0


def test_lost_is_lost_in_the_count(slide: ArraySlide, run: wsiseg.Result) -> None:
    # The run is whole; the model under its name now sees nothing near seams.
    class Same(Faulty):
        @property
        def card(self) -> ModelCard:
            return MODEL.card

    report = wsiseg.seamcheck(run, slide=slide, model=Same("blind", core_px=256), check=FEW)
    assert report.near.lost > 50
    # What is left of a nucleus at the edge of what is seen may be too small to be the same.
    assert report.near.new < report.near.lost / 2
    assert report.near.count_difference == (report.near.new - report.near.lost) / report.near.n
    assert report.count_verdict == "missed"


def test_regions_of_a_run_bound_what_is_counted(slide: ArraySlide, tmp_path: Path) -> None:
    shape = shapely.MultiPolygon([shapely.box(150, 100, 700, 600)])
    region = Region("one", None, None, "annotation", False, None, shape)
    options = PlanOptions(roi=[region])
    run = wsiseg.segment(slide, tmp_path, model=MODEL, options=options, formats=())
    everything = SeamCheckOptions(squares="all", offsets_px=(64,))
    report = wsiseg.seamcheck(run, slide=slide, model=MODEL, check=everything)
    assert report.total.identical == report.total.n
    assert (report.total.new, report.n_not_compared) == (0, 0)
    inner = run.cells(within=shape.buffer(-64))
    assert report.total.n == len(inner) > 100
    sample = SeamCheckOptions(squares=1, offsets_px=(96,))
    of_slide = wsiseg.seamcheck(slide, model=MODEL, options=options, check=sample)
    assert of_slide.total.identical == of_slide.total.n > 20


def test_tissue_that_was_given_is_used_again(slide: ArraySlide, tmp_path: Path) -> None:
    feature = {
        "type": "Feature",
        "geometry": shapely.geometry.mapping(shapely.box(0, 0, 500, 500)),
        "properties": {"objectType": "annotation"},
    }
    path = tmp_path / "t.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    run = wsiseg.segment(slide, tmp_path, model=MODEL, options=PlanOptions(tissue=path), formats=())
    report = wsiseg.seamcheck(
        run, slide=slide, model=MODEL, check=SeamCheckOptions(squares="all", offsets_px=(64,))
    )
    assert report.total.identical == report.total.n > 200
    # The moved grid's last tiles end at 704 px, the run's at 512; spares reach on.
    assert report.n_not_compared > 50
    assert {one.kind for one in report.differences} == {"no tile"}
    assert all(512 <= max(one.x, one.y) <= 704 + 16 for one in report.differences)
    assert max(box.x_end_px for box in report.squares) == 1300


def test_nothing_is_left_behind(
    slide: ArraySlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[list[Path]] = []
    told: list[tuple[str, int, int]] = []

    def tell(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        seen.append(list(tmp_path.iterdir()))

    plans: list[Any] = []
    check = replace(FEW, squares=1)
    wsiseg.seamcheck(slide, model=MODEL, check=check, progress=tell, planned=plans.append)
    assert max(len(each) for each in seen) == 1
    assert list(tmp_path.iterdir()) == []
    assert len({stage for stage, _, _ in told}) == 3
    assert all(done <= total for _, done, total in told)
    (plan,) = plans
    assert 0 < plan.analysed_mm2 <= 0.128**2 + 1e-9
    assert len(plan.tiles) < 25


REFUSED: list[tuple[dict[str, Any], type[WsisegError], str]] = [
    ({}, UsageError, r"array\.png\.wsiseg does not say where its slide lies.*--slide"),
    ({"slide": "other"}, UsageError, r"array\.png is not the slide of .* fingerprints differ"),
    ({"scale": 0.5}, UsageError, "are the run's own"),
    ({"options": PlanOptions(tissue=None)}, UsageError, "are the run's own"),
    ({"compute": wsiseg.ComputeOptions("cpu")}, UsageError, "device.*leave them out"),
    ({"model": "auto"}, UsageError, "local-stand-in, which is not shipped; name its folder"),
    ({"model": "nothing"}, UnknownName, "'nothing' is neither a shipped model"),
    ({"model": replace(MODEL, darkness=80)}, UsageError, r"sha256 .* has .*--model"),
]


@pytest.mark.parametrize(("given", "error", "said"), REFUSED)
def test_what_does_not_suit_a_run_is_refused(
    given: dict[str, Any], error: type[WsisegError], said: str, slide: Any, run: wsiseg.Result
) -> None:
    given = {"model": MODEL} | ({"slide": slide} if given else {}) | given
    if given.get("slide") == "other":
        given["slide"] = ArraySlide(paint_tissue(300, 300, 1500, seed=2), mpp=0.5)
    with pytest.raises(error, match=said):
        wsiseg.seamcheck(run.path, **given)


def altered(run: wsiseg.Result, folder: Path, **changes: Any) -> Path:
    """Return a copy of a run whose `run.json` says something else."""
    folder.mkdir()
    (folder / "cells.parquet").write_bytes((run.path / "cells.parquet").read_bytes())
    (folder / "run.json").write_text(json.dumps({**run.run, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"status": "running"}, ResultNotReadable, "not finished"),
        ({"result_version": 1}, ResultNotReadable, "result version 1, this wsiseg makes"),
        ({"numerics": {}}, ResultNotReadable, "damaged: it lacks 'device_kind'"),
        ({"identity": {"tissue": "none", "mpp": 1}}, UsageError, "cannot be run again as it was"),
    ],
)
def test_a_run_that_cannot_be_repeated_is_refused(
    changes: dict[str, Any],
    error: type[WsisegError],
    said: str,
    slide: ArraySlide,
    run: wsiseg.Result,
    tmp_path: Path,
) -> None:
    folder = altered(run, tmp_path / "a.wsiseg", **changes)
    with pytest.raises(error, match=said):
        wsiseg.seamcheck(folder, slide=slide, model=MODEL)


def test_a_slide_without_tissue_is_refused() -> None:
    glass = ArraySlide(np.full((500, 600, 3), 245, np.uint8), mpp=0.5)
    with pytest.raises(UsageError, match=r"no tissue was found in it.*--tissue none"):
        wsiseg.seamcheck(glass, model=MODEL)
    report = wsiseg.seamcheck(
        glass, model=MODEL, options=PlanOptions(tissue=None), check=replace(FEW, squares=1)
    )
    assert report.total.n == 0
    assert (report.matched_verdict, report.count_verdict) == ("not known", "not known")
    assert report.to_json()["near"]["shares"]["matched"]["share"] is None


def test_files_in_the_way_are_refused_before_anything_runs(
    slide: ArraySlide, tmp_path: Path
) -> None:
    there = tmp_path / "there.json"
    there.write_text("mine")

    def tell(*step: object) -> None:
        raise AssertionError("a tile ran")

    for given in ({"json": there}, {"picture": there}):
        with pytest.raises(OutputExists, match=r"there\.json exists"):
            wsiseg.seamcheck(slide, model=MODEL, progress=tell, **given)  # type: ignore[arg-type]
    with pytest.raises(OutputNotWritable, match="is not a folder"):
        wsiseg.seamcheck(slide, model=MODEL, progress=tell, json=tmp_path / "no" / "a.json")
    assert there.read_text() == "mine"


@pytest.mark.parametrize(
    "wrong",
    [
        {"squares": 0},
        {"squares": "some"},
        {"side_px": 100},
        {"grids": 0},
        {"near_px": 0},
        {"seed": -1},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needed"):
        SeamCheckOptions(**wrong)


@pytest.mark.parametrize("offsets_px", [(0,), (48,), (256,), ()])
def test_offsets_that_are_none_are_refused(offsets_px: tuple[int, ...], slide: ArraySlide) -> None:
    with pytest.raises(UsageError, match="multiples of 32 from 0 to below 256"):
        wsiseg.seamcheck(slide, model=MODEL, check=SeamCheckOptions(offsets_px=offsets_px))


def test_more_grids_than_there_are_and_a_slide_of_no_run(slide: ArraySlide) -> None:
    with pytest.raises(UsageError, match="7 at most"):
        wsiseg.seamcheck(slide, model=MODEL, check=SeamCheckOptions(grids=8))
    with pytest.raises(UsageError, match="no run was given"):
        wsiseg.seamcheck(slide, slide=slide, model=MODEL)


def test_squares_lie_in_tissue_and_half_of_them_on_seams() -> None:
    frame = Frame(1.0, 6000, 5000)
    coarse = frame.coarser(16)
    inside = np.zeros((coarse.height_px, coarse.width_px), np.bool_)
    inside[40:250, 60:300] = True
    area = AreaMask(coarse, 16, inside)
    grid = TileGrid(frame, 512, 96)
    tiles = [tile for tile, _ in plan_tiles(grid, area)]
    chosen = choose_squares(area, frame, tiles, 8, 512, seed=3)
    assert chosen == choose_squares(area, frame, tiles, 8, 512, seed=3)
    assert chosen != choose_squares(area, frame, tiles, 8, 512, seed=4)
    assert len(chosen) == 8
    for i, box in enumerate(chosen):
        assert box.intersection(frame.box) == box == Box(box.x_px, box.y_px, 512, 512)
        assert not any(box.intersection(other).area_px for other in chosen[:i])
        rows, cols = box.slices_in(frame.box)
        part = inside[
            rows.start // 16 : -(-rows.stop // 16), cols.start // 16 : -(-cols.stop // 16)
        ]
        assert part.mean() > 0.25
    middle = [((box.x_px + 256) % 512, (box.y_px + 256) % 512) for box in chosen]
    assert all(0 in place for place in middle[:4])
    many = choose_squares(area, frame, tiles, 100, 512, seed=3)
    assert 8 < len(many) < 60
    tiny = Frame(1.0, 300, 200)
    whole = AreaMask(tiny.coarser(16), 16, np.ones((13, 19), np.bool_))
    assert choose_squares(whole, tiny, [], 8, 512, seed=0) == (Box(0, 0, 300, 200),)


def test_distances_and_places_are_those_of_the_grid() -> None:
    rng = np.random.default_rng(0)
    frame = Frame(1.0, 1500, 900)
    for offset_px in (0, 32, 480):
        grid = TileGrid(frame, 512, 96, offset_px)
        x, y = rng.uniform(0, 1500, 200), rng.uniform(0, 900, 200)
        tiles = [grid.tile(row, col) for row in range(grid.n_rows) for col in range(grid.n_cols)]
        lines_x = {t.core.x_px for t in tiles if 0 < t.core.x_px < 1500}
        lines_y = {t.core.y_px for t in tiles if 0 < t.core.y_px < 900}
        slow = [
            min([*(abs(a - line) for line in lines_x), *(abs(b - line) for line in lines_y)])
            for a, b in zip(x, y, strict=True)
        ]
        assert np.allclose(seam_distance_px(grid, x, y), slow, rtol=0, atol=1e-12)
        ran = tiles[::2]
        expected = in_boxes([tile.core for tile in ran], x, y)
        assert np.array_equal(ran_there(grid, ran, x, y), expected)
        assert 0 < expected.sum() < 200
    alone = TileGrid(Frame(1.0, 100, 100), 512, 96)
    assert np.isinf(seam_distance_px(alone, np.array([3.0]), np.array([5.0]))).all()


def test_intervals() -> None:
    # Wilson 1927, as tabulated for 9 of 10 and for none of 20.
    assert Share(9, 10).interval == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert Share(0, 20).interval == pytest.approx((0, 0.1611), abs=1e-4)
    assert Share(0, 0).interval == (0.0, 1.0)
    assert Share(7, 7).interval[1] == 1.0
    counts = SeamCounts(n=1000, matched=990, new=4)
    low, high = counts.count_interval
    assert counts.count_difference == pytest.approx(-0.006)
    assert low < -0.006 < high
    swapped = SeamCounts(n=1000, matched=996, new=10)
    assert swapped.count_interval == pytest.approx((-high, -low))


def test_verdicts_follow_the_intervals(slide: ArraySlide) -> None:
    report = wsiseg.seamcheck(slide, model=MODEL, check=replace(FEW, squares=1, grids=1))

    def judged(**counts: int) -> tuple[str, str, bool]:
        grid = replace(report.grids[0], near=SeamCounts(**counts))
        one = replace(report, grids=(grid,))
        return one.matched_verdict, one.count_verdict, one.has_missed

    assert judged(n=5000, matched=5000) == ("met", "met", False)
    assert judged(n=3000, matched=3000) == ("not known", "not known", False)
    assert judged(n=5000, matched=4950, new=50) == ("missed", "not known", True)
    assert judged(n=5000, matched=5000, new=50) == ("met", "missed", True)
    assert judged(n=100_000, matched=99_960, new=40) == ("met", "met", False)


def test_edges_of_labels() -> None:
    labels = np.array([[1, 1, 0, 0], [1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 2, 2]], np.int32)
    edge = np.array([[0, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 0]], np.bool_)
    assert np.array_equal(label_edges(labels), edge)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a slide; the shipped model's name stands for the stand-in."""
    Image.fromarray(paint_tissue(600, 700, 1500, seed=3)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_choice, "load_model", stand_in)
    return tmp_path


def test_the_command(folder: Path) -> None:
    done = run_command(
        "seamcheck", "a.png", *MPP, "-n", 2, "--json", "a.json", "--picture", "p.png"
    )
    assert done.exit_code == 0, done.stderr
    assert "near seams" in done.stdout
    assert "100.000 %" in done.stdout
    assert "not known: too few nuclei" in done.stdout
    said = json.loads((folder / "a.json").read_text())
    assert said["total"]["n"] > 100
    with Image.open(folder / "p.png") as picture:
        assert picture.size[0] >= 640
    again = run_command("seamcheck", "a.png", *MPP, "--json", "a.json")
    assert again.exit_code == 2
    assert "a.json exists" in error_of(again)


def test_the_command_leaves_3_where_an_aim_is_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = stand_in().card
    faulty = Faulty("blind", card.core_px, card.margin_px)
    monkeypatch.setattr(model_choice, "load_model", lambda _: faulty)
    done = run_command("seamcheck", "a.png", "--mpp", 0.5, "-n", 2, "--quiet")
    assert done.exit_code == 3
    assert "missed" in done.stdout


def test_the_command_on_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command("segment", "a.png", *MPP, "-o", "out", "--quiet").exit_code == 0
    monkeypatch.setattr(_seam_run, "load_model", lambda _: stand_in())
    checked = run_command("seamcheck", "out/a.png.wsiseg", "--slide", "a.png", "-n", 1, "--quiet")
    assert checked.exit_code == 0, checked.stderr
    assert "100.000 %" in checked.stdout


def test_the_command_refuses(folder: Path) -> None:
    assert run_command("segment", "a.png", *MPP, "-o", "out", "--quiet").exit_code == 0
    for arguments, said in (
        (["out/a.png.wsiseg"], "name a.png with --slide"),
        (["a.png", "--slide", "a.png", *MPP], "no run was given"),
        (["a.png", *MPP, "-n", "0"], "squares is 0"),
        (["a.png"], "--mpp"),
    ):
        done = run_command("seamcheck", *arguments)
        assert done.exit_code == 2
        assert said in error_of(done)
