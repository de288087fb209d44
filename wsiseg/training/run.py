"""From annotated images to a model: read, hold back, train, choose constants, judge, publish."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from wsiseg.errors import TrainingFailed
from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.rundir import refuse_unwritable
from wsiseg.training.finish import TrainedModel, finish_training
from wsiseg.training.fit import TrainOptions, fit
from wsiseg.training.options import TrainRunOptions
from wsiseg.training.plan import TrainingPlan, plan_training, with_steps
from wsiseg.training.record import begun_training, check_same_training, write_record
from wsiseg.training.watch import TrainingProgress, Watch, stop_if_asked

_TRIAL_STEPS = 6
_UNTIMED_STEPS = 2
_SHARE_OF_STEPS = 0.9
"""Of the minutes; validation, search and pictures take the rest."""
_MEMORY_SAYS = ("out of memory", "not enough memory", "can't allocate memory")


def train(
    data: Sequence[str | Path],
    out: str | Path,
    options: TrainRunOptions = TrainRunOptions(),
    labels: LabelOptions = LabelOptions(),
    *,
    resume: bool = False,
    planned: Callable[[TrainingPlan], None] = lambda _: None,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainedModel:
    """Train a model on annotated images.

    Parameters
    ----------
    data : sequence of path
        Folders or files of annotated images, or TOML files that describe sets of them.
    out : path
        Folder for checkpoint, logs and pictures; the model goes to `out/model`.
    options : TrainRunOptions
        What the user says; all else comes from the images.
    labels : LabelOptions
        What the files of the images do not say.
    resume : bool
        Go on with what is in `out`, or begin if nothing is.  On the same number of a CPU's threads
        the weights are those of a training that was never stopped.
    planned : callable
        Called once before the first step.
    progress : callable
        Called after each step or some.
    stop : callable
        Asked after each step or some; once it says True a checkpoint is left and `Interrupted`
        raised.

    Returns
    -------
    TrainedModel
        At `out/model`, usable by `segment(model=...)`.

    Raises
    ------
    UsageError
        If images, patients or options do not allow it; also `LabelsNotReadable`.
    OutputExists
        If `out` holds another training, or this one and `resume` is False.
    OutputNotWritable
        If the disk is full; the last checkpoint stays.
    TrainingFailed
        If the loss is no number, or memory does not suffice; the last checkpoint stays.
    Interrupted
        If `stop` said so.
    """
    out = Path(out)
    refuse_unwritable(out)
    read = read_label_sets([Path(path) for path in data], labels)
    stop_if_asked(stop, "reading images")
    plan = _settle(plan_training(read, options), options, out, resume)
    planned(plan)
    with _torch_threads(plan.threads):
        watch = Watch(out, plan, progress, stop)
        with _memory_explained(_smaller_steps(plan.fit)):
            network = fit(
                copy.deepcopy(plan.start.network),
                plan.split.train,
                plan.fit,
                out,
                on_step=watch,
            )
        watch.draw()
        with _memory_explained(_smaller_images(plan)):
            return finish_training(plan, network, out, options.name or out.absolute().name, stop)


def _settle(plan: TrainingPlan, options: TrainRunOptions, out: Path, resume: bool) -> TrainingPlan:
    """Return the plan as the record in the folder has it, or write one."""
    identity = plan.identity(options)
    record = begun_training(out)
    if record is not None:
        check_same_training(record["identity"], identity, out.name, resume)
        settled = record["settled"]
    else:
        if options.minutes is not None:
            plan = replace(plan, fit=with_steps(plan.fit, _steps_in(plan, options.minutes)))
        settled = plan.settled()
        out.mkdir(parents=True, exist_ok=True)
        write_record(out, identity, settled)
    fit_options = replace(
        with_steps(plan.fit, settled["steps"]),
        batch_size=settled["batch_size"],
        precision=settled["precision"],
    )
    return replace(plan, fit=fit_options, threads=settled["threads"])


def _steps_in(plan: TrainingPlan, minutes: float) -> int:
    """Return how many steps fit into some minutes, from the time that a few take."""
    seconds: list[float] = []
    trial = replace(with_steps(plan.fit, _TRIAL_STEPS), record_steps=1, checkpoint_steps=10**9)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            copy.deepcopy(plan.start.network),
            plan.split.train,
            trial,
            Path(folder),
            on_step=lambda record: seconds.append(record.seconds),
        )
    took = float(np.median(np.diff(seconds)[_UNTIMED_STEPS - 1 :]))
    return max(1, int(_SHARE_OF_STEPS * 60 * minutes / took))


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    """Compute with that many threads: their number is in the last bits of the weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_explained(said: str) -> Iterator[None]:
    """Turn torch's word for too little memory into what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(word in text for word in _MEMORY_SAYS):
            raise
        raise TrainingFailed(said) from error


def _smaller_steps(options: TrainOptions) -> str:
    return (
        f"{options.batch_size} crops of {options.augment.crop_px} px a step need more memory than "
        f"{options.device} has; begin again in another folder with --batch-size "
        f"{max(1, options.batch_size // 2)}, or with smaller crops (--crop)"
    )


def _smaller_images(plan: TrainingPlan) -> str:
    image = max((each for _, each in plan.split.held_back_images), key=lambda one: one.rgb.size)
    height_px, width_px = image.instances.shape
    return (
        "all steps are done and kept, but judging the images held back, which are looked at whole "
        f"(the largest, {image.name}, has {width_px:,} × {height_px:,} px), needs more memory than "
        f"{plan.fit.device} has; --resume goes on from here where there is more, or cut such "
        "images into smaller ones and begin again in another folder"
    )
