"""The commands `wsiseg review make` and `wsiseg review read`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsiseg
from wsiseg.cli._exit import errors_to_exit_codes
from wsiseg.cli._options import ClassesFromOption
from wsiseg.cli.terminal import print_table, write_report

if TYPE_CHECKING:
    from wsiseg.evaluation.sampling import Estimate
    from wsiseg.review import Agreement, Review, SquareKind

review = typer.Typer(help="Have a person review a sample of a run in QuPath.", no_args_is_help=True)

_FEW_CELLS = 200
"""Below that a sample says little."""
_RunArgument = Annotated[Path, typer.Argument(help="A run, or a folder or glob that leads to one.")]
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
    classes_from: ClassesFromOption = None,
    name: Annotated[str, typer.Option(help="Of the review.")] = "review",
    to: _ToOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another review of that name.")
    ] = False,
) -> None:
    """Draw squares of a run for QuPath: random ones, and the least certain."""
    with errors_to_exit_codes():
        options = wsiseg.ReviewOptions(n, side_um, seed, share_uncertain)
        sample = wsiseg.make_review(
            run, out, options, classes=classes_from, name=name, to=to, overwrite=overwrite
        )
    n_random = sum(square.kind == "random" for square in sample.squares)
    cells = sum(len(square.cell_uuids) for square in sample.squares)
    typer.echo(
        f"{sample.slide}: {len(sample.squares)} squares with {cells} nuclei in {out}: {n_random} "
        f"of {sample.n_population} by chance, {len(sample.squares) - n_random} least certain ones"
    )
    if cells < _FEW_CELLS:
        few = "few nuclei give wide intervals: draw more squares (-n), or larger ones (--side-um)"
        typer.secho(f"note: {few}", fg="yellow", err=True)
    typer.echo("Drag it onto the slide in QuPath, edit the nuclei, export all objects, then:")
    elsewhere = [] if to is None else ["--to", str(to)]
    typer.echo(shlex.join(["wsiseg", "review", "read", str(run), "EDITED.geojson", *elsewhere]))


@review.command()
def read(
    run: _RunArgument,
    edited: Annotated[Path, typer.Argument(help="GeoJSON that QuPath exported.")],
    name: Annotated[str | None, typer.Option(help="Of the review; else found.")] = None,
    to: _ToOption = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what was read before, and the files named here."),
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write all of it to this file; -: print it instead.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the squares with most changes in this PNG.")
    ] = None,
    slide: Annotated[Path | None, typer.Option(help="The run's slide, for the picture.")] = None,
) -> None:
    """Say what a reviewer changed, how far they agree, and the corrected counts."""
    with errors_to_exit_codes():
        found = wsiseg.read_review(
            run, edited, name=name, to=to, picture=picture, slide=slide, overwrite=overwrite
        )
        if str(json) == "-":
            write_report(found.to_json(), Path("-"))
            return
        if json is not None:
            found.write_json(json, overwrite=overwrite)
        _print(found)


def _print(found: Review) -> None:
    print_table(
        [
            {"squares": kind, "reviewed": one.n_squares, **found.edits[kind]}
            for kind, one in found.agreement.items()
        ]
    )
    shown = {kind: one for kind, one in found.agreement.items() if one.n_squares}
    typer.echo(
        "\nAgreement, the reviewer counting as right (95 % interval).  Random squares speak for "
        "the whole analysed area,\nthe least certain ones for themselves alone:"
    )
    print_table(_agreement_rows(shown))
    for kind, one in shown.items():
        typer.echo(f"\nNuclei in {kind} squares, by the run's class (rows) and the reviewer's:")
        columns = (*one.labels, "(deleted)")
        counted = zip((*one.labels, "(added)"), one.confusion, strict=True)
        print_table([{"": row, **dict(zip(columns, n, strict=True))} for row, n in counted])
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
    ("matched, in the same class", "same_class"),
    ("matched: HD95, µm", "hd95_um"),
    ("matched: outline distance, µm", "boundary_distance_um"),
    ("redrawn: HD95, µm", "redrawn_hd95_um"),
)
_OF_CLASS = ("precision", "recall", "f1")


def _agreement_rows(shown: Mapping[SquareKind, Agreement]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"": what} | {kind: _text(getattr(one, name), 3) for kind, one in shown.items()}
        for what, name in _SHOWN
    ]
    labels = next(iter(shown.values())).labels
    return rows + [
        {"": f"{label}: {name}"}
        | {kind: _text(getattr(one.classes[k], name), 3) for kind, one in shown.items()}
        for k, label in enumerate(labels)
        for name in _OF_CLASS
    ]


def _text(estimate: Estimate, decimals: int) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:,.{decimals}f}"
    low, high = f"{estimate.low:,.{decimals}f}", f"{estimate.high:,.{decimals}f}"
    return f"{estimate.value:,.{decimals}f} ({low} to {high})"
