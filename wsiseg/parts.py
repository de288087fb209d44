"""Dividing a batch between calls that know nothing of each other, as in a job array."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError

AUTO = "auto"
"""Stands for the part that the scheduler's variables tell."""
_MOST_PARTS = 100_000


@dataclass(frozen=True, slots=True)
class Part:
    """One of several parts of a batch.

    Each slide belongs to the part whose number, mixed with the slide's place, gives the highest
    hash (rendezvous hashing).  So a part does not depend on what else is in the batch, and with
    another number of parts few slides change theirs: of 5 parts instead of 8, those of parts 6
    to 8.
    """

    index: int
    """From 1 on."""
    count: int
    """Of all parts."""

    def __post_init__(self) -> None:
        if not (1 <= self.index <= self.count <= _MOST_PARTS):
            raise UsageError(
                f"part {self.index}/{self.count}: parts are numbered from 1 to their number, "
                f"which is {_MOST_PARTS:,} at most, as in 1/8 … 8/8"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, place: PurePosixPath) -> bool:
        """Return whether the slide of a place belongs to this part."""
        digest = hashlib.blake2b(os.fsencode(place), digest_size=8).digest()
        mixed = _mix(_keys(self.count) ^ np.uint64(int.from_bytes(digest, "little")))
        return int(mixed.argmax()) == self.index - 1


@functools.lru_cache(maxsize=4)
def _keys(count: int) -> NDArray[np.uint64]:
    """Return a number for each part, with bits that look random."""
    return _mix(np.arange(1, count + 1, dtype=np.uint64))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64 (Steele, Lea, Flood, 2014) of each number: one to one, and well mixed."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def parse_part(text: str, environ: Mapping[str, str]) -> Part:
    """Return the part that an option names.

    Parameters
    ----------
    text : str
        `"3/8"`; or `"auto"`: of a SLURM array its task's, else the part of a process that
        `srun` has started, or of an LSF or SGE array's task.
    environ : mapping
        Environment variables.

    Raises
    ------
    UsageError
        If it is neither, or the scheduler does not tell; says what to write instead.
    """
    if text.strip().lower() == AUTO:
        return _scheduled(environ)
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
    if found is None:
        raise UsageError(f"part is {text!r}; a number of all parts, such as 3/8, or auto is needed")
    return Part(int(found[1]), int(found[2]))


def _scheduled(environ: Mapping[str, str]) -> Part:
    """Return the part that the variables of a scheduler tell."""
    if "SLURM_ARRAY_TASK_ID" in environ:
        return _slurm_array(environ)
    if "SLURM_PROCID" in environ:
        return _slurm_process(environ)
    if environ.get("LSB_JOBINDEX", "0") != "0":
        return _lsf(environ)
    if environ.get("SGE_TASK_ID", "undefined") != "undefined":
        return _sge(environ)
    for variable in ("PBS_ARRAY_INDEX", "PBS_ARRAYID"):
        if variable in environ:
            raise UsageError(
                f"part auto: this scheduler says which task this is ({variable}), but not of how "
                f"many; write --part ${variable}/8 with the number of tasks, numbered from 1"
            )
    raise UsageError(
        "part auto: no variable of SLURM, LSF or SGE says which part this is; start the command "
        "in a job array, or write the part and their number, such as --part 3/8"
    )


def _slurm_array(environ: Mapping[str, str]) -> Part:
    names = ("ID", "MIN", "MAX", "COUNT")
    task, least, most, count = (_number(environ, f"SLURM_ARRAY_TASK_{name}") for name in names)
    # Not every version tells the step.
    step = _number(environ, "SLURM_ARRAY_TASK_STEP", 1)
    if step < 1 or (task - least) % step or (most - least) // step + 1 != count:
        raise UsageError(
            f"part auto: the array's {count} tasks are not evenly spaced (from {least} to {most}); "
            "submit an array such as --array=1-8, or write --part $SLURM_ARRAY_TASK_ID/8 with the "
            "number of parts"
        )
    return Part((task - least) // step + 1, count)


def _slurm_process(environ: Mapping[str, str]) -> Part:
    """Return the part of a process of a job step, in which `srun` has started several."""
    count = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
    in_script = "SLURM_JOB_ID" in environ and "SLURM_STEP_ID" not in environ
    if in_script and count > 1:
        # It has the variables of a first process, but the others do not exist.
        raise UsageError(
            f"part auto: this job has {count} tasks, but the command runs once, in its script; "
            "start it with srun, or leave --part out"
        )
    return Part(_number(environ, "SLURM_PROCID") + 1, count)


def _lsf(environ: Mapping[str, str]) -> Part:
    """Return the part of a task of an LSF array; where the array starts LSF does not tell."""
    if _number(environ, "LSB_JOBINDEX_STEP", 1) != 1:
        raise UsageError(
            "part auto: the array's tasks are not numbered one by one; submit an array such as "
            "name[1-8], or write --part with the task's part and their number, such as 3/8"
        )
    return Part(_number(environ, "LSB_JOBINDEX"), _number(environ, "LSB_JOBINDEX_END"))


def _sge(environ: Mapping[str, str]) -> Part:
    names = ("ID", "FIRST", "LAST", "STEPSIZE")
    task, first, last, step = (_number(environ, f"SGE_TASK_{name}") for name in names)
    if step < 1 or (task - first) % step:
        raise UsageError(
            f"part auto: task {task} is not one of {first}-{last}:{step}; write --part with the "
            "task's part and their number, such as 3/8"
        )
    return Part((task - first) // step + 1, (last - first) // step + 1)


def _number(environ: Mapping[str, str], variable: str, otherwise: int | None = None) -> int:
    """Return the whole number that a variable holds."""
    text = environ.get(variable, "")
    if not text and otherwise is not None:
        return otherwise
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        said = f"is {text!r}" if text else "is not set"
        raise UsageError(
            f"part auto: {variable} {said}, a whole number is needed; write the part and their "
            "number, such as --part 3/8"
        )
    return int(text)
