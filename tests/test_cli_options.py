"""Every option of the command line is an argument of the library, with its default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import wsiseg
from wsiseg import (
    ComputeOptions,
    PlanOptions,
    ScaleOptions,
    SeamCheckOptions,
    TissueOptions,
)
from wsiseg.cli import app
from wsiseg.features import MEASURE_GROUPS
from wsiseg.listing import SlideEntry

DATACLASSES = {
    "scale": ScaleOptions,
    "compute": ComputeOptions,
    "options": PlanOptions,
    "check": SeamCheckOptions,
}
SEGMENT_OPTIONS = {
    "mpp": "scale.mpp",
    "override_mpp": "scale.override_mpp",
    "mpp_from_objective": "scale.from_objective",
    "force_scale": "scale.force",
    "device": "compute.device",
    "precision": "compute.precision",
    "batch_size": "compute.batch_size",
    "workers": "compute.workers",
    "memory_gb": "compute.memory_gb",
    "cluster": "compute.cluster",
    "tta": "compute.tta",
    "require_licence": "options.require_licence",
    "tissue": "options.tissue",
    "format": "formats",
    "model": "model",
    "roi": "options.roi",
    "roi_origin": "options.roi_origin",
    "measure": "options.measure",
    "skip_bad_tiles": "options.skip_bad_tiles",
    "strict": "strict",
    "overwrite": "overwrite",
}
"""Option of `wsiseg segment` and the argument, or the field, of the library that it sets."""

SEAMCHECK_OPTIONS = {
    "squares": "check.squares",
    "side": "check.side_px",
    "grids": "check.grids",
    "offset": "check.offsets_px",
    "near": "check.near_px",
    "seed": "check.seed",
    "slide": "slide",
    "json": "json",
    "picture": "picture",
}
"""The same for `wsiseg seamcheck`, besides those it shares with `segment`."""


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def options_of(command: str) -> dict[str, Any]:
    """Return each option's and argument's default, by parameter name."""
    return {each.name: each.default for each in commands()[command].params if each.name != "help"}


def default_of(where: str, function: Callable[..., Any] = wsiseg.segment) -> Any:
    """Return the library's default of an argument of a function, or of a field in one."""
    name, _, field = where.partition(".")
    if field:
        return next(each.default for each in fields(DATACLASSES[name]) if each.name == field)
    return inspect.signature(function).parameters[name].default


def test_segment_owns_no_default() -> None:
    there = options_of("segment")
    assert there.keys() - SEGMENT_OPTIONS.keys() == {"slides", "out", "quiet", "dry_run", "part"}
    for function in (wsiseg.segment_many, wsiseg.estimate_many):
        assert there["part"] == default_of("part", function)
    for option, where in SEGMENT_OPTIONS.items():
        wanted = default_of(where)
        if option == "format":
            wanted = ",".join(wanted)
        if option == "tissue":
            assert wanted == TissueOptions()
            wanted = "auto"
        if option == "measure":
            assert wanted == MEASURE_GROUPS
            wanted = "all"
        assert there[option] == wanted, option


def test_seamcheck_owns_no_default() -> None:
    there = options_of("seamcheck")
    shared = there.keys() - SEAMCHECK_OPTIONS.keys() - {"slide_or_run", "quiet"}
    of_segment = {name for name, where in SEGMENT_OPTIONS.items() if "." in where}
    # What a seamcheck writes meanwhile lies on this machine alone.
    not_there = {"skip_bad_tiles", "cluster", "measure", "require_licence"}
    assert shared == (of_segment | {"model"}) - not_there
    for option in shared:
        assert there[option] == options_of("segment")[option], option
        assert default_of(SEGMENT_OPTIONS[option], wsiseg.seamcheck) == (
            default_of(SEGMENT_OPTIONS[option])
        )
    for option, where in SEAMCHECK_OPTIONS.items():
        wanted = default_of(where, wsiseg.seamcheck)
        # One option is text, because it may be `all`.
        assert there[option] == (str(wanted) if option == "squares" else wanted), option
    reachable = {where for where in SEAMCHECK_OPTIONS.values() if where.startswith("check")}
    assert reachable == {f"check.{each.name}" for each in fields(SeamCheckOptions)}


