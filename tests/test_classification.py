"""Classes from examples: what was planted is found, other runs are reached, mistakes are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from marked_runs import BOUNDS_PX, box, feature, marked_run, points, write_marks
from numpy.typing import NDArray
from run_dirs import RUN, write_features
from typer.testing import CliRunner

import wsiseg
from wsiseg.classes._features import _STAINED, chosen_features, fills_of, slide_medians
from wsiseg.classes.linear_model import model_from_json
from wsiseg.cli import app
from wsiseg.errors import OutputExists, ResultNotReadable, UnknownName, UsageError
from wsiseg.features import MEASURE_GROUPS, STAIN_COLUMNS, feature_columns
from wsiseg.neighbours import REACH_UM
from wsiseg.results import open_result

CLASSES = np.array(["Benign", "Tumour"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.int64]]:
    return marked_run(tmp_path_factory.mktemp("out") / "a.svs.wsiseg")


@pytest.fixture
def run(made: tuple[Path, NDArray[np.int64]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / made[0].name))


@pytest.fixture
def kind(made: tuple[Path, NDArray[np.int64]]) -> NDArray[np.int64]:
    return made[1]


def clicks(
    path: Path, run: Path, kind: NDArray[np.int64], n: int = 20, seed: int = 0, wrong: int = 0
) -> Path:
    """Write n clicks a class on nuclei chosen by lot, some of them of the wrong class."""
    table = pq.read_table(run / "cells.parquet", columns=["x", "y"])
    xy = np.column_stack([table["x"], table["y"]]) - BOUNDS_PX
    rng = np.random.default_rng(seed)
    features = []
    for k, name in enumerate(CLASSES):
        cells = rng.choice(np.flatnonzero(kind == k), n, replace=False)
        if wrong:
            cells[:wrong] = rng.choice(np.flatnonzero(kind != k), wrong, replace=False)
        features.append(feature(points(xy[cells].tolist()), str(name)))
    return write_marks(path, features)


def right(run: Path, kind: NDArray[np.int64], name: str = "examples") -> float:
    said = np.array(open_result(run, name).cells(columns=["class_name"])["class_name"].to_pylist())
    return float((said == CLASSES[kind]).mean())


def test_planted_classes_are_found_and_the_run_stays(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    found = wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind))
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    # Two normals six standard deviations apart.
    assert right(run, kind) > 0.95
    (result,) = found.results
    assert result.classes_version == found.name == "examples"
    assert result.class_colours["Tumour"] == (200, 6, 7)
    summary = result.summary()
    assert sum(each["n"] for each in summary["classes"].values()) == summary["total"]["n"] == 400

    report = found.report
    assert report is not None
    assert (report.classes, report.n_examples) == (("Benign", "Tumour"), (20, 20))
    assert report.importance[0][0] == "ring_eosin_od_mean"
    assert report.left_out == "area or click"
    assert report.balanced_accuracy is not None
    assert report.interval is not None
    assert 0.8 < report.interval[0] < report.balanced_accuracy <= report.interval[1] <= 1
    assert np.array(report.confusion).sum() == 40
    assert report.dropped == ("hematoxylin_od_mean",)
    assert report.warnings == ()


def test_what_is_kept_gives_the_same_classes_again(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    """The slow twin: the stored numbers, applied row by row."""
    wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind))
    record = json.loads((run / "classes" / "examples.json").read_text())
    said = record["made_by"]["model"]
    cells = pq.read_table(run / "cells.parquet").to_pylist()
    further = pq.read_table(run / "features.parquet").to_pylist()
    table = pq.read_table(run / "classes" / "examples.parquet").to_pylist()
    stained = float(np.median([more["ring_eosin_od_mean"] for more in further]))
    for cell, more, row in zip(cells, further, table, strict=True):
        numbers = []
        for j, name in enumerate(said["features"]):
            value = (cell | more)[name]
            value = value - stained if name == "ring_eosin_od_mean" else value
            value = said["fill"][j] if value is None else value
            numbers.append(np.clip((value - said["centre"][j]) / said["scale"][j], -5, 5))
        scores = np.exp(np.array(said["weights"]) @ numbers + said["intercepts"])
        assert row["cell_id"] == cell["cell_id"]
        assert row["class_name"] == said["classes"][int(scores.argmax())]
        assert row["class_prob"] == pytest.approx(scores.max() / scores.sum(), rel=1e-5)
    assert said["fill"][said["features"].index("nearest_cell_um")] == 100
    assert model_from_json(said).classes == ("Benign", "Tumour")
    assert str(tmp_path) not in json.dumps(record)


def test_the_same_call_gives_the_same_bytes(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    marks = clicks(tmp_path / "m.geojson", run, kind)
    records = []
    for name in ("one", "two"):
        wsiseg.classify(run, marks, name=name)
        records.append(json.loads((run / "classes" / f"{name}.json").read_text())["made_by"])
    one, two = (pq.read_table(run / "classes" / f"{name}.parquet") for name in ("one", "two"))
    assert one.equals(two)
    assert records[0] == records[1]


def test_classes_that_no_number_tells_are_said_to_be_weak(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    marks = clicks(tmp_path / "m.geojson", run, kind)
    options = wsiseg.ClassifyOptions("size,shape")
    report = wsiseg.classify(run, marks, options=options).report
    assert report is not None
    assert report.features == ("area_um2", "solidity")
    assert report.balanced_accuracy is not None
    assert report.balanced_accuracy < 0.7
    assert any("no better than guessing" in said or "weak" in said for said in report.warnings)


def test_wrong_clicks_cost_a_little_only(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind, wrong=2))
    assert right(run, kind) > 0.93


def test_few_examples_and_single_areas_are_warned_of(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    few = wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind, 6)).report
    assert few is not None
    assert any("few examples of Benign (6), Tumour (6)" in said for said in few.warnings)
    areas = [feature(box(0, 0, 600, 300), "A"), feature(box(0, 310, 600, 600), "B")]
    marks = write_marks(tmp_path / "areas.geojson", areas)
    one = wsiseg.classify(run, marks, name="areas").report
    assert one is not None
    assert one.left_out == "nucleus"
    assert any("all its examples in one area" in said for said in one.warnings)


def test_a_model_reaches_other_runs(run: Path, kind: NDArray[np.int64], tmp_path: Path) -> None:
    other, its_kind = marked_run(tmp_path / "b.svs.wsiseg", 300, seed=7)
    wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind), name="t")
    record = run / "classes" / "t.json"
    found = wsiseg.classify(other, model_from=record, name="t")
    assert found.report is None
    assert right(other, its_kind, "t") > 0.95
    again = json.loads((other / "classes" / "t.json").read_text())
    assert again["classes"] == json.loads(record.read_text())["classes"]
    assert again["made_by"]["taken_from"] == "t"


def test_a_stronger_stain_changes_nothing(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    other, its_kind = marked_run(tmp_path / "b.svs.wsiseg", 300, seed=7)
    features = pq.read_table(other / "features.parquet").to_pydict()
    stronger = [value + 50 for value in features["ring_eosin_od_mean"]]
    near = features["nearest_cell_um"]
    write_features(other, ring_eosin_od_mean=stronger, nearest_cell_um=near)
    wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind))
    wsiseg.classify(other, model_from=run / "classes" / "examples.json")
    assert right(other, its_kind) > 0.95


def test_medians_are_of_nuclei_from_all_over_the_slide(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = pq.read_table(run / "features.parquet")["ring_eosin_od_mean"].to_numpy()
    for most, every in ((400, 1), (399, 2), (50, 8), (7, 58)):
        monkeypatch.setattr("wsiseg.classes._features._SAMPLED_ROWS", most)
        monkeypatch.setattr("wsiseg._cell_files._BATCH_ROWS", 33)
        medians = slide_medians(open_result(run), ["solidity", "ring_eosin_od_mean"])
        assert medians.tolist() == [0, pytest.approx(float(np.median(values[::every])))]


def test_examples_may_lie_in_several_runs(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    runs = {run: kind}
    for name, seed in (("b.svs", 7), ("c.svs", 8), ("d.svs", 9)):
        folder, its_kind = marked_run(tmp_path / f"{name}.wsiseg", 100, seed=seed)
        runs[folder] = its_kind
    for i, (folder, its_kind) in enumerate(list(runs.items())[:3]):
        name = folder.name.removesuffix(".wsiseg") if i else "a"
        clicks(marks / f"{name}.geojson", folder, its_kind, 10, seed=i)
    found = wsiseg.classify(tmp_path, marks)
    assert len(found.results) == 4
    for folder, its_kind in runs.items():
        assert right(folder, its_kind) > 0.93
    report = found.report
    assert report is not None
    assert (report.n_slides, report.n_examples, report.left_out) == (3, (30, 30), "slide")

    (marks / "z.geojson").write_text("{}")
    with pytest.raises(UsageError, match=r"holds z\.geojson for which there is no run"):
        wsiseg.classify(tmp_path, marks, overwrite=True)
    with pytest.raises(UsageError, match=r"4 runs and one file of examples"):
        wsiseg.classify(tmp_path, marks / "a.geojson", overwrite=True)


def test_versions_are_not_overwritten_unasked(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    marks = clicks(tmp_path / "m.geojson", run, kind)
    wsiseg.classify(run, marks)
    other = clicks(tmp_path / "o.geojson", run, 1 - kind)
    with pytest.raises(OutputExists, match="has a version 'examples'"):
        wsiseg.classify(run, other)
    assert right(run, kind) > 0.95
    wsiseg.classify(run, other, overwrite=True)
    assert right(run, kind) < 0.1


def test_a_run_without_nuclei_gets_its_classes_too(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    empty, _ = marked_run(tmp_path / "empty.wsiseg", 0)
    wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind))
    wsiseg.classify(empty, model_from=run / "classes" / "examples.json")
    counted = open_result(empty, "examples").summary()["classes"]
    assert {name: each["n"] for name, each in counted.items()} == {"Benign": 0, "Tumour": 0}


def test_what_classify_refuses(run: Path, kind: NDArray[np.int64], tmp_path: Path) -> None:
    marks = clicks(tmp_path / "m.geojson", run, kind)
    for wrong in ({}, {"examples": marks, "model_from": marks}):
        with pytest.raises(UsageError, match=r"give either examples .* or model_from"):
            wsiseg.classify(run, **wrong)
    with pytest.raises(UsageError, match=r"'colours' is no group.*groups: size, shape, colour"):
        wsiseg.classify(run, marks, options=wsiseg.ClassifyOptions("colours"))
    with pytest.raises(UsageError, match=r"a\.svs\.wsiseg has no texture; segment the slide again"):
        wsiseg.classify(run, marks, options=wsiseg.ClassifyOptions(["texture"]))
    with pytest.raises(
        UsageError, match=r"too few examples of Benign, Tumour .*Benign 4, Tumour 4"
    ):
        wsiseg.classify(run, clicks(tmp_path / "few.geojson", run, kind, 4))
    one = write_marks(tmp_path / "one.geojson", [feature(box(0, 0, 900, 900), "A")])
    with pytest.raises(UsageError, match="examples of two classes at least"):
        wsiseg.classify(run, one)
    with pytest.raises(UsageError, match="is no name for a version"):
        wsiseg.classify(run, marks, name="a/b")
    with pytest.raises(UsageError, match="cannot be read"):
        wsiseg.classify(run, tmp_path / "nothing.geojson")
    assert open_result(run).class_versions == ()


def test_a_model_is_not_used_where_it_does_not_fit(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    wsiseg.classify(run, clicks(tmp_path / "m.geojson", run, kind))
    record = run / "classes" / "examples.json"
    model = RUN["model"] | {"sha256": "1" * 64}
    foreign, _ = marked_run(tmp_path / "f.wsiseg", 50, model=model)
    with pytest.raises(ResultNotReadable, match=r"with test-model .*other weights"):
        wsiseg.classify(foreign, model_from=record)
    old, _ = marked_run(tmp_path / "old.wsiseg", 50, features=False)
    said = r"old\.wsiseg has no nearest_cell_um, ring_eosin_od_mean, which the model needs; segment"
    with pytest.raises(ResultNotReadable, match=said):
        wsiseg.classify(old, model_from=record)
    empty, _ = marked_run(tmp_path / "empty.wsiseg", 50)
    write_features(empty, ring_eosin_od_mean=[None] * 50, nearest_cell_um=[1.0] * 50)
    with pytest.raises(ResultNotReadable, match="has no value of ring_eosin_od_mean, which"):
        wsiseg.classify(empty, model_from=record)
    assert open_result(empty).class_versions == ()
    # Among several the others are done, and the reasons told.
    found = wsiseg.classify([foreign, old, run], model_from=record, name="again")
    assert [result.path.name for result in found.results] == [run.name]
    assert len(found.unread) == 2
    damaged = tmp_path / "d.json"
    damaged.write_text(json.dumps(json.loads(record.read_text()) | {"made_by": {}}))
    with pytest.raises(ResultNotReadable, match="holds no model"):
        wsiseg.classify(run, model_from=damaged, name="x")


def test_runs_of_two_models_do_not_teach_together(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    model = RUN["model"] | {"name": "other", "sha256": "1" * 64}
    foreign, its_kind = marked_run(tmp_path / "f.svs.wsiseg", 100, model=model)
    marks = tmp_path / "marks"
    marks.mkdir()
    clicks(marks / "a.svs.geojson", run, kind)
    clicks(marks / "f.svs.geojson", foreign, its_kind)
    with pytest.raises(UsageError, match=r"model test-model, f\.svs with other: their numbers"):
        wsiseg.classify(tmp_path, marks)


def test_the_groups_have_all_that_is_measured(tmp_path: Path) -> None:
    run, _ = marked_run(tmp_path / "a.wsiseg", 10, features=False)
    columns = feature_columns(MEASURE_GROUPS, ["Epithelial", "Spindle"])
    write_features(run, **{name: [1.0] * 10 for name in columns})
    result = open_result(run)
    assert set(columns) <= set(chosen_features([result], ["all"]))
    assert "hematoxylin_od_mean" in STAIN_COLUMNS
    assert chosen_features([result], ["probabilities"]) == ("prob_Epithelial", "prob_Spindle")
    assert chosen_features([result], ["texture_energy", "neighbours"]) == (
        *("nearest_cell_um", "cells_within_50um", "texture_energy"),
    )
    assert fills_of(["area_um2", "nearest_cell_um"]) == {1: REACH_UM}
    stained = [name for name in (*columns, *STAIN_COLUMNS) if name.startswith(_STAINED)]
    assert set(stained) == {*STAIN_COLUMNS, "ring_hematoxylin_od_mean", "ring_eosin_od_mean"}


def test_many_marks_that_miss_are_warned_of(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    path = clicks(tmp_path / "m.geojson", run, kind)
    marks = json.loads(path.read_text())["features"]
    for n_far, warned in ((10, False), (11, True)):
        far = feature(points([(-900.0 - k, -900.0) for k in range(n_far)]), "Tumour")
        write_marks(path, [*marks, far])
        report = wsiseg.classify(run, path, overwrite=True).report
        assert report is not None
        assert report.n_missed == n_far
        said = f"{n_far} of the {40 + n_far} marks in a.svs hit no nucleus"
        assert any(text.startswith(said) for text in report.warnings) == warned


def test_many_examples_are_drawn_by_lot(tmp_path: Path) -> None:
    run, kind = marked_run(tmp_path / "a.wsiseg", 2500)
    side = 200 + 40.0 * np.arange(50)
    half = side[25] - BOUNDS_PX[0] - 20
    areas = [feature(box(0, 0, half, 5000), "A"), feature(box(half, 0, 5000, 5000), "B")]
    report = wsiseg.classify(run, write_marks(tmp_path / "m.geojson", areas)).report
    assert report is not None
    assert report.n_examples == (1000, 1000)
    assert kind.shape == (2500,)


# --- the command


def test_the_command_tells_what_a_user_needs(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    marks = clicks(tmp_path / "m.geojson", run, kind)
    done = CliRunner().invoke(app, ["classify", str(run), "--examples", str(marks), "--name", "t"])
    assert done.exit_code == 0, done.output
    for part in (
        "marked as", "called Tumour", "95 % interval", "5 folds, areas and clicks left out",
        "ring_eosin_od_mean", "--classes-from t",
        "not used, for the examples have no values: hematoxylin_od_mean",
    ):  # fmt: skip
        assert part in done.output
    again = CliRunner().invoke(app, ["classify", str(run), "--examples", str(marks), "--name", "t"])
    assert again.exit_code == 2
    assert "--overwrite" in again.output


def test_the_command_says_which_runs_were_left_out(
    run: Path, kind: NDArray[np.int64], tmp_path: Path
) -> None:
    marks = clicks(tmp_path / "m.geojson", run, kind)
    wsiseg.classify(run, marks)
    old, _ = marked_run(tmp_path / "old.wsiseg", 50, features=False)
    record = run / "classes" / "examples.json"
    done = CliRunner().invoke(
        app, ["classify", str(run), str(old), "--model-from", str(record), "--name", "n"]
    )
    assert done.exit_code == 3
    assert "not classified: old.wsiseg has no nearest_cell_um" in done.output


def test_a_version_that_is_not_there_is_named(run: Path) -> None:
    with pytest.raises(UnknownName, match="known: none"):
        open_result(run, "t")
