"""Imports point one way, heavy packages stay where they belong, and names say what things are.

The source is parsed, never run.  What Python runs on `import` counts; two exemptions:
imports under `if TYPE_CHECKING:` never run, so they may close a cycle (but must not point up),
and importing a submodule's parent package is not an edge of its own.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from import_graph import Module, called, our_edges, read_package

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "wsiseg"

LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "geometry"),
    ("records", "plugins"),
    (
        *("scale", "choosing", "tissue", "ink", "stain", "quality/", "tiles", "decode", "stitch"),
        *("outlines", "measure", "identity", "rundir", "regions/", "cell_table"),
        *("classes/versions", "listing", "machine", "stopwatch", "densities"),
        *("texture", "features", "neighbours", "classes/linear_model"),
        *("classes/cross_validation", "answers/intervals", "answers/analysed", "answers/detection"),
        *("answers/cohort_metadata", "answers/table_files"),
        *("answers/table_rows", "answers/table_targets"),
        *("parts", "claims", "unfinished", "calibration", "reliability"),
        *("slides/", "models/", "exporters/", "labels/"),
    ),
    (
        *("models/hovernet", "models/device", "predict", "first_look", "results"),
        *("answers/stats", "classes/examples", "status", "worker_needs", "pictures", "testing/"),
        *("crop_files", "answers/mixing", "answers/densest", "answers/within"),
    ),
    (
        *("plan", "model_choice", "assemble", "side_files", "manifest", "runners", "pipeline"),
        *("exporting", "finished", "answers/", "classes/", "review/", "reports/"),
        *("training/", "evaluation/"),
    ),
    ("batches", "cluster/", "estimate"),
    (
        *("api", "many", "dry_run", "seam_check/", "doctor", "demo", "evaluation/judging"),
        *("__init__", "__main__", "signals", "cli/"),
    ),
)
"""The table of docs/architecture.md; `name/` is a package with all in it that is not named."""

PURE = (
    *("geometry", "records", "scale", "choosing", "tissue", "ink", "stain", "quality/", "tiles"),
    *("decode", "stitch", "outlines", "measure", "densities", "texture", "features"),
    *("neighbours", "identity", "classes/linear_model", "classes/cross_validation"),
    *("answers/intervals", "calibration", "reliability"),
)
"""Modules that compute and touch no file."""

PART_OF = {
    "_arrivals": "pipeline",
    "_cell_files": "cell_table",
    "_crops": "pictures",
    "_disk_need": "estimate",
    "_drawing": "pictures",
    "_feature_rows": "assemble",
    "_flood": "decode",
    "_folder_search": "listing",
    "_label_runs": "decode",
    "_place": "listing",
    "_plan_identity": "plan",
    "_rates": "status",
    "_run_overlaps": "stitch",
    "_run_record": "results",
    "_run_search": "results",
    "_run_folder": "pipeline",
    "_seam_sheet": "pictures",
    "_seams": "stitch",
    "_sha1": "identity",
    "_slide_table": "listing",
    "_spool": "assemble",
    "_tissue_glass": "tissue",
    "_tissue_stain": "tissue",
    "exporters/_cells_batch": "exporters/parquet",
    "exporters/_coco_text": "exporters/coco",
    "exporters/_decimal_text": "exporters/geojson",
    "exporters/_dicom_source": "exporters/dicom_ann",
    "exporters/_feature_text": "exporters/geojson",
    "exporters/_geojson_choice": "exporters/geojson",
    "exporters/_ngff": "exporters/ome_zarr",
    "exporters/_ome_zarr_classes": "exporters/ome_zarr",
    "exporters/_ome_zarr_older": "exporters/ome_zarr",
    "exporters/_paint": "exporters/ome_zarr",
    "exporters/_shards": "exporters/ome_zarr",
    "models/_bands": "models/hovernet",
    "models/_encoder": "models/hovernet",
    "models/_filters": "models/hovernet",
    "models/_kernels": "models/hovernet",
    "models/_layers": "models/hovernet",
    "models/_map_bytes": "models/hovernet",
    "models/_streamed": "models/hovernet",
    "models/_timm": "models/hovernet",
    "models/_vectors": "models/hovernet",
    "models/_winograd": "models/hovernet",
    "testing/_giga_tiff": "testing/gigapixel",
}
"""Private modules and the public one, or the package, they are a part of."""

ALLOWED_AT = {
    "torch": ("models/", "training/", "doctor"),
    "torchvision": ("models/", "training/"),
    "timm": ("models/", "training/"),
    "safetensors.torch": ("models/", "training/"),
    "dask": ("cluster",),
    "distributed": ("cluster",),
    "zarr": (
        "exporters/ome_zarr",
        "exporters/_ngff",
        "exporters/_ome_zarr_older",
        "exporters/_ome_zarr_classes",
        "doctor",
    ),
    "openslide": ("slides/",),
    "tiffslide": ("slides/",),
    "tifffile": ("slides/", "testing/_giga_tiff"),
}
"""Heavy packages and the only places that may import them, deferred or not."""

NOT_PURE = {"torch", "torchvision", "timm", "safetensors", "dask", "distributed", "zarr"} | {
    *("openslide", "tiffslide", "tifffile", "pyarrow", "PIL", "isal", "typer", "rich"),
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "mmap", "socket", "subprocess"),
}
"""What a pure module does not import."""

FILE_CALLS = {"open", "imread", "imwrite", "load", "save", "savez", "fromfile", "tofile"} | {
    *("memmap", "loadtxt", "savetxt", "genfromtxt", "read_text", "write_text", "read_bytes"),
    *("write_bytes", "mkdir", "unlink", "touch", "rmdir", "iterdir", "rglob"),
}
"""Names of functions and methods that reach for files."""

BANNED_WORDS = {"engine", "manager", "helper", "util", "utils", "handler"}


def level_of(name: str, levels: tuple[tuple[str, ...], ...], part_of: dict[str, str]) -> int | None:
    """Return a module's level, that of its package if it is not listed; None without one."""
    known = {entry: level for level, entries in enumerate(levels) for entry in entries}
    name = part_of.get(name, name)
    while name not in known and "/" in name.rstrip("/"):
        name = name.rstrip("/").rpartition("/")[0] + "/"
    return known.get(name)


