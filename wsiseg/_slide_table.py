"""Reading a list of slides as spreadsheets write it."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsiseg._place import checked_place, place_of_file
from wsiseg.errors import UsageError
from wsiseg.scale import PLAUSIBLE_MPP

SLIDE_COLUMNS = ("slide", "path", "file", "filename", "image")
"""Names of the column that names the slides; the first that is there counts."""
OPTION_COLUMNS = (
    *("mpp", "override_mpp", "mpp_from_objective"),
    *("model", "roi", "tissue", "place"),
)
"""Columns that say something about a slide."""

_NEARLY_EQUAL = 0.83
"""How alike a column and an option must be for the one to be a slip of the other."""
_DELIMITERS = (",", ";", "\t")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_YES_NO = {
    **dict.fromkeys(("yes", "y", "true", "1"), True),
    **dict.fromkeys(("no", "n", "false", "0"), False),
}


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One row of a list."""

    where: str
    """Its file and line, for messages."""
    values: dict[str, object]
    """`path` and the options the row has something to say about, checked."""


@dataclass(frozen=True, slots=True)
class _Table:
    """How a list is to be read."""

    list_path: Path
    delimiter: str
    columns: dict[str, int]
    """Place of `slide` and of every option column that is there."""
    width: int
    """Number of columns."""

    def refuse(self, line: int, reason: str) -> UsageError:
        """Return the error to raise about a line."""
        return UsageError(f"{self.list_path.name}, line {line}: {reason}")


def read_rows(list_path: Path) -> Iterator[SlideRow]:
    """Yield the rows of a list of slides.

    Parameters
    ----------
    list_path : Path
        UTF-8 text, with commas, semicolons or tabs between the cells; the first line that
        is not blank is the header.

    Raises
    ------
    UsageError
        If it cannot be read or used; names the file, the line and the column.
    """
    lines = _lines(list_path)
    first, header, start = _header(list_path, lines)
    table = _read_header(list_path, first, header)
    empty = True
    text = io.StringIO("".join(lines[start:]), newline="")
    rows = csv.reader(text, delimiter=table.delimiter, strict=True)
    line = start + 1
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            reason = f"cannot be split into cells ({error}); check the quotes"
            raise table.refuse(line, reason) from error
        if cells is None:
            break
        if any(cell.strip() for cell in cells):
            empty = False
            yield SlideRow(f"{list_path.name}, line {line}", _values(table, line, cells))
        line = start + rows.line_num + 1
    if empty:
        raise UsageError(f"{list_path.name}: has a header but no slide; one a line is needed")


def _lines(list_path: Path) -> list[str]:
    """Return the lines of a text, with their ends."""
    try:
        content = list_path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{list_path} cannot be read ({error.strerror}); check the path"
        ) from error
    if b"\0" in content:
        raise UsageError(
            f"{list_path.name}: is no plain text; a list of slides in UTF-8 is needed: save it "
            "as “CSV UTF-8”"
        )
    try:
        # Spreadsheets begin UTF-8 with a byte order mark.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{list_path.name}, line {line}: is not UTF-8; save the list as “CSV UTF-8”"
        ) from error
    return list(io.StringIO(text, newline=None))


def _header(list_path: Path, lines: list[str]) -> tuple[int, str, int]:
    """Return the header's line number, its text, and how many lines come before the rows."""
    for index, line in enumerate(lines):
        # Excel's own way to name the delimiter.
        if line.strip() and not re.fullmatch(r'"?sep=."?', line.rstrip("\n"), re.IGNORECASE):
            return index + 1, line.rstrip("\n"), index + 1
    raise UsageError(
        f"{list_path.name}: is empty; a header with a column slide, and a slide a line are needed"
    )


def _read_header(list_path: Path, line: int, header: str) -> _Table:
    """Find the delimiter: the one that splits the header into a slide column and most others."""
    best: _Table | None = None
    best_names: list[str] = []
    for delimiter in _DELIMITERS:
        cells = next(csv.reader([header], delimiter=delimiter))
        names = [_column(cell) for cell in cells]
        slide = next((name for name in SLIDE_COLUMNS if name in names), None)
        if slide is None or (best is not None and best.width >= len(names)):
            continue
        used = [slide, *(name for name in OPTION_COLUMNS if name in names)]
        columns = {"slide" if name == slide else name: names.index(name) for name in used}
        best, best_names = _Table(list_path, delimiter, columns, len(names)), cells
        for name in used:
            if names.count(name) > 1:
                raise best.refuse(line, f"has {names.count(name)} columns {name}; keep one")
    if best is None:
        found = header if len(header) <= 60 else f"{header[:59]}…"
        raise UsageError(
            f"{list_path.name}, line {line}: no column slide in the header ({found}); name the "
            f"column of the slides' files {', '.join(SLIDE_COLUMNS[:-1])} or {SLIDE_COLUMNS[-1]}"
        )
    _refuse_misspelt(best, line, best_names)
    # A list of one column has no delimiter, and file names may hold commas.
    return best if best.width > 1 else _Table(list_path, "\t", best.columns, 1)


