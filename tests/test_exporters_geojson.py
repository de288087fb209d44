"""GeoJSON equals what the json module would write from the cell table, and is valid."""

from __future__ import annotations

import gzip
import json
import math
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_cells import CLASS_COLOURS, CLASS_NAMES, cells_of, parts_of
from slow_masks import blobs, real_labels

from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.exporters import (
    _decimal_text,
    _feature_text,
    _geojson_choice,
    exporter_names,
    find_exporter,
)
from wsiseg.exporters.geojson import MEASUREMENTS, GeojsonOptions, export_geojson, write_geojson
from wsiseg.exporters.parquet import CELLS_SCHEMA, CellsWriter
from wsiseg.geometry import Frame

ORIGIN_PX = (17.0, 40.5)


def table_of(tmp_path, labels, seed: int, scale: float) -> pa.Table:
    path = tmp_path / "cells.parquet"
    with CellsWriter(path, Frame(scale, 1000, 1000), 0.25, CLASS_NAMES) as writer:
        writer.write(*parts_of(cells_of(labels, seed), 0.25 * scale))
    table = pq.read_table(path)
    path.unlink()
    return table


def replaced(table: pa.Table, name: str, values: list[object]) -> pa.Table:
    field = CELLS_SCHEMA.field(name)
    return table.set_column(CELLS_SCHEMA.get_field_index(name), field, pa.array(values, field.type))


def write(path, table, colours=CLASS_COLOURS, origin_px=ORIGIN_PX, batch_rows=50):
    write_geojson(iter(table.to_batches(batch_rows)), path, colours, origin_px)
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return json.loads(text.decode("ascii"))


def rounded(value: float, decimals: int) -> float:
    return math.floor(value * 10**decimals + 0.5) / 10**decimals


def slow_ring(ring, origin_px) -> list[list[float]]:
    return [[rounded(v - o, 2) for v, o in zip(xy, origin_px, strict=True)] for xy in ring.coords]


def slow_geojson(table: pa.Table, colours, origin_px) -> dict[str, object]:
    """Return the collection, row by row, by the json module's rules."""
    features = []
    for row in table.to_pylist():
        polygon = shapely.from_wkb(row["geometry"])
        properties: dict[str, object] = {"objectType": "detection"}
        name = row["class_name"]
        if name in colours:
            properties["classification"] = {"name": name, "color": list(colours[name])}
        elif name is not None:
            properties["classification"] = name
        if row["region"] is not None:
            properties["metadata"] = {"Region": row["region"]}
        properties["measurements"] = {
            label: rounded(row[column], decimals)
            for column, label, decimals in MEASUREMENTS
            if row[column] is not None and math.isfinite(row[column])
        }
        rings = [polygon.exterior, *polygon.interiors]
        features.append(
            {
                "type": "Feature",
                "id": row["uuid"],
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [slow_ring(ring, origin_px) for ring in rings],
                },
                "properties": properties,
            }
        )
    return json.loads(json.dumps({"type": "FeatureCollection", "features": features}))


def check_shapes(collection, table: pa.Table, origin_px) -> None:
    """The polygons are valid and, moved back, the table's to half a hundredth of a pixel."""
    for feature, geometry in zip(
        collection["features"], table["geometry"].to_pylist(), strict=True
    ):
        shape = shapely.from_geojson(json.dumps(feature))
        assert shape.is_valid
        expected = shapely.get_coordinates(shapely.from_wkb(geometry))
        np.testing.assert_allclose(
            shapely.get_coordinates(shape) + origin_px, expected, rtol=0, atol=0.005 + 1e-9
        )


@pytest.mark.parametrize("scale", [0.33, 1.0, 2.004])
@pytest.mark.parametrize("name", ["cells.geojson", "cells.geojson.gz"])
def test_equals_the_json_module(tmp_path, scale, name):
    table = table_of(tmp_path, blobs(3), 3, scale)
    collection = write(tmp_path / name, table)
    assert collection == slow_geojson(table, CLASS_COLOURS, ORIGIN_PX)
    check_shapes(collection, table, ORIGIN_PX)
    rings = [len(feature["geometry"]["coordinates"]) for feature in collection["features"]]
    assert max(rings) > 1, "no hole was tried"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.real
