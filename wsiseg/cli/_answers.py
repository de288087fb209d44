"""Rows of an answer as the eye wants them: few columns, an interval in one, words for flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def count_rows(rows: Sequence[Row]) -> list[Row]:
    """Return counts and densities: of slides, regions or groups."""
    return [
        {
            **_keys(row, "class_name"),
            "class": row["class_name"],
            "n": row["n"],
            **_sizes(row),
            "mm²": row["analysed_mm2"],
            "per mm²": row["per_mm2"],
            **({"interval": _interval(row, "per_mm2")} if "per_mm2_low" in row else {}),
            "share": _percent(row["share"]),
            "median µm²": row["median_area_um2"],
            "mind": _mind(row),
        }
        for row in rows
    ]


def comparison_rows(rows: Sequence[Row]) -> list[Row]:
    """Return differences between groups."""
    return [
        {
            "class": row["class_name"],
            "groups": f"{row['group']} against {row['reference']}",
            "units": f"{row['n_group']} against {row['n_reference']} ({row['unit']})",
            "mean per mm²": f"{_number(row['mean_per_mm2_group'])} against "
            f"{_number(row['mean_per_mm2_reference'])}",
            "ratio": row["ratio"],
            "its interval": _interval(row, "ratio"),
            "shift per mm²": row["shift_per_mm2"],
            "of shift": _interval(row, "shift"),
            "Cliff's delta": row["cliffs_delta"],
            "of delta": _interval(row, "cliffs_delta"),
            "mind": "like false positives" if row["above_false_positives"] is False else "",
        }
        for row in rows
    ]


def square_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the densest squares."""
    return [
        {
            "slide": row["slide"],
            "class": row["class_name"],
            "n": row["n"],
            "per mm²": row["per_mm2"],
            "analysed": _percent(row["analysed_share"]),
            "left, top µm": _pair(row["x_um"], row["y_um"]),
            "left, top px": _pair(row["x"], row["y"]),
            "side px": None if row["width"] is None else round(row["width"]),
        }
        for row in rows
    ]


def mixing_rows(rows: Sequence[Row]) -> list[Row]:
    """Return which classes are neighbours."""
    return [
        {
            "slide": row["slide"],
            "class": row["class_name"],
            "nearest is": row["neighbour"],
            "n": row["n"],
            "share": _percent(row["share"]),
            "by chance": _percent(row["chance"]),
            "times": row["times_chance"],
            "median µm": row["median_um"],
        }
        for row in rows
    ]


def _sizes(row: Row) -> Row:
    """Return how many slides and units a group has; nothing of a slide."""
    if "slide" in row:
        return {}
    return {"slides": row["n_slides"], "units": row["n_units"]}


def _keys(row: Row, end: str) -> Row:
    """Return the columns before the one that ends the keys."""
    names = list(row)
    return {name: row[name] for name in names[: names.index(end)]}


def _mind(row: Row) -> str:
    if row.get("no_density_reason"):
        return str(row["no_density_reason"])
    is_like_them = row["above_false_positives"] is False and row["n"]
    return "like false positives" if is_like_them else ""


def _interval(row: Row, name: str) -> str | None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return None if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _pair(x: float | None, y: float | None) -> str | None:
    return None if x is None or y is None else f"{x:.0f}, {y:.0f}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.0f}"
        if abs(value) >= 1e4
        else f"{value:.3g}"
        if abs(value) < 1e3
        else f"{value:.4g}"
    )
