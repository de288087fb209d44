"""How classes of nuclei mix: which class the nearest neighbour of a nucleus is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.cell_table import class_codes

if TYPE_CHECKING:
    from wsiseg.results import Result

_SCHEMA = pa.schema(
    [
        ("class_name", pa.string()),
        ("neighbour", pa.string()),
        ("n", pa.int64()),
        ("share", pa.float64()),
        ("chance", pa.float64()),
        ("times_chance", pa.float64()),
        ("median_um", pa.float64()),
    ]
)


def class_mixing(result: Result) -> pa.Table:
    """Count of which class each nucleus's nearest neighbour is, against chance.

    Dixon's nearest-neighbour contingency table: chance is what random labels on the same places
    would give, N_j / (N - 1) for another class, (N_i - 1) / (N - 1) for the own one.

    Parameters
    ----------
    result : Result
        A finished run.

    Returns
    -------
    pyarrow.Table
        For every pair of classes: `n` nuclei of `class_name` whose nearest centroid is of
        `neighbour`; their `share` of all nuclei of the class, the share expected by `chance`,
        `times_chance` (1: as if mixed at random; above: they seek each other), and `median_um`,
        the median distance of those pairs.  Zeros are rows too; null without a nucleus.  Nuclei
        without a class are left out, as if they were not there.

    Notes
    -----
    Dixon (1994), Testing spatial segregation using a nearest-neighbor contingency table, Ecology
    75(7), doi:10.2307/1941580.  Where nuclei are denser, neighbours are nearer, so this says who
    lies beside whom and not how far apart; a class found wrongly mixes as its true class does.
    """
    table = result.cells(columns=["x_um", "y_um", "class_name"])
    names = result.class_names
    code = class_codes(result.cell_files, table["class_name"], names).astype(np.int64) - 1
    place = np.stack([table["x_um"].to_numpy(), table["y_um"].to_numpy()], axis=1)[code >= 0]
    code = code[code >= 0]
    nearest, distance_um = nearest_neighbours(place)
    pair = code[: len(nearest)] * len(names) + code[nearest]
    n = np.bincount(pair, minlength=len(names) ** 2).reshape(len(names), len(names))
    total = np.bincount(code, minlength=len(names))
    rows = []
    for i, name in enumerate(names):
        for j, neighbour in enumerate(names):
            mine = distance_um[pair == i * len(names) + j]
            rows.append(
                {"class_name": name, "neighbour": neighbour, "n": int(n[i, j])}
                | _against_chance(int(n[i, j]), total, i, j)
                | {"median_um": float(np.median(mine)) if len(mine) else None}
            )
    return pa.Table.from_pylist(rows, _SCHEMA)


def nearest_neighbours(
    place: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the position of each place's nearest other one, and its distance.

    Empty for fewer than two places.
    """
    from scipy.spatial import KDTree

    if len(place) < 2:
        return np.empty(0, np.int64), np.empty(0)
    distance, index = KDTree(place).query(place, k=2)
    # Where two lie on the same point, either may come first.
    itself = index[:, 0] == np.arange(len(place))
    other = np.where(itself, index[:, 1], index[:, 0])
    return other.astype(np.int64), np.where(itself, distance[:, 1], distance[:, 0])


def _against_chance(n: int, total: NDArray[np.int64], i: int, j: int) -> dict[str, float | None]:
    n_all = int(total.sum())
    if not total[i] or n_all < 2:
        return {"share": None, "chance": None, "times_chance": None}
    share = n / int(total[i])
    chance = (int(total[j]) - (i == j)) / (n_all - 1)
    return {
        "share": share,
        "chance": chance,
        "times_chance": share / chance if chance > 0 else None,
    }
