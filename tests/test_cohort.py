"""Statistics of cohorts: full products, groups, intervals, planted differences."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import slow_intervals as slow
from click.testing import Result as Said
from run_dirs import CLASSES, RUN, cell_table, random_table, write_run
from typer.testing import CliRunner

import wsiseg
from wsiseg.answers.detection import false_positives
from wsiseg.answers.stats import slide_stats
from wsiseg.classes.versions import CLASSES_SCHEMA
from wsiseg.cli import app
from wsiseg.errors import ResultNotReadable, UnknownName, UsageError
from wsiseg.exporters.class_table import write_class_version

ALL = "(all)"
TILE_PX = 500.0
RATES = {"Epithelial": 10.0, "Inflammatory": 400.0, "Spindle": 0.0, ALL: 410.0}


def run(*arguments: object) -> Said:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def write_tiles(folder: Path, share: float = 1.0) -> None:
    """Write tiles that cover the slide of `run_dirs`: 8 columns, 6 rows."""
    row, col = (axis.ravel() for axis in np.indices((6, 8)))
    side = np.full(48, TILE_PX)
    tiles = {"row": row, "col": col, "x": col * TILE_PX, "y": row * TILE_PX}
    tiles |= {"width": side, "height": side, "tissue_share": np.full(48, share, np.float32)}
    flags = pa.array([["unreadable"] if i == 5 else [] for i in range(48)], pa.list_(pa.string()))
    pq.write_table(pa.table(tiles | {"flags": flags}), folder / "tiles.parquet")


def card(rates: dict[str, float] | None) -> dict[str, Any]:
    about = {} if rates is None else {"metrics": {"false_positives": {"per_mm2": rates}}}
    return {"name": "test-model", "sha256": "0" * 64, "card": {"about": about}}


def slide(name: str) -> dict[str, Any]:
    return RUN["slide"] | {"name": name}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides of four patients: one without nuclei, one without tissue, one failed."""
    folder = tmp_path_factory.mktemp("cohort")
    sizes = {"a.svs": 300, "b.svs": 120, "sub/a.svs": 80, "c.svs": 0, "none.svs": 0, "d.svs": 210}
    for seed, (place, n) in enumerate(sizes.items()):
        table = random_table(n, seed) if n else cell_table([], [], [])
        area: dict[str, Any] = {"analysed_mm2": 1.0 + seed / 4}
        if place == "none.svs":
            area = {"analysed_mm2": 0, "no_density_reason": "no tissue was found"}
        name = slide(place.rpartition("/")[2])
        path = folder / f"{place}.wsiseg"
        write_tiles(write_run(path, table, slide=name, model=card(RATES), **area))
    failed = {"status": "failed", "error": {"type": "X", "message": "no light"}}
    write_run(folder / "dark.svs.wsiseg", random_table(9), **failed)
    return folder


METADATA = """slide;patient;group
a.svs;p1;old
b.svs;p2;old
sub/a.svs.wsiseg;p1;old
c;p3;new
none.svs;p4;new
d.svs;p4;
unheard.svs;p9;old
"""


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path = tmp_path / "cohort.csv"
    # `a.svs` names a place, though another slide is called so too.
    path.write_text("\ufeff" + METADATA, encoding="utf-8")
    return path


def read(out: Path) -> dict[str, wsiseg.Result]:
    return {
        path.relative_to(out).as_posix().removesuffix(".wsiseg"): wsiseg.open_result(path)
        for path in wsiseg.find_results(out)
        if "dark" not in path.name
    }


def slow_rows(out: Path, members: dict[Any, list[str]]) -> dict[tuple[Any, str], dict[str, Any]]:
    """Count groups of slides row by row."""
    results = read(out)
    found = {}
    for group, slides in members.items():
        rows = [row for one in slides for row in results[one].cells().to_pylist()]
        area = sum(results[one].analysed_mm2 for one in slides)
        for name in (*CLASSES, ALL):
            mine = [row["area_um2"] for row in rows if name in (ALL, row["class_name"])]
            quarters = statistics.quantiles(mine, method="inclusive") if len(mine) > 1 else None
            found[group, name] = {
                "n": len(mine),
                "analysed_mm2": pytest.approx(area),
                "per_mm2": pytest.approx(len(mine) / area) if area else None,
                "share": pytest.approx(len(mine) / len(rows)) if rows else None,
                "mean_area_um2": pytest.approx(statistics.mean(mine)) if mine else None,
                "sd_area_um2": pytest.approx(statistics.stdev(mine)) if len(mine) > 1 else None,
                "q25_area_um2": quarters and pytest.approx(quarters[0]),
                "median_area_um2": quarters and pytest.approx(quarters[1]),
                "q75_area_um2": quarters and pytest.approx(quarters[2]),
            }
    return found


