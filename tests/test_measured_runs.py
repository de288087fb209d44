"""A run's numbers are those of the slide's pixels under its masks, whatever its tiles are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from slow_features import slow_densities, slow_neighbours, slow_rings, slow_texture

import wsiseg
from wsiseg.errors import OutputExists
from wsiseg.exporters.parquet import CELLS_SCHEMA
from wsiseg.features import MEASURE_GROUPS, STAIN_COLUMNS, feature_columns
from wsiseg.models import Numerics
from wsiseg.plan import PlanOptions, RunPlan, plan_run
from wsiseg.regions import Region
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

MPP = 0.5
MODEL = LocalNetwork(mpp=MPP, core_px=256, margin_px=64)
AROUND_PX = 8
RGB = paint_tissue(620, 700, 1300, seed=11)
# The stand-in tells classes by red and blue.
RGB[:, 350:] = RGB[:, 350:, ::-1]
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "measurements.md"


def run(out: Path, **options: object) -> wsiseg.Result:
    settings = PlanOptions(tissue=None, **options)
    slide = ArraySlide(RGB, mpp=MPP)
    return wsiseg.segment(slide, out, model=MODEL, options=settings, formats=())


def features_of(result: wsiseg.Result) -> pa.Table:
    return pq.read_table(result.path / "features.parquet")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return run(tmp_path_factory.mktemp("whole"))


def columns(table: pa.Table, names: tuple[str, ...]) -> NDArray[np.float32]:
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def test_numbers_are_those_of_the_final_masks(whole: wsiseg.Result) -> None:
    labels = zarr.open_array(whole.path / "masks.zarr" / "labels" / "nuclei" / "0", mode="r")[:]
    # Beyond the slide's edge there is no ring; a frame of another nucleus' label says so.
    padded = np.pad(labels.astype(np.int64), AROUND_PX, constant_values=labels.max() + 1)
    rgb = np.pad(RGB, [(AROUND_PX,) * 2] * 2 + [(0, 0)], constant_values=255)
    slow = []
    for label, at in enumerate(ndimage.find_objects(padded, int(labels.max())), start=1):
        near = tuple(slice(max(0, s.start - AROUND_PX), s.stop + AROUND_PX) for s in at)
        # The nucleus is 1, others 2: only its own row is wanted.
        found = np.select([padded[near] == label, padded[near] > 0], [1, 2])
        everywhere = np.ones(found.shape, bool)
        slow.append(
            [
                *slow_densities(rgb[near], found)[0],
                *slow_rings(rgb[near], found, MPP, everywhere)[0],
                *slow_texture(rgb[near], np.where(found == 1, 1, 0))[0],
            ]
        )
    table = pq.read_table(whole.path / "cells.parquet")
    assert len(table) == len(slow) > 300
    assert whole.run["stitch"]["clipped"] == 0
    names = feature_columns(("ring", "texture"), ())
    found = [columns(table, STAIN_COLUMNS), columns(features_of(whole), names)]
    np.testing.assert_allclose(np.concatenate(found, axis=1), slow, rtol=1e-4, atol=2e-5)


def test_neighbours_are_those_of_the_table(whole: wsiseg.Result) -> None:
    table, features = pq.read_table(whole.path / "cells.parquet"), features_of(whole)
    nearest, n_near = slow_neighbours(table["x_um"].to_numpy(), table["y_um"].to_numpy())
    assert features["cell_id"].equals(table["cell_id"])
    found = features["nearest_cell_um"].to_numpy()
    np.testing.assert_array_equal(found, nearest.astype(np.float32))
    np.testing.assert_array_equal(features["cells_within_50um"].to_numpy(), n_near)


def test_the_result_reads_them_by_name(whole: wsiseg.Result) -> None:
    names = ["hematoxylin_od_mean", "nearest_cell_um", "texture_entropy"]
    read = whole.cells(columns=names)
    assert read.column_names == names
    features = features_of(whole)
    assert read.select(names[1:]).equals(features.select(names[1:]))


def test_probabilities_are_those_of_the_class(whole: wsiseg.Result) -> None:
    table = pq.read_table(whole.path / "cells.parquet")
    names = tuple(f"prob_{name}" for name in whole.class_names)
    found = columns(features_of(whole), names)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    of_class = [whole.class_names[k] for k in found.argmax(axis=1)]
    assert len(set(of_class)) == 2
    assert of_class == table["class_name"].to_pylist()
    np.testing.assert_array_equal(found.max(axis=1), table["class_prob"].to_numpy())


def by_uuid(result: wsiseg.Result) -> pa.Table:
    """Return stains and features of all nuclei, in an order that no grid decides."""
    cells = pq.read_table(result.path / "cells.parquet").select(["uuid", *STAIN_COLUMNS])
    features = features_of(result).drop_columns(["cell_id"])
    for name in features.column_names:
        cells = cells.append_column(name, features[name])
    return cells.sort_by("uuid")


def test_another_grid_of_tiles_gives_the_same_numbers(whole: wsiseg.Result, tmp_path: Path) -> None:
    moved = run(tmp_path, grid_offset_px=96)
    assert moved.run["tiles"]["run"] != whole.run["tiles"]["run"]
    assert by_uuid(moved).equals(by_uuid(whole))


def test_a_region_has_the_numbers_of_the_whole_but_neighbours_of_its_own(
    whole: wsiseg.Result, tmp_path: Path
) -> None:
    square = shapely.MultiPolygon([shapely.box(150, 130, 480, 450)])
    region = Region("square", None, None, "annotation", False, None, square)
    part, expected = by_uuid(run(tmp_path, roi=[region])), by_uuid(whole)
    kept = pa.compute.is_in(expected["uuid"], value_set=part["uuid"].combine_chunks())
    expected = expected.filter(kept)
    neighbours = feature_columns(("neighbours",), ())
    assert 50 < len(part) == len(expected) < whole.run["n_cells"] / 2
    assert part.drop_columns(list(neighbours)).equals(expected.drop_columns(list(neighbours)))
    fewer = columns(part, ("cells_within_50um",)) - columns(expected, ("cells_within_50um",))
    assert fewer.max() == 0
    assert fewer.min() < 0


def test_groups_can_be_left_out_and_are_another_run(whole: wsiseg.Result, tmp_path: Path) -> None:
    assert whole.run["options"]["measure"] == list(MEASURE_GROUPS)
    some = run(tmp_path, measure="texture")
    assert some.run["options"]["measure"] == ["texture"]
    texture = feature_columns(("texture",), ())
    assert features_of(some).column_names == ["cell_id", *texture]
    assert features_of(some).equals(features_of(whole).select(["cell_id", *texture]))
    with pytest.raises(OutputExists, match="measure"):
        run(tmp_path, measure="none")


def test_tile_files_are_shared_where_they_hold_the_same() -> None:
    def plan(measure: str) -> RunPlan:
        slide = ArraySlide(RGB, mpp=MPP)
        return plan_run(slide, MODEL, Numerics(), PlanOptions(tissue=None, measure=measure))

    none, near, ring = plan("none"), plan("neighbours"), plan("ring")
    assert none.run_key == near.run_key != ring.run_key
    assert none.identity != near.identity


def test_without_groups_there_are_stains_but_no_file(whole: wsiseg.Result, tmp_path: Path) -> None:
    none = run(tmp_path, measure="none")
    assert not (none.path / "features.parquet").exists()
    assert "features" not in (none.path / "README.txt").read_text()
    assert "features.parquet" in (whole.path / "README.txt").read_text()
    cells = pq.read_table(none.path / "cells.parquet")
    assert cells.equals(pq.read_table(whole.path / "cells.parquet"))


def test_no_nuclei_give_an_empty_table(tmp_path: Path) -> None:
    slide = ArraySlide(np.full((300, 300, 3), 240, np.uint8), mpp=MPP)
    options = PlanOptions(tissue=None)
    empty = wsiseg.segment(slide, tmp_path, model=MODEL, options=options, formats=())
    table = features_of(empty)
    assert table.num_rows == 0
    assert table.column_names[:2] == ["cell_id", "nearest_cell_um"]


def test_qupath_gets_the_stains(whole: wsiseg.Result, tmp_path: Path) -> None:
    whole.export("geojson", tmp_path / "cells.geojson")
    first = json.loads((tmp_path / "cells.geojson").read_text())["features"][0]
    said = first["properties"]["measurements"]
    table = pq.read_table(whole.path / "cells.parquet")
    for column in STAIN_COLUMNS:
        kind = column.rpartition("_")[2]
        stain = "Hematoxylin" if column.startswith("hema") else "Eosin"
        value = table[column][0].as_py()
        assert said[f"wsiseg: {stain} OD {kind}"] == pytest.approx(value, abs=1e-4)


def test_the_document_defines_every_column() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    names = [*CELLS_SCHEMA.names, *feature_columns(MEASURE_GROUPS, ("<Class>",)), "cell_id"]
    assert [name for name in names if f"`{name}`" not in text] == []
