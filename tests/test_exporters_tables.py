"""CSV and GeoParquet are read by pandas and geopandas as the cell table says."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from export_runs import REGIONS, empty_run, export_run
from run_dirs import write_run

import wsiseg
from wsiseg.classes.versions import CLASSES_SCHEMA
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.exporters import find_exporter
from wsiseg.exporters._choice import CellChoice, ColumnChoice
from wsiseg.exporters.class_table import write_class_version
from wsiseg.exporters.geoparquet import export_geoparquet
from wsiseg.exporters.parquet import CELLS_SCHEMA, ROW_GROUP_ROWS
from wsiseg.exporters.table_csv import export_csv


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return export_run(tmp_path_factory.mktemp("run") / "a b.svs.wsiseg")


def slow_choice(result: wsiseg.Result, choice: CellChoice) -> pa.Table:
    """Return the rows wanted, one by one, by the documented rule."""

    def wanted(row) -> bool:
        names = {REGIONS[i] for i in row["region_ids"] or ()}
        low_x, low_y, high_x, high_y = choice.bbox or (-1e9, -1e9, 1e9, 1e9)
        return (
            (choice.classes is None or row["class_name"] in choice.classes)
            and (choice.regions is None or bool(names & set(choice.regions)))
            and low_x <= row["x"] < high_x
            and low_y <= row["y"] < high_y
        )

    table = result.cells(columns=[*CELLS_SCHEMA.names[:-2], *FEATURES, *CELLS_SCHEMA.names[-2:]])
    return table.filter(pa.array([wanted(row) for row in table.to_pylist()], pa.bool_()))


FEATURES = ("nearest_cell_um", "prob_Spindle")
CHOICES = [
    {},
    {"classes": ("Spindle", "Epithelial")},
    {"regions": ("Stroma",)},
    {"bbox": (100, 50, 500, 400)},
    {"classes": ("Spindle",), "regions": (REGIONS[1], "Tumour"), "bbox": (0, 0, 600.5, 900)},
    {"regions": ("empty",)},
]


def test_the_choices_take_some_and_leave_some(result: wsiseg.Result) -> None:
    n = [slow_choice(result, CellChoice(**choice)).num_rows for choice in CHOICES]
    assert n[-1] == 0
    assert n[0] == result.cells().num_rows
    assert all(0 < each < n[0] for each in n[1:-1])


@pytest.mark.parametrize("choice", CHOICES)
def test_pandas_reads_the_csv(result: wsiseg.Result, choice, tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    export_csv(result, path, ColumnChoice(**choice))
    found = pandas.read_csv(path, keep_default_na=False, na_values=[""])
    expected = slow_choice(result, CellChoice(**choice))
    assert list(found["cell_id"]) == expected["cell_id"].to_pylist()
    for column in expected.schema.names:
        if column in ("geometry", "bbox", "region_ids"):
            continue
        read = found[{"x": "x_px", "y": "y_px"}.get(column, column)]
        values = expected[column].to_pylist()
        assert [value is None for value in values] == list(read.isna()), column
        for value, there in zip(values, read, strict=True):
            if isinstance(value, float):
                kind = expected.schema.field(column).type.to_pandas_dtype()
                assert kind(there) == value
            elif value is not None:
                assert there == value


def test_names_of_columns_end_in_their_units(result: wsiseg.Result, tmp_path: Path) -> None:
    export_csv(result, tmp_path / "a.csv")
    header = next(csv.reader(io.StringIO((tmp_path / "a.csv").read_text(encoding="utf-8"))))
    assert header[:9] == [
        *("cell_id", "uuid", "class_name", "class_prob", "nucleus_prob"),
        *("x_px", "y_px", "x_um", "y_um"),
    ]
    assert header[-2:] == list(FEATURES)
    assert {"x", "y", "geometry", "bbox"}.isdisjoint(header)


def test_columns_are_chosen_and_regions_and_polygons_are_text(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    names = ("geometry", "region", "region_ids", "x")
    export_csv(result, tmp_path / "a.csv", ColumnChoice(columns=names))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = result.cells().to_pylist()
    assert list(rows[0]) == ["geometry", "region", "region_ids", "x_px"]
    for row, cell in zip(rows, expected, strict=True):
        polygon = shapely.from_wkb(cell["geometry"])
        assert shapely.equals_exact(shapely.from_wkt(row["geometry"]), polygon, tolerance=1e-3)
        assert row["region"] == (cell["region"] or "")
        assert row["region_ids"] == ";".join(map(str, cell["region_ids"] or ()))


def test_features_are_columns_like_others(result: wsiseg.Result, tmp_path: Path) -> None:
    options = ColumnChoice(columns=("prob_Spindle", "cell_id"), regions=("Stroma",))
    export_csv(result, tmp_path / "a.csv", options)
    found = pandas.read_csv(tmp_path / "a.csv")
    expected = slow_choice(result, options)
    assert list(found.columns) == ["prob_Spindle", "cell_id"]
    assert found["cell_id"].tolist() == expected["cell_id"].to_pylist()
    assert found["prob_Spindle"].to_numpy(np.float32).tolist() == (
        expected["prob_Spindle"].to_pylist()
    )


def test_a_run_that_lacks_columns_is_exported_with_those_it_has(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    table = result.cells().drop_columns(["region_ids", "region_class"])
    old = write_run(tmp_path / "a.wsiseg", table, **dict(result.run))
    choice = ColumnChoice(regions=("Stroma",))
    export_csv(wsiseg.open_result(old), tmp_path / "a.csv", choice)
    found = pandas.read_csv(tmp_path / "a.csv")
    # What it knows is the smallest region of each nucleus.
    wanted = [row["cell_id"] for row in table.to_pylist() if row["region"] == "Stroma"]
    assert found["cell_id"].tolist() == wanted != []
    assert "region_ids" not in found.columns


@pytest.mark.parametrize("name", ["csv", "coco", "geoparquet", "dicom-ann", "fhir"])
def test_a_version_of_the_classes_is_exported_and_named(
    result: wsiseg.Result, name: str, tmp_path: Path
) -> None:
    run = tmp_path / "a.wsiseg"
    shutil.copytree(result.path, run)
    ids = result.cells()["cell_id"]
    kinds = ["Round" if cell_id.as_py() % 3 else "Long" for cell_id in ids]
    half = pa.array([0.5] * len(ids), pa.float32())
    version = pa.table([ids, pa.array(kinds), half], CLASSES_SCHEMA)
    classes = [
        {"name": k, "index": i, "rgb": [i, 0, 0]} for i, k in enumerate(["Round", "Long"], 1)
    ]
    write_class_version(run, "clicks", version.to_batches(), classes, {"how": "a test"})
    find_exporter(name)(wsiseg.open_result(run, classes="clicks"), tmp_path / "new")
    find_exporter(name)(wsiseg.open_result(run), tmp_path / "old")
    made, plain = (text_of(tmp_path / file) for file in ("new", "old"))
    assert "Round" in made
    assert "Spindle" not in made.replace("prob_Spindle", "")
    assert "Spindle" in plain
    # A table has no place to say so.
    assert ("clicks" in made) == (name != "csv")
    assert "clicks" not in plain


def text_of(path: Path) -> str:
    raw = path.read_bytes()
    if raw[:4] != b"PAR1":
        return raw.decode("latin-1")
    return str(pq.read_table(path).to_pydict()) + str(pq.read_metadata(path).metadata[b"wsiseg"])


def test_a_run_without_nuclei_has_a_header(tmp_path: Path) -> None:
    run = empty_run(tmp_path / "a.svs.wsiseg")
    export_csv(run, tmp_path / "a.csv.gz")
    text = gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).decode()
    assert text.count("\n") == 1
    assert text.startswith('"cell_id","uuid"')
    export_geoparquet(run, tmp_path / "a.parquet")
    found = geopandas.read_parquet(tmp_path / "a.parquet")
    assert (len(found), found.crs) == (0, None)
    # geopandas leaves out the covering.
    assert [*found.columns, "bbox"] == CELLS_SCHEMA.names


def test_an_old_run_without_nuclei_has_a_header_of_its_own_columns(tmp_path: Path) -> None:
    table = CELLS_SCHEMA.empty_table().drop_columns(["region_ids", "region_class"])
    run = wsiseg.open_result(write_run(tmp_path / "a.svs.wsiseg", table))
    export_csv(run, tmp_path / "a.csv")
    header = next(csv.reader(io.StringIO((tmp_path / "a.csv").read_text(encoding="utf-8"))))
    names = [name for name in table.column_names if name not in ("geometry", "bbox")]
    assert header == [{"x": "x_px", "y": "y_px"}.get(name, name) for name in names]
    export_geoparquet(run, tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").names == table.column_names


@pytest.mark.parametrize("choice", CHOICES)
def test_geopandas_reads_the_geoparquet(result: wsiseg.Result, choice, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    export_geoparquet(result, path, ColumnChoice(**choice))
    found = geopandas.read_parquet(path)
    expected = slow_choice(result, CellChoice(**choice))
    assert found.crs is None
    assert [shapely.to_wkb(shape) for shape in found.geometry] == expected["geometry"].to_pylist()
    assert pq.read_table(path).replace_schema_metadata(None).equals(expected)


def test_the_geoparquet_says_its_bounds_and_can_be_read_by_place(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    options = ColumnChoice(columns=("area_um2", "cell_id"), classes=("Spindle",))
    export_geoparquet(result, path, options)
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    expected = slow_choice(result, options)
    boxes = np.array([list(box.values()) for box in expected["bbox"].to_pylist()])
    said = geo["columns"]["geometry"]
    assert said["crs"] is None
    assert said["bbox"] == [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
    found = geopandas.read_parquet(path)
    assert list(found.columns) == ["area_um2", "cell_id", "geometry"]
    few = geopandas.read_parquet(path, bbox=(0, 0, 300, 300))
    near = (boxes[:, 0] <= 300) & (boxes[:, 1] <= 300)
    assert list(few["cell_id"]) == expected["cell_id"].filter(pa.array(near)).to_pylist()
    assert 0 < len(few) < len(found)


def test_row_groups_are_no_larger_than_those_of_the_cell_table(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    class Many:
        """The same nuclei again and again."""

        name, run, classes_version = result.name, result.run, None
        class_colours, regions = result.class_colours, result.regions

        def batches(self, columns=None):
            for _ in range(ROW_GROUP_ROWS // result.cells().num_rows + 2):
                yield from result.batches(columns)

    columns = ColumnChoice(columns=("cell_id",))
    export_geoparquet(Many(), tmp_path / "a.parquet", columns)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert rows[0] == ROW_GROUP_ROWS
    assert len(rows) == 2
    assert sum(rows) == sum(batch.num_rows for batch in Many().batches(["cell_id"]))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"bbox": (5, 0, 5, 9)}, UsageError, "holds nothing"),
        ({"bbox": (0, 0, 9)}, UsageError, "xmin, ymin, xmax, ymax"),
        ({"bbox": (0, 0, float("nan"), 9)}, UsageError, "xmin, ymin, xmax, ymax"),
        ({"columns": ()}, UsageError, "columns names nothing"),
        ({"columns": ("cell_id", "colour")}, UnknownName, "no column 'colour'; known: cell_id"),
        ({"columns": ("bbox",)}, UsageError, "no column for bbox"),
        ({"classes": ("Tumour",)}, UnknownName, "no class 'Tumour'"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    result: wsiseg.Result, options, kind, words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        export_csv(result, tmp_path / "a.csv", ColumnChoice(**options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["csv", "coco", "geoparquet", "dicom-ann", "fhir"])
def test_nothing_is_overwritten_and_nothing_left_behind(
    result: wsiseg.Result, name: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OutputExists, match="not overwritten"):
        find_exporter(name)(result, tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


class Damaged:
    """A run of which only the first rows can be read."""

    def __init__(self, result: wsiseg.Result) -> None:
        self._result = result

    def __getattr__(self, name: str):
        return getattr(self._result, name)

    def batches(self, columns=None):
        yield next(iter(self._result.batches(columns)))
        raise ResultNotReadable("half of it is gone")

    def summary(self):
        raise ResultNotReadable("half of it is gone")


@pytest.mark.parametrize("name", ["csv", "coco", "geojson", "geoparquet", "dicom-ann", "fhir"])
def test_a_run_that_breaks_off_leaves_nothing(
    result: wsiseg.Result, name: str, tmp_path: Path
) -> None:
    with pytest.raises(ResultNotReadable, match="half of it is gone"):
        find_exporter(name)(Damaged(result), tmp_path / "a.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["csv", "coco", "geojson", "geoparquet", "dicom-ann", "fhir"])
def test_a_folder_that_is_not_there_is_named_as_the_reason(
    result: wsiseg.Result, name: str, tmp_path: Path
) -> None:
    with pytest.raises(OutputNotWritable, match="check that its folder exists"):
        find_exporter(name)(result, tmp_path / "no" / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["csv", "coco", "geoparquet", "dicom-ann", "fhir"])
def test_the_same_run_gives_the_same_bytes(
    result: wsiseg.Result, name: str, tmp_path: Path
) -> None:
    for to in ("a.gz", "b.gz"):
        find_exporter(name)(result, tmp_path / to)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
