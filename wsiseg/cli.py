"""The command line: a command is one call of the public library."""

from __future__ import annotations

import csv
import enum
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import wsiseg
from wsiseg.errors import (
    Interrupted,
    ResultNotReadable,
    UnknownName,
    UsageError,
    WsisegError,
)
from wsiseg.terminal import (
    estimate_rows,
    plan_teller,
    print_seams,
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


class RoiOriginName(enum.StrEnum):
    """What coordinates in GeoJSON files are relative to."""

    auto = "auto"
    bounds = "bounds"
    slide = "slide"


class Grouping(enum.StrEnum):
    """What counts are grouped by, besides slide and class."""

    slide = "slide"
    region = "region"


SlidesArgument = Annotated[
    list[Path], typer.Argument(help="Slides, images, folders of them, or CSV files that list them.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
ModelOption = Annotated[
    str, typer.Option(help="auto (nearest in µm per pixel), a shipped model's name, or a folder.")
]
MppOption = Annotated[float | None, typer.Option(help="µm per pixel, if the file lacks it.")]
OverrideOption = Annotated[float | None, typer.Option(help="µm per pixel, against the file.")]
FromObjective = Annotated[
    bool, typer.Option("--mpp-from-objective", help="10x/20x/40x as 1/0.5/0.25 µm per pixel.")
]
ForceScale = Annotated[bool, typer.Option("--force-scale", help="Enlarge beyond 3 times.")]
TissueOption = Annotated[
    str, typer.Option(help="auto: find it; none: everything counts; or a GeoJSON file.")
]
RoiOption = Annotated[
    Path | None, typer.Option(help="GeoJSON from QuPath: only nuclei in these regions count.")
]
RoiOriginOption = Annotated[
    RoiOriginName,
    typer.Option(help="What coordinates in GeoJSON files are relative to; QuPath: bounds."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Take warnings for failures, before the long part.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, how long, how large; write nothing.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; else the model card's.")
]
BatchOption = Annotated[int | None, typer.Option(help="Tiles per call of the network.")]
WorkersOption = Annotated[int | None, typer.Option(help="Start that many Dask processes.")]
MemoryOption = Annotated[
    float, typer.Option("--memory-gb", help="Memory a run on a CPU may take; fewer tiles at once.")
]
FormatOption = Annotated[str, typer.Option("--format", help="Exports, separated by commas.")]
ReaderOption = Annotated[str | None, typer.Option(help="openslide, tiffslide or image.")]
RunsArgument = Annotated[list[Path], typer.Argument(help="Runs, folders of runs, or globs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete existing results first.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only errors and the final table.")]


@app.command()
def segment(
    slides: SlidesArgument,
    out: OutOption,
    model: ModelOption = "auto",
    mpp: MppOption = None,
    override_mpp: OverrideOption = None,
    mpp_from_objective: FromObjective = False,
    force_scale: ForceScale = False,
    tissue: TissueOption = "auto",
    roi: RoiOption = None,
    roi_origin: RoiOriginOption = RoiOriginName.auto,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    batch_size: BatchOption = None,
    workers: WorkersOption = None,
    memory_gb: MemoryOption = 4.0,
    format: FormatOption = "geojson",  # noqa: A002
    strict: Strict = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Find every nucleus of each slide."""
    with _errors_to_exit_codes():
        formats = _names(format) or ()
        common: dict[str, Any] = {
            "model": model,
            "scale": wsiseg.ScaleOptions(mpp, override_mpp, mpp_from_objective, force_scale),
            "options": wsiseg.PlanOptions(tissue=tissue, roi=roi, roi_origin=roi_origin.value),
            "compute": wsiseg.ComputeOptions(device, precision, batch_size, workers, memory_gb),
        }
        entries = wsiseg.list_slides(slides)
        if dry_run:
            estimates = wsiseg.estimate_many(
                entries, out, formats=formats, overwrite=overwrite, strict=strict, **common
            )
            _finish_dry_run(list(estimates))
        with show_progress(quiet) as progress:
            outcomes = list(
                wsiseg.segment_many(
                    entries,
                    out,
                    formats=formats,
                    overwrite=overwrite,
                    strict=strict,
                    progress=progress,
                    planned=plan_teller(quiet),
                    **common,
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
    with _errors_to_exit_codes(), show_progress(quiet) as progress:
        result = wsiseg.run_demo(out, slide, progress, plan_teller(quiet))
    print_table(summary_rows(result))
    _tell_where(result)


@app.command()
def seamcheck(
    slide_or_run: Annotated[Path, typer.Argument(help="A slide, or a run (*.wsiseg) of one.")],
    slide: Annotated[Path | None, typer.Option(help="The slide of a run.")] = None,
    squares: Annotated[
        str, typer.Option("--squares", "-n", help="Squares to look at; all: the whole slide.")
    ] = "8",
    side: Annotated[int | None, typer.Option(help="Their side in model px; else a core's.")] = None,
    grids: Annotated[int, typer.Option(help="Moved grids to compare with.")] = 2,
    offset: Annotated[
        list[int] | None, typer.Option(help="Offset of a moved grid in model px; repeatable.")
    ] = None,
    near: Annotated[int, typer.Option(help="Near a seam: closer than so many model px.")] = 64,
    seed: Annotated[int, typer.Option(help="Chooses squares and grids.")] = 0,
    model: ModelOption = "auto",
    mpp: MppOption = None,
    override_mpp: OverrideOption = None,
    mpp_from_objective: FromObjective = False,
    force_scale: ForceScale = False,
    tissue: TissueOption = "auto",
    roi: RoiOption = None,
    roi_origin: RoiOriginOption = RoiOriginName.auto,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    batch_size: BatchOption = None,
    workers: WorkersOption = None,
    memory_gb: MemoryOption = 4.0,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw what differs in this PNG.")] = None,
    quiet: Quiet = False,
) -> None:
    """Say whether seams between tiles show: run squares again on moved grids."""
    with _errors_to_exit_codes(), show_progress(quiet) as progress:
        offsets = tuple(offset) if offset else None
        report = wsiseg.seamcheck(
            slide_or_run,
            slide=slide,
            model=model,
            scale=wsiseg.ScaleOptions(mpp, override_mpp, mpp_from_objective, force_scale),
            options=wsiseg.PlanOptions(tissue=tissue, roi=roi, roi_origin=roi_origin.value),
            check=wsiseg.SeamCheckOptions(squares, side, grids, offsets, near, seed),
            compute=wsiseg.ComputeOptions(device, precision, batch_size, workers, memory_gb),
            json=json,
            picture=picture,
            progress=progress,
            planned=plan_teller(quiet),
        )
    print_seams(report)
    raise typer.Exit(SOME_FAILED if report.has_missed else DONE)


@app.command()
def info(slide: Path, reader: ReaderOption = None) -> None:
    """Say what a slide is: size, levels, µm per pixel."""
    with _errors_to_exit_codes(), wsiseg.open_slide(slide, reader) as opened:
        print_table(slide_facts(opened.info))


@app.command()
def stats(
    runs: RunsArgument,
    by: Annotated[Grouping, typer.Option(help="slide, or each region of interest.")] = (
        Grouping.slide
    ),
) -> None:
    """Count cells per slide (and region) and class, zeros included."""
    with _errors_to_exit_codes():
        results, unread = [], []
        for path in wsiseg.find_results(runs):
            try:
                results.append(wsiseg.open_result(path))
            except WsisegError as error:
                unread.append(error)
        count = wsiseg.region_stats if by is Grouping.region else wsiseg.slide_stats
        print_table(count(results).to_pylist())
    for reason in unread:
        typer.secho(f"not counted: {reason}", fg="red", err=True)
    if unread:
        raise typer.Exit(SOME_FAILED)


@app.command()
def export(
    runs: RunsArgument,
    format: Annotated[str, typer.Option("--format", help="geojson or ome-zarr.")],  # noqa: A002
    to: Annotated[str, typer.Option(help="File to write; DIR/ names it after the slide.")],
    split: Annotated[int | None, typer.Option(help="Most nuclei in a GeoJSON file.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Only these classes, separated by commas.")
    ] = None,
    regions: Annotated[
        str | None, typer.Option(help="Only cells in these regions, separated by commas.")
    ] = None,
    centroids: Annotated[
        bool, typer.Option("--centroids", help="Points instead of polygons.")
    ] = False,
    ome_zarr: Annotated[
        str | None, typer.Option("--ome-zarr", help="OME-Zarr version: 0.5 or 0.4.")
    ] = None,
) -> None:
    """Write a run's cells in another format."""
    given = {
        "split": split,
        "classes": _names(classes),
        "regions": _names(regions),
        "centroids": centroids or None,
        "version": ome_zarr,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    unread: list[WsisegError] = []
    with _errors_to_exit_codes():
        results = []
        for run in wsiseg.find_results(runs):
            try:
                results.append(wsiseg.open_result(run))
            except ResultNotReadable as error:
                unread.append(error)
        if unread and not results:
            raise unread[0]
        for path in wsiseg.export_runs(results, format, to, chosen):
            typer.echo(path)
    for reason in unread:
        typer.secho(f"not exported: {reason}", fg="red", err=True)
    if unread:
        raise typer.Exit(SOME_FAILED)


@app.command()
def doctor(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where results would go.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to try; else the shipped one.")] = None,
) -> None:
    """Check that everything a run needs works here, and say what to do where not."""
    failed = False
    with _errors_to_exit_codes():
        for check in wsiseg.run_checks(out, model):
            failed |= not check.ok
            typer.echo(f"{'ok   ' if check.ok else 'FAILS'}  {check.name}: {check.said}")
            if not check.ok:
                typer.secho(f"       {check.fix}", fg="yellow")
    raise typer.Exit(SOME_FAILED if failed else DONE)


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
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a µ, or a name that is no text, is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def _names(text: str | None) -> tuple[str, ...] | None:
    """Return the parts of a list separated by commas; None if there is no list.

    A name that holds a comma stands in double quotes.
    """
    if text is None:
        return None
    parts = next(csv.reader([text], skipinitialspace=True), [])
    return tuple(name.strip() for name in parts if name.strip())


def _finish_dry_run(outcomes: list[Any]) -> NoReturn:
    """Print what would run, and leave."""
    estimates = [outcome for outcome in outcomes if not isinstance(outcome, wsiseg.Failed)]
    print_table(estimate_rows(estimates))
    for estimate in estimates:
        for message in estimate.warnings:
            typer.secho(f"warning: {estimate.slide}: {message}", fg="yellow", err=True)
    _leave(outcomes)


def _finish(outcomes: list[Any]) -> NoReturn:
    """Print the table of slides and leave with the right exit code."""
    for outcome in outcomes:
        if isinstance(outcome, wsiseg.Done):
            print_table(summary_rows(outcome.result))
            _tell_where(outcome.result)
    _leave(outcomes)


def _leave(outcomes: list[Any]) -> NoReturn:
    """Say which slides failed and why, and leave with the right exit code."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, wsiseg.Failed)]
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
