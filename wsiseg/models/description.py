"""A model's card as text for people; what `about` holds is defined in `wsiseg.models.card`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsiseg.models import MapsModel, ModelCard, ModelFile, list_models, load_model
from wsiseg.models.licence import permits

_FIGURES = {"pq": "PQ", "aji": "AJI", "dice": "Dice", "f1": "F1 of centroids"}
"""Of a table of metrics: what stands there and its title."""
_SECTIONS = ("metrics", "organs", "perturbation", "calibration")
_IN_HEAD = ("use", "classes_valid_on", "size")
_WIDTH = 24


def model_rows() -> list[dict[str, Any]]:
    """Return what to know of each shipped model, a row each, by name."""
    rows = []
    for card in list_models():
        model = load_model(card.name)
        rows.append(
            {
                "model": card.name,
                "µm/px": card.mpp,
                "MB": _megabytes(model),
                "PQ": headline(card) or "not measured",
                "classes": ", ".join(card.class_names),
                "licence": card.licence,
                "sha256": card.sha256[:12],
            }
        )
    return rows


def headline(card: ModelCard) -> str:
    """Return the panoptic quality of each set that a card names; empty if there is none."""
    sets = _sets(_mapping(card.about.get("metrics")))
    return "; ".join(f"{name} {_estimate(row['pq'])}" for name, row in sets if "pq" in row)


def describe_model(model: str | Path | MapsModel) -> str:
    """Return all that a model's card says, as text for people.

    Parameters
    ----------
    model : str, Path or MapsModel
        As `wsiseg.load_model` takes it.

    Raises
    ------
    UnknownName, ModelNotUsable
        As `wsiseg.load_model`.
    """
    loaded = load_model(model)
    card, about = loaded.card, loaded.card.about
    lines = [card.name, *_head(card, _megabytes(loaded))]
    lines += _section("How well it does", _metrics(_mapping(about.get("metrics"))))
    lines += _section("By organ", _organs(_mapping(about.get("organs"))))
    lines += _section("On changed images", _perturbation(about.get("perturbation")))
    lines += _section("Probabilities", _calibration(card, _mapping(about.get("calibration"))))
    for name, value in about.items():
        if name not in (*_SECTIONS, *_IN_HEAD):
            lines += _section(_title(name), _anything(value))
    return "\n".join(lines)


def _megabytes(model: MapsModel) -> float | None:
    if not isinstance(model, ModelFile) or not model.weights.is_file():
        return None
    return round(model.weights.stat().st_size / 1e6, 1)


def _head(card: ModelCard, megabytes: float | None) -> Iterator[str]:
    about, size = card.about, _mapping(card.about.get("size"))
    low, high = card.nuclear_area_um2
    may = (
        "permitted"
        if permits(card.licence, "commercial")
        else "refused by --require-licence commercial"
    )
    said = {
        "use": about.get("use"),
        "licence": f"{card.licence}: {card.licence_note}",
        "commercial use": may,
        "µm per pixel": f"{card.mpp:g}",
        "classes": ", ".join(card.class_names) or "none",
        "classes are valid on": about.get("classes_valid_on"),
        "median nuclear area": f"{low:g} to {high:g} µm²; outside it the mpp may be wrong",
        "weights": None if megabytes is None else f"{megabytes:g} MB",
        "parameters": _with_commas(size.get("parameters")),
        "kMAC per px": size.get("kmac_per_px"),
        "tiles": f"cores of {card.core_px} px with margins of {card.margin_px} px",
        "precision": ", ".join(f"{kind} {said}" for kind, said in card.precision.items()),
        "sha256": card.sha256,
    }
    for name, value in said.items():
        if value is not None:
            yield f"  {name:{_WIDTH}}{value}"


def _section(title: str, lines: Iterator[str]) -> list[str]:
    body = list(lines)
    return ["", title, *(f"  {line}" for line in body)] if body else []


def _metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    if not metrics:
        yield "not measured"
        return
    if "how" in metrics:
        yield str(metrics["how"])
    if "averaging" in metrics:
        yield str(metrics["averaging"])
    sets = _sets(metrics)
    if not sets:
        yield from _anything(metrics)
        return
    yield from _table([_metric_row(name, row) for name, row in sets])
    for name, row in sets:
        by_class = _mapping(row.get("f1_by_class"))
        if by_class:
            said = ", ".join(f"{one} {_estimate(value)}" for one, value in by_class.items())
            yield f"{name}, F1 by class: {said}"


def _sets(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the sets of images with metrics; the first cards call them otherwise."""
    sets = _mapping(metrics.get("sets", metrics.get("mean_over_images")))
    return [(str(name), row) for name, row in sets.items() if isinstance(row, Mapping)]


