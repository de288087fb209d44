"""The rule of `wsiseg.stitch`, word by word, with sets of pixels of the whole slide."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from wsiseg.records import Instances, Tile
from wsiseg.stitch import StitchCounts, StitchOptions, TileInstances

Pixel = tuple[int, int]


@dataclass
class Nucleus:
    """One nucleus as one tile saw it."""

    tile: Tile
    pixels: frozenset[Pixel]
    spare: bool
    cut: bool
    said: tuple[float, ...]
    """Class, its probability, the nucleus' probability."""
    kept: bool = False
    final: frozenset[Pixel] = field(default=frozenset())

    @property
    def centroid(self) -> tuple[Fraction, Fraction]:
        return centroid_of(self.pixels)

    @property
    def priority(self) -> tuple[object, ...]:
        ys, xs = [y for y, _ in self.pixels], [x for _, x in self.pixels]
        outer = self.tile.outer
        depth = min(
            min(ys) - outer.y_px,
            min(xs) - outer.x_px,
            outer.y_end_px - 1 - max(ys),
            outer.x_end_px - 1 - max(xs),
        )
        grid = self.tile.row, self.tile.col
        return self.cut, -depth, *grid, *self.centroid, min(self.pixels)


def centroid_of(pixels: frozenset[Pixel]) -> tuple[Fraction, Fraction]:
    """Return the mean (row, column) of the pixels' centres, in pixel-corner coordinates."""
    n, half = len(pixels), Fraction(1, 2)
    return (
        Fraction(sum(y for y, _ in pixels), n) + half,
        Fraction(sum(x for _, x in pixels), n) + half,
    )


def pixels_of(instances: Instances, i: int) -> frozenset[Pixel]:
    """Return the pixels of one instance."""
    runs = instances.runs[instances.first_run[i] : instances.first_run[i + 1]].tolist()
    return frozenset((row, col) for row, start, stop in runs for col in range(start, stop))


def nuclei_of(given: TileInstances) -> list[Nucleus]:
    """Return what one tile handed over, one by one."""
    found = given.instances
    return [
        Nucleus(
            given.tile,
            pixels_of(found, i),
            bool(given.spare[i]),
            bool(found.cut[i]),
            (
                int(found.class_index[i]),
                float(found.class_prob[i]),
                float(found.nucleus_prob[i]),
            ),
        )
        for i in range(len(found))
    ]


def largest_part(pixels: frozenset[Pixel]) -> frozenset[Pixel]:
    """Return the largest 4-connected part; of equals the one with the first pixel."""
    left, best = set(pixels), frozenset[Pixel]()
    for first in sorted(pixels):
        if first not in left:
            continue
        part, edge = set(), [first]
        left.discard(first)
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.discard(near)
                    edge.append(near)
        if len(part) > len(best):
            best = frozenset(part)
    return best


def choose(nuclei: list[Nucleus]) -> list[Nucleus]:
    """Return those that are kept, in the order they are."""
    kept: list[Nucleus] = []
    ranked = sorted(nuclei, key=lambda nucleus: nucleus.priority)
    for own in (nucleus for nucleus in ranked if not nucleus.spare):
        if all(
            2 * len(own.pixels & other.pixels) <= min(len(own.pixels), len(other.pixels))
            for other in kept
        ):
            kept.append(own)
    for spare in (nucleus for nucleus in ranked if nucleus.spare):
        if all(2 * len(spare.pixels & other.pixels) <= len(spare.pixels) for other in kept):
            kept.append(spare)
    return kept


def id_key(cell: Nucleus) -> tuple[object, ...]:
    """Return what the ids are in the order of."""
    return cell.tile.row, cell.tile.col, *centroid_of(cell.final), min(cell.final)


def slow_stitch(
    tiles: list[TileInstances], options: StitchOptions
) -> tuple[list[Nucleus], dict[int, StitchCounts]]:
    """Return the cells in the order of their ids, and the counts of each tile row."""
    nuclei = [nucleus for given in tiles for nucleus in nuclei_of(given)]
    taken: set[Pixel] = set()
    for nucleus in choose(nuclei):
        nucleus.kept = True
        left = frozenset(nucleus.pixels - taken)
        if left != nucleus.pixels:
            left = largest_part(left)
            if len(left) < options.min_area_px:
                left = frozenset()
        nucleus.final = left
        taken |= left
    cells = [nucleus for nucleus in nuclei if nucleus.final]
    cells.sort(key=id_key)
    rows = {given.tile.row for given in tiles}
    return cells, {row: count([n for n in nuclei if n.tile.row == row]) for row in rows}


def count(nuclei: list[Nucleus]) -> StitchCounts:
    """Return what became of the nuclei."""
    own = [nucleus for nucleus in nuclei if not nucleus.spare]
    spare = [nucleus for nucleus in nuclei if nucleus.spare]
    cells = [nucleus for nucleus in nuclei if nucleus.final]
    return StitchCounts(
        own=len(own),
        spare=len(spare),
        own_dropped=sum(not nucleus.kept for nucleus in own),
        spare_used=sum(nucleus.kept for nucleus in spare),
        clipped=sum(cell.final != cell.pixels for cell in cells),
        slivers_dropped=sum(n.kept and not n.final for n in nuclei),
        cut=sum(cell.cut for cell in cells),
    )
