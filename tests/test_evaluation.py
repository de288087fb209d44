"""Evaluations from files: labels, runs and models, what is refused, and what is written."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import wsiseg
from wsiseg import EvaluateOptions
from wsiseg.cli import app
from wsiseg.cli._evaluate import classes_in
from wsiseg.evaluation.annotated import with_classes
from wsiseg.evaluation.drawings import draw_pair
from wsiseg.evaluation.records import (
    InstanceImage,
    PerturbationPoint,
    ScoredPair,
    instance_image,
)
from wsiseg.evaluation.sampling import Estimate
from wsiseg.evaluation.scoring import score_images
from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.reports.evaluation_page import evaluation_page
from wsiseg.testing.models import fine_network
from wsiseg.testing.painted import paint_nuclei

MPP = 0.25
CLASSES = {"1": "Epithelial", "2": "Inflammatory"}
OPTIONS = EvaluateOptions(mpp=MPP, class_of=CLASSES, n_draws=60)
SIDE_PX = 160
NAMES = ("TCGA-AA-0001-a", "TCGA-AA-0001-b", "TCGA-AA-0002", "other <b>&.x")


def write_folder(
    folder: Path,
    move_px: int = 0,
    lost: int = 0,
    n_classes: int = 2,
    names: tuple[str, ...] = NAMES,
) -> Path:
    """Write painted images with labels, moved down, and without the first ones."""
    parts = ("images", "inst", "types") if n_classes else ("images", "inst")
    for part in parts:
        (folder / part).mkdir(parents=True)
    for number, name in enumerate(names):
        rgb, labels = paint_nuclei(SIDE_PX, 18, MPP, (number,))
        labels = np.roll(labels, move_px, axis=0)
        labels[labels <= lost] = 0
        Image.fromarray(rgb).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels.astype(np.uint16)).save(folder / "inst" / f"{name}.png")
        if n_classes:
            types = np.where(labels > 0, labels % n_classes + 1, 0).astype(np.uint8)
            Image.fromarray(types).save(folder / "types" / f"{name}.png")
    with (folder / "manifest.csv").open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["name", "organ"])
        rows.writerows((name, ("lung", "colon")[k % 2]) for k, name in enumerate(names))
    return folder


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("labels") / "truth")


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("labels") / "moved", move_px=2, lost=3)


@pytest.fixture(scope="module")
def judged(truth: Path, moved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of an evaluation with two readers."""
    to = tmp_path_factory.mktemp("scores")
    wsiseg.evaluate(moved, truth, OPTIONS, second_reader=truth, to=to)
    return to


def test_labels_against_themselves_are_perfect(truth: Path) -> None:
    found = wsiseg.evaluate(truth, truth, OPTIONS)
    figures = found.scores.figures
    for name in ("pq", "aji", "aji_plus", "dice", "iou", "f1_centroid", "surface_dice", "mpq"):
        assert figures[name].first.value == 1, name
    assert figures["mpq_plus"].first.value == figures["mf1"].first.value == 1
    assert figures["hd95_um"].first.value == figures["false_per_mm2"].first.value == 0
    assert found.class_names == ("Epithelial", "Inflammatory")
    assert found.scores.n_patients == 3
    assert list(found.scores.organs) == ["colon", "lung"]
    assert found.kind == "labels"


