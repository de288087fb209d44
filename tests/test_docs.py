"""What the documents show works: Python blocks and examples are run, commands exist."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import shapely
import typer

import wsiseg
from wsiseg.cli import app
from wsiseg.listing import SLIDE_SUFFIXES
from wsiseg.testing.reviewed import as_qupath_writes, plant_edits

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
DEMO_SLIDE = "CMU-1-Small-Region.svs"
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<language>\w*)[^\n]*\n"
    r"(?P<code>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: str
    line: int
    language: str
    code: str

    @property
    def why_not_run(self) -> str | None:
        """The reason in a comment `# not run: reason`."""
        found = re.search(r"^\s*# not run:[ \t]*(\S.*)$", self.code, re.MULTILINE)
        return found and found[1]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(name: str, text: str) -> list[Block]:
    """Return a document's fenced blocks, without the indentation of their list or quote."""
    return [
        Block(
            name,
            text.count("\n", 0, found.start()) + 1,
            found["language"].lower(),
            re.sub(f"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
        )
        for found in FENCE.finditer(text)
    ]


BLOCKS = [
    block for path in DOCUMENTS for block in blocks_of(path.name, path.read_text(encoding="utf-8"))
]
PYTHON = [block for block in BLOCKS if block.language in ("python", "python3", "py", "pycon")]


def slide_names(code: str) -> list[str]:
    """Return the file names in a script that look like slides and lie in its folder."""
    constants = (node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant))
    return sorted(
        value
        for value in set(constants)
        if isinstance(value, str)
        and Path(value).name == value
        and Path(value).suffix.lower() in SLIDE_SUFFIXES - {".png", ".jpg", ".jpeg"}
    )


def run_script(folder: Path, script: Path, *arguments: str) -> str:
    """Run a plain script as a user does and return what it prints."""
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the demo slide, segmented by the example into `results/`."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copy(shared / "slides" / DEMO_SLIDE, folder / DEMO_SLIDE)
    example = REPOSITORY / "examples" / "segment_and_count.py"
    (folder / "printed.txt").write_text(
        run_script(folder, example, DEMO_SLIDE, "results"), encoding="utf-8"
    )
    return folder


@pytest.fixture
def result(demo: Path) -> wsiseg.Result:
    return wsiseg.open_result(demo / "results" / f"{DEMO_SLIDE}.wsiseg")


def test_the_readme_shows_python_that_runs() -> None:
    assert [block for block in PYTHON if block.document == "README.md" and not block.why_not_run]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_is_a_script(block: Block) -> None:
    assert block.language == "python", "write plain scripts in ```python blocks"
    ast.parse(block.code)


@pytest.mark.real
@pytest.mark.parametrize("block", [b for b in PYTHON if not b.why_not_run], ids=str)
def test_a_python_block_runs(block: Block, demo: Path, tmp_path: Path) -> None:
    for name in slide_names(block.code):
        shutil.copy(demo / DEMO_SLIDE, tmp_path / name)
    # The same call returns a finished run at once; another name or folder is run anew.
    shutil.copytree(demo / "results", tmp_path / "results")
    script = tmp_path / "block.py"
    script.write_text(block.code, encoding="utf-8")
    run_script(tmp_path, script)


@pytest.mark.real
def test_example_segment_and_count(demo: Path, result: wsiseg.Result) -> None:
    first, *rows = (demo / "printed.txt").read_text(encoding="utf-8").splitlines()
    assert first == f"{DEMO_SLIDE}, {result.model_name}: {result.analysed_mm2:.3f} mm² of tissue"
    summary = result.summary()
    counted = {row.split()[0]: row.split()[1:3] for row in rows}
    assert counted.keys() == {*result.class_names, "all"}
    for name, numbers in [*summary["classes"].items(), ("all", summary["total"])]:
        assert counted[name] == [str(numbers["n"]), f"{numbers['per_mm2']:.0f}"]
    assert summary["total"]["n"] > 500


@pytest.mark.real
def test_example_cells_in_region(demo: Path, result: wsiseg.Result, tmp_path: Path) -> None:
    region = shapely.box(300, 500, 1500, 2100)
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(region)}
    drawn = json.dumps({"type": "FeatureCollection", "features": [feature]})
    (tmp_path / "region.geojson").write_text(drawn, encoding="utf-8")
    example = REPOSITORY / "examples" / "cells_in_region.py"
    printed = run_script(tmp_path, example, str(result.path), "region.geojson", "cells.csv")
    table = result.cells()
    x, y = (table[name].to_numpy() for name in ("x", "y"))
    inside = (x > 300) & (x < 1500) & (y > 500) & (y < 2100)
    written = pyarrow.csv.read_csv(tmp_path / "cells.csv")
    assert written["cell_id"].to_pylist() == table["cell_id"].filter(inside).to_pylist()
    assert 0 < len(written) < len(table)
    first, *rows = printed.splitlines()
    mm2 = 1200 * 1600 * result.mpp**2 / 1e6
    assert first == f"{DEMO_SLIDE}: {len(written)} nuclei in {mm2:.4f} mm²"
    found = written["class_name"].to_pylist()
    assert {row.split()[0]: int(row.split()[1]) for row in rows} == {
        name: found.count(name) for name in result.class_names
    }


