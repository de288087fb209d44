"""The same question to every run, and the answers in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from wsiseg.answers.cohort import Answer
from wsiseg.answers.run_choice import AskedRun, RunsGiven, choose_runs
from wsiseg.errors import ResultNotReadable, UsageError, WsisegError
from wsiseg.results import Result, open_result

_PLACE = ("slide", "model")


def ask_each(
    runs: RunsGiven,
    ask: Callable[[Result], pa.Table],
    *,
    mind: Callable[[Result], Sequence[str]] | None = None,
    model: str | None = None,
    classes: str | None = None,
) -> Answer:
    """Ask every run, and put `slide` and `model` before the answers.

    Parameters
    ----------
    runs : path, glob, or several of them
        Runs, folders of runs, or globs.
    ask : callable
        Such as `wsiseg.densest_squares` or `wsiseg.class_mixing`: takes a result, returns a table
        with the same columns for each.
    mind : callable, optional
        What to mind about a result's answer, a sentence each: the notes.
    model, classes : str, optional
        As for `wsiseg.open_query`.

    Raises
    ------
    ResultNotReadable
        If no run can be read.
    UsageError, UnknownName
        As `wsiseg.open_query`, and what `ask` raises.  A UsageError about some runs only, such as
        a slide that is too small, leaves those out of the answer: they are in `unread`.

    Examples
    --------
    >>> ask_each("results/", wsiseg.class_mixing).table  # doctest: +SKIP
    """
    chosen = choose_runs(runs, model, classes)
    tables: list[pa.Table] = []
    notes: list[str] = []
    refused: list[WsisegError] = []
    for run in chosen.runs:
        try:
            result = open_result(run.path, classes)
            tables.append(_placed(run, ask(result)))
        except (ResultNotReadable, UsageError) as error:
            refused.append(error)
            continue
        notes += [] if mind is None else mind(result)
    if not tables:
        raise refused[0]
    return Answer(pa.concat_tables(tables), tuple(notes), (*chosen.unread, *refused))


def _placed(run: AskedRun, table: pa.Table) -> pa.Table:
    """Return a run's answer with its name and model in front."""
    own = table.drop_columns([name for name in _PLACE if name in table.column_names])
    for i, (name, value) in enumerate(zip(_PLACE, (run.slide, run.model[0]), strict=True)):
        own = own.add_column(i, name, pa.array([value] * table.num_rows, pa.string()))
    return own
