"""What happens beside the steps of a training: logs, scores now and then, curves, the way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from wsiseg.errors import Interrupted
from wsiseg.models import Numerics
from wsiseg.pictures import encode_png
from wsiseg.rundir import write_atomically
from wsiseg.training.checkpoints import read_checkpoint
from wsiseg.training.fit import StepRecord
from wsiseg.training.log import STEP, append_row, read_log, resume_log
from wsiseg.training.pictures import draw_curves
from wsiseg.training.plan import TrainingPlan
from wsiseg.training.validation import SCORES, few_images, score_checkpoint

_LOOKED_AT = 4
"""Images held back that are looked at during a training."""
_LOG = (STEP, "loss", "nucleus", "hv", "classes", "learning_rate", "images_per_s", "seconds")
_VALIDATION = (STEP, *SCORES)


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far a training is."""

    record: StepRecord
    """Of the last step, or mean of the last few."""
    steps: int
    """Of the whole training."""
    seconds_to_go: float
    """If it goes on as since it began, or went on."""
    scores: dict[str, float] | None
    """Of the last look at images held back; None before the first."""


def stop_if_asked(stop: Callable[[], bool], where: str) -> None:
    """Raise Interrupted if a stop was asked for."""
    if stop():
        raise Interrupted(f"interrupted at {where}; all so far is kept: go on with --resume")


class Watch:
    """Called with the record of each step, or of some."""

    def __init__(
        self,
        out: Path,
        plan: TrainingPlan,
        progress: Callable[[TrainingProgress], None],
        stop: Callable[[], bool],
    ) -> None:
        self._out, self._plan = out, plan
        self._progress, self._stop = progress, stop
        self._images = few_images(plan.split.validation, _LOOKED_AT)
        self._scores: dict[str, float] | None = None
        done = self._steps_done()
        self._first_step = done
        resume_log(out / "log.csv", _LOG, done)
        resume_log(out / "validation.csv", _VALIDATION, done)
        self._judged = int(max(read_log(out / "validation.csv")[STEP], default=0))

    def __call__(self, record: StepRecord) -> None:
        """Log a step; look at images held back if there is a new checkpoint.

        Raises
        ------
        Interrupted
            If a stop was asked for; the loop then leaves a checkpoint.
        OutputNotWritable
            If the disk is full.
        """
        every = self._plan.fit.checkpoint_steps
        saved = (record.step - 1) // every * every
        if saved > self._judged:
            self._judge()
        append_row(self._out / "log.csv", asdict(record))
        per_step = record.seconds / max(1, record.step - self._first_step)
        steps = self._plan.fit.steps
        to_go = per_step * (steps - record.step)
        self._progress(TrainingProgress(record, steps, to_go, self._scores))
        stop_if_asked(self._stop, f"step {record.step} of {steps}")

    def draw(self) -> None:
        """Draw the curves anew."""
        log, validation = (read_log(self._out / f"{name}.csv") for name in ("log", "validation"))
        write_atomically(self._out / "curves.png", encode_png(draw_curves(log, validation)))

    def _steps_done(self) -> int:
        path = self._out / "checkpoint.pt"
        if not path.exists():
            return 0
        return int(read_checkpoint(path)["step"])

    def _judge(self) -> None:
        """Score the last checkpoint."""
        kind = torch.device(self._plan.fit.device).type
        # As many threads as in training, whose arithmetic must not change.
        numerics = Numerics(device_kind=kind, threads=torch.get_num_threads())
        step, scores = score_checkpoint(
            self._out / "checkpoint.pt", self._plan.start.network.spec, numerics, self._images
        )
        self._judged = step
        self._scores = scores
        append_row(self._out / "validation.csv", {STEP: step, **scores})
        self.draw()