def test_each_figure_stands_in_the_files_with_its_definition(judged: Path) -> None:
    said = json.loads((judged / "evaluation.json").read_text())
    assert said["format"] == "wsiseg-evaluation"
    assert (said["n_images"], said["n_patients"]) == (4, 3)
    assert "60 bootstrap samples of 3 patients, seed 0" in said["interval"]
    for figure in [*said["figures"].values(), *said["classes"]["Epithelial"].values()]:
        assert figure["definition"].endswith(".")
        assert figure["pooled"] or figure["macro"]
        assert figure["n"] >= 0
    pq = said["figures"]["pq"]["pooled"]
    assert 0.5 < pq["low"] <= pq["value"] <= pq["high"] < 1
    assert said["figures"]["mpq"]["pooled"] is None
    assert said["figures"]["mpq_plus"]["macro"] is None
    assert [image["name"] for image in said["images"]] == list(NAMES)
    assert said["perturbation"] == []
    assert said["organs"].keys() == {"lung", "colon"}
    with (judged / "evaluation.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row, image in zip(rows, said["images"], strict=True):
        assert row["name"] == image["name"]
        assert float(row["pq"]) == image["figures"]["pq"]
        assert float(row["f1:Epithelial"]) == image["classes"]["Epithelial"]["f1"]


def test_readers_are_scored_each_against_each(judged: Path) -> None:
    said = json.loads((judged / "evaluation.json").read_text())
    first, second, between = said["readers"]["comparisons"]
    assert [(one["first"], one["second"]) for one in said["readers"]["comparisons"]] == [
        ("reader 1", "found"),
        ("reader 2", "found"),
        ("reader 1", "reader 2"),
    ]
    # Both readers are the same here.
    assert first["figures"] == second["figures"]
    assert first["figures"]["pq"]["pooled"] == said["figures"]["pq"]["pooled"]
    assert between["figures"]["pq"]["pooled"] == {"value": 1, "low": 1, "high": 1}
    gap, pq = said["readers"]["gap"]["pq"], said["figures"]["pq"]["pooled"]
    for end in ("value", "low", "high"):
        assert gap[end] == pytest.approx(pq[end] - 1, abs=1e-12)


def test_the_page_is_whole_and_loads_nothing(judged: Path) -> None:
    page = (judged / "evaluation.html").read_text()
    assert "other &lt;b&gt;&amp;.x" in page
    assert "other <b>" not in page
    assert re.findall(r'(?:src|href)="(?!data:image/jpeg|#)', page) == []
    assert page.count('<img src="data:image/jpeg') == 4  # two best, two worst
    for kind in ("truth", "found", "missed", "extra"):
        assert f'class="o-{kind}" d="' in page
    said = json.loads((judged / "evaluation.json").read_text())
    for figure in said["figures"].values():
        assert figure["title"].replace(">", "&gt;") in page
    assert "found – reader 2" in page
    assert "reader 1 – reader 2" in page
    assert str(judged) not in page
    assert "For research use only" in page


def test_of_a_large_image_the_part_with_most_nuclei_is_drawn() -> None:
    truth, found = np.zeros((2, 1300, 2300), np.int32)
    truth[20:30, 40:52] = 1
    for k in range(4):
        found[1200:1210, 1900 + 40 * k : 1912 + 40 * k] = k + 1
    truth[1200:1210, 1900:1912] = 2
    pair = ScoredPair("a", "a", instance_image(truth, MPP), instance_image(found, MPP))
    drawn = draw_pair(pair, np.zeros((1300, 2300, 3), np.uint8))
    assert (drawn.x_px, drawn.y_px, drawn.width_px, drawn.height_px) == (1000, 300, 1000, 1000)
    layers = {layer.kind: layer for layer in drawn.layers}
    assert {kind: layer.n for kind, layer in layers.items()} == {
        "truth": 1,
        "found": 1,
        "missed": 1,
        "extra": 3,
    }
    # The missed one, and one of the extra ones, lie elsewhere.
    assert layers["missed"].path == ""
    assert layers["extra"].path.count("M") == 2
    assert layers["truth"].path.startswith("M19")
    small = [instance_image(one[:90, :1100], MPP) for one in (truth, found)]
    whole = draw_pair(ScoredPair("a", "a", *small), np.zeros((90, 1100, 3), np.uint8))
    assert (whole.is_part, whole.width_px, whole.height_px) == (False, 1100, 90)


def test_changed_images_are_a_curve_on_the_page(truth: Path) -> None:
    found = wsiseg.evaluate(truth, truth, OPTIONS)
    assert "On changed images" not in evaluation_page(found, [])
    points = tuple(
        PerturbationPoint("blur", strength, "px", Estimate(pq, pq - 0.1, pq + 0.1), 4)
        for strength, pq in ((0.0, 0.6), (2.0, 0.3))
    )
    found = replace(found, perturbation=points)
    page = evaluation_page(found, [])
    assert "On changed images" in page
    assert "0 px: PQ 0.6; 2 px: PQ 0.3;" in page
    assert found.to_json()["perturbation"][1] == {
        "kind": "blur",
        "strength": 2.0,
        "unit": "px",
        "pq": 0.3,
        "pq_low": 0.3 - 0.1,
        "pq_high": 0.3 + 0.1,
        "n_images": 4,
    }


def test_a_model_and_its_runs_score_alike(tmp_path: Path) -> None:
    model = fine_network()
    names = NAMES[::3]
    truth = write_folder(tmp_path / "truth", names=names)
    of_model = wsiseg.evaluate(model, truth, replace(OPTIONS, device="cpu"))
    assert of_model.kind == "model"
    assert of_model.model["name"] == "local-stand-in"
    assert of_model.scores.figures["f1_centroid"].first.value > 0.5
    for name in names:
        wsiseg.segment(
            truth / "images" / f"{name}.png",
            tmp_path / "runs",
            model=model,
            scale=MPP,
            options=wsiseg.PlanOptions(tissue=None),
            formats=(),
        )
    of_runs = wsiseg.evaluate(tmp_path / "runs", truth, OPTIONS)
    assert of_runs.kind == "runs"
    assert of_runs.scores.images == of_model.scores.images
    one_run = tmp_path / "runs" / f"{NAMES[0]}.png.wsiseg"
    with pytest.raises(wsiseg.WsisegError, match="1 of TRUTH have no partner in runs of local"):
        wsiseg.evaluate(one_run, truth, OPTIONS)
    shutil.copytree(one_run, tmp_path / "runs" / "again" / one_run.name)
    with pytest.raises(wsiseg.WsisegError, match="two runs are of images called TCGA-AA-0001-a"):
        wsiseg.evaluate(tmp_path / "runs", truth, OPTIONS)


def test_masks_and_painted_outlines_agree(truth: Path, tmp_path: Path) -> None:
    """At the slide's own µm per pixel the outlines give the very pixels of the masks."""
    import zarr

    from wsiseg.evaluation.found import paint_result

    result = wsiseg.segment(
        truth / "images" / f"{NAMES[0]}.png",
        tmp_path,
        model=fine_network(),
        scale=MPP,
        options=wsiseg.PlanOptions(tissue=None),
        formats=(),
    )
    masks = np.asarray(zarr.open_array(result.path / "masks.zarr/labels/nuclei/0", mode="r")[:])
    painted = paint_result(result, result.class_names, (SIDE_PX, SIDE_PX))
    assert painted.n > 5
    assert np.array_equal(painted.labels, masks)
    names = result.cells(columns=["class_name"])["class_name"].to_pylist()
    assert [result.class_names[k] for k in painted.classes] == names


def test_label_images_alone_can_be_judged(truth: Path, moved: Path, tmp_path: Path) -> None:
    want = wsiseg.evaluate(moved, truth, OPTIONS).scores.images
    bare = tmp_path / "bare"
    shutil.copytree(moved, bare, ignore=shutil.ignore_patterns("images", "manifest.csv"))
    assert wsiseg.evaluate(bare, truth, OPTIONS).scores.images == want
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for name in NAMES:
        labels = np.asarray(Image.open(moved / "inst" / f"{name}.png"))
        np.save(arrays / f"{name}.npy", labels)
    found = wsiseg.evaluate(arrays, truth, OPTIONS)
    assert [i.figures["pq"] for i in found.scores.images] == [i.figures["pq"] for i in want]
    assert found.scores.classes == {}
    assert "arrays has no classes that the truth knows: none is scored" in found.notes
    (bare / "types" / f"{NAMES[0]}.png").unlink()
    assert "the classes of all images" in refusal(bare, truth, OPTIONS)
    numbers = np.arange(SIDE_PX**2, dtype=np.uint16).reshape(SIDE_PX, SIDE_PX) % 300
    for name in NAMES:
        Image.fromarray(numbers).save(bare / "types" / f"{name}.png")
    assert "holds 299 values; one for each class" in refusal(bare, truth, OPTIONS)
    np.save(arrays / f"{NAMES[0]}.npy", labels / 3)
    assert NAMES[0] in refusal(arrays, truth, OPTIONS)


def test_a_truth_without_classes_scores_none(moved: Path, tmp_path: Path) -> None:
    plain = write_folder(tmp_path / "plain", n_classes=0)
    found = wsiseg.evaluate(moved, plain, OPTIONS)
    assert found.scores.classes == {}
    assert "mpq" not in found.scores.figures
    assert "the truth has no classes: none is scored" in found.notes


def test_the_document_defines_every_figure(truth: Path) -> None:
    document = Path(__file__).resolve().parent.parent / "docs" / "evaluation.md"
    text = document.read_text(encoding="utf-8")
    scores = wsiseg.evaluate(truth, truth, OPTIONS).scores
    every = [*scores.figures.values(), *scores.classes["Epithelial"].values()]
    for score in every:
        assert f"`{score.figure.name}`" in text
        doi = score.figure.source.partition("doi:")[2]
        assert doi in text, score.figure.name
    assert len(every) > 35


def refusal(*arguments: object, **more: object) -> str:
    with pytest.raises(wsiseg.WsisegError) as caught:
        wsiseg.evaluate(*arguments, **more)  # type: ignore[arg-type]
    return str(caught.value)


def test_images_without_a_partner_are_named(truth: Path, tmp_path: Path) -> None:
    names = (NAMES[0], "another")
    other = write_folder(tmp_path / "other", names=names)
    said = refusal(other, truth, OPTIONS)
    assert "3 of TRUTH have no partner in other (TCGA-AA-0001-b, TCGA-AA-0002" in said
    assert "1 of other have no partner in TRUTH (another)" in said
    assert "TRUTH2" in refusal(truth, truth, OPTIONS, second_reader=other)
    said = refusal("nuclei-40x-v", truth, OPTIONS)
    assert "nuclei-40x-v does not exist, nor is it a shipped model (nuclei-20x-v1" in said


def test_sizes_that_differ_are_named(truth: Path, tmp_path: Path) -> None:
    small = write_folder(tmp_path / "small")
    for part in ("images", "inst", "types"):
        path = small / part / f"{NAMES[2]}.png"
        picture = Image.open(path)
        picture.crop((0, 0, 150, 140)).save(path)
    said = refusal(small, truth, OPTIONS)
    assert "TCGA-AA-0002: the truth has 160 × 160 px, small 150 × 140" in said


def test_a_class_the_truth_does_not_know_is_refused(truth: Path, tmp_path: Path) -> None:
    three = write_folder(tmp_path / "three", n_classes=3)
    known = LabelOptions(mpp=MPP, class_of=CLASSES | {"3": "Tumour"})
    said = refusal(read_label_sets([three], known), truth, OPTIONS)
    assert "PRED has the classes Tumour, which the truth does not" in said
    assert "--class-map 'Tumour=Epithelial'" in said
    mapped = wsiseg.evaluate(three, truth, replace(OPTIONS, class_of=CLASSES | {"3": ""}))
    assert list(mapped.scores.classes) == ["Epithelial", "Inflammatory"]


def test_mpp_that_differs_is_refused(truth: Path, tmp_path: Path) -> None:
    sets = [read_label_sets([truth], LabelOptions(mpp=m, class_of=CLASSES)) for m in (0.25, 0.5)]
    assert "the truth has 0.5 µm per pixel, PRED 0.25" in refusal(*sets)
    wsiseg.evaluate(sets[0], sets[0])


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
    truth: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    options = replace(OPTIONS, class_of=CLASSES)
    for folder in (tmp_path / "file", tmp_path / "file" / "scores"):
        assert "name another one with --to" in refusal(
            truth, truth, options, to=folder, progress=lambda *one: said.append(one[0])
        )
    assert not said


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(wsiseg.WsisegError, match="seed is -1; 0 or more"):
        EvaluateOptions(seed=-1)


def test_files_of_others_are_left_alone(truth: Path, judged: Path, tmp_path: Path) -> None:
    for name in ("evaluation.json", "evaluation.csv", "evaluation.html"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("{}")
        assert "move it" in refusal(truth, truth, OPTIONS, to=folder)
        assert (folder / name).read_text() == "{}"
    before = (judged / "evaluation.csv").read_bytes()
    wsiseg.evaluate(truth, truth, OPTIONS, to=judged)
    assert (judged / "evaluation.csv").read_bytes() != before


def test_regions_to_ignore_by_class() -> None:
    nuclei = InstanceImage(
        np.array([[1, 1, 0, 2, 3]], np.int32), np.array([0, 1, 2], np.uint8), MPP
    )
    got = with_classes(nuclei, ("a", "b", "c"), {"a": "A", "b": "-"}, ("c", "A"))
    assert got.labels.tolist() == [[1, 1, 0, 0, 2]]
    assert got.classes.tolist() == [1, 0]
    assert got.ignored is not None
    assert got.ignored.tolist() == [[False, False, False, True, False]]
    unknown = with_classes(nuclei, ("a", "b", "c"), {"a": ""}, ("b",))
    assert unknown.classes.tolist() == [UNKNOWN_CLASS, 0, UNKNOWN_CLASS]
    assert unknown.ignored is None


def test_a_nucleus_has_the_class_of_most_of_its_pixels() -> None:
    classes = np.array([[0, 1, 1, 255, 2, 0]], np.uint8)
    got = instance_image(np.array([[7, 7, 7, 7, 2, 2]]), MPP, classes)
    assert got.labels.tolist() == [[2, 2, 2, 2, 1, 1]]
    assert got.classes.tolist() == [0, 1]


def test_class_maps_are_read() -> None:
    assert classes_in("1=Epithelial, 2 = ,3=-") == {"1": "Epithelial", "2": "", "3": "-"}
    assert classes_in('"a, b=c"') == {"a, b": "c"}
    assert classes_in(None) == {}
    for wrong in ("1", "=a"):
        with pytest.raises(wsiseg.WsisegError, match="theirs=ours"):
            classes_in(wrong)
    with pytest.raises(wsiseg.WsisegError, match="twice"):
        classes_in("1=a,1=b")


def test_the_command_prints_and_writes(truth: Path, moved: Path, tmp_path: Path) -> None:
    to = tmp_path / "deep" / "scores"
    arguments = ["--mpp", "0.25", "--class-map", "1=Epithelial,2=Inflammatory", "--to", str(to)]
    call = ["evaluate", str(moved), str(truth), "--second-reader", str(truth), *arguments]
    done = CliRunner().invoke(app, [*call, "--quiet"])
    assert done.exit_code == 0, done.output
    for text in ("Panoptic quality, PQ", "mPQ+", "Inflammatory", "colon", "reader 2 – reader 1"):
        assert text in done.output
    assert {path.name for path in to.iterdir()} == {
        "evaluation.json",
        "evaluation.csv",
        "evaluation.html",
    }
    assert CliRunner().invoke(app, ["evaluate", str(moved), str(truth)]).exit_code == 2


@pytest.mark.real
@pytest.mark.parametrize("folder", ["monuseg_train", "consep_train"])
def test_real_labels_against_a_changed_copy(shared: Path, folder: Path) -> None:
    """What was changed is what the scores say."""
    path = sorted((shared / "data" / folder / "inst").glob("*.png"))[0]
    labels = np.asarray(Image.open(path)).astype(np.int32)
    truth = instance_image(labels, MPP)
    found = truth.labels.copy()
    lost = np.arange(1, truth.n + 1, 5)
    found[np.isin(found, lost)] = 0
    pair = ScoredPair("a", "a", truth, instance_image(found, MPP))
    figures = score_images([pair], (), OPTIONS).figures
    kept = truth.n - len(lost)
    assert figures["matched_share"].first.value == pytest.approx(kept / truth.n, abs=1e-12)
    assert figures["pq"].first.value == pytest.approx(2 * kept / (truth.n + kept), abs=1e-12)
    assert figures["sq"].first.value == figures["precision_centroid"].first.value == 1
    assert figures["hd95_um"].first.value == 0
    assert figures["surface_dice_matched"].first.value == 1
    assert figures["count_error"].first.value == -len(lost)
    share = (found > 0).sum() / (labels > 0).sum()
    assert figures["aji"].first.value == pytest.approx(share, abs=1e-12)
    assert figures["aji_plus"].first.value == pytest.approx(share, abs=1e-12)
