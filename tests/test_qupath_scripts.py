"""QuPath scripts are Groovy, and call nothing but what was found in QuPath's sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((REPOSITORY / "pipelines" / "qupath").glob("*.groovy"))

IMPORTS = {
    "groovy.json.JsonSlurper",
    # Of qupath-fxtras 0.1.4 (QuPath 0.5.1) to 0.3.0 (QuPath 0.7.0).
    "qupath.fx.dialogs.FileChoosers",
    "qupath.lib.io.PathIO",
    "static qupath.lib.scripting.QP.*",
}
"""Seen in the sources of QuPath 0.5.1, 0.6.0 and 0.7.0."""

OF_QUPATH = {
    # QP
    *("getCurrentImageData", "getCurrentServer", "getCurrentHierarchy", "getDetectionObjects"),
    *("getProject", "getProjectEntry"),
    # ImageData, ImageServer, ImageServerMetadata
    *("getServer", "getHierarchy", "getURIs", "getMetadata", "getWidth", "getHeight", "close"),
    # PathObjectHierarchy, TMAGrid
    *("getAnnotationObjects", "addObjects", "removeObjects", "getTMAGrid", "getTMACoreList"),
    # PathObject, ROI, MeasurementList
    *("getID", "getName", "getROI", "isArea", "getPathClass", "getMeasurementList", "containsKey"),
    # Project, ProjectImageEntry
    *("getImageList", "syncChanges", "getImageName", "readImageData", "readHierarchy"),
    "saveImageData",
    # PathIO, FileChoosers
    *("readObjects", "exportObjectsAsGeoJSON", "promptForDirectory", "promptToSaveFile"),
    "createExtensionFilter",
}
"""Methods seen in the same sources, all public in each version."""

OF_GROOVY = {
    *("println", "collect", "collectMany", "find", "findAll", "each", "count", "sort", "unique"),
    *("join", "contains", "isEmpty", "first", "add", "size", "keySet", "replaceAll", "toString"),
    *("computeIfAbsent", "listFiles", "isFile", "isDirectory", "getPath", "toPath", "matches"),
    *("group", "parse", "startsWith", "endsWith", "getParentFile", "getAbsoluteFile"),
}
"""Methods of Java and Groovy."""

DEFINED = {"keep", "look", "sizeProblem", "regionsOf", "fileNameOf", "write"}
"""Closures of the scripts themselves."""


def code_of(path: Path) -> str:
    """Return a script without comments and texts."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"'[^'\n]*'|~?/\^?\(?[^/\n]*\$/|/\[.*?\]/", "''", text)


def calls_in(code: str) -> set[str]:
    """Return what is called; `new X(…)` and words of the language are not."""
    found = re.findall(r"(?<!new )\b([a-z]\w*)\s*\(", code)
    # With a closure for its only argument a method needs no parentheses.
    found += re.findall(r"\.([a-z]\w*) \{", code)
    return set(found) - {"if", "for", "while", "switch", "catch", "return"}


def test_there_are_scripts() -> None:
    assert [path.stem for path in SCRIPTS] == [
        "export_corrected",
        "export_review",
        "export_rois",
        "export_training",
        "import_folder",
        "import_run",
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_only_what_qupath_has_is_used(path: Path) -> None:
    code = code_of(path)
    imports = set(re.findall(r"^import (.*)$", code, re.MULTILINE))
    assert imports <= IMPORTS
    calls = calls_in(code)
    assert calls <= OF_QUPATH | OF_GROOVY | DEFINED
    assert calls & OF_QUPATH, "nothing was found"
    for name in (
        found.rpartition(".")[2] for found in imports - {"static qupath.lib.scripting.QP.*"}
    ):
        assert re.search(rf"\b{name}\b", code.replace(f".{name}\n", "")), f"{name} is not used"


def test_calls_are_found() -> None:
    assert calls_in("a.getX().each { b(it) }\nif (c) new File('d(')") >= {"getX", "each", "b"}
    assert "File" not in calls_in("new File('x')")


@pytest.mark.parametrize("name", ["import_run", "import_folder"])
def test_nothing_but_our_own_objects_is_removed(name: str) -> None:
    (path,) = (path for path in SCRIPTS if path.stem == name)
    text = path.read_text(encoding="utf-8")
    removed = set(re.findall(r"removeObjects\((\w+),", text))
    assert removed
    for variable in removed:
        (chosen,) = re.findall(rf"def {variable} = (.*)", text)
        ours = ("containsKey('wsiseg: Cell id')", "it.getName() == 'wsiseg tissue'")
        assert any(condition in chosen for condition in ours)
    assert "clearAll" not in text


def groovy(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run Groovy; None if it is not there or finds no Java."""
    program, java = shutil.which("groovy"), shutil.which("java")
    if program is None or java is None:
        return None
    environment = {"JAVA_HOME": str(Path(java).resolve().parent.parent), **os.environ}
    command = [program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


PARSE = """
import org.codehaus.groovy.control.CompilationUnit
import org.codehaus.groovy.control.Phases
args.each { path ->
    def unit = new CompilationUnit()
    unit.addSource(new File(path))
    unit.compile(Phases.CONVERSION)
}
"""
"""Reads scripts as far as that needs none of the classes they import."""


def test_the_scripts_are_groovy(tmp_path: Path) -> None:
    version = groovy("--version")
    if version is None or version.returncode:
        pytest.skip("no Groovy here; syntax is checked where it is installed")
    parse, wrong = tmp_path / "parse.groovy", tmp_path / "wrong.groovy"
    parse.write_text(PARSE, encoding="utf-8")
    wrong.write_text("def a = [1, 2\n", encoding="utf-8")
    done = groovy(str(parse), *map(str, SCRIPTS))
    assert done is not None
    assert done.returncode == 0, done.stdout + done.stderr
    refused = groovy(str(parse), str(wrong))
    assert refused is not None
    assert refused.returncode != 0
