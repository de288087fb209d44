"""`wsiseg classify`: other classes from examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsiseg
from wsiseg.cli._exit import SOME_FAILED, errors_to_exit_codes
from wsiseg.cli._options import RunsArgument
from wsiseg.cli.terminal import MANY_SLIDES, print_table, summary_rows
from wsiseg.signals import work_begins

if TYPE_CHECKING:
    from wsiseg.classes.classification import ClassReport

_MOST_FEATURES = 8
_LEFT_OUT = {"slide": "whole slides", "area or click": "areas and clicks", "nucleus": "nuclei"}


def classify(
    runs: RunsArgument,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="GeoJSON of marked nuclei; of several slides, a folder of a.svs.geojson."
        ),
    ] = None,
    model_from: Annotated[
        Path | None,
        typer.Option("--model-from", help="RUN/classes/NAME.json whose model is used again."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the new version.")] = "examples",
    features: Annotated[
        str,
        typer.Option(
            help="size, shape, colour, neighbours, ring, texture, probabilities, or columns; "
            "separated by commas."
        ),
    ] = "all",
    seed: Annotated[int, typer.Option(help="Chooses folds.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a version of that name.")
    ] = False,
) -> None:
    """Give nuclei other classes, learned from a few dozen examples marked in QuPath."""
    with errors_to_exit_codes():
        learn = wsiseg.classify
        work_begins()
        if examples is not None:
            typer.echo("looking up the examples and learning from them …", err=True)
        made = learn(
            runs,
            examples,
            model_from=model_from,
            name=name,
            options=wsiseg.ClassifyOptions(features, seed),
            overwrite=overwrite,
        )
        if made.report is not None:
            _tell(made.report)
        if len(made.results) <= MANY_SLIDES:
            print_table([row for result in made.results for row in summary_rows(result)])
        else:
            typer.echo(f"{len(made.results)} runs have the new classes")
    typer.echo(f"version:  {name} (use it with --classes-from {name})")
    for reason in made.unread:
        typer.secho(f"not classified: {reason}", fg="red", err=True)
    if made.unread:
        raise typer.Exit(SOME_FAILED)


def _tell(report: ClassReport) -> None:
    """Print how a model was made, and how good it is."""
    print_table(_example_rows(report))
    if report.n_missed:
        typer.echo(f"{report.n_missed} of {report.n_marks} marks hit no nucleus; they were ignored")
    if report.balanced_accuracy is not None and report.interval is not None:
        low, high = (f"{100 * value:.0f}" for value in report.interval)
        typer.echo(
            f"of unseen examples {100 * report.balanced_accuracy:.0f} % are called right, on "
            f"average over classes (95 % interval {low} to {high} %; {report.n_folds} folds, "
            f"{_LEFT_OUT[str(report.left_out)]} left out in turn)"
        )
        typer.echo(
            f"mean probability of what was said: {report.mean_confidence:.2f}; right: "
            f"{report.accuracy:.2f} of all"
        )
    typer.echo(f"made of {len(report.features)} measurements; those with the largest weights:")
    print_table(_feature_rows(report))
    if report.dropped:
        typer.echo(f"not used, for the examples have no values: {', '.join(report.dropped)}")
    for text in report.warnings:
        typer.secho(f"warning: {text}", fg="yellow", err=True)


def _example_rows(report: ClassReport) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i, (name, n) in enumerate(zip(report.classes, report.n_examples, strict=True)):
        called: dict[str, Any] = {}
        if report.confusion is not None:
            called = {
                f"called {other}": times
                for other, times in zip(report.classes, report.confusion[i], strict=True)
            }
        rows.append({"marked as": name, "examples": n} | called)
    return rows


def _feature_rows(report: ClassReport) -> list[dict[str, Any]]:
    """Return the weights of the features that matter most, per standard deviation."""
    rows = []
    for name, _ in report.importance[:_MOST_FEATURES]:
        column = report.features.index(name)
        weights = {
            each: f"{row[column]:+.2f}"
            for each, row in zip(report.classes, report.weights, strict=True)
        }
        rows.append({"measurement": name} | weights)
    return rows
