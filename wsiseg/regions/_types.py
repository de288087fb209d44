"""What a region is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import shapely

RegionKind: TypeAlias = Literal["annotation", "tma-core"]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A named area of a slide, as drawn in QuPath."""

    name: str
    """Unique within its file, printable, one line."""
    class_name: str | None
    """QuPath's class, derived classes joined by ``": "``; None without one."""
    class_rgb: tuple[int, int, int] | None
    """The class's colour, 0 to 255; None if the file has none."""
    kind: RegionKind
    """Drawn by hand, or a core of a tissue microarray."""
    missing: bool
    """A core marked as missing: it is listed, but holds no cells and no area is analysed."""
    uuid: str | None
    """QuPath's identity of the object, in the 36-character form; None if the file has none."""
    geometry: shapely.MultiPolygon
    """Valid, not empty; level-0 px of the slide, pixel-corner convention."""