def edges_up(modules: dict[str, Module], package: str = "wsiseg") -> list[str]:
    """Return the imports that point to a higher level."""
    return [
        f"{source}:{found.line} imports {target}"
        for source, target, found in our_edges(modules, package)
        if (level_of(target, LEVELS, PART_OF) or 0) > (level_of(source, LEVELS, PART_OF) or 0)
    ]


def cycle(modules: dict[str, Module], package: str = "wsiseg") -> list[str]:
    """Return the modules of one import cycle, empty if there is none."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for source, target, found in our_edges(modules, package):
        if not found.typing_only:
            graph[source].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def deferred(modules: dict[str, Module], package: str = "wsiseg") -> list[str]:
    """Return the imports of our own modules inside functions."""
    return [
        f"{module.name}:{found.line} imports {found.name}"
        for module in modules.values()
        for found in module.imports
        if found.deferred and (found.name + ".").startswith(package + ".")
    ]


def misplaced(modules: dict[str, Module]) -> list[str]:
    """Return the imports of heavy packages outside their places."""
    return [
        f"{module.name}:{found.line} imports {found.name}"
        for module in modules.values()
        for found in module.imports
        for heavy, places in ALLOWED_AT.items()
        if (found.name + ".").startswith(heavy + ".")
        and not module.name.startswith(places)
        # A type of an argument that only `cluster` uses.
        and not (found.typing_only and module.name in ("api", "many") and heavy == "distributed")
    ]


def is_pure(name: str) -> bool:
    """Return whether a module, or the one it is a part of, must be pure."""
    name = PART_OF.get(name.replace(".", "/"), name.replace(".", "/"))
    return name in PURE or f"{name}/" in PURE or name.rpartition("/")[0] + "/" in PURE


def impurities(module: Module) -> Iterator[str]:
    """Yield what a pure module must not do."""
    for found in module.imports:
        ours = found.name.removeprefix("wsiseg.")
        if found.name.partition(".")[0] in NOT_PURE:
            yield f"{module.name}:{found.line} imports {found.name}"
        if ours != found.name and not (is_pure(ours) or ours == "errors"):
            yield f"{module.name}:{found.line} imports {found.name}, which is not pure"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and called(node) in FILE_CALLS:
            yield f"{module.name}:{node.lineno} calls {called(node)}()"


def banned_names(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield file, class and function names that say nothing."""
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    inside = [node.name for node in ast.walk(tree) if isinstance(node, defined)]
    for found in (name, *inside):
        if BANNED_WORDS & {word.lower() for word in _words(found)}:
            yield f"{name}: {found}"


