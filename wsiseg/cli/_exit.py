"""How a command ends: what it says at last, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NoReturn

import typer

import wsiseg
from wsiseg.cli.terminal import MANY_SLIDES, estimate_rows, print_table, summary_rows
from wsiseg.errors import Interrupted, ResultNotReadable, UnknownName, UsageError, WsisegError
from wsiseg.signals import INTERRUPTED

if TYPE_CHECKING:
    from wsiseg.batches import Done, Failed
    from wsiseg.dry_run import SlideEstimate
    from wsiseg.results import Result

DONE, BUG, USAGE, SOME_FAILED = 0, 1, 2, 3


class Tally:
    """What became of the slides of a command, as far as it is to be told at the end."""

    def __init__(self, n_slides: int, quiet: bool) -> None:
        self.n_slides = n_slides
        """Of all parts."""
        self.n_done = 0
        self.shown: list[Result] = []
        """Those that get a table of their own."""
        self.failed: list[Failed] = []
        self.unread: list[str] = []
        """What is said of those that were done, but cannot be opened any more."""
        self._quiet = quiet

    @property
    def is_batch(self) -> bool:
        """Whether there are several slides."""
        return self.n_slides > 1

    @property
    def is_long(self) -> bool:
        """Whether there are too many for a table of each."""
        return self.n_slides > MANY_SLIDES

    def add(self, outcome: Done | Failed) -> Result | None:
        """Take note of a slide that ended, and say so if there are several.

        Returns
        -------
        Result or None
            The finished run; None if there is none, or it cannot be opened any more.
        """
        result = None
        if isinstance(outcome, wsiseg.Failed):
            self.failed.append(outcome)
            line = f"{outcome.place}: failed: {outcome.error}"
        else:
            self.n_done += 1
            try:
                result = outcome.result
                line = _done_line(outcome.place, result)
            except ResultNotReadable as error:
                # Another call may be overwriting it.
                line = f"{outcome.place}: done, but its result cannot be opened: {error}"
                self.unread.append(line)
            if result is not None and not self.is_long:
                self.shown.append(result)
        if self.is_batch and not self._quiet:
            typer.echo(line, err=True)
        return result


def _done_line(place: PurePosixPath, result: Result) -> str:
    """Return what is told of one slide of many that was done."""
    run = result.run
    seconds = sum(s for name, s in run["seconds"].items() if not name.endswith("_busy"))
    n = len(run["warnings"])
    warned = "" if not n else ", 1 warning" if n == 1 else f", {n} warnings"
    return (
        f"{place}: {run['n_cells']:,} cells, {run['analysed_mm2']:.3g} mm², {seconds:.0f} s{warned}"
    )


def finish(tally: Tally, part: str | None) -> NoReturn:
    """Print the table of slides and leave with the right exit code."""
    with errors_to_exit_codes():
        for result in tally.shown:
            try:
                rows = summary_rows(result)
            except ResultNotReadable as error:
                tally.unread.append(f"{result.name}: its result cannot be opened: {error}")
                continue
            print_table(rows)
            tell_where(result)
        raise typer.Exit(_tell_end(tally, part))


def _tell_end(tally: Tally, part: str | None) -> int:
    """Say what became of all slides together; return the exit code."""
    if part is not None and not (tally.n_done or tally.failed):
        typer.echo(f"part {part} holds none of the {tally.n_slides} slides; nothing to do")
    elif tally.is_long:
        print_table([{"slides done": tally.n_done, "failed": len(tally.failed)}])
    tell_failed(tally.failed)
    for line in tally.unread:
        typer.secho(line, fg="red", err=True)
    # A batch has at least left the reasons.
    nothing = not (tally.n_done or tally.is_batch)
    is_usage = nothing and all(_is_usage(failed.error) for failed in tally.failed)
    if not tally.failed:
        return SOME_FAILED if tally.unread else DONE
    return USAGE if is_usage else SOME_FAILED


def finish_dry_run(outcomes: Sequence[SlideEstimate | Failed]) -> NoReturn:
    """Print what would run, and leave."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, wsiseg.Failed)]
    estimates = [outcome for outcome in outcomes if not isinstance(outcome, wsiseg.Failed)]
    print_table(estimate_rows(estimates))
    for estimate in estimates:
        for message in estimate.warnings:
            typer.secho(f"warning: {estimate.slide}: {message}", fg="yellow", err=True)
    tell_failed(failed)
    is_usage = not estimates and all(_is_usage(one.error) for one in failed)
    raise typer.Exit(DONE if not failed else USAGE if is_usage else SOME_FAILED)


def tell_failed(failed: Sequence[Failed]) -> None:
    """Say which slides failed and why."""
    for outcome in failed:
        typer.secho(f"failed: {_reason(outcome)}", fg="red", err=True)


def _reason(failed: Failed) -> str:
    """Return why a slide failed, with its place if its name alone could be another's."""
    in_folder = len(failed.place.parts) > 1
    return f"{failed.place}: {failed.error}" if in_folder else str(failed.error)


def tell_where(result: Result) -> None:
    """Say what a run warns of, and where its results are."""
    for warning in result.warnings:
        typer.secho(f"warning: {warning['message']}", fg="yellow", err=True)
    typer.echo(f"picture:  {result.path / 'overlay.png'}")
    typer.echo(f"results:  {result.path}")


@contextmanager
def errors_to_exit_codes() -> Iterator[None]:
    """Print an error's one line; a traceback is for bugs only."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        typer.secho(str(error) or "interrupted", fg="yellow", err=True)
        sys.exit(INTERRUPTED)
    except WsisegError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(USAGE if _is_usage(error) else SOME_FAILED)


def _is_usage(error: WsisegError) -> bool:
    """Return whether the command was wrong, rather than a slide or a result."""
    return isinstance(error, UsageError | UnknownName)
