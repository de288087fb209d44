"""anndata and spatialdata read back what is exported; run by `make test-spatialdata`.

Both need pandas 2, the other tests pandas 3, so they have an environment of their own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
import zarr
from export_runs import MODEL_MPP, SCALE, empty_run, export_run
from run_dirs import write_run

import wsiseg
from wsiseg.errors import OutputExists, UsageError
from wsiseg.exporters._choice import CellChoice, chosen_batches
from wsiseg.exporters._columns import MEASURED_COLUMNS

anndata = pytest.importorskip("anndata", reason="needs `make test-spatialdata`: pandas < 3")
spatialdata = pytest.importorskip("spatialdata", reason="needs `make test-spatialdata`")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return export_run(tmp_path_factory.mktemp("run") / "a b.svs.wsiseg")


@pytest.mark.parametrize("unit", ["um", "px"])
def test_anndata_holds_the_measurements_classes_and_places(
    result: wsiseg.Result, unit: str, tmp_path: Path
) -> None:
    result.export("anndata", tmp_path / "a.h5ad", **options("anndata", unit=unit))
    found = anndata.read_h5ad(tmp_path / "a.h5ad")
    cells = result.cells()
    assert list(found.obs_names) == cells["uuid"].to_pylist()
    names = [*MEASURED_COLUMNS, "nearest_cell_um", "prob_Spindle"]
    assert list(found.var_names) == names
    assert found.X.dtype == np.float32
    measured = result.cells(columns=names)
    expected = np.column_stack([measured[name].to_numpy() for name in names])
    np.testing.assert_array_equal(found.X, expected.astype(np.float32))
    assert np.isnan(found.X).any()
    columns = {"um": ("x_um", "y_um"), "px": ("x", "y")}[unit]
    for k, column in enumerate(columns):
        assert found.obsm["spatial"][:, k].tolist() == cells[column].to_pylist()
    for name in ("cell_id", "class_name", "class_prob", "nucleus_prob", "region", "cut"):
        values = found.obs[name].astype(object)
        assert values.where(values.notna(), None).tolist() == cells[name].to_pylist(), name
    ids = [
        None if each is None else ";".join(map(str, each))
        for each in cells["region_ids"].to_pylist()
    ]
    values = found.obs["region_ids"].astype(object)
    assert values.where(values.notna(), None).tolist() == ids
    assert "1;2" in ids
    assert tuple(found.obs["class_name"].cat.categories) == result.class_names
    facts = found.uns["wsiseg"]
    assert (facts["model"], facts["mpp"], facts["spatial_unit"]) == ("test-model", result.mpp, unit)
    red, green, blue = result.class_colours["Spindle"]
    assert found.uns["class_name_colors"][2] == f"#{red:02x}{green:02x}{blue:02x}"


def options(format: str, **choices) -> dict:  # noqa: A002
    """Return what `Result.export` passes on."""
    from wsiseg.exporting import _options, find_exporter

    return _options(find_exporter(format), format, choices)


def test_classes_without_nuclei_and_runs_without_nuclei_are_kept(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    result.export("anndata", tmp_path / "few", **options("anndata", classes=("Spindle",)))
    few = anndata.read_h5ad(tmp_path / "few")
    assert few.n_obs == result.cells(classes=["Spindle"]).num_rows
    assert tuple(few.obs["class_name"].cat.categories) == result.class_names
    empty_run(tmp_path / "b.wsiseg").export("anndata", tmp_path / "none.h5ad")
    none = anndata.read_h5ad(tmp_path / "none.h5ad")
    assert none.shape == (0, len(MEASURED_COLUMNS))
    assert none.obsm["spatial"].shape == (0, 2)


def test_an_old_run_is_exported_with_the_regions_it_knows(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    table = result.cells().drop_columns(["region_ids", "region_class"])
    for name, rows in [("full", table), ("none", table.slice(0, 0))]:
        record = dict(result.run) | {"n_cells": rows.num_rows}
        run = wsiseg.open_result(write_run(tmp_path / f"{name}.wsiseg", rows, **record))
        run.export("anndata", tmp_path / name)
        found = anndata.read_h5ad(tmp_path / name)
        assert found.n_obs == rows.num_rows
        values = found.obs["region"].astype(object)
        assert values.where(values.notna(), None).tolist() == rows["region"].to_pylist()
        assert not {"region_ids", "region_class"} & {*found.obs}


def test_spatialdata_holds_polygons_table_and_transformations(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    result.export("spatialdata", tmp_path / "a.zarr")
    found = spatialdata.read_zarr(tmp_path / "a.zarr")
    cells = result.cells()
    shapes = found["nuclei"]
    assert list(shapes.index) == cells["cell_id"].to_pylist()
    polygons = shapely.from_wkb(cells["geometry"].to_pylist())
    assert shapely.equals(shapes.geometry.to_numpy(), polygons).all()
    table = found["nuclei_table"]
    assert table.obs["cell_id"].tolist() == cells["cell_id"].to_pylist()
    assert set(table.obs["element"]) == {"nuclei"}
    wanted = cells["region"].to_pylist()
    regions = table.obs["region_of_interest"].astype(object)
    assert regions.where(regions.notna(), None).tolist() == wanted
    np.testing.assert_array_equal(table.X[:, 0], cells["area_um2"].to_numpy().astype(np.float32))
    _, joined = spatialdata.join_spatialelement_table(
        sdata=found, spatial_element_names="nuclei", table_name="nuclei_table"
    )
    assert joined.n_obs == cells.num_rows
    microns = spatialdata.transform(shapes, to_coordinate_system="um")
    areas = microns.geometry.area.to_numpy()[1:]
    # The first polygon was put there by hand; the others' areas are their pixels'.
    assert areas == pytest.approx(cells["area_um2"].to_numpy()[1:], rel=0.2)
    centroids = microns.geometry.centroid
    assert centroids.x.to_numpy()[1:] == pytest.approx(cells["x_um"].to_numpy()[1:], abs=1.5)


def test_spatialdata_takes_the_label_image(result: wsiseg.Result, tmp_path: Path) -> None:
    masks = zarr.create_array(
        result.path / "masks.zarr/labels/nuclei/0", shape=(30, 40), chunks=(16, 16), dtype="uint32"
    )
    masks[4:8, 5:9] = 7
    result.export("spatialdata", tmp_path / "a.zarr", **options("spatialdata", labels=True))
    found = spatialdata.read_zarr(tmp_path / "a.zarr")
    labels = found["nuclei_labels"]
    assert (labels.to_numpy() == masks[:]).all()
    for system, pixel in [("um", MODEL_MPP), ("px", SCALE)]:
        to = spatialdata.transformations.get_transformation(labels, system)
        assert np.diag(to.to_affine_matrix(("x", "y"), ("x", "y"))) == pytest.approx(
            [pixel, pixel, 1]
        )


def test_a_part_of_the_nuclei(result: wsiseg.Result, tmp_path: Path) -> None:
    choice = {"regions": ("Stroma",), "bbox": (0, 0, 400, 900)}
    result.export("spatialdata", tmp_path / "a.zarr", **options("spatialdata", **choice))
    found = spatialdata.read_zarr(tmp_path / "a.zarr")
    ids = [
        cell_id
        for batch in chosen_batches(result, CellChoice(**choice), ["cell_id"])
        for cell_id in batch["cell_id"].to_pylist()
    ]
    assert 0 < len(ids) < result.cells().num_rows
    assert list(found["nuclei"].index) == ids == found["nuclei_table"].obs["cell_id"].tolist()


def test_a_run_without_nuclei(tmp_path: Path) -> None:
    empty_run(tmp_path / "b.wsiseg").export("spatialdata", tmp_path / "a.zarr")
    found = spatialdata.read_zarr(tmp_path / "a.zarr")
    assert len(found["nuclei_table"]) == 0


def test_what_is_there_stays_and_labels_need_all_nuclei(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    for name in ("anndata", "spatialdata"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputExists):
            result.export(name, tmp_path / name)
        assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(UsageError, match="labels hold all nuclei"):
        options("spatialdata", labels=True, classes=("Spindle",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anndata", "spatialdata"]


def test_the_store_names_no_path_outside_of_it(result: wsiseg.Result, tmp_path: Path) -> None:
    result.export("spatialdata", tmp_path / "a.zarr")
    for path in (tmp_path / "a.zarr").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
