"""Whether the seams between tiles show: sampled squares again, on a moved grid.

A nucleus should not depend on where tiles begin.  The network's receptive field may reach
beyond the margin, though, and `stitch` chooses between two tiles' versions; so it is measured.

1. Squares are chosen in tissue by a seed, half of them in the middle of seams.
2. The nuclei of the grid that is checked are taken from a finished run, or run anew; those of
   each moved grid are run.  A region's run gives the nuclei of the whole slide's run, so only
   tiles around the squares run, once for each grid.
3. Nuclei with a centroid in a square are counted; their partners may lie a little outside, so
   that a square's own edge makes no difference.
4. Nuclei are matched by their pixels.  One is near a seam if its centroid is closer than
   `near_px` to a line where two cores of either grid meet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsiseg.api import ComputeOptions, Planned, plan_slide, tile_runner
from wsiseg.errors import OutputExists, OutputNotWritable, UsageError
from wsiseg.geometry import Box
from wsiseg.model_choice import NEAREST_MODEL
from wsiseg.models import MapsModel
from wsiseg.pipeline import Progress
from wsiseg.plan import PlanOptions, RunPlan
from wsiseg.results import Result, open_result
from wsiseg.rundir import write_atomically, write_json
from wsiseg.runners import TileRunner
from wsiseg.scale import ScaleOptions
from wsiseg.seam_check._cells import plan_of_squares, run_tiles_of, stored_masks, within_squares
from wsiseg.seam_check._compare import AROUND_PX, Comparison, compare_grids
from wsiseg.seam_check._matching import Masks
from wsiseg.seam_check._report import DifferenceKind, SeamCounts, SeamDifference, SeamReport
from wsiseg.seam_check._run import is_run, plan_of_run
from wsiseg.seam_check._squares import choose_squares
from wsiseg.seam_check._views import drawn_differences
from wsiseg.slides import Slide

__all__ = ["SeamCheckOptions", "SeamCounts", "SeamDifference", "SeamReport", "seamcheck"]

_STEP_PX = 32
"""Grids are moved by multiples of this: networks may treat other positions differently."""
_MOST_LISTED = 200
_KINDS: tuple[DifferenceKind, ...] = ("lost", "new", "doubled", "changed", "no tile")


@dataclass(frozen=True, slots=True)
class SeamCheckOptions:
    """How large the sample is, and how it is chosen."""

    squares: int | str = 8
    """Squares to look at, at most; `all`: the whole slide."""
    side_px: int | None = None
    """Their side, model pixels; None: that of a tile's core."""
    grids: int = 2
    """Moved grids to compare with; their offsets are chosen by the seed."""
    offsets_px: tuple[int, ...] | None = None
    """Offsets of the moved grids instead, model pixels: multiples of 32 below a core's side."""
    near_px: int = 64
    """Nuclei with a centroid closer than this to a seam of either grid are near it."""
    seed: int = 0
    """Equal seeds choose equal squares and grids."""

    def __post_init__(self) -> None:
        # What is typed at the command line is text.
        if isinstance(self.squares, str) and self.squares.isdecimal():
            object.__setattr__(self, "squares", int(self.squares))
        if self.squares != "all" and not (isinstance(self.squares, int) and self.squares >= 1):
            raise UsageError(f"squares is {self.squares!r}; 1 or more, or all, is needed")
        if self.side_px is not None and self.side_px < 2 * AROUND_PX:
            raise UsageError(
                f"a square's side is {self.side_px} px; {2 * AROUND_PX} or more are needed"
            )
        if self.grids < 1:
            raise UsageError(f"{self.grids} moved grids; 1 or more are needed")
        if self.near_px < 1:
            raise UsageError(f"near_px is {self.near_px}; 1 or more is needed")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; 0 or more is needed")


