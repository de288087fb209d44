"""How often the intervals of `wsiseg.intervals` hold the truth, on places and cohorts made up.

    python benchmarks/intervals.py [--repeats 300] [--cohorts 4000]

Slides: squares of tiles with nuclei around random parents (Neyman and Scott's process), of which
the true density is known; clusters have a standard deviation given in tiles (256 µm each).
Cohorts: two groups of patients, whose own densities vary (gamma) around means of 100 and 70.
"""

from __future__ import annotations

import argparse

import numpy as np

from wsiseg.answers.intervals import (
    density_of_tiles,
    density_of_units,
    poisson_variance,
    ratio_of_means,
)

DENSITY = 20.0
"""True nuclei a tile."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--cohorts", type=int, default=4000)
    arguments = parser.parse_args()
    for side in (4, 6, 8, 12, 20, 30):
        for spread_tiles in (0.2, 0.5, 1.0, 2.0):
            held, alone = slides(side, spread_tiles, arguments.repeats)
            print(
                f"{side:2} × {side:2} tiles, clusters of {spread_tiles} tiles: held {held:.3f}, "
                f"with tiles taken for independent {alone:.3f}"
            )
    for patients in (5, 8, 12, 25, 60):
        for shape in (1.0, 4.0, 9.0):
            ratio, group, width = cohorts(patients, shape, arguments.cohorts)
            print(
                f"{patients:2} patients a group, who vary by {shape**-0.5:.0%}: ratio held "
                f"{ratio:.3f} (the interval spans a factor of {width:.2f}), density of a group "
                f"{group:.3f}"
            )


def slides(side: int, spread_tiles: float, repeats: int) -> tuple[float, float]:
    """Return how often the density of a slide was held."""
    rng = np.random.default_rng([1, side, round(10 * spread_tiles)])
    row, col = (axis.ravel() for axis in np.indices((side, side)))
    held = alone = 0
    for _ in range(repeats):
        n = clustered(rng, side, spread_tiles, 100 * spread_tiles)
        ours = density_of_tiles(n, np.ones(side**2), row, col)
        held += ours.low is not None and ours.low <= DENSITY <= (ours.high or 0)
        other = density_of_units(n, np.ones(side**2))
        alone += other.low is not None and other.low <= DENSITY <= (other.high or 0)
    return held / repeats, alone / repeats


def clustered(
    rng: np.random.Generator, side: int, spread_tiles: float, of_parent: float
) -> np.ndarray:
    """Return the nuclei in each tile of a square."""
    margin = 4 * spread_tiles
    n_parents = rng.poisson(DENSITY / of_parent * (side + 2 * margin) ** 2)
    parents = rng.uniform(-margin, side + margin, (n_parents, 2))
    place = np.repeat(parents, rng.poisson(of_parent, n_parents), axis=0)
    place = place + rng.normal(0, spread_tiles, place.shape)
    inside = ((place >= 0) & (place < side)).all(axis=1)
    n = np.zeros((side, side))
    np.add.at(n, tuple(place[inside].astype(int).T), 1)
    return n.ravel()


def cohorts(patients: int, shape: float, repeats: int) -> tuple[float, float, float]:
    """Return how often ratio and density of a group were held, and the ratio's median width."""
    rng = np.random.default_rng([2, patients, round(shape)])
    ratio = group = 0
    widths = []
    for _ in range(repeats):
        n, area = zip(*(patients_of(rng, patients, mean, shape) for mean in (100, 70)), strict=True)
        least = poisson_variance(n[0], area[0]), poisson_variance(n[1], area[1])
        found = ratio_of_means(n[0] / area[0], n[1] / area[1], least=least).interval
        low, high = found.low or 0.0, found.high or 0.0
        ratio += low <= 0.7 <= high
        widths.append(high / low)
        density = density_of_units(n[0], area[0])
        group += (density.low or 0.0) <= 100 <= (density.high or 0.0)
    return ratio / repeats, group / repeats, float(np.median(widths))


def patients_of(
    rng: np.random.Generator, patients: int, mean: float, shape: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return nuclei and analysed mm² of each patient, of one to three slides."""
    own = rng.gamma(shape, mean / shape, patients)
    area = rng.uniform(0.5, 3, patients) * rng.integers(1, 4, patients)
    return rng.poisson(own * area).astype(np.float64), area


if __name__ == "__main__":
    main()
