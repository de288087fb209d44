"""Pages for people: one for each slide, one for all of them, and the words for a paper.

Everything comes from the runs; slides and models may be gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from wsiseg.errors import OutputNotWritable, ResultNotReadable
from wsiseg.reports._citing import Citation, cite
from wsiseg.reports._cohort_page import CohortSlide, Problem, cohort_page, cohort_slide
from wsiseg.reports._slide_page import slide_page
from wsiseg.results import Result, find_results, open_result
from wsiseg.rundir import write_atomically
from wsiseg.stats import names_apart
from wsiseg.status import batch_status
from wsiseg.unfinished import without_folders

__all__ = ["Citation", "WrittenReport", "cite", "write_report"]

PAGE = "report.html"
"""Name of a page in a run, and of the page of many slides."""


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Pages that were written."""

    pages: tuple[Path, ...]
    """The page of all slides first, if there is one."""
    unread: tuple[str, ...]
    """Runs without a page of their own, and why; the page of all slides lists them too."""


def write_report(
    runs: str | Path | Sequence[str | Path],
    to: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> WrittenReport:
    """Write a page for each slide, and of several slides one for all of them.

    A page is one HTML file that loads nothing.  A run's page is `report.html` in the run; that of
    all slides is `report.html` in the folder that was given (or that holds all runs).  Pages
    that are there are written anew.

    Parameters
    ----------
    runs
        A run, a folder of runs, a glob, or several of them.
    to
        Folder for the pages instead, made if need be, such as for runs that are read-only:
        `report.html` for all slides, `SLIDE.report.html` for each.
    progress
        Told about every page.

    Returns
    -------
    WrittenReport
        The pages, and the runs that could not be read.

    Raises
    ------
    ResultNotReadable
        If there is no run, or there is only one and it cannot be read.
    OutputNotWritable
        If a page cannot be written.
    """
    paths = find_results(runs)
    tell = progress or _say_nothing
    results, problems = _opened(paths)
    if len(paths) == 1 and problems:
        open_result(paths[0])  # raises the reason, with the folder's name
    home = Path(to) if to is not None else _common_folder(runs, paths)
    targets = _targets(results, None if to is None else home)
    is_cohort = len(paths) > 1
    slides: list[CohortSlide] = []
    written: list[Path] = []
    for i, (name, result) in enumerate(zip(names_apart(results), results, strict=True)):
        tell("pages", i, len(results))
        target = targets[i]
        back = _address(home / PAGE, target.parent) if is_cohort else ""
        try:
            page = slide_page(result, name, back)
            if is_cohort:
                slides.append(cohort_slide(result, name, _address(target, home)))
        except ResultNotReadable as error:
            if not is_cohort:
                raise
            problems.append(_problem(result.path, home, error))
            continue
        _write(target, page)
        written.append(target)
    tell("pages", len(results), len(results))
    if is_cohort:
        page = cohort_page(slides, problems, _n_not_begun(home if to is None else None))
        _write(home / PAGE, page)
        written.insert(0, home / PAGE)
    return WrittenReport(
        tuple(written), tuple(f"{problem.place}: {problem.reason}" for problem in problems)
    )


def _opened(paths: Sequence[Path]) -> tuple[list[Result], list[Problem]]:
    """Open the runs; those that cannot be opened come with the reason."""
    start = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    results, problems = [], []
    for path in paths:
        try:
            results.append(open_result(path))
        except ResultNotReadable as error:
            problems.append(_problem(path, start, error))
    return results, problems


def _problem(path: Path, start: Path, error: ResultNotReadable) -> Problem:
    place = Path(os.path.relpath(path.absolute(), start.absolute())).as_posix()
    said = without_folders(str(error), path, path.parent, start)
    # The place stands beside it.
    return Problem(place.removesuffix(".wsiseg"), said.removeprefix("…").strip())


def _common_folder(runs: str | Path | Sequence[str | Path], paths: Sequence[Path]) -> Path:
    """Return the folder for the page of all slides: the one that was given, or that has all."""
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    if len(given) == 1 and Path(given[0]).is_dir() and Path(given[0]) not in paths:
        return Path(given[0])
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def _targets(results: Sequence[Result], to: Path | None) -> list[Path]:
    """Return where each run's page goes."""
    if to is None:
        return [result.path / PAGE for result in results]
    return [to / f"{_file_name(name)}.{PAGE}" for name in names_apart(results)]


def _file_name(name: str) -> str:
    """Return a name that comes from a record as one that any disk takes."""
    parts = [part.strip(" .") or "_" for part in name.split("/")]
    return "/".join("".join(c if c.isprintable() else "_" for c in part) for part in parts)


def _address(target: Path, folder: Path) -> str:
    """Return the relative address of a file, as seen from a page in a folder."""
    relative = Path(os.path.relpath(target.absolute(), folder.absolute()))
    return quote(relative.as_posix())


def _n_not_begun(out: Path | None) -> int:
    if out is not None:
        with suppress(ResultNotReadable):
            return batch_status(out).n_left or 0
    return 0


def _write(target: Path, page: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Half a surrogate pair in a name is no reason to do without a page.
        write_atomically(target, page.encode("utf-8", "replace"))
    except (OutputNotWritable, OSError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        raise OutputNotWritable(
            f"cannot write {target} ({reason}); name a folder you may write to with --to"
        ) from error


def _say_nothing(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
