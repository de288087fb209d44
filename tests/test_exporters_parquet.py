"""The cell table holds what a plain loop would write, and every reader opens it."""

from __future__ import annotations

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor

import duckdb
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from slow_cells import CLASS_NAMES, Parts, cells_of, chosen, parts_of
from slow_masks import blobs, polygons_of, real_labels

from wsiseg.errors import OutputNotWritable, ResultNotReadable
from wsiseg.exporters import parquet, wkb
from wsiseg.exporters.parquet import CELLS_SCHEMA, CellsWriter, RegionColumns, cells_batch
from wsiseg.geometry import Frame
from wsiseg.records import UNKNOWN_CLASS

SLIDE_MPP = 0.2527
COLUMNS = [
    *("cell_id", "uuid", "class_name", "class_prob", "nucleus_prob", "x", "y", "x_um", "y_um"),
    *("area_um2", "perimeter_um", "major_axis_um", "minor_axis_um", "eccentricity", "solidity"),
    *("circularity", "orientation_rad", "hematoxylin_od_mean", "hematoxylin_od_sd"),
    *("eosin_od_mean", "eosin_od_sd", "region", "region_class", "region_ids"),
    *("cut", "geometry", "bbox"),
]
MEASURED = COLUMNS[COLUMNS.index("area_um2") : COLUMNS.index("hematoxylin_od_mean")]


def write(path, parts: list[Parts], scale: float = 2.004, regions=None):
    frame = Frame(scale, 1000, 1000)
    with CellsWriter(path, frame, SLIDE_MPP, CLASS_NAMES) as writer:
        for one in parts:
            writer.write(*one, regions=regions)
    return pq.read_table(path)


def slow_rows(parts: Parts, scale: float) -> list[dict[str, object]]:
    """Return the rows, cell by cell."""
    cells, outlines, measured, uuids = parts
    rows = []
    for i, polygon in enumerate(polygons_of(outlines)):
        geometry = shapely.transform(polygon, lambda xy: xy * scale)
        instances = cells.instances
        x = (instances.col_sum[i] / instances.area_px[i] + 0.5) * scale
        y = (instances.row_sum[i] / instances.area_px[i] + 0.5) * scale
        index = int(instances.class_index[i])
        row = {
            "cell_id": int(cells.cell_id[i]),
            "uuid": bytes(uuids[i]).decode(),
            "class_name": None if index == UNKNOWN_CLASS else CLASS_NAMES[index],
            "class_prob": None if index == UNKNOWN_CLASS else float(instances.class_prob[i]),
            "nucleus_prob": float(instances.nucleus_prob[i]),
            "x": x,
            "y": y,
            "x_um": x * SLIDE_MPP,
            "y_um": y * SLIDE_MPP,
            **{name: float(np.float32(getattr(measured, name)[i])) for name in MEASURED},
            **dict.fromkeys(COLUMNS[COLUMNS.index("hematoxylin_od_mean") :][:7]),
            "cut": bool(instances.cut[i]),
            "geometry": shapely.to_wkb(geometry, byte_order=1),
            "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), geometry.bounds, strict=True)),
        }
        rows.append(row)
    return rows


def check_rows(table: pa.Table, expected: list[dict[str, object]]) -> None:
    for name in ("x", "y", "x_um", "y_um"):
        fast = table[name].to_numpy()
        np.testing.assert_allclose(fast, [row.pop(name) for row in expected], rtol=1e-14)
    assert table.drop_columns(["x", "y", "x_um", "y_um"]).to_pylist() == expected


def test_columns_are_the_promised_ones():
    assert CELLS_SCHEMA.names == COLUMNS
    types = {field.name: str(field.type) for field in CELLS_SCHEMA}
    assert types["cell_id"] == "uint32"
    assert {types[name] for name in ("uuid", "class_name", "region")} == {"string"}
    assert {types[name] for name in ("x", "y", "x_um", "y_um")} == {"double"}
    assert {types[name] for name in ("class_prob", "nucleus_prob", *MEASURED)} == {"float"}
    assert types["geometry"] == "binary"


@pytest.mark.parametrize("scale", [0.33, 1.0, 2.004])
def test_rows_are_those_of_a_plain_loop(tmp_path, scale):
    parts = parts_of(cells_of(blobs(3), seed=3), SLIDE_MPP * scale)
    table = write(tmp_path / "cells.parquet", [parts], scale)
    assert table.schema.remove_metadata() == CELLS_SCHEMA
    check_rows(table, slow_rows(parts, scale))


@pytest.mark.real
def test_rows_of_real_nuclei_are_those_of_a_plain_loop(tmp_path, shared):
    parts = parts_of(cells_of(real_labels(shared, "monuseg_train", 0), seed=0), 0.25)
    table = write(tmp_path / "cells.parquet", [parts], 1.0108)
    assert len(table) > 100
    check_rows(table, slow_rows(parts, 1.0108))


