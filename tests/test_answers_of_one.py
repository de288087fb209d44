"""Answers of one run: the densest square, who lies beside whom, regions drawn afterwards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from run_dirs import CLASSES, MPP, RUN, cell_table, random_table, write_run
from typer.testing import CliRunner

import wsiseg
from wsiseg.cli import app
from wsiseg.errors import ResultNotReadable, UnknownName, UsageError

ALL = "(all)"
ORIGIN = (100, 50)
TISSUE = shapely.box(300, 200, 3000, 2600).difference(shapely.box(1000, 1000, 1500, 1400))


def geojson(
    *shapes: shapely.Geometry, origin: tuple[float, float] | None = None, **more: Any
) -> str:
    """Return shapes as annotations, relative to an origin; only ours say what it is."""
    x, y = origin or ORIGIN
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shapely.transform(s, lambda xy: xy - (x, y))),
            "properties": {"objectType": "annotation", "name": f"r{i}"} | more,
        }
        for i, s in enumerate(shapes)
    ]
    said = {} if origin is None else {"origin_px": list(origin)}
    return json.dumps({"type": "FeatureCollection", **said, "features": features})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    """A run of a slide whose bounds do not begin at (0, 0)."""
    folder = write_run(tmp_path_factory.mktemp("one") / "a.svs.wsiseg", random_table(1500, 3))
    (folder / "tissue.geojson").write_text(geojson(TISSUE, origin=ORIGIN))
    return wsiseg.open_result(folder)


@pytest.mark.parametrize("mm2", [0.01, 0.25, 1.0])
def test_the_densest_square_is_that_of_the_slow_twin(result: wsiseg.Result, mm2: float) -> None:
    side_um = 1000 * mm2**0.5
    step = side_um / 50
    cells = result.cells().to_pylist()
    for row in wsiseg.densest_squares(result, mm2).to_pylist():
        name = row["class_name"]
        mine = [c for c in cells if name in (ALL, c["class_name"])]
        if not mine:
            assert (name, row["n"], row["x_um"]) == ("Spindle", 0, None)
            continue
        x, y = (np.array([c[axis] for c in mine]) for axis in ("x_um", "y_um"))
        left, top = row["x_um"], row["y_um"]
        last_x, last_y = (max(0, np.ceil(px * MPP / step) - 50) for px in (4000, 3000))
        assert round(left / step) * step == pytest.approx(left)
        assert min(left, top) >= 0
        assert left <= last_x * step
        inside = (x >= left) & (x < left + side_um) & (y >= top) & (y < top + side_um)
        # Up to rounding of places that lie on a step.
        assert abs(inside.sum() - row["n"]) <= 1
        # No square that has some nucleus in its first step can hold more.
        firsts = np.minimum(np.floor(x / step), last_x), np.minimum(np.floor(y / step), last_y)
        for a, b in zip(firsts[0] * step, firsts[1] * step, strict=True):
            there = (x >= a) & (x < a + side_um) & (y >= b) & (y < b + side_um)
            assert there.sum() <= row["n"] + 1
        box = shapely.box(*(v / MPP for v in (left, top, left + side_um, top + side_um)))
        area = box.intersection(TISSUE).area * MPP**2 / 1e6
        assert row["analysed_mm2"] == pytest.approx(area)
        assert row["analysed_share"] == pytest.approx(area / mm2)
        assert row["per_mm2"] == pytest.approx(row["n"] / area)
        assert (row["x"], row["width"]) == pytest.approx((left / MPP, side_um / MPP))


def test_a_planted_cluster_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 4000, 50), rng.uniform(3000, 3190, 40)])
    y = np.concatenate([rng.uniform(0, 3000, 50), rng.uniform(800, 990, 40)])
    order = np.argsort(y)
    path = write_run(tmp_path / "a.svs.wsiseg", cell_table(x[order], y[order], ["Spindle"] * 90))
    (row,) = wsiseg.open_result(path).densest(0.01, ["Spindle"]).to_pylist()
    assert row["n"] >= 40
    assert row["x"] <= 3004
    assert row["x"] + row["width"] >= 3190
    assert row["analysed_mm2"] is None


@pytest.mark.parametrize("mm2", [0, -1, float("nan"), 1e-5])
def test_a_square_needs_an_area(result: wsiseg.Result, mm2: float) -> None:
    with pytest.raises(UsageError, match="give the area"):
        result.densest(mm2)
    with pytest.raises(UnknownName, match="Mitosis"):
        result.densest(1, ["Mitosis"])


def test_blocks_side_by_side_are_those_of_one_block(
    result: wsiseg.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result.densest(0.09)
    monkeypatch.setattr("wsiseg.answers.densest._BLOCK", 7)
    assert result.densest(0.09).equals(whole)


def test_of_equal_squares_the_first_is_on_the_slide(tmp_path: Path) -> None:
    table = cell_table([20, 30], [10, 15], ["Spindle"] * 2)
    path = write_run(tmp_path / "a.wsiseg", table)
    for row in wsiseg.densest_squares(wsiseg.open_result(path), 1.0).to_pylist():
        assert (row["n"], row["x"], row["y"]) in ((0, None, None), (2, 0, 0))


def test_a_square_larger_than_the_slide_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a.wsiseg", random_table(5))
    with pytest.raises(UsageError, match=r"a\.svs is 1500 µm at its narrowest.*at most 2\.25 mm²"):
        wsiseg.open_result(tmp_path / "a.wsiseg").densest(2.26)
    assert wsiseg.open_result(tmp_path / "a.wsiseg").densest(2.25).num_rows == 4
    # Among others it is left out, and told.
    small = RUN["slide"] | {"name": "b.svs", "width_px": 500}
    write_run(tmp_path / "b.wsiseg", random_table(5), slide=small)
    said = CliRunner().invoke(app, ["stats", str(tmp_path), "--densest", "1"])
    assert (said.exit_code, "b.svs is 250 µm" in said.stderr) == (3, True)
    none = CliRunner().invoke(app, ["stats", str(tmp_path), "--densest", "0"])
    assert (none.exit_code, "at least 0.0025 mm²" in none.stderr) == (2, True)


def test_a_class_the_run_does_not_have_means_damage(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a.wsiseg", cell_table([1, 2], [1, 2], ["Mitosis"] * 2))
    for ask in (wsiseg.class_mixing, wsiseg.densest_squares):
        with pytest.raises(ResultNotReadable, match="Mitosis"):
            ask(wsiseg.open_result(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mixing", "--by", "region"], "--by would change nothing of --mixing"),
        (["--densest", "1", "--confidence", "0.9"], "--confidence would change nothing"),
        (["--within", "r.geojson", "--unit", "u", "--metadata", "m.csv"], "--metadata and --unit"),
        (["--compare", "g", "--metadata", "m.csv", "--by", "x"], "--by would change nothing"),
        (["--roi-origin", "slide"], "--roi-origin would change nothing here"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    result: wsiseg.Result, options: list[str], words: str
) -> None:
    said = CliRunner().invoke(app, ["stats", str(result.path), *options])
    assert (said.exit_code, words in said.stderr) == (2, True), said.stderr


def test_regions_off_the_slide_and_off_the_tissue_are_told(
    result: wsiseg.Result, tmp_path: Path
) -> None:
    path = tmp_path / "r.geojson"
    path.write_text(geojson(A, shapely.box(3300, 100, 3500, 300), shapely.box(3800, 10, 4300, 400)))
    rows = wsiseg.stats_within(result, path).to_pylist()
    reasons = {row["region"]: row["no_density_reason"] for row in rows}
    nothing = "nothing in the region was analysed"
    assert reasons == {"r0": None, "r1": nothing, "r2": nothing}
    said = CliRunner().invoke(app, ["stats", str(result.path), "--within", str(path)])
    assert said.exit_code == 0
    assert "note: r.geojson: " in said.stderr
    assert "r2" in said.stderr
    assert nothing in said.stdout


def test_mixing_is_that_of_the_slow_twin(result: wsiseg.Result) -> None:
    cells = [c for c in result.cells().to_pylist() if c["class_name"] is not None]
    place = np.array([(c["x_um"], c["y_um"]) for c in cells])
    names = [c["class_name"] for c in cells]
    pairs: Counter[tuple[str, str]] = Counter()
    for i, name in enumerate(names):
        distance = np.hypot(*(place - place[i]).T)
        distance[i] = np.inf
        pairs[name, names[int(distance.argmin())]] += 1
    total = Counter(names)
    rows = result.mixing().to_pylist()
    assert [(r["class_name"], r["neighbour"]) for r in rows] == [
        (a, b) for a in CLASSES for b in CLASSES
    ]
    for row in rows:
        a, b = row["class_name"], row["neighbour"]
        assert row["n"] == pairs[a, b]
        chance = (total[b] - (a == b)) / (len(names) - 1)
        if total[a]:
            assert row["share"] == pytest.approx(pairs[a, b] / total[a])
            assert row["chance"] == pytest.approx(chance)
        else:
            assert row["share"] is None
    # Labels were drawn at random, so every pair is about as often as by chance.
    for row in rows:
        if row["n"]:
            assert row["times_chance"] == pytest.approx(1, abs=0.15)


def test_classes_that_seek_each_other_are_told(tmp_path: Path) -> None:
    x = np.arange(0, 4000, 100.0)
    path = write_run(
        tmp_path / "a.svs.wsiseg",
        cell_table([*x, *(x + 3)], [100.0] * 80, ["Epithelial"] * 40 + ["Spindle"] * 40),
    )
    found = {
        (r["class_name"], r["neighbour"]): r for r in wsiseg.open_result(path).mixing().to_pylist()
    }
    assert found["Epithelial", "Spindle"]["share"] == 1
    assert found["Epithelial", "Spindle"]["times_chance"] == pytest.approx(79 / 40)
    assert found["Epithelial", "Spindle"]["median_um"] == pytest.approx(1.5)
    assert found["Epithelial", "Inflammatory"]["n"] == 0


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_a_nucleus_mixes_with_none(tmp_path: Path, n: int) -> None:
    table = cell_table([5.0] * n, [5.0] * n, ["Spindle"] * n)
    rows = wsiseg.open_result(write_run(tmp_path / "a.wsiseg", table)).mixing().to_pylist()
    assert [row["n"] for row in rows] == [0] * 9
    assert {row["share"] for row in rows} == {None}


A, B = shapely.Point(1500, 1300).buffer(700), shapely.box(150, 100, 900, 800)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    path = tmp_path / "drawn.geojson"
    path.write_text(geojson(A, B))
    return path


def test_cells_within_a_file_are_relative_to_the_bounds(result: wsiseg.Result, drawn: Path) -> None:
    found = result.cells(within=wsiseg.region_shape(result, drawn))
    assert found.equals(result.cells(within=shapely.union(A, B)))
    assert found.num_rows > 50
    with pytest.raises(UsageError, match="cannot be read"):
        wsiseg.region_shape(result, drawn.with_name("none.geojson"))


def test_stats_within_regions_are_those_of_the_slow_twin(
    result: wsiseg.Result, drawn: Path
) -> None:
    cells = result.cells().to_pylist()
    rows = wsiseg.stats_within(result, drawn).to_pylist()
    assert [(r["region"], r["class_name"]) for r in rows] == [
        (name, each) for name in ("r0", "r1") for each in (*CLASSES, ALL)
    ]
    for row in rows:
        shape = {"r0": A, "r1": B}[row["region"]]
        inside = [c for c in cells if shape.contains(shapely.Point(c["x"], c["y"]))]
        mine = [c for c in inside if row["class_name"] in (ALL, c["class_name"])]
        area = shape.intersection(TISSUE).area * MPP**2 / 1e6
        assert row["n"] == len(mine)
        assert row["analysed_mm2"] == pytest.approx(area, rel=1e-6)
        assert row["region_mm2"] == pytest.approx(shape.area * MPP**2 / 1e6, rel=1e-6)
        assert row["per_mm2"] == pytest.approx(len(mine) / area)
        assert row["share"] == pytest.approx(len(mine) / len(inside))


def test_the_commands_give_what_the_functions_give(result: wsiseg.Result, drawn: Path) -> None:
    def rows(*arguments: object) -> Any:
        command = ["stats", str(result.path), *map(str, arguments), "--format", "json"]
        said = CliRunner().invoke(app, command)
        assert said.exit_code == 0, said.stderr
        return [
            {name: value for name, value in row.items() if name not in ("slide", "model")}
            for row in json.loads(said.stdout)
        ]

    def plain(table: pa.Table) -> Any:
        kept = [name for name in table.column_names if name not in ("slide", "model")]
        return table.select(kept).to_pylist()

    assert rows("--densest", 0.25) == plain(result.densest(0.25))
    assert rows("--mixing") == plain(result.mixing())
    assert rows("--within", drawn) == plain(wsiseg.stats_within(result, drawn))
    for question in (["--densest", "1"], ["--mixing"], ["--within", str(drawn)]):
        shown = CliRunner().invoke(app, ["stats", str(result.path), *question])
        assert (shown.exit_code, "Epithelial" in shown.stdout) == (0, True)


def test_within_is_of_one_run(tmp_path: Path, drawn: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / f"{name}.wsiseg", random_table(5), slide=RUN["slide"])
    said = CliRunner().invoke(app, ["stats", str(tmp_path), "--within", str(drawn)])
    assert said.exit_code == 2
    assert "2 runs" in said.stderr


def test_a_missing_core_has_no_counts(result: wsiseg.Result, tmp_path: Path) -> None:
    path = tmp_path / "tma.geojson"
    path.write_text(geojson(A, objectType="tma_core", isMissing=True))
    rows = wsiseg.stats_within(result, path).to_pylist()
    assert {row["n"] for row in rows} == {None}
    assert {row["per_mm2"] for row in rows} == {None}
