"""How a run was made, as tables: model, scale, computation, time, options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsiseg.reports._numbers import NONE, short, whole
from wsiseg.results import Result

Rows = tuple[tuple[str, str], ...]
"""Names and what they are, as text."""

_STAGES = {
    "plan": "reading the slide, finding tissue",
    "tiles": "tiles: network and decoding",
    "cells": "after the last tile: stitching, masks",
    "exports": "exports",
    "pictures": "pictures",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """How long a stage took."""

    name: str
    seconds: float
    bar: float
    """As a share of the longest stage."""


@dataclass(frozen=True, slots=True)
class Made:
    """How a run was made."""

    model: Rows
    known_failures: tuple[str, ...]
    slide: Rows
    computation: Rows
    stages: tuple[Stage, ...]
    total_s: float
    stitching: Rows
    options: Rows


def how_it_was_made(result: Result) -> Made:
    """Return what `run.json` says of how it was made; what an older one lacks is left out."""
    run = result.run
    card = _mapping(run["model"].get("card"))
    about = _mapping(card.get("about"))
    seconds = {
        name: float(s)
        for name, s in _mapping(run.get("seconds")).items()
        if not name.endswith("_busy") and isinstance(s, int | float)
    }
    longest = max(seconds.values(), default=0.0)
    return Made(
        model=_model_rows(result, card, about),
        known_failures=tuple(
            str(said).replace("`", "") for said in about.get("known_failures", ())
        ),
        slide=_slide_rows(result),
        computation=_computation_rows(run),
        stages=tuple(
            Stage(_STAGES.get(name, name), s, s / longest if longest else 0.0)
            for name, s in seconds.items()
        ),
        total_s=sum(seconds.values()),
        stitching=tuple(_flat(_mapping(run.get("stitch")))),
        options=tuple(_flat(_mapping(run.get("options")))),
    )


def _model_rows(result: Result, card: Mapping[str, Any], about: Mapping[str, Any]) -> Rows:
    said = {
        "Model": result.model_name,
        "SHA-256": result.run["model"].get("sha256"),
        "Architecture": card.get("architecture"),
        "Made for": _with_unit(card.get("mpp"), "µm per pixel"),
        "Classes": ", ".join(result.class_names) or "none: every nucleus is just a nucleus",
        "Classes are valid on": about.get("classes_valid_on"),
        "Learned from": "; ".join(map(str, about.get("data", ()))),
        "Licence": card.get("licence"),
        "What that means": card.get("licence_note"),
    }
    return _told(said)


def _slide_rows(result: Result) -> Rows:
    run, slide = result.run, result.run["slide"]
    tiles = _mapping(run.get("tiles"))
    size = f"{whole(slide.get('width_px'))} × {whole(slide.get('height_px'))} px"
    said = {
        "Slide": result.name,
        "Size": size if "width_px" in slide else None,
        "Scale": _with_unit(result.mpp, f"µm per pixel{_source(slide.get('mpp_source'))}"),
        "Objective": _with_unit(slide.get("objective_power"), "x"),
        "Scanner format": slide.get("vendor"),
        "Read with": slide.get("reader"),
        "Fingerprint": slide.get("fingerprint"),
        "Network sees": _with_unit(result.frame.scale * result.mpp, "µm per pixel"),
        "Tiles": f"{tiles['run']} of {tiles['planned']} held tissue and ran" if tiles else None,
    }
    return _told(said)


def _computation_rows(run: Mapping[str, Any]) -> Rows:
    numerics = _mapping(run.get("numerics"))
    versions = _mapping(run.get("versions"))
    said = {
        "wsiseg": run.get("wsiseg_version"),
        "Format, result version": f"{run.get('format_version')}, {run.get('result_version')}",
        "Device": numerics.get("device_kind"),
        "Precision": numerics.get("precision"),
        "Backend": numerics.get("backend"),
        "Test-time augmentation": numerics.get("tta"),
        "Tiles per call": numerics.get("batch_size"),
        "Platform": numerics.get("platform"),
        "Other software": ", ".join(f"{name} {v}" for name, v in versions.items()),
        "Peak memory": _with_unit(run.get("peak_memory_mb"), "MB", 4),
        "Started (UTC)": _when(run.get("started_utc")),
        "Finished (UTC)": _when(run.get("finished_utc")),
    }
    return _told(said)


def _told(said: Mapping[str, Any]) -> Rows:
    return tuple((name, str(value)) for name, value in said.items() if value not in (None, ""))


def _with_unit(value: Any, unit: str, digits: int = 4) -> str | None:
    number = isinstance(value, int | float)
    return f"{short(float(value), digits)} {unit}" if number else None


def _source(said: Any) -> str:
    known = {"file": "from the file", "mpp": "given"}
    return f" ({known.get(str(said), said)})" if said else ""


def _when(text: Any) -> str | None:
    return str(text)[:19].replace("T", " ") if text else None


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested values with dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", _said(value)


def _said(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_said, value))
    # By identity: 0 and 1 are numbers, though they equal False and True.
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NONE if value is None else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
