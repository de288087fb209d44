"""One slide from start to finish: the only place where the stages are wired together."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from wsiseg._arrivals import Arrivals
from wsiseg._run_folder import (
    Attempt,
    begin,
    clear,
    delete,
    finish,
    give_up,
    is_finished,
    is_finished_meanwhile,
    logged_to,
    refuse_deleting_input,
    refuse_deleting_work,
)
from wsiseg.assemble import CellCounts, assemble_cells
from wsiseg.errors import OutputExists, WarningsRefused
from wsiseg.exporters import find_exporter
from wsiseg.exporters.formats import suffix_of
from wsiseg.features import tile_groups
from wsiseg.machine import PeakMemory, cores
from wsiseg.manifest import (
    cell_fields,
    left_out_fields,
    peak_of_processes,
    probe_warnings,
    stage_seconds,
    started_run,
    warnings_of_cells,
)
from wsiseg.plan import RunPlan
from wsiseg.predict import TileJob, TileReport
from wsiseg.records import Tile
from wsiseg.results import Result, open_result
from wsiseg.rundir import (
    RunDir,
    read_finished_report,
)
from wsiseg.runners import TileRunner
from wsiseg.side_files import (
    read_slide,
    write_pictures,
    write_readme,
    write_regions,
    write_summary,
    write_thumbnail,
    write_tiles,
    write_tissue,
)
from wsiseg.stopwatch import Stopwatch
from wsiseg.tiles import plan_tiles
from wsiseg.unfinished import without_folders

log = logging.getLogger("wsiseg")
_PROBE_TILES = 4
"""With `strict`, so many tiles are looked at before the others run."""
_FULL_SHARE = 0.5
"""They hold at least this share of the tissue that the fullest tile holds."""
_NOTES = frozenset({"regions"})
"""Codes of what is worth knowing, but speaks neither for nor against a slide."""
_MEASURERS = 4
"""Threads that measure nuclei, on enough cores; more are not needed to keep up with a GPU."""

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done, steps in all."""


def run_directory(out: Path, slide_name: str) -> RunDir:
    """Return where a slide's results go; a name cannot leave the folder."""
    return RunDir(out / f"{PurePath(slide_name).name}.wsiseg")


def segment_planned(
    plan: RunPlan,
    folder: RunDir,
    run_tiles: TileRunner,
    formats: Sequence[str] = ("geojson",),
    overwrite: bool = False,
    progress: Progress | None = None,
    strict: bool = False,
) -> Result:
    """Carry out a plan; continues where an earlier call stopped.

    Parameters
    ----------
    plan : RunPlan
        What to do.
    folder : RunDir
        Where to.
    run_tiles : TileRunner
        Where tiles run; never what is in them.
    formats : sequence of str
        Exports made at the end, into the run directory.
    overwrite : bool
        Delete an existing run first.
    progress : callable, optional
        Told about every step.
    strict : bool
        Take warnings for failures, the earlier the better.

    Raises
    ------
    WarningsRefused
        If there are warnings and `strict`; a finished run stays as it is.
    OutputExists
        If the directory holds another run, or something else.
    OutputNotWritable
        If it cannot be written.
    """
    tell = progress or _say_nothing
    for name in formats:
        find_exporter(name)
    done = refuse_as_a_run_would(plan, folder, overwrite, strict)
    if overwrite:
        delete(folder)
    elif done:
        return judged(finished(folder, formats), strict)
    try:
        result = _attempt(plan, folder, run_tiles, formats, tell, strict)
    except Exception:
        if not is_finished_meanwhile(folder, plan):
            raise
        # Another call with the same identity was faster and has cleared the tile files.
        result = finished(folder, formats)
    return judged(result, strict)


def finished(folder: RunDir, formats: Sequence[str]) -> Result:
    """Return a run that an earlier call has finished, or another one meanwhile."""
    # Left by a call that was stopped between its last two steps.
    clear(folder)
    return _with_exports(open_result(folder.path), formats)


def _attempt(
    plan: RunPlan,
    folder: RunDir,
    run_tiles: TileRunner,
    formats: Sequence[str],
    tell: Progress,
    strict: bool,
) -> Result:
    """Do all stages and note how far they came."""
    record = started_run(plan, _now())
    attempt = begin(folder, record)
    with logged_to(folder.path / "log.txt", log):
        try:
            if is_finished_meanwhile(folder, plan):
                return finished(folder, formats)
            return _run(plan, attempt, run_tiles, formats, tell, record, strict)
        except BaseException as error:
            if not is_finished_meanwhile(folder, plan):
                said = without_folders(str(error), folder.path.parent)
                log.error("stopped: %s: %s", type(error).__name__, said)
                give_up(attempt, record, error)
            raise


