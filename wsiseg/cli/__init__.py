"""The command line: a command is one call of the public library."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import wsiseg
from wsiseg.cli._classify import classify
from wsiseg.cli._evaluate import evaluate
from wsiseg.cli._exit import (
    BUG,
    DONE,
    SOME_FAILED,
    Tally,
    errors_to_exit_codes,
    finish,
    finish_dry_run,
    tell_failed,
    tell_where,
)
from wsiseg.cli._export import export
from wsiseg.cli._models import models
from wsiseg.cli._options import (
    BatchOption,
    ClusterOption,
    DeviceOption,
    DryRun,
    ForceScale,
    FormatOption,
    FromObjective,
    LicenceOption,
    MeasureOption,
    MemoryOption,
    ModelOption,
    MppOption,
    OutOption,
    OverrideOption,
    Overwrite,
    PartOption,
    PrecisionOption,
    Quiet,
    ReaderOption,
    RoiOption,
    RoiOriginName,
    RoiOriginOption,
    SkipBadTiles,
    SlidesArgument,
    Strict,
    TissueOption,
    TtaOption,
    WorkersOption,
    names_in,
)
from wsiseg.cli._query import query, stats
from wsiseg.cli._report import cite, report
from wsiseg.cli._review import review
from wsiseg.cli._train import train
from wsiseg.cli.terminal import (
    PlanTeller,
    print_seams,
    print_status,
    print_table,
    show_progress,
    slide_facts,
    summary_rows,
    write_report,
)
from wsiseg.errors import WsisegError
from wsiseg.signals import INTERRUPTED, ended_by_signals, work_begins

app = typer.Typer(
    help="Every nucleus of a whole H&E slide, once and in the right place. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    memory_gb: MemoryOption = None,
    cluster: ClusterOption = None,
    tta: TtaOption = "none",
    require_licence: LicenceOption = None,
    format: FormatOption = "geojson",  # noqa: A002
    measure: MeasureOption = "all",
    skip_bad_tiles: SkipBadTiles = False,
    part: PartOption = None,
    strict: Strict = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Find every nucleus of each slide."""
    with errors_to_exit_codes():
        formats = names_in(format) or ()
        common: dict[str, Any] = {
            "model": model,
            "scale": wsiseg.ScaleOptions(mpp, override_mpp, mpp_from_objective, force_scale),
            "options": wsiseg.PlanOptions(
                tissue=tissue,
                roi=roi,
                roi_origin=roi_origin.value,
                measure=measure,
                skip_bad_tiles=skip_bad_tiles,
                require_licence=require_licence,
            ),
            "compute": wsiseg.ComputeOptions(
                device, precision, batch_size, workers, memory_gb, cluster, tta
            ),
            "formats": formats,
            "overwrite": overwrite,
            "strict": strict,
            "part": part,
        }
        entries = wsiseg.list_slides(slides, out)
        if dry_run:
            finish_dry_run(list(wsiseg.estimate_many(entries, out, **common)))
        segment_many = wsiseg.segment_many
        work_begins()
        tally = Tally(len(entries), quiet)
        said = PlanTeller(quiet or tally.is_long)
        try:
            with show_progress(quiet, len(entries)) as progress:
                for outcome in segment_many(
                    entries, out, progress=progress, planned=said, **common
                ):
                    result = tally.add(outcome)
                    if tally.is_batch and result is not None:
                        said.explain_model_of(result)
        except WsisegError:
            tell_failed(tally.failed)
            raise
    finish(tally, part)


def demo(
    out: OutOption = Path("demo"),
    slide: Annotated[Path | None, typer.Option(help="A local copy of the demo slide.")] = None,
    quiet: Quiet = False,
) -> None:
    """Segment a real slide with a free licence, and say where the picture is."""
    with errors_to_exit_codes(), show_progress(quiet) as progress:
        run_demo = wsiseg.run_demo
        work_begins()
        result = run_demo(out, slide, progress, PlanTeller(quiet))
    print_table(summary_rows(result))
    tell_where(result)
    typer.echo(f"page:     {result.path / 'report.html'}")


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
    memory_gb: MemoryOption = None,
    tta: TtaOption = "none",
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw what differs in this PNG.")] = None,
    quiet: Quiet = False,
) -> None:
    """Say whether seams between tiles show: run squares again on moved grids."""
    with errors_to_exit_codes(), show_progress(quiet) as progress:
        offsets = tuple(offset) if offset else None
        check_seams = wsiseg.seamcheck
        work_begins()
        report = check_seams(
            slide_or_run,
            slide=slide,
            model=model,
            scale=wsiseg.ScaleOptions(mpp, override_mpp, mpp_from_objective, force_scale),
            options=wsiseg.PlanOptions(tissue=tissue, roi=roi, roi_origin=roi_origin.value),
            check=wsiseg.SeamCheckOptions(squares, side, grids, offsets, near, seed),
            compute=wsiseg.ComputeOptions(
                device, precision, batch_size, workers, memory_gb, tta=tta
            ),
            json=json,
            picture=picture,
            progress=progress,
            planned=PlanTeller(quiet),
        )
    print_seams(report)
    raise typer.Exit(SOME_FAILED if report.has_missed else DONE)


def info(slide: Path, reader: ReaderOption = None) -> None:
    """Say what a slide is: size, levels, µm per pixel."""
    with errors_to_exit_codes(), wsiseg.open_slide(slide, reader) as opened:
        print_table(slide_facts(opened.info))


def status(
    out: Annotated[Path, typer.Argument(help="The folder that --out named.")],
    json: Annotated[
        Path | None, typer.Option(help="Write all of it to this file; -: print it instead.")
    ] = None,
) -> None:
    """Say how far a batch is: done, running, failed and why, left, time to go."""
    with errors_to_exit_codes():
        found = wsiseg.batch_status(out)
        if json is not None:
            write_report(found.to_json(), json)
        if json is None or str(json) != "-":
            print_status(found)
    raise typer.Exit(SOME_FAILED if found.failed else DONE)


def doctor(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where results would go.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to try; else the shipped one.")] = None,
) -> None:
    """Check that everything a run needs works here, and say what to do where not."""
    failed = False
    with errors_to_exit_codes():
        run_checks = wsiseg.run_checks
        work_begins()
        for check in run_checks(out, model):
            failed |= not check.ok
            typer.echo(f"{'ok   ' if check.ok else 'FAILS'}  {check.name}: {check.said}")
            if not check.ok:
                typer.secho(f"       {check.fix}", fg="yellow")
    raise typer.Exit(SOME_FAILED if failed else DONE)


_COMMANDS = {
    "Segment": (segment, status, demo),
    "Look and ask": (stats, query, report, cite),
    "Correct": (classify,),
    "Make a model": (train,),
    "Go on elsewhere": (export,),
    "Check": (doctor, info, models, seamcheck, evaluate),
}
"""In the order of `--help`."""
for _panel, _listed in _COMMANDS.items():
    for _command in _listed:
        app.command(rich_help_panel=_panel)(_command)
app.add_typer(review, name="review", rich_help_panel="Correct")


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a µ, or a name that is no text, is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with ended_by_signals() as came:
        try:
            app()
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else BUG
            if not came() or code in (DONE, INTERRUPTED):
                raise
            # Whatever an interruption becomes, outside of a command or deep in other packages.
            typer.secho("interrupted; call the same command again to continue", err=True)
            sys.exit(INTERRUPTED)
