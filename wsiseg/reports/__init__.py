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

from wsiseg.errors import (
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
    WsisegError,
)
from wsiseg.reports._citing import Citation, cite
from wsiseg.reports._cohort_page import CohortSlide, Problem, cohort_page, cohort_slide
from wsiseg.reports._places import check_replaceable, file_names, folders_given, names_of_runs
from wsiseg.reports._slide_page import slide_page
from wsiseg.results import find_results, open_result
from wsiseg.rundir import write_atomically
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
    classes: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> WrittenReport:
    """Write a page for each slide, and of several slides one for all of them.

    A page is one HTML file that loads nothing.  A run's page is `report.html` in the run; that of
    all slides is `report.html` in the folder that was given.  Pages that are there are written
    anew; a file of that name by anybody else stays.

    Parameters
    ----------
    runs
        A run, a folder of runs, a glob, or several of them.
    to
        Folder for the pages instead, made if need be, such as for runs that are read-only:
        `report.html` for all slides, `SLIDE.report.html` for each.  Needed for several runs
        that were not given as one folder.
    classes
        A version of the classes (see `wsiseg.classify`); its pages are called `report-NAME.html`.
        None for the model's own.
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
    UnknownName
        If there is only one run, and it has no such version of the classes.
    OutputNotWritable
        If a page cannot be written, or a file that is no page by wsiseg is in its place.
    UsageError
        If there are several runs, but neither `to` nor one folder that holds them.
    """
    places = [runs] if isinstance(runs, str | Path) else list(runs)
    paths = find_results(places)
    folders = folders_given(places, paths)
    is_cohort = len(paths) > 1
    page_name = PAGE if classes is None else f"report-{classes}.html"
    home = _home(folders, places, paths, to)
    names = names_of_runs(paths, folders)
    targets = _targets(paths, names, page_name, None if to is None else home)
    for target in [*targets, *([home / page_name] if is_cohort else [])]:
        check_replaceable(target)
    tell = progress or _say_nothing
    slides: list[CohortSlide] = []
    problems: list[Problem] = []
    written: list[Path] = []
    for i, (path, name, target) in enumerate(zip(paths, names, targets, strict=True)):
        tell("pages", i, len(paths))
        back = _address(home / page_name, target.parent) if is_cohort else ""
        try:
            page, slide = _made(path, name, classes, back, _address(target, home))
        except (ResultNotReadable, UnknownName) as error:
            if not is_cohort:
                raise
            problems.append(_problem(path, name, folders, error))
            continue
        _write(target, page)
        written.append(target)
        slides.append(slide)
    tell("pages", len(paths), len(paths))
    if is_cohort:
        page = cohort_page(slides, problems, sum(map(_n_not_begun, folders)), classes or "")
        _write(home / page_name, page)
        written.insert(0, home / page_name)
    return WrittenReport(
        tuple(written), tuple(f"{problem.place}: {problem.reason}" for problem in problems)
    )


def _home(
    folders: Sequence[Path],
    places: Sequence[str | Path],
    paths: Sequence[Path],
    to: str | Path | None,
) -> Path:
    """Return the folder for the page of all slides; of one run, that of its own page."""
    if to is not None:
        return Path(to)
    if len(paths) == 1:
        return paths[0]
    if len(places) == 1 and folders:
        return folders[0]
    raise UsageError(
        f"there are {len(paths)} runs but no one folder was given that holds them; name a folder "
        "for the pages with --to"
    )


def _made(
    path: Path, name: str, classes: str | None, back: str, href: str
) -> tuple[str, CohortSlide]:
    """Return a run's page, and what the page of all slides shows of it.

    Raises
    ------
    ResultNotReadable
        If the run cannot be read, or holds what no run does.
    UnknownName
        If it has no such version of the classes.
    """
    if classes is not None:
        open_result(path).with_classes(classes)  # raises UnknownName
    try:
        result = open_result(path, classes)
        return slide_page(result, name, back), cohort_slide(result, name, href)
    except (ResultNotReadable, MemoryError):
        raise
    # A run may come from anywhere: whatever its record and tables hold, of the kinds and sizes
    # that nobody thought of, must not take the pages of other runs down.
    except Exception as error:
        raise ResultNotReadable(
            f"{path.name} is damaged: its record or a table holds what no run does "
            f"({type(error).__name__}: {error}); segment the slide again with --overwrite"
        ) from error


def _problem(path: Path, name: str, folders: Sequence[Path], error: WsisegError) -> Problem:
    # Also as it was given, which may be relative.
    text = str(error).replace(f"{path}{os.sep}", "").replace(str(path), path.name)
    said = without_folders(text, path, path.parent, *folders)
    # The place stands beside it.
    return Problem(name, said.removeprefix("…").strip())


def _targets(
    paths: Sequence[Path], names: Sequence[str], page_name: str, to: Path | None
) -> list[Path]:
    """Return where each run's page goes."""
    if to is None:
        return [path / page_name for path in paths]
    return [to / f"{name}.{page_name}" for name in file_names(names)]


def _address(target: Path, folder: Path) -> str:
    """Return the relative address of a file, as seen from a page in a folder."""
    relative = Path(os.path.relpath(target.absolute(), folder.absolute()))
    return quote(relative.as_posix(), errors="replace")


def _n_not_begun(folder: Path) -> int:
    """Return how many slides of the list of the batch in a folder that was given are not begun."""
    # Without lists, or with files of others that read like none, nothing is said.
    with suppress(ResultNotReadable, RecursionError):
        return batch_status(folder).n_left or 0
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