def seamcheck(
    slide_or_run: str | Path | Slide | Result,
    *,
    slide: str | Path | Slide | None = None,
    model: str | Path | MapsModel = NEAREST_MODEL,
    scale: ScaleOptions | float | None = None,
    options: PlanOptions = PlanOptions(),
    check: SeamCheckOptions = SeamCheckOptions(),
    compute: ComputeOptions = ComputeOptions(),
    json: str | Path | None = None,
    picture: str | Path | None = None,
    progress: Progress | None = None,
    planned: Planned | None = None,
) -> SeamReport:
    """Measure what moving the tile grid changes, near seams and elsewhere.

    Parameters
    ----------
    slide_or_run : str, Path, Slide or Result
        A slide, or a finished run (`*.wsiseg`) of one.
    slide : str, Path or Slide, optional
        The slide of a run; a run does not say where it lies.
    model, scale, options, compute
        As for `segment`.  Of a run, model, scale, options, device, precision, batch size and tta
        are the run's own; a model that is not shipped must be named again.
    check : SeamCheckOptions
        How large the sample is.
    json : str or Path, optional
        File to write the report to; must not exist.
    picture : str or Path, optional
        PNG file to draw the nuclei that differ in; must not exist.
    progress : callable, optional
        Called with (stage, done, total).
    planned : callable, optional
        Called with the plan of the first grid that is run.

    Returns
    -------
    SeamReport
        Counts near seams and elsewhere, and whether the aims are met.

    Raises
    ------
    UsageError
        If the slide is not the run's, what a run settles is given anew, or there is no tissue
        to look at.
    ResultNotReadable
        If the run is not finished, or of a version with other cells.
    OutputExists
        If a file to write is there already.

    Examples
    --------
    >>> import wsiseg
    >>> report = wsiseg.seamcheck("a.svs")  # doctest: +SKIP
    >>> report.near.share.value, report.matched_verdict  # doctest: +SKIP
    (0.9998, 'met')
    """
    if compute.cluster is not None:
        raise UsageError(
            f"cluster {compute.cluster!r}: a seamcheck runs on this machine alone, where its "
            "temporary files are; use workers"
        )
    for path in (json, picture):
        _refuse_in_the_way(path)
    with _planned(slide_or_run, slide, model, scale, options, compute) as (plan, result):
        squares = _squares(plan, check)
        offsets_px = _offsets(plan, check)
        grids = [
            plan_of_squares(plan, squares, AROUND_PX, offset_px)
            for offset_px in (plan.options.grid_offset_px, *offsets_px)
        ]
        if planned is not None:
            planned(grids[0] if result is None else grids[1])
        with tile_runner(compute, None, plan.numerics) as run_tiles:
            found = _find_nuclei(grids, squares, result, run_tiles, progress or _say_nothing)
        compared = [
            compare_grids(grids[0], moved, squares, found[0], nuclei, plan, check.near_px)
            for moved, nuclei in zip(grids[1:], found[1:], strict=True)
        ]
        report = _report(grids[0], result, squares, compared, check)
        if json is not None:
            write_json(Path(json), report.to_json())
        if picture is not None:
            write_atomically(Path(picture), drawn_differences(report, grids, found))
    return report


def _refuse_in_the_way(path: str | Path | None) -> None:
    if path is not None and os.path.lexists(path):
        raise OutputExists(f"{path} exists; give another file or remove it first")
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise OutputNotWritable(f"{Path(path).parent} is not a folder; make it first")


