"""The command `wsiseg evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsiseg
from wsiseg.cli._exit import errors_to_exit_codes
from wsiseg.cli._options import DeviceOption, Quiet, names_in
from wsiseg.cli.terminal import print_table, show_progress
from wsiseg.errors import UsageError
from wsiseg.signals import work_begins

if TYPE_CHECKING:
    from wsiseg.evaluation.evaluation import Evaluation
    from wsiseg.evaluation.sampling import Estimate

_READERS = ("pq", "dq", "f1_centroid", "aji_plus", "dice")
_OF_CLASS = ("f1", "pq", "dq", "false_per_mm2", "count_error")
_OF_ORGAN = ("pq", "aji", "dice", "f1_centroid")


def evaluate(
    pred: Annotated[str, typer.Argument(help="Labels, runs (a run, folder, glob), or a model.")],
    truth: Annotated[Path, typer.Argument(help="Labels that count as right.")],
    second_reader: Annotated[
        Path | None, typer.Option(help="The same images, annotated by somebody else.")
    ] = None,
    perturb: Annotated[
        bool,
        typer.Option(
            "--perturb", help="Of a model: score it on blurred, compressed, … images too (slow)."
        ),
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json, .csv and .html.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of labels whose files do not say.")
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option(help="theirs=ours, …: what classes are; 'x=': unknown; 'x=-': ignored."),
    ] = None,
    radius_um: Annotated[float, typer.Option(help="Centroids this near are a pair.")] = 3.0,
    tolerance_um: Annotated[float, typer.Option(help="Of surface Dice.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    device: DeviceOption = "auto",
    quiet: Quiet = False,
) -> None:
    """Score nuclei, or a model, against annotated ones."""
    with errors_to_exit_codes(), show_progress(quiet) as progress:
        options = wsiseg.EvaluateOptions(
            mpp, classes_in(class_map), radius_um, tolerance_um, seed=seed, device=device
        )
        run = wsiseg.evaluate
        work_begins()
        found = run(
            pred,
            truth,
            options,
            second_reader=second_reader,
            perturb=wsiseg.PerturbOptions() if perturb else None,
            to=to,
            progress=progress,
        )
    _print(found)
    if to is not None:
        typer.echo(f"page:     {to / 'evaluation.html'}")


def classes_in(text: str | None) -> dict[str, str]:
    """Return the pairs of `theirs=ours`, separated by commas.

    Raises
    ------
    UsageError
        If a part has no `=`, or a name stands twice.
    """
    pairs: dict[str, str] = {}
    for part in names_in(text) or ():
        theirs, sign, ours = (each.strip() for each in part.partition("="))
        if not sign or not theirs:
            raise UsageError(
                f"--class-map has {part!r}; theirs=ours is needed, such as 1=Epithelial,2="
            )
        if theirs in pairs:
            raise UsageError(f"--class-map names {theirs!r} twice; once is needed")
        pairs[theirs] = ours
    return pairs


def _print(found: Evaluation) -> None:
    scores = found.scores
    typer.echo(
        f"{found.found} against {found.truth}: {len(scores.images)} images of "
        f"{scores.n_patients} patients (95 % intervals are over patients)"
    )
    print_table(
        [
            {
                "": score.figure.title,
                "pooled": _text(score.pooled),
                "mean over images": _text(score.macro),
                "unit": score.figure.unit,
                "over": score.n,
            }
            for score in scores.figures.values()
        ]
    )
    if scores.classes:
        typer.echo("\nClasses, pooled:")
        print_table(
            [{"class": name, **_some(of, _OF_CLASS)} for name, of in scores.classes.items()]
        )
    if scores.organs:
        typer.echo("\nOrgans, pooled:")
        print_table([{"organ": name, **_some(of, _OF_ORGAN)} for name, of in scores.organs.items()])
    if found.readers:
        typer.echo("\nModel and readers, pooled:")
        print_table(
            [
                {"": f"{one.second} – {one.first}", **_some(one.scores.figures, _READERS)}
                for one in found.readers.comparisons
            ]
            + [{"": "mean with readers minus theirs"} | _texts(found.readers.gap)]
        )
    if found.perturbation:
        typer.echo("\nOn changed images, pooled:")
        print_table(
            [
                {"change": p.kind, "strength": p.strength, "unit": p.unit, "PQ": _text(p.pq)}
                for p in found.perturbation
            ]
        )
    for note in found.notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)


def _some(scores: Any, names: tuple[str, ...]) -> dict[str, str]:
    return dict(_titled(scores, names))


def _texts(gap: Mapping[str, Estimate]) -> dict[str, str]:
    return {name: _text(gap[name]) for name in _READERS}


def _titled(scores: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        yield name, _text(scores[name].first)


def _text(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "–" if estimate is not None else ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:,.4g}"
    return f"{estimate.value:,.4g} ({estimate.low:,.4g} to {estimate.high:,.4g})"
