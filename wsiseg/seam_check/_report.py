"""What a seam check found: counts, shares with their intervals, and whether the aims are met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from wsiseg.geometry import Box

AIM_MATCHED = 0.999
"""So many of the nuclei near seams are to be found again, at least …"""
AIM_COUNT = 0.001
"""… and their number is to change by this share at most."""
_Z = 1.959964
"""Standard deviations of a 95 % interval."""

_PLAIN = (
    *("slide", "run", "model", "model_sha256", "core_px", "margin_px"),
    *("grid_offset_px", "near_px", "seed", "analysed_mm2", "n_not_compared"),
)
"""Fields of a report that go into its JSON as they are."""

Verdict = Literal["met", "missed", "not known"]
"""`not known`: the sample is too small, so that the 95 % interval reaches across the aim."""
DifferenceKind = Literal["lost", "new", "doubled", "changed", "no tile"]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of a sample."""

    n: int
    """How many of them."""
    of: int
    """Size of the sample."""

    @property
    def value(self) -> float:
        """The share; NaN of an empty sample."""
        return self.n / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval (doi:10.1080/01621459.1927.10502953); 0 to 1 of nothing."""
        if not self.of:
            return 0.0, 1.0
        z2 = _Z**2 / self.of
        middle = (self.value + z2 / 2) / (1 + z2)
        half = math.sqrt(self.value * (1 - self.value) * z2 + z2**2 / 4) / (1 + z2)
        low = 0.0 if self.n == 0 else middle - half
        return low, 1.0 if self.n == self.of else middle + half


@dataclass(frozen=True, slots=True)
class SeamCounts:
    """Nuclei of the grid that is checked, held against those of moved grids.

    With several moved grids a nucleus counts once for each.
    """

    n: int = 0
    """Nuclei of the grid that is checked."""
    matched: int = 0
    """Of these, found again with an intersection over union (IoU) above 0.5."""
    matched_90: int = 0
    """… with an IoU above 0.9."""
    identical: int = 0
    """… pixel for pixel."""
    new: int = 0
    """Nuclei of moved grids that none of the grid that is checked is found again in."""
    split: int = 0
    """Nuclei of the grid that is checked that are two or more in a moved one: two share, with
    it, more than half of the smaller."""
    merged: int = 0
    """Nuclei of moved grids that are two or more in the grid that is checked."""

    @property
    def lost(self) -> int:
        """Nuclei that are not found again."""
        return self.n - self.matched

    @property
    def doubled(self) -> int:
        """Nuclei that are two or more in the other grid, either way."""
        return self.split + self.merged

    @property
    def share(self) -> Share:
        """Those found again with an IoU above 0.5."""
        return Share(self.matched, self.n)

    @property
    def count_difference(self) -> float:
        """(Nuclei of the moved grid - those of the grid that is checked) / the latter."""
        return (self.new - self.lost) / self.n if self.n else math.nan

    @property
    def count_interval(self) -> tuple[float, float]:
        """A 95 % interval of it: the intervals of new and lost, put together as a difference's.

        Newcombe, Statistics in Medicine 17 (1998) 873, method 10, taking the two shares as
        independent.
        """
        if not self.n:
            return -math.inf, math.inf
        new, lost = Share(min(self.new, self.n), self.n), Share(self.lost, self.n)
        below = math.hypot(new.value - new.interval[0], lost.interval[1] - lost.value)
        above = math.hypot(new.interval[1] - new.value, lost.value - lost.interval[0])
        return self.count_difference - below, self.count_difference + above

    def __add__(self, other: SeamCounts) -> SeamCounts:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return SeamCounts(**sums)

    def to_json(self) -> dict[str, Any]:
        """Return counts, shares and intervals as plain JSON values; None for what is not known."""
        low, high = self.count_interval
        shares = {
            name: {"share": _number(found.value), "interval_95": list(found.interval)}
            for name, found in (
                ("matched", self.share),
                ("matched_90", Share(self.matched_90, self.n)),
                ("identical", Share(self.identical, self.n)),
            )
        }
        return {
            **asdict(self),
            "lost": self.lost,
            "doubled": self.doubled,
            "count_difference": _number(self.count_difference),
            "count_difference_interval_95": [_number(low), _number(high)],
            "shares": shares,
        }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class GridCounts:
    """What one moved grid showed."""

    offset_px: int
    """By how many model pixels it is moved up and left, from a grid that begins at (0, 0)."""
    near: SeamCounts
    """Nuclei near a seam of either grid."""
    elsewhere: SeamCounts
    """All others."""


@dataclass(frozen=True, slots=True)
class SeamDifference:
    """One nucleus that a moved grid changes."""

    kind: DifferenceKind
    """`changed`: found again, but with an IoU of at most 0.9; `no tile`: by one grid only,
    because the other ran no tile there (such nuclei are not counted)."""
    offset_px: int
    """Of the moved grid."""
    x: float
    """Centroid, level-0 pixels."""
    y: float
    iou: float
    """With its partner; 0 without one."""
    seam_px: float
    """From its centroid to the nearest seam of the grid that is checked, model pixels …"""
    moved_seam_px: float
    """… and of the moved grid; infinite where there is none."""
    near: bool
    """Counts as near a seam."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; None for infinite."""
        return {
            name: _number(value) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class SeamReport:
    """What moving the tile grid changes, in a sample of squares."""

    slide: str
    """File name."""
    run: str | None
    """Name of the run that was checked; None: the grid that begins at (0, 0) was run for it."""
    model: str
    """Name of the model."""
    model_sha256: str
    """Hash of all that fixes what it computes."""
    core_px: int
    """Side of a tile's core, model pixels."""
    margin_px: int
    """Context around it."""
    grid_offset_px: int
    """Offset of the grid that is checked."""
    near_px: int
    """A nucleus is near a seam if its centroid is closer than this to one of either grid."""
    squares: tuple[Box, ...]
    """Where nuclei were counted, in model pixels."""
    seed: int
    """What squares and offsets were chosen by."""
    analysed_mm2: float
    """Tissue in the squares."""
    grids: tuple[GridCounts, ...]
    """One for each moved grid."""
    n_not_compared: int
    """Nuclei of either grid where the other ran no tile, for lack of tissue; not counted."""
    differences: tuple[SeamDifference, ...]
    """The nuclei that differ, the worst first; at most some hundred."""

    @property
    def near(self) -> SeamCounts:
        """Nuclei near a seam, of all moved grids together."""
        return sum((grid.near for grid in self.grids), SeamCounts())

    @property
    def elsewhere(self) -> SeamCounts:
        """All others."""
        return sum((grid.elsewhere for grid in self.grids), SeamCounts())

    @property
    def total(self) -> SeamCounts:
        """All nuclei."""
        return self.near + self.elsewhere

    @property
    def matched_verdict(self) -> Verdict:
        """Whether at least 99.9 % of the nuclei near seams are found again (IoU > 0.5)."""
        low, high = self.near.share.interval
        return "met" if low >= AIM_MATCHED else "missed" if high < AIM_MATCHED else "not known"

    @property
    def count_verdict(self) -> Verdict:
        """Whether the number of nuclei near seams changes by at most 0.1 %."""
        low, high = self.near.count_interval
        if low >= -AIM_COUNT and high <= AIM_COUNT:
            return "met"
        return "missed" if low > AIM_COUNT or high < -AIM_COUNT else "not known"

    @property
    def has_missed(self) -> bool:
        """Whether an aim is missed, beyond what a sample's chance explains."""
        return "missed" in (self.matched_verdict, self.count_verdict)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        parts: Sequence[tuple[str, SeamCounts]] = (
            ("near", self.near),
            ("elsewhere", self.elsewhere),
            ("total", self.total),
        )
        return {
            "format": "wsiseg-seamcheck",
            "format_version": 1,
            **{name: getattr(self, name) for name in _PLAIN},
            "squares_px": [list(asdict(box).values()) for box in self.squares],
            **{name: counts.to_json() for name, counts in parts},
            "grids": [
                {
                    "offset_px": grid.offset_px,
                    "near": grid.near.to_json(),
                    "elsewhere": grid.elsewhere.to_json(),
                }
                for grid in self.grids
            ],
            "aims": {
                "matched": {"least": AIM_MATCHED, "verdict": self.matched_verdict},
                "count_difference": {"most": AIM_COUNT, "verdict": self.count_verdict},
            },
            "differences": [one.to_json() for one in self.differences],
        }
