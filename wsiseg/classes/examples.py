"""Which nuclei of a run were marked in QuPath as examples of a class.

Rules
-----
* A point marks the nucleus it lies in, the smallest where one lies in another; outside of all,
  the one whose outline is nearest, if that is within 2 µm.
* An area marks every nucleus whose centroid is strictly inside; without any, the nucleus it
  covers most of.
* A detection with the id of a nucleus of the run marks that one; any other detection the nucleus
  with which it shares most, at least half of the smaller of both.
* Marked twice alike counts once; marked as two classes is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from wsiseg.classes.versions import wrong_class_name
from wsiseg.errors import UsageError
from wsiseg.regions import Mark, read_marks
from wsiseg.results import Result

REACH_UM = 2.0
"""A point this far from a nucleus still marks it."""

_MOST_NAMED = 3
_SHARED = 0.5
_WHOLE_SHARE = 0.5
_COLUMNS = ("cell_id", "uuid", "x", "y", "bbox", "geometry", "class_name")


@dataclass(frozen=True, slots=True, eq=False)
class RunExamples:
    """Marked nuclei of one run."""

    result: Result
    cell_id: NDArray[np.int64]
    """(n,): ascending."""
    class_names: tuple[str, ...]
    """(n,): the class each was marked as."""
    group: NDArray[np.int64]
    """(n,): nuclei marked by one area have one number, all others a number of their own."""
    colours: Mapping[str, tuple[int, int, int]]
    """Colours of the classes in QuPath, where the file has them."""
    n_marks: int
    """How many points, areas and detections with a class there were."""
    n_missed: int
    """How many of them hit no nucleus."""
    missed_um: NDArray[np.float64]
    """(n_missed,): how far each of these is from the nearest centroid."""
    notes: tuple[str, ...]
    """What was passed over in the file, a line each."""


def find_examples(result: Result, path: Path) -> RunExamples:
    """Return the nuclei that were marked in a file.

    Parameters
    ----------
    result : Result
        The run.
    path : Path
        GeoJSON as QuPath writes it, maybe packed: objects with a class.

    Raises
    ------
    UsageError
        If the file cannot be read or has no object with a class, if no class can have the name of
        one, if no mark hits a nucleus, if a nucleus is marked as two classes, or if the file
        holds the run's own detections as they were.
    """
    marks, origin_px, notes = read_marks(path, result.bounds_origin_px)
    if not marks:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise UsageError(
            f"{path} has no object with a class{why}; mark nuclei in QuPath with points, areas or "
            "detections of the classes to tell apart, and export them"
        )
    _refuse_names(marks, path)
    shots = [shot for i, mark in enumerate(marks) for shot in _shots(i, mark, origin_px)]
    hits = _hits(result, shots, path)
    missed = [shot for shot, cells in zip(shots, hits, strict=True) if not cells]
    missed_um = _nearest_um(result, [shot.geometry for shot in missed])
    if len(missed) == len(shots):
        raise UsageError(_all_missed(result, path, missed_um, origin_px))
    marked: dict[int, list[_Shot]] = defaultdict(list)
    for shot, cells in zip(shots, hits, strict=True):
        for cell in cells:
            marked[cell].append(shot)
    _refuse_contradictions(marked, path)
    cell_id = np.array(sorted(marked), np.int64)
    first = [marked[int(cell)][0] for cell in cell_id]
    alone = len(marks) + np.arange(len(first))
    return RunExamples(
        result,
        cell_id,
        tuple(shot.mark.class_name for shot in first),
        np.array(
            [
                shot.number if shot.mark.kind == "area" else own
                for shot, own in zip(first, alone, strict=True)
            ],
            np.int64,
        ),
        {mark.class_name: mark.class_rgb for mark in marks if mark.class_rgb is not None},
        len(shots),
        len(missed),
        missed_um,
        notes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Shot:
    """A single point, an area or a detection."""

    number: int
    """Position of its mark in the file."""
    mark: Mark
    geometry: shapely.Geometry
    """In level-0 px."""


@dataclass(frozen=True, slots=True, order=True)
class _Found:
    """A nucleus a shot may mean; the least is the best."""

    distance: float
    size: float
    cell_id: int


def _shots(number: int, mark: Mark, origin_px: tuple[float, float]) -> list[_Shot]:
    placed = shapely.transform(mark.geometry, lambda xy_px: xy_px + origin_px)
    if mark.kind == "points":
        return [_Shot(number, mark, point) for point in shapely.get_parts(placed)]
    if not shapely.is_valid(placed):
        # Rounding, very rarely, makes an outline touch itself.
        placed = shapely.make_valid(placed, method="structure", keep_collapsed=False)
    return [_Shot(number, mark, placed)]


def _hits(result: Result, shots: Sequence[_Shot], path: Path) -> list[list[int]]:
    """Return the cells that each shot marks."""
    hits: list[list[int]] = [[] for _ in shots]
    points = [i for i, shot in enumerate(shots) if shot.mark.kind == "points"]
    areas = [i for i, shot in enumerate(shots) if shot.mark.kind == "area"]
    ids = {shots[i].mark.uuid: i for i in range(len(shots)) if shots[i].mark.kind == "detection"}
    nearest = _Nearest([shots[i].geometry for i in points], REACH_UM / result.mpp)
    inside = shapely.STRtree([shots[i].geometry for i in areas])
    n_as_they_were = 0
    for batch in result.batches(_COLUMNS):
        cells = batch["cell_id"].to_numpy()
        for row, shot in _same_ids(batch["uuid"], ids):
            hits[shot].append(int(cells[row]))
            n_as_they_were += batch["class_name"][row].as_py() == shots[shot].mark.class_name
        centroids = shapely.points(batch["x"].to_numpy(), batch["y"].to_numpy())
        for row, area in inside.query(centroids, predicate="within").T:
            hits[areas[area]].append(int(cells[row]))
        nearest.look_at(batch)
    _refuse_whole_export(result, n_as_they_were, path)
    for i, found in zip(points, nearest.best, strict=True):
        hits[i] += [] if found is None else [found.cell_id]
    left = [i for i, shot in enumerate(shots) if not hits[i] and shot.mark.kind != "points"]
    for i, found in zip(left, _most_covered(result, [shots[i] for i in left]), strict=True):
        hits[i] += [] if found is None else [found.cell_id]
    return hits


def _same_ids(uuids: pa.Array, ids: Mapping[str | None, int]) -> Iterator[tuple[int, int]]:
    """Yield row and shot where the row's cell is the shot's."""
    known = [uuid for uuid in ids if uuid is not None]
    index = pc.index_in(uuids.cast(pa.string()), value_set=pa.array(known, pa.string()))
    for row in np.flatnonzero(index.is_valid().to_numpy(zero_copy_only=False)):
        yield int(row), ids[known[index[int(row)].as_py()]]


class _Nearest:
    """Finds the nucleus of each point among those of batches that come one by one."""

    def __init__(self, points: Sequence[shapely.Geometry], reach_px: float) -> None:
        self._points = np.array(points, np.object_)
        self._tree = shapely.STRtree(self._points)
        self._reach_px = reach_px
        self.best: list[_Found | None] = [None] * len(points)

    def look_at(self, batch: pa.RecordBatch) -> None:
        """Take the nuclei of a batch into account."""
        rows, which, outlines = _near(batch, self._tree, self._reach_px)
        distances = shapely.distance(outlines, self._points[which])
        for row, point, distance, size in zip(
            rows, which, distances, shapely.area(outlines), strict=True
        ):
            found = _Found(float(distance), float(size), batch["cell_id"][int(row)].as_py())
            best = self.best[point]
            if distance <= self._reach_px and (best is None or found < best):
                self.best[point] = found


def _most_covered(result: Result, shots: Sequence[_Shot]) -> list[_Found | None]:
    """Return the nucleus with which each area or detection shares most, None without one."""
    best: list[_Found | None] = [None] * len(shots)
    if not shots:
        return best
    shapes = np.array([shot.geometry for shot in shots], np.object_)
    tree = shapely.STRtree(shapes)
    for batch in result.batches(("cell_id", "bbox", "geometry")):
        rows, which, outlines = _near(batch, tree, 0)
        shared = shapely.area(shapely.intersection(outlines, shapes[which]))
        smaller = np.minimum(shapely.area(outlines), shapely.area(shapes[which]))
        for row, i, both, least in zip(rows, which, shared, smaller, strict=True):
            needed = _SHARED * least if shots[i].mark.kind == "detection" else 0
            found = _Found(-float(both), 0, batch["cell_id"][int(row)].as_py())
            known = best[i]
            if both > 0 and both >= needed and (known is None or found < known):
                best[i] = found
    return best


def _near(
    batch: pa.RecordBatch, tree: shapely.STRtree, reach_px: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.object_]]:
    """Return rows, shapes of the tree and the rows' outlines where their boxes meet."""
    x0, y0, x1, y1 = (
        pc.struct_field(batch["bbox"], name).to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")
    )
    boxes = shapely.box(x0 - reach_px, y0 - reach_px, x1 + reach_px, y1 + reach_px)
    rows, which = tree.query(boxes)
    wkb = batch["geometry"].take(pa.array(rows)).to_numpy(zero_copy_only=False)
    return rows, which, shapely.from_wkb(wkb)


