"""From annotated images to a model: read, hold back, train, choose constants, judge, publish."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsiseg.decode import DecodeOptions
from wsiseg.errors import TrainingFailed
from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.models import ModelCard, Numerics, load_model
from wsiseg.models.hovernet import HoverNet
from wsiseg.pictures import encode_png
from wsiseg.rundir import refuse_unwritable, write_atomically, write_json
from wsiseg.training.class_scores import ClassScores, score_classes
from wsiseg.training.decode_search import (
    JudgedMaps,
    constants_to_try,
    decode_labels,
    search_constants,
)
from wsiseg.training.describe import first_card, licence_of, metrics_of
from wsiseg.training.fit import TrainOptions, fit
from wsiseg.training.numbers import nucleus_areas_px
from wsiseg.training.options import TrainRunOptions
from wsiseg.training.pictures import Judged, draw_validation
from wsiseg.training.plan import TrainingPlan, plan_training, with_steps
from wsiseg.training.publish import publish_model
from wsiseg.training.record import begun_training, check_same_training, write_record
from wsiseg.training.validation import ImageScore, maps_of, mean_scores, score_image
from wsiseg.training.watch import TrainingProgress, Watch, stop_if_asked

_TRIAL_STEPS = 6
_UNTIMED_STEPS = 2
_SHARE_OF_STEPS = 0.9
"""Of the minutes; validation, search and pictures take the rest."""
_SHOWN = 3
"""So many of the worst images, and of the best, are drawn."""
_MEMORY_SAYS = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A model that is ready to segment, and how good it is on patients held back."""

    folder: Path
    """With `card.json`, `weights.safetensors`, `LICENSE.txt`; `segment` takes it as a model."""
    card: ModelCard
    """Its card."""
    scores: tuple[ImageScore, ...]
    """Of each image held back."""
    classes: ClassScores
    """How nuclei found in them are called."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before using the model."""
        if not self.classes.class_names or self.classes.is_above_chance:
            return ()
        n = int(self.classes.confusion.sum())
        return (
            f"the classes are no better than chance on {n} nuclei held back and found (balanced "
            f"accuracy {self.classes.balanced_accuracy:.2f}): do not use them; are the labels' "
            "classes right, and are there enough nuclei of each?",
        )

    @property
    def mean_scores(self) -> dict[str, float]:
        """Mean over images of each score."""
        return mean_scores(self.scores)


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
    with _torch_threads(plan.threads), _memory_explained(plan.fit):
        watch = Watch(out, plan, progress, stop)
        network = fit(
            copy.deepcopy(plan.start.network),
            plan.split.train,
            plan.fit,
            out,
            on_step=watch,
        )
        watch.draw()
        return _finish(plan, network, out, options.name or out.absolute().name, stop)


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
def _memory_explained(options: TrainOptions) -> Iterator[None]:
    """Turn torch's word for too little memory into what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(word in text for word in _MEMORY_SAYS):
            raise
        smaller = max(1, options.batch_size // 2)
        raise TrainingFailed(
            f"{options.batch_size} crops of {options.augment.crop_px} px a step need more memory "
            f"than {options.device} has; begin again in another folder with --batch-size "
            f"{smaller}, or with smaller crops (--crop)"
        ) from error


def _finish(
    plan: TrainingPlan, network: HoverNet, out: Path, name: str, stop: Callable[[], bool]
) -> TrainedModel:
    """Publish the network, choose the decoder's constants, judge and draw it."""
    folder = out / "model"
    licence, note = licence_of(plan)
    card = publish_model(network, first_card(plan, name), f"{licence}\n\n{note}\n", folder)
    held_back = plan.split.held_back_images

    def go_on() -> None:
        stop_if_asked(stop, "choosing the decoder's constants")

    # What is judged are the weights on disk, which are rounded.
    kind = torch.device(plan.fit.device).type
    predictor = load_model(folder).predictor(Numerics(device_kind=kind, threads=plan.threads))
    judged = maps_of(predictor, [image for _, image in held_back], go_on)
    values = constants_to_try(nucleus_areas_px(plan.split.train))
    constants = search_constants(judged, values, DecodeOptions(), go_on)
    found = [decode_labels(each.maps, constants.decode) for each in judged]
    scores = tuple(
        score_image(set_name, image, labels)
        for (set_name, image), labels in zip(held_back, found, strict=True)
    )
    classes = score_classes(
        [image for _, image in held_back],
        [each.maps for each in judged],
        constants.decode,
        plan.class_names,
    )
    metrics = metrics_of(scores, classes, constants, len(plan.split.held_back))
    about = card.about | {"metrics": metrics}
    card = replace(card, decode=constants.decode.to_json(), about=about)
    write_atomically(out / "validation.png", encode_png(_picture(plan, judged, found, scores)))
    write_json(folder / "card.json", card.to_json())
    return TrainedModel(folder, load_model(folder).card, scores, classes)


def _picture(
    plan: TrainingPlan,
    judged: Sequence[JudgedMaps],
    found: Sequence[Any],
    scores: Sequence[ImageScore],
) -> Any:
    """Return the worst and the best images, in this order."""
    order = sorted(range(len(scores)), key=lambda k: np.nan_to_num(scores[k].pq, nan=-1.0))
    shown = sorted({*order[:_SHOWN], *order[-_SHOWN:]}, key=order.index)
    images = plan.split.held_back_images
    return draw_validation(
        [
            Judged(_title(scores[k]), images[k][1].rgb, judged[k].truth, found[k], judged[k].maps)
            for k in shown
        ]
    )


def _title(score: ImageScore) -> str:
    return (
        f"{score.set} / {score.image}: PQ {score.pq:.3f} (DQ {score.dq:.3f}, SQ {score.sq:.3f}), "
        f"AJI {score.aji:.3f}, Dice {score.dice:.3f}; {score.found} found of {score.nuclei}"
    )
