"""The commands `query` and `stats`: answers from finished runs."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsiseg
from wsiseg._cli_exit import DONE, SOME_FAILED, errors_to_exit_codes
from wsiseg.errors import UsageError, WsisegError
from wsiseg.terminal import print_answer

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
RunModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Only runs of this model (name or sha256); all: told apart."),
]
VersionOption = Annotated[
    str | None, typer.Option("--classes", help="A version of the classes, by wsiseg classify.")
]
RowsOption = Annotated[
    int, typer.Option("--rows", min=0, help="Most rows of the table to look at; 0: all.")
]


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
    classes: VersionOption = None,
    format: AnswerFormatOption = None,  # noqa: A002
    to: ToOption = None,
    rows: RowsOption = 40,
) -> None:
    """Ask SQL of all runs: tables slides, cells, features, tiles and regions."""
    with errors_to_exit_codes():
        runs, sql = (asked, None) if tables else _runs_and_sql(asked)
        with wsiseg.open_query(runs, model, classes) as opened:
            if sql is None:
                answer, notes = _described(opened.columns()), []
                rows = 0
            else:
                notes = opened.notes(sql)
                answer = opened.run(sql)
            unread = opened.unread
        give_answer(answer, format, to, rows)
    leave(notes, unread)


def _runs_and_sql(asked: Sequence[str]) -> tuple[list[str], str]:
    """Return where to look, and what is asked: the last argument."""
    *runs, sql = asked
    if not runs or (sql != "-" and Path(sql).exists()):
        raise UsageError(
            f'{asked[-1]!r} is no SELECT; runs and then one SELECT in quotes are needed: wsiseg '
            'query results/ "SELECT slide, n_cells FROM slides" (--tables says what there is)'
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


def give_answer(
    answer: pa.Table,
    answer_format: AnswerFormat | None,
    to: Path | None,
    rows: int,
    shown: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Print an answer or write it; `shown` are its rows made for the eye, if it has such."""
    is_table = answer_format is AnswerFormat.table or (answer_format is None and to is None)
    if not is_table:
        chosen = None if answer_format is None else answer_format.value
        wsiseg.write_table(answer, Path("-") if to is None else to, chosen)
    elif to is not None and str(to) != "-":
        raise UsageError(f"a table to look at is not for a file; --format csv, json or parquet")
    else:
        print_answer(answer, rows, shown)


def leave(notes: Sequence[str], unread: Sequence[WsisegError]) -> None:
    """Say what to mind, and which runs are no part of the answer; end with the right code."""
    for note in notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)
    for reason in unread:
        typer.secho(f"not counted: {reason}", fg="red", err=True)
    raise typer.Exit(SOME_FAILED if unread else DONE)