def refuse_warnings(name: str, warnings: Sequence[Mapping[str, str]], state: str) -> None:
    """Raise WarningsRefused if there are warnings; `state` says what there is of a run."""
    judged = [warning for warning in warnings if warning["code"] not in _NOTES]
    if judged:
        said = "; ".join(warning["message"] for warning in judged)
        raise WarningsRefused(f"{name}: {said} ({state}; leave --strict out to accept this)")


def refuse_as_a_run_would(plan: RunPlan, folder: RunDir, overwrite: bool, strict: bool) -> bool:
    """Raise what a run raises before it makes anything; return whether it is finished already.

    Raises
    ------
    OutputExists
        If the directory holds another run, or something else; or `overwrite` would delete what
        people made from the run.
    WarningsRefused
        If `strict` and there are warnings.
    UsageError
        If `overwrite` would delete what the plan was made from.
    """
    done = not overwrite and is_finished(folder, plan)
    if strict and not done:
        refuse_warnings(plan.slide.info.name, [*plan.warnings, *plan.first_look], "nothing was run")
    if strict and done:
        judged(open_result(folder.path), strict)
    if overwrite:
        refuse_deleting_input(folder, plan)
        refuse_deleting_work(folder)
    return done


def judged(result: Result, strict: bool) -> Result:
    """Return a finished run, unless it has warnings and that is a failure."""
    if strict:
        refuse_warnings(result.name, result.warnings, f"finished, results in {result.path.name}")
    return result


def _run(
    plan: RunPlan,
    attempt: Attempt,
    run_tiles: TileRunner,
    formats: Sequence[str],
    tell: Progress,
    record: Mapping[str, Any],
    strict: bool,
) -> Result:
    """Do all stages: tiles, and at the same time stitching to masks; then what needs all cells."""
    watch = Stopwatch()
    watch.add("plan", plan.seconds)
    folder = attempt.folder
    for warning in (*plan.warnings, *plan.first_look):
        log.warning("%s", warning["message"])
    log.info("%d of %d tiles to run", len(plan.tiles), plan.grid.n_rows * plan.grid.n_cols)
    with PeakMemory() as peak:
        reports, counts = _cells_and_masks(plan, folder, run_tiles, tell, watch, strict)
        log.info("%d cells", counts.n_cells)
        run = {**record, **cell_fields(counts), **left_out_fields(plan, record, reports)}
        result = Result(folder.path, run)
        for number, name in enumerate(formats):
            tell("exports", number, len(formats))
            with watch.stage("exports"):
                _export(result, name)
        tell("exports", len(formats), len(formats))
        with watch.stage("pictures"):
            _write_side_files(plan, folder, result, reports)
            warnings = warnings_of_cells(plan, result, counts, reports)
    run["warnings"] = [*plan.warnings, *warnings]
    run |= {"status": "done", "finished_utc": _now()}
    run["peak_memory_mb"] = peak_of_processes(peak, reports)
    run["seconds"] = stage_seconds(watch, reports)
    write_summary(folder.path / "summary.json", Result(folder.path, run))
    write_readme(folder.path / "README.txt", run)
    finish(attempt, run)
    log.info("done")
    return open_result(folder.path)


def _cells_and_masks(
    plan: RunPlan,
    folder: RunDir,
    run_tiles: TileRunner,
    tell: Progress,
    watch: Stopwatch,
    strict: bool,
) -> tuple[list[TileReport], CellCounts]:
    """Run the tiles; stitch, measure and paint in another thread what is there of them."""
    threads = min(_MEASURERS, cores())
    with (
        ThreadPoolExecutor(1, "wsiseg-cells") as other,
        Arrivals([tile for tile, _ in plan.tiles]) as arrivals,
    ):
        assembled = other.submit(
            assemble_cells, plan, folder, arrivals, watch, threads, arrivals.stopped
        )
        reports: list[TileReport] = []
        tell("tiles", 0, len(plan.tiles))
        with watch.stage("tiles"):
            for report in _tile_reports(plan, folder, run_tiles, strict):
                reports.append(report)
                arrivals.add(report["row"], report["col"])
                tell("tiles", len(reports), len(plan.tiles))
                if assembled.done() and len(reports) < len(plan.tiles):
                    # It ends before the last tile by an error alone, such as a full disk.
                    break
        tell("cells", 0, 1)
        with watch.stage("cells"):
            counts = assembled.result()
        tell("cells", 1, 1)
    return reports, counts


