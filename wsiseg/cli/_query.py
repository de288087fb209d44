"""The commands `query` and `stats`: answers from finished runs."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsiseg
from wsiseg.answers.table_targets import check_target
from wsiseg.cli._answers import (
    comparison_rows,
    count_rows,
    mixing_rows,
    square_rows,
)
from wsiseg.cli._exit import DONE, SOME_FAILED, errors_to_exit_codes
from wsiseg.cli._options import ClassesFromOption, RoiOriginName, RoiOriginOption, RunsArgument
from wsiseg.cli.terminal import print_answer
from wsiseg.errors import UsageError, WsisegError

if TYPE_CHECKING:
    import pyarrow as pa


class AnswerFormat(enum.StrEnum):
    """How an answer is given."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


AnswerFormatOption = Annotated[
    AnswerFormat | None,
    typer.Option("--format", help="Else by the end of --to; without --to a table to look at."),
]
ToOption = Annotated[Path | None, typer.Option("--to", help="Write to this file; -: print.")]
ReplaceOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file of --to, if it is there.")
]
RunModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Only runs of this model (name or sha256); all: told apart."),
]
RowsOption = Annotated[
    int, typer.Option("--rows", min=0, help="Most rows of the table to look at; 0: all.")
]


_BY = "slide"
_CONFIDENCE = 0.95
_ABOUT: Mapping[str, tuple[str | None, ...]] = {
    "--by": (None,),
    "--metadata": (None, "--compare"),
    "--unit": (None, "--compare"),
    "--confidence": (None, "--compare"),
    "--roi-origin": ("--within",),
}
"""With which questions of `stats` an option changes anything; None: without one."""


def query(
    asked: Annotated[
        list[str],
        typer.Argument(
            metavar="RUNS... SELECT",
            help='Runs, folders of runs, or globs; at last one SELECT in quotes ("-": read it '
            "from standard input).",
        ),
    ],
    tables: Annotated[
        bool, typer.Option("--tables", help="Describe all tables and columns; no SELECT.")
    ] = False,
    model: RunModelOption = None,
    classes: ClassesFromOption = None,
    format: AnswerFormatOption = None,  # noqa: A002
    to: ToOption = None,
    overwrite: ReplaceOption = False,
    rows: RowsOption = 40,
) -> None:
    """Ask SQL of all runs: tables slides, cells, features, tiles and regions."""
    with errors_to_exit_codes():
        target = target_of(format, to, overwrite)
        runs, sql = (asked, None) if tables else _runs_and_sql(asked)
        with wsiseg.open_query(runs, model, classes) as opened:
            if sql is None:
                answer, notes = _described(opened.columns()), []
                rows = 0
            else:
                notes = opened.notes(sql)
                answer = opened.run(sql)
            unread = opened.unread
        give_answer(answer, target, rows)
    leave(notes, unread)


def _runs_and_sql(asked: Sequence[str]) -> tuple[list[str], str]:
    """Return where to look, and what is asked: the last argument."""
    *runs, sql = asked
    # Path.exists() raises an error for a name that is too long, as a query mostly is.
    if not runs or (sql != "-" and os.path.exists(sql)):  # noqa: PTH110
        example = 'wsiseg query results/ "SELECT slide, n_cells FROM slides"'
        raise UsageError(
            f"{asked[-1]!r} is no question; runs, and after them one SELECT in quotes are needed: "
            f"{example} (--tables says what there is to ask)"
        )
    return runs, typer.get_text_stream("stdin").read() if sql == "-" else sql


