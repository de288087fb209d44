"""One public door, light to open."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import wsiseg

SOURCE = Path(wsiseg.__file__)


def names_for_type_checkers() -> dict[str, str]:
    """Return what `wsiseg/__init__.py` imports under TYPE_CHECKING: name to module."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(guarded.test) == "TYPE_CHECKING"
    return {
        alias.asname or alias.name: str(found.module)
        for found in guarded.body
        if isinstance(found, ast.ImportFrom)
        for alias in found.names
    }


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh Python holds after some code."""
    tail = "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", code + tail]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_all_is_sorted_and_says_what_is_there() -> None:
    assert wsiseg.__all__ == sorted(set(wsiseg.__all__))
    assert dir(wsiseg) == wsiseg.__all__


def test_the_three_lists_of_names_agree() -> None:
    homes = {name: f"wsiseg.{module}" for name, module in wsiseg._HOME.items()}
    assert homes.keys() == set(wsiseg.__all__)
    assert names_for_type_checkers() == homes


@pytest.mark.parametrize("name", wsiseg.__all__)
def test_a_public_name_loads(name: str) -> None:
    found = getattr(wsiseg, name)
    assert found is getattr(importlib.import_module(f"wsiseg.{wsiseg._HOME[name]}"), name)
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'wsiseg' has no attribute 'segmentt'"):
        _ = wsiseg.segmentt
    assert not hasattr(wsiseg, "Tile")


def test_importing_loads_nothing_heavy() -> None:
    loaded = loaded_after("import wsiseg")
    assert "wsiseg" in loaded
    assert loaded & {"torch", "numba", "pyarrow", "numpy", "cv2", "zarr", "dask", "typer"} == set()


def test_reading_slides_results_and_cards_loads_no_torch() -> None:
    loaded = loaded_after("from wsiseg import open_result, open_slide, list_models, Result, Slide")
    assert "pyarrow" in loaded
    assert loaded & {"torch", "timm", "dask", "distributed", "zarr"} == set()