def _say_nothing(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


@contextmanager
def _planned(
    slide_or_run: str | Path | Slide | Result,
    slide: str | Path | Slide | None,
    model: str | Path | MapsModel,
    scale: ScaleOptions | float | None,
    options: PlanOptions,
    compute: ComputeOptions,
) -> Iterator[tuple[RunPlan, Result | None]]:
    """Plan the grid that is checked; nothing is run."""
    if isinstance(slide_or_run, str | Path) and is_run(Path(slide_or_run)):
        slide_or_run = open_result(slide_or_run)
    if isinstance(slide_or_run, Result):
        if scale not in (None, ScaleOptions()) or options != PlanOptions():
            raise UsageError(
                f"{slide_or_run.path.name}: µm per pixel, tissue and regions are the run's own; "
                "leave them out, or check the slide itself"
            )
        with plan_of_run(slide_or_run, slide, model, compute) as plan:
            yield plan, slide_or_run
    else:
        if slide is not None:
            raise UsageError("--slide names the slide of a run, but no run was given; leave it out")
        with plan_slide(slide_or_run, model, scale, options, compute) as plan:
            yield plan, None


def _squares(plan: RunPlan, check: SeamCheckOptions) -> tuple[Box, ...]:
    name = plan.slide.info.name
    if not plan.counted.inside.any():
        where = "the regions" if plan.regions else "it"
        raise UsageError(
            f"{name}: no tissue was found in {where}, so there is no seam to look at; "
            "--tissue none takes everything for tissue"
        )
    if isinstance(check.squares, str):
        return (plan.frame.box,)
    side_px = check.side_px or plan.model.card.core_px
    tiles = [tile for tile, _ in plan.tiles]
    return choose_squares(plan.counted, plan.frame, tiles, check.squares, side_px, check.seed)


def _offsets(plan: RunPlan, check: SeamCheckOptions) -> tuple[int, ...]:
    """Return the offsets of the moved grids."""
    core_px, own_px = plan.model.card.core_px, plan.options.grid_offset_px
    possible = [offset for offset in range(0, core_px, _STEP_PX) if offset != own_px]
    if check.offsets_px is not None:
        wrong = [offset for offset in check.offsets_px if offset not in possible]
        if wrong or not check.offsets_px:
            raise UsageError(
                f"offsets_px is {check.offsets_px}; multiples of {_STEP_PX} from 0 to below "
                f"{core_px}, other than the checked grid's own {own_px}, are needed"
            )
        return check.offsets_px
    if check.grids > len(possible):
        raise UsageError(
            f"{check.grids} moved grids; tiles of {core_px} px allow {len(possible)} at most"
        )
    chosen = np.random.default_rng([check.seed, 1]).permutation(possible)[: check.grids]
    return tuple(int(offset) for offset in chosen)


def _find_nuclei(
    grids: Sequence[RunPlan],
    squares: Sequence[Box],
    result: Result | None,
    run_tiles: TileRunner,
    tell: Progress,
) -> list[Masks]:
    """Return the nuclei in and around the squares, for each grid."""
    found = []
    for number, grid in enumerate(grids):
        if number == 0 and result is not None:
            found.append(stored_masks(result, squares, AROUND_PX))
        else:
            stage = f"grid {grid.options.grid_offset_px}"
            masks = run_tiles_of(grid, run_tiles, tell, stage)
            found.append(within_squares(masks, squares, AROUND_PX))
    return found


def _worst_first(one: SeamDifference) -> tuple[bool, bool, int, float]:
    return one.kind == "no tile", not one.near, _KINDS.index(one.kind), one.iou


def _report(
    first: RunPlan,
    result: Result | None,
    squares: tuple[Box, ...],
    compared: Sequence[Comparison],
    check: SeamCheckOptions,
) -> SeamReport:
    card = first.model.card
    differences = [one for each in compared for one in each.differences]
    differences.sort(key=_worst_first)
    return SeamReport(
        slide=first.slide.info.name,
        run=None if result is None else result.path.name,
        model=card.name,
        model_sha256=card.sha256,
        core_px=card.core_px,
        margin_px=card.margin_px,
        grid_offset_px=first.options.grid_offset_px,
        near_px=check.near_px,
        squares=squares,
        seed=check.seed,
        analysed_mm2=first.analysed_mm2,
        grids=tuple(each.counts for each in compared),
        n_not_compared=sum(each.n_left_out for each in compared),
        differences=tuple(differences[:_MOST_LISTED]),
    )