def test_equals_the_json_module_for_real_nuclei(tmp_path, shared):
    table = table_of(tmp_path, real_labels(shared, "monuseg_train", 1), 1, 1.0108)
    collection = write(tmp_path / "cells.geojson", table)
    assert len(collection["features"]) > 100
    assert collection == slow_geojson(table, CLASS_COLOURS, ORIGIN_PX)
    check_shapes(collection, table, ORIGIN_PX)


def test_is_what_qupath_wants(tmp_path):
    """One nucleus, written out: QuPath refuses a class object without colour."""
    table = table_of(tmp_path, np.ones((1, 1), int), 0, 2.0)
    table = replaced(table, "class_name", ["Spindle"])
    (feature,) = write(tmp_path / "a.geojson", table, origin_px=(0.0, 0.0))["features"]
    assert feature["geometry"]["type"] == "Polygon"
    assert sorted(feature["geometry"]["coordinates"][0][:4]) == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert feature["geometry"]["coordinates"][0][0] == feature["geometry"]["coordinates"][0][-1]
    properties = feature["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"] == {"name": "Spindle", "color": [0, 0, 255]}
    assert properties["measurements"]["wsiseg: Area um^2"] == 0.25
    assert properties["measurements"]["wsiseg: Cell id"] == 1
    assert all(name.startswith("wsiseg: ") for name in properties["measurements"])
    assert "wsiseg: Eosin OD mean" not in properties["measurements"]


def test_classes_without_colour_or_with_strange_names(tmp_path):
    table = table_of(tmp_path, blobs(2), 2, 1.0)
    strange = 'a "quoted"\\ name, µ\n'
    names = ["Epithelial", strange, "Other", None]
    table = replaced(table, "class_name", [names[i % 4] for i in range(len(table))])
    colours = {"Epithelial": (1, 2, 3), strange: (4, 5, 6)}
    collection = write(tmp_path / "a.geojson", table, colours)
    assert collection == slow_geojson(table, colours, ORIGIN_PX)
    found = [f["properties"].get("classification") for f in collection["features"][:4]]
    assert found[2:] == ["Other", None]


def test_undefined_measurements_are_left_out(tmp_path):
    table = table_of(tmp_path, blobs(2), 2, 1.0)
    wild = [None, math.nan, math.inf, -math.inf, 1e30, -0.00004, -1.5, 12.34564]
    table = replaced(table, "circularity", [wild[i % 8] for i in range(len(table))])
    features = write(tmp_path / "a.geojson", table)["features"][:8]
    found = [f["properties"]["measurements"].get("wsiseg: Circularity") for f in features]
    assert found == [None, None, None, None, None, 0, -1.5, 12.3456]


def test_everything_may_be_left_out(tmp_path):
    table = table_of(tmp_path, blobs(2), 2, 1.0)
    for measurement in MEASUREMENTS:
        if measurement.column not in ("cell_id", "cut"):
            table = replaced(table, measurement.column, [None] * len(table))
    for feature in write(tmp_path / "a.geojson", table)["features"]:
        assert list(feature["properties"]["measurements"]) == [
            "wsiseg: Cell id",
            "wsiseg: Cut at tile edge",
        ]


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_without_nuclei_it_is_valid(tmp_path, name):
    empty = CELLS_SCHEMA.empty_table()
    none = {"type": "FeatureCollection", "features": []}
    assert write(tmp_path / name, empty) == none
    write_geojson(iter([pa.RecordBatch.from_pylist([], CELLS_SCHEMA)]), tmp_path / name, {}, (0, 0))
    text = (tmp_path / name).read_bytes()
    assert json.loads(gzip.decompress(text) if name.endswith("gz") else text) == none


