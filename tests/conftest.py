"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real slides and annotated images; missing: fail in CI, skip elsewhere."""
    here = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("WSISEG_SHARED", here.parent / "shared"))
    if (folder / "slides").is_dir() and (folder / "data").is_dir():
        return folder
    reason = f"no real slides in {folder}; set WSISEG_SHARED to the folder that holds them"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
