"""Reliability as a diagram: SVG text for a page, or a file of its own.

It needs no script and no font, and no colour in it says something alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from wsiseg.reliability import CalibrationReport, Reliability

_WIDTH, _HEIGHT = 320.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 26.0, 40.0
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.tick{font-size:11px;fill:#555}"
    ".axis{stroke:#888;fill:none}.grid{stroke:#e4e4e4}.ideal{stroke:#999;stroke-dasharray:4 3}"
    ".a{stroke:#1b5496;fill:none;stroke-width:2}.b{stroke:#c4561b;fill:none;stroke-width:2;"
    "stroke-dasharray:6 3}.da{fill:#1b5496}.db{fill:#c4561b}"
)


@dataclass(frozen=True, slots=True)
class _Axes:
    """From values to places in a panel."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        along = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + _LEFT + along * width, _TOP + (1 - up) * height

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in points)


def reliability_svg(report: CalibrationReport) -> str:
    """Draw the reliability of both probabilities, before calibration and after.

    Parameters
    ----------
    report : CalibrationReport
        Of `judge_calibration`.

    Returns
    -------
    str
        A whole SVG document that may also stand inside an HTML page.
    """
    panels = (
        ("A found nucleus is real", report.nucleus_before, report.nucleus_after),
        ("Its class is right", report.class_before, report.class_after),
    )
    parts = [
        _reliability_panel(k * _WIDTH, *panel) for k, panel in enumerate(panels) if panel[1].n.any()
    ]
    return _document(parts, "Reliability before and after calibration", 24.0)


def _reliability_panel(left: float, title: str, before: Reliability, after: Reliability) -> str:
    axes = _Axes((0, 1), (0, 1), left)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    parts = [
        _frame(axes, title, "probability said", "share that is so", ticks, ticks),
        f'<path class="ideal" d="{axes.path([(0, 0), (1, 1)])}"/>',
    ]
    keys = []
    for name, css, table in (("before", "b", before), ("after", "a", after)):
        used = table.n > 0
        points = list(
            zip(table.mean_prob[used].tolist(), table.share_true[used].tolist(), strict=True)
        )
        parts.append(f'<path class="{css}" d="{axes.path(points)}"/>')
        most = max(1, int(table.n.max()))
        for (x, y), n in zip(points, table.n[used].tolist(), strict=True):
            cx, cy = axes.at(x, y)
            radius = 1.5 + 4 * math.sqrt(n / most)
            parts.append(
                f'<circle class="d{css}" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}">'
                f"<title>{n:,} said {x:.2f}, so in {y:.2f}</title></circle>"
            )
        keys.append((css, f"{name}: expected calibration error {table.expected_error:.3f}"))
    for k, (css, text) in enumerate(keys):
        y = _HEIGHT + 4 + 15 * k
        x = left + _LEFT
        parts.append(f'<path class="{css}" d="M{x:.0f},{y - 4:.0f}h22"/>')
        parts.append(f'<text class="tick" x="{x + 28:.0f}" y="{y:.0f}">{escape(text)}</text>')
    return "".join(parts)


def _frame(
    axes: _Axes,
    title: str,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
) -> str:
    left, bottom = axes.at(axes.x[0], axes.y[0])
    right, top = axes.at(axes.x[1], axes.y[1])
    parts = [f'<text x="{left:.0f}" y="{top - 10:.0f}">{escape(title)}</text>']
    for value in y_ticks:
        _, y = axes.at(axes.x[0], value)
        parts.append(f'<path class="grid" d="M{left:.1f},{y:.1f}H{right:.1f}"/>')
        parts.append(
            f'<text class="tick" text-anchor="end" x="{left - 5:.0f}" y="{y + 4:.0f}">{value:g}'
            "</text>"
        )
    for value in x_ticks:
        x, _ = axes.at(value, axes.y[0])
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x:.0f}" y="{bottom + 15:.0f}">'
            f"{value:g}</text>"
        )
    middle = (left + right) / 2
    parts.append(f'<path class="axis" d="M{left:.1f},{top:.1f}V{bottom:.1f}H{right:.1f}"/>')
    parts.append(
        f'<text class="tick" text-anchor="middle" x="{middle:.0f}" y="{bottom + 31:.0f}">'
        f"{escape(x_title)}</text>"
    )
    x, y = left - 34, (top + bottom) / 2
    parts.append(
        f'<text class="tick" text-anchor="middle" transform="translate({x:.0f},{y:.0f}) '
        f'rotate(-90)">{escape(y_title)}</text>'
    )
    return "".join(parts)


def _document(panels: Sequence[str], title: str, below: float) -> str:
    width = _WIDTH * max(1, len(panels))
    height = _HEIGHT + below
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:.0f} '
        f'{height:.0f}" width="{width:.0f}" height="{height:.0f}"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(panels)}</svg>"
    )
