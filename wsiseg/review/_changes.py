"""What became of each nucleus of a reviewed square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from wsiseg.evaluation.polygons import match_polygons
from wsiseg.review._geojson import DrawnNucleus, EditedFile
from wsiseg.review._records import ReviewSample, ReviewSquare

SAME_OUTLINE_PX = 0.05
"""Outlines nowhere farther apart are the same: QuPath keeps 0.01 px, in single precision."""
_SAME_NUCLEUS_IOU = 0.25
"""An object without a known identity that covers more of a missing nucleus is that nucleus."""
_NUCLEUS_SHARE = 0.5
"""Objects larger than this share of a square are no nuclei."""

FoundBy: TypeAlias = Literal["id", "geometry"]


@dataclass(frozen=True, slots=True, eq=False)
class OriginalCell:
    """A nucleus as the run has it."""

    uuid: str
    cell_id: int
    square: str
    class_name: str | None
    x_px: float
    y_px: float
    area_um2: float
    geometry: shapely.Geometry


@dataclass(frozen=True, slots=True, eq=False)
class ReviewedCell:
    """A nucleus of a reviewed square, before and after."""

    square: str
    uuid: str | None
    """The run's; of an added nucleus QuPath's, if it has one."""
    original: OriginalCell | None
    """None if it was added."""
    geometry: shapely.Geometry | None
    """Corrected outline, level-0 px; None if it was deleted."""
    class_name: str | None
    """Corrected class; None also if it was deleted."""
    is_redrawn: bool = False
    found_by: FoundBy = "id"

    @property
    def is_relabelled(self) -> bool:
        """Whether it is still there, in another class."""
        both = self.original is not None and self.geometry is not None
        return both and self.original is not None and self.original.class_name != self.class_name

    @property
    def change(self) -> str:
        """What became of it, in one or three words."""
        if self.original is None:
            return "added"
        if self.geometry is None:
            return "deleted"
        words = ["relabelled"] * self.is_relabelled + ["redrawn"] * self.is_redrawn
        return " and ".join(words) or "unchanged"


@dataclass(slots=True)
class _Pairing:
    """Which original each drawn nucleus is; filled step by step."""

    originals: dict[str, OriginalCell]
    """All of the sample, by UUID."""
    by_uuid: dict[str, tuple[DrawnNucleus, FoundBy]] = field(default_factory=dict)
    unknown: list[DrawnNucleus] = field(default_factory=list)
    n_repeated: int = 0
    n_moved: int = 0

    def missing(self) -> list[OriginalCell]:
        """Return the originals that nothing was found for."""
        return [cell for uuid, cell in self.originals.items() if uuid not in self.by_uuid]


def original_cells(
    sample: ReviewSample, cells: pa.Table
) -> tuple[dict[str, OriginalCell], NDArray[np.object_]]:
    """Return the sample's nuclei by UUID, in the classes they were shown in, and other outlines.

    Parameters
    ----------
    sample : ReviewSample
        The sample.
    cells : pyarrow.Table
        Of `cells_in_squares`.
    """
    outlines = shapely.from_wkb(cells["geometry"].to_numpy(zero_copy_only=False))
    columns = [cells[name].to_pylist() for name in ("uuid", "cell_id", "x", "y", "area_um2")]
    place = {
        uuid: (square.name, class_name)
        for square in sample.squares
        for uuid, class_name in zip(square.cell_uuids, square.cell_classes, strict=True)
    }
    originals = {
        uuid: OriginalCell(uuid, cell_id, *place[uuid], x, y, area_um2, outline)
        for uuid, cell_id, x, y, area_um2, outline in zip(*columns, outlines, strict=True)
        if uuid in place
    }
    is_other = np.array([uuid not in place for uuid in columns[0]], np.bool_)
    return originals, outlines[is_other]


def compare(
    sample: ReviewSample,
    originals: Mapping[str, OriginalCell],
    edited: EditedFile,
    others: NDArray[np.object_],
) -> tuple[list[ReviewedCell], list[str]]:
    """Return what became of each nucleus of the squares that came back, and what to know.

    Parameters
    ----------
    sample : ReviewSample
        The sample.
    originals : mapping
        Its nuclei by UUID, of `original_cells`.
    edited : EditedFile
        What came back.
    others : ndarray of shapely polygons
        The run's nuclei around the squares, which are not part of the sample.

    Returns
    -------
    cells, notes
        The nuclei in the order of squares and of the run, added ones at the end of their square;
        and a sentence for each thing that was passed over.
    """
    pairing = _Pairing(dict(originals))
    _pair_by_id(pairing, edited.nuclei)
    n_by_id = len(pairing.by_uuid)
    _pair_equal_outlines(pairing)
    _leave_out_copies(pairing)
    _pair_overlapping(pairing)
    notes = []
    if pairing.n_moved:
        notes.append(
            f"{pairing.n_moved} nuclei do not touch their own outlines any more; they count as "
            "deleted there, and as added where they are now"
        )
    if pairing.n_repeated:
        notes.append(f"{pairing.n_repeated} objects were there twice; one of each was taken")
    n_by_geometry = len(pairing.by_uuid) - n_by_id
    if n_by_geometry:
        notes.append(
            f"{n_by_geometry} nuclei had lost their identity, or were deleted and drawn anew; "
            "they were found by their outline"
        )
    notes += _leave_out_others(pairing, others)
    added, said = _added(sample, edited.squares, pairing.unknown)
    notes += said
    cells = []
    for square in sample.squares:
        if square.name in edited.squares:
            cells += [_reviewed(pairing, uuid) for uuid in square.cell_uuids]
            cells += added[square.name]
    elsewhere = sum(originals[uuid].square not in edited.squares for uuid in pairing.by_uuid)
    if elsewhere:
        notes.append(f"{elsewhere} nuclei of squares that did not come back were ignored")
    return cells, [*notes, *_drawn_over(cells)]


def _pair_by_id(pairing: _Pairing, nuclei: Sequence[DrawnNucleus]) -> None:
    for drawn in nuclei:
        uuid = drawn.uuid
        if uuid is None or uuid not in pairing.originals:
            pairing.unknown.append(drawn)
            continue
        if not shapely.intersects(drawn.geometry, pairing.originals[uuid].geometry):
            # Whatever is there is another nucleus, perhaps one of another square.
            pairing.n_moved += 1
            pairing.unknown.append(replace(drawn, uuid=None))
            continue
        before = pairing.by_uuid.get(uuid)
        if before is None:
            pairing.by_uuid[uuid] = drawn, "id"
            continue
        pairing.n_repeated += 1
        # An untouched copy says less than an edited one.
        if _is_as_it_was(before[0], pairing.originals[uuid]):
            pairing.by_uuid[uuid] = drawn, "id"


def _is_as_it_was(drawn: DrawnNucleus, original: OriginalCell) -> bool:
    return drawn.class_name == original.class_name and not _differ(
        drawn.geometry, original.geometry
    )


def _differ(one: shapely.Geometry, other: shapely.Geometry) -> bool:
    lines = shapely.boundary(one), shapely.boundary(other)
    if shapely.hausdorff_distance(*lines) > SAME_OUTLINE_PX:
        return True
    # That looks at corners alone; a new edge between two old ones shows in the area.
    between = shapely.area(shapely.symmetric_difference(one, other))
    return bool(between > SAME_OUTLINE_PX * shapely.length(lines[1]))


def _pair_equal_outlines(pairing: _Pairing) -> None:
    """Find objects without a known identity whose outline is that of a missing nucleus."""
    missing, unknown = pairing.missing(), pairing.unknown
    if not (missing and unknown):
        return
    tree = shapely.STRtree([cell.geometry for cell in missing])
    left = []
    for drawn in unknown:
        near = [
            missing[k]
            for k in tree.query(drawn.geometry, predicate="intersects")
            if missing[k].uuid not in pairing.by_uuid
        ]
        same = next((cell for cell in near if not _differ(cell.geometry, drawn.geometry)), None)
        if same is None:
            left.append(drawn)
        else:
            pairing.by_uuid[same.uuid] = drawn, "geometry"
    pairing.unknown = left


def _leave_out_copies(pairing: _Pairing) -> None:
    """Leave out second objects with one outline: QuPath gives a duplicate an identity of its own.

    Of a known nucleus both outlines count, the one it has and the one it had.
    """
    known = [
        (uuid, outline)
        for uuid, (drawn, _) in pairing.by_uuid.items()
        for outline in (drawn.geometry, pairing.originals[uuid].geometry)
    ]
    outlines = _array([*(g for _, g in known), *(one.geometry for one in pairing.unknown)])
    tree = shapely.STRtree(outlines)
    left = []
    for place, drawn in enumerate(pairing.unknown, start=len(known)):
        near = np.sort(tree.query(drawn.geometry, predicate="intersects"))
        before = near[near < place]
        same = next((k for k in before if not _differ(outlines[k], drawn.geometry)), None)
        if same is None:
            left.append(drawn)
            continue
        pairing.n_repeated += 1
        if same < len(known):
            _take_class(pairing, known[same][0], drawn)
    pairing.unknown = left


def _take_class(pairing: _Pairing, uuid: str, copy: DrawnNucleus) -> None:
    """Take the copy of a nucleus for it if a class was set there and the nucleus is as it was."""
    original = pairing.originals[uuid]
    says_more = copy.class_name not in (None, original.class_name)
    if says_more and _is_as_it_was(pairing.by_uuid[uuid][0], original):
        pairing.by_uuid[uuid] = copy, "geometry"


def _drawn_over(cells: Sequence[ReviewedCell]) -> list[str]:
    """Say how many added nuclei lie on one that is still there."""
    there = [c.geometry for c in cells if c.original is not None and c.geometry is not None]
    added = [c.geometry for c in cells if c.original is None]
    n = len(match_polygons(_array(there), _array(added)).iou)
    if not n:
        return []
    return [
        f"{n} added nuclei cover one that is still there (IoU above 0.5), and both count; if they "
        "were drawn anew, delete the older ones and export again"
    ]


def _pair_overlapping(pairing: _Pairing) -> None:
    """Find objects without a known identity that cover much of a missing nucleus."""
    missing, unknown = pairing.missing(), pairing.unknown
    matches = match_polygons(
        _array([cell.geometry for cell in missing]),
        _array([one.geometry for one in unknown]),
        _SAME_NUCLEUS_IOU,
    )
    for i, j in zip(matches.reference_index, matches.predicted_index, strict=True):
        pairing.by_uuid[missing[i].uuid] = unknown[j], "geometry"
    taken = set(matches.predicted_index.tolist())
    pairing.unknown = [one for j, one in enumerate(unknown) if j not in taken]


def _leave_out_others(pairing: _Pairing, others: NDArray[np.object_]) -> list[str]:
    """Leave out what the run has too, with its centroid outside the squares."""
    drawn = _array([one.geometry for one in pairing.unknown])
    taken = set(match_polygons(others, drawn).predicted_index.tolist())
    pairing.unknown = [one for j, one in enumerate(pairing.unknown) if j not in taken]
    if not taken:
        return []
    return [
        f"{len(taken)} objects are nuclei of the run with their centroid outside the squares; they "
        "were ignored"
    ]


def _array(geometries: Sequence[shapely.Geometry]) -> NDArray[np.object_]:
    """Return geometries as an array of objects, also if there are none."""
    array = np.empty(len(geometries), object)
    array[:] = geometries
    return array


def _reviewed(pairing: _Pairing, uuid: str) -> ReviewedCell:
    original = pairing.originals[uuid]
    kept = ReviewedCell(original.square, uuid, original, None, None)
    if uuid not in pairing.by_uuid:
        return kept
    drawn, found_by = pairing.by_uuid[uuid]
    is_redrawn = _differ(drawn.geometry, original.geometry)
    # Not the copy that was rounded on its way.
    outline = drawn.geometry if is_redrawn else original.geometry
    return replace(
        kept,
        geometry=outline,
        class_name=drawn.class_name,
        is_redrawn=is_redrawn,
        found_by=found_by,
    )


def _added(
    sample: ReviewSample, returned: frozenset[str], unknown: Sequence[DrawnNucleus]
) -> tuple[dict[str, list[ReviewedCell]], list[str]]:
    """Return the new nuclei of each square by name, and what was passed over."""
    squares: dict[int, ReviewSquare] = {square.key: square for square in sample.squares}
    most_px2 = _NUCLEUS_SHARE * sample.grid.side_px**2
    added: dict[str, list[ReviewedCell]] = {square.name: [] for square in sample.squares}
    passed: Counter[str] = Counter()
    for drawn in unknown:
        centre = drawn.geometry.centroid
        key = sample.grid.key(np.array([centre.x]), np.array([centre.y]))[0]
        square = squares.get(int(key))
        if drawn.geometry.area > most_px2:
            passed["objects were too large for nuclei (half a square and more)"] += 1
        elif square is None:
            passed["objects have their centre outside the squares"] += 1
        elif square.name not in returned:
            passed["objects lie in squares that did not come back"] += 1
        else:
            added[square.name].append(
                ReviewedCell(square.name, drawn.uuid, None, drawn.geometry, drawn.class_name)
            )
    return added, [f"{n} {what}; they were ignored" for what, n in passed.items()]