def _metric_row(name: str, row: Mapping[str, Any], first: str = "images of") -> dict[str, str]:
    figures = {title: _estimate(row[key]) for key, title in _FIGURES.items() if key in row}
    return {first: name, "n": str(row.get("images", "")), **figures}


def _organs(organs: Mapping[str, Any]) -> Iterator[str]:
    if "how" in organs:
        yield str(organs["how"])
    rows = _rows(organs.get("rows"))
    yield from _table([_metric_row(str(row.get("organ")), row, "organ") for row in rows])


def _perturbation(points: Any) -> Iterator[str]:
    rows = _rows(points)
    yield from _table(
        [
            {
                "change": str(row.get("kind")),
                "strength": f"{row.get('strength')} {row.get('unit', '')}".strip(),
                "PQ": _estimate(
                    {"value": row.get("pq"), "low": row.get("pq_low"), "high": row.get("pq_high")}
                ),
                "n": str(row.get("n_images", "")),
            }
            for row in rows
        ]
    )


def _calibration(card: ModelCard, report: Mapping[str, Any]) -> Iterator[str]:
    if card.calibration is None:
        yield "as the network gives them: not calibrated"
        return
    yield "calibrated" + (f": {report['how']}" if "how" in report else "")
    for name in ("nucleus_prob", "class_prob"):
        of_one = _mapping(report.get(name))
        before, after = (
            _mapping(of_one.get(when)).get("expected_calibration_error")
            for when in ("before", "after")
        )
        if isinstance(before, int | float) and isinstance(after, int | float):
            yield f"{name}: that {of_one.get('event')}"
            yield f"  expected calibration error {before:g} before, {after:g} after"


def _anything(value: Any) -> Iterator[str]:
    """Yield lines of what has no form of its own."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            if isinstance(one, Mapping | list) and one and not _is_flat(one):
                yield f"{_title(str(name))}:"
                yield from (f"  {line}" for line in _anything(one))
            else:
                yield f"{_title(str(name))}: {_flat(one)}"
    elif isinstance(value, list) and not _is_flat(value):
        for one in value:
            yield f"- {_flat(one)}"
    else:
        yield _flat(value)


def _is_flat(value: Any) -> bool:
    """Return whether a value fits on a line: numbers and short names."""
    if not isinstance(value, list):
        return not isinstance(value, Mapping)
    return all(isinstance(one, int | float) or len(str(one)) < _WIDTH for one in value)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{_title(str(name))}: {_flat(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(_flat(one) for one in value)
    return "–" if value is None else str(value)


def _estimate(value: Any) -> str:
    """Return a number, with its interval where there is one."""
    if isinstance(value, Mapping):
        number, low, high = (value.get(name) for name in ("value", "low", "high"))
        known = isinstance(low, int | float) and isinstance(high, int | float)
        return _number(number) + (f" [{low:.3f}, {high:.3f}]" if known else "")
    return _number(value)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _with_commas(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for cells in texts:
        yield "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()


def _rows(value: Any) -> list[Mapping[str, Any]]:
    given = value if isinstance(value, list | tuple) else ()
    return [row for row in given if isinstance(row, Mapping)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _title(name: str) -> str:
    return name.replace("_", " ")
