"""`wsiseg train`: from annotated images to a model."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsiseg
from wsiseg.cli._exit import errors_to_exit_codes
from wsiseg.cli._options import Quiet, names_in
from wsiseg.cli.terminal import print_table
from wsiseg.errors import Interrupted, UsageError
from wsiseg.signals import noted_signals, work_begins

if TYPE_CHECKING:
    from wsiseg.training.plan import TrainingPlan
    from wsiseg.training.watch import TrainingProgress

_SECONDS_BETWEEN_LINES = 10.0
_MOST_PATIENTS = 12


def train(
    data: Annotated[
        list[Path],
        typer.Argument(help="Annotated images: folders, files, or TOML files that describe sets."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for checkpoint, logs, pictures, model/.")
    ],
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; else from the number of nuclei.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="About how long to train; the first steps are timed.")
    ] = None,
    validation: Annotated[
        str,
        typer.Option(help="Share of each set's patients to hold back, or their names, by commas."),
    ] = "0.2",
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Go on from a shipped model, or a folder of yours; chance: random weights.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where this training stopped.")
    ] = False,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of images whose files do not say.")
    ] = None,
    model_mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of the model; else the images'.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Common list of classes, in this order, by commas.")
    ] = None,
    licence: Annotated[
        str, typer.Option(help="Licence of the images, where a TOML file does not say.")
    ] = "",
    patient: Annotated[
        str, typer.Option(help="Regular expression that finds the patient in an image's name.")
    ] = "",
    weights: Annotated[
        str | None, typer.Option(help="Share of the crops from each set, by commas.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; else the folder's.")] = None,
    seed: Annotated[
        int, typer.Option(help="Chooses who is held back, first weights and crops.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; else what is fast here.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Crops per step; else 8 on a CPU, 16 on a GPU.")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(help="Side of crops in px; else 256, or less if images are small.")
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="timm encoder of a new network.")
    ] = "tf_efficientnet_lite0",
    quiet: Quiet = False,
) -> None:
    """Train a model on annotated images, held to patients it does not see."""
    with errors_to_exit_codes():
        learn = wsiseg.train
        options = wsiseg.TrainRunOptions(
            steps=steps,
            minutes=minutes,
            validation=_share_or_names(validation),
            model_mpp=model_mpp,
            seed=seed,
            start=start,
            encoder=encoder,
            weights=_numbers(weights),
            batch_size=batch_size,
            crop_px=crop,
            device=device,
            precision=precision,
            name=name,
        )
        labels = wsiseg.LabelOptions(
            mpp=mpp, classes=names_in(classes) or (), patient=patient, licence=licence
        )
        work_begins()
        with noted_signals() as stop, _shown(quiet) as progress:
            try:
                trained = learn(
                    data,
                    out,
                    options,
                    labels,
                    resume=resume,
                    planned=lambda plan: _tell_plan(plan, quiet),
                    progress=progress,
                    stop=stop,
                )
            except Interrupted as error:
                raise Interrupted(f"{error}:\n{_command_to_go_on()}") from None
    print_table(
        [each.to_json() for each in trained.scores]
        + [{"set": "(mean)", "image": ""} | trained.mean_scores]
    )
    if trained.scores_before:
        typer.echo(f"mean PQ there before this training: {trained.mean_scores_before['pq']:.4f}")
    for name, recall in trained.classes.recalls.items():
        typer.echo(f"called right, of {name} nuclei that were found: {100 * recall:.0f} %")
    for warning in trained.warnings:
        typer.secho(f"warning: {warning}", fg="yellow", err=True)
    typer.echo(f"pictures: {out / 'curves.png'}, {out / 'validation.png'}")
    typer.echo(f"model:    {trained.folder} ({trained.card.licence}: {trained.card.licence_note})")
    typer.echo(f"use it:   wsiseg segment SLIDE -o OUT --model {shlex.quote(str(trained.folder))}")


def _share_or_names(text: str) -> float | tuple[str, ...]:
    try:
        share = float(text)
    except ValueError:
        return names_in(text) or ()
    # Patients are often called by a number.
    return (text.strip(),) if share >= 1 and text.strip().isdigit() else share


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in names_in(text) or ())
    except ValueError as error:
        raise UsageError(
            f"--weights {text}; numbers separated by commas are needed, one for each set"
        ) from error


def _command_to_go_on() -> str:
    given = [each for each in sys.argv[1:] if each != "--resume"]
    return shlex.join(["wsiseg", *given, "--resume"])


def _tell_plan(plan: TrainingPlan, quiet: bool) -> None:
    """Say what is about to be trained, and on what it will be judged."""
    if not quiet:
        n_learned, n_held = (
            sum(len(each.images) for each in side)
            for side in (plan.split.train, plan.split.validation)
        )
        held = list(plan.split.held_back)
        more = f" and {len(held) - _MOST_PATIENTS} more" if len(held) > _MOST_PATIENTS else ""
        classes = ", ".join(plan.class_names) or "none"
        fit = plan.fit
        for line in (
            f"learning from {n_learned} images of {len(plan.split.train)} sets at {plan.mpp:g} "
            f"µm/px; classes: {classes}",
            f"judging by {n_held} images of {len(held)} patients held back: "
            f"{', '.join(held[:_MOST_PATIENTS])}{more}",
            f"{fit.steps} steps of {fit.batch_size} crops of {fit.augment.crop_px} px on "
            f"{fit.device} in {fit.precision}; weights begin with {plan.start.origin}",
        ):
            typer.secho(line, dim=True, err=True)
    for note in plan.notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)


@contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show a bar on a terminal, plain lines elsewhere, nothing if quiet."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Callable[[TrainingProgress], None]]:
    from rich.console import Console  # slow to import, not needed for --help
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns: tuple[Any, ...] = (
        TextColumn("step"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("step", total=None, said="")

        def tell(now: TrainingProgress) -> None:
            bars.update(task, completed=now.record.step, total=now.steps, said=_said(now))

        yield tell


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        self._last = -_SECONDS_BETWEEN_LINES

    def __call__(self, now: TrainingProgress) -> None:
        """Tell how far it is, unless that was just told."""
        moment = time.monotonic()
        if now.record.step == now.steps or moment - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = moment
            typer.echo(f"step {now.record.step} of {now.steps}: {_said(now)}", err=True)


def _said(now: TrainingProgress) -> str:
    record = now.record
    said = f"loss {record.loss:.3f}, {record.images_per_s:.1f} crops/s, {_duration(now)} to go"
    return said if now.scores is None else f"{said}, PQ {now.scores['pq']:.3f}"


def _duration(now: TrainingProgress) -> str:
    seconds = round(now.seconds_to_go)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}"