def _nearest_um(result: Result, shapes: Sequence[shapely.Geometry]) -> NDArray[np.float64]:
    """Return how far each shape is from the nearest centroid; infinite without nuclei."""
    nearest_px = np.full(len(shapes), np.inf)
    for batch in result.batches(("x", "y")) if shapes else ():
        centroids = shapely.points(batch["x"].to_numpy(), batch["y"].to_numpy())
        (which, _), here_px = shapely.STRtree(centroids).query_nearest(
            shapes, return_distance=True, all_matches=False
        )
        np.minimum.at(nearest_px, which, here_px)
    return nearest_px * result.mpp


def _all_missed(
    result: Result, path: Path, missed_um: NDArray[np.float64], origin_px: tuple[float, float]
) -> str:
    if not result.run["n_cells"]:
        return f"{path}: {result.name} has no nuclei that could be marked; use another slide"
    return (
        f"{path}: none of its {len(missed_um)} marks hits a nucleus of {result.name}; the nearest "
        f"is {missed_um.min():.0f} µm from one's centre. They may be of another slide, or counted "
        f"from another origin (taken: {origin_px[0]:g}, {origin_px[1]:g} px, the slide's bounds: "
        f"{result.bounds_origin_px[0]:g}, {result.bounds_origin_px[1]:g} px): open this slide in "
        "QuPath together with the cells of this run, look whether the marks lie on them, and "
        "export the marks from there"
    )


