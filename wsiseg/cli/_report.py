"""The commands that write for people: `report` and `cite`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import wsiseg
from wsiseg.cli._exit import DONE, SOME_FAILED, errors_to_exit_codes
from wsiseg.cli._options import ClassesFromOption, Quiet, RunsArgument
from wsiseg.cli.terminal import show_progress
from wsiseg.signals import work_begins


def report(
    runs: RunsArgument,
    to: Annotated[
        Path | None, typer.Option(help="Folder for the pages; else they go into the runs.")
    ] = None,
    classes: ClassesFromOption = None,
    quiet: Quiet = False,
) -> None:
    """Write an HTML page for each slide, and one for all of them."""
    with errors_to_exit_codes(), show_progress(quiet) as progress:
        write_report = wsiseg.write_report
        work_begins()
        written = write_report(runs, to, classes, progress)
    typer.echo(written.pages[0])
    for reason in written.unread:
        typer.secho(f"no page: {reason}", fg="red", err=True)
    raise typer.Exit(SOME_FAILED if written.unread else DONE)


def cite(
    runs: RunsArgument,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="The references for BibTeX.")] = False,
) -> None:
    """Print a methods paragraph for a paper, with limits, licence and references."""
    with errors_to_exit_codes():
        found = wsiseg.cite(runs)
    typer.echo(found.bibtex if bibtex else found.text, nl=False)