@pytest.mark.real
def test_a_review_of_the_demo_comes_back(result: wsiseg.Result, tmp_path: Path) -> None:
    sample = wsiseg.make_review(result, tmp_path / "s.geojson", to=tmp_path / "review")
    assert sum(len(square.cell_uuids) for square in sample.squares) > 200
    document = json.loads((tmp_path / "s.geojson").read_text(encoding="utf-8"))
    outlines = [shapely.geometry.shape(each["geometry"]) for each in document["features"]]
    # One invalid outline would abort QuPath's import.
    assert shapely.is_valid(outlines).all()
    rng = np.random.default_rng(0)
    edited, planted = plant_edits(document, result.class_names, rng, n_added=20)
    text = json.dumps(as_qupath_writes(edited, rng))
    (tmp_path / "e.geojson").write_text(text, encoding="utf-8")
    review = wsiseg.read_review(result, tmp_path / "e.geojson", to=tmp_path / "review")
    found = review.changes.to_pylist()
    assert {r["uuid"] for r in found if r["change"] == "deleted"} == planted.deleted
    relabelled = {r["uuid"] for r in found if "relabelled" in r["change"]}
    assert relabelled == planted.relabelled.keys()
    assert {r["uuid"] for r in found if "redrawn" in r["change"]} == planted.redrawn.keys()
    assert sum(r["change"] == "added" for r in found) == len(planted.added)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_call_it(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert f"test_example_{path.stem}" in globals(), "an example without a test"
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"python {path.name} " in done.stderr
    assert "Traceback" not in done.stderr


def wrong_commands(text: str) -> list[str]:
    """Return the calls of `wsiseg` in a block that name no command, or no option of it."""
    group: Any = typer.main.get_command(app)
    wrong = []
    for line in re.findall(r"^(?:\$ )?wsiseg ([^#\n]*)", text, re.MULTILINE):
        said = re.split(r" {2,}(?=[^\[\s])", line)[0]
        name, *words = said.split()
        command = group.commands.get(name)
        # A group such as `review` has commands of its own.
        command = getattr(command, "commands", {}).get(words[0] if words else "", command)
        known = command.params if command is not None else []
        options = {"--help"}.union(*(each.opts for each in known))
        used = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(words)))
        if name not in group.commands or not used <= options:
            wrong.append(line)
    return wrong


@pytest.mark.parametrize("block", [b for b in BLOCKS if b not in PYTHON], ids=str)
def test_commands_in_documents_exist(block: Block) -> None:
    assert wrong_commands(block.code) == []


def test_the_readme_names_every_command() -> None:
    group: Any = typer.main.get_command(app)
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [name for name in group.commands if f"wsiseg {name}" not in text] == []


def test_wrong_commands_are_found() -> None:
    assert wrong_commands("wsiseg segment a.svs -o out --mpp 0.25   # fine\n$ wsiseg models") == []
    assert wrong_commands("wsiseg info SLIDE     size --of what") == []
    for wrong in ("wsiseg segmnt a", "wsiseg info a --mpp 1", "wsiseg segment A  [--colour red]"):
        assert len(wrong_commands(wrong)) == 1, wrong


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n- b\n  ``` python title\n  if x:\n      y\n  ```\n"
    text += "~~~sh\nz\n~~~\n"
    found = blocks_of("a.md", text)
    assert [(b.line, b.language, b.code) for b in found] == [
        (2, "python", "x = 1\n"),
        (6, "python", "if x:\n    y\n"),
        (10, "sh", "z\n"),
    ]
    assert found[0].why_not_run is None
    assert Block("", 1, "python", "# not run: needs a cluster\nx").why_not_run == "needs a cluster"
    assert Block("", 1, "python", "# not run:\nx").why_not_run is None


def test_slides_in_a_script_are_found() -> None:
    code = 'f("a.svs", "b.ndpi", out="c.png"); f("d/e.svs", 1, "f.SVS")'
    assert slide_names(code) == ["a.svs", "b.ndpi", "f.SVS"]


def test_version_and_date_are_the_same_everywhere() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == project["version"]
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == newest[1]
    assert re.search(r"^date-released: (.*)$", citation, re.MULTILINE)[1] == newest[2]
