"""The state of a training on disk: whole, or the one before."""

from __future__ import annotations

import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from wsiseg.errors import TrainingFailed
from wsiseg.rundir import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any], step: int) -> None:
    """Write all parts of the state; if that fails, the file of before stays.

    Parameters
    ----------
    path : Path
        Target.
    state : dict
        Objects with `state_dict`.
    step : int
        Steps done.
    """
    content = io.BytesIO()
    torch.save({"step": step} | {name: part.state_dict() for name, part in state.items()}, content)
    write_atomically(path, content.getvalue())


def load_checkpoint(path: Path, state: dict[str, Any], device: torch.device) -> int:
    """Fill all parts of the state and return the steps done; 0 if there is no file.

    Raises
    ------
    TrainingFailed
        If the file is damaged.
    """
    if not path.exists():
        return 0
    saved = read_checkpoint(path, device)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `save_checkpoint` wrote: the steps done, and the state of each part.

    Raises
    ------
    TrainingFailed
        If the file is damaged.
    """
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except (OSError, EOFError, LookupError, RuntimeError, ValueError, UnpicklingError) as error:
        raise TrainingFailed(
            f"{path.name} in {path.parent.name} is damaged ({type(error).__name__}), so that "
            "nothing can go on from it; put back a copy, or take it away to begin anew"
        ) from error
    return saved
