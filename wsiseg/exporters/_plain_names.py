"""Names of classes as formats take them that do not take every text."""

from __future__ import annotations

from collections.abc import Iterable

WITHOUT_CLASS = "Nucleus"
"""What nuclei without a class are called, where the format needs a name."""


def plain_names(names: Iterable[str], most_chars: int | None = None) -> list[str]:
    r"""Return the names in one line, without a backslash, all different.

    A backslash parts the values of a DICOM text, and a FHIR code has single spaces within only;
    names that are plain stay as they are.

    Parameters
    ----------
    names
        Any text; of two that would be equal the later gets a number.
    most_chars
        Length of the longest, at least 10; None for any.

    Examples
    --------
    >>> plain_names(["Tumour", "a\\b", "a/b", " Tumour "])
    ['Tumour', 'a/b', 'a/b (2)', 'Tumour (2)']
    """
    made: list[str] = []
    for name in names:
        plain = _plain(name)
        found, number = plain[:most_chars].rstrip(), 1
        while found in made:
            number += 1
            end = f" ({number})"
            room = None if most_chars is None else most_chars - len(end)
            found = plain[:room].rstrip() + end
        made.append(found)
    return made


def name_without_class(class_names: Iterable[str]) -> str:
    """Return what nuclei without a class are called; no class is called so."""
    return plain_names([*class_names, WITHOUT_CLASS])[-1]


def _plain(name: str) -> str:
    seen = "".join(char if char.isprintable() else " " for char in name.replace("\\", "/"))
    return " ".join(seen.split()) or "unnamed"
