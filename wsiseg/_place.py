"""Places: where below the output folder a slide's results go."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from wsiseg.errors import UsageError

RUN_SUFFIX = ".wsiseg"
"""What the name of a run's directory ends in, after the place."""


def checked_place(text: str | PurePosixPath) -> PurePosixPath:
    """Return a place that cannot lead out of the output folder, nor into another run.

    Raises
    ------
    UsageError
        If it could; says why.
    """
    place = PurePosixPath(text)
    shown = repr(str(text))
    if "\0" in str(text):
        raise UsageError(f"the place {shown} holds a NUL character; no file can be called so")
    if os.name == "nt" and ("\\" in str(text) or Path(place).drive):
        raise UsageError(f"the place {shown} is not written with '/' alone, as in sub/a.svs")
    if place.is_absolute() or ".." in place.parts:
        raise UsageError(
            f"the place {shown} would lead out of the output folder; a relative path without '..' "
            "is needed, such as sub/a.svs"
        )
    if not place.name:
        raise UsageError(f"the place {shown} names nothing; a path such as sub/a.svs is needed")
    within = next((part for part in place.parts[:-1] if part.endswith(RUN_SUFFIX)), None)
    if within is not None:
        raise UsageError(
            f"the place {shown} lies in {within!r}, which would be a run's directory; rename it"
        )
    return place


def place_of_file(path: Path) -> PurePosixPath:
    """Return the place of a slide that is named by itself: its file name."""
    name = path.name
    if name in ("", ".."):
        # "." and the like: called as the folder is, as its slide is.
        name = path.resolve().name
    return PurePosixPath(name)
