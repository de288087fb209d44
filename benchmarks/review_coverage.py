"""How often do a review's intervals hold the truth?

    python benchmarks/review_coverage.py RUN [--reviews 300] [-n 20] [--side-um 100] [--one-place]

Errors are planted all over a run, in patches: of its nuclei about a tenth are false (to be
deleted), a tenth in another class, a tenth redrawn, and about an eighth as many were missed.  That
is the truth.  Then the same truth is reviewed many times, with other seeds, and it is counted how
often the 95 % intervals of corrected counts and of agreement hold it.

With --one-place half of the nuclei within 100 µm of one point are false instead, and no others, as
where ink or a fold was taken for nuclei.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
import shapely.affinity

import wsiseg
from wsiseg.cli.terminal import print_table
from wsiseg.evaluation.sampling import Estimate
from wsiseg.review._agreement import agreement, corrected_counts, labels_of, score_square
from wsiseg.review._changes import OriginalCell, ReviewedCell
from wsiseg.review._records import ReviewOptions, ReviewSample, ReviewSquare
from wsiseg.review._squares import draw_sample

AGREEMENT = ("pq", "dq", "sq", "precision", "recall", "same_class", "redrawn_hd95_um")


def planted(cells: pa.Table, names: Sequence[str], seed: int) -> list[ReviewedCell]:
    """Return every nucleus of a run as it is and as it should be."""
    rng = np.random.default_rng(seed)
    outlines = shapely.from_wkb(cells["geometry"].to_numpy(zero_copy_only=False))
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    wave = np.sin(x / 400) + np.cos(y / 300)
    patchy = (wave - wave.min()) / np.ptp(wave)
    found: list[ReviewedCell] = []
    for k, row in enumerate(cells.drop_columns(["geometry"]).to_pylist()):
        class_name = row["class_name"]
        original = OriginalCell(
            row["uuid"], row["cell_id"], "", class_name, x[k], y[k], row["area_um2"], outlines[k]
        )
        outline, is_redrawn = outlines[k], rng.uniform() < 0.1
        if rng.uniform() < 0.2 * patchy[k]:
            found.append(ReviewedCell("", row["uuid"], original, None, None))
            continue
        if is_redrawn:
            outline = shapely.affinity.scale(outline, 1.15, 1.15)
        if rng.uniform() < 0.2 * (1 - patchy[k]):
            class_name = str(rng.choice([name for name in names if name != class_name]))
        found.append(ReviewedCell("", row["uuid"], original, outline, class_name, is_redrawn))
        if rng.uniform() < 0.15:
            missed = shapely.affinity.translate(outlines[k], *rng.normal(0, 15, 2))
            found.append(ReviewedCell("", None, None, missed, row["class_name"]))
    return found


def planted_in_one_place(cells: pa.Table, radius_px: float, seed: int) -> list[ReviewedCell]:
    """Return every nucleus of a run; half of those around one of them are false."""
    rng = np.random.default_rng(seed)
    outlines = shapely.from_wkb(cells["geometry"].to_numpy(zero_copy_only=False))
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    middle = np.argmin(np.hypot(x - np.median(x), y - np.median(y)))
    is_near = np.hypot(x - x[middle], y - y[middle]) < radius_px
    is_false = is_near & (rng.uniform(size=len(x)) < 0.5)
    found = []
    for k, row in enumerate(cells.drop_columns(["geometry"]).to_pylist()):
        name, outline = row["class_name"], outlines[k]
        original = OriginalCell(
            row["uuid"], row["cell_id"], "", name, x[k], y[k], row["area_um2"], outline
        )
        corrected = (None, None) if is_false[k] else (outline, name)
        found.append(ReviewedCell("", row["uuid"], original, *corrected))
    return found


def place(cell: ReviewedCell) -> tuple[float, float]:
    """Return the point that decides in which square a nucleus is."""
    if cell.original is not None:
        return cell.original.x_px, cell.original.y_px
    centre = shapely.centroid(cell.geometry)
    return centre.x, centre.y


def true_agreement(
    sample: ReviewSample, cells: Sequence[ReviewedCell], keys: np.ndarray, mpp: float
) -> dict[str, float]:
    """Return the agreement of the whole run, as if every square were reviewed."""
    labels = labels_of(sample, cells)
    by_key: dict[int, list[ReviewedCell]] = defaultdict(list)
    for cell, key in zip(cells, keys, strict=True):
        by_key[int(key)].append(cell)
    scores = [
        score_square(ReviewSquare("", "uncertain", key, None, 1, (), ()), some, labels, mpp)
        for key, some in by_key.items()
    ]
    found = agreement(scores, len(scores), labels, 0)
    return {name: getattr(found, name).value for name in AGREEMENT}


def reviewed(
    sample: ReviewSample, cells: Sequence[ReviewedCell], keys: np.ndarray, mpp: float
) -> dict[str, Estimate]:
    """Return what one review says."""
    labels = labels_of(sample, cells)
    there: list[ReviewedCell] = []
    scores = []
    for square in sample.squares:
        if square.kind == "random":
            some = [cells[k] for k in np.flatnonzero(keys == square.key)]
            scores.append(score_square(square, some, labels, mpp))
            there += [
                ReviewedCell(square.name, c.uuid, c.original, c.geometry, c.class_name)
                for c in some
            ]
    names = frozenset(square.name for square in sample.squares)
    counts = {f"n {c.class_name}": c.corrected_n for c in corrected_counts(sample, there, names)}
    found = agreement(scores, len(scores), labels, sample.options.seed)
    return counts | {name: getattr(found, name) for name in AGREEMENT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--reviews", type=int, default=300)
    parser.add_argument("-n", type=int, default=20)
    parser.add_argument("--side-um", type=float, default=100.0)
    parser.add_argument("--one-place", action="store_true")
    asked = parser.parse_args()
    result = wsiseg.open_result(asked.run)
    names = result.class_names
    if asked.one_place:
        cells = planted_in_one_place(result.cells(), 100 / result.mpp, 5)
    else:
        cells = planted(result.cells(), names, 5)
    xy = np.array([place(cell) for cell in cells])
    kept = [cell.class_name for cell in cells if cell.geometry is not None]
    truth: dict[str, float] = {f"n {name}": kept.count(name) for name in names}
    truth["n (all)"] = len(kept)
    estimates: dict[str, list[Estimate]] = defaultdict(list)
    for seed in range(asked.reviews):
        sample = draw_sample(result, "r", ReviewOptions(asked.n, asked.side_um, seed))
        keys = sample.grid.key(xy[:, 0], xy[:, 1])
        if seed == 0:
            truth |= true_agreement(sample, cells, keys, result.mpp)
        for name, estimate in reviewed(sample, cells, keys, result.mpp).items():
            estimates[name].append(estimate)
    n_random = sum(square.kind == "random" for square in sample.squares)
    print(
        f"{result.name}: {len(sample.squares)} squares of {asked.side_um:g} µm, {n_random} random "
        f"of {sample.n_population}; {asked.reviews} reviews"
    )
    rows = []
    for name, true in truth.items():
        some = [e for e in estimates[name] if e.low is not None and e.high is not None]
        if not some:
            continue
        rows.append(
            {
                "what": name,
                "truth": true,
                "mean": float(np.mean([e.value for e in estimates[name] if e.value is not None])),
                "holds %": 100 * sum(e.low <= true <= e.high for e in some) / len(some),
                "mean width": float(np.mean([e.high - e.low for e in some])),
                "without interval": len(estimates[name]) - len(some),
            }
        )
    print_table(rows)


if __name__ == "__main__":
    main()
