"""The doctor finds what is broken, says what to do, and never breaks itself."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

import wsiseg
from wsiseg import doctor
from wsiseg.doctor import Check, run_checks, tiled_tiff
from wsiseg.errors import MissingDependency
from wsiseg.models import ModelFile, load_model

NAMES = [
    *("packages", "OpenSlide", "other readers", "device", "memory"),
    *("disk", "models", "results", "compiler", "speed"),
]


def _ask(name: str, out: Path, model: str | None = None) -> Check:
    """Ask one of the ten."""
    question = next(question for question in doctor._QUESTIONS if question.name == name)
    with tempfile.TemporaryDirectory() as scratch:
        return doctor._answer(question, doctor._Setting(out, model, Path(scratch)))


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the shipped network with small tiles, so that a test need not wait for it."""
    shipped = load_model(wsiseg.list_models()[0].name)
    assert isinstance(shipped, ModelFile)
    folder = tmp_path_factory.mktemp("models") / "small"
    shutil.copytree(shipped.folder, folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card |= {"core_px": 64, "margin_px": 32, "name": "small"}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def test_all_is_well_here_and_nothing_is_left(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(doctor, "LEAST_FREE_GB", 0.0)
    checks = list(run_checks(tmp_path / "out" / "deeper", str(small_model)))
    assert [check.name for check in checks] == NAMES
    assert [check for check in checks if not check.ok or check.fix] == []
    assert all(check.said and "\n" not in check.said for check in checks)
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    # torch makes a folder of its own there.
    assert [path for path in scratch.iterdir() if not path.name.startswith("torch")] == []
    said = {check.name: check.said for check in checks}
    assert "small" in said["models"]
    assert "s per mm²" in said["speed"]


def test_a_package_that_is_missing_or_too_old_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "zarr":
            raise metadata.PackageNotFoundError(name)
        return "2.5.1+cpu" if name == "torch" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    check = _ask("packages", tmp_path)
    assert not check.ok
    assert check.said == ("missing or too old: zarr, torch 2.5.1+cpu (at least 2.6 is needed)")
    assert "pip install --upgrade wsiseg" in check.fix


@pytest.mark.parametrize(
    ("version", "least", "is_old"),
    [
        *(("2.13.0+cpu", "2.6", False), ("2.5.9", "2.6", True), ("3.10", "3.9", False)),
        *(("2025.1.10", "2025.3", True), ("3.1.0rc1", "3.1", False), ("4", "4.0", True)),
    ],
)
def test_versions_are_compared_as_numbers(version: str, least: str, is_old: bool) -> None:
    # "4" against "4.0" is the one case where padding would matter; packages do not do that.
    assert (doctor._numbers(version) < doctor._numbers(least)) is is_old


class _WrongSlide:
    """Gives black, whatever the file holds."""

    def __enter__(self) -> _WrongSlide:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_level(self, level: int, box: Any) -> Any:
        return np.zeros((box.height_px, box.width_px, 3), np.uint8)


@pytest.mark.parametrize("name", ["OpenSlide", "other readers"])
def test_wrong_pixels_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("wsiseg.slides.open_slide", lambda path, reader: _WrongSlide())
    check = _ask(name, tmp_path)
    assert not check.ok
    assert "wrong pixels" in check.said
    assert check.fix


def test_tiffslide_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wsiseg.open_slide

    def open_slide(path: Path, reader: str) -> Any:
        if reader == "tiffslide":
            raise MissingDependency("tiffslide is not installed")
        return real(path, reader)

    monkeypatch.setattr("wsiseg.slides.open_slide", open_slide)
    check = _ask("other readers", tmp_path)
    assert check.ok
    assert "not installed" in check.said


def test_a_package_that_does_not_load_is_a_check_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check = _ask("device", tmp_path)
    assert not check.ok
    assert check.said.startswith("ModuleNotFoundError: ")
    assert "pytorch.org" in check.fix


def test_the_doctor_itself_loads_nothing_that_may_be_broken() -> None:
    code = "import sys, wsiseg.doctor; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "wsiseg" in loaded
    assert loaded & {"numpy", "torch", "zarr", "numba", "cv2", "pyarrow", "openslide"} == set()


def test_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_mb", lambda: 900)
    check = _ask("memory", tmp_path)
    assert (check.ok, check.said) == (False, "0.9 GB free, 1.2 GB are needed")
    assert check.fix


def test_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(free=4.9e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    check = _ask("disk", tmp_path)
    assert not check.ok
    assert check.said.startswith("4.9 GB free")
    assert "free some space" in check.fix
    free.free = 5.1e9
    assert _ask("disk", tmp_path).ok


def test_a_place_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    check = _ask("disk", tmp_path / "file" / "out")
    assert not check.ok
    assert "--out" in check.fix

    def refuse(**_: object) -> io.BytesIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check = _ask("disk", tmp_path)
    assert not check.ok
    assert "Permission denied" in check.said


def test_a_flipped_byte_in_a_model_is_found(tmp_path: Path, small_model: Path) -> None:
    folder = tmp_path / "flipped"
    shutil.copytree(small_model, folder)
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    for name in ("models", "speed"):
        check = _ask(name, tmp_path, str(folder))
        assert not check.ok
        assert "damaged" in check.said
        assert check.fix


def test_a_model_nobody_knows_is_a_check_that_fails(tmp_path: Path) -> None:
    check = _ask("models", tmp_path, "no-such-model")
    assert not check.ok
    assert "no-such-model" in check.said
    assert "--model" in check.fix


def test_files_that_disagree_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wsiseg.segment

    def change(result: Any, table: Any) -> Any:
        return SimpleNamespace(path=result.path, run=result.run, cells=lambda: table)

    def one_fewer(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        return change(result, result.cells()[1:])

    def another_order(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        return change(result, result.cells().take(np.arange(len(result.cells()))[::-1]))

    for segment, said in ((one_fewer, "about its nuclei"), (another_order, "nuclear areas")):
        monkeypatch.setattr("wsiseg.api.segment", segment)
        check = _ask("results", tmp_path)
        assert not check.ok
        assert said in check.said


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    real = numba.njit

    def njit(function: Any, cache: bool = False) -> Any:
        if cache:
            raise RuntimeError("cannot cache function '_twice': no locator available")
        return real(function)

    monkeypatch.setattr(numba, "njit", njit)
    check = _ask("compiler", tmp_path)
    assert not check.ok
    assert check.said.startswith("RuntimeError: cannot cache function")
    assert "NUMBA_CACHE_DIR" in check.fix


@pytest.mark.parametrize("shape", [(256, 256, 3), (512, 256, 3), (256, 768, 3)])
def test_the_tiff_for_openslide_is_one(shape: tuple[int, int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with tifffile.TiffFile(io.BytesIO(tiled_tiff(rgb))) as file:
        page = file.pages.first
        assert page.is_tiled
        assert np.array_equal(page.asarray(), rgb)
