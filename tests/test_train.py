"""From annotated images to a model by one call, however often it is stopped on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refused import error_of, run_command
from safetensors.torch import load_file
from train_runs import (
    CHECKPOINT_STEPS,
    LABELS,
    OPTIONS,
    draw_folder,
    steps_in,
    train_discs,
    weights_of,
)

import wsiseg
from wsiseg import LabelOptions, TrainedModel, TrainRunOptions, rundir
from wsiseg.decode import DecodeOptions
from wsiseg.errors import Interrupted, OutputExists, OutputNotWritable, TrainingFailed, UsageError
from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.training import checkpoints, fit, run
from wsiseg.training.class_scores import ClassScores
from wsiseg.training.record import sets_identity
from wsiseg.training.start import network_from

NAMES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data") / "discs", NAMES)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A training that nothing disturbed."""
    torch.set_num_threads(1)
    return train_discs(data, tmp_path_factory.mktemp("whole") / "run")


class Later:
    """Says so from the n-th time on."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def out_of(trained: TrainedModel) -> Path:
    return trained.folder.parent


# What a training leaves


def test_a_trained_model_segments_at_once(
    trained: TrainedModel, data: Path, tmp_path: Path
) -> None:
    image = data / "images" / "a.png"
    result = wsiseg.segment(
        image,
        tmp_path,
        model=trained.folder,
        scale=0.25,
        options=wsiseg.PlanOptions(tissue=None),
        formats=(),
    )
    assert result.class_names == ("Dark", "Pale")
    assert result.run["model"]["name"] == "run"
    assert wsiseg.load_model(trained.folder).card == trained.card


def test_the_card_says_what_was_learned_from(trained: TrainedModel) -> None:
    card, about = trained.card, trained.card.about
    assert (card.licence, card.mpp, card.class_names) == ("CC0-1.0", 0.25, ("Dark", "Pale"))
    assert "CC0-1.0" in (trained.folder / "LICENSE.txt").read_text()
    assert DecodeOptions.from_json(card.decode)
    low, high = card.nuclear_area_um2
    # Discs of radius 5 to 8 px.
    assert np.pi * 5**2 / 16 * 0.8 < low < high < np.pi * 8**2 / 16 * 1.3
    (learned,) = about["data"]
    assert (learned["set"], learned["images"], learned["licence"]) == ("discs", 3, "CC0-1.0")
    assert set(about["held_back"]) < set(NAMES)
    assert about["metrics"]["mean_over_images"]["images"] == len(trained.scores) == 1
    assert [each["image"] for each in about["metrics"]["by_image"]] == about["held_back"]
    assert "Research only" in about["use"]
    assert about["training"]["steps"] == OPTIONS.steps


def test_logs_and_pictures_are_left(trained: TrainedModel) -> None:
    out = out_of(trained)
    assert steps_in(out / "log.csv") == list(range(1, OPTIONS.steps + 1))  # type: ignore[operator]
    assert steps_in(out / "validation.csv") == [CHECKPOINT_STEPS]
    for name in ("curves.png", "validation.png"):
        with Image.open(out / name) as picture:
            picture.load()
            assert min(picture.size) > 150
    settled = json.loads((out / "training.json").read_text())["settled"]
    assert settled["steps"] == OPTIONS.steps
    assert not list(out.rglob("*.tmp"))


def test_no_absolute_path_is_left(trained: TrainedModel, data: Path) -> None:
    texts = [path.read_text() for path in out_of(trained).rglob("*.json")]
    assert len(texts) == 2
    assert not any(str(data.parent) in text for text in texts)


def test_classes_that_say_nothing_are_warned_about(trained: TrainedModel) -> None:
    """A dozen steps teach no class; the card says so and the user hears it."""
    said = trained.card.about["metrics"]["classes"]
    assert said["above_chance"] is trained.classes.is_above_chance
    useless = replace(trained, classes=ClassScores(("Dark", "Pale"), np.array([[9, 9], [9, 9]])))
    (warning,) = useless.warnings
    assert "no better than chance on 36 nuclei" in warning
    useful = replace(trained, classes=ClassScores(("Dark", "Pale"), np.array([[99, 1], [1, 99]])))
    assert useful.warnings == ()
    assert replace(trained, classes=ClassScores((), np.zeros((0, 0), np.int64))).warnings == ()


# Stopped and gone on


@pytest.mark.parametrize("at", [3, 10])
def test_a_stopped_training_goes_on_to_the_same_bits(
    trained: TrainedModel, data: Path, tmp_path: Path, at: int
) -> None:
    seen: list[int] = []
    with pytest.raises(Interrupted, match=rf"step {at} of {OPTIONS.steps}.*--resume"):
        train_discs(
            data,
            tmp_path / "run",
            progress=lambda now: seen.append(now.record.step),
            stop=lambda: len(seen) >= at,
        )
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == at
    train_discs(
        data, tmp_path / "run", resume=True, progress=lambda now: seen.append(now.record.step)
    )
    assert seen == list(range(1, OPTIONS.steps + 1))  # type: ignore[operator]
    assert weights_of(tmp_path / "run") == weights_of(out_of(trained))
    for name in ("log.csv", "validation.csv"):
        assert steps_in(tmp_path / "run" / name) == steps_in(out_of(trained) / name)
    cards = [
        json.loads((each / "model/card.json").read_text())
        for each in (tmp_path / "run", out_of(trained))
    ]
    assert cards[0] == cards[1]


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
def test_a_killed_training_goes_on_to_the_same_bits(
    trained: TrainedModel, data: Path, tmp_path: Path
) -> None:
    """Killed between two checkpoints, without a chance to do anything."""
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from train_runs import train_discs\n"
        "def slow(now):\n"
        "    import time; print(now.record.step, flush=True)\n"
        "    if now.record.step == 12: time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    train_discs(Path(sys.argv[1]), Path(sys.argv[2]), progress=slow)\n"
    )
    command = [sys.executable, "-c", code, str(data), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "12":
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert steps_in(tmp_path / "run" / "log.csv")[-1] == 12
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == CHECKPOINT_STEPS
    train_discs(data, tmp_path / "run", resume=True)
    assert weights_of(tmp_path / "run") == weights_of(out_of(trained))
    assert steps_in(tmp_path / "run" / "log.csv") == steps_in(out_of(trained) / "log.csv")


def test_a_finished_training_is_only_judged_again(trained: TrainedModel, data: Path) -> None:
    seen: list[Any] = []
    before = weights_of(out_of(trained))
    again = train_discs(data, out_of(trained), resume=True, progress=seen.append)
    assert seen == []
    assert weights_of(out_of(trained)) == before
    assert again.scores == trained.scores


def test_one_folder_holds_one_training(trained: TrainedModel, data: Path, tmp_path: Path) -> None:
    out = out_of(trained)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(OutputExists, match="--resume"):
        train_discs(data, out)
    with pytest.raises(OutputExists, match=r"options\.steps: 14 there, 15 now"):
        train_discs(data, out, replace(OPTIONS, steps=15), resume=True)
    other = draw_folder(tmp_path / "discs", [*NAMES[:3], "e"])
    with pytest.raises(OutputExists, match=r"sets\.discs"):
        train_discs(other, out, resume=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_checkpoint_of_unknown_origin_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"precious")
    with pytest.raises(OutputExists, match=r"no readable training\.json"):
        train_discs(data, tmp_path / "run", resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]


def test_minutes_become_steps_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, steps=None, minutes=5.0)
    plans: list[Any] = []

    def look(plan: Any) -> None:
        plans.append(plan)
        raise Interrupted("enough")

    for n_steps in (40, 70):
        # A machine that is faster later.
        monkeypatch.setattr(run, "_steps_in", lambda *_, n=n_steps: n)
        with pytest.raises(Interrupted):
            train_discs(data, tmp_path / "run", options, resume=True, planned=look)
    assert [plan.fit.steps for plan in plans] == [40, 40]


def test_time_is_measured(data: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=None, minutes=1e-9)
    trained = train_discs(data, tmp_path / "run", options)
    assert trained.card.about["training"]["steps"] == 1


# What goes wrong


def poisoned(real: Any, step: int, what: Any) -> Any:
    calls = iter(range(1, 1000))

    def loss_parts(*given: Any) -> Any:
        parts = real(*given)
        if next(calls) == step:
            return what(parts)
        return parts

    return loss_parts


def test_a_loss_that_is_no_number_stops_before_it_is_saved(
    trained: TrainedModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        bad = poisoned(fit.loss_parts, 12, lambda parts: parts._replace(hv=parts.hv * np.nan))
        patch.setattr(fit, "loss_parts", bad)
        with pytest.raises(TrainingFailed) as caught:
            train_discs(data, tmp_path / "run")
    assert "step 12" in str(caught.value)
    assert any(f" {name}" in str(caught.value) for name in NAMES)
    assert "checkpoint" in str(caught.value)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 10
    train_discs(data, tmp_path / "run", resume=True)
    assert weights_of(tmp_path / "run") == weights_of(out_of(trained))


def test_too_little_memory_says_what_to_do(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(fit, "loss_parts", poisoned(fit.loss_parts, 2, full))
    with pytest.raises(TrainingFailed, match=r"2 crops of 64 px.*--batch-size 1"):
        train_discs(data, tmp_path / "run")


def test_another_error_is_not_taken_for_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(_: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(fit, "loss_parts", poisoned(fit.loss_parts, 1, other))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train_discs(data, tmp_path / "run")


def test_a_full_disk_leaves_the_last_checkpoint(
    trained: TrainedModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for the first checkpoint, but not for the second."""
    n_saved = 0

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(path: Path, content: bytes) -> None:
        nonlocal n_saved
        n_saved += 1
        with pytest.MonkeyPatch.context() as patch:
            if n_saved == 2:
                patch.setattr(rundir.os, "fsync", full)
            rundir.write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomically", write)
        with pytest.raises(OutputNotWritable, match=r"checkpoint\.pt \(No space left"):
            train_discs(data, tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 10
    assert not list((tmp_path / "run").glob(".*"))
    train_discs(data, tmp_path / "run", resume=True)
    assert weights_of(tmp_path / "run") == weights_of(out_of(trained))


def test_weights_that_are_no_numbers_are_not_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is computed before the step that ruins the weights."""
    real, calls = torch.optim.AdamW.step, iter(range(1, 1000))

    def step(self: Any, *given: Any) -> Any:
        found = real(self, *given)
        if next(calls) == 10:
            with torch.no_grad():
                self.param_groups[1]["params"][0].mul_(np.nan)
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingFailed, match="no numbers after step 10"):
        train_discs(data, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "other", "cut"])
def test_a_damaged_checkpoint_is_named(
    trained: TrainedModel, data: Path, tmp_path: Path, content: bytes | None
) -> None:
    shutil.copytree(out_of(trained), tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    before = path.read_bytes()
    with pytest.raises(TrainingFailed, match=r"checkpoint\.pt in run is damaged"):
        train_discs(data, tmp_path / "run", resume=True)
    assert path.read_bytes() == before


def test_a_damaged_record_is_named(trained: TrainedModel, data: Path, tmp_path: Path) -> None:
    shutil.copytree(out_of(trained), tmp_path / "run")
    about = '{"format": "wsiseg-training", "format_version": 1, "identity": {}}'
    (tmp_path / "run" / "training.json").write_text(about)
    with pytest.raises(OutputExists, match=r"training\.json is damaged"):
        train_discs(data, tmp_path / "run", resume=True)


def test_sets_in_another_order_are_another_training() -> None:
    """Which crops are drawn depends on it."""
    image = LabelledImage(
        "a",
        "a",
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4), np.int32),
        np.zeros((4, 4), np.uint8),
    )
    sets = [LabelSet(name, (image,), ()) for name in ("one", "two")]
    assert sets_identity(sets) != sets_identity(sets[::-1])


def test_too_little_memory_to_judge_says_so(
    trained: TrainedModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    shutil.copytree(out_of(trained), tmp_path / "run")
    monkeypatch.setattr(run, "finish_training", full)
    with pytest.raises(
        TrainingFailed, match=r"all steps are done.*112 × 112 px.*--resume"
    ) as caught:
        train_discs(data, tmp_path / "run", resume=True)
    assert "--batch-size" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "options", "labels", "says"),
    [
        (("a",), OPTIONS, LABELS, "one patient"),
        (("TCGA-AA-0001-01", "TCGA-AA-0001-02"), OPTIONS, LABELS, "one patient"),
        (NAMES, replace(OPTIONS, crop_px=128), LABELS, "smaller than a crop of 128 px"),
        (NAMES, replace(OPTIONS, crop_px=100), LABELS, "multiple of 32"),
        (NAMES, replace(OPTIONS, weights=(1.0, 2.0)), LABELS, "2 weights for 1 sets"),
        (NAMES, replace(OPTIONS, validation=("z",)), LABELS, "called z"),
        (NAMES, replace(OPTIONS, validation=NAMES), LABELS, "none is left to learn from"),
        (NAMES, OPTIONS, replace(LABELS, class_of={"1": "Dark"}), "class '2'"),
        (NAMES, OPTIONS, replace(LABELS, classes=("Dark",)), "Pale"),
        (NAMES, OPTIONS, replace(LABELS, mpp=None), "how many µm"),
        (NAMES, replace(OPTIONS, start="no-such-model"), LABELS, "no-such-model"),
        (NAMES, replace(OPTIONS, device="cuda:0,1"), LABELS, "cuda"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path: Path,
    names: tuple[str, ...],
    options: TrainRunOptions,
    labels: LabelOptions,
    says: str,
) -> None:
    folder = draw_folder(tmp_path / "data", names, 70)
    with pytest.raises(wsiseg.WsisegError, match=says):
        train_discs(folder, tmp_path / "run", options, labels)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "data", ())
    with pytest.raises(UsageError, match="data"):
        train_discs(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"minutes": -1.0, "steps": None},
        {"minutes": 3.0, "steps": 3},
        {"batch_size": 0},
        {"precision": "float8"},
        {"weights": (1.0, 0.0)},
        {"seed": -1},
        {"model_mpp": 0.0},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(OPTIONS, **wrong)


# Going on from a model


def test_a_model_is_the_start_of_another(trained: TrainedModel) -> None:
    known = load_file(trained.folder / "weights.safetensors")
    start = network_from(str(trained.folder), ("Pale", "Round", "Dark"), seed=0)
    state = start.network.state_dict()
    assert start.card == trained.card
    assert start.warning is not None
    assert "Round" in start.warning
    for name, value in known.items():
        if not name.startswith("class_head.1"):
            assert torch.equal(state[name], value.float()), name
    for name in ("class_head.1.weight", "class_head.1.bias"):
        assert torch.equal(state[name][0], known[name][1].float())
        assert torch.equal(state[name][2], known[name][0].float())
        assert not torch.equal(state[name][1], known[name][0].float())


def test_classes_that_a_new_model_loses_are_told(trained: TrainedModel) -> None:
    start = network_from(str(trained.folder), ("Dark",), seed=0)
    assert start.warning is not None
    assert "will not have, for no image here has them: Pale" in start.warning
    assert network_from(str(trained.folder), ("Pale", "Dark"), seed=0).warning is None


def test_a_model_to_go_on_from_has_its_own_encoder(
    trained: TrainedModel, data: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, start=str(trained.folder), encoder="resnet18")
    with pytest.raises(UsageError, match="has test_efficientnet"):
        train_discs(data, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_a_model_to_go_on_from_may_be_moved(
    trained: TrainedModel, data: Path, tmp_path: Path
) -> None:
    """It is known by its hash; no path of this machine stays in the record."""
    out = tmp_path / "run"
    train_discs(data, out, replace(OPTIONS, steps=1, start=str(trained.folder)))
    assert str(trained.folder) not in (out / "training.json").read_text()
    moved = shutil.copytree(trained.folder, tmp_path / "moved")
    train_discs(data, out, replace(OPTIONS, steps=1, start=str(moved)), resume=True)
    with pytest.raises(OutputExists, match="begun_from"):
        train_discs(data, out, replace(OPTIONS, steps=1), resume=True)


def test_classes_without_a_nucleus_are_told(data: Path, tmp_path: Path) -> None:
    labels = replace(LABELS, classes=("Dark", "Rare", "Pale"))
    plans: list[Any] = []
    with pytest.raises(Interrupted):
        train_discs(data, tmp_path / "run", OPTIONS, labels, planned=plans.append, stop=Later(2))
    assert [note for note in plans[0].notes if "hardly ever name: Rare" in note]


def test_scores_without_a_nucleus_are_warned_about(trained: TrainedModel) -> None:
    nothing = replace(trained, scores=tuple(replace(each, nuclei=0) for each in trained.scores))
    assert "no image held back has a nucleus" in nothing.warnings[0]
    assert not any("held back has a nucleus" in each for each in trained.warnings)


def test_a_fine_tuned_model_carries_both_licences(
    trained: TrainedModel, data: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, steps=1, start=str(trained.folder))
    tuned = train_discs(data, tmp_path / "run", options, replace(LABELS, licence="CC-BY-4.0"))
    assert tuned.card.licence == "CC-BY-4.0 AND CC0-1.0"
    assert tuned.card.network == trained.card.network
    # Judged on the same images, the model it went on from is as good as it was.
    assert tuned.scores_before == trained.scores
    before = tuned.card.about["metrics"]["before_training"]
    assert before["pq"] == round(trained.mean_scores["pq"], 4)
    assert trained.scores_before == ()
    assert f"model {trained.card.name}" in tuned.card.about["begun_from"]


def test_data_of_unknown_licence_are_named(data: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=1)
    trained = train_discs(data, tmp_path / "run", options, replace(LABELS, licence=""))
    assert trained.card.licence == "LicenseRef-unknown"
    assert "discs" in trained.card.licence_note


# The command


TOLD = ("--steps", "14", "--encoder", "test_efficientnet", "--crop", "64", "--batch-size", "2")
SAID = """
[[set]]
path = "discs"
mpp = 0.25
licence = "CC0-1.0"
class_of = { "1" = "Dark", "2" = "Pale" }
"""


def test_the_command_trains_and_says_how_to_use_it(
    trained: TrainedModel, data: Path, tmp_path: Path
) -> None:
    (data.parent / "sets.toml").write_text(SAID)
    out = tmp_path / "run"
    done = run_command(
        "train",
        data.parent / "sets.toml",
        "-o",
        out,
        *TOLD,
        "--validation",
        "0.3",
        "--device",
        "cpu",
    )
    assert done.exit_code == 0, done.output
    assert "step 14 of 14: loss" in done.stderr
    assert f"--model {out / 'model'}" in done.stdout
    assert weights_of(out) == weights_of(out_of(trained))


def test_a_signal_ends_the_command_with_the_way_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(*_: Any, stop: Any, **__: Any) -> None:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        raise Interrupted("interrupted at step 3 of 9")

    monkeypatch.setattr(wsiseg, "train", train)
    monkeypatch.setattr(sys, "argv", ["wsiseg", "train", "my data", "-o", "out"])
    before = signal.getsignal(signal.SIGTERM)
    done = run_command("train", "my data", "-o", tmp_path)
    assert done.exit_code == 75
    assert "step 3 of 9" in done.stderr
    assert "wsiseg train 'my data' -o out --resume" in done.stderr
    assert signal.getsignal(signal.SIGTERM) is before
    # What would end a command that does not look is called off.
    timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    assert all(each.finished.is_set() for each in timers)


@pytest.mark.parametrize(
    ("text", "says"),
    [("12", "called 12"), ("0", "share 0"), ("1.5", "share 1.5"), ("x,7", "called x, 7")],
)
def test_patients_may_be_called_by_numbers(
    data: Path, tmp_path: Path, text: str, says: str
) -> None:
    (data.parent / "sets.toml").write_text(SAID)
    run = ("train", data.parent / "sets.toml", "-o", tmp_path / "run", *TOLD)
    done = run_command(*run, "--validation", text)
    assert done.exit_code == 2
    assert says in error_of(done)


def test_the_command_refuses_in_one_line(data: Path, tmp_path: Path) -> None:
    done = run_command("train", data, "-o", tmp_path / "run", "--mpp", "0.25")
    assert done.exit_code == 2
    assert "class_of" in error_of(done)
    assert not (tmp_path / "run").exists()
