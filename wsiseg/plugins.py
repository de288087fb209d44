"""One registry for everything that can be plugged in, by entry point, loaded late."""

from __future__ import annotations

import functools
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from wsiseg.errors import UnknownName

Group = Literal["wsiseg.slides", "wsiseg.models", "wsiseg.exporters"]


def plugin_names(group: Group) -> list[str]:
    """Return the sorted names of a group's plug-ins; imports none of them."""
    return sorted({point.name for point in _points(group, tuple(sys.path))})


def load_plugin(group: Group, name: str) -> Any:
    """Import and return one plug-in.

    Raises
    ------
    UnknownName
        If no plug-in has that name, or two different ones have it.
    """
    found = {point for point in _points(group, tuple(sys.path)) if point.name == name}
    if not found:
        known = ", ".join(plugin_names(group)) or "none"
        raise UnknownName(f"{name!r} is not among the plug-ins of {group}; known: {known}")
    if len({point.value for point in found}) > 1:
        where = ", ".join(sorted(point.value for point in found))
        raise UnknownName(f"{name!r} of {group} is ambiguous: {where}; uninstall all but one")
    return found.pop().load()


@functools.lru_cache(maxsize=16)
def _points(group: Group, path: tuple[str, ...]) -> frozenset[EntryPoint]:  # noqa: ARG001
    """Return a group's plug-ins; looking takes some 50 ms, and thousands of slides would ask."""
    return frozenset(entry_points(group=group))
