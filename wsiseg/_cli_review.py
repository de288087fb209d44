"""The commands `wsiseg review make` and `wsiseg review read`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsiseg
from wsiseg._cli_exit import errors_to_exit_codes
from wsiseg.terminal import print_table, write_report

if TYPE_CHECKING:
    from wsiseg.evaluation.sampling import Estimate
    from wsiseg.review import Agreement, Review

review = typer.Typer(help="Have a person review a sample of a run in QuPath.", no_args_is_help=True)

_RunArgument = Annotated[Path, typer.Argument(help="A run (*.wsiseg).")]
_ToOption = Annotated[
    Path | None, typer.Option("--to", help="Folder for the review's files; else in the run.")
]


@review.command()
def make(
    run: _RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="GeoJSON for QuPath (.geojson[.gz]).")],
    n: Annotated[int, typer.Option("-n", help="Squares.")] = 20,
    side_um: Annotated[float, typer.Option(help="Their side in µm.")] = 100.0,
    seed: Annotated[int, typer.Option(help="Chooses the squares.")] = 0,
    share_uncertain: Annotated[
        float, typer.Option(help="Share of squares that are the least certain ones.")
    ] = 0.25,
    name: Annotated[str, typer.Option(help="Of the review.")] = "review",
    to: _ToOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another review of that name.")
    ] = False,
) -> None:
    """Draw squares of a run for QuPath: random ones, and the least certain."""
    with errors_to_exit_codes():
        options = wsiseg.ReviewOptions(n, side_um, seed, share_uncertain)
        sample = wsiseg.make_review(run, out, options, name=name, to=to, overwrite=overwrite)
    n_random = sum(square.kind == "random" for square in sample.squares)
    cells = sum(len(square.cell_uuids) for square in sample.squares)
    typer.echo(
        f"{sample.slide}: {len(sample.squares)} squares with {cells} nuclei in {out}: {n_random} "
        f"of {sample.n_population} by chance, {len(sample.squares) - n_random} least certain ones"
    )
    typer.echo("Drag it onto the slide in QuPath, edit the nuclei, export all objects, then:")
    typer.echo(f"wsiseg review read {run} EDITED.geojson")


@review.command()
def read(
    run: _RunArgument,
    edited: Annotated[Path, typer.Argument(help="GeoJSON that QuPath exported.")],
    name: Annotated[str | None, typer.Option(help="Of the review; else found.")] = None,
    to: _ToOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was read from another file.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write all of it to this file; -: print it instead.")
    ] = None,
) -> None:
    """Say what a reviewer changed, how far they agree, and the corrected counts."""
    with errors_to_exit_codes():
        found = wsiseg.read_review(run, edited, name=name, to=to, overwrite=overwrite)
        if json is not None:
            write_report(found.to_json(), json)
        if json is None or str(json) != "-":
            _print(found)


def _print(found: Review) -> None:
    kinds = ("random", "uncertain")
    rows = [{"squares": kind, "reviewed": found.agreement[kind].n_squares} for kind in kinds]
    print_table([row | dict(found.edits[str(row["squares"])]) for row in rows])
    for kind in kinds:
        if found.agreement[kind].n_squares:
            _print_agreement(found.agreement[kind], kind)
    typer.echo("\nThe whole analysed area, corrected by the random squares (95 % interval):")
    print_table(
        [
            {
                "class": count.class_name,
                "n": count.n,
                "corrected": _text(count.corrected_n, 0),
                "per mm²": count.per_mm2,
                "corrected per mm²": _text(count.corrected_per_mm2, 1),
            }
            for count in found.counts
        ]
    )
    for note in found.notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)
    typer.echo(f"results:  {found.path}")


_SHOWN = (
    ("PQ", "pq"),
    ("DQ (F1 of detection)", "dq"),
    ("SQ (IoU of matched)", "sq"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("matched in the same class", "same_class"),
    ("HD95 of matched, µm", "hd95_um"),
    ("outline distance of matched, µm", "boundary_distance_um"),
    ("HD95 of redrawn, µm", "redrawn_hd95_um"),
)


def _print_agreement(found: Agreement, kind: str) -> None:
    of = "all analysed tissue" if kind == "random" else "these squares alone"
    typer.echo(f"\nAgreement in {kind} squares; speaks for {of} (95 % interval):")
    rows: list[dict[str, Any]] = [
        {"what": what, "value": _text(getattr(found, name), 3)} for what, name in _SHOWN
    ]
    for one in found.classes:
        rows.append({"what": f"{one.class_name}: precision", "value": _text(one.precision, 3)})
        rows.append({"what": f"{one.class_name}: recall", "value": _text(one.recall, 3)})
    print_table(rows)
    typer.echo("\nNuclei by the run's class (rows) and the reviewer's (columns):")
    columns = (*found.labels, "(deleted)")
    print_table(
        [
            {"": row, **dict(zip(columns, counts, strict=True))}
            for row, counts in zip((*found.labels, "(added)"), found.confusion, strict=True)
        ]
    )


def _text(estimate: Estimate, decimals: int) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:,.{decimals}f}"
    low, high = f"{estimate.low:,.{decimals}f}", f"{estimate.high:,.{decimals}f}"
    return f"{estimate.value:,.{decimals}f} ({low} to {high})"
