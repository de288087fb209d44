"""What the user says about annotated images, beyond what their files say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from wsiseg.errors import UsageError
from wsiseg.scale import PLAUSIBLE_MPP

OverlapRule: TypeAlias = Literal["refuse", "resolve"]
"""What to do with a nucleus that another covers by more than half."""

UNKNOWN_NUCLEUS = ""
"""In `class_of`: a nucleus, of a class that is not known."""
IGNORED_REGION = "-"
"""In `class_of`: neither nucleus nor background; nothing is known there."""

LARGEST_NUCLEUS_UM2 = 2000.0
"""Megakaryocytes have about a third of it."""


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What holds for all paths; what a TOML file says about a set comes first."""

    mpp: float | None = None
    """µm per pixel of images whose files do not say."""
    classes: tuple[str, ...] = ()
    """The common list of classes, in this order; (): all that are annotated."""
    class_of: Mapping[str, str] = field(default_factory=dict)
    """Our class for each of the files' values or names; `UNKNOWN_NUCLEUS`, `IGNORED_REGION`."""
    patient: str = ""
    """Regular expression that finds the patient in an image's name: its first group, or all that
    matched.  Empty: the TCGA number of TCGA images, else each image is one patient."""
    licence: str = ""
    """SPDX expression or words."""
    overlaps: OverlapRule = "refuse"
    """`refuse`, or `resolve` by rule, a nucleus that another covers by more than half."""

    def __post_init__(self) -> None:
        check_mpp(self.mpp, "mpp")
        check_pattern(self.patient)
        check_classes(self.classes)
        check_overlaps(self.overlaps, "overlaps")


@dataclass(frozen=True, slots=True)
class SetDescription:
    """One set of annotated images, before anything of it is read."""

    name: str
    """For logs and errors."""
    path: Path
    """Folder or file."""
    format: str = ""
    """Name of its format; empty: the content tells."""
    mpp: float | None = None
    """See `LabelOptions`; so `licence`, `class_of`, `patient`, `overlaps`."""
    weight: float = 1.0
    """Share of the crops of a training, among all sets' weights."""
    licence: str = ""
    class_of: Mapping[str, str] = field(default_factory=dict)
    """Every key must be one the format has."""
    class_of_any: Mapping[str, str] = field(default_factory=dict)
    """Said of all sets together; keys that the format does not have are for others."""
    patient: str = ""
    overlaps: OverlapRule = "refuse"
    organ: str = ""
    """Of all its images, where the files do not say."""
    slide: Path | None = None
    """The slide of a reviewed run."""


def check_mpp(mpp: float | None, what: str) -> None:
    """Raise UsageError unless a µm per pixel is plausible."""
    low, high = PLAUSIBLE_MPP
    if mpp is not None and not (math.isfinite(mpp) and low <= mpp <= high):
        raise UsageError(f"{what} is {mpp:g}; µm per pixel between {low:g} and {high:g} is needed")


def check_pattern(pattern: str) -> None:
    """Raise UsageError unless a regular expression is one."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"patient is {pattern!r}, which is no regular expression ({error}); one that finds "
            "the patient in an image's name is needed"
        ) from error


def check_overlaps(rule: str, what: str) -> None:
    """Raise UsageError unless a rule for overlaps is one."""
    if rule not in get_args(OverlapRule):
        raise UsageError(f'{what} is {rule!r}; "refuse" or "resolve" is needed')


def check_classes(classes: tuple[str, ...]) -> None:
    """Raise UsageError unless names of classes are usable and differ."""
    bad = [name for name in classes if not name.strip() or name == IGNORED_REGION]
    if bad or len(set(classes)) < len(classes):
        raise UsageError(
            f"classes are {list(classes)}; names that differ are needed, none of them empty or "
            f"{IGNORED_REGION!r}"
        )