def test_batches_and_blocks_make_no_difference(tmp_path, monkeypatch):
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    write(tmp_path / "a.geojson.gz", table, batch_rows=1000)
    monkeypatch.setattr("wsiseg.exporters.geojson._BLOCK_ROWS", 3)
    write(tmp_path / "b.geojson.gz", table, batch_rows=7)
    write(tmp_path / "c.geojson.gz", table, batch_rows=7)
    a, b, c = (gzip.decompress((tmp_path / f"{n}.geojson.gz").read_bytes()) for n in "abc")
    assert a == b == c
    assert (tmp_path / "b.geojson.gz").read_bytes() == (tmp_path / "c.geojson.gz").read_bytes()


def test_one_line_a_nucleus(tmp_path):
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    write(tmp_path / "a.geojson", table)
    lines = (tmp_path / "a.geojson").read_text().splitlines()
    assert len(lines) == len(table) + 2
    assert json.loads(lines[5].removesuffix(","))["id"] == table["uuid"][4].as_py()


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.geojson.gz"
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    write(path, table)
    before = path.read_bytes()

    def broken():
        yield from table.to_batches()
        raise ResultNotReadable("damaged")

    with pytest.raises(ResultNotReadable, match=r"^damaged$"):
        write_geojson(broken(), path, CLASS_COLOURS, ORIGIN_PX)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(OutputNotWritable, match="check that its folder exists"):
        write_geojson(iter([]), tmp_path / "nowhere" / "a.geojson", {}, ORIGIN_PX)


@pytest.mark.parametrize("wrong", ["", "x" * 36, '"' * 36, "0" * 35, "0" * 37])
def test_what_is_no_uuid_is_refused(tmp_path, wrong):
    table = table_of(tmp_path, np.eye(3, dtype=int) * [1, 2, 3], 0, 1.0)
    good = table["uuid"].to_pylist()
    with pytest.raises(ResultNotReadable, match="36-character"):
        write(tmp_path / "a.geojson", replaced(table, "uuid", [good[0], wrong, good[2]]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e18])
def test_a_coordinate_that_is_no_position_is_refused(tmp_path, wrong):
    table = table_of(tmp_path, np.ones((1, 1), int), 0, 1.0)
    geometry = bytearray(table["geometry"][0].as_py())
    geometry[-8:] = np.array([wrong], "<f8").tobytes()
    with pytest.raises(ResultNotReadable, match="no pixel position"):
        write(tmp_path / "a.geojson", replaced(table, "geometry", [bytes(geometry)]))


numbers = st.one_of(
    st.integers(-(10**16), 10**16),
    st.integers(-(10**9), 10**9),
    st.builds(
        lambda sign, power, near: sign * 10**power + near,
        st.sampled_from([-1, 1]),
        st.integers(0, 16),
        st.integers(-1, 1),
    ),
    st.builds(lambda few, power: few * 10**power, st.integers(-99, 99), st.integers(0, 13)),
)


@settings(max_examples=500, deadline=None)
@given(numbers, st.sampled_from([0, 2, 4]))
def test_numbers_are_written_shortly_and_exactly(value, decimals):
    out = np.full(64, ord("#"), np.uint8)
    end = _decimal_text.put_decimal(out, 0, value, decimals)
    text = bytes(out[:end]).decode()
    assert Decimal(text) == Decimal(value).scaleb(-decimals)
    assert json.loads(text, parse_int=Decimal, parse_float=Decimal) == Decimal(text)
    assert "." not in text or not text.endswith(("0", "."))
    assert (out[end:] == ord("#")).all()
    fast = np.full(64, ord("#"), np.uint8)
    for put in (
        (_decimal_text.put_value, decimals),
        *([(_decimal_text.put_coordinate,)] if decimals == 2 else []),
    ):
        assert put[0](fast, 0, value, *put[1:]) == end
        assert bytes(fast[:end]).decode() == text
        assert (fast[max(end, _decimal_text.SLACK_BYTES) :] == ord("#")).all()