def test_row_groups_are_full_whatever_the_pieces(tmp_path, monkeypatch):
    cells = cells_of(blobs(4), seed=4)
    n = len(cells)
    assert n > 30
    monkeypatch.setattr("wsiseg.exporters._row_groups.ROW_GROUP_ROWS", 7)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 7)
    edges = [0, 3, 3, 20, n]
    pieces = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
    many = write(tmp_path / "many.parquet", [parts_of(chosen(cells, p), 0.5) for p in pieces])
    monkeypatch.undo()
    once = write(tmp_path / "once.parquet", [parts_of(cells, 0.5)])
    assert many.equals(once, check_metadata=True)
    metadata = pq.read_metadata(tmp_path / "many.parquet")
    sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
    assert sizes == [7] * (n // 7) + ([n % 7] if n % 7 else [])


@pytest.mark.parametrize("edges", [[0, 5, 40], [0, 1, 2, 3, 17], [0]])
def test_batches_made_in_threads_give_the_same_file(tmp_path, monkeypatch, edges):
    cells = cells_of(blobs(4), seed=4)
    edges = [*edges, len(cells)]
    names = [f"core {i}" for i in range(len(cells))]
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 7)

    def batch(start, stop):
        rows = list(range(start, stop))
        regions = region_columns(names[start:stop], names[start:stop], [[i] for i in rows])
        parts = parts_of(chosen(cells, rows), 0.5)
        return cells_batch(*parts, CLASS_NAMES, Frame(2.004, 9, 9), SLIDE_MPP, regions)

    with (
        ThreadPoolExecutor(2) as pool,
        CellsWriter(tmp_path / "b.parquet", Frame(2.004, 9, 9), SLIDE_MPP, CLASS_NAMES) as writer,
    ):
        for made in pool.map(batch, edges[:-1], edges[1:]):
            writer.write_batch(made)
    regions = region_columns(names, names, [[i] for i in range(len(cells))])
    write(tmp_path / "a.parquet", [parts_of(cells, 0.5)], regions=regions)
    one, other = (pq.ParquetFile(tmp_path / f"{name}.parquet") for name in "ab")
    assert one.read().equals(other.read(), check_metadata=True)
    assert one.metadata.num_row_groups == other.metadata.num_row_groups
    assert one.metadata.metadata[b"geo"] == other.metadata.metadata[b"geo"]


def test_a_batch_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "cells.parquet"
    with (
        pytest.raises(ValueError, match="make it with cells_batch"),
        CellsWriter(path, Frame(1.0, 9, 9), SLIDE_MPP, CLASS_NAMES) as writer,
    ):
        writer.write_batch(pa.record_batch({"cell_id": [1]}))
    assert list(tmp_path.iterdir()) == []


def test_regions_are_carried(tmp_path):
    cells = cells_of(blobs(5), seed=5)
    names = [None if i % 3 else f"core {i}" for i in range(len(cells))]
    classes = [None if i % 2 else "Tumor" for i in range(len(cells))]
    ids = [list(range(i % 4)) for i in range(len(cells))]
    regions = region_columns(names, classes, ids)
    table = write(tmp_path / "cells.parquet", [parts_of(cells, 0.5)], regions=regions)
    assert table["region"].to_pylist() == names
    assert table["region_class"].to_pylist() == classes
    assert table["region_ids"].to_pylist() == ids


def region_columns(names, classes, ids):
    return RegionColumns(
        pa.array(names, pa.string()),
        pa.array(classes, pa.string()),
        pa.array(ids, pa.list_(pa.uint16())),
    )


def test_undefined_measurements_are_null(tmp_path):
    parts = parts_of(cells_of(blobs(6), seed=6), 0.5)
    parts[2].circularity[3] = math.nan
    table = write(tmp_path / "cells.parquet", [parts])
    assert table["circularity"].null_count == 1
    assert table["circularity"][3].as_py() is None


@pytest.mark.parametrize("pieces", [0, 1])
def test_without_cells_the_file_is_valid(tmp_path, pieces):
    path = tmp_path / "cells.parquet"
    none = parts_of(chosen(cells_of(blobs(1), seed=1), []), 0.5)
    table = write(path, [none] * pieces)
    assert table.num_rows == 0
    assert table.schema.remove_metadata() == CELLS_SCHEMA
    frame = geopandas.read_parquet(path)
    assert len(frame) == 0
    assert frame.crs is None
    assert "bbox" not in json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]


def test_geoparquet_metadata(tmp_path):
    path = tmp_path / "cells.parquet"
    parts = [parts_of(cells_of(blobs(seed), seed, 1000 * seed), 0.5) for seed in (1, 2)]
    table = write(path, parts)
    corners = shapely.total_bounds(shapely.from_wkb(table["geometry"].to_pylist()))
    assert json.loads(pq.read_metadata(path).metadata[b"geo"]) == {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["Polygon"],
                "crs": None,
                "bbox": corners.tolist(),
                "covering": {
                    "bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}
                },
            }
        },
    }


