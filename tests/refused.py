"""The command line in this process, and the one line it says of an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from wsiseg.cli import app
from wsiseg.models import DEFAULT_MODEL, load_model
from wsiseg.testing.models import LocalNetwork

STAND_IN = LocalNetwork(mpp=0.25, core_px=256, margin_px=64)
MPP = ("--mpp", "0.25")


def stand_in(model: Any = DEFAULT_MODEL) -> Any:
    return STAND_IN if model == DEFAULT_MODEL else load_model(model)


def run_command(*arguments: Any) -> Any:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def error_of(result: Any) -> str:
    """Return the one line that is said of an error, after making sure that it is one."""
    assert isinstance(result.exception, SystemExit), result.exception
    return only_error(result.stderr)


def only_error(stderr: str) -> str:
    assert "Traceback" not in stderr
    lines = stderr.splitlines()
    errors = [line for line in lines if line.startswith(("error: ", "failed: "))]
    assert len(errors) == 1, stderr
    assert lines[-1] == errors[0]
    return errors[0]
