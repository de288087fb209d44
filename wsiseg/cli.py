"""The command line: a command is one call of the public library."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import wsiseg
from wsiseg.errors import Interrupted, UnknownName, UsageError, WsisegError
from wsiseg.terminal import (
    explain_model,
    print_table,
    show_progress,
    slide_facts,
    summary_rows,
)

if TYPE_CHECKING:
    from wsiseg.results import Result

DONE, BUG, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 75

app = typer.Typer(
    help="Every nucleus of a whole H&E slide, once and in the right place. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Tissue(enum.StrEnum):
    """What counts as tissue."""

    auto = "auto"
    none = "none"


SlidesArgument = Annotated[list[Path], typer.Argument(help="Slides, images, or folders of them.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
ModelOption = Annotated[str, typer.Option(help="Shipped model's name or model folder.")]
MppOption = Annotated[float | None, typer.Option(help="µm per pixel, if the file lacks it.")]
OverrideOption = Annotated[float | None, typer.Option(help="µm per pixel, against the file.")]
FromObjective = Annotated[
    bool, typer.Option("--mpp-from-objective", help="10x/20x/40x as 1/0.5/0.25 µm per pixel.")
]
ForceScale = Annotated[bool, typer.Option("--force-scale", help="Enlarge beyond 3 times.")]
TissueOption = Annotated[Tissue, typer.Option(help="auto: find it; none: everything counts.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; else the model card's.")
]
BatchOption = Annotated[int | None, typer.Option(help="Tiles per call of the network.")]
WorkersOption = Annotated[int | None, typer.Option(help="Start that many Dask processes.")]
FormatOption = Annotated[str, typer.Option("--format", help="Exports, separated by commas.")]
ReaderOption = Annotated[str | None, typer.Option(help="openslide, tiffslide or image.")]
RunsArgument = Annotated[list[Path], typer.Argument(help="Runs, folders of runs, or globs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete existing results first.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only errors and the final table.")]


@app.command()
def segment(
    slides: SlidesArgument,
    out: OutOption,
    model: ModelOption = "nuclei-40x-v0",
    mpp: MppOption = None,
    override_mpp: OverrideOption = None,
    mpp_from_objective: FromObjective = False,
    force_scale: ForceScale = False,
    tissue: TissueOption = Tissue.auto,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    batch_size: BatchOption = None,
    workers: WorkersOption = None,
    format: FormatOption = "geojson",  # noqa: A002
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Find every nucleus of each slide."""
    with _errors_to_exit_codes():
        chosen = wsiseg.load_model(model)
        explain_model(chosen.card)
        options = wsiseg.PlanOptions(tissue=None) if tissue is Tissue.none else wsiseg.PlanOptions()
        with show_progress(quiet) as progress:
            outcomes = list(
                wsiseg.segment_many(
                    wsiseg.find_slides(slides),
                    out,
                    model=chosen,
                    scale=wsiseg.ScaleOptions(mpp, override_mpp, mpp_from_objective, force_scale),
                    options=options,
                    compute=wsiseg.ComputeOptions(device, precision, batch_size, workers),
                    formats=[name for name in format.split(",") if name],
                    overwrite=overwrite,
                    progress=progress,
                )
            )
    _finish(outcomes)


@app.command()
def demo(
    out: OutOption = Path("demo"),
    slide: Annotated[Path | None, typer.Option(help="A local copy of the demo slide.")] = None,
    quiet: Quiet = False,
) -> None:
    """Segment a real slide with a free licence, and say where the picture is."""
    with _errors_to_exit_codes():
        explain_model(wsiseg.load_model().card)
        with show_progress(quiet) as progress:
            result = wsiseg.run_demo(out, slide, progress)
    print_table(summary_rows(result))
    _tell_where(result)


@app.command()
def info(slide: Path, reader: ReaderOption = None) -> None:
    """Say what a slide is: size, levels, µm per pixel."""
    with _errors_to_exit_codes(), wsiseg.open_slide(slide, reader) as opened:
        print_table(slide_facts(opened.info))


@app.command()
def stats(runs: RunsArgument) -> None:
    """Count cells per slide and class, zeros included."""
    with _errors_to_exit_codes():
        results, unread = [], []
        for path in wsiseg.find_results(runs):
            try:
                results.append(wsiseg.open_result(path))
            except WsisegError as error:
                unread.append(error)
        print_table(wsiseg.slide_stats(results).to_pylist())
    for reason in unread:
        typer.secho(f"not counted: {reason}", fg="red", err=True)
    if unread:
        raise typer.Exit(SOME_FAILED)


@app.command()
def export(
    run: Path,
    format: Annotated[str, typer.Option("--format", help="geojson or ome-zarr.")],  # noqa: A002
    to: Annotated[Path, typer.Option(help="File or folder to write.")],
) -> None:
    """Write a run's cells in another format."""
    with _errors_to_exit_codes():
        typer.echo(wsiseg.open_result(run).export(format, to))


@app.command()
def models() -> None:
    """List the shipped models with scale, classes and licence."""
    with _errors_to_exit_codes():
        print_table(
            [
                {
                    "model": card.name,
                    "µm/px": card.mpp,
                    "classes": ", ".join(card.class_names),
                    "licence": card.licence,
                    "sha256": card.sha256[:12],
                }
                for card in wsiseg.list_models()
            ]
        )


def main() -> None:
    """Run the command line."""
    app()


def _finish(outcomes: list[Any]) -> NoReturn:
    """Print the table of slides and leave with the right exit code."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, wsiseg.Failed)]
    for outcome in outcomes:
        if isinstance(outcome, wsiseg.Done):
            print_table(summary_rows(outcome.result))
            _tell_where(outcome.result)
    for outcome in failed:
        typer.secho(f"failed: {outcome.error}", fg="red", err=True)
    started = len(failed) < len(outcomes) or not all(_is_usage(f.error) for f in failed)
    raise typer.Exit(DONE if not failed else SOME_FAILED if started else USAGE)


def _tell_where(result: Result) -> None:
    for warning in result.warnings:
        typer.secho(f"warning: {warning['message']}", fg="yellow", err=True)
    typer.echo(f"picture:  {result.path / 'overlay.png'}")
    typer.echo(f"results:  {result.path}")


@contextmanager
def _errors_to_exit_codes() -> Iterator[None]:
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