def test_digits_by_multiplication_are_exact():
    """The multiplications that stand for divisions are exact for all there is."""
    out = np.empty(64, np.uint8)
    for value in range(100_000):
        end = _decimal_text.put_value(out, 0, value * 1_000 + value % 1_000, 0)
        assert int(bytes(out[:end])) == value * 1_000 + value % 1_000


@pytest.mark.parametrize("centi_px", [-1, -5, -99, 0, -100, 12345, -(10**14)])
@pytest.mark.parametrize("value", [_decimal_text.MISSING, 0, -1, -(10**16)])
def test_features_fit_the_buffer_reserved(centi_px, value):
    n, rings, vertices = 3, 6, 1000
    block = _feature_text.FeatureBlock(
        uuids=np.full((n, 36), ord("0"), np.uint8),
        first_ring=np.arange(0, rings + 1, 2, dtype=np.int64),
        first_vertex=np.arange(rings + 1, dtype=np.int64) * vertices,
        xy_centi_px=np.full((rings * vertices, 2), centi_px, np.int64),
        class_code=np.arange(n, dtype=np.int64) - 1,
        region_code=np.arange(n, dtype=np.int64) - 1,
        values=np.full((n, 2), value, np.int64),
    )
    texts = _feature_text.FeatureTexts.of(['"a"', '"bc"'], ['"r"', '"st"'], ['"m"', '"n"'], [0, 4])
    written = _feature_text.features_text(block, texts)
    assert len(written) <= _feature_text._most_bytes(block, texts)
    features = json.loads(b"[" + bytes(written)[1:] + b"]")
    assert [len(f["geometry"]["coordinates"]) for f in features] == [2] * n
    assert features[2]["geometry"]["coordinates"][1][-1] == [centi_px / 100] * 2
    assert [f["properties"].get("metadata") for f in features] == [
        None,
        {"Region": "r"},
        {"Region": "st"},
    ]


class FakeResult:
    """A run as far as exporters may ask."""

    class_colours = CLASS_COLOURS
    bounds_origin_px = ORIGIN_PX

    def __init__(self, path, table, regions=()) -> None:
        self.path = path
        self.regions = [{"name": name, "missing": False} for name in regions]
        self._table = table

    def batches(self):
        return iter(self._table.to_batches(7))


def test_the_exporter_writes_a_run_once(tmp_path):
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    path = tmp_path / "a.geojson"
    assert export_geojson(FakeResult(tmp_path, table), path) == [path]
    assert json.loads(path.read_text()) == slow_geojson(table, CLASS_COLOURS, ORIGIN_PX)
    before = path.read_bytes()
    with pytest.raises(OutputExists, match="delete it first"):
        export_geojson(FakeResult(tmp_path, table), path)
    assert path.read_bytes() == before


REGIONS = ("Tumour", 'A "1"', "Stroma", "empty")
EMPTY = GeojsonOptions(regions=("empty",))


def with_regions(table: pa.Table) -> pa.Table:
    """Nuclei in none, one or two overlapping regions; never in the last."""
    ids = [[None, [], [0], [1, 2], [0, 2]][i % 5] for i in range(len(table))]
    table = replaced(table, "region_ids", ids)
    return replaced(table, "region", [REGIONS[each[-1]] if each else None for each in ids])


def slow_choice(table: pa.Table, options: GeojsonOptions) -> pa.Table:
    """Return the rows wanted, one by one, by the documented rule."""

    def wanted(row) -> bool:
        names = {REGIONS[i] for i in row["region_ids"] or ()}
        return (options.classes is None or row["class_name"] in options.classes) and (
            options.regions is None or bool(names & set(options.regions))
        )

    return table.filter(pa.array([wanted(row) for row in table.to_pylist()], pa.bool_()))


def read(path):
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)