def _refuse_names(marks: Sequence[Mark], path: Path) -> None:
    for mark in marks:
        why = wrong_class_name(mark.class_name)
        if why is not None:
            raise UsageError(
                f"{path}: the class {mark.class_name!r} ({mark.title}) {why}; give the class "
                "another name in QuPath and export again"
            )


def _refuse_contradictions(marked: Mapping[int, Sequence[_Shot]], path: Path) -> None:
    torn = {
        cell: shots
        for cell, shots in sorted(marked.items())
        if len({shot.mark.class_name for shot in shots}) > 1
    }
    if not torn:
        return
    said = "; ".join(
        f"cell {cell} is "
        + " and ".join(sorted({f"{shot.mark.class_name!r} ({shot.mark.title})" for shot in shots}))
        for cell, shots in list(torn.items())[:_MOST_NAMED]
    )
    more = f" and {len(torn) - _MOST_NAMED} more" if len(torn) > _MOST_NAMED else ""
    raise UsageError(f"{path} marks nuclei as two classes: {said}{more}; remove one of the marks")


def _refuse_whole_export(result: Result, n_as_they_were: int, path: Path) -> None:
    """Refuse the model's own classes as examples: they teach nothing."""
    n_cells = int(result.run["n_cells"])
    if n_as_they_were > _WHOLE_SHARE * n_cells:
        raise UsageError(
            f"{path} holds {n_as_they_were} of the {n_cells} nuclei of {result.name} as detections "
            "with the class they have already; which of them were looked at cannot be told: export "
            "only the marked ones (in QuPath select them, then File > Export objects as GeoJSON > "
            "Selected objects)"
        )