def by_key(table: pa.Table, *keys: str) -> dict[Any, dict[str, Any]]:
    rows = table.to_pylist()
    found = {(*(row[key] for key in keys), row["class_name"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_slide_has_every_class(out: Path) -> None:
    answer = wsiseg.cohort_stats(out)
    slides = read(out)
    expected = slow_rows(out, {name: [name] for name in slides})
    found = by_key(answer.table, "slide")
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert {name: found[key][name] for name in row} == row, key
    assert found["none.svs", ALL]["no_density_reason"] == "no tissue was found"
    assert [str(error) for error in answer.unread if "no light" in str(error)]
    older = slide_stats(list(slides.values()))
    numbers = answer.table.select(["class_name", "n", "analysed_mm2", "per_mm2"])
    assert sorted(map(str, numbers.to_pylist())) == sorted(
        map(str, older.select(numbers.column_names).to_pylist())
    )


def test_the_interval_of_a_slide_is_over_its_tiles(out: Path) -> None:
    found = by_key(wsiseg.cohort_stats(out).table, "slide")
    result = read(out)["a.svs"]
    n: dict[tuple[int, int], int] = defaultdict(int)
    for row in result.cells(["Epithelial"]).to_pylist():
        n[int(row["y"] // TILE_PX), int(row["x"] // TILE_PX)] += 1
    places = [(i // 8, i % 8) for i in range(48)]
    # The sixth tile was left out, so it has no area, whatever lies in it.
    areas = [0.0 if i == 5 else result.analysed_mm2 / 47 for i in range(48)]
    low, high = slow.tiles([n[place] for place in places], areas, places)
    row = found["a.svs", "Epithelial"]
    assert (row["per_mm2_low"], row["per_mm2_high"]) == pytest.approx((low, high))
    assert row["interval_over"] == "tiles"
    assert (found["c.svs", ALL]["per_mm2_low"], found["c.svs", ALL]["n"]) == (0, 0)
    assert found["c.svs", ALL]["per_mm2_high"] > 0
    assert found["none.svs", ALL]["per_mm2_high"] is None


def test_groups_are_pooled_with_patients_as_units(out: Path, metadata: Path) -> None:
    answer = wsiseg.cohort_stats(out, by="group", metadata=metadata)
    members = {
        "new": ["c.svs", "none.svs"],
        "old": ["a.svs", "b.svs", "sub/a.svs"],
        None: ["d.svs"],
    }
    found = by_key(answer.table, "group")
    expected = slow_rows(out, members)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert {name: found[key][name] for name in row} == row, key
    old = found["old", "Epithelial"]
    results = read(out)
    counts = {name: results[name].cells(["Epithelial"]).num_rows for name in members["old"]}
    area = {name: results[name].analysed_mm2 for name in members["old"]}
    low, high = slow.units(
        [counts["a.svs"] + counts["sub/a.svs"], counts["b.svs"]],
        [area["a.svs"] + area["sub/a.svs"], area["b.svs"]],
    )
    assert (old["per_mm2_low"], old["per_mm2_high"]) == pytest.approx((low, high))
    assert (old["n_slides"], old["n_units"], old["interval_over"]) == (3, 2, "patient")
    by_slide = by_key(
        wsiseg.cohort_stats(out, by="group", metadata=metadata, unit="slide").table, "group"
    )
    assert by_slide["old", "Epithelial"]["n_units"] == 3
    assert found["new", ALL]["n_units"] == 1
    assert found["new", ALL]["per_mm2_low"] is None
    assert any("unheard.svs" in note for note in answer.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,patient\na.svs,p1\n", "exactly one column slide"),
        ("slide,slide\na.svs,p1\n", "exactly one column slide"),
        ("slide,age,age\na.svs,1,2\n", "2 columns 'age'"),
        ("slide,age\nb.svs,1\nb.svs,2\n", "line 3.*line 2"),
        ("slide,age\nb.svs,1\nb,2\n", "line 3.*line 2"),
        ("slide,age\nb.svs\n", "has 1 cells, the header 2"),
        ('slide,age\n"b.svs,1\n', "check the quotes"),
        ("slide,,\nb.svs,,old\n", "'old' is in a column without a name"),
        ("", "exactly one column slide"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(
    out: Path, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        wsiseg.cohort_stats(out, metadata=path)


def test_columns_that_excel_adds_and_cells_that_say_na_are_empty(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "slide,patient,group,,\na.svs,NA,old,,\nb.svs,n/a,old,,\nd.svs,p1,old,,\n"
        "sub/a.svs,,old,,\nc,p3,#N/A,,\nnone.svs,p4,new,,\n"
    )
    answer = wsiseg.cohort_stats(out, by="group", metadata=path)
    found = by_key(answer.table, "group")
    assert (found["old", ALL]["n_slides"], found["old", ALL]["n_units"]) == (4, 4)
    assert found[None, ALL]["n_slides"] == 1
    notes = "\n".join(answer.notes)
    assert "3 cells say #N/A, NA, n/a: they are taken for empty" in notes
    assert "3 slides have no patient (a.svs, b.svs, sub/a.svs): each counts as one" in notes


def fingerprinted(name: str, fingerprint: str = "f" * 64) -> dict[str, Any]:
    return slide(name) | {"fingerprint": fingerprint}


def test_a_slide_is_never_counted_twice_silently(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for place, mark in {"a": "f", "copy/a": "f", "b": "1", "c": "2", "d": "3"}.items():
        name = fingerprinted(place, mark * 64)
        write_tiles(write_run(out / f"{place}.wsiseg", random_table(30), slide=name))
    path = tmp_path / "m.csv"
    path.write_text("slide,group\na,x\ncopy/a,x\nb,x\nc,y\nd,y\n")
    assert any("runs of the same slide" in note for note in wsiseg.cohort_stats(out).notes)
    with pytest.raises(UsageError, match=r"a, copy/a are runs of the same slide.*count twice"):
        wsiseg.cohort_stats(out, by="group", metadata=path)
    with pytest.raises(UsageError, match=r"a, copy/a are runs of the same slide.*count twice"):
        wsiseg.compare_groups(out, "group", path)
    path.write_text("slide,group\na,x\ncopy/a,y\nb,x\nc,y\nd,y\n")
    with pytest.raises(UsageError, match="same slide in the groups 'x', 'y'"):
        wsiseg.compare_groups(out, "group", path)
    path.write_text("slide,group\na,x\ncopy/a,\nb,x\nc,y\nd,y\n")
    assert by_key(wsiseg.compare_groups(out, "group", path).table)[(ALL,)]["n_reference"] == 2


def test_runs_of_regions_of_a_slide_are_one_unit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    region = {"name": "r", "class": None, "kind": "annotation", "missing": False}
    for place in ("a1", "a2"):
        table = random_table(30)
        members = pa.array([[0]] * 30, pa.list_(pa.uint16()))
        write_run(
            out / f"{place}.wsiseg",
            table.append_column("region_ids", members),
            slide=fingerprinted("a"),
            regions=[region | {"analysed_mm2": 2.5}],
        )
    write_run(out / "b.wsiseg", random_table(30), slide=fingerprinted("b", "1" * 64))
    path = tmp_path / "m.csv"
    path.write_text("slide,group\na1,x\na2,x\nb,x\n")
    answer = wsiseg.cohort_stats(out, by="group", metadata=path)
    row = by_key(answer.table, "group")["x", ALL]
    assert (row["n"], row["n_slides"], row["n_units"]) == (90, 3, 2)
    assert any("a1, a2 are runs of the same slide" in note for note in answer.notes)


def test_sizes_that_some_runs_lack_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a.wsiseg", random_table(30), slide=slide("a"))
    lacking = random_table(30, 2).drop_columns(["area_um2"])
    write_run(tmp_path / "b.wsiseg", lacking, slide=slide("b"))
    notes = wsiseg.cohort_stats(tmp_path).notes
    assert any("1 of 2 runs have no cells.area_um2" in note for note in notes)
    assert "sizes are those of the other runs' nuclei alone" in notes


def test_a_version_of_the_classes_has_no_rates_of_the_model(tmp_path: Path) -> None:
    new = {"cell_id": np.arange(1, 31), "class_name": ["Inflammatory"] * 30}
    table = pa.table(new | {"class_prob": [0.5] * 30}, CLASSES_SCHEMA)
    classes = [{"name": "Inflammatory", "index": 1, "rgb": [1, 2, 3]}]
    cells = random_table(30).append_column("class_prob", pa.array([0.9] * 30, pa.float32()))
    for name in ("a", "b"):
        path = write_run(tmp_path / f"{name}.wsiseg", cells, model=card(RATES))
        write_class_version(path, "mine", table.to_batches(), classes, {"how": "a test"})
    csv_path = tmp_path / "m.csv"
    csv_path.write_text("slide,group\na,x\nb,y\n")
    compared = by_key(wsiseg.compare_groups(tmp_path, "group", csv_path, classes="mine").table)
    assert compared[("Inflammatory",)]["above_false_positives"] is None
    assert compared[(ALL,)]["above_false_positives"] is False
    answer = wsiseg.cohort_stats(tmp_path, classes="mine")
    found = by_key(answer.table, "slide")
    assert found["a", "Inflammatory"]["false_positives_per_mm2"] is None
    # Which nuclei there are is the model's doing still.
    assert found["a", ALL]["false_positives_per_mm2"] == RATES[ALL]
    assert any("false positives of Inflammatory were never" in note for note in answer.notes)


def test_a_name_that_could_be_several_slides_is_refused(tmp_path: Path) -> None:
    for place in ("x/a.svs", "y/a.svs"):
        write_run(tmp_path / "out" / f"{place}.wsiseg", random_table(5))
    path = tmp_path / "m.csv"
    path.write_text("slide,age\na.svs,3\n")
    with pytest.raises(UsageError, match=r"x/a\.svs, y/a\.svs"):
        wsiseg.cohort_stats(tmp_path / "out", metadata=path)


def test_slides_without_a_row_are_counted_and_told(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("slide,group\nb.svs,old\n")
    answer = wsiseg.cohort_stats(out, by=["group"], metadata=path)
    found = by_key(answer.table, "group")
    assert found[None, ALL]["n_slides"] == 5
    assert found[None, ALL]["n"] + found["old", ALL]["n"] == 710
    assert any("no row for 5 of 6 slides" in note for note in answer.notes)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"by": "grade"}, UnknownName, "grade"),
        ({"by": "n"}, UsageError, "rename it"),
        ({"by": "group", "unit": "centre"}, UnknownName, "centre"),
        ({"by": "group,class"}, UsageError, "'class' is a column of the metadata"),
        ({"unit": "n"}, UsageError, "rows are slides or regions"),
        ({"confidence": 95}, UsageError, "from 0.5 to below 1"),
        ({"model": "other"}, UnknownName, "other"),
    ],
)
def test_what_is_not_there_is_told(
    out: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("slide,n,class,group\nb.svs,old,I,x\n")
    with pytest.raises(error, match=words):
        wsiseg.cohort_stats(out, metadata=path, **options)


def test_two_models_are_not_summed_silently(tmp_path: Path) -> None:
    write_run(tmp_path / "a.svs.wsiseg", random_table(20))
    other = {"name": "other", "sha256": "f" * 64, "card": {}}
    classes = [{"name": "Tumour", "index": 1, "rgb": [1, 2, 3]}]
    table = cell_table([1, 2], [1, 2], ["Tumour"] * 2)
    write_run(tmp_path / "b.svs.wsiseg", table, model=other, classes=classes)
    for ask in (wsiseg.cohort_stats, lambda runs: wsiseg.ask_each(runs, wsiseg.class_mixing)):
        with pytest.raises(UsageError, match="2 models"):
            ask(tmp_path)
    path = tmp_path / "m.csv"
    path.write_text("slide,group\na.svs,x\nb.svs,x\n")
    rows = wsiseg.cohort_stats(tmp_path, by="group", metadata=path, model="all").table.to_pylist()
    assert [(row["model"], row["class_name"], row["n"]) for row in rows if row["n"]] == [
        ("other", "Tumour", 2),
        ("other", ALL, 2),
        *(
            (row["model"], row["class_name"], row["n"])
            for row in rows
            if row["model"] == "test-model" and row["n"]
        ),
    ]
    assert len(rows) == 2 + 4


def test_a_class_the_run_does_not_have_means_damage(tmp_path: Path) -> None:
    write_run(tmp_path / "a.svs.wsiseg", cell_table([1], [1], ["Mitosis"]))
    with pytest.raises(ResultNotReadable, match="Mitosis"):
        wsiseg.cohort_stats(tmp_path)


def test_regions_have_all_classes_and_missing_cores_none(tmp_path: Path) -> None:
    table = cell_table([10, 20, 30], [10, 10, 10], ["Spindle", "Spindle", None])
    members = pa.array([[0, 1], [0], []], pa.list_(pa.uint16()))
    regions = [
        {"name": "r", "class": "T", "kind": "annotation", "missing": False, "analysed_mm2": 0.5},
        {"name": "s", "class": None, "kind": "annotation", "missing": False, "analysed_mm2": 0.0},
        {"name": "t", "class": None, "kind": "tma-core", "missing": True, "analysed_mm2": 0.0},
    ]
    path = write_run(
        tmp_path / "a.svs.wsiseg", table.append_column("region_ids", members), regions=regions
    )
    found = by_key(wsiseg.cohort_stats(path, by=["region"]).table, "region")
    old = by_key(wsiseg.region_stats([wsiseg.open_result(path)]), "region")
    assert found.keys() == old.keys()
    for key, row in old.items():
        same = ("region_class", "n", "analysed_mm2", "per_mm2", "median_area_um2")
        assert {name: found[key][name] for name in same} == {
            name: pytest.approx(row[name]) if isinstance(row[name], float) else row[name]
            for name in same
        }, key
    assert found["t", "Spindle"]["n"] is None
    assert found["s", "Spindle"]["n"] == 1


def test_densities_like_false_positives_are_told(out: Path) -> None:
    answer = wsiseg.cohort_stats(out)
    for row in answer.table.to_pylist():
        rate = RATES[row["class_name"]]
        assert row["false_positives_per_mm2"] == rate
        known = row["per_mm2"] >= 2 * rate if row["n"] and row["per_mm2"] else None
        assert row["above_false_positives"] is known
    assert any("not distinguishable from false positives" in note for note in answer.notes)
    said = run("stats", out)
    assert said.exit_code == 3
    assert "not distinguishable" in said.stderr
    lines = [line for line in said.stdout.splitlines() if line.startswith("a.svs ")]
    assert [line.endswith("like false positives") for line in lines] == [False, True, False, True]


def test_the_shipped_card_says_its_false_positives() -> None:
    shipped, *_ = wsiseg.list_models()
    rates = false_positives({"sha256": shipped.sha256, "card": {}})
    assert rates.keys() == {*shipped.class_names, ALL}
    assert sum(rates.values()) == pytest.approx(2 * rates[ALL], rel=0.01)
    assert shipped.about["metrics"]["false_positives"]["definition"]
    assert false_positives({"sha256": "0" * 64, "card": {}}) == {}


def planted(folder: Path, seed: int, ratio: float, n_patients: int = 12, cells: int = 60) -> Path:
    """Write a cohort whose group `low` has a lower density of one class, and its metadata."""
    rng = np.random.default_rng([11, seed])
    lines = ["slide,patient,group"]
    for patient in range(2 * n_patients):
        group = ("high", "low")[patient % 2]
        own = rng.gamma(9, 1 / 9, 2)
        for number in range(1 + patient % 3):
            place = f"p{patient}_{number}.svs"
            area = rng.uniform(0.5, 3)
            mean = np.array([cells * (ratio if group == "low" else 1.0), cells]) * own * area
            n = rng.poisson(mean)
            names = [CLASSES[0]] * int(n[0]) + [CLASSES[1]] * int(n[1])
            x, y = rng.uniform(0, 2000, (2, len(names)))
            table = cell_table(x, y, names).drop_columns(["geometry", "bbox"])
            write_run(folder / f"{place}.wsiseg", table, slide=slide(place), analysed_mm2=area)
            lines.append(f"{place},P{patient},{group}")
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_planted_difference_is_found_with_an_interval_that_holds_it(tmp_path: Path) -> None:
    metadata = planted(tmp_path, 1, 0.7)
    answer = wsiseg.compare_groups(tmp_path, "group", metadata)
    found = by_key(answer.table)
    row = found[("Epithelial",)]
    assert (row["reference"], row["group"], row["unit"]) == ("high", "low", "patient")
    assert (row["n_reference"], row["n_group"]) == (12, 12)
    assert row["ratio_low"] < 0.7 < row["ratio_high"] < 1
    assert row["shift_high"] < 0
    assert row["cliffs_delta_high"] < 0
    other = found[("Inflammatory",)]
    assert other["ratio_low"] < 1 < other["ratio_high"]
    # No nucleus is a spindle, so all is equal there: a delta of 0 is all that has an interval.
    (said,) = (note for note in answer.notes if note.startswith("4 comparisons were made"))
    assert "with 10 intervals" in said
    assert "a confidence of 0.9950 each" in said
    assert not any("p-value" in name or name.startswith("p_") for name in answer.table.column_names)
    # The units: each patient's nuclei over all that was analysed of them.
    n, area = defaultdict(int), defaultdict(float)
    for line in csv.DictReader(metadata.read_text().splitlines()):
        result = wsiseg.open_result(tmp_path / f"{line['slide']}.wsiseg")
        n[line["group"], line["patient"]] += result.cells(["Epithelial"]).num_rows
        area[line["group"], line["patient"]] += result.analysed_mm2
    density = {
        group: [n[key] / area[key] for key in n if key[0] == group] for group in ("high", "low")
    }
    low, high = slow.ratio(density["high"], density["low"])
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((low, high))
    assert row["shift_per_mm2"] == pytest.approx(slow.shift(density["high"], density["low"])[0])
    assert row["cliffs_delta"] == pytest.approx(slow.delta(density["high"], density["low"]))


@pytest.mark.slow
def test_planted_differences_are_held_as_often_as_said(tmp_path: Path) -> None:
    held, repeats = 0, 100
    for seed in range(repeats):
        folder = tmp_path / str(seed)
        metadata = planted(folder, seed, 0.7, cells=20)
        row = by_key(wsiseg.compare_groups(folder, "group", metadata).table)[("Epithelial",)]
        held += row["ratio_low"] <= 0.7 <= row["ratio_high"]
    assert 0.88 <= held / repeats <= 1


def test_a_patient_in_two_groups_is_refused(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("slide,patient,group\nb.svs,p1,old\nd.svs,p1,new\n")
    with pytest.raises(UsageError, match=r"'p1'.*'old' and 'new'"):
        wsiseg.compare_groups(out, "group", path)
    assert wsiseg.compare_groups(out, "group", path, unit="slide").table.num_rows == 4
    path.write_text("slide,group\nb.svs,old\nd.svs,\n")
    with pytest.raises(UsageError, match="at least two groups"):
        wsiseg.compare_groups(out, "group", path)


def test_the_command_gives_what_the_functions_give(out: Path, metadata: Path) -> None:
    given = run("stats", out, "--by", "group,class", "--metadata", metadata, "--format", "json")
    assert given.exit_code == 3
    assert json.loads(given.stdout) == (
        wsiseg.cohort_stats(out, by="group", metadata=metadata).table.to_pylist()
    )
    compared = run("stats", out, "--compare", "group", "--metadata", metadata, "--format", "json")
    assert json.loads(compared.stdout) == (
        wsiseg.compare_groups(out, "group", metadata).table.to_pylist()
    )
    for table in (["--by", "group"], ["--compare", "group"], ["--by", "slide,group"]):
        shown = run("stats", out, *table, "--metadata", metadata)
        assert shown.exit_code == 3
        assert "Epithelial" in shown.stdout
    both = run("stats", out, "--mixing", "--densest", "1")
    assert both.exit_code == 2
    assert run("stats", out, "--compare", "group").exit_code == 2
