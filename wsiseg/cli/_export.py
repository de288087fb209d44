"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import wsiseg
from wsiseg.cli._exit import DONE, SOME_FAILED, errors_to_exit_codes
from wsiseg.cli._options import NAMES, ClassesFromOption, RunsArgument, names_in
from wsiseg.cli.terminal import print_table
from wsiseg.errors import ResultNotReadable, UsageError, WsisegError
from wsiseg.signals import work_begins


def _list_formats(wanted: bool) -> None:
    if wanted:
        print_table(wsiseg.list_formats())
        raise typer.Exit(DONE)


def export(
    runs: RunsArgument,
    format: Annotated[str, typer.Option("--format", help="One of --list.")],  # noqa: A002
    to: Annotated[str, typer.Option(help="File to write; DIR/ names it after the slide.")],
    classes: Annotated[str | None, typer.Option(help=f"Only these classes, {NAMES}")] = None,
    classes_from: ClassesFromOption = None,
    regions: Annotated[
        str | None, typer.Option(help=f"Only cells in these regions, {NAMES}")
    ] = None,
    bbox: Annotated[
        str | None, typer.Option(help="Only cells in xmin,ymin,xmax,ymax (px of the slide).")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="csv, geoparquet: these columns, separated by commas.")
    ] = None,
    split: Annotated[int | None, typer.Option(help="geojson: most nuclei in a file.")] = None,
    centroids: Annotated[
        bool, typer.Option("--centroids", help="geojson: points instead of polygons.")
    ] = False,
    ome_zarr: Annotated[
        str | None, typer.Option("--ome-zarr", help="ome-zarr: version 0.5 or 0.4.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="anndata: places in um or px.")] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="spatialdata: with the label image.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option(help="dicom-ann: file or folder of the DICOM slide.")
    ] = None,
    fhir: Annotated[str | None, typer.Option(help="fhir: release R5 or R4B.")] = None,
    list_formats: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--list", callback=_list_formats, is_eager=True, help="List the formats."),
    ] = False,
) -> None:
    """Write a run's cells in another format."""
    unread: list[WsisegError] = []
    with errors_to_exit_codes():
        given = {
            "classes": names_in(classes),
            "regions": names_in(regions),
            "bbox": _numbers(bbox),
            "columns": names_in(columns),
            "split": split,
            "centroids": centroids or None,
            "version": ome_zarr,
            "unit": unit,
            "labels": labels or None,
            "source": source,
            "release": fhir,
        }
        results = _opened(runs, classes_from, unread)
        export_runs = wsiseg.export_runs
        work_begins()
        chosen = {name: value for name, value in given.items() if value is not None}
        for path in export_runs(results, format, to, chosen):
            typer.echo(path)
    for reason in unread:
        typer.secho(f"not exported: {reason}", fg="red", err=True)
    if unread:
        raise typer.Exit(SOME_FAILED)


def _opened(runs: list[Path], classes_from: str | None, unread: list[WsisegError]) -> list[Any]:
    """Return the runs that can be read; the others' errors are added to `unread`."""
    results = []
    for run in wsiseg.find_results(runs):
        try:
            results.append(wsiseg.open_result(run, classes=classes_from))
        except ResultNotReadable as error:
            unread.append(error)
    if unread and not results:
        raise unread[0]
    return results


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"bbox is {text!r}; give four numbers: xmin,ymin,xmax,ymax") from error