def _words(name: str) -> list[str]:
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return read_package(PACKAGE)


def test_every_module_has_a_level_and_every_level_entry_a_module(
    modules: dict[str, Module],
) -> None:
    assert [name for name in modules if level_of(name, LEVELS, PART_OF) is None] == []
    listed = {entry for level in LEVELS for entry in level} | PART_OF.keys()
    assert listed <= modules.keys()
    # In a package a module is a part of the package, unless the table says of which module.
    private = {name for name in modules if re.match(r"_[a-z]", name)}
    assert private == {name for name in PART_OF if "/" not in name}


def test_the_table_is_that_of_the_documentation() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*) \|$", text, re.MULTILINE)
    written = {int(level): set(re.findall(r"`([\w/]+)`", row)) for level, row in rows}
    assert written == {level: set(entries) for level, entries in enumerate(LEVELS)}


def test_imports_never_point_up(modules: dict[str, Module]) -> None:
    assert edges_up(modules) == []


def test_there_is_no_import_cycle(modules: dict[str, Module]) -> None:
    assert cycle(modules) == []


def test_no_import_of_our_own_is_deferred(modules: dict[str, Module]) -> None:
    # The public door loads names on first use, so that reading results never waits for torch.
    # The command line settles what signals do before it loads the rest.
    door = [found for found in deferred(modules) if found.startswith(("__init__:", "__main__:"))]
    assert len(door) == 2
    assert [found for found in deferred(modules) if found not in door] == []


def test_heavy_packages_stay_in_their_places(modules: dict[str, Module]) -> None:
    assert misplaced(modules) == []
    imported = {found.name.partition(".")[0] for m in modules.values() for found in m.imports}
    assert {"torch", "dask", "distributed", "zarr", "openslide", "tifffile"} <= imported


def test_parts_are_imported_by_their_own_package_only(modules: dict[str, Module]) -> None:
    foreign = [
        (source, target)
        for source, target, _ in our_edges(modules, "wsiseg")
        if target in PART_OF
        and not (target.partition("/")[1] and source.startswith(target.partition("/")[0] + "/"))
        and PART_OF.get(source, source) != PART_OF[target]
    ]
    # Training reads ImageNet weights into the encoder that timm built, with the same cure.
    assert foreign == [("training/imagenet", "models/_timm")]


def test_pure_modules_touch_no_file(modules: dict[str, Module]) -> None:
    pure = [module for name, module in modules.items() if is_pure(name)]
    assert {module.name for module in pure} >= {name for name in PURE if name[-1] != "/"}
    assert any(module.name.startswith("quality/") for module in pure)
    assert [problem for module in pure for problem in impurities(module)] == []