@pytest.mark.parametrize(
    "options",
    [
        GeojsonOptions(),
        GeojsonOptions(classes=("Spindle",)),
        GeojsonOptions(classes=("Epithelial", "Inflammatory")),
        GeojsonOptions(regions=("Stroma",)),
        GeojsonOptions(regions=('A "1"', "Tumour")),
        GeojsonOptions(classes=("Epithelial", "Spindle"), regions=("Tumour",)),
        EMPTY,
    ],
    ids=str,
)
def test_only_the_nuclei_wanted(tmp_path, options):
    table = with_regions(table_of(tmp_path, blobs(4), 4, 2.004))
    path = tmp_path / "a.geojson"
    export_geojson(FakeResult(tmp_path, table, REGIONS), path, options)
    expected = slow_choice(table, options)
    assert (0 < len(expected) < len(table)) == (options not in (GeojsonOptions(), EMPTY))
    assert read(path) == slow_geojson(expected, CLASS_COLOURS, ORIGIN_PX)


def test_tables_without_lists_of_regions_have_the_name_alone(tmp_path):
    table = with_regions(table_of(tmp_path, blobs(4), 4, 2.004))
    older = table.drop_columns(["region_ids", "region_class"])
    chosen = GeojsonOptions(regions=("Stroma",))
    export_geojson(FakeResult(tmp_path, older, REGIONS), tmp_path / "a.geojson", chosen)
    in_stroma = table.filter(pa.array([name == "Stroma" for name in table["region"].to_pylist()]))
    assert len(in_stroma) > 1
    assert read(tmp_path / "a.geojson") == slow_geojson(in_stroma, CLASS_COLOURS, ORIGIN_PX)


def test_centroids_are_points(tmp_path):
    table = with_regions(table_of(tmp_path, blobs(4), 4, 2.004))
    path = tmp_path / "a.geojson"
    export_geojson(FakeResult(tmp_path, table, REGIONS), path, GeojsonOptions(centroids=True))
    expected = slow_geojson(table, CLASS_COLOURS, ORIGIN_PX)
    for feature, row in zip(expected["features"], table.to_pylist(), strict=True):
        xy = [rounded(row[name] - o, 2) for name, o in zip("xy", ORIGIN_PX, strict=True)]
        feature["geometry"] = {"type": "Point", "coordinates": xy}
    assert read(path) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (GeojsonOptions(classes=("Spindle", "spindle")), "class 'spindle'; known: Epithelial, Inf"),
        (GeojsonOptions(regions=("Tumor",)), "region 'Tumor'; known: Tumour, A "),
    ],
)
def test_what_the_run_does_not_have_is_refused(tmp_path, options, message):
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    with pytest.raises(UnknownName, match=message):
        export_geojson(FakeResult(tmp_path, table, REGIONS), tmp_path / "a.geojson", options)
    assert list(tmp_path.iterdir()) == []


def test_without_regions_any_is_unknown(tmp_path):
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    with pytest.raises(UnknownName, match="region 'Tumour'; known: none"):
        export_geojson(
            FakeResult(tmp_path, table), tmp_path / "a.geojson", GeojsonOptions(regions=("Tumour",))
        )


@pytest.mark.parametrize("split", [3, 7, 10, 1_000_000])
@pytest.mark.parametrize("options", [{}, {"classes": ("Spindle", "Epithelial")}])
def test_parts_hold_every_nucleus_once_and_in_order(tmp_path, split, options):
    table = with_regions(table_of(tmp_path, blobs(4), 4, 2.004))
    expected = slow_choice(table, GeojsonOptions(**options))
    features = slow_geojson(expected, CLASS_COLOURS, ORIGIN_PX)["features"]
    paths = export_geojson(
        FakeResult(tmp_path, table, REGIONS),
        tmp_path / "a.svs.geojson.gz",
        GeojsonOptions(split=split, **options),
    )
    n_parts = math.ceil(len(expected) / split)
    assert [path.name for path in paths] == [
        f"a.svs-{number:03}.geojson.gz" for number in range(1, n_parts + 1)
    ]
    assert sorted(tmp_path.iterdir()) == paths
    for k, path in enumerate(paths):
        part = {"type": "FeatureCollection", "features": features[k * split : (k + 1) * split]}
        assert read(path) == part


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a"])
def test_without_nuclei_there_is_one_empty_part(tmp_path, name):
    run = FakeResult(tmp_path, CELLS_SCHEMA.empty_table())
    (path,) = export_geojson(run, tmp_path / name, GeojsonOptions(split=3))
    assert path.name == f"a-001{name[1:]}"
    assert read(path) == {"type": "FeatureCollection", "features": []}


