"""What is known of the slides of a cohort: a CSV file with a column `slide`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsiseg.errors import UsageError

SLIDE = "slide"
_DELIMITERS = (",", ";", "\t")
_MOST_NAMED = 5
_UNKNOWN = ("na", "n/a", "#n/a", "nan")
"""What programs write, in any case, where a value is not known."""


@dataclass(frozen=True, slots=True)
class SlideNames:
    """What a row of metadata may call a slide."""

    place: str
    """Path of its run below the folder that was given, without `.wsiseg`."""
    file_name: str


@dataclass(frozen=True, slots=True, eq=False)
class Metadata:
    """Values of each slide."""

    columns: tuple[str, ...]
    """All but `slide`, in the file's order."""
    values: Mapping[str, Mapping[str, str | None]]
    """By place: the row that names the slide, without `slide`; None for an empty cell, or one
    that says NA.  Slides that no row names are not there."""
    notes: tuple[str, ...]
    """Rows without a slide, and slides without a row, a sentence each."""


NO_METADATA = Metadata((), {}, ())


def read_metadata(path: Path, slides: Sequence[SlideNames]) -> Metadata:
    """Read the metadata of slides.

    A row is that of the slide whose place it names; else of the one with that file name; else
    of the one with that file name but for its suffix.

    Parameters
    ----------
    path : Path
        UTF-8 text with commas, semicolons or tabs; its first line names the columns.
    slides : sequence of SlideNames
        All slides of the cohort.

    Raises
    ------
    UsageError
        If it cannot be read, has no column `slide`, two of one name or values in one without a
        name, a row names several slides, or a slide has several rows.
    """
    header, rows = _without_empty_columns(path, *_rows(path))
    columns = tuple(name for name in header if name.casefold() != SLIDE)
    values: dict[str, dict[str, str | None]] = {}
    first_line: dict[str, int] = {}
    strangers = []
    ways = _ways_to_name(slides)
    for line, row in rows:
        named = dict(zip(header, row, strict=True))
        said = next(value for name, value in named.items() if name.casefold() == SLIDE)
        place = _place_of(path, line, said, ways)
        if place is None:
            strangers.append(said)
            continue
        if place in values:
            raise UsageError(
                f"{path.name}, line {line}: {said!r} is {place}, which line {first_line[place]} "
                "names too; keep one row for each slide"
            )
        first_line[place] = line
        values[place] = {name: _value(named[name]) for name in columns}
    without = [one.place for one in slides if one.place not in values]
    notes = []
    unknown = [cell for _, row in rows for cell in row if cell.strip().casefold() in _UNKNOWN]
    if unknown:
        notes.append(
            f"{path.name}: {len(unknown)} cells say {', '.join(sorted(set(unknown)))}: they are "
            "taken for empty"
        )
    if strangers:
        notes.append(f"{path.name}: {len(strangers)} rows name no slide here: {some(strangers)}")
    if without:
        notes.append(
            f"{path.name} has no row for {len(without)} of {len(slides)} slides: {some(without)}; "
            "they are counted without a value"
        )
    return Metadata(columns, values, tuple(notes))


def _value(cell: str) -> str | None:
    cell = cell.strip()
    return None if not cell or cell.casefold() in _UNKNOWN else cell


def _without_empty_columns(
    path: Path, header: list[str], rows: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the table without columns that have neither a name nor a value, as Excel adds.

    Raises
    ------
    UsageError
        If a column without a name has values, or `slide` or a name is not there once.
    """
    kept = [i for i, name in enumerate(header) if name]
    for line, row in rows:
        values = [cell for i, cell in enumerate(row) if i not in kept and cell.strip()]
        if values:
            raise UsageError(
                f"{path.name}, line {line}: {values[0]!r} is in a column without a name; name it "
                "in the first line"
            )
    header = [header[i] for i in kept]
    _check_header(path, header)
    return header, [(line, [row[i] for i in kept]) for line, row in rows]


def _ways_to_name(slides: Sequence[SlideNames]) -> list[dict[str, list[str]]]:
    """Return places by what may stand for them: the surest way first."""
    ways: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(3)]
    for one in slides:
        ways[0][one.place].append(one.place)
        ways[1][one.file_name].append(one.place)
        ways[2][PurePosixPath(one.file_name).stem].append(one.place)
    return ways


def _place_of(path: Path, line: int, said: str, ways: list[dict[str, list[str]]]) -> str | None:
    name = said.strip().replace("\\", "/").removesuffix("/").removesuffix(".wsiseg")
    for way in ways:
        places = way.get(name, [])
        if len(places) > 1:
            raise UsageError(
                f"{path.name}, line {line}: {said!r} could be {some(places)}; give the path "
                "below the folder of results"
            )
        if places:
            return places[0]
    return None


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and every row that is not blank with its line number."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8; save it as “CSV UTF-8”") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(
        _DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), []))
    )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[tuple[int, list[str]]] = []
    try:
        found.extend((reader.line_num, row) for row in reader if any(map(str.strip, row)))
    except csv.Error as error:
        raise UsageError(
            f"{path.name}, line {reader.line_num}: cannot be split into cells ({error}); check "
            "the quotes"
        ) from error
    header = [name.strip() for name in found[0][1]] if found else []
    for line, row in found[1:]:
        if len(row) != len(header):
            raise UsageError(
                f"{path.name}, line {line}: has {len(row)} cells, the header {len(header)}; give "
                "each column one"
            )
    return header, found[1:]


def _check_header(path: Path, header: list[str]) -> None:
    if [name.casefold() for name in header].count(SLIDE) != 1:
        raise UsageError(
            f"{path.name} has the columns {', '.join(header) or '(none)'}; exactly one column "
            "slide is needed, with each slide's file name or its path below the results"
        )
    for name in header:
        if header.count(name) > 1:
            raise UsageError(f"{path.name} has {header.count(name)} columns {name!r}; keep one")


def listed(columns: Sequence[str]) -> str:
    """Return the columns for a message."""
    return ", ".join(columns) or "none (give them with --metadata)"


def some(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
