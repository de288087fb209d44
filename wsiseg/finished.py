"""Recognising a finished run without opening its slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsiseg.geometry import Box
from wsiseg.models import MapsModel, Numerics
from wsiseg.pipeline import finished
from wsiseg.plan import PlanOptions, identity_unseen
from wsiseg.results import Result
from wsiseg.rundir import RunDir, read_run_json, unreadable_tiles
from wsiseg.slides.protocol import Level, SlideInfo
from wsiseg.slides.stamp import stamp_of

Choose = Callable[[SlideInfo], tuple[MapsModel, Numerics]]
"""From what is known of a slide to the model it gets, and how that is computed."""


def finished_run(
    slide: Path, folder: RunDir, options: PlanOptions, choose: Choose, formats: Sequence[str]
) -> Result | None:
    """Return a slide's run if it is finished, and nothing says that it would be another one.

    Opening a slide and finding its tissue takes seconds; for thousands of slides that are done,
    hours.  A file that was not touched since it was segmented is taken for the same.

    Parameters
    ----------
    slide : Path
        A slide's file.
    folder : RunDir
        Where its results would be.
    options : PlanOptions
        What the user says.
    choose : callable
        Tells model and numerics.
    formats : sequence of str
        Exports; those it lacks are made.

    Returns
    -------
    Result or None
        None: only a look at the slide can tell.
    """
    stamp = stamp_of(slide)
    run = read_run_json(folder.run_json)
    if stamp is None or run is None or run.get("status") != "done":
        return None
    recorded = run.get("slide", {})
    if recorded.get("stamp") != stamp.to_json() or recorded.get("name") != slide.name:
        return None
    if unreadable_tiles(run) and not options.skip_bad_tiles:
        return None
    info = slide_info(recorded)
    model, numerics = choose(info)
    if identity_unseen(info, model.card, numerics, options) != run.get("identity"):
        return None
    return finished(folder, formats)


def slide_info(recorded: Mapping[str, Any]) -> SlideInfo:
    """Return what `run.json` says of a slide as it was read."""
    names = SlideInfo.__dataclass_fields__
    fields = {name: value for name, value in recorded.items() if name in names}
    fields["levels"] = tuple(Level(**level) for level in recorded["levels"])
    fields["bounds"] = Box(*recorded["bounds"])
    return SlideInfo(**fields)
