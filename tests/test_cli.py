"""The command line: speed, exit codes, what it says, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import wsiseg
from wsiseg import model_choice
from wsiseg.cli import app
from wsiseg.errors import Interrupted, SlideNotReadable, UsageError
from wsiseg.models import DEFAULT_MODEL
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue

STAND_IN = LocalNetwork(mpp=0.25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one painted slide that does not say its µm per pixel."""
    Image.fromarray(paint_tissue(200, 300, 900, seed=1)).save(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command in the folder, in this process, with a stand-in for the network."""
    monkeypatch.chdir(folder)

    def load(model: str = DEFAULT_MODEL) -> Any:
        return STAND_IN if model == DEFAULT_MODEL else wsiseg.load_model(model)

    monkeypatch.setattr(model_choice, "load_model", load)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="session")
def shipped_model() -> Any:
    """Card of the shipped default model."""
    return next(card for card in wsiseg.list_models() if card.name == DEFAULT_MODEL)


@pytest.fixture(scope="session")
def real_run(
    shipped_model: Any, tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """What `wsiseg segment` said with the shipped model on a tiny picture; `args` ends in OUT."""
    here = tmp_path_factory.mktemp("real")
    Image.fromarray(paint_tissue(200, 300, 900, seed=2)).save(here / "tiny.png")
    return wsiseg_in(here, "segment", "tiny.png", "--mpp", "0.25", "--out", str(here / "out"))


def wsiseg_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user does."""
    command = [sys.executable, "-m", "wsiseg", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def error_of(result: Any) -> str:
    """Return the one line that is said of an error, after making sure that it is one."""
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    (line,) = (x for x in result.stderr.splitlines() if x.startswith(("error: ", "failed: ")))
    assert result.stderr.endswith(line + "\n")
    return str(line)


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def loaded_by(folder: Path, *arguments: str) -> set[str]:
    """Return the top-level modules a command loads, after making sure that it works."""
    code = (
        "import sys\nfrom wsiseg.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_by(tmp_path, "--help")
    assert "typer" in loaded
    heavy = {"torch", "numpy", "numba", "pyarrow", "cv2", "PIL", "zarr", "dask", "shapely"}
    assert loaded & heavy == set()


@pytest.mark.skipif(os.name != "posix", reason="the time of child processes is not known")
@pytest.mark.alone
def test_help_answers_at_once(tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        before = os.times()
        assert wsiseg_in(tmp_path, "--help").returncode == 0
        after = os.times()
        user = after.children_user - before.children_user
        seconds.append(user + after.children_system - before.children_system)
    # Seconds of computing, not of the clock: a busy machine stretches the clock.
    quiet = os.getloadavg()[0] < 0.5 * (os.cpu_count() or 1)
    assert min(seconds) < (0.5 if quiet else 1.5)


def test_slides_and_results_are_read_without_torch(run: Callable[..., Any], folder: Path) -> None:
    assert run("segment", "a.png", "-o", "out", "--mpp", 0.25).exit_code == 0
    heavy = {"torch", "timm", "dask", "distributed"}
    for command in (["info", "a.png"], ["stats", "out"], ["models"]):
        loaded = loaded_by(folder, *command)
        assert "wsiseg" in loaded
        assert loaded & heavy == set(), command


def test_a_slide_is_segmented_and_told_of(run: Callable[..., Any], folder: Path) -> None:
    done = run("segment", "a.png", "-o", "out", "--mpp", 0.25)
    assert done.exit_code == 0
    result = wsiseg.open_result(folder / "out" / "a.png.wsiseg")
    total = result.summary()["total"]["n"]
    assert total > 10
    assert done.stdout.splitlines()[-2:] == [
        f"picture:  {Path('out', 'a.png.wsiseg', 'overlay.png')}",
        f"results:  {Path('out', 'a.png.wsiseg')}",
    ]
    header, *rows = (line.split() for line in done.stdout.splitlines()[:-2])
    assert header[:3] == ["slide", "class", "n"]
    assert [row[1] for row in rows] == [*result.class_names, "(all)"]
    assert int(rows[-1][2]) == total
    assert "tiles: 2 of 2" in done.stderr
    stats = run("stats", "out").stdout.splitlines()
    assert [row.split()[2] for row in stats[1:]] == [*result.class_names, "(all)"]
    assert [int(row.split()[3]) for row in stats[1:]] == [int(row[2]) for row in rows]
    exported = run("export", "out/a.png.wsiseg", "--format", "geojson", "--to", "b.geojson")
    assert exported.stdout == "b.geojson\n"
    assert (folder / "b.geojson").stat().st_size > 100


def test_the_licence_is_said_once_a_run(run: Callable[..., Any], folder: Path) -> None:
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    for quiet in ([], ["--quiet"]):
        done = run("segment", ".", "-o", f"out{len(quiet)}", "--mpp", 0.25, *quiet)
        assert done.exit_code == 0
        assert done.stdout.count("results:") == 2
        assert done.stderr.count(STAND_IN.card.licence_note) == 1
    assert done.stderr.count("\n") == 1, "quiet: nothing else"


def test_models_lists_the_shipped_ones(shipped_model: Any) -> None:
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()[1:]
    for line, card in zip(lines, wsiseg.list_models(), strict=True):
        assert line.split()[:2] == [card.name, f"{card.mpp:g}"]
        assert ", ".join(card.class_names) in line
        assert card.licence in line
        assert card.sha256[:12] in line


def test_info_says_what_is_known_and_what_is_not(run: Callable[..., Any]) -> None:
    done = run("info", "a.png")
    assert done.exit_code == 0
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert facts["slide"] == "a.png"
    assert "300 × 200" in done.stdout
    assert done.stdout.splitlines()[6].split("  ")[0] == "µm per pixel"
    assert done.stdout.splitlines()[6].endswith("not in the file")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["segment", "a.png"], 2, ["a.png", "µm", "--mpp", "--mpp-from-objective"]),
        (["segment", "a.png", "--mpp", "1.6"], 2, ["3.2 times", "--force-scale"]),
        (["segment", "a.png", "--mpp", "-1"], 2, ["--mpp is -1", "0.02"]),
        (["segment", "a.png", "--mpp", ".2", "--override-mpp", ".3"], 2, ["both --mpp"]),
        (["segment", "a.png", "--mpp", ".25", "--model", "nuclei"], 2, ["'nuclei'", "card.json"]),
        (["segment", "a.png", "--mpp", ".25", "--format", "xls"], 2, ["'xls'", "geojson"]),
        (["segment", "a.png", "--mpp", ".25", "--device", "tpu"], 2, ["'tpu'", "cuda"]),
        (["segment", "a.png", "--mpp", ".25", "--precision", "int3"], 2, ["'int3'", "float32"]),
        (["segment", "a.png", "a.png", "--mpp", ".25"], 2, ["named before", "a.png"]),
        (["segment", "none.svs"], 3, ["none.svs does not exist"]),
        (["segment", "empty"], 2, ["empty holds no slide", ".svs"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_refused_run_says_why_and_leaves_nothing(
    run: Callable[..., Any], folder: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    (folder / "empty").mkdir()
    before = names_in(folder)
    result = run(*arguments, "-o", "out")
    line = error_of(result)
    assert result.exit_code == code
    assert [word for word in words if word not in line] == []
    assert names_in(folder) == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cluster", "a:8786"], ["a:8786", "tcp://HOST:PORT"]),
        (["--cluster", "none.yaml"], ["none.yaml", "no such file"]),
        (["--cluster", "empty.yaml"], ["empty.yaml"]),
        (["--cluster", "tcp://a:1", "--workers", "2"], ["leave --workers"]),
        (["--cluster", "tcp://a:1", "--device", "cuda:0"], ["leave --workers and the numbers"]),
        (["--cluster", "tcp://a:1", "--memory-gb", "2"], ["--memory-gb 2", "leave --memory-gb"]),
        (["--workers", "0"], ["1 or more"]),
        (["--workers", "2", "--memory-gb", "0.5"], ["0.5 GB", "start fewer"]),
        (["--device", "cuda:99"], ["99"]),
        (["--device", "tpu"], ["'tpu'"]),
        (["--part", "9/8"], ["9/8"]),
        (["--format", "xls"], ["'xls'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_dry_run_refuses_what_a_run_refuses(
    run: Callable[..., Any], folder: Path, arguments: list[str], words: list[str], dry: list[str]
) -> None:
    (folder / "empty.yaml").touch()
    result = run("segment", "a.png", "-o", "out", "--mpp", 0.25, *arguments, *dry)
    line = error_of(result)
    assert line.startswith("error: ")
    assert result.exit_code == 2
    assert [word for word in words if word not in line] == []
    assert not (folder / "out").exists()


def test_a_dry_run_for_a_cluster_says_whose_minutes_it_tells(run: Callable[..., Any]) -> None:
    common = ("segment", "a.png", "-o", "out", "--mpp", 0.25, "--dry-run")
    there = run(*common, "--cluster", "tcp://a:1")
    assert there.exit_code == 0, there.stderr
    assert "of this machine alone" in there.stdout
    assert "of this machine" not in run(*common).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "none.svs"], 3, ["none.svs does not exist"]),
        (["info", "a.png", "--reader", "magic"], 2, ["'magic'", "openslide"]),
        (["stats", "none"], 3, ["no run", "none"]),
        (["stats", "."], 3, ["no run"]),
        (["export", "none", "--format", "geojson", "--to", "x"], 3, ["no run", "at none"]),
        (["demo", "--slide", "none.svs", "--out", "demo"], 3, ["none.svs", "--slide"]),
        (["demo", "--slide", "a.png", "--out", "demo"], 3, ["not the demo slide"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_other_commands_say_what_is_wrong(
    run: Callable[..., Any], folder: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    before = names_in(folder)
    result = run(*arguments)
    line = error_of(result)
    assert result.exit_code == code
    assert [word for word in words if word not in line] == []
    assert names_in(folder) == before


@pytest.mark.parametrize("arguments", [["segment", "a.png"], ["info"], ["segmnt"], ["--no"]])
def test_a_command_that_cannot_be_parsed_is_wrong_usage(
    run: Callable[..., Any], arguments: list[str]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_in_the_way_stays(run: Callable[..., Any], folder: Path, kind: str) -> None:
    there = folder / "out" / "a.png.wsiseg"
    mine = there / "mine.txt" if kind == "folder" else there
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    result = run("segment", "a.png", "-o", "out", "--mpp", 0.25)
    assert "a.png.wsiseg" in error_of(result)
    assert result.exit_code == 2
    assert mine.read_text() == "precious"


def test_another_run_is_not_touched(run: Callable[..., Any], folder: Path) -> None:
    assert run("segment", "a.png", "-o", "out", "--mpp", 0.25).exit_code == 0
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    result = run("segment", "a.png", "-o", "out", "--mpp", 0.26)
    line = error_of(result)
    assert result.exit_code == 2
    assert "mpp: 0.25 there, 0.26 now" in line
    assert "--overwrite" in line
    assert {path: path.read_bytes() for path in before} == before
    assert run("segment", "a.png", "-o", "out", "--mpp", 0.26, "--overwrite").exit_code == 0
    assert wsiseg.open_result(folder / "out" / "a.png.wsiseg").mpp == 0.26


def test_one_slide_that_fails_does_not_stop_the_others(
    run: Callable[..., Any], folder: Path
) -> None:
    (folder / "damaged.svs").write_bytes(b"no slide at all")
    result = run("segment", "damaged.svs", "a.png", "-o", "out", "--mpp", 0.25)
    assert result.exit_code == 3
    assert "failed: damaged.svs: no reader can open it" in result.stderr
    assert "Traceback" not in result.stderr
    assert f"results:  {Path('out', 'a.png.wsiseg')}" in result.stdout
    there = sorted(path.name for path in (folder / "out").iterdir())
    assert there == ["a.png.wsiseg", "batch", "damaged.svs.wsiseg"]
    stats = run("stats", "out")
    assert stats.exit_code == 3
    assert "damaged.svs.wsiseg failed: damaged.svs: no reader can open it" in stats.stderr
    assert {line.split()[0] for line in stats.stdout.splitlines()[1:]} == {"a.png"}


def test_many_slides_are_told_of_in_few_lines(
    run: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("segment", "a.png", "-o", "out", "--mpp", 0.25).exit_code == 0
    path = Path("out", "a.png.wsiseg")
    places = [f"sub/{k}.svs" for k in range(25)]
    (folder / "list.csv").write_text("slide\n" + "\n".join(places))

    def segment_many(slides: list[Any], *arguments: Any, **options: Any) -> Any:
        for entry in slides[:-1]:
            yield wsiseg.Done(entry.path.name, path, entry.place)
        yield wsiseg.Failed("24.svs", SlideNotReadable("24.svs is empty"), slides[-1].place)

    monkeypatch.setattr(wsiseg, "segment_many", segment_many)
    done = run("segment", "list.csv", "-o", "out")
    assert done.exit_code == 3
    header, numbers = done.stdout.splitlines()
    assert (header.split(), numbers.split()) == (["slides", "done", "failed"], ["24", "1"])
    said = done.stderr.splitlines()
    assert said[0].startswith("sub/0.svs: ")
    assert "cells" in said[0]
    assert said[-2:] == [
        "sub/24.svs: failed: 24.svs is empty",
        "failed: sub/24.svs: 24.svs is empty",
    ]
    assert len(said) == 25 + 1 + 1
    quiet = run("segment", "list.csv", "-o", "out", "--quiet").stderr.splitlines()
    assert len(quiet) == 1 + 1


@pytest.mark.parametrize("damage", ["run.json", "cells.parquet"])
@pytest.mark.parametrize("slides", [["a.png"], ["a.png", "b.png"]])
def test_a_result_that_is_gone_at_the_end_is_told_in_a_line(
    run: Callable[..., Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    slides: list[str],
    damage: str,
) -> None:
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    assert run("segment", *slides, "-o", "out", "--mpp", 0.25).exit_code == 0
    # As when another call overwrites it.
    (folder / "out" / "a.png.wsiseg" / damage).unlink()

    def segment_many(entries: list[Any], *arguments: Any, **options: Any) -> Any:
        for entry in entries:
            path = Path("out", f"{entry.place}.wsiseg")
            yield wsiseg.Done(entry.path.name, path, entry.place)

    monkeypatch.setattr(wsiseg, "segment_many", segment_many)
    done = run("segment", *slides, "-o", "out")
    assert done.exit_code == 3
    assert isinstance(done.exception, SystemExit)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("a.png: ")
    assert "its result cannot be opened: " in last
    assert damage in last
    assert done.stdout.count("results:") == len(slides) - 1


def test_a_part_without_slides_is_done(run: Callable[..., Any]) -> None:
    part = next(k for k in (1, 2, 3) if not wsiseg.Part(k, 3).holds(PurePosixPath("a.png")))
    done = run("segment", "a.png", "-o", "out", "--part", f"{part}/3")
    assert done.exit_code == 0
    assert done.stdout == f"part {part}/3 holds none of the 1 slides; nothing to do\n"


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (UsageError("no"), 2),
        (SlideNotReadable("no"), 3),
        (Interrupted("no"), 75),
        (KeyboardInterrupt(), 75),
        (ZeroDivisionError("a bug"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise raised

    monkeypatch.setattr(wsiseg, "segment_many", fail)
    result = run("segment", "a.png", "-o", "out")
    assert result.exit_code == code
    assert isinstance(result.exception, ZeroDivisionError if code == 1 else SystemExit)


def test_a_user_sees_no_traceback(tmp_path: Path) -> None:
    done = wsiseg_in(tmp_path, "info", "none.svs")
    assert done.returncode == 3
    assert done.stderr == "error: none.svs does not exist; check the path\n"
    assert done.stdout == ""


def test_the_shipped_model_runs_as_a_user_runs_it(
    real_run: subprocess.CompletedProcess[str], shipped_model: Any
) -> None:
    assert real_run.returncode == 0, real_run.stderr
    assert real_run.stderr.count(shipped_model.licence_note) == 1
    assert "Warning" not in real_run.stderr
    run = wsiseg.open_result(Path(real_run.args[-1]) / "tiny.png.wsiseg").run
    assert run["model"]["name"] == DEFAULT_MODEL
    assert run["model"]["sha256"] == shipped_model.sha256
    assert "default" not in real_run.stdout


def test_a_finished_run_is_told_again_at_once(
    real_run: subprocess.CompletedProcess[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(real_run.args[-1])
    record = out / "tiny.png.wsiseg" / "run.json"
    before = record.read_bytes()
    monkeypatch.chdir(out.parent)
    again = CliRunner().invoke(app, ["segment", "tiny.png", "--mpp", "0.25", "--out", str(out)])
    assert again.exit_code == 0
    assert again.stdout == real_run.stdout
    assert record.read_bytes() == before