def test_pure_modules_load_nothing_heavy_at_run_time() -> None:
    names = [name.strip("/").replace("/", ".") for name in PURE]
    code = (
        "import sys, importlib\n"
        f"for name in {names!r}: importlib.import_module('wsiseg.' + name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    loaded = set(done.stdout.split())
    assert {"wsiseg", "numba", "cv2"} <= loaded
    heavy = {"torch", "timm", "dask", "distributed", "zarr", "openslide", "tifffile", "pyarrow"}
    assert loaded & heavy == set()


@pytest.mark.parametrize("folder", ["wsiseg", "tests", "examples", "pipelines", "benchmarks"])
def test_names_say_what_things_are(folder: str) -> None:
    paths = sorted((REPOSITORY / folder).rglob("*.py"))
    assert paths
    found = [
        name
        for path in paths
        for name in banned_names(path.stem, ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def _package(folder: Path, sources: dict[str, str]) -> dict[str, Module]:
    """Write a small package and parse it."""
    for name, source in sources.items():
        path = folder / "wsiseg" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return read_package(folder / "wsiseg")


@pytest.mark.parametrize(
    "source",
    [
        "from wsiseg.results import Result",
        "from wsiseg import results",
        "import wsiseg.results as there",
        "from .results import Result",
        "from . import results",
        "import typing\nif typing.TYPE_CHECKING:\n    from wsiseg.results import Result",
        "def f():\n    from wsiseg.results import Result",
        "try:\n    import wsiseg.results\nexcept ImportError:\n    pass",
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, source: str) -> None:
    up = _package(tmp_path / "up", {"stitch": source, "results": ""})
    assert len(edges_up(up)) == 1
    down = _package(tmp_path / "down", {"pipeline": source, "results": ""})
    assert len(list(our_edges(down, "wsiseg"))) == 1
    assert edges_up(down) == []


def test_a_cycle_is_found_and_types_do_not_make_one(tmp_path: Path) -> None:
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wsiseg.stitch"
    there = "from wsiseg.measure import x"
    assert cycle(_package(tmp_path / "a", {"stitch": there, "measure": typed})) == []
    back = "from . import stitch"
    found = cycle(_package(tmp_path / "b", {"stitch": there, "measure": back}))
    assert set(found) == {"stitch", "measure"}
    # What stands in `else` does run.
    run = typed + "\nelse:\n    import wsiseg.stitch"
    assert cycle(_package(tmp_path / "c", {"stitch": there, "measure": run})) != []


def test_deferred_and_misplaced_imports_are_found(tmp_path: Path) -> None:
    sources = {
        "stitch": "def f():\n    from wsiseg.measure import x\n    import torch",
        "measure": "from importlib import import_module\nx = import_module('wsiseg.tiles')",
        "tiles": "import torchinfo, zarrs\nfrom safetensors import numpy",
        "plan": "from safetensors import torch",
        "predict": "from dask.array import core",
        "models/card": "def f():\n    import torch.nn",
    }
    found = _package(tmp_path, sources)
    assert deferred(found) == ["measure:2 imports wsiseg.tiles", "stitch:2 imports wsiseg.measure"]
    assert sorted(misplaced(found)) == [
        "plan:1 imports safetensors.torch",
        "predict:1 imports dask.array",
        "stitch:3 imports torch",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "open('a')",
        "import cv2\ncv2.imread('a')",
        "import numpy as np\nnp.load('a')",
        "from pathlib import Path",
        "def f():\n    import zarr",
        "from wsiseg.rundir import RunDir",
        "from . import rundir",
    ],
)
def test_an_impure_module_is_found(tmp_path: Path, source: str) -> None:
    found = _package(tmp_path / "a", {"measure": source, "rundir": "", "errors": ""})
    assert len(list(impurities(found["measure"]))) == 1
    assert is_pure("_seams")
    allowed = "import math, numpy\nimport wsiseg.errors"
    clean = _package(tmp_path / "b", {"measure": allowed, "errors": ""})
    assert list(impurities(clean["measure"])) == []


@pytest.mark.parametrize("name", ["TileManager", "io_helper", "HTTPHandler", "_utils", "Engine2"])
def test_a_banned_name_is_found(name: str) -> None:
    assert list(banned_names("a", ast.parse(f"class A:\n    def {name}(self): ...")))
    assert list(banned_names(name, ast.parse("")))


def test_words_are_whole() -> None:
    clean = "class Engineering: ...\ndef managerial(): ...\ndef helped_by(): ..."
    assert list(banned_names("utilisation", ast.parse(clean))) == []