def _described(columns: Sequence[Any]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(
        [
            {"table": c.table, "column": c.name, "meaning": c.meaning, "type": c.kind}
            for c in columns
        ]
    )


@dataclass(frozen=True, slots=True)
class Target:
    """Where an answer goes."""

    path: Path
    file_format: str | None
    overwrite: bool


def target_of(
    answer_format: AnswerFormat | None, to: Path | None, overwrite: bool
) -> Target | None:
    """Return where an answer goes; None: to the eye.  Refused before any work, if it cannot."""
    if answer_format is AnswerFormat.table or (answer_format is None and to is None):
        if to is not None and str(to) != "-":
            raise UsageError("a table to look at is not for a file; --format csv, json or parquet")
        return None
    target = Target(
        Path("-") if to is None else to,
        None if answer_format is None else answer_format.value,
        overwrite,
    )
    check_target(target.path, target.file_format, overwrite=overwrite)
    return target


def give_answer(
    answer: pa.Table,
    target: Target | None,
    rows: int,
    shown: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Print an answer or write it; `shown` are its rows made for the eye, if it has such."""
    if target is None:
        print_answer(answer, rows, shown)
    else:
        wsiseg.write_table(answer, target.path, target.file_format, overwrite=target.overwrite)


def leave(notes: Sequence[str], unread: Sequence[WsisegError]) -> None:
    """Say what to mind, and which runs are no part of the answer; end with the right code."""
    for note in notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)
    for reason in unread:
        typer.secho(f"not counted: {reason}", fg="red", err=True)
    raise typer.Exit(SOME_FAILED if unread else DONE)


def stats(
    runs: RunsArgument,
    by: Annotated[
        str,
        typer.Option(help="slide, region, or columns of --metadata, separated by commas."),
    ] = _BY,
    metadata: Annotated[
        Path | None, typer.Option(help="CSV with a column slide: what is known of each slide.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="Column of what is independent; else patient, if there is one."),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="Compare the groups that this column names.")
    ] = None,
    within: Annotated[
        Path | None, typer.Option(help="Count in these regions: GeoJSON from QuPath, one run.")
    ] = None,
    roi_origin: RoiOriginOption = RoiOriginName.auto,
    densest: Annotated[
        float | None, typer.Option(help="Find the square of so many mm² with the most nuclei.")
    ] = None,
    mixing: Annotated[
        bool, typer.Option("--mixing", help="Say which classes are nearest neighbours.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = _CONFIDENCE,
    model: RunModelOption = None,
    classes: ClassesFromOption = None,
    format: AnswerFormatOption = None,  # noqa: A002
    to: ToOption = None,
    overwrite: ReplaceOption = False,
    rows: RowsOption = 0,
) -> None:
    """Count nuclei per slide, region or group and class, zeros included."""
    with errors_to_exit_codes():
        target = target_of(format, to, overwrite)
        _refuse_idle(
            {"--compare": compare, "--within": within, "--densest": densest, "--mixing": mixing},
            {
                "--by": by != _BY,
                "--metadata": metadata is not None,
                "--unit": unit is not None,
                "--confidence": confidence != _CONFIDENCE,
                "--roi-origin": roi_origin is not RoiOriginName.auto,
            },
        )
        which: dict[str, Any] = {"model": model, "classes": classes}
        show = count_rows
        if compare is not None:
            if metadata is None:
                raise UsageError("--compare needs --metadata: a CSV that names each slide's group")
            answer = wsiseg.compare_groups(
                runs, compare, metadata, unit=unit, confidence=confidence, **which
            )
            show = comparison_rows
        elif within is not None:
            answer = _within(runs, within, roi_origin, which)
        elif densest is not None:
            answer = wsiseg.ask_each(runs, partial(wsiseg.densest_squares, mm2=densest), **which)
            show = square_rows
        elif mixing:
            answer = wsiseg.ask_each(runs, wsiseg.class_mixing, **which)
            show = mixing_rows
        else:
            answer = wsiseg.cohort_stats(
                runs, by=by, metadata=metadata, unit=unit, confidence=confidence, **which
            )
        give_answer(answer.table, target, rows, show(answer.table.to_pylist()))
    leave(answer.notes, answer.unread)


def _refuse_idle(questions: Mapping[str, Any], options: Mapping[str, bool]) -> None:
    """Raise UsageError for two questions, or for an option that is not about the one."""
    named = [name for name, value in questions.items() if value not in (None, False)]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} are different questions; ask one at a time")
    asked = named[0] if named else None
    idle = [name for name, given in options.items() if given and asked not in _ABOUT[name]]
    if idle:
        raise UsageError(
            f"{' and '.join(idle)} would change nothing {f'of {asked}' if asked else 'here'}; "
            "leave out what is not about the question"
        )


def _within(
    runs: Sequence[Path], regions: Path, origin: RoiOriginName, which: Mapping[str, Any]
) -> wsiseg.Answer:
    found = wsiseg.find_results(runs)
    if len(found) != 1:
        raise UsageError(
            f"--within is about the regions of one slide, but there are {len(found)} runs"
        )
    drawn: dict[str, Any] = {"regions": regions, "roi_origin": origin.value}
    ask, mind = partial(wsiseg.stats_within, **drawn), partial(wsiseg.region_warnings, **drawn)
    return wsiseg.ask_each(runs, ask, mind=mind, **which)
