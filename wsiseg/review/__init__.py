"""Review of a run by a person: a sample of squares for QuPath, and what became of it.

`make_review` draws the squares, `read_review` compares what comes back.  The run's own files are
never changed; all of a review lies in `RUN/reviews/NAME/`, or in a folder of one's choice.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wsiseg.answers.run_choice import open_one_result
from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.regions import read_packed
from wsiseg.results import Result
from wsiseg.review._agreement import (
    Agreement,
    CorrectedCount,
    agreement,
    corrected_counts,
    count_changes,
    labels_of,
    review_notes,
    score_square,
)
from wsiseg.review._changes import ReviewedCell, compare, original_cells
from wsiseg.review._files import (
    changes_table,
    corrected_table,
    csv_bytes,
    parquet_bytes,
    plain,
)
from wsiseg.review._folder import (
    AGREEMENT,
    CHANGES,
    CHANGES_CSV,
    CORRECTED,
    EDITED,
    SAMPLE,
    check_name,
    folder_of,
    made_folder,
    refuse_other,
    remove_readings,
    review_folders,
)
from wsiseg.review._geojson import EditedFile, NoSquare, packs, parse_edited, sample_bytes
from wsiseg.review._records import (
    ReviewOptions,
    ReviewSample,
    ReviewSquare,
    SquareKind,
    read_sample,
)
from wsiseg.review._sheet import review_sheet
from wsiseg.review._squares import cells_in_squares, draw_sample, slide_bounds, sum_cells
from wsiseg.rundir import json_bytes, write_atomically

__all__ = [
    "Agreement",
    "CorrectedCount",
    "Review",
    "ReviewOptions",
    "ReviewSample",
    "ReviewSquare",
    "SquareKind",
    "make_review",
    "read_review",
]

_DEFAULT_NAME = "review"
_DEFAULTS = ReviewOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Review:
    """What a reviewer made of a sample; make it with `read_review`."""

    sample: ReviewSample
    path: Path
    """Folder of the review's files."""
    reviewed: frozenset[str]
    """Names of the squares that came back; the others count as not reviewed."""
    edits: Mapping[str, Mapping[str, int]]
    """Counts of nuclei and edits in `random` and `uncertain` squares, and in `all`."""
    agreement: Mapping[SquareKind, Agreement]
    """Of the random squares, which speak for the whole run, and of the least certain ones, which
    do not."""
    counts: tuple[CorrectedCount, ...]
    """Each class in the whole analysed area: the run's count and the corrected one."""
    cells: pa.Table
    """The nuclei of the reviewed squares, corrected; `corrected_cells.parquet`."""
    changes: pa.Table
    """The nuclei that were changed; `changes.parquet`."""
    notes: tuple[str, ...]
    """What the reader should know, a sentence each."""

    @property
    def is_untouched(self) -> bool:
        """Whether no edit was found at all."""
        return len(self.changes) == 0

    def to_json(self) -> dict[str, Any]:
        """Return what `agreement.json` holds."""
        kinds: tuple[SquareKind, ...] = ("random", "uncertain")
        squares = {
            kind: {"drawn": len(all_), "reviewed": sum(s.name in self.reviewed for s in all_)}
            for kind in kinds
            for all_ in [[s for s in self.sample.squares if s.kind == kind]]
        }
        values = {
            "format": "wsiseg-review-agreement",
            "format_version": 1,
            "use": "For research use only. Not for use in diagnostic procedures.",
            "name": self.sample.name,
            "slide": self.sample.slide,
            "model": self.sample.model,
            "classes_version": self.sample.classes_version,
            "fingerprint": self.sample.fingerprint,
            "analysed_mm2": self.sample.analysed_mm2,
            "squares": squares,
            "reviewed": sorted(self.reviewed),
            "edits": self.edits,
            "agreement": {kind: found.to_json() for kind, found in self.agreement.items()},
            "counts": [asdict(count) for count in self.counts],
            "notes": list(self.notes),
        }
        shown: dict[str, Any] = plain(values)
        return shown

    def write_json(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write what `to_json` returns to a file.

        Raises
        ------
        OutputExists
            If the file holds something else.
        OutputNotWritable
            If it cannot be written.
        """
        content = json_bytes(self.to_json())
        refuse_other(Path(path), content, overwrite)
        write_atomically(Path(path), content)


def make_review(
    run: Result | str | Path,
    out: str | Path,
    options: ReviewOptions = _DEFAULTS,
    *,
    classes: str | None = None,
    name: str = _DEFAULT_NAME,
    to: str | Path | None = None,
    overwrite: bool = False,
) -> ReviewSample:
    """Draw squares of a run for a person to review in QuPath.

    The random ones are drawn with known chances, in proportion to the analysed area, so that
    what is found in them can be carried over to the whole run; the least certain ones, by the
    mean probability of their nuclei, come from the rest.  Names and order do not tell which is
    which.  The same call makes the same files.

    Parameters
    ----------
    run
        A finished run: a `*.wsiseg` directory, a folder or glob that leads to one run, or a
        `Result`.
    out
        GeoJSON to write, packed if its name ends in ``.gz``: the squares as locked annotations,
        their nuclei as annotations that can be edited.
    options
        Number and side of the squares, seed, share of the least certain ones.
    classes
        A version of the run's classes to review; None for the model's own, or that of `run`.
    name
        Of the review: letters, digits, spaces, ``.``, ``_``, ``-``.
    to
        Folder for the record of the sample; else `RUN/reviews/NAME`.
    overwrite
        Replace `out`, and another review of that name with all that was read of it.

    Returns
    -------
    ReviewSample
        The squares; fewer than asked for where the run has no more.

    Raises
    ------
    UsageError
        If the name cannot be used, nothing was analysed, or `run` leads to several runs.
    OutputExists
        If `out` or another review of that name exists.
    OutputNotWritable
        If a file cannot be written.
    UnknownName
        If the run has no such version of the classes.
    ResultNotReadable
        If the run is damaged or lacks something a review needs.
    """
    check_name(name)
    result = run if isinstance(run, Result) else open_one_result(run)
    if classes is not None:
        result = result.with_classes(classes)
    folder = folder_of(result, name, to)
    sample = draw_sample(result, name, options)
    keys = [square.key for square in sample.squares]
    cells = cells_in_squares(result, sample.grid, keys)
    target = Path(out)
    text = sample_bytes(
        sample, cells, result.class_colours, slide_bounds(result), packed=packs(target)
    )
    record = json_bytes(sample.to_json())
    refuse_other(target, text, overwrite)
    is_new = refuse_other(folder / SAMPLE, record, overwrite)
    with made_folder(folder):
        write_atomically(target, text)
        if is_new:
            remove_readings(folder)
        write_atomically(folder / SAMPLE, record)
    return sample


def read_review(
    run: Result | str | Path,
    edited: str | Path,
    *,
    name: str | None = None,
    to: str | Path | None = None,
    picture: str | Path | None = None,
    slide: str | Path | None = None,
    overwrite: bool = False,
) -> Review:
    """Compare a sample as it came back from QuPath with the run.

    Nuclei are known by their UUIDs, or where QuPath lost them by their outlines.  Outlines that
    moved by 0.05 px at most, as they do on their way through QuPath, count as unchanged.

    Parameters
    ----------
    run
        The run the sample was made from, as for `make_review`.
    edited
        GeoJSON that QuPath exported, plain, packed by gzip or zipped.
    name
        Of the review; else the one whose squares the file holds.
    to
        Folder of the review's files, as given to `make_review`; else `RUN/reviews/NAME`.
    picture
        PNG to write: the squares with the most changes, with what was changed.
    slide
        The run's slide, for the picture; without it outlines are on white.
    overwrite
        Replace what was read from another edited file, and another picture.

    Returns
    -------
    Review
        Also written: `edited.geojson.gz`, `corrected_cells.parquet`, `changes.parquet`,
        `changes.csv` and `agreement.json`.

    Raises
    ------
    UsageError
        If the file is no GeoJSON, of another run, holds no square of the sample, or an outline
        without an area; or `run` leads to several runs.
    OutputExists
        If another edited file was read before, or `picture` holds something else.
    OutputNotWritable
        If a file cannot be written.
    ResultNotReadable
        If there is no such review, or the run has changed since.
    SlideNotReadable
        If the slide cannot be read.
    """
    result = run if isinstance(run, Result) else open_one_result(run)
    path = Path(edited)
    content = read_packed(path, str(path))
    folder, sample, found = _review_of(result, content, str(path), name, to)
    review, cells = _reviewed(result, folder, sample, found)
    files = {
        EDITED: gzip.compress(content, mtime=0),
        CORRECTED: parquet_bytes(review.cells),
        CHANGES: parquet_bytes(review.changes),
        CHANGES_CSV: csv_bytes(review.changes),
        AGREEMENT: json_bytes(review.to_json()),
    }
    refuse_other(folder / EDITED, files[EDITED], overwrite)
    if picture is not None:
        sheet = review_sheet(
            result, sample, cells, found.squares, None if slide is None else Path(slide)
        )
        refuse_other(Path(picture), sheet, overwrite)
        write_atomically(Path(picture), sheet)
    for file_name, file_content in files.items():
        write_atomically(folder / file_name, file_content)
    return review


def _reviewed(
    result: Result, folder: Path, sample: ReviewSample, found: EditedFile
) -> tuple[Review, list[ReviewedCell]]:
    keys = sample.grid.around(np.array([square.key for square in sample.squares]))
    originals, others = original_cells(sample, cells_in_squares(result, sample.grid, keys))
    cells, said = compare(sample, originals, found, others)
    labels = labels_of(sample, cells)
    by_square: dict[str, list[ReviewedCell]] = {square.name: [] for square in sample.squares}
    for cell in cells:
        by_square[cell.square].append(cell)
    back = [square for square in sample.squares if square.name in found.squares]
    scores = [score_square(s, by_square[s.name], labels, result.mpp) for s in back]
    kinds = {square.name: square.kind for square in sample.squares}
    of_kind: dict[SquareKind, list[ReviewedCell]] = {
        kind: [cell for cell in cells if kinds[cell.square] == kind]
        for kind in ("random", "uncertain")
    }
    review = Review(
        sample=sample,
        path=folder,
        reviewed=found.squares,
        edits={kind: count_changes(some) for kind, some in (*of_kind.items(), ("all", cells))},
        agreement={
            kind: agreement(
                [s for s in scores if s.square.kind == kind],
                sum(square.kind == kind for square in sample.squares),
                labels,
                sample.options.seed,
            )
            for kind in of_kind
        },
        counts=corrected_counts(sample, cells, found.squares),
        cells=corrected_table(cells, kinds, result.mpp),
        changes=changes_table(cells, kinds, result.mpp),
        notes=(*found.notes, *said, *review_notes(sample, back, cells, labels)),
    )
    return review, cells


def _review_of(
    result: Result, content: bytes, label: str, name: str | None, to: str | Path | None
) -> tuple[Path, ReviewSample, EditedFile]:
    """Return the review an edited file is of: its folder, its sample and what came back.

    Raises
    ------
    ResultNotReadable, UsageError
        As `read_review` says.
    """
    folders = review_folders(result, name, to)
    bounds = slide_bounds(result)
    refused: list[NoSquare] = []
    fitting: list[tuple[Path, ReviewSample, EditedFile]] = []
    for folder in folders:
        sample = read_sample(folder / SAMPLE)
        try:
            fitting.append((folder, sample, parse_edited(content, label, sample, bounds)))
        except NoSquare as error:
            refused.append(error)
    if not fitting:
        raise refused[0]
    if len(fitting) > 1:
        names = ", ".join(sample.name for _, sample, _ in fitting)
        raise UsageError(
            f"{label} holds squares of {len(fitting)} reviews ({names}); say with --name which "
            "one to read"
        )
    sample = fitting[0][1]
    if sample.fingerprint != sum_cells(result, sample.grid).fingerprint:
        raise ResultNotReadable(
            f"{result.path.name} is not the run the review {sample.name!r} was made from: "
            "its nuclei differ; make the review again"
        )
    return fitting[0]
