"""What the command line prints: tables, progress, one line about the licence."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from wsiseg.answers.table_rows import rows_of
from wsiseg.errors import OutputNotWritable

if TYPE_CHECKING:
    import pyarrow as pa

    from wsiseg.dry_run import SlideEstimate
    from wsiseg.plan import RunPlan
    from wsiseg.results import Result
    from wsiseg.seam_check import SeamReport
    from wsiseg.slides import SlideInfo
    from wsiseg.status import BatchStatus

MANY_SLIDES = 20
"""With more than these a single slide is told of in one line, if at all."""
_SECONDS_BETWEEN_LINES = 10.0
_MOST_CHARACTERS = 72
"""Of one cell of an answer."""
_MOST_REASONS = 100
"""So many failed slides are listed."""


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as aligned plain text; numbers to the right."""
    if not rows:
        typer.echo("(nothing)")
        return
    names = list(rows[0])
    texts = [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    right = [all(_is_number(row.get(name)) for row in rows) for name in names]
    for cells in (names, *texts):
        padded = (
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(cells, widths, right, strict=True)
        )
        typer.echo("  ".join(padded).rstrip())


def print_answer(
    answer: pa.Table, most_rows: int, shown: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Print a table's first rows, and say how many more there are.

    Parameters
    ----------
    answer : pyarrow.Table
        The whole answer.
    most_rows : int
        Most rows to print; 0 for all.
    shown : sequence of mapping, optional
        Rows to print in place of the table's own, one for each.
    """
    n = answer.num_rows if most_rows == 0 else min(most_rows, answer.num_rows)
    rows = rows_of(answer.slice(0, n)) if shown is None else shown[:n]
    if not rows:
        typer.echo(f"(no rows; columns: {', '.join(map(printable, answer.column_names))})")
        return
    print_table([{name: _short(value) for name, value in row.items()} for row in rows])
    if n < answer.num_rows:
        typer.echo(
            f"… and {answer.num_rows - n:,} more rows; --rows 0 prints all, --to FILE writes them"
        )


def _short(value: Any) -> Any:
    """Return a value that fits into a column."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return printable(str(value))


def printable(text: str) -> str:
    """Return text that cannot move the cursor, whatever a slide is called."""
    return "".join(each if each.isprintable() else "�" for each in text)


def summary_rows(result: Result) -> list[dict[str, Any]]:
    """Return a run's counts as rows of a table."""
    summary = result.summary()
    return [
        {
            "slide": result.name,
            "class": name,
            "n": numbers["n"],
            "per mm²": numbers["per_mm2"],
            "median µm²": numbers["median_area_um2"],
        }
        for name, numbers in [*summary["classes"].items(), ("(all)", summary["total"])]
    ]


def status_rows(status: BatchStatus) -> list[dict[str, Any]]:
    """Return how far a batch is as rows of a table."""
    n_left = "not known: no list of the slides" if status.n_left is None else str(status.n_left)
    if status.n_left_earlier:
        n_left += f" ({status.n_left_earlier} of them only in lists of earlier calls)"
    rate, hours = status.rate, status.hours_to_go
    said = {
        "slides": "not known" if status.n_slides is None else status.n_slides,
        "done": status.n_done,
        "running": len(status.running),
        "interrupted": len(status.interrupted),
        "failed": len(status.failed),
        "left": n_left,
        "cells so far": f"{status.n_cells:,}",
        "analysed mm²": status.analysed_mm2,
        "slides per hour": None if rate is None else rate.slides_per_hour,
        "mm² per hour": None if rate is None else rate.mm2_per_hour,
        "time to go": None if hours is None else _duration(hours),
    }
    if hours and not status.running:
        said["time to go"] = f"{_duration(hours)} at the last rate, but nobody is at work"
    return [{"what": name, "value": value} for name, value in said.items()]


def print_status(status: BatchStatus) -> None:
    """Print how far a batch is, and which slides failed and why."""
    print_table(status_rows(status))
    for name in status.unread_lists:
        typer.echo(f"not counted: {name} is damaged; the next call of the batch lists its slides")
    for failure in status.failed[:_MOST_REASONS]:
        typer.echo(f"failed: {failure.place}: {failure.reason}")
    if len(status.failed) > _MOST_REASONS:
        more = len(status.failed) - _MOST_REASONS
        typer.echo(f"… and {more} more; --json FILE lists all")


def write_report(values: Mapping[str, Any], path: Path) -> None:
    """Write JSON to a file, or print it if that is `-`.

    Raises
    ------
    OutputNotWritable
        If the file cannot be written.
    """
    text = json.dumps(values, indent=1)
    if str(path) == "-":
        typer.echo(text)
        return
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write {path} ({error.strerror}); choose a file you may write"
        ) from error


def _duration(hours: float) -> str:
    minutes = round(60 * hours)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def slide_facts(info: SlideInfo) -> list[dict[str, Any]]:
    """Return what is known of a slide as rows of a table."""
    missing = info.mpp_x is None or info.mpp_y is None
    mpp = "not in the file" if missing else f"{info.mpp_x:g} × {info.mpp_y:g}"
    levels = ", ".join(
        f"{level.width_px}×{level.height_px} (÷{level.downsample:g})" for level in info.levels
    )
    power = "not in the file" if info.objective_power is None else f"{info.objective_power:g}x"
    bounds = info.bounds
    facts = {
        "slide": info.name,
        "reader": info.reader,
        "vendor": info.vendor or "not in the file",
        "size px": f"{info.width_px} × {info.height_px}",
        "levels": levels,
        "µm per pixel": mpp,
        "objective": power,
        "bounds px": f"{bounds.width_px} × {bounds.height_px} at ({bounds.x_px}, {bounds.y_px})",
        "fingerprint": info.fingerprint[:16],
    }
    return [{"what": name, "value": value} for name, value in facts.items()]


class PlanTeller:
    """Says, before each slide, what is about to run and what to be careful about.

    What a model's licence allows is said once, also if quiet.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._explained: set[str] = set()

    def __call__(self, plan: RunPlan) -> None:
        """Tell of a plan."""
        card = plan.model.card
        self.explain(card.name, card.sha256, card.licence, card.licence_note)
        if self._quiet:
            return
        area = "tissue in the regions" if plan.regions else "tissue"
        typer.secho(
            f"{plan.slide.info.name}: model {card.name} (sha256 {card.sha256[:12]}), "
            f"{plan.scale.mpp:.4g} µm/px ({plan.scale.source}), {plan.analysed_mm2:.3g} mm² of "
            f"{area}, {len(plan.tiles)} tiles",
            dim=True,
            err=True,
        )
        for warning in plan.warnings:
            typer.secho(f"warning: {warning['message']}", fg="yellow", err=True)
        for warning in plan.first_look:
            typer.secho(f"at first look: {warning['message']}", fg="yellow", err=True)

    def explain(self, name: str, sha256: str, licence: str, note: str) -> None:
        """Say what a model's licence allows, unless that was said."""
        if sha256 not in self._explained:
            self._explained.add(sha256)
            typer.secho(f"model {name} ({licence}): {note}", dim=True, err=True)

    def explain_model_of(self, result: Result) -> None:
        """Do so for the model of a run, which may have been planned elsewhere."""
        model = result.run["model"]
        card = model["card"]
        self.explain(model["name"], model["sha256"], card["licence"], card["licence_note"])


def estimate_rows(estimates: Sequence[SlideEstimate]) -> list[dict[str, Any]]:
    """Return what a dry run found as rows of a table."""
    return [
        {
            "slide": one.slide,
            "model": one.model,
            "µm/px": one.mpp,
            "from": one.mpp_source,
            "tissue mm²": one.estimate.tissue_mm2,
            "tiles": one.estimate.n_tiles,
            "of them done": one.estimate.n_done,
            "minutes": one.estimate.seconds / 60,
            "minutes are": _minutes_are(one),
            "disk MB": one.estimate.disk_bytes / 1e6,
            "while running MB": one.estimate.work_bytes / 1e6,
            "memory MB": one.estimate.peak_memory_mb,
        }
        for one in estimates
    ]


def _minutes_are(one: SlideEstimate) -> str:
    how = "guessed" if one.estimate.is_guess else "measured"
    return f"{how}, of this machine alone" if one.is_of_this_machine else how


def print_seams(report: SeamReport) -> None:
    """Print what a seam check counted, and whether its aims are met."""
    print_table(seam_rows(report))
    for sentence in seam_verdicts(report):
        typer.echo(sentence)


def seam_rows(report: SeamReport) -> list[dict[str, Any]]:
    """Return what a seam check counted as rows of a table."""
    places = (("near seams", report.near), ("elsewhere", report.elsewhere), ("all", report.total))
    return [
        {
            "nuclei": name,
            "n": counts.n,
            "IoU > 0.5": _percent(counts.matched, counts.n),
            "IoU > 0.9": _percent(counts.matched_90, counts.n),
            "same pixels": _percent(counts.identical, counts.n),
            "lost": counts.lost,
            "new": counts.new,
            "doubled": counts.doubled,
            "count": f"{100 * counts.count_difference:+.3f} %" if counts.n else "–",
        }
        for name, counts in places
    ]


def seam_verdicts(report: SeamReport) -> list[str]:
    """Return in sentences what a seam check looked at, and whether its aims are met."""
    near = report.near
    low, high = (f"{100 * value:.3f}" for value in near.share.interval)
    fewer, more = (f"{100 * value:+.3f}" for value in near.count_interval)
    moved = ", ".join(str(grid.offset_px) for grid in report.grids)
    squares = "1 square" if len(report.squares) == 1 else f"{len(report.squares)} squares"
    said = [
        f"{report.slide}: {report.analysed_mm2:.3g} mm² of tissue in {squares}; "
        f"tiles of {report.core_px} px + {report.margin_px} px margin, moved by {moved} px; near "
        f"seams: less than {report.near_px} px away"
    ]
    if near.n:
        said += [
            f"found again near seams: 95 % interval {low} to {high} %; aim: at least 99.9 %: "
            f"{report.matched_verdict}",
            f"change of count near seams: 95 % interval {fewer} to {more} %; aim: at most 0.1 %: "
            f"{report.count_verdict}",
        ]
    else:
        said.append("no nucleus lies near a seam, so nothing is known of them")
    if "not known" in (report.matched_verdict, report.count_verdict):
        said.append("not known: too few nuclei to tell; look at more squares, or more moved grids")
    if report.n_not_compared:
        said.append(
            f"{report.n_not_compared} nuclei lie where only one grid had tissue enough for a "
            "tile; they are not counted"
        )
    return said


def _percent(n: int, of: int) -> str:
    """Return a share so that only all of them are 100 %."""
    if not of:
        return "–"
    text = f"{100 * n / of:.3f} %"
    return "> 99.999 %" if n < of and text == "100.000 %" else text


@contextmanager
def show_progress(
    quiet: bool, n_slides: int = 1
) -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar per stage on a terminal, plain lines elsewhere, nothing if quiet.

    Of many slides lines tell how many are done, and nothing of each one's stages.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bars() as tell:
            yield tell
    else:
        yield _Lines(("slides",) if n_slides > MANY_SLIDES else None)


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console  # slow to import, not needed for --help
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            elif done == 0 and bars.tasks[tasks[stage]].finished:
                # The next slide's.
                bars.reset(tasks[stage], total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell


class _Lines:
    """Progress for logs: a line every few seconds, with the time to go."""

    def __init__(self, stages: Sequence[str] | None = None) -> None:
        self._stages = stages
        self._began: dict[str, tuple[float, int]] = {}
        self._last = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._stages is not None and stage not in self._stages:
            return
        now = time.monotonic()
        if stage not in self._began or done == 0:
            self._began[stage] = (now, done)
        if done < total and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        began, first = self._began[stage]
        new = done - first
        left = f", about {(now - began) / new * (total - done):.0f} s left" if new else ""
        typer.echo(f"{stage}: {done} of {total}{left if done < total else ''}", err=True)
