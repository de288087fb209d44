"""What a format's reader finds, before the classes of all sets are brought together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.labels.options import SetDescription


@dataclass(frozen=True, slots=True, eq=False)
class FoundImage:
    """One image with its nuclei, in the classes of its files."""

    name: str
    """File name without suffix, or what stands for it."""
    rgb: NDArray[np.uint8]
    """(h, w, 3)."""
    instances: NDArray[np.int32]
    """(h, w): 1 to n, all of them there; 0 is background."""
    class_keys: tuple[str | None, ...]
    """(n,): value or name of the class in the files; None where it is not known."""
    where: str
    """What messages call the file that holds the labels."""
    mpp: float | None = None
    """µm per pixel, if the files say it."""
    ignored: NDArray[np.bool_] | None = None
    """(h, w): where nothing is known."""
    organ: str = ""
    patient: str = ""
    """Empty: the name tells."""
    source: str = ""
    """What names the patient, where the image is a part of something; empty: its own name."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was settled by rule, and how often."""
    notes: tuple[str, ...] = ()
    """What else the user should know, a sentence each."""


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """A format of annotated images."""

    name: str
    title: str
    """For messages."""
    needs: str
    """What a folder of this format holds, for messages."""
    is_there: Callable[[Path], bool]
    """Whether a path holds it; reads names and the beginnings of files only."""
    read: Callable[[SetDescription], Iterator[FoundImage]]
    """Reads one image after the other."""
    value_names: Mapping[str, str] = field(default_factory=dict)
    """What the publishers call each value."""
    class_of: Mapping[str, str] = field(default_factory=dict)
    """Our class of each value, unless the user says otherwise."""
    mpp: float | None = None
    """As published; None where a set of this format may have any."""
    names_classes: bool = False
    """Whether the files hold names that are good as they are."""
    note: str = ""
    """What anyone who uses such data should know."""
