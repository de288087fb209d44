"""Review of a run by a person: a sample of squares for QuPath, and what became of it.

`make_review` draws the squares, `read_review` compares what comes back.  The run's own files are
never changed; all of a review lies in `RUN/reviews/NAME/`, or in a folder of one's choice.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from wsiseg._review_agreement import (
    Agreement,
    CorrectedCount,
    agreement,
    corrected_counts,
    count_changes,
    labels_of,
    score_square,
)
from wsiseg._review_changes import ReviewedCell, compare, original_cells
from wsiseg._review_files import (
    changes_table,
    corrected_table,
    csv_bytes,
    parquet_bytes,
    plain,
)
from wsiseg._review_geojson import EditedFile, packs, parse_edited, sample_bytes
from wsiseg._review_records import (
    ReviewOptions,
    ReviewSample,
    ReviewSquare,
    SquareKind,
    read_sample,
)
from wsiseg._review_squares import cells_in_squares, draw_sample, slide_bounds, sum_cells
from wsiseg.errors import OutputExists, OutputNotWritable, ResultNotReadable, UsageError
from wsiseg.regions import read_packed
from wsiseg.results import Result, open_result
from wsiseg.rundir import json_bytes, write_atomically

__all__ = [
    "Agreement",
    "CorrectedCount",
    "Review",
    "ReviewOptions",
    "ReviewSample",
    "ReviewSquare",
    "make_review",
    "read_review",
]

REVIEWS = "reviews"
"""Folder of a run that holds its reviews."""
SAMPLE = "sample.json"
EDITED, CORRECTED = "edited.geojson.gz", "corrected_cells.parquet"
CHANGES, CHANGES_CSV, AGREEMENT = "changes.parquet", "changes.csv", "agreement.json"

_READINGS = (EDITED, CORRECTED, CHANGES, CHANGES_CSV, AGREEMENT)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
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
        return self.changes.num_rows == 0

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


def make_review(
    run: Result | str | Path,
    out: str | Path,
    options: ReviewOptions = _DEFAULTS,
    *,
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
        A finished run: a `*.wsiseg` directory, or a `Result`.
    out
        GeoJSON to write, packed if its name ends in ``.gz``: the squares as locked annotations,
        their nuclei as annotations that can be edited.
    options
        Number and side of the squares, seed, share of the least certain ones.
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
        If the name cannot be used, or nothing was analysed.
    OutputExists
        If `out` or another review of that name exists.
    OutputNotWritable
        If a file cannot be written.
    ResultNotReadable
        If the run is damaged or lacks something a review needs.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a review; up to 64 letters, digits, spaces, '.', "
            "'_' and '-' are needed, beginning with a letter or a digit"
        )
    result = run if isinstance(run, Result) else open_result(run)
    folder = _folder_of(result, name, to)
    sample = draw_sample(result, name, options)
    keys = [square.key for square in sample.squares]
    cells = cells_in_squares(result, sample.grid, keys)
    target = Path(out)
    text = sample_bytes(
        sample, cells, result.class_colours, slide_bounds(result), packed=packs(target)
    )
    record = json_bytes(sample.to_json())
    _refuse_other(target, text, overwrite)
    is_new = _refuse_other(folder / SAMPLE, record, overwrite)
    _make_folder(folder)
    if is_new:
        _remove_readings(folder)
    write_atomically(target, text)
    write_atomically(folder / SAMPLE, record)
    return sample


def read_review(
    run: Result | str | Path,
    edited: str | Path,
    *,
    name: str | None = None,
    to: str | Path | None = None,
    overwrite: bool = False,
) -> Review:
    """Compare a sample as it came back from QuPath with the run.

    Nuclei are known by their UUIDs, or where QuPath lost them by their outlines.  Outlines that
    moved by 0.05 px at most, as they do on their way through QuPath, count as unchanged.

    Parameters
    ----------
    run
        The run the sample was made from.
    edited
        GeoJSON that QuPath exported, plain, packed by gzip or zipped.
    name
        Of the review; else the one whose squares the file holds.
    to
        Folder of the review's files, as given to `make_review`; else `RUN/reviews/NAME`.
    overwrite
        Replace what was read from another edited file.

    Returns
    -------
    Review
        Also written: `edited.geojson.gz`, `corrected_cells.parquet`, `changes.parquet`,
        `changes.csv` and `agreement.json`.

    Raises
    ------
    UsageError
        If the file is no GeoJSON, of another run, holds no square of the sample, or an outline
        without an area.
    OutputExists
        If another edited file was read before.
    OutputNotWritable
        If a file cannot be written.
    ResultNotReadable
        If there is no such review, or the run has changed since.
    """
    result = run if isinstance(run, Result) else open_result(run)
    path = Path(edited)
    content = read_packed(path, str(path))
    folder, sample, found = _review_of(result, content, str(path), name, to)
    review = _reviewed(result, folder, sample, found)
    files = {
        EDITED: gzip.compress(content, mtime=0),
        CORRECTED: parquet_bytes(review.cells),
        CHANGES: parquet_bytes(review.changes),
        CHANGES_CSV: csv_bytes(review.changes),
        AGREEMENT: json_bytes(review.to_json()),
    }
    _refuse_other(folder / EDITED, files[EDITED], overwrite)
    for file_name, file_content in files.items():
        write_atomically(folder / file_name, file_content)
    return review


def _reviewed(result: Result, folder: Path, sample: ReviewSample, found: EditedFile) -> Review:
    keys = [square.key for square in sample.squares]
    originals = original_cells(sample, cells_in_squares(result, sample.grid, keys))
    cells, said = compare(sample, originals, found)
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
    return Review(
        sample=sample,
        path=folder,
        reviewed=found.squares,
        edits={kind: count_changes(some) for kind, some in (*of_kind.items(), ("all", cells))},
        agreement={
            kind: agreement(
                [s for s in scores if s.square.kind == kind], labels, sample.options.seed
            )
            for kind in of_kind
        },
        counts=corrected_counts(sample, cells, found.squares),
        cells=corrected_table(cells, kinds, result.mpp),
        changes=changes_table(cells, kinds, result.mpp),
        notes=(*found.notes, *said, *_more_notes(sample, back, cells, labels)),
    )


def _more_notes(
    sample: ReviewSample,
    back: Sequence[ReviewSquare],
    cells: Sequence[ReviewedCell],
    labels: Sequence[str],
) -> list[str]:
    notes = []
    missing = [square.name for square in sample.squares if square not in back]
    if missing:
        notes.append(f"not reviewed, since the square did not come back: {', '.join(missing)}")
    new = [name for name in labels if name not in sample.n_of_class and name != "(none)"]
    if new:
        notes.append(f"classes the run does not have: {', '.join(new)}")
    if all(cell.change == "unchanged" for cell in cells):
        notes.append(
            "no edit was found; if there were any, this may be the sample as it was made, or the "
            "image was not saved before it was exported"
        )
    n_random = sum(square.kind == "random" for square in back)
    if n_random < 2:
        notes.append(
            f"{n_random} random squares were reviewed; intervals need at least 2, and estimates "
            "for the whole run are worth little with fewer than 10"
        )
    return notes


def _folder_of(result: Result, name: str, to: str | Path | None) -> Path:
    return result.path / REVIEWS / name if to is None else Path(to)


def _review_of(
    result: Result, content: bytes, label: str, name: str | None, to: str | Path | None
) -> tuple[Path, ReviewSample, EditedFile]:
    """Return the review an edited file is of: its folder, its sample and what came back.

    Raises
    ------
    ResultNotReadable, UsageError
        As `read_review` says.
    """
    folders = _review_folders(result, name, to)
    bounds = slide_bounds(result)
    refused: list[UsageError] = []
    for folder in folders:
        sample = read_sample(folder / SAMPLE)
        try:
            found = parse_edited(content, label, sample, bounds)
        except UsageError as error:
            refused.append(error)
            continue
        if sample.fingerprint != sum_cells(result, sample.grid).fingerprint:
            raise ResultNotReadable(
                f"{result.path.name} is not the run the review {sample.name!r} was made from: "
                "its nuclei differ; make the review again"
            )
        return folder, sample, found
    raise refused[0]


def _review_folders(result: Result, name: str | None, to: str | Path | None) -> list[Path]:
    if to is not None or name is not None:
        return [_folder_of(result, name or "", to)]
    there = sorted(path.parent for path in (result.path / REVIEWS).glob(f"*/{SAMPLE}"))
    if not there:
        raise ResultNotReadable(
            f"{result.path.name} has no review; make one with wsiseg review make, or name the "
            "folder of its files with --to"
        )
    return there


def _refuse_other(path: Path, content: bytes, overwrite: bool) -> bool:
    """Return whether a file is new; raise OutputExists if another is in the way."""
    if not os.path.lexists(path):
        return True
    with suppress(OSError):
        if path.is_file() and path.read_bytes() == content:
            return False
    if overwrite and (path.is_file() or path.is_symlink()):
        return True
    raise OutputExists(
        f"{path} exists and holds something else; give another name, or use --overwrite to "
        "replace it"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritable(
            f"cannot make {folder} ({error.strerror}); name a folder you may write to with --to"
        ) from error


def _remove_readings(folder: Path) -> None:
    """Remove what was read of an earlier sample; its nuclei are others."""
    for name in _READINGS:
        with suppress(FileNotFoundError):
            (folder / name).unlink()