def test_each_option_of_seamcheck_reaches_its_own_field(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def seamcheck(target: Any, **options: Any) -> Any:
        said.extend((target, options))
        raise wsiseg.WsisegError("enough")

    monkeypatch.setattr(wsiseg, "seamcheck", seamcheck)
    sample = ["-n", "all", "--side", "640", "--grids", "3", "--near", "32", "--seed", "5"]
    rest = ["--offset", "64", "--offset", "96", "--slide", "b.svs", "--model", "some"]
    more = ["--json", "j", "--picture", "p", "--mpp", "0.4", "--tissue", "none", "--workers", "2"]
    where = ["--roi", "r.geojson", "--roi-origin", "slide", "--device", "cpu", "--quiet"]
    where += ["--tta", "flips+turns"]
    done = CliRunner().invoke(app, ["seamcheck", "a.wsiseg", *sample, *rest, *more, *where])
    assert done.exit_code == 3
    target, options = said
    assert target == Path("a.wsiseg")
    assert options.pop("planned") is not None
    assert options == {
        "slide": Path("b.svs"),
        "model": "some",
        "scale": ScaleOptions(mpp=0.4),
        "options": PlanOptions(tissue=None, roi=Path("r.geojson"), roi_origin="slide"),
        "check": SeamCheckOptions("all", 640, 3, (64, 96), 32, 5),
        "compute": ComputeOptions("cpu", workers=2, tta="flips+turns"),
        "json": Path("j"),
        "picture": Path("p"),
        "progress": None,
    }


def test_classify_owns_no_default() -> None:
    options = {each.name: each.default for each in commands()["classify"].params}
    options.pop("help", None)
    named = inspect.signature(wsiseg.classify).parameters
    for name in ("examples", "model_from", "name", "overwrite"):
        assert options.pop(name) == named[name].default
    assert options.keys() == {"runs", "features", "seed"}
    defaults = wsiseg.ClassifyOptions()
    assert wsiseg.ClassifyOptions(options["features"], options["seed"]) == defaults
    assert named["options"].default == defaults


TRAIN_OPTIONS = {
    "steps": "steps",
    "minutes": "minutes",
    "validation": "validation",
    "start": "start",
    "model_mpp": "model_mpp",
    "weights": "weights",
    "name": "name",
    "seed": "seed",
    "device": "device",
    "precision": "precision",
    "batch_size": "batch_size",
    "crop": "crop_px",
    "encoder": "encoder",
}
"""Option of `wsiseg train` and the field of `TrainRunOptions` that it sets …"""
LABEL_OPTIONS = {
    "mpp": "mpp",
    "classes": "classes",
    "licence": "licence",
    "patient": "patient",
}
"""… or the field of `LabelOptions`."""


def test_train_owns_no_default() -> None:
    there = options_of("train")
    named = inspect.signature(wsiseg.train).parameters
    assert there.keys() == (
        TRAIN_OPTIONS.keys() | LABEL_OPTIONS.keys() | {"data", "out", "resume", "quiet"}
    )
    assert there["resume"] == named["resume"].default
    assert named["options"].default == wsiseg.TrainRunOptions()
    assert named["labels"].default == wsiseg.LabelOptions()
    for options, mapped in (
        (wsiseg.TrainRunOptions(), TRAIN_OPTIONS),
        (wsiseg.LabelOptions(), LABEL_OPTIONS),
    ):
        for option, field in mapped.items():
            wanted = getattr(options, field)
            # Lists are text on the command line, and the share may be names.
            wanted = str(wanted) if option == "validation" else None if wanted == () else wanted
            assert there[option] == wanted, option
    assert set(TRAIN_OPTIONS.values()) == {each.name for each in fields(wsiseg.TrainRunOptions)}


def test_each_option_of_train_reaches_its_own_field(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def train(*given: Any, **options: Any) -> Any:
        said.extend((given, options))
        raise wsiseg.WsisegError("enough")

    monkeypatch.setattr(wsiseg, "train", train)
    length = ["--minutes", "7.5", "--validation", "a, b", "--from", "m", "--resume"]
    images = ["--mpp", "0.4", "--classes", "X,Y", "--licence", "MIT", "--patient", "p."]
    model = ["--model-mpp", "0.5", "--name", "n", "--encoder", "e"]
    numbers = ["--weights", "1,2.5", "--seed", "4", "--batch-size", "3", "--crop", "64"]
    where = ["--device", "cpu", "--precision", "float32", "--quiet"]
    command = ["train", "d", "e.toml", "-o", "out", *length, *images, *model, *numbers, *where]
    assert CliRunner().invoke(app, command).exit_code == 3
    (data, out, options, labels), more = said
    assert (data, out) == ([Path("d"), Path("e.toml")], Path("out"))
    assert options == wsiseg.TrainRunOptions(
        minutes=7.5,
        validation=("a", "b"),
        model_mpp=0.5,
        seed=4,
        start="m",
        encoder="e",
        weights=(1.0, 2.5),
        batch_size=3,
        crop_px=64,
        device="cpu",
        precision="float32",
        name="n",
    )
    assert labels == wsiseg.LabelOptions(mpp=0.4, classes=("X", "Y"), patient="p.", licence="MIT")
    assert more.keys() == {"resume", "planned", "progress", "stop"}
    assert more["resume"] is True
    said.clear()
    assert CliRunner().invoke(app, ["train", "d", "-o", "out", "--steps", "9"]).exit_code == 3
    assert said[0][2:] == (wsiseg.TrainRunOptions(steps=9), wsiseg.LabelOptions())
    assert CliRunner().invoke(app, ["train", "d", "-o", "out", "--weights", "x"]).exit_code == 2


REVIEW_OPTIONS = {
    "n": "options.n",
    "side_um": "options.side_um",
    "seed": "options.seed",
    "share_uncertain": "options.share_uncertain",
}
"""The same for `wsiseg review make`."""


def test_review_owns_no_default() -> None:
    there = commands()["review"].commands
    options = {each.name: each.default for each in there["make"].params if each.name != "help"}
    named = inspect.signature(wsiseg.make_review).parameters
    assert options.pop("classes_from") == named["classes"].default
    for name in ("name", "to", "overwrite"):
        assert options.pop(name) == named[name].default
    assert options.keys() == REVIEW_OPTIONS.keys() | {"run", "out"}
    defaults = {f"options.{each.name}": each.default for each in fields(wsiseg.ReviewOptions)}
    assert {where: options[name] for name, where in REVIEW_OPTIONS.items()} == defaults
    read = {each.name: each.default for each in there["read"].params if each.name != "help"}
    named = inspect.signature(wsiseg.read_review).parameters
    keywords = ("name", "to", "picture", "slide", "overwrite")
    assert {k: read[k] for k in keywords} == {k: named[k].default for k in keywords}
    assert read.keys() == named.keys() | {"json"}


def test_each_option_of_review_reaches_its_own_field(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def stop(*given: Any, **options: Any) -> Any:
        said.extend((given, options))
        raise wsiseg.WsisegError("enough")

    monkeypatch.setattr(wsiseg, "make_review", stop)
    monkeypatch.setattr(wsiseg, "read_review", stop)
    sample = ["-n", "7", "--side-um", "80", "--seed", "5", "--share-uncertain", "0.5"]
    sample += ["--classes-from", "c"]
    rest = ["--name", "b", "--to", "t", "--overwrite"]
    make = ["make", "a.wsiseg", "-o", "s.geojson", *sample]
    read = ["read", "a.wsiseg", "e.geojson", "--picture", "p.png", "--slide", "s.svs"]
    for call in (make, read):
        assert CliRunner().invoke(app, ["review", *call, *rest]).exit_code == 3
    common = {"name": "b", "to": Path("t"), "overwrite": True}
    options = wsiseg.ReviewOptions(7, 80, 5, 0.5)
    assert said == [
        (Path("a.wsiseg"), Path("s.geojson"), options),
        {"classes": "c"} | common,
        (Path("a.wsiseg"), Path("e.geojson")),
        {"picture": Path("p.png"), "slide": Path("s.svs")} | common,
    ]


def test_every_scale_and_compute_option_is_on_the_command_line() -> None:
    for name in ("scale", "compute"):
        reachable = {where for where in SEGMENT_OPTIONS.values() if where.startswith(name)}
        assert reachable == {f"{name}.{each.name}" for each in fields(DATACLASSES[name])}


def test_many_slides_have_the_defaults_of_one() -> None:
    one, many = (
        {
            n: p.default
            for n, p in inspect.signature(f).parameters.items()
            if p.kind is p.KEYWORD_ONLY
        }
        for f in (wsiseg.segment, wsiseg.segment_many)
    )
    assert many == one | {"part": None}


@pytest.mark.parametrize(
    ("command", "function"), [("demo", wsiseg.run_demo), ("info", wsiseg.open_slide)]
)
def test_other_commands_own_no_default(command: str, function: Callable[..., Any]) -> None:
    there = inspect.signature(function).parameters
    for name, default in options_of(command).items():
        if name in there and there[name].default is not inspect.Parameter.empty:
            assert str(default) == str(there[name].default), name
    assert options_of(command).keys() & there.keys()


def test_each_option_reaches_its_own_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[Any] = []

    def segment_many(slides: Any, out: Path, **options: Any) -> Iterator[Any]:
        said.extend((list(slides), out, options))
        return iter(())

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["segment", "a.png", "-o", "out", *map(str, arguments)])

    monkeypatch.setattr(wsiseg, "segment_many", segment_many)
    numbers = ["--override-mpp", 0.3, "--batch-size", 4, "--workers", 2]
    words = ["--device", "cpu", "--precision", "bfloat16", "--format", "geojson,ome-zarr"]
    words += ["--tta", "flips"]
    flags = ["--mpp-from-objective", "--force-scale", "--strict", "--overwrite", "--quiet"]
    flags += ["--skip-bad-tiles", "--part", "3/8"]
    area = ["--tissue", "none", "--roi", "r.geojson", "--roi-origin", "slide"]
    area += ["--measure", "texture,ring", "--require-licence", "commercial"]
    assert run(*numbers, *words, *flags, *area, "--model", "some").exit_code == 0
    slides, out, options = said
    assert (slides, out) == ([SlideEntry(Path("a.png"))], Path("out"))
    assert options.pop("planned") is not None
    assert options == {
        "model": "some",
        "scale": ScaleOptions(None, override_mpp=0.3, from_objective=True, force=True),
        "options": PlanOptions(
            tissue=None,
            roi=Path("r.geojson"),
            roi_origin="slide",
            skip_bad_tiles=True,
            measure=("ring", "texture"),
            require_licence="commercial",
        ),
        "part": "3/8",
        "compute": ComputeOptions(
            "cpu", precision="bfloat16", batch_size=4, workers=2, tta="flips"
        ),
        "formats": ("geojson", "ome-zarr"),
        "overwrite": True,
        "strict": True,
        "progress": None,
    }
    said.clear()
    run("--mpp", 0.4)
    assert said[2]["scale"] == ScaleOptions(mpp=0.4)
    assert said[2]["options"] == PlanOptions()
    assert said[2]["model"] == "auto"
    run("--tissue", "t.geojson")
    assert said[5]["options"] == PlanOptions(tissue=Path("t.geojson"))


QUESTIONS = {
    "by": (wsiseg.cohort_stats, "by"),
    "metadata": (wsiseg.cohort_stats, "metadata"),
    "unit": (wsiseg.cohort_stats, "unit"),
    "confidence": (wsiseg.cohort_stats, "confidence"),
    "model": (wsiseg.cohort_stats, "model"),
    "classes": (wsiseg.cohort_stats, "classes"),
    "roi_origin": (wsiseg.stats_within, "roi_origin"),
}
"""Option of `wsiseg stats` and the argument of the library that it sets."""


def test_questions_own_no_default() -> None:
    there = options_of("stats")
    assert there.keys() - QUESTIONS.keys() == {
        *("runs", "compare", "within", "densest", "mixing"),
        *("format", "to", "overwrite", "rows"),
    }
    for option, (function, argument) in QUESTIONS.items():
        wanted = default_of(argument, function)
        assert there[option] == (",".join(wanted) if option == "by" else wanted), option
    for argument in ("unit", "model", "classes", "confidence"):
        assert default_of(argument, wsiseg.compare_groups) == there[argument]
    for argument in ("model", "classes"):
        assert options_of("query")[argument] == default_of(argument, wsiseg.query)


EVALUATE_OPTIONS = {
    "mpp": "mpp",
    "class_map": "class_of",
    "radius_um": "radius_um",
    "tolerance_um": "tolerance_um",
    "seed": "seed",
    "device": "device",
}
"""Option of `wsiseg evaluate` and the field of `EvaluateOptions` that it sets."""


def test_evaluate_owns_no_default() -> None:
    there = options_of("evaluate")
    named = inspect.signature(wsiseg.evaluate).parameters
    for name in ("second_reader", "to"):
        assert there.pop(name) == named[name].default
    # A flag that names the default changes.
    assert (there.pop("perturb"), named["perturb"].default) == (False, None)
    assert there.keys() == EVALUATE_OPTIONS.keys() | {"pred", "truth", "quiet"}
    defaults = wsiseg.EvaluateOptions()
    assert named["options"].default == defaults
    for option, field in EVALUATE_OPTIONS.items():
        wanted = getattr(defaults, field)
        assert there[option] == (None if wanted == {} else wanted), option


def test_each_option_of_evaluate_reaches_its_own_field(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def evaluate(*given: Any, **options: Any) -> Any:
        said.extend((given, options))
        raise wsiseg.WsisegError("enough")

    monkeypatch.setattr(wsiseg, "evaluate", evaluate)
    options = ["--mpp", "0.4", "--class-map", "1=A", "--radius-um", "2", "--tolerance-um", "1"]
    rest = ["--seed", "5", "--device", "cpu", "--to", "t", "--second-reader", "r", "--quiet"]
    rest += ["--perturb"]
    done = CliRunner().invoke(app, ["evaluate", "runs", "labels", *options, *rest])
    assert done.exit_code == 3
    assert said == [
        ("runs", Path("labels"), wsiseg.EvaluateOptions(0.4, {"1": "A"}, 2, 1, 2000, 5, "cpu")),
        {
            "second_reader": Path("r"),
            "perturb": wsiseg.PerturbOptions(),
            "to": Path("t"),
            "progress": None,
        },
    ]