def test_there_are_digits_enough():
    paths = _geojson_choice.part_paths(Path("x/a.geojson"), 1000)
    assert [paths[0].name, paths[-1].name] == ["a-0001.geojson", "a-1000.geojson"]
    assert len(_geojson_choice.part_paths(Path("a.geojson"), 999)) == 999
    assert _geojson_choice.part_paths(Path("a.geojson"), 999)[-1].name == "a-999.geojson"


def test_parts_of_an_older_split_do_not_mix_with_newer_ones(tmp_path):
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    (tmp_path / "a-004.geojson").write_text("older")
    (tmp_path / "b-001.geojson").write_text("another slide's")
    run = FakeResult(tmp_path, table)
    with pytest.raises(OutputExists, match=r"a-004\.geojson exists"):
        export_geojson(run, tmp_path / "a.geojson", GeojsonOptions(split=len(table)))
    assert {path.name for path in tmp_path.iterdir()} == {"a-004.geojson", "b-001.geojson"}


def test_all_parts_appear_or_none(tmp_path, monkeypatch):
    table = table_of(tmp_path, blobs(4), 4, 2.004)
    run, split = FakeResult(tmp_path, table), GeojsonOptions(split=5)
    rename = Path.rename

    def full(self, target):
        if target.name.endswith("-003.geojson"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with pytest.raises(OutputNotWritable, match=r"a\.geojson could not be written"):
            export_geojson(run, tmp_path / "a.geojson", split)
    assert list(tmp_path.iterdir()) == []

    def broken():
        yield from table.to_batches(7)
        raise ResultNotReadable("damaged")

    run.batches = broken
    with pytest.raises(ResultNotReadable, match=r"^damaged$"):
        export_geojson(run, tmp_path / "a.geojson", split)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", [0, -1])
def test_a_part_holds_at_least_one(split):
    with pytest.raises(UsageError, match="at least 1"):
        GeojsonOptions(split=split)


def test_exporters_are_found_by_name_or_given():
    assert {"geojson", "ome-zarr"} <= set(exporter_names())
    assert find_exporter("geojson") is export_geojson

    def own(result, destination): ...

    assert find_exporter(own) is own
    with pytest.raises(UnknownName, match="geojson"):
        find_exporter("shapefile")


def test_many_nuclei_are_fast(tmp_path):
    """The nuclei are discs of 12 px with 37 vertices, a common size."""
    row, col = np.mgrid[:360, :360]
    discs = (row // 36 * 10 + col // 36 + 1) * ((row % 36 - 18) ** 2 + (col % 36 - 18) ** 2 < 145)
    few = table_of(tmp_path, discs, 5, 2.004)
    n = 300_000
    many = few.take(np.arange(n) % len(few)).to_batches(65_536)
    write_geojson(iter(few.to_batches()), tmp_path / "warm.geojson.gz", CLASS_COLOURS, ORIGIN_PX)
    start, start_cpu = time.perf_counter(), time.process_time()
    write_geojson(iter(many), tmp_path / "many.geojson.gz", CLASS_COLOURS, ORIGIN_PX)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(f"{n:,} nuclei in {seconds:.2f} s ({cpu:.2f} s of processor time)")  # noqa: T201
    # An object per nucleus takes more than 20 s.  Tests run side by side: no wall-clock time.
    assert cpu < 6
