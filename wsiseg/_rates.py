"""How fast runs are finished, by their own times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_RECENT_S = 3600.0
_FEWEST = 50
"""So many runs are looked at, if there are, also beyond the last hour."""
_ENOUGH = 5
_LEAST_S = 10.0
"""With fewer runs, or in less time, the time to the first one's end counts too."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A finished run."""

    start_s: float
    end_s: float
    area_mm2: float


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast runs were finished."""

    slides_per_hour: float
    mm2_per_hour: float
    n_slides: int
    """So many runs, the last ones, tell it."""


def recent_rate(runs: Sequence[Interval]) -> Rate | None:
    """Return how fast the last runs were finished, not counting when nobody was at work.

    Those of the hour before the last one's end count, or more if these are few.  Time counts in
    which at least one of them was under way, from the end of the first on.
    """
    by_end = sorted(runs, key=lambda run: run.end_s)
    if not by_end:
        return None
    last_s = by_end[-1].end_s
    n = max(sum(run.end_s > last_s - _RECENT_S for run in by_end), _FEWEST)
    recent = by_end[-n:]
    counted, first_s = recent[1:], recent[0].end_s
    busy_s = _covered_s([(max(run.start_s, first_s), run.end_s) for run in counted])
    if len(counted) < _ENOUGH or busy_s < _LEAST_S:
        counted = recent
        # Times are told in whole seconds.
        busy_s = max(_covered_s([(run.start_s, run.end_s) for run in counted]), 1.0)
    per_hour = 3600 / busy_s
    area_mm2 = sum(run.area_mm2 for run in counted)
    return Rate(len(counted) * per_hour, area_mm2 * per_hour, len(counted))


def _covered_s(spans: Sequence[tuple[float, float]]) -> float:
    """Return how much time is covered by at least one of several spans."""
    covered_s, until_s = 0.0, float("-inf")
    for start_s, end_s in sorted(spans):
        covered_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return covered_s