def test_geopandas_reads_a_box(tmp_path):
    path = tmp_path / "cells.parquet"
    table = write(path, [parts_of(cells_of(blobs(7), seed=7), 0.5)])
    corners = (20.0, 30.0, 90.0, 100.0)
    shapes = shapely.from_wkb(table["geometry"].to_pylist())
    near = [
        a[0] <= corners[2] and a[2] >= corners[0] and a[1] <= corners[3] and a[3] >= corners[1]
        for a in (shape.bounds for shape in shapes)
    ]
    frame = geopandas.read_parquet(path, bbox=corners)
    assert 0 < len(frame) < table.num_rows
    assert frame["cell_id"].tolist() == table.filter(pa.array(near))["cell_id"].to_pylist()
    assert frame.is_valid.all()


def test_duckdb_reads_plain_columns(tmp_path):
    path = tmp_path / "cells.parquet"
    table = write(path, [parts_of(cells_of(blobs(8), seed=8), 0.5)])
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT class_name, count(*), sum(bbox.xmin) FROM read_parquet(?) GROUP BY 1",
            [str(path)],
        ).fetchall()
    names = table["class_name"].to_pylist()
    left = [box["xmin"] for box in table["bbox"].to_pylist()]
    for name, n, total in found:
        own = [x for x, other in zip(left, names, strict=True) if other == name]
        assert n == len(own)
        assert total == pytest.approx(sum(own))
    assert {name for name, _, _ in found} == {*CLASS_NAMES, None}


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "cells.parquet"
    parts = parts_of(cells_of(blobs(1), seed=1), 0.5)
    write(path, [parts])
    before = path.read_bytes()
    short = (*parts[:3], parts[3][1:])
    with pytest.raises(ValueError, match="all lengths must be"):
        write(path, [parts, short])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_at_the_destination_before_the_end(tmp_path):
    path = tmp_path / "cells.parquet"
    with CellsWriter(path, Frame(1.0, 9, 9), SLIDE_MPP, CLASS_NAMES):
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(OutputNotWritable, match="check that its folder exists"):
        write(tmp_path / "nowhere" / "cells.parquet", [])


def test_parts_of_other_lengths_are_refused(tmp_path):
    cells, outlines, measured, uuids = parts_of(cells_of(blobs(1), seed=1), 0.5)
    for wrong in (
        (chosen(cells, [0]), outlines, measured, uuids),
        (cells, outlines, measured, uuids[1:]),
        (cells, outlines, measured, uuids[:, 1:]),
    ):
        with pytest.raises(ValueError, match="all lengths must be"):
            write(tmp_path / "cells.parquet", [wrong])
    one = region_columns(["a"], ["b"], [[0]])
    with pytest.raises(ValueError, match="all lengths must be"):
        write(tmp_path / "cells.parquet", [(cells, outlines, measured, uuids)], regions=one)
    assert list(tmp_path.iterdir()) == []


def test_a_class_without_name_is_refused(tmp_path):
    parts = parts_of(cells_of(blobs(1), seed=1), 0.5)
    parts[0].instances.class_index[2] = 4
    with pytest.raises(ValueError, match="class index 4"):
        write(tmp_path / "cells.parquet", [parts])


# Well-known binary ------------------------------------------------------------------------


def test_wkb_comes_back():
    outlines = parts_of(cells_of(blobs(9), seed=9), 0.5)[1]
    polygons = wkb.scaled(outlines, 2.004, 3, len(outlines) - 2)
    column = wkb.encode(polygons)
    back = wkb.decode(column)
    np.testing.assert_array_equal(back.first_ring, polygons.first_ring)
    np.testing.assert_array_equal(back.first_vertex, polygons.first_vertex)
    np.testing.assert_array_equal(back.xy_px, polygons.xy_px)
    sliced = wkb.decode(column.slice(4, 3))
    np.testing.assert_array_equal(sliced.xy_px, wkb.scaled(outlines, 2.004, 7, 10).xy_px)
    assert any(np.diff(polygons.first_ring) > 1), "no polygon with a hole was tried"


def square(**options) -> bytes:
    return shapely.to_wkb(shapely.box(0, 0, 2, 2), **options)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        square()[:-1],
        square() + b"\0",
        square(byte_order=0),
        shapely.to_wkb(shapely.Point(1, 2)),
        shapely.to_wkb(shapely.MultiPolygon([shapely.box(0, 0, 2, 2)])),
        shapely.to_wkb(shapely.force_3d(shapely.box(0, 0, 2, 2), 1.0)),
        b"\x01\x03\0\0\0\xff\xff\xff\xff",
        b"\x01\x03\0\0\0\x01\0\0\0\xff\xff\xff\xff",
    ],
)
def test_what_is_no_polygon_is_refused(entry):
    with pytest.raises(ResultNotReadable, match="geometry of row 1"):
        wkb.decode(pa.array([square(byte_order=1), entry], pa.binary()))


def test_a_null_geometry_is_refused():
    with pytest.raises(ResultNotReadable, match="no geometry"):
        wkb.decode(pa.array([square(byte_order=1), None], pa.binary()))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=3))
@example([b"\x01\x03\0\0\0\0\0\0\0"])
def test_random_bytes_are_refused_or_read(entries):
    column = pa.array(entries, pa.binary())
    try:
        polygons = wkb.decode(column)
    except ResultNotReadable:
        return
    assert wkb.encode(polygons).equals(column)
