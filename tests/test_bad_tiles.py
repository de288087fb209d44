"""Tiles that cannot be read: the slide fails, or they are left out and said to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image

import wsiseg
from wsiseg import api
from wsiseg.cluster.tasks import packed_job, run_batch
from wsiseg.errors import OutputExists, TileNotReadable, WarningsRefused
from wsiseg.geometry import Box
from wsiseg.pipeline import tile_job
from wsiseg.plan import PlanOptions
from wsiseg.predict import skip_tile
from wsiseg.rundir import RunDir
from wsiseg.slides import open_slide
from wsiseg.slides.damaged import WhiteWhereDamaged
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue

MODEL = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)
SIDE_PX, FILE_TILE_PX = 1024, 128
HOLE = Box(512, 512, 512, 512)
"""The block that holds the damaged tile of the file; blocks are read whole."""
SKIP = PlanOptions(skip_bad_tiles=True)


def write_slide(path: Path, damaged: bool) -> NDArray[np.uint8]:
    rgb = paint_tissue(SIDE_PX, SIDE_PX, 900, seed=4)
    tifffile.imwrite(
        path,
        rgb,
        tile=(FILE_TILE_PX, FILE_TILE_PX),
        photometric="rgb",
        compression="jpeg",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        across = SIDE_PX // FILE_TILE_PX
        index = 6 * across + 6
        start, length = page.dataoffsets[index], page.databytecounts[index]
    if damaged:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(b"\0" * length)
    return rgb


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "whole.tif", damaged=False)
    write_slide(folder / "damaged.tif", damaged=True)
    return {name: folder / f"{name}.tif" for name in ("whole", "damaged")}


def bad_cores() -> list[Box]:
    """Return the cores whose outer box meets the hole: the rule, in its plainest form."""
    cores = [Box(x, y, 256, 256) for y in range(0, SIDE_PX, 256) for x in range(0, SIDE_PX, 256)]
    return [core for core in cores if core.grown(64).intersection(HOLE).area_px]


def test_without_being_asked_nothing_is_left_out(slides: dict[str, Path], tmp_path: Path) -> None:
    options = PlanOptions(tissue=None)
    with pytest.raises(TileNotReadable, match="x 512 to 1024"):
        wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=options)


def test_bad_tiles_are_left_out_and_listed(slides: dict[str, Path], tmp_path: Path) -> None:
    options = PlanOptions(tissue=None, skip_bad_tiles=True)
    with pytest.raises(TileNotReadable):
        wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=PlanOptions(tissue=None))
    # The failed run goes on with the option: it is no other run.
    result = wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=options)
    whole = wsiseg.segment(slides["whole"], tmp_path, model=MODEL, options=PlanOptions(tissue=None))
    # Its gaps are not taken for results by a call that knows nothing of them.
    with pytest.raises(OutputExists, match=r"--skip-bad-tiles, without \d+ tiles"):
        wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=PlanOptions(tissue=None))
    bad = bad_cores()
    listed = result.run["tiles"]["unreadable"]
    assert sorted(tuple(one["box"]) for one in listed) == sorted(
        (b.x_px, b.y_px, b.width_px, b.height_px) for b in bad
    )
    assert all("damaged.tif: level 0 cannot be decoded" in one["reason"] for one in listed)
    assert str(tmp_path) not in json.dumps(listed)
    lost_mm2 = sum(b.area_px for b in bad) * 0.25e-6
    assert result.analysed_mm2 == pytest.approx(whole.analysed_mm2 - lost_mm2, rel=1e-9)
    total = result.summary()["total"]
    assert total["per_mm2"] == pytest.approx(total["n"] / result.analysed_mm2)
    codes = {warning["code"]: warning["message"] for warning in result.warnings}
    assert f"{len(bad)} of 16 tiles were left out" in codes["unreadable-tiles"]

    tiles = pq.read_table(result.path / "tiles.parquet").to_pylist()
    flagged = [(row["x"], row["y"]) for row in tiles if row["flags"] == ["unreadable"]]
    assert sorted(flagged) == sorted((b.x_px, b.y_px) for b in bad)
    assert all(row["focus"] is None for row in tiles if row["flags"] == ["unreadable"])
    for name in ("overlay.png", "thumbnail.png"):
        with Image.open(result.path / name) as picture:
            picture.load()

    def far_from_bad(run: wsiseg.Result) -> list[bytes]:
        near = shapely.union_all(
            [shapely.box(b.x_px, b.y_px, b.x_end_px, b.y_end_px).buffer(64) for b in bad]
        )
        cells = run.cells()
        x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
        kept = ~shapely.contains_xy(near, x, y)
        return sorted(np.array(cells["geometry"].to_pylist(), object)[kept].tolist())

    assert far_from_bad(result) == far_from_bad(whole)
    assert len(far_from_bad(result)) > 100


def test_what_cannot_be_looked_at_may_be_tissue(slides: dict[str, Path], tmp_path: Path) -> None:
    """Without coarse levels even finding tissue meets the damage."""
    result = wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=SKIP)
    assert {tuple(one["box"][:2]) for one in result.run["tiles"]["unreadable"]} == {
        (b.x_px, b.y_px) for b in bad_cores()
    }


def test_a_region_loses_its_share(slides: dict[str, Path], tmp_path: Path) -> None:
    polygon = shapely.box(100, 100, 700, 900)
    roi = tmp_path / "roi.geojson"
    feature = {"type": "Feature", "geometry": shapely.geometry.mapping(polygon), "properties": {}}
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    options = PlanOptions(tissue=None, roi=roi, skip_bad_tiles=True)
    result = wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=options)
    bad = shapely.union_all(
        [shapely.box(b.x_px, b.y_px, b.x_end_px, b.y_end_px) for b in bad_cores()]
    )
    expected = polygon.difference(bad).area * 0.25e-6
    assert result.analysed_mm2 == pytest.approx(expected, rel=1e-9)
    assert result.run["regions"][0]["analysed_mm2"] == pytest.approx(expected, rel=1e-9)


def test_nothing_readable_is_not_zero_density(slides: dict[str, Path], tmp_path: Path) -> None:
    polygon = shapely.box(600, 600, 700, 700)
    roi = tmp_path / "roi.geojson"
    feature = {"type": "Feature", "geometry": shapely.geometry.mapping(polygon), "properties": {}}
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    options = PlanOptions(tissue=None, roi=roi, skip_bad_tiles=True)
    result = wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=options)
    assert result.analysed_mm2 == 0
    assert result.run["no_density_reason"] == "no tile could be read"


def test_strict_does_not_accept_it(slides: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WarningsRefused, match="left out"):
        wsiseg.segment(slides["damaged"], tmp_path, model=MODEL, options=SKIP, strict=True)


def test_a_tile_that_was_left_out_is_tried_again(slides: dict[str, Path], tmp_path: Path) -> None:
    """A disk may have been to blame: until a run is done, nothing is settled."""
    slide = tmp_path / "a.tif"
    slide.write_bytes(slides["damaged"].read_bytes())
    out = tmp_path / "out"

    def stop_late(stage: str, done: int, total: int) -> None:
        if stage == "exports":
            raise KeyboardInterrupt

    with pytest.raises(wsiseg.errors.Interrupted):
        wsiseg.segment(slide, out, model=MODEL, options=SKIP, progress=stop_late)
    with pytest.raises(TileNotReadable):
        wsiseg.segment(slide, out, model=MODEL, options=PlanOptions())


def test_a_worker_tries_again_what_was_left_out(slides: dict[str, Path], tmp_path: Path) -> None:
    with api.plan_slide(slides["whole"], MODEL, None, PlanOptions(tissue=None)) as plan:
        folder = RunDir(tmp_path)
        folder.work.mkdir()
        job = tile_job(plan, folder)
        tile, _ = plan.tiles[0]
        assert skip_tile(job, tile, "the disk was away")["unreadable"] == "the disk was away"
        first, again = (run_batch(packed_job(job), [tile])[0] for _ in range(2))
    assert "unreadable" not in first
    assert first["n_own"] > 0
    # What is finished is not done again: only a run of its own tells the process.
    assert "process" in first
    assert "process" not in again


def test_only_what_is_damaged_is_white(slides: dict[str, Path]) -> None:
    with open_slide(slides["damaged"]) as slide, open_slide(slides["whole"]) as whole:
        seen = WhiteWhereDamaged(slide)
        box = Box(-40, 100, 1200, 900)
        expected = whole.read_level(0, box)
        expected[HOLE.intersection(box).slices_in(box)] = 255
        assert _only_more_white(seen.read_level(0, box), expected)
        assert all(part.intersection(HOLE).area_px for _, part in seen.damaged)


def _only_more_white(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    """Return whether they differ only where less than a least box from the hole is white."""
    differs = (found != expected).any(-1)
    return bool((found[differs] == 255).all()) and int(differs.sum()) < 4 * 512 * 256