def _column(cell: str) -> str:
    """Return a column's name as it is compared: `--override-mpp` is `override_mpp`."""
    return re.sub(r"[\s-]+", "_", cell.strip().casefold()).strip("_")


def _refuse_misspelt(table: _Table, line: int, cells: Sequence[str]) -> None:
    """Raise UsageError for a column that seems meant for us, but would be passed over."""
    for cell in cells:
        name = _column(cell)
        if name in OPTION_COLUMNS or name in SLIDE_COLUMNS:
            continue
        words = re.split(r"[\W_]+", name)
        is_mpp = any(word.startswith("mpp") or word.endswith("mpp") for word in words)
        if is_mpp or any(_is_slip(name, known) for known in OPTION_COLUMNS):
            known = ", ".join((SLIDE_COLUMNS[0], *OPTION_COLUMNS))
            raise table.refuse(
                line, f"has an unknown column {cell.strip()}; known: {known}: rename it"
            )


def _is_slip(name: str, known: str) -> bool:
    """Return whether a name was probably meant to be another, letters missing or turned round."""
    alike = difflib.SequenceMatcher(None, name, known).ratio() >= _NEARLY_EQUAL
    return name[:1] == known[:1] and (alike or sorted(name) == sorted(known))


def _values(table: _Table, line: int, cells: list[str]) -> dict[str, object]:
    """Check a row and return what it says."""
    if any(cell.strip() for cell in cells[table.width :]):
        raise table.refuse(
            line,
            f"has {len(cells)} cells and the header {table.width}; quote what holds a "
            f"{table.delimiter!r}, and write numbers with a point",
        )
    said = {
        name: cells[place].strip()
        for name, place in table.columns.items()
        if place < len(cells) and cells[place].strip()
    }
    if "slide" not in said:
        raise table.refuse(line, "column slide is empty; the slide's file is needed")
    if "mpp" in said and "override_mpp" in said:
        raise table.refuse(line, "has both mpp and override_mpp; give one of them")
    folder = table.list_path.parent
    slide = said.pop("slide")
    values: dict[str, object] = {"path": folder / slide}
    values["place"] = _place(table, line, said.pop("place", None), slide)
    for name, text in said.items():
        if name in ("mpp", "override_mpp"):
            values[name] = _mpp(table, line, name, text)
        elif name == "mpp_from_objective":
            values[name] = _yes_no(table, line, name, text)
        elif name == "roi":
            values[name] = folder / text
        elif name == "model":
            values[name] = _model(folder, text)
        else:
            is_word = text.lower() in ("auto", "none")
            values[name] = text.lower() if is_word else str(folder / text)
    return values


def _place(table: _Table, line: int, text: str | None, slide: str) -> PurePosixPath:
    """Return a slide's place: what the row says, or its path, if it cannot lead out."""
    if text is not None:
        try:
            return checked_place(text)
        except UsageError as error:
            raise table.refuse(line, f"column place: {error}") from error
    try:
        return checked_place(slide)
    except UsageError:
        return place_of_file(Path(slide))


def _mpp(table: _Table, line: int, column: str, text: str) -> float:
    low, high = PLAUSIBLE_MPP
    # With commas between cells a comma in a number is more likely a missing quote.
    decimals = text if table.delimiter == "," else text.replace(",", ".")
    number = float(decimals) if _NUMBER.fullmatch(decimals) and "," not in decimals else math.nan
    if not low <= number <= high:
        raise table.refuse(
            line,
            f"column {column} is {text!r}; µm per pixel between {low:g} and {high:g} is needed",
        )
    return number


def _yes_no(table: _Table, line: int, column: str, text: str) -> bool:
    known = _YES_NO.get(text.casefold())
    if known is None:
        raise table.refuse(line, f"column {column} is {text!r}; yes or no is needed")
    return known


def _model(folder: Path, text: str) -> str:
    """Return a model's name as it is, and a folder relative to the list's."""
    is_folder = "/" in text or "\\" in text or (folder / text / "card.json").is_file()
    return str(folder / text) if is_folder else text
