"""The classes of a run with their numbers and colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsiseg.answers.cohort import cohort_stats
from wsiseg.cell_table import ALL_CLASSES
from wsiseg.errors import WsisegError
from wsiseg.results import Result

NO_CLASS_RGB = (110, 110, 110)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class, or all nuclei."""

    name: str
    css: str
    """Its CSS class, which gives its colour."""
    n: int
    share: float | None
    """Of all nuclei; None without any."""
    per_mm2: float | None
    interval: tuple[float, float] | None
    """Ends of the 95 % interval of the density; None if it is not known."""
    like_false: bool
    """Whether the density cannot be told from the model's false positives."""
    bar: float
    """Density as a share of the densest class's, for its bar."""
    median_area_um2: float | None


def class_rows(result: Result, summary: Mapping[str, Any]) -> list[ClassRow]:
    """Return a row for each class, zeros included, in the model's order, then one for all."""
    total = summary["total"]["n"]
    named = summary["classes"]
    most = max((numbers["n"] for numbers in named.values()), default=0)
    stats = _stats(result)
    return [
        ClassRow(
            name=name,
            css=css_of(result, name),
            n=numbers["n"],
            share=numbers["n"] / total if total else None,
            per_mm2=numbers["per_mm2"],
            interval=_interval(stats.get(name, {})),
            like_false=bool(numbers["n"])
            and stats.get(name, {}).get("above_false_positives") is False,
            bar=numbers["n"] / most if most else 0.0,
            median_area_um2=numbers["median_area_um2"],
        )
        for name, numbers in (*named.items(), (ALL_CLASSES, summary["total"]))
    ]


def _stats(result: Result) -> dict[str, Mapping[str, Any]]:
    """Return the row of each class in the statistics; nothing where they cannot be made."""
    try:
        table = cohort_stats(result.path, classes=result.classes_version).table
    except WsisegError:
        # Such as of a run whose tiles.parquet is damaged, which the page tells elsewhere.
        return {}
    return {row["class_name"]: row for row in table.to_pylist()}


def _interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = row.get("per_mm2_low"), row.get("per_mm2_high")
    return None if low is None or high is None else (float(low), float(high))


def css_of(result: Result, class_name: str | None) -> str:
    """Return a class's CSS class; names are untrusted, so it is a number."""
    names = result.class_names
    return f"k{names.index(class_name)}" if class_name in names else "k-none"


def colour_rules(result: Result) -> str:
    """Return CSS that gives each class its colour, for outlines and for swatches."""
    colours = {f"k{i}": rgb for i, rgb in enumerate(result.class_colours.values())}
    colours["k-none"] = NO_CLASS_RGB
    rules = [f".{css}{{--k:{_hex(rgb)}}}\n" for css, rgb in colours.items()]
    # The box beside a class's name shows and hides its outlines, without a script.
    rules += [f".zoom:has(#show-{css}:not(:checked)) .o.{css}{{display:none}}\n" for css in colours]
    return "".join(rules)


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{value:02x}" for value in rgb)
