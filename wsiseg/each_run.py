"""The same question to every run, and the answers in one table."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from wsiseg.cohort import Answer
from wsiseg.errors import ResultNotReadable
from wsiseg.results import Result, open_result
from wsiseg.run_choice import AskedRun, RunsGiven, choose_runs

_PLACE = ("slide", "model")


def ask_each(
    runs: RunsGiven,
    ask: Callable[[Result], pa.Table],
    *,
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
    model, classes : str, optional
        As for `wsiseg.open_query`.

    Raises
    ------
    ResultNotReadable
        If no run can be read.
    UsageError, UnknownName
        As `wsiseg.open_query`, and what `ask` raises.

    Examples
    --------
    >>> ask_each("results/", wsiseg.class_mixing).table  # doctest: +SKIP
    """
    chosen = choose_runs(runs, model, classes)
    tables, unread = [], list(chosen.unread)
    for run in chosen.runs:
        try:
            tables.append(_placed(run, ask(_open(run, classes))))
        except ResultNotReadable as error:
            unread.append(error)
    if not tables:
        raise unread[0]
    return Answer(pa.concat_tables(tables), (), tuple(unread))


def _open(run: AskedRun, classes: str | None) -> Result:
    return open_result(run.path, classes)


def _placed(run: AskedRun, table: pa.Table) -> pa.Table:
    """Return a run's answer with its name and model in front."""
    own = table.drop_columns([name for name in _PLACE if name in table.column_names])
    for i, (name, value) in enumerate(zip(_PLACE, (run.slide, run.model[0]), strict=True)):
        own = own.add_column(i, name, pa.array([value] * table.num_rows, pa.string()))
    return own