def _write_side_files(
    plan: RunPlan, folder: RunDir, result: Result, reports: Sequence[TileReport]
) -> None:
    write_tissue(folder.path / "tissue.geojson", plan, result.bounds_origin_px)
    write_tiles(folder.path / "tiles.parquet", plan, reports)
    if plan.regions:
        write_regions(folder.path / "regions.geojson", plan, result.bounds_origin_px)
    slide = read_slide(plan)
    write_thumbnail(folder.path / "thumbnail.png", plan, reports, slide)
    write_pictures(folder.path, plan, result, slide[0])


def tile_job(plan: RunPlan, folder: RunDir) -> TileJob:
    """Return what a worker needs to run the plan's tiles into a directory."""
    return TileJob(
        slide=plan.slide,
        model=plan.model,
        numerics=plan.numerics,
        frame=plan.frame,
        model_mpp=plan.model_mpp,
        decode=plan.decode,
        spare_px=plan.options.stitch.spare_px,
        run_key=plan.run_key,
        # A worker may have another working directory.
        folder=folder.path.absolute(),
        measure=tile_groups(plan.options.measure),
        skip_bad_tiles=plan.options.skip_bad_tiles,
    )


def _tile_reports(
    plan: RunPlan, folder: RunDir, run_tiles: TileRunner, strict: bool
) -> Iterator[TileReport]:
    """Run the tiles that have no valid file yet; yield the reports of all.

    Raises
    ------
    WarningsRefused
        If `strict` and the tiles looked at first give warnings.
    """
    probes = {(tile.row, tile.col) for tile in probe_tiles(plan)} if strict else set()
    probed, missing = [], []
    n_done = 0
    for tile, report in _done_before(plan, folder):
        if report is None:
            missing.append(tile)
            continue
        n_done += 1
        if (tile.row, tile.col) in probes:
            probed.append(report)
        yield report
    if n_done:
        log.info("%d tiles were done before", n_done)
    job = tile_job(plan, folder)
    first = [tile for tile in missing if (tile.row, tile.col) in probes]
    for report in run_tiles(job, first) if first else ():
        probed.append(report)
        yield report
    found = probe_warnings(plan, probed)
    refuse_warnings(plan.slide.info.name, found, f"{n_done + len(first)} tiles were run")
    others = [tile for tile in missing if (tile.row, tile.col) not in probes]
    yield from run_tiles(job, others) if others else ()


def _done_before(plan: RunPlan, folder: RunDir) -> Iterator[tuple[Tile, dict[str, Any] | None]]:
    """Yield each tile with the report an earlier call has left, None without a valid one."""

    def read(tile: Tile) -> dict[str, Any] | None:
        return read_finished_report(folder.tile_file(tile), plan.run_key)

    tiles = [tile for tile, _ in plan.tiles]
    with ThreadPoolExecutor(cores(), "wsiseg-check") as readers:
        yield from zip(tiles, readers.map(read, tiles), strict=True)


def probe_tiles(plan: RunPlan) -> list[Tile]:
    """Return a few tiles, spread over those that hold the most of what counts."""
    shares = plan_tiles(plan.grid, plan.counted)
    fullest = max((share for _, share in shares), default=0.0)
    full = [tile for tile, share in shares if share >= _FULL_SHARE * fullest]
    n = min(_PROBE_TILES, len(full))
    return [full[(2 * k + 1) * len(full) // (2 * n)] for k in range(n)]


def _export(result: Result, name: str) -> None:
    """Make one export inside the run directory, if it is not part of every run anyway."""
    path = _export_path(result, name)
    # One that is there appeared whole, and is of the same cells: of a call that was stopped, or
    # of one that is still at work.  Deleting it could leave a finished run without.
    if path is None or os.path.lexists(path):
        return
    with suppress(OutputExists):
        find_exporter(name)(result, path)


def _export_path(result: Result, name: str) -> Path | None:
    """Return where an export stands in the run directory; None: it is always made."""
    if name in ("ome-zarr", "geoparquet"):
        return None
    return result.path / f"cells{suffix_of(name)}"


def _with_exports(result: Result, formats: Sequence[str]) -> Result:
    """Add the exports a finished run lacks."""
    for name in formats:
        _export(result, name)
    return result


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say_nothing(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
