"""Tables as rows that lose nothing.  Loads nothing heavy."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def told_apart(table: pa.Table) -> pa.Table:
    """Return a table whose columns differ in their names: repeated ones get a number.

    SQL allows several columns of one name, but rows as mappings, JSON and CSV would lose all but
    one of them.
    """
    names: list[str] = table.column_names
    taken, given = set(names), []
    for i, name in enumerate(names):
        if name in names[:i]:
            name = next(new for n in itertools.count(2) if (new := f"{name}_{n}") not in taken)
            taken.add(name)
        given.append(name)
    return table.rename_columns(given)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows; dates that Python has none for (after the year 9999) as text."""
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OverflowError, ValueError):
        # Rarely needed, and importing it takes longer than `--help` may.
        import pyarrow as pa

        fields = [
            field.with_type(pa.string()) if pa.types.is_temporal(field.type) else field
            for field in table.schema
        ]
        rows = table.cast(pa.schema(fields)).to_pylist()
    return rows
