"""`wsiseg models`: what can be used, and what is known of it."""

from __future__ import annotations

from typing import Annotated

import typer

import wsiseg
from wsiseg.cli._exit import errors_to_exit_codes
from wsiseg.cli.terminal import print_table, printable


def models(
    name: Annotated[
        str | None, typer.Argument(help="A shipped model or a folder: say all of its card.")
    ] = None,
) -> None:
    """List the shipped models, or say all that is known of one."""
    with errors_to_exit_codes():
        if name is None:
            print_table(wsiseg.model_rows())
        else:
            for line in wsiseg.describe_model(name).split("\n"):
                typer.echo(printable(line))
